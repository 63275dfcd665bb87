//! A receiver of OTLP that nobody here wrote the messages of: the reference definitions, in Python.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{child::Own, machine, tool};

/// Python with the definitions.
///
/// # Errors
/// It is not installed.
pub fn python() -> Result<PathBuf> {
    let python = tool::test_tools().join("python/bin/python3");
    let definitions = "import opentelemetry.proto.collector.metrics.v1.metrics_service_pb2";
    let found = Command::new(&python).args(["-c", definitions]).output();
    let is_there = found.is_ok_and(|output| output.status.success());
    ensure!(is_there, "opentelemetry-proto is missing in {}: cargo xtask setup", python.display());
    Ok(python)
}

/// A receiver, killed when dropped.
#[derive(Debug)]
pub struct Collector {
    _child: Own,
    manners: ChildStdin,
    lines: Receiver<String>,
    port: u16,
    /// What it took so far, in order.
    pub requests: Vec<Request>,
}

impl Collector {
    /// Starts one that answers in a manner: `ok`, `busy`, `partial` or `silent`.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(manner: &str) -> Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("readers/receive_otlp.py");
        let mut child = Command::new(python()?)
            .arg(script)
            .arg(manner)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map(Own::from)
            .context("start the receiver of OTLP")?;
        let manners = child.stdin.take().context("standard input")?;
        let stdout = BufReader::new(child.stdout.take().context("standard output")?);
        let (to, lines) = channel();
        thread::spawn(move || {
            stdout.lines().map_while(Result::ok).try_for_each(|line| to.send(line).ok())
        });
        let first = lines.recv_timeout(machine::patience()).context("it does not listen")?;
        let first: Value = serde_json::from_str(&first)?;
        let port = u16::try_from(first["port"].as_u64().context("a port")?)?;
        Ok(Self { _child: child, manners, lines, port, requests: Vec::new() })
    }

    /// Where it listens, for `--otlp`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// How it answers from now on.
    ///
    /// # Errors
    /// When it is gone.
    pub fn answer(&mut self, manner: &str) -> Result<()> {
        writeln!(self.manners, "{manner}")?;
        Ok(self.manners.flush()?)
    }

    /// Ends it. All requests that it answered.
    ///
    /// # Errors
    /// When one could not be decoded.
    pub fn end(self) -> Result<Vec<Request>> {
        let Self { _child, manners, lines, mut requests, .. } = self;
        // It ends then, and so do its lines.
        drop(manners);
        for line in lines {
            requests.push(Request::of(&line)?);
        }
        Ok(requests)
    }

    /// Waits for a request in which that is so.
    ///
    /// # Errors
    /// When none comes, or one could not be decoded.
    pub fn wait_for(&mut self, what: &str, wanted: impl Fn(&Request) -> bool) -> Result<&Request> {
        let start = Instant::now();
        loop {
            let left = machine::patience().saturating_sub(start.elapsed());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.requests.push(Request::of(&line)?),
                Err(RecvTimeoutError::Timeout) => {
                    bail!(
                        "no {what} in {} requests: {:?}",
                        self.requests.len(),
                        self.requests.last()
                    )
                }
                Err(RecvTimeoutError::Disconnected) => bail!("the receiver of OTLP ended"),
            }
            if self.requests.last().is_some_and(&wanted) {
                return self.requests.last().context("a request");
            }
        }
    }
}

/// A request, as it was decoded.
#[derive(Clone, Debug)]
pub struct Request(pub Value);

impl Request {
    fn of(line: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(line)?;
        ensure!(value.get("error").is_none(), "it cannot be decoded: {}", value["error"]);
        Ok(Self(value))
    }

    /// A metric by its name.
    #[must_use]
    pub fn metric(&self, name: &str) -> Option<&Value> {
        self.0["metrics"].as_array()?.iter().find(|metric| metric["name"] == name)
    }

    /// Data points of a metric that have these attributes, and perhaps others.
    pub fn points<'a>(
        &'a self,
        name: &str,
        attributes: &'a [(&str, Value)],
    ) -> impl Iterator<Item = &'a Value> {
        let points = self.metric(name).and_then(|metric| metric["points"].as_array());
        points.into_iter().flatten().filter(move |point| {
            attributes.iter().all(|(key, wanted)| attribute(point, key) == Some(wanted))
        })
    }

    /// The sum of the numbers of these points.
    #[must_use]
    pub fn sum(&self, name: &str, attributes: &[(&str, Value)]) -> f64 {
        self.points(name, attributes).filter_map(|point| point["value"].as_f64()).sum()
    }
}

/// An attribute of a data point or a resource, by its key.
#[must_use]
pub fn attribute<'a>(of: &'a Value, key: &str) -> Option<&'a Value> {
    let pairs = of.get("attributes").unwrap_or(of).as_array()?;
    pairs.iter().find(|pair| pair[0] == key).map(|pair| &pair[1])
}
