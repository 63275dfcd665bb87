//! The work tree, for tests that hold documents and sources against each other.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

/// The work tree that this test was built from; `None` where it was carried to another machine.
///
/// # Errors
/// When cargo runs the test, yet there is no tree.
pub fn root() -> Result<Option<PathBuf>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("tests/ has no parent")?;
    if root.join("Cargo.toml").is_file() {
        return Ok(Some(root.to_owned()));
    }
    ensure!(env::var_os("CARGO_MANIFEST_DIR").is_none(), "{} is no work tree", root.display());
    eprintln!("SKIPPED: there is no work tree on this machine");
    Ok(None)
}

/// All Rust files under some directories of the tree, by their paths in it, sorted.
///
/// # Errors
/// Input and output.
pub fn rust_files(root: &Path, directories: &[&str]) -> Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    let mut waiting: Vec<PathBuf> = directories.iter().map(|name| root.join(name)).collect();
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path)?.map(|entry| Ok(entry?.path()));
            waiting.extend(entries.collect::<Result<Vec<_>>>()?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root)?.to_string_lossy().into_owned();
            let text = fs::read_to_string(&path).with_context(|| name.clone())?;
            files.push((name, text));
        }
    }
    files.sort();
    ensure!(!files.is_empty(), "no Rust file under {directories:?}");
    Ok(files)
}

/// The lines between `<!-- NAME -->` and `<!-- /NAME -->` of a document.
///
/// # Errors
/// When it has no such part.
pub fn part<'a>(document: &'a str, name: &str) -> Result<&'a str> {
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let (_, rest) = document.split_once(&begin).with_context(|| format!("no {begin}"))?;
    let (part, _) = rest.split_once(&end).with_context(|| format!("no {end}"))?;
    Ok(part)
}

/// What stands in backquotes in a text.
pub fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}
