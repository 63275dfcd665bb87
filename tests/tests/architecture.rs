//! The invariants of ARCHITECTURE.md. Each rule is also held against a sample that breaks it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::OnceLock,
};

use anyhow::{Context, Result};
use netdiag_common::signal::Signal;
use netdiag_tests::tree;

#[path = "architecture/rules.rs"]
mod rules;
#[path = "architecture/tokens.rs"]
mod tokens;

use tokens::Source;

const CRATES: &[&str] = &["netdiag-common", "netdiag-ebpf", "netdiag", "xtask", "tests"];

/// The sources of the work tree; `None` where there is none.
fn sources() -> Result<Option<&'static [Source]>> {
    static SOURCES: OnceLock<Vec<Source>> = OnceLock::new();
    let Some(root) = tree::root()? else { return Ok(None) };
    if let Some(sources) = SOURCES.get() {
        return Ok(Some(sources));
    }
    let files = tree::rust_files(&root, CRATES)?;
    let sources: Result<Vec<_>> =
        files.iter().map(|(path, text)| Source::new(path, text)).collect();
    let sources = sources?;
    Ok(Some(SOURCES.get_or_init(|| sources)))
}

fn is_under(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/') || rest == ".rs")
}

/// Sources that are compiled into the program.
fn shipped<'a>(sources: &'a [Source], directory: &str) -> Vec<&'a Source> {
    let tests: Vec<_> = sources.iter().flat_map(|source| &source.test_modules).collect();
    sources
        .iter()
        .filter(|source| is_under(&source.path, directory))
        .filter(|source| !tests.iter().any(|test| is_under(&source.path, test)))
        .collect()
}

#[track_caller]
fn none(rule: &str, broken: &[String]) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

/// Holds a rule against a sample that breaks it once, and against one that keeps it.
#[track_caller]
fn check(rule: impl Fn(&Source) -> Vec<String>, breaks: &str, keeps: &str) {
    for (sample, expected) in [(breaks, 1), (keeps, 0)] {
        let source = Source::new("netdiag/src/sample.rs", sample).expect("a sample");
        let broken = rule(&source);
        assert_eq!(broken.len(), expected, "{sample}: {broken:?}");
    }
}

/// What each module of netdiag uses of the others.
fn used(sources: &[Source]) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut used: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for source in shipped(sources, "netdiag/src") {
        let inside = source.path.trim_start_matches("netdiag/src/").trim_end_matches(".rs");
        let modules: Vec<_> = inside.split('/').collect();
        if ["lib", "main"].contains(&modules[0]) {
            continue;
        }
        let of_module = used.entry(modules[0].to_owned()).or_default();
        for (name, line) in rules::uses(source, modules.len()) {
            if name != modules[0] {
                of_module.entry(name).or_insert_with(|| format!("{}:{line}", source.path));
            }
        }
    }
    used
}

/// The table of ARCHITECTURE.md: each module, in order, with those that it uses.
fn permitted() -> Result<Vec<(String, BTreeSet<String>)>> {
    let root = tree::root()?.context("a work tree")?;
    let document = fs::read_to_string(root.join("ARCHITECTURE.md"))?;
    let rows = tree::part(&document, "uses")?.lines().skip(2).map(|row| {
        let mut names = tree::quoted(row).map(str::to_owned);
        Ok((names.next().with_context(|| format!("no name in {row}"))?, names.collect()))
    });
    rows.collect()
}

#[test]
fn modules_use_only_what_the_document_says() -> Result<()> {
    let Some(sources) = sources()? else { return Ok(()) };
    let used = used(sources);
    let permitted = permitted()?;
    let mut broken = Vec::new();
    let mut above: BTreeSet<&str> = BTreeSet::new();
    for (module, uses) in &permitted {
        for unknown in uses.iter().filter(|name| !above.contains(name.as_str())) {
            broken.push(format!("the table lets {module} use {unknown}, which is not above it"));
        }
        above.insert(module);
    }
    let permitted: BTreeMap<_, _> = permitted.iter().cloned().collect();
    for (module, uses) in &used {
        let Some(permitted) = permitted.get(module) else {
            broken.push(format!("{module} is not in the table"));
            continue;
        };
        for (name, place) in uses.iter().filter(|(name, _)| !permitted.contains(*name)) {
            broken.push(format!("{place}: {module} uses {name}"));
        }
        for name in permitted.iter().filter(|name| !uses.contains_key(*name)) {
            broken.push(format!("the table says that {module} uses {name}, which it does not"));
        }
    }
    for module in permitted.keys().filter(|module| !used.contains_key(*module)) {
        broken.push(format!("the table has {module}, which does not exist"));
    }
    none("each part sees only what stands left of it", &broken);
    Ok(())
}

#[test]
fn uses_are_found_however_they_are_written() {
    let find = |text: &str, depth| {
        let source = Source::new("netdiag/src/sample.rs", text).expect("a sample");
        rules::uses(&source, depth).into_iter().map(|(name, _)| name).collect::<Vec<_>>()
    };
    assert_eq!(find("use crate::view;", 1), ["view"]);
    assert_eq!(find("use crate::{a::{self, x::Y}, b,\n c::*};", 1), ["a", "b", "c"]);
    assert_eq!(find("fn f() { crate::run::main() }", 1), ["run"]);
    assert_eq!(find("macro_rules! m { () => { crate::run::main() } }", 1), ["run"]);
    assert_eq!(find("use super::a; use super::super::{b, c::D};", 2), ["b", "c"]);
    assert_eq!(find("mod inner { use super::super::a; use super::b; }", 1), ["a"]);
    assert_eq!(find("// crate::view\nconst A: &str = \"crate::view\";", 1), [""; 0]);
    assert_eq!(find("#[cfg(test)] mod tests { use crate::view; }\nuse crate::a;", 1), ["a"]);
    assert_eq!(find("pub(crate) fn f() {}", 1), [""; 0]);
}

#[test]
fn only_the_kernel_side_names_aya() -> Result<()> {
    let rule = |source: &Source| rules::names(source, &["aya", "aya_*"], "outside kernel/");
    check(rule, "use aya::Ebpf;", "// aya\nfn f() { g(\"aya\") }");
    let Some(sources) = sources()? else { return Ok(()) };
    let broken: Vec<_> = shipped(sources, "netdiag/src")
        .into_iter()
        .filter(|source| !is_under(&source.path, "netdiag/src/kernel"))
        .flat_map(rule)
        .collect();
    none("only kernel/ names aya", &broken);
    Ok(())
}

#[test]
fn kernel_memory_is_read_in_one_file() -> Result<()> {
    const READS: &[&str] =
        &["bpf_probe_read*", "bpf_core_read*", "read_at", "byte_add", "byte_offset", "byte_sub"];
    let by_name = |source: &Source| rules::names(source, READS, "outside kernel.rs");
    check(by_name, "fn f() { unsafe { bpf_probe_read_kernel(p) } }", "fn bpf() {}");
    check(by_name, "fn f() { ctx.read_at::<u16>(4) }", "fn f() { reader.read() }");
    check(
        rules::volatile_reads,
        "fn f(sk: Pointer) { core::ptr::read_volatile(sk.cast::<u16>()) }",
        "fn f() { core::ptr::read_volatile(&raw const (*batch).len) }",
    );
    let Some(sources) = sources()? else { return Ok(()) };
    let mut broken = Vec::new();
    for source in shipped(sources, "netdiag-ebpf/src") {
        if source.path != "netdiag-ebpf/src/kernel.rs" {
            broken.extend(by_name(source));
        }
        // Globals are read volatile, too: the loader replaces them.
        if !["netdiag-ebpf/src/kernel.rs", "netdiag-ebpf/src/globals.rs"]
            .contains(&source.path.as_str())
        {
            broken.extend(rules::volatile_reads(source));
        }
    }
    none("only netdiag-ebpf/src/kernel.rs reads kernel memory", &broken);
    Ok(())
}

#[test]
fn records_leave_through_one_file() -> Result<()> {
    const WRITES: &[&str] =
        &["RingBuf*", "bpf_ringbuf_*", "PerfEvent*", "bpf_perf_event_*", "bpf_skb_output"];
    let rule = |source: &Source| rules::names(source, WRITES, "outside ring.rs");
    check(rule, "fn f() { bpf_ringbuf_output(a, b) }", "fn f() { ring::submit(a) }");
    check(rule, "fn f() { bpf_skb_output(a, b) }", "fn f() { ring::submit_packet(a) }");
    let Some(sources) = sources()? else { return Ok(()) };
    let broken: Vec<_> = shipped(sources, "netdiag-ebpf/src")
        .into_iter()
        .filter(|source| source.path != "netdiag-ebpf/src/ring.rs")
        .flat_map(rule)
        .collect();
    none("only netdiag-ebpf/src/ring.rs writes into rings", &broken);
    Ok(())
}

#[test]
fn records_are_read_without_unsafe_casts() -> Result<()> {
    const CASTS: &[&str] = &["transmute*", "from_raw_parts*", "read_unaligned", "zeroed"];
    let casts = |source: &Source| rules::names(source, CASTS, "may misread bytes");
    check(casts, "fn f() { transmute(a) }", "fn f() { Record::read_from_bytes(a) }");
    let no_unsafe = |source: &Source| rules::names(source, &["unsafe"], "outside kernel/");
    check(no_unsafe, "fn f() { unsafe { g() } }", "// unsafe\n#[cfg(test)] fn f() { unsafe {} }");
    check(
        rules::unreadable,
        "#[repr(C)] #[derive(FromBytes, IntoBytes)] pub struct Record { pub a: u8 }",
        "#[repr(C)] #[derive(FromBytes, IntoBytes, Immutable)] pub struct Record { pub a: u8 }",
    );
    let Some(sources) = sources()? else { return Ok(()) };
    let mut broken = Vec::new();
    for source in shipped(sources, "netdiag/src") {
        broken.extend(casts(source));
        if !is_under(&source.path, "netdiag/src/kernel") && source.path != "netdiag/src/node/own.rs"
        {
            broken.extend(no_unsafe(source));
        }
    }
    for source in shipped(sources, "netdiag-common/src") {
        broken.extend(no_unsafe(source));
        if is_under(&source.path, "netdiag-common/src/signal")
            && !source.path.ends_with("signal.rs")
        {
            broken.extend(rules::unreadable(source));
        }
    }
    none("records are plain data, read by zerocopy", &broken);
    Ok(())
}

#[test]
fn unsafe_says_why_and_lints_are_expected() -> Result<()> {
    check(
        rules::unsound,
        "fn f() {\n    unsafe { g() }\n}",
        "fn f() {\n    // SAFETY: g has no precondition.\n    unsafe { g() }\n}",
    );
    check(rules::unsound, "unsafe impl Pod for A {}", "#[unsafe(no_mangle)] static A: u8 = 0;");
    check(rules::allowed, "#[allow(dead_code)] fn f() {}", "#[expect(dead_code)] fn f() {}");
    check(rules::allowed, "#![cfg_attr(x, allow(y))]", "fn f() { allow(1) }");
    let Some(sources) = sources()? else { return Ok(()) };
    let rules = |source| [rules::unsound(source), rules::allowed(source)].concat();
    let broken: Vec<_> = sources.iter().flat_map(rules).collect();
    none("unsafe says why, lints are expected", &broken);
    Ok(())
}

#[test]
fn files_stay_short() -> Result<()> {
    let rule = |source: &Source| rules::too_long(source).into_iter().collect();
    check(rule, &"\n".repeat(501), &"\n".repeat(500));
    let Some(sources) = sources()? else { return Ok(()) };
    for source in sources.iter().filter(|source| source.lines.len() > rules::MANY_LINES) {
        eprintln!("{}: {} lines, could be split", source.path, source.lines.len());
    }
    none("a file over 500 lines is split", &sources.iter().flat_map(rule).collect::<Vec<_>>());
    Ok(())
}

#[test]
fn a_signal_is_one_file_of_the_same_name_in_three_crates() -> Result<()> {
    let Some(root) = tree::root()? else { return Ok(()) };
    let expected: BTreeSet<_> = Signal::ALL.iter().map(|signal| signal.name().to_owned()).collect();
    for name in ["netdiag-common", "netdiag-ebpf", "netdiag"] {
        let mut found = BTreeSet::new();
        for entry in fs::read_dir(root.join(name).join("src/signal"))? {
            let path = entry?.path();
            if path.is_file() && !path.ends_with("tests.rs") {
                let stem = path.file_stem().context("a file without a name")?;
                found.insert(stem.to_string_lossy().into_owned());
            }
        }
        assert_eq!(found, expected, "files in {name}/src/signal");
    }
    Ok(())
}

/// Views, tables and documents learn of signals from their definitions.
#[test]
fn views_do_not_name_signals() -> Result<()> {
    let rule = |source: &Source| rules::signals(source);
    check(
        rule,
        "fn f() { metric_id(Signal::Send, 0) }",
        "fn f() { Signal::ALL.iter().map(Signal::name) }",
    );
    let Some(sources) = sources()? else { return Ok(()) };
    let mut broken = Vec::new();
    for module in ["view", "snapshot", "cli", "format", "run"] {
        broken
            .extend(shipped(sources, &format!("netdiag/src/{module}")).into_iter().flat_map(rule));
    }
    none("views do not name signals", &broken);
    Ok(())
}
