//! Documents say what the code says. `NETDIAG_BLESS=1` writes the generated parts anew.

use std::{
    collections::BTreeSet,
    env,
    fmt::Write as _,
    fs,
    path::Path,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result};
use clap::CommandFactory as _;
use netdiag::{
    cli::{self, Asked, Cli},
    finding::{self, Threshold},
    signal::{self, Attachment, DEFINITIONS, Hook, Rows, Source},
    snapshot::told::kinds,
    view::{diagnose::valued, metrics, otlp},
};
use netdiag_tests::{
    machine::Series,
    requirement::{Expectation, KERNELS, source_on},
    tree,
};

/// Tests run side by side, and several may write one document.
static WRITING: Mutex<()> = Mutex::new(());

/// Holds a generated part of a document against what it should be.
fn generated(file: &str, name: &str, expected: &str) -> Result<()> {
    let Some(root) = tree::root()? else { return Ok(()) };
    let path = root.join(file);
    let _alone = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    let document = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let found = tree::part(&document, name).with_context(|| file.to_owned())?;
    if found == expected {
        return Ok(());
    }
    if env::var_os("NETDIAG_BLESS").is_some() {
        let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
        let old = format!("{begin}{found}{end}");
        fs::write(&path, document.replacen(&old, &format!("{begin}{expected}{end}"), 1))?;
        return Ok(());
    }
    let differs = |(at, line): &(usize, &str)| found.lines().nth(*at) != Some(line);
    let line = expected.lines().enumerate().find(differs);
    panic!(
        "{name} in {file} is not what the code says; NETDIAG_BLESS=1 writes it anew; first line \
         that differs: {line:?}"
    );
}

fn hook(attachment: &Attachment) -> String {
    match attachment.hook {
        Hook::Fentry(name) => format!("fentry `{name}`"),
        Hook::Fexit(name) | Hook::FexitWith(name, _) => format!("fexit `{name}`"),
        Hook::Kprobe(name) => format!("kprobe `{name}`"),
        Hook::Kretprobe(name) => format!("kretprobe `{name}`"),
        Hook::TpBtf(name) => format!("tp_btf `{name}`"),
        Hook::RawTp(name) | Hook::RawTpWith(name, _) => format!("raw_tp `{name}`"),
        Hook::Tracepoint(category, name) => format!("tracepoint `{category}:{name}`"),
    }
}

fn cell(lines: impl Iterator<Item = String>) -> String {
    let mut lines: Vec<_> = lines.collect();
    lines.dedup(); // two programs on one hook
    if lines.is_empty() { "–".to_owned() } else { lines.join("; ") }
}

fn loads(series: Series, source: &Source) -> &'static str {
    match source_on(series, false, source) {
        Expectation::Must => "yes",
        Expectation::Absent => "–",
        Expectation::May => "perhaps",
    }
}

#[test]
fn table_of_sources() -> Result<()> {
    let mut table = String::from("| signal | source | hooks |");
    for Series(major, minor) in KERNELS {
        write!(table, " {major}.{minor} |")?;
    }
    writeln!(table, " skipped when preempted | does not see |")?;
    writeln!(table, "|{}", "---|".repeat(5 + KERNELS.len()))?;
    for definition in DEFINITIONS {
        for source in definition.sources {
            let mut hooks = cell(source.attachments.iter().map(hook));
            if let Some(other) = source.when_preempted {
                let other = cell(other.attachments.iter().map(hook));
                write!(hooks, " (where tasks are preempted: {other})")?;
            }
            write!(table, "| {} | `{}` | {hooks} |", definition.signal.name(), source.name)?;
            for series in KERNELS {
                write!(table, " {} |", loads(series, source))?;
            }
            let skips = if source.skips_when_preempted { "yes" } else { "no" };
            let blind = cell(source.blind.iter().map(|&line| line.to_owned()));
            writeln!(table, " {skips} | {blind} |")?;
        }
    }
    generated("README.md", "sources", &table)
}

#[test]
fn table_of_metrics() -> Result<()> {
    let mut table = String::from("| signal | metric | from where to where |\n|---|---|---|\n");
    for (_, signal, metric) in signal::metrics() {
        writeln!(table, "| {} | `{}` | {} |", signal.name(), metric.name, metric.help)?;
    }
    table.push_str("\n| signal | count | what |\n|---|---|---|\n");
    for (_, signal, count) in signal::counts().chain(signal::counts_of(Rows::Entries)) {
        writeln!(table, "| {} | `{}` | {} |", signal.name(), count.name, count.help)?;
    }
    generated("README.md", "metrics", &table)
}

#[test]
fn table_of_what_metrics_tell() -> Result<()> {
    let mut table =
        String::from("| metric | by OTLP | kind | labels | what |\n|---|---|---|---|---|\n");
    for definition in metrics::definitions() {
        let shared =
            definition.labels.starts_with(&metrics::LABELS).then_some(metrics::LABELS.len());
        let own = definition.labels.iter().skip(shared.unwrap_or(0));
        let shown = shared.map(|_| "…".to_owned()).into_iter();
        let labels: Vec<_> = shown.chain(own.map(|label| format!("`{label}`"))).collect();
        let labels = if labels.is_empty() { "–".to_owned() } else { labels.join(", ") };
        let (name, kind, help) = (&definition.name, definition.kind.name(), &definition.help);
        let sent = match otlp::unit(&definition).as_str() {
            "" => format!("`{}`", otlp::name(&definition)),
            unit => format!("`{}` in `{unit}`", otlp::name(&definition)),
        };
        writeln!(table, "| `{name}` | {sent} | {kind} | {labels} | {help} |")?;
    }
    generated("docs/metrics.md", "every-metric", &table)
}

#[test]
fn table_of_events() -> Result<()> {
    let mut table =
        String::from("| kind | what happened | key | what it says |\n|---|---|---|---|\n");
    for kind in kinds() {
        let mut first = format!("`{}` | {}", kind.name, kind.help);
        for field in kind.fields {
            writeln!(table, "| {first} | `{}` | {} |", field.name, field.help)?;
            " | ".clone_into(&mut first);
        }
    }
    generated("README.md", "events", &table)
}

#[test]
fn table_of_findings() -> Result<()> {
    let mut table = String::from("| finding | what it says | thresholds |\n|---|---|---|\n");
    for definition in finding::DEFINITIONS {
        let shown = |one: &&Threshold| {
            let value = valued(one.value, one.unit);
            format!("`{}` {value}: {}", one.name, one.help)
        };
        let thresholds = cell(definition.thresholds.iter().map(shown));
        writeln!(table, "| `{}` | {} | {thresholds} |", definition.id, definition.help)?;
    }
    generated("README.md", "findings", &table)
}

#[test]
fn help() -> Result<()> {
    let Asked::Print(text) = cli::parse(["netdiag", "--help"].map(Into::into))? else {
        anyhow::bail!("--help asks for no text");
    };
    generated("README.md", "help", &format!("```text\n{text}```\n"))
}

/// The first sentence of a file's documentation.
fn summary(text: &str) -> Option<String> {
    let lines = text.lines().take_while(|line| line.starts_with("//!"));
    let lines: Vec<_> = lines.map(|line| line.trim_start_matches("//!").trim()).collect();
    let paragraph = lines.split(|line| line.is_empty()).next()?.join(" ");
    let sentence = paragraph.split_once(". ").map_or(paragraph.as_str(), |(first, _)| first);
    // Links of rustdoc lead nowhere here.
    let sentence = sentence.trim_end_matches('.').replace("[`", "`").replace("`]", "`");
    (!sentence.is_empty()).then_some(sentence)
}

#[test]
fn map() -> Result<()> {
    const PARTS: &[(&str, &str)] = &[
        ("netdiag-common/src", "The ABI between the programs and userspace"),
        ("netdiag-ebpf/src", "The eBPF programs"),
        ("netdiag/src", "Userspace: a library with a thin binary"),
        ("xtask/src", "Set-up, build, run, test and virtual machines"),
        ("tests/src", "The harness of the kernel-facing tests"),
        ("tests/tests", "The kernel-facing tests, and those of the documents"),
    ];
    let Some(root) = tree::root()? else { return Ok(()) };
    let mut text = String::new();
    for (directory, what) in PARTS {
        writeln!(text, "\n### `{directory}`: {what}\n\n| file | what |\n|---|---|")?;
        for (path, source) in tree::rust_files(&root, &[directory])? {
            let Some(summary) = summary(&source) else { continue };
            let file = path.trim_start_matches(directory).trim_start_matches('/');
            writeln!(text, "| `{file}` | {} |", summary.replace('|', "\\|"))?;
        }
    }
    generated("ARCHITECTURE.md", "map", &text)
}

#[test]
fn a_summary_is_the_first_sentence() {
    assert_eq!(summary("//! One\n//! two. Three.\nuse a;").as_deref(), Some("One two"));
    assert_eq!(summary("//! One: two.\n//!\n//! Three.").as_deref(), Some("One: two"));
    assert_eq!(summary("use a;\n//! One"), None);
}

/// Programs whose flags are their own.
const OTHERS: [&str; 7] =
    ["cargo ", "nsenter ", "kubectl ", "docker ", "ctr ", "pahole ", "prometheus "];

/// Flags of netdiag that a document speaks of; those of others are not.
fn flags(document: &str) -> BTreeSet<&str> {
    document
        .lines()
        .filter(|line| !OTHERS.iter().any(|other| line.contains(other)))
        .flat_map(|line| line.split(|c: char| !(c.is_ascii_alphanumeric() || "-_:".contains(c))))
        .map(|word| word.trim_end_matches(':'))
        // An address of which a screen shows neither port nor role before it.
        .filter(|word| !word.contains(':'))
        .filter_map(|word| word.strip_prefix("--"))
        .filter(|flag| flag.starts_with(|c: char| c.is_ascii_lowercase()))
        .collect()
}

#[test]
fn flags_that_are_spoken_of_exist() -> Result<()> {
    let Some(root) = tree::root()? else { return Ok(()) };
    let command = Cli::command();
    let mut known: BTreeSet<String> = ["help", "version"].map(str::to_owned).into();
    for part in command.get_subcommands() {
        known.extend(part.get_arguments().filter_map(|flag| flag.get_long()).map(str::to_owned));
    }
    let names = [
        "README.md",
        "docs/kubernetes.md",
        "docs/live.md",
        "docs/metrics.md",
        "docs/report.md",
        "docs/security.md",
    ];
    for name in names {
        let document = fs::read_to_string(root.join(name))?;
        let unknown: Vec<_> =
            flags(&document).into_iter().filter(|&f| !known.contains(f)).collect();
        assert!(unknown.is_empty(), "{name} speaks of flags that netdiag has not: {unknown:?}");
    }
    let found = flags("`--no-such x` --a=b <!-- c --> --d: e\n  --fe80::1  -");
    assert_eq!(found, ["no-such", "a", "d"].into());
    Ok(())
}

/// Files and directories of the tree that a document names in backquotes.
fn paths(document: &str) -> impl Iterator<Item = &str> {
    tree::quoted(document).filter(|text| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        text.contains('/') && text.chars().all(plain) && !text.starts_with(['/', '.'])
    })
}

/// All documents.
fn documents(root: &Path) -> Result<Vec<String>> {
    let mut names = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"].map(str::to_owned).to_vec();
    for entry in fs::read_dir(root.join("docs"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        names.extend(name.ends_with(".md").then(|| format!("docs/{name}")));
    }
    names.sort();
    Ok(names)
}

#[test]
fn files_that_are_spoken_of_exist() -> Result<()> {
    let Some(root) = tree::root()? else { return Ok(()) };
    let mut missing = Vec::new();
    for name in documents(&root)? {
        let document = fs::read_to_string(root.join(&name))?;
        let in_tree = |path: &&str| {
            let top = path.split('/').next().unwrap_or_default();
            top != "target" && root.join(top).exists()
        };
        for path in paths(&document).filter(in_tree) {
            if !root.join(Path::new(path)).exists() {
                missing.push(format!("{name}: {path}"));
            }
        }
    }
    assert!(missing.is_empty(), "these do not exist: {missing:?}");
    let found: Vec<_> = paths("`netdiag/src` `a/b.rs` `/proc/x` `c` `d e/f`").collect();
    assert_eq!(found, ["netdiag/src", "a/b.rs"]);
    Ok(())
}
