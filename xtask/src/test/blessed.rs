//! What tests write down anew with `NETDIAG_BLESS`: a guest sees no work tree, so they say it, and it is written here.

use std::{
    collections::BTreeMap,
    env, fs,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::workspace;

/// What such a line begins with. Behind it stand the file, and the members of its object that are new.
const MARK: &str = "BLESSED: ";
/// The files, in tests/tests.
const FILES: [&str; 1] = ["verifier/instructions.json"];

/// Steps run side by side.
static WRITING: Mutex<()> = Mutex::new(());

/// The variable that asks tests for it, where this run is asked.
pub(super) fn variable() -> Option<&'static str> {
    env::var_os("NETDIAG_BLESS").map(|_| "NETDIAG_BLESS=1")
}

/// Writes what a line of a test says, if it says that.
pub(super) fn take(line: &str) -> Result<()> {
    let said = line.trim_end().strip_prefix(MARK);
    let Some(said) = said.filter(|_| variable().is_some()) else { return Ok(()) };
    let (file, new) = said.split_once(' ').with_context(|| said.to_owned())?;
    ensure!(FILES.contains(&file), "a test wants to write {file}, which is none of {FILES:?}");
    let path = workspace::root().join("tests/tests").join(file);
    let _alone = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    let old = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    fs::write(&path, merged(&old, new)?)?;
    eprintln!("test: {} has what was found", path.display());
    Ok(())
}

/// An object with the members of another one in place of its own.
fn merged(old: &str, new: &str) -> Result<String> {
    let read = |text: &str| -> Result<BTreeMap<String, Value>> {
        serde_json::from_str(text).with_context(|| text.to_owned())
    };
    let mut all = read(old)?;
    all.extend(read(new)?);
    Ok(serde_json::to_string_pretty(&all)? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_takes_the_place_of_the_same_and_leaves_the_rest() {
        let new = merged("{\"6.12\":{\"a\":1,\"b\":2},\"7.2\":{\"a\":3}}", "{\"6.12\":{\"a\":5}}");
        let expected = "{\n  \"6.12\": {\n    \"a\": 5\n  },\n  \"7.2\": {\n    \"a\": 3\n  }\n}\n";
        assert_eq!(new.unwrap(), expected);
        assert!(merged("{}", "[]").is_err());
    }

    #[test]
    fn the_files_are_there_as_they_are_written() {
        for file in FILES {
            let path = workspace::root().join("tests/tests").join(file);
            let text = fs::read_to_string(path).unwrap();
            assert_eq!(merged(&text, "{}").unwrap(), text);
        }
    }
}
