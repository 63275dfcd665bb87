//! What netdiag's userspace takes for samples that no hook made: the real rings, at any rate and of any number of flows.
//!
//! Prints one JSON object. NETDIAG_BIN says which netdiag, as for the tests.

use std::{
    env, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use netdiag_tests::{
    feeder::{Feed, Feeder, What},
    netdiag::Netdiag,
    usage,
};
use serde_json::{Value, json};

const USAGE: &str = "usage: consumer_load idle SECONDS
       consumer_load rate SAMPLES_PER_SECOND SECONDS [FLOWS]
       consumer_load flows FLOWS SAMPLES_OF_EACH text|json
       consumer_load short FLOWS text|json";

/// Flows of a busy node.
const FLOWS: u64 = 1_000;
/// Flows that come and go together.
const AT_ONCE: u64 = 1_000;

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u64>().with_context(|| format!("{text}; {USAGE}"));
    let told = match arguments[..] {
        ["idle", seconds] => idle(number(seconds)?)?,
        ["rate", rate, seconds] => at_rate(number(rate)?, number(seconds)?, FLOWS)?,
        ["rate", rate, seconds, flows] => at_rate(number(rate)?, number(seconds)?, number(flows)?)?,
        ["flows", flows, samples, form] => many(number(flows)?, number(samples)?, form)?,
        ["short", flows, form] => short(number(flows)?, form)?,
        _ => bail!(USAGE),
    };
    println!("{told}");
    Ok(())
}

fn start(form: &str, more: &[&str]) -> Result<(Netdiag, Feeder)> {
    let mut arguments = vec!["live", "-i", "1s", "-o", form, "--signals", "send,rtt,turn"];
    arguments.extend(more);
    let mut netdiag = Netdiag::start(&arguments)?;
    netdiag.wait_lines(1)?;
    let feeder = Feeder::of(netdiag.pid())?;
    Ok((netdiag, feeder))
}

fn idle(seconds: u64) -> Result<Value> {
    let mut netdiag = Netdiag::start(&["live", "-i", "1s", "-o", "json"])?;
    netdiag.wait_lines(3)?;
    let (before, began) = (usage::cpu_time(netdiag.pid())?, Instant::now());
    thread::sleep(Duration::from_secs(seconds));
    let spent = usage::cpu_time(netdiag.pid())?.saturating_sub(before);
    let memory = usage::memory(netdiag.pid())?;
    let percent = spent.as_secs_f64() / began.elapsed().as_secs_f64() * 100.0;
    netdiag.stop()?;
    Ok(json!({ "cpu_percent": percent, "resident_bytes": memory.resident_bytes }))
}

fn at_rate(rate: u64, seconds: u64, flows: u64) -> Result<Value> {
    let (netdiag, feeder) = start("text", &[])?;
    let pid = netdiag.pid();
    feeder.feed(What::Opened, 1, flows)?.samples(flows)?;
    let sends = feeder.feed(What::Sends, 1, flows)?;
    thread::sleep(Duration::from_secs(1));
    let (before, began) = (usage::cpu_time(pid)?, Instant::now());
    let length = Duration::from_secs(seconds);
    let (mut fed, mut found_room) = (0, 0);
    while began.elapsed() < length {
        let due = (began.elapsed().as_secs_f64() * rate as f64) as u64;
        let now = due.saturating_sub(fed) / 64 * 64;
        found_room += sends.samples(now)?;
        fed += now;
        thread::sleep(Duration::from_micros(500));
    }
    let took = began.elapsed();
    // What is left in the ring is read at the next interval.
    thread::sleep(Duration::from_millis(1_200));
    let spent = usage::cpu_time(pid)?.saturating_sub(before);
    let memory = usage::memory(pid)?;
    netdiag.stop_text()?;
    Ok(json!({
        "samples": fed,
        "per_second": fed as f64 / took.as_secs_f64(),
        "lost": fed - found_room,
        "cpu_percent": spent.as_secs_f64() / took.as_secs_f64() * 100.0,
        "ns_per_sample": spent.as_nanos() as f64 / fed as f64,
        "resident_bytes": memory.resident_bytes,
        "peak_bytes": memory.peak_bytes,
    }))
}

/// Feeds slowly enough that all of it finds room.
fn all_of(feed: &Feed, samples: u64) -> Result<u64> {
    /// Samples at a time, of which a ring holds several.
    const PART: u64 = 6_400;
    let (mut left, mut found_room) = (samples, 0);
    while left > 0 {
        let now = left.min(PART);
        found_room += feed.samples(now)?;
        left -= now;
        thread::sleep(Duration::from_millis(4));
    }
    Ok(samples - found_room)
}

fn many(flows: u64, samples: u64, form: &str) -> Result<Value> {
    let (mut netdiag, feeder) = start(form, &["--max-flows", "131072"])?;
    let pid = netdiag.pid();
    let mut lost = all_of(&feeder.feed(What::Opened, 1, flows)?, flows)?;
    for what in [What::Sends, What::RoundTrips, What::Responses] {
        lost += all_of(&feeder.feed(what, 1, flows)?, flows * samples)?;
    }
    lost += all_of(&feeder.feed(What::Reported, 1, flows)?, flows)?;
    thread::sleep(Duration::from_secs(1));
    if form == "json" {
        netdiag.wait_lines(2)?;
    }
    thread::sleep(Duration::from_secs(2));
    let memory = usage::memory(pid)?;
    let peak = peak_at_end(netdiag)?;
    Ok(json!({
        "lost": lost,
        "resident_bytes": memory.resident_bytes,
        "peak_bytes": memory.peak_bytes,
        "peak_bytes_with_total": peak,
    }))
}

fn short(flows: u64, form: &str) -> Result<Value> {
    let (netdiag, feeder) = start(form, &[])?;
    let pid = netdiag.pid();
    let (mut lost, mut resident) = (0, Vec::new());
    for first in (1..=flows).step_by(AT_ONCE as usize) {
        for (what, samples) in
            [(What::Opened, AT_ONCE), (What::Sends, 8_000), (What::Closed, AT_ONCE)]
        {
            lost += all_of(&feeder.feed(what, first, AT_ONCE)?, samples)?;
        }
        if first % 50_000 == 1 {
            resident.push(usage::memory(pid)?.resident_bytes >> 20);
        }
    }
    thread::sleep(Duration::from_secs(2));
    let memory = usage::memory(pid)?;
    let peak = peak_at_end(netdiag)?;
    Ok(json!({
        "lost": lost,
        "resident_mib": resident,
        "peak_bytes": memory.peak_bytes,
        "peak_bytes_with_total": peak,
    }))
}

/// Ends it, and looks at its memory while it does.
fn peak_at_end(netdiag: Netdiag) -> Result<u64> {
    let pid = netdiag.pid();
    let watching = thread::spawn(move || {
        let mut peak = 0;
        while let Ok(memory) = usage::memory(pid) {
            peak = peak.max(memory.peak_bytes);
            thread::sleep(Duration::from_millis(2));
        }
        peak
    });
    netdiag.stop_text()?;
    watching.join().map_err(|_| anyhow::anyhow!("looking at the memory panicked"))
}
