//! A real Prometheus that scrapes netdiag, and promtool.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::{child::Own, machine, tool};

/// Both programs, installed or as `cargo xtask setup` unpacks them.
///
/// # Errors
/// Names the one that is missing.
pub fn programs() -> Result<[PathBuf; 2]> {
    let find = |name: &str| {
        let unpacked = tool::test_tools().join("prometheus/usr/bin").join(name);
        let found = tool::find(name).or_else(|| Some(unpacked).filter(|path| path.is_file()));
        found.with_context(|| format!("{name} is missing: cargo xtask setup"))
    };
    Ok([find("prometheus")?, find("promtool")?])
}

/// What promtool says of a text, such as that of `/metrics` to `check metrics`.
///
/// # Errors
/// When it refuses it, with what it said.
pub fn promtool(arguments: &[&str], text: &str) -> Result<String> {
    let [_, promtool] = programs()?;
    let mut child = Command::new(promtool)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut to = child.stdin.take().context("promtool's standard input")?;
    // It may refuse before it has read all.
    let _closed = to.write_all(text.as_bytes());
    drop(to);
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let text = tool::finish(&format!("promtool {}", arguments.join(" ")), &output)?;
    Ok(format!("{text}{said}"))
}

/// Asks over HTTP and reads to the end: the head of the answer, and what follows it.
///
/// # Errors
/// When nobody answers, or what comes is no answer.
pub fn get(address: SocketAddr, path: &str, headers: &str) -> Result<(String, Vec<u8>)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(machine::patience()))?;
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").context("no head")?;
    let body = answer.split_off(end + 4);
    let head = String::from_utf8(answer)?;
    // What is sent in pieces has their lengths between them.
    let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Ok((head, if is_chunked { unchunked(&body)? } else { body }))
}

fn unchunked(mut body: &[u8]) -> Result<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let end = body.windows(2).position(|two| two == b"\r\n").context("a length")?;
        let length = usize::from_str_radix(std::str::from_utf8(&body[..end])?, 16)?;
        let chunk = body.get(end + 2..end + 2 + length).context("a whole chunk")?;
        if length == 0 {
            return Ok(whole);
        }
        whole.extend(chunk);
        body = &body[end + 2 + length + 2..];
    }
}

/// A Prometheus that scrapes one address; killed when dropped.
#[derive(Debug)]
pub struct Prometheus {
    _child: Own,
    address: SocketAddr,
    directory: TempDir,
}

/// Between two scrapes.
const EVERY: &str = "250ms";

impl Prometheus {
    /// Starts one and waits until it answers. `native`: it asks for native histograms.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(target: SocketAddr, native: bool) -> Result<Self> {
        let [program, _] = programs()?;
        let directory = tempfile::tempdir()?;
        let config = format!(
            "global: {{scrape_interval: {EVERY}, scrape_timeout: {EVERY}}}\n\
             scrape_configs:\n\
             - job_name: netdiag\n  static_configs:\n  - targets: ['{target}']\n"
        );
        let path = directory.path().join("prometheus.yml");
        fs::write(&path, config)?;
        let address = free_address()?;
        let log = File::create(directory.path().join("log"))?;
        let mut command = Command::new(program);
        command
            .arg(format!("--config.file={}", path.display()))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .args(native.then_some("--enable-feature=native-histograms"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let child = command.spawn().map(Own::from).context("start Prometheus")?;
        let this = Self { _child: child, address, directory };
        let ready = machine::wait_until(|| {
            get(address, "/-/ready", "").is_ok_and(|(head, _)| head.contains(" 200 "))
        });
        ensure!(ready, "Prometheus does not answer; it said:\n{}", this.log());
        Ok(this)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// What a query gives now: labels and value of each series, as its API has them.
    ///
    /// # Errors
    /// When it refuses the query.
    pub fn query(&self, query: &str) -> Result<Vec<Sample>> {
        let path = format!("/api/v1/query?query={}", escaped(query));
        let (_, body) = get(self.address, &path, "")?;
        let answer: Value = serde_json::from_slice(&body).context("an answer in JSON")?;
        ensure!(answer["status"] == "success", "{query}: {answer}");
        let result = answer["data"]["result"].as_array().context("a result")?;
        result.iter().map(|one| sample(one).with_context(|| format!("{query}: {one}"))).collect()
    }

    /// The same as one number, of a query that gives one series.
    ///
    /// # Errors
    /// When it gives none or several.
    pub fn number(&self, query: &str) -> Result<f64> {
        match self.query(query)?.as_slice() {
            [sample] => Ok(sample.value),
            samples => bail!("{query} gives {} series: {samples:?}", samples.len()),
        }
    }

    /// Waits until a query gives one number that is so.
    ///
    /// # Errors
    /// When it does not, with what it gave last and what Prometheus said.
    pub fn wait_for(&self, query: &str, wanted: impl Fn(f64) -> bool) -> Result<f64> {
        let mut last = None;
        let found = machine::wait_until(|| {
            last = Some(self.number(query));
            last.as_ref().is_some_and(|last| last.as_ref().is_ok_and(|n| wanted(*n)))
        });
        ensure!(found, "{query} is {last:?}; Prometheus said:\n{}", self.log());
        last.context("a number")?
    }
}

/// One series at a time.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Its labels.
    pub labels: serde_json::Map<String, Value>,
    /// How much it is; NaN for a histogram.
    pub value: f64,
}

fn sample(one: &Value) -> Result<Sample> {
    let labels = one["metric"].as_object().context("labels")?.clone();
    let value = match one.get("value") {
        Some(value) => value[1].as_str().context("a value")?.parse()?,
        None => f64::NAN,
    };
    Ok(Sample { labels, value })
}

/// An address that nobody listens at: what the kernel gives now it does not give again at once.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// As it stands in a URL.
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// Sends a part of a request and then nothing, or asks and does not read: a connection that is held open.
///
/// # Errors
/// When nobody listens there.
pub fn silent(address: SocketAddr, request: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.write_all(request.as_bytes())?;
    Ok(stream)
}
