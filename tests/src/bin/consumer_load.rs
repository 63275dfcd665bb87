//! What netdiag's userspace takes for samples that no hook made: the real rings, at any rate and of any number of flows.
//!
//! Prints one JSON object. Ends with status 1 and a line that says why when netdiag's last line does not have all that
//! was fed, or a goal is missed. NETDIAG_BIN says which netdiag, as for the tests.

use std::{
    env, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use netdiag::snapshot::{Account, Snapshot};
use netdiag_tests::{
    feeder::{Fed, Feeder, SENT_BYTES, What, is_fed, short::GROWTH},
    namespace::Namespace,
    netdiag::Netdiag,
    outcome::{Outcome, sum},
    usage,
};
use serde_json::{Value, json};

const USAGE: &str = "usage: consumer_load idle SECONDS
       consumer_load rate SAMPLES_PER_SECOND SECONDS [FLOWS]
       consumer_load flows FLOWS SAMPLES_OF_EACH text|json
       consumer_load short FLOWS";

/// Flows of a busy node.
const FLOWS: u64 = 1_000;

/// What must hold where so many samples a second are fed for so long: none is lost, and reading them takes no more of a
/// core than that.
struct Goal {
    per_second: u64,
    seconds: u64,
    cpu_percent: Option<f64>,
}

const GOALS: [Goal; 2] = [
    Goal { per_second: 1_000_000, seconds: 30, cpu_percent: Some(5.0) },
    Goal { per_second: 10_000_000, seconds: 1, cpu_percent: None },
];
/// The ring that they are for.
const RING: &str = "8MiB";
/// The part of the rate that must be reached, or it is not what was measured.
const REACHED: f64 = 0.95;

/// What was measured, and what of it is not as it must be.
type Judged = (Value, Vec<String>);

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u64>().with_context(|| format!("{text}; {USAGE}"));
    let (told, wrong) = match arguments[..] {
        ["idle", seconds] => (idle(number(seconds)?)?, Vec::new()),
        ["rate", rate, seconds] => at_rate(number(rate)?, number(seconds)?, FLOWS)?,
        ["rate", rate, seconds, flows] => at_rate(number(rate)?, number(seconds)?, number(flows)?)?,
        ["flows", flows, samples, form] => {
            (many(number(flows)?, number(samples)?, form)?, Vec::new())
        }
        ["short", flows] => short(number(flows)?)?,
        _ => bail!(USAGE),
    };
    println!("{told}");
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(())
}

fn start(more: &[&str]) -> Result<(Netdiag, Feeder)> {
    let mut arguments = vec!["live", "-i", "1s", "--signals", "send,rtt,turn"];
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

fn at_rate(rate: u64, seconds: u64, flows: u64) -> Result<Judged> {
    // As many rows as a table has; of the run all flows are told.
    let (netdiag, feeder) = start(&["-o", "json", "--top", "20", "--ring-size", RING])?;
    let pid = netdiag.pid();
    feeder.feed(What::Opened, 1, flows)?.slowly(flows)?;
    let sends = feeder.feed(What::Sends, 1, flows)?;
    thread::sleep(Duration::from_secs(1));
    let before = usage::cpu_time(pid)?;
    let fed = sends.steadily(rate, seconds)?;
    // What is left in the ring is read at the next interval.
    thread::sleep(Duration::from_millis(1_200));
    let spent = usage::cpu_time(pid)?.saturating_sub(before);
    let memory = usage::memory(pid)?;
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;
    let told = sum(total.flows.iter().filter(|flow| is_fed(flow)), "sends");
    let cpu_percent = spent.as_secs_f64() / fed.took.as_secs_f64() * 100.0;
    let mut wrong = unaccounted(total, told, fed.found_room);
    if let Some(goal) = GOALS.iter().find(|goal| (goal.per_second, goal.seconds) == (rate, seconds))
    {
        wrong.extend(goal.missed(&outcome, total, &fed, cpu_percent));
    }
    let figures = json!({
        "samples": fed.samples,
        "per_second": fed.per_second(),
        "lost": fed.samples - fed.found_room,
        "told": told,
        "cpu_percent": cpu_percent,
        "ns_per_sample": spent.as_nanos() as f64 / fed.samples as f64,
        "resident_bytes": memory.resident_bytes,
        "peak_bytes": memory.peak_bytes,
    });
    Ok((figures, wrong))
}

impl Goal {
    /// By what it is missed.
    fn missed(
        &self,
        outcome: &Outcome,
        total: &Snapshot,
        fed: &Fed,
        cpu_percent: f64,
    ) -> Vec<String> {
        let mut missed = Vec::new();
        let least = REACHED * self.per_second as f64;
        if fed.per_second() < least {
            missed.push(format!(
                "{:.0} samples a second were fed, of at least {least:.0}",
                fed.per_second()
            ));
        }
        let send = total.accounting.get("send").copied().unwrap_or_default();
        let gone = send.lost() + send.rate_limited + send.shed;
        if gone > 0 {
            missed.push(format!("{gone} samples are lost or left out, of at most 0: {send:?}"));
        }
        let shed = outcome.snapshots.iter().find(|snapshot| !snapshot.own.shed.is_empty());
        if let Some(Snapshot { own, .. }) = shed {
            missed.push(format!("{} left out, of at most none", own.shed.join(", ")));
        }
        if let Some(most) = self.cpu_percent.filter(|&most| cpu_percent > most) {
            missed.push(format!("{cpu_percent:.2} % of a core, of at most {most}"));
        }
        missed
    }
}

/// What of the last line does not add up, where so many sends found room and `told` of them are in its flows.
fn unaccounted(total: &Snapshot, told: u64, found_room: u64) -> Vec<String> {
    let mut wrong = Vec::new();
    for (signal, account) in &total.accounting {
        if !account.balances() || account.pending > 0 {
            wrong.push(format!("the account of {signal} does not balance: {account:?}"));
        }
    }
    let submitted: u64 = total.accounting.values().map(|account: &Account| account.submitted).sum();
    let stream = total.stream;
    if [stream.received, stream.decoded] != [submitted; 2] {
        wrong.push(format!("of {submitted} samples that were submitted: {stream:?}"));
    }
    if told != found_room {
        wrong.push(format!("{told} sends are told, of {found_room} that found room"));
    }
    wrong
}

fn many(flows: u64, samples: u64, form: &str) -> Result<Value> {
    let (mut netdiag, feeder) = start(&["-o", form, "--max-flows", "131072"])?;
    let pid = netdiag.pid();
    let mut lost = flows - feeder.feed(What::Opened, 1, flows)?.slowly(flows)?;
    for what in [What::Sends, What::RoundTrips, What::Responses] {
        let samples = flows * samples;
        lost += samples - feeder.feed(what, 1, flows)?.slowly(samples)?;
    }
    lost += flows - feeder.feed(What::Reported, 1, flows)?.slowly(flows)?;
    thread::sleep(Duration::from_secs(1));
    if form == "json" {
        netdiag.wait_lines(2)?;
    }
    thread::sleep(Duration::from_secs(2));
    let memory = usage::memory(pid)?;
    let (peak, ..) = end(netdiag)?;
    Ok(json!({
        "lost": lost,
        "resident_bytes": memory.resident_bytes,
        "peak_bytes": memory.peak_bytes,
        "peak_bytes_with_total": peak,
    }))
}

fn short(flows: u64) -> Result<Judged> {
    // Nobody else is in it: what is summed up in `other` was fed as well.
    let here = Namespace::new("short")?;
    let options = ["-o", "json", "--top", "20", "--ring-size", "32MiB", "--netns", here.name()];
    let (netdiag, feeder) = start(&options)?;
    let (pid, feeder) = (netdiag.pid(), feeder.in_netns(here.inode()));
    let fed = feeder.come_and_go(flows, pid)?;
    thread::sleep(Duration::from_secs(2));
    let memory = usage::memory(pid)?;
    let (peak, out, err) = end(netdiag)?;
    let outcome = Outcome::parse(None, &out, &err)?;
    let total = outcome.total()?;
    let all = || total.flows.iter().chain([&total.other]);
    let mut wrong = unaccounted(total, sum(all(), "sends"), fed.sends);
    let told_bytes = sum(all(), "send_bytes");
    if told_bytes != fed.sends * SENT_BYTES {
        wrong.push(format!("{told_bytes} bytes are told, of {}", fed.sends * SENT_BYTES));
    }
    let told_flows = total.flows.len() as u64 + total.folded.unwrap_or_default();
    if fed.lost > 0 {
        wrong.push(format!("{} samples found no room, of at most 0", fed.lost));
    } else if told_flows != fed.flows {
        wrong.push(format!("{told_flows} flows are told, of {}", fed.flows));
    }
    let growth = fed.growth(memory)?;
    let resident = fed.memory.iter().step_by(50).map(|memory| memory.resident_bytes >> 20);
    if growth > GROWTH {
        wrong.push(format!("memory is {growth:.2} of that after a tenth, of at most {GROWTH}"));
    }
    let figures = json!({
        "flows": told_flows,
        "lost": fed.lost,
        "resident_mib": resident.collect::<Vec<_>>(),
        "growth": growth,
        "peak_bytes": memory.peak_bytes,
        "peak_bytes_with_total": peak,
    });
    Ok((figures, wrong))
}

/// Ends it, and looks at its memory while it does: the most that it ever was, and the lines that it printed, those on
/// standard error last.
fn end(netdiag: Netdiag) -> Result<(u64, Vec<String>, Vec<String>)> {
    let pid = netdiag.pid();
    let watching = thread::spawn(move || {
        let mut peak = 0;
        while let Ok(memory) = usage::memory(pid) {
            peak = peak.max(memory.peak_bytes);
            thread::sleep(Duration::from_millis(2));
        }
        peak
    });
    let (_, out, err) = netdiag.stop_text()?;
    let peak = watching.join().map_err(|_| anyhow::anyhow!("looking at the memory panicked"))?;
    Ok((peak, out, err))
}
