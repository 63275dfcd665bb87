//! Conversations of real programs: Redis, one command at a time and many in one, and HTTP/2, one request at
//! a time and many under way. What netdiag says of them is what the programs say themselves.

use std::{
    net::{SocketAddr, TcpStream},
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use netdiag::snapshot::{Flow, Snapshot};
use netdiag_tests::{
    child::Own,
    facts::Facts,
    machine,
    namespace::Namespace,
    netdiag::Netdiag,
    network::{Pair, RIGHT_V4},
    outcome::{count, in_namespaces, metric},
    require,
    requirement::{Feature, alone},
    source,
    tool::{self, finish},
};

/// A server.
struct Server {
    _child: Own,
    address: SocketAddr,
}

impl Server {
    /// Starts one that listens on this port of the pair's right end, and waits until it does.
    fn start(pair: &Pair, port: u16, mut command: Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = pair.right.run(|| command.spawn())?.into();
        let server = Self { _child: child, address: SocketAddr::new(RIGHT_V4.into(), port) };
        let listens =
            machine::wait_until(|| pair.left.run(|| TcpStream::connect(server.address)).is_ok());
        ensure!(listens, "{command:?} does not listen");
        Ok(server)
    }

    /// One that keeps nothing. Debian has the program under another name, in a package that starts no
    /// service; which of its kind it is it knows by its own name.
    fn redis(pair: &Pair) -> Result<Self> {
        const NAME: &str = "redis-server";
        let program = tool::find(NAME).or_else(|| tool::find("redis-check-rdb"));
        let mut command = Command::new(program.context(NAME)?);
        command
            .arg0(NAME)
            .args(["--port", "6379", "--protected-mode", "no", "--bind"])
            .arg(RIGHT_V4.to_string());
        command.args(["--save", "", "--appendonly", "no", "--dir", "/", "--loglevel", "warning"]);
        Self::start(pair, 6379, command)
    }

    /// One that has one small file.
    fn http2(pair: &Pair, files: &std::path::Path) -> Result<Self> {
        std::fs::write(files.join("index.html"), "a small file\n")?;
        let mut command = tool::command("nghttpd")?;
        command.args(["--no-tls", "--address"]).arg(RIGHT_V4.to_string());
        command.arg("--htdocs").arg(files).arg("8080");
        Self::start(pair, 8080, command)
    }
}

/// Runs a client to its end, and returns what it said.
fn client(from: &Namespace, line: &str) -> Result<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (program, arguments) = words.split_first().context("no program")?;
    let mut command = tool::command(program)?;
    command.args(arguments).stdin(Stdio::null());
    finish(line, &from.run(|| command.output())?)
}

/// Both ends' flows of the connection with a server that carried most: others only ask what it is, or
/// whether it is there.
fn conversation<'a>(total: &'a Snapshot, pair: &Pair, port: u16) -> Result<[&'a Flow; 2]> {
    let busiest = |namespace: &Namespace, is_it: fn(&Flow, u16) -> bool| {
        let inode = [namespace.inode()];
        let flows = in_namespaces(total, &inode).filter(|flow| is_it(flow, port));
        let spoken = |flow: &&Flow| {
            let turns = ["response", "service"].map(|name| metric(flow, name).count);
            turns.iter().sum::<u64>() + count(flow, "turns_ambiguous").unwrap_or_default()
        };
        flows.max_by_key(spoken).with_context(|| format!("no flow of port {port}"))
    };
    Ok([
        busiest(&pair.left, |flow, port| flow.peer.port == Some(port))?,
        busiest(&pair.right, |flow, port| flow.local.port == Some(port))?,
    ])
}

fn mean(flow: &Flow, name: &str) -> Duration {
    let sum = count(flow, &format!("{name}_ns")).unwrap_or_default();
    Duration::from_nanos(sum / metric(flow, name).count.max(1))
}

/// What a packet takes from one end to the other.
const ONE_WAY: Duration = Duration::from_millis(5);

/// That what netdiag says is what the program says, within 5 % or 1 ms; and that it is no shorter than the way
/// there and back, and no longer than the program says, whose clock runs from before the request to behind
/// the response.
fn agrees(facts: &mut Facts, what: &str, found: Duration, said: Duration) {
    let least = 2 * ONE_WAY;
    // Both have digits that are significant, the program three.
    let holds = found >= least.mul_f64(0.99) && found <= said.mul_f64(1.01);
    facts.holds(format_args!("{what}: {found:?} is from {least:?} to {said:?}"), holds);
    let bound = said.mul_f64(0.05).max(Duration::from_millis(1));
    facts.holds(format_args!("{what}: {found:?} is {said:?}"), found.abs_diff(said) <= bound);
}

/// What redis-benchmark says: the mean and the median.
fn said_by_benchmark(text: &str) -> Result<[Duration; 2]> {
    let mut lines = text.lines().map(|line| line.split(',').map(|field| field.trim_matches('"')));
    let (names, values) = (lines.next().context("no names")?, lines.next().context("no values")?);
    let said: Vec<_> = names.zip(values).collect();
    let of = |wanted: &str| {
        let found = said.iter().find(|(name, _)| *name == wanted);
        let (_, value) = found.with_context(|| format!("no {wanted} in {text}"))?;
        anyhow::Ok(Duration::from_secs_f64(value.parse::<f64>()? / 1e3))
    };
    Ok([of("avg_latency_ms")?, of("p50_latency_ms")?])
}

/// What h2load says that a request took in the mean.
fn said_by_h2load(text: &str) -> Result<Duration> {
    let line = text.lines().find_map(|line| line.strip_prefix("time for request:"));
    let mean = line.and_then(|line| line.split_whitespace().nth(2));
    let mean = mean.with_context(|| format!("no mean in {text}"))?;
    let digits = mean.trim_end_matches(char::is_alphabetic);
    let unit = match &mean[digits.len()..] {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        other => anyhow::bail!("a time in {other}"),
    };
    Ok(Duration::from_secs_f64(digits.parse::<f64>()? * unit))
}

/// A command and its reply are a turn. So are sixteen that are sent at once and answered at once: there
/// is one time that passed, which the program, too, says of them all.
#[test]
fn redis_has_a_turn_for_each_command_or_batch() -> Result<()> {
    const TURNS: u64 = 150;
    require!(Feature::Redis);
    let _alone = alone();
    for forced in source::loading("turn")? {
        for batch in [1, 16] {
            source::until_unskipped(|| {
                let pair = Pair::distant(ONE_WAY)?;
                let server = Server::redis(&pair)?;
                let netdiag = Netdiag::live_by(&forced, &[])?;
                let (commands, host) = (TURNS * batch, server.address.ip());
                let said = client(
                    &pair.left,
                    &format!(
                        "redis-benchmark -h {host} -c 1 -n {commands} -P {batch} -t get --csv"
                    ),
                )?;
                let outcome = netdiag.stop()?;
                let total = outcome.total()?;
                if total.accounting["turn"].missed > 0 {
                    Facts::only_at_rest(total);
                    return Ok(false);
                }
                let [asks, answers] = conversation(total, &pair, server.address.port())?;
                let mut facts = Facts::new();
                facts.note(format_args!("{forced}: {said}\n{asks:?}\n{answers:?}"));
                for (flow, name) in [(asks, "response"), (answers, "service")] {
                    facts.equal(format_args!("{batch}: {name}"), metric(flow, name).count, TURNS);
                    let ambiguous = count(flow, "turns_ambiguous");
                    facts.equal(format_args!("{batch}: ambiguous ones"), ambiguous, Some(0));
                }
                let [mean_said, median_said] = said_by_benchmark(&said)?;
                agrees(&mut facts, "the mean", mean(asks, "response"), mean_said);
                let median = metric(asks, "response").p50_ns.map(Duration::from_nanos);
                agrees(&mut facts, "the median", median.unwrap_or_default(), median_said);
                let server = mean(answers, "service");
                facts.holds(format_args!("{server:?} is the server's own"), {
                    server < mean(asks, "response") / 2
                });
                facts.at_rest(total);
                facts.finish();
                Ok(true)
            })?;
        }
    }
    Ok(())
}

/// A request of HTTP/2 and its response are a turn where the client waits. Where requests are under way
/// whenever a response comes, nothing tells whose it is, and none of their times is made up.
#[test]
fn http2_has_turns_only_where_its_client_waits() -> Result<()> {
    const REQUESTS: u64 = 300;
    /// Both ends begin by saying what they can do, at the same time; what comes then is not believed at once.
    const OPENING: u64 = 20;
    require!(Feature::Http2);
    let _alone = alone();
    let files = tempfile::tempdir()?;
    for forced in source::loading("turn")? {
        // h2load looks for what is due every 10 ms.
        for (one_way, how) in [(ONE_WAY, "-m 1"), (Duration::from_millis(40), "-m 100 --rps 200")] {
            source::until_unskipped(|| {
                let pair = Pair::distant(one_way)?;
                let server = Server::http2(&pair, files.path())?;
                let netdiag = Netdiag::live_by(&forced, &[])?;
                let url = format!("http://{}/index.html", server.address);
                let said = client(&pair.left, &format!("h2load -c 1 -n {REQUESTS} {how} {url}"))?;
                let outcome = netdiag.stop()?;
                let total = outcome.total()?;
                if total.accounting["turn"].missed > 0 {
                    Facts::only_at_rest(total);
                    return Ok(false);
                }
                let [asks, answers] = conversation(total, &pair, server.address.port())?;
                let mut facts = Facts::new();
                facts.note(format_args!("{forced}: {how}: {said}\n{asks:?}\n{answers:?}"));
                facts.holds("all are answered", {
                    said.contains(&format!(" {REQUESTS} succeeded, 0 failed"))
                });
                let waits = how == "-m 1";
                for (flow, name) in [(asks, "response"), (answers, "service")] {
                    let turns = metric(flow, name).count;
                    let ambiguous = count(flow, "turns_ambiguous").unwrap_or_default();
                    let holds = match waits {
                        true => (REQUESTS - OPENING..=REQUESTS).contains(&turns),
                        false => turns <= OPENING / 10 && ambiguous >= REQUESTS / 10,
                    };
                    let what = format!("{how}: {turns} for {name}, {ambiguous} are ambiguous");
                    facts.holds(what, holds);
                }
                if waits {
                    let found = mean(asks, "response");
                    agrees(&mut facts, "the mean", found, said_by_h2load(&said)?);
                }
                facts.at_rest(total);
                facts.finish();
                Ok(true)
            })?;
        }
    }
    Ok(())
}
