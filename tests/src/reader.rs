//! Other people's readers of histogram logs, run on what netdiag wrote.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::tool;

/// What a reader says of one tag, over all intervals of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// Interval lines with that tag.
    pub intervals: u64,
    /// Samples.
    pub count: u64,
    /// Largest value.
    pub max: u64,
    /// 99th percentile.
    pub p99: u64,
}

/// By tag; the untagged lines under the empty one.
pub type ByTag = BTreeMap<String, Read>;

/// A reader in another language.
#[derive(Clone, Debug)]
pub struct Reader {
    /// Name of the language.
    pub language: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
}

fn source(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("readers").join(file)
}

/// All three: the jar of libhdrhistogram-java, hdrhistogram of PyPI, hdr-histogram-js of npm.
///
/// # Errors
/// Names what is not installed.
pub fn all() -> Result<[Reader; 3]> {
    let jar = Path::new("/usr/share/java/HdrHistogram.jar");
    let debian_jar = Path::new("/usr/share/java/hdrhistogram.jar");
    let jar = [debian_jar, jar].into_iter().find(|jar| jar.is_file());
    let jar = jar.context("the jar of libhdrhistogram-java is not installed")?;
    let java = tool::find("java").context("java is not installed")?;
    let tools = tool::test_tools();
    let python = tools.join("python/bin/python3");
    ensure!(python.is_file(), "{} is missing: cargo xtask setup", python.display());
    let modules = tools.join("node_modules");
    ensure!(
        modules.join("hdr-histogram-js").is_dir(),
        "hdr-histogram-js is missing in {}: cargo xtask setup",
        modules.display()
    );
    let node = tool::find("node").context("node is not installed")?;
    let text = |path: &Path| path.display().to_string();
    Ok([
        Reader {
            language: "Java",
            program: java,
            arguments: vec!["-cp".into(), text(jar), text(&source("ReadLog.java"))],
        },
        Reader {
            language: "Python",
            program: python,
            arguments: vec![text(&source("read_log.py"))],
        },
        Reader {
            language: "JavaScript",
            program: node,
            arguments: vec![text(&source("read_log.js")), text(&modules)],
        },
    ])
}

impl Reader {
    /// Reads a whole log.
    ///
    /// # Errors
    /// When the reader refuses the file; with what it said.
    pub fn read(&self, log: &Path) -> Result<ByTag> {
        let output = Command::new(&self.program).args(&self.arguments).arg(log).output()?;
        let text =
            tool::finish(&format!("{} reader on {}", self.language, log.display()), &output)?;
        text.lines().map(|line| parse(line).with_context(|| line.to_owned())).collect()
    }
}

/// `TAG<tab>INTERVALS<tab>COUNT<tab>MAX<tab>P99`.
fn parse(line: &str) -> Result<(String, Read)> {
    let mut fields = line.split('\t');
    let tag = fields.next().context("tag")?.to_owned();
    let mut number = || -> Result<u64> { Ok(fields.next().context("field")?.parse()?) };
    Ok((tag, Read { intervals: number()?, count: number()?, max: number()?, p99: number()? }))
}
