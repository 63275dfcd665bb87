//! Metrics to a collector: what the reference definitions of OTLP decode is what netdiag says; a collector that fails
//! holds nothing up, and names of processes are data.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context, Result};
use netdiag::{
    format::sanitised,
    snapshot::{Distribution, Flow, Snapshot},
};
use netdiag_tests::{
    collector::{Collector, Request, attribute},
    facts::Facts,
    netdiag::Netdiag,
    network::Pair,
    outcome::{RETRANSMITS, flow_of, metric, sum},
    require,
    requirement::{Feature, alone},
    traffic::{
        Connection, Family, lossy, name_process,
        process::Shell,
        request::{Exchange, exchange},
    },
};
use rustix::process::Signal;
use serde_json::{Value, json};

/// A netdiag that sends metrics of these namespaces.
fn sending(pair: &Pair, url: &str) -> Result<Netdiag> {
    let filter = format!("{},{}", pair.left.name(), pair.right.name());
    Netdiag::start(&["live", "-o", "json", "-i", "200ms", "--netns", &filter, "--otlp", url])
}

const ROUND: Exchange = Exchange { sends: 100, bytes: 200, echo: true };

/// Latencies that there are of every flow that asks and is answered.
const LATENCIES: [&str; 3] = ["send", "rtt", "response"];

/// All flows of a run, and what is not listed of them.
fn all(total: &Snapshot) -> impl Iterator<Item = &Flow> {
    total.flows.iter().chain([&total.other])
}

/// Bounds of the bucket with the 99th percentile, in seconds: above the first, and not above the second.
fn p99(point: &Value) -> Result<(f64, f64)> {
    let whole = |key: &str| point[key].as_i64().with_context(|| format!("{key} of {point}"));
    let (count, scale, offset) = (whole("count")?, whole("scale")?, whole("offset")?);
    let buckets = point["buckets"].as_array().context("buckets")?;
    let wanted = (0.99 * count as f64).ceil() as u64;
    let mut sum = 0;
    let position = buckets.iter().position(|n| {
        sum += n.as_u64().unwrap_or(0);
        sum >= wanted
    });
    let index = offset + i64::try_from(position.context("no bucket has it")?)?;
    let bound = |index: i64| 2_f64.powf(index as f64 / 2_f64.powi(scale as i32));
    Ok((bound(index), bound(index + 1)))
}

/// What holds of any request.
fn sound(facts: &mut Facts, request: &Request) {
    let Request(whole) = request;
    facts.equal("path", &whole["path"], &json!("/v1/metrics"));
    facts.equal("type", &whole["type"], &json!("application/x-protobuf"));
    facts.equal("bytes of unknown fields", &whole["unknown_bytes"], &json!(0));
    facts.equal("scope", &whole["scope"], &json!(["netdiag", env!("CARGO_PKG_VERSION")]));
    let of_node = |key| attribute(&whole["resource"], key);
    facts.equal("service", of_node("service.name"), Some(&json!("netdiag")));
    facts.equal("system", of_node("os.type"), Some(&json!("linux")));
    facts.holds("the node has a name", of_node("host.name").is_some_and(Value::is_string));
    for metric in whole["metrics"].as_array().into_iter().flatten() {
        let name = &metric["name"];
        let cumulative = metric["kind"] == "gauge"
            || metric["temporality"] == "AGGREGATION_TEMPORALITY_CUMULATIVE";
        facts.holds(format!("{name} is a gauge, or cumulative"), cumulative);
        let mut known = Vec::new();
        for point in metric["points"].as_array().into_iter().flatten() {
            let (start, time) = (point["start"].as_u64(), point["time"].as_u64());
            let rises = metric["monotonic"] == true || metric["kind"] == "exponential_histogram";
            if start > time || time == Some(0) || (rises && start == Some(0)) {
                facts.holds(format!("{name}: a time with a beginning and an end: {point}"), false);
            }
            let buckets = point["buckets"].as_array();
            let samples = buckets.map(|all| all.iter().filter_map(Value::as_u64).sum::<u64>());
            if samples.is_some_and(|samples| point["count"] != samples) {
                facts.holds(format!("{name}: buckets hold all samples: {point}"), false);
            }
            if known.contains(&&point["attributes"]) {
                facts.holds(format!("{name}: a series is there once: {point}"), false);
            }
            known.push(&point["attributes"]);
        }
    }
}

#[test]
fn a_collector_has_what_netdiag_says() -> Result<()> {
    require!(Feature::Otlp);
    require!(Feature::Nft);
    let _alone = alone();
    name_process("otlp-test")?;
    let pair = Pair::new()?;
    pair.without_offload()?;
    let mut collector = Collector::start("ok")?;
    let mut netdiag = sending(&pair, &collector.url())?;
    let connection = Connection::open(&pair.left, &pair.right, Family::V4)?;
    let client = connection.client_end()?;
    let group = [
        ("process.executable.name", json!("otlp-test")),
        ("netdiag.role", json!("client")),
        ("server.address", json!(client.peer.ip())),
        ("server.port", json!(client.peer.port())),
    ];
    exchange([(&connection, ROUND)])?;
    lossy::data(&pair)?;
    // Meanwhile, and again.
    for rounds in 1..=3_usize {
        let sends = (rounds * ROUND.sends) as f64;
        let has = |request: &Request| request.sum("netdiag.sends", &group) == sends;
        collector.wait_for(&format!("{sends} sends"), has)?;
        exchange([(&connection, ROUND)])?;
    }
    netdiag.wait_lines(2)?;
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;
    let requests = collector.end()?;
    let last = requests.last().context("no request")?;
    let mut facts = Facts::new();
    facts.note(format!("{} requests; {:?}", requests.len(), outcome.stderr));
    facts.equal("status", outcome.code(), Some(0));
    sound(&mut facts, last);
    let sends = sum(all(total), "sends");
    facts.equal("sends of all flows", last.sum("netdiag.sends", &[]), sends as f64);
    for kind in RETRANSMITS {
        let found = last.sum("netdiag.retransmits", &[("netdiag.kind", json!(kind))]);
        let expected = sum(all(total), &format!("retransmits.{kind}"));
        facts.equal(format!("retransmits {kind}"), found, expected as f64);
    }
    let again: u64 =
        RETRANSMITS.iter().map(|kind| sum(all(total), &format!("retransmits.{kind}"))).sum();
    facts.holds(format!("{again} segments were sent again"), again > 0);
    let flow = flow_of(total, &client)?;
    for name in LATENCIES {
        let full = format!("netdiag.{name}");
        let samples = last.points(&full, &[]).filter_map(|point| point["count"].as_u64());
        let expected: u64 = all(total).map(|flow| metric(flow, name).count).sum();
        facts.equal(format!("{name}: samples of all flows"), samples.sum::<u64>(), expected);
        let points: Vec<_> = last.points(&full, &group).collect();
        facts.equal(format!("{name}: series of the flow's group"), points.len(), 1);
        let Distribution { count, p99_ns, .. } = metric(flow, name);
        let point = *points.first().context("no series")?;
        facts.equal(format!("{name}: samples"), point["count"].as_u64(), Some(count));
        let exact = p99_ns.with_context(|| format!("no {name}"))? as f64 / 1e9;
        let (above, most) = p99(point)?;
        facts.holds(
            format!("{name}: p99 {exact} s is above {above} s and not above {most} s"),
            exact > above * 0.999_999 && exact <= most * 1.000_001,
        );
    }
    for (signal, account) in &total.accounting {
        let of = |fate: &str| {
            let attributes = [("netdiag.signal", json!(signal)), ("netdiag.fate", json!(fate))];
            last.sum("netdiag.samples", &attributes)
        };
        for (fate, n) in [("submitted", account.submitted), ("ring_full", account.ring_full)] {
            facts.equal(format!("{signal}: {fate}"), of(fate), n as f64);
        }
        let seen = last.sum("netdiag.samples_seen", &[("netdiag.signal", json!(signal))]);
        // What was seen may be corrected downwards later, which a sum is not.
        facts.holds(format!("{signal}: {seen} seen"), seen >= account.seen as f64);
    }
    for own in ["process.cpu.time", "process.memory.usage"] {
        facts.holds(format!("{own} is known"), last.sum(own, &[]) > 0.0);
    }
    let of_retransmits = last.metric("netdiag.retransmits").context("no retransmits")?;
    facts.equal("their unit", &of_retransmits["unit"], &json!("{segment}"));
    facts.at_rest(total);
    facts.finish();
    Ok(())
}

#[test]
fn names_of_processes_are_data() -> Result<()> {
    require!(Feature::Otlp);
    let _alone = alone();
    let pair = Pair::new()?;
    let mut collector = Collector::start("ok")?;
    let netdiag = sending(&pair, &collector.url())?;
    // What clears a screen, a line's end, what ends a text, what turns text around, and 4 bytes.
    let name = "\u{1b}[2J\n\"\\\u{202e}\u{1d11e}";
    let shell = Shell::connect_named(name, &pair.left, &pair.right, 10)?;
    shell.send()?;
    let of_it = [("process.executable.name", json!(sanitised(name)))];
    let request =
        collector.wait_for("its sends", |request| request.sum("netdiag.sends", &of_it) == 10.0)?;
    let mut facts = Facts::new();
    sound(&mut facts, request);
    let strange = |c: char| c.is_control() || c == '\u{202e}';
    let metrics = request.0["metrics"].as_array().into_iter().flatten();
    let points = metrics.flat_map(|metric| metric["points"].as_array().into_iter().flatten());
    let pairs = points.flat_map(|point| point["attributes"].as_array().into_iter().flatten());
    let texts: Vec<&str> = pairs.filter_map(|pair| pair[1].as_str()).collect();
    facts.holds("there are attributes", texts.len() > 100);
    for text in texts.iter().filter(|text| text.contains(strange)) {
        facts.holds(format!("{text:?} has nothing strange"), false);
    }
    facts.holds("4 bytes are one character", texts.iter().any(|text| text.contains('\u{1d11e}')));
    shell.end()?;
    facts.at_rest(netdiag.stop()?.total()?);
    facts.finish();
    Ok(())
}

/// A port that nobody listens at: what the kernel gives now it does not give again at once.
fn nobody() -> Result<String> {
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    Ok(format!("http://{address}"))
}

const FAILS: &str = "metrics do not reach the collector";

#[test]
fn a_collector_that_fails_holds_nothing_up() -> Result<()> {
    require!(Feature::Otlp);
    let _alone = alone();
    let pair = Pair::new()?;
    let mut facts = Facts::new();
    for (manner, why) in [
        (None, "refused"),
        (Some("busy"), "503 Service Unavailable and says `busy`"),
        (Some("silent"), "does not answer within 10 s"),
    ] {
        let what = manner.unwrap_or("absent");
        let collector = manner.map(Collector::start).transpose()?;
        let url = collector.as_ref().map_or_else(nobody, |collector| Ok(collector.url()))?;
        let connection = Connection::open(&pair.left, &pair.right, Family::V4)?;
        let mut netdiag = sending(&pair, &url)?;
        exchange([(&connection, ROUND)])?;
        netdiag.wait_lines(5)?;
        netdiag.wait_said(FAILS)?;
        netdiag.wait_lines(5)?;
        netdiag.signal(Signal::INT)?;
        netdiag.wait_printed("netdiag.total/1")?;
        // Whoever does not want to wait for it asks again.
        let _gone = netdiag.signal(Signal::INT);
        let outcome = netdiag.wait()?;
        facts.note(format!("{what}: {:?}", outcome.stderr));
        let said: Vec<_> = outcome.stderr.iter().filter(|line| line.contains(FAILS)).collect();
        facts.equal(format!("{what}: lines that say so"), said.len(), 1);
        for part in [why, url.as_str(), "tracing goes on"] {
            let has = said.first().is_some_and(|line| line.contains(part));
            facts.holds(format!("{what}: it says {part:?}"), has);
        }
        let lacks = outcome.stderr.iter().filter(|line| line.contains(" intervals, ")).count();
        facts.equal(format!("{what}: lines that say what it lacks"), lacks, 1);
        facts.equal(format!("{what}: status"), outcome.code(), Some(0));
        let total = outcome.total()?;
        let flow = flow_of(total, &connection.client_end()?)?;
        facts.equal(format!("{what}: sends"), metric(flow, "send").count, ROUND.sends as u64);
        facts.lossless(total);
        facts.at_rest(total);
    }
    facts.finish();
    Ok(())
}

#[test]
fn a_collector_that_comes_back_lacks_nothing() -> Result<()> {
    require!(Feature::Otlp);
    let _alone = alone();
    let pair = Pair::new()?;
    let mut collector = Collector::start("busy")?;
    let mut netdiag = sending(&pair, &collector.url())?;
    let connection = Connection::open(&pair.left, &pair.right, Family::V4)?;
    exchange([(&connection, ROUND)])?;
    netdiag.wait_said(FAILS)?;
    collector.answer("partial")?;
    netdiag.wait_said("metrics reach the collector")?;
    netdiag
        .wait_said("rejects 3 data points of an interval and says `too\u{fffd}[2J\u{fffd}many`")?;
    netdiag.wait_lines(3)?;
    let outcome = netdiag.stop()?;
    let requests = collector.end()?;
    let mut facts = Facts::new();
    facts.note(format!("{:?}", outcome.stderr));
    for words in
        [FAILS, "metrics reach the collector", "rejects", "which are in the sums of the last one"]
    {
        let n = outcome.stderr.iter().filter(|line| line.contains(words)).count();
        facts.equal(format!("lines with {words:?}"), n, 1);
    }
    let last = requests.last().context("no request")?;
    sound(&mut facts, last);
    let port = connection.client_end()?.peer.port();
    let of_client = [("netdiag.role", json!("client")), ("server.port", json!(port))];
    facts.equal("sends", last.sum("netdiag.sends", &of_client), ROUND.sends as f64);
    let manner = |request: &Request| request.0["manner"].clone();
    facts.equal("the last was taken", manner(last), json!("partial"));
    facts.equal("status", outcome.code(), Some(0));
    facts.at_rest(outcome.total()?);
    facts.finish();
    Ok(())
}
