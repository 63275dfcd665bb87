//! Each direct dependency has a line in `docs/dependencies.md` that says what it is for.

use std::{collections::BTreeSet, fs};

use anyhow::Result;
use netdiag_tests::tree;

/// Names in the tables of dependencies of a manifest.
fn named(manifest: &str) -> BTreeSet<&str> {
    let mut is_table = false;
    let mut names = BTreeSet::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            is_table = line.trim_end().ends_with("dependencies]");
        } else if let Some((name, _)) = line.split_once(['=', '.']).filter(|_| is_table) {
            names.insert(name.trim());
        }
    }
    names
}

/// Those that a document explains.
fn explained(document: &str) -> BTreeSet<&str> {
    document
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .filter(|(_, why)| why.trim_end_matches([' ', '|']).len() > 10)
        .map(|(name, _)| name)
        .collect()
}

#[test]
fn each_has_a_line_that_says_why() -> Result<()> {
    let Some(root) = tree::root()? else { return Ok(()) };
    let mut manifests = Vec::new();
    for member in ["netdiag-common", "netdiag-ebpf", "netdiag", "xtask", "tests"] {
        manifests.push(fs::read_to_string(root.join(member).join("Cargo.toml"))?);
    }
    let is_ours = |name: &&str| name.starts_with("netdiag");
    let named = manifests.iter().flat_map(|manifest| named(manifest));
    let named: BTreeSet<_> = named.filter(|name| !is_ours(name)).collect();
    let document = fs::read_to_string(root.join("docs/dependencies.md"))?;
    let explained = explained(&document);
    let missing: Vec<_> = named.difference(&explained).collect();
    let gone: Vec<_> = explained.difference(&named).collect();
    assert!(
        missing.is_empty() && gone.is_empty(),
        "docs/dependencies.md does not say what these are for: {missing:?}; and explains what is no \
         direct dependency: {gone:?}"
    );
    Ok(())
}

#[test]
fn manifests_and_documents_are_read_as_they_are_written() {
    let manifest = "[package]\nname = \"x\"\n[dependencies]\na.workspace = true\nb = \"1\"\n\
                    [target.'cfg(x)'.dependencies]\nc-d = { version = \"1\" }\n[lints]\nworkspace = true\n";
    assert_eq!(named(manifest), ["a", "b", "c-d"].into());
    assert_eq!(
        explained("| crate | what for |\n|---|---|\n| `a` | says something |\n| `b` |  |"),
        ["a"].into()
    );
}
