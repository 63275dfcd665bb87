//! Metrics: a real Prometheus scrapes them, in every format, and says of them what netdiag says; names of processes
//! and slow scrapers are harmless.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::{Context, Result, ensure};
use netdiag::{format::sanitised, snapshot::Distribution, view::metrics::BOUNDS};
use netdiag_tests::{
    conntrack::{Rules, track_at},
    dns,
    facts::Facts,
    machine,
    netdiag::{Netdiag, run},
    network::{Pair, RIGHT_V4},
    outcome::{flow_of, metric},
    prometheus::{Prometheus, get, promtool, silent},
    require,
    requirement::{Feature, alone},
    traffic::{
        Connection, Family, name_process,
        process::Shell,
        request::{Exchange, exchange},
    },
    tree,
};
use rustix::process::Signal;
use serde_json::Value;

/// A netdiag that serves metrics of these namespaces, and where.
fn serving(pair: &Pair, arguments: &[&str]) -> Result<(Netdiag, SocketAddr)> {
    let filter = format!("{},{}", pair.left.name(), pair.right.name());
    let mut all = vec!["live", "-o", "json", "-i", "200ms", "--netns", &filter, "--listen", ":0"];
    all.extend(arguments);
    let netdiag = Netdiag::start(&all)?;
    let address = netdiag.metrics_at()?;
    Ok((netdiag, address))
}

const ROUND: Exchange = Exchange { sends: 100, bytes: 200, echo: true };

/// Waits until two more intervals are told, so that all that was done before is.
fn settle(prometheus: &Prometheus) -> Result<()> {
    const END: &str = "netdiag_interval_end_timestamp_seconds";
    for _ in 0..2 {
        let now = prometheus.number(END)?;
        prometheus.wait_for(END, |end| end > now)?;
    }
    Ok(())
}

/// The 99th percentile of a latency, as Prometheus says it of all that there is of a flow.
fn p99(prometheus: &Prometheus, name: &str, group: &str, native: bool) -> Result<f64> {
    let end = if native { "" } else { "_bucket" };
    prometheus.number(&format!("histogram_quantile(0.99, {name}{end}{{{group}}})"))
}

/// How far both percentiles may be apart, by the buckets that Prometheus has: the width of the one in which the
/// true one is.
fn width(p99_ns: u64, native: bool) -> f64 {
    let exact = p99_ns as f64 / 1e9;
    if native {
        return exact * (2_f64.powf(1.0 / 8.0) - 1.0);
    }
    let bounds = [0].into_iter().chain(BOUNDS.map(|(bound, _)| bound));
    let above = bounds.clone().find(|bound| *bound >= p99_ns).unwrap_or(p99_ns);
    let below = bounds.rev().find(|bound| *bound < p99_ns).unwrap_or(0);
    (above - below) as f64 / 1e9
}

/// Metrics that are there for every flow that asks and is answered.
const LATENCIES: [&str; 3] = ["send", "rtt", "response"];

#[test]
fn prometheus_says_what_netdiag_says() -> Result<()> {
    require!(Feature::Prometheus);
    let _alone = alone();
    name_process("metrics-test")?;
    let pair = Pair::new()?;
    let (netdiag, address) = serving(&pair, &[])?;
    let connection = Connection::open(&pair.left, &pair.right, Family::V4)?;
    let client = connection.client_end()?;
    let group = format!("comm=\"metrics-test\",role=\"client\",service=\"{}\"", client.peer);
    let mut found = Vec::new();
    let mut facts = Facts::new();
    let both = [false, true].map(|native| (native, Prometheus::start(address, native)));
    let mut sends = 0;
    let busy = AtomicBool::new(true);
    thread::scope(|scope| -> Result<()> {
        // Under load, Prometheus comes again and again.
        let load = scope.spawn(|| -> Result<usize> {
            let mut rounds = 0;
            while busy.load(Ordering::Relaxed) || rounds < 20 {
                exchange([(&connection, ROUND)])?;
                rounds += 1;
            }
            Ok(rounds)
        });
        let scraped = both.iter().try_for_each(|(_, prometheus)| -> Result<()> {
            let prometheus = prometheus.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
            let sends = format!("netdiag_sends_total{{{group}}}");
            let first = prometheus.wait_for(&sends, |n| n > 0.0)?;
            prometheus.wait_for(&sends, |n| n > 2.0 * first)?;
            Ok(())
        });
        busy.store(false, Ordering::Relaxed);
        sends = load.join().expect("the load panicked")? * ROUND.sends;
        scraped
    })?;
    for (native, prometheus) in both {
        let prometheus = prometheus?;
        prometheus.wait_for(&format!("netdiag_sends_total{{{group}}}"), |n| n == sends as f64)?;
        settle(&prometheus)?;
        let resets = prometheus.number(&format!("resets(netdiag_sends_total{{{group}}}[1h])"))?;
        facts.equal(format!("native {native}: times that the sends fell"), resets, 0.0);
        for name in LATENCIES {
            let full = format!("netdiag_{name}_seconds");
            let count = if native {
                prometheus.number(&format!("histogram_count({full}{{{group}}})"))?
            } else {
                prometheus.number(&format!("{full}_count{{{group}}}"))?
            };
            found.push((native, name, count, p99(&prometheus, &full, &group, native)?));
        }
    }
    let (_, text) = get(address, "/metrics", "Accept: text/plain\r\n")?;
    let text = String::from_utf8(text)?;
    facts.note(format!("promtool: {}", promtool(&["check", "metrics"], &text)?));
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;
    let flow = flow_of(total, &client)?;
    for (native, name, count, p99) in found {
        let Distribution { count: exact, p99_ns, .. } = metric(flow, name);
        let what = format!("native {native}: {name}");
        facts.equal(format!("{what}: samples"), count, exact as f64);
        let p99_ns = p99_ns.with_context(|| format!("no {name}"))?;
        facts.note(format!("{what}: p99 {p99} s, by netdiag {p99_ns} ns"));
        let apart = (p99 - p99_ns as f64 / 1e9).abs();
        facts.holds(format!("{what}: {apart} s apart"), apart <= width(p99_ns, native) * 1.000_001);
    }
    facts.at_rest(total);
    facts.finish();
    Ok(())
}

/// All queries of the dashboard, with what Grafana puts in: everything, and a window that is long enough.
fn queries() -> Result<Option<BTreeSet<String>>> {
    fn collect(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(query)) = fields.get("expr") {
                    found.insert(query.clone());
                }
                fields.values().for_each(|value| collect(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| collect(value, found)),
            _ => {}
        }
    }
    let Some(root) = tree::root()? else { return Ok(None) };
    let dashboard: Value =
        serde_json::from_str(&fs::read_to_string(root.join("deploy/grafana/netdiag.json"))?)?;
    let mut found = BTreeSet::new();
    collect(&dashboard["panels"], &mut found);
    ensure!(found.len() > 20, "{found:?}");
    let filled =
        |query: String| query.replace("$__rate_interval", "10m").replace("$instance", ".*");
    Ok(Some(found.into_iter().map(filled).collect()))
}

/// Does a bit of everything that a panel shows, once.
fn bit_of_everything(
    pair: &Pair,
    resolver: &dns::Server,
    refusing: SocketAddr,
    nth: u16,
) -> Result<()> {
    let connection = Connection::open(&pair.left, &pair.right, Family::V4)?;
    exchange([(&connection, Exchange { sends: 5, bytes: 100, echo: true })])?;
    connection.reset()?;
    let _refused = pair.left.run(|| TcpStream::connect(refusing));
    let socket = dns::client(&pair.left, resolver.address)?;
    dns::ask(&socket, resolver.address, &dns::Query::new(nth, 0))?;
    Ok(())
}

#[test]
fn every_query_of_the_dashboard_has_data() -> Result<()> {
    require!(Feature::Prometheus);
    let Some(queries) = queries()? else { return Ok(()) };
    let _alone = alone();
    let pair = Pair::new()?;
    // Where nobody tracks connections there is no table, and so no part of one that is taken.
    track_at(&pair.left, Rules::Plain)?;
    let resolver = dns::Server::start(&pair.right, RIGHT_V4.into())?;
    // Somebody had that port, and nobody has it now.
    let gone = pair.right.run(|| TcpListener::bind((RIGHT_V4, 0)))?.local_addr()?;
    let (netdiag, address) = serving(&pair, &[])?;
    let both = [Prometheus::start(address, false)?, Prometheus::start(address, true)?];
    let ended = AtomicBool::new(false);
    let empty = thread::scope(|scope| -> Result<Vec<String>> {
        let busy = scope.spawn(|| -> Result<()> {
            for nth in 0.. {
                if ended.load(Ordering::Relaxed) {
                    break;
                }
                bit_of_everything(&pair, &resolver, gone, nth)?;
                thread::sleep(std::time::Duration::from_millis(20));
            }
            Ok(())
        });
        let mut empty = Vec::new();
        for query in &queries {
            for (nth, prometheus) in both.iter().enumerate() {
                let mut last = None;
                let has_data = machine::wait_until(|| {
                    last = Some(prometheus.query(query));
                    busy.is_finished()
                        || last
                            .as_ref()
                            .is_some_and(|last| last.as_ref().is_ok_and(|found| !found.is_empty()))
                });
                if !has_data || busy.is_finished() {
                    empty.push(format!("Prometheus {nth}: {query}: {last:?}"));
                }
            }
            // One that stays empty has been waited for long enough.
            if !empty.is_empty() {
                break;
            }
        }
        ended.store(true, Ordering::Relaxed);
        busy.join().expect("the traffic panicked")?;
        Ok(empty)
    })?;
    ensure!(empty.is_empty(), "no data: {empty:#?}");
    netdiag.stop()?;
    Ok(())
}

#[test]
fn promtool_accepts_the_rules() -> Result<()> {
    require!(Feature::Prometheus);
    let Some(root) = tree::root()? else { return Ok(()) };
    let rules = root.join("deploy/prometheus/netdiag.rules.yml");
    let said = promtool(&["check", "rules", &rules.display().to_string()], "")?;
    ensure!(said.contains("SUCCESS"), "{said}");
    Ok(())
}

#[test]
fn names_of_processes_are_harmless() -> Result<()> {
    require!(Feature::Prometheus);
    let _alone = alone();
    let pair = Pair::new()?;
    let (netdiag, address) = serving(&pair, &[])?;
    // What clears a screen, a line's end, what ends a label, what turns text around, and 4 bytes.
    let name = "\u{1b}[2J\n\"\\\u{202e}\u{1d11e}";
    let shell = Shell::connect_named(name, &pair.left, &pair.right, 10)?;
    // Prometheus takes U+FFFD, which stands for what is harmful, for a fault in a query: any character does.
    let known = |c: char| if c.is_ascii_alphanumeric() || c == '\u{1d11e}' { c } else { '.' };
    let sends = format!(
        "netdiag_sends_total{{comm=~\"{}\"}}",
        sanitised(name).chars().map(known).collect::<String>()
    );
    shell.send()?;
    for native in [false, true] {
        let prometheus = Prometheus::start(address, native)?;
        prometheus.wait_for(&format!("sum({sends})"), |n| n == 10.0)?;
    }
    for accept in ["text/plain", "application/openmetrics-text"] {
        let (head, text) = get(address, "/metrics", &format!("Accept: {accept}\r\n"))?;
        ensure!(head.contains(accept), "{head}");
        let text = String::from_utf8(text)?;
        let strange = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
        ensure!(!text.contains(strange), "{text}");
        ensure!(text.contains('\u{1d11e}'), "{text}");
        if accept == "text/plain" {
            let said = promtool(&["check", "metrics"], &text)?;
            ensure!(said.trim().is_empty(), "promtool says {said}");
        }
    }
    shell.end()?;
    netdiag.stop()?;
    Ok(())
}

/// More than are answered at a time.
const SCRAPERS: usize = 40;

#[test]
fn slow_scrapers_hold_nothing_up() -> Result<()> {
    let _alone = alone();
    let pair = Pair::new()?;
    let connection = Connection::open(&pair.left, &pair.right, Family::V4)?;
    let (mut netdiag, address) = serving(&pair, &[])?;
    // Some say nothing, some do not end what they say, some ask and do not read.
    let requests =
        ["", "GET /metrics HTTP/1.1\r\nHost: x\r\n", "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"];
    let open = (0..SCRAPERS).map(|nth| silent(address, requests[nth % requests.len()]));
    let held: Vec<TcpStream> = open.collect::<Result<_>>()?;
    exchange([(&connection, ROUND)])?;
    netdiag.wait_lines(5)?;
    // They are given up, and then others have their turn.
    let (head, _) = get(address, "/metrics", "")?;
    let mut facts = Facts::new();
    facts.holds(
        format!("a scraper behind them is answered: {head}"),
        head.starts_with("HTTP/1.1 200 "),
    );
    drop(held);
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;
    let flow = flow_of(total, &connection.client_end()?)?;
    facts.equal("sends", metric(flow, "send").count, ROUND.sends as u64);
    facts.at_rest(total);
    facts.lossless(total);
    facts.finish();
    Ok(())
}

/// What is answered to bytes that are no request for metrics.
fn answer(address: SocketAddr, bytes: &[u8]) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(machine::patience()))?;
    // It may close before it has read all.
    let _closed = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _reset = stream.read_to_end(&mut answer);
    let text = String::from_utf8_lossy(&answer).into_owned();
    Ok(text.lines().next().unwrap_or("closed").to_owned())
}

#[test]
fn other_requests_are_refused() -> Result<()> {
    let _alone = alone();
    let pair = Pair::new()?;
    let (netdiag, address) = serving(&pair, &[])?;
    let mut facts = Facts::new();
    let long = format!("GET /metrics HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    let many = format!("GET /metrics HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: x\r\n".repeat(2_000));
    for (request, allowed) in [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", &["404"][..]),
        ("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", &["405"]),
        ("HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n", &["200"]),
        ("\u{16}\u{3}\u{1}\r\n\r\n", &["400", "closed"]),
        (&long, &["431", "closed"]),
        (&many, &["431", "closed"]),
    ] {
        let status = answer(address, request.as_bytes())?;
        let shown: String = request.chars().take(40).collect();
        facts.holds(format!("{shown:?}: {status}"), allowed.iter().any(|one| status.contains(one)));
    }
    let taken = run(&["live", "-d", "1s", "--listen", &address.to_string()])?;
    let said = String::from_utf8_lossy(&taken.stderr).into_owned();
    facts.equal("status where the address is taken", taken.status.code(), Some(2));
    facts.equal("lines that say so", said.lines().count(), 1);
    facts.holds(format!("it says which: {said}"), said.contains(&format!("--listen {address}")));
    netdiag.signal(Signal::INT)?;
    facts.at_rest(netdiag.wait()?.total()?);
    facts.finish();
    Ok(())
}
