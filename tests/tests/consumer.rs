//! The consumer under load: what is handed to it by the million is read, folded and accounted for to the sample, in memory
//! that does not grow; it says what it takes itself, and keeps within what it may take.

use std::{process, thread, time::Duration};

use anyhow::{Context as _, Result};
use netdiag::snapshot::{Flow, Snapshot};
use netdiag_tests::{
    facts::Facts,
    feeder::{
        Feeder, SENT_BYTES, What, is_fed,
        short::{EACH, GROWTH},
    },
    machine,
    namespace::Namespace,
    netdiag::Netdiag,
    network::Pair,
    outcome::{count, sum},
    requirement::alone,
    traffic::{
        Connection, Family,
        request::{Exchange, exchange},
    },
    usage,
};

/// What is fed, and what netdiag tells of at all where it is.
const FED: &[&str] = &["--signals", "send,rtt,turn", "--ring-size", "32MiB"];

fn sends(snapshot: &Snapshot) -> u64 {
    sum(snapshot.flows.iter().chain([&snapshot.other]), "sends")
}

#[test]
fn a_steady_stream_is_read_to_the_sample() -> Result<()> {
    const FLOWS: u64 = 1_000;
    let _alone = alone();
    let mut netdiag = Netdiag::live(FED)?;
    netdiag.wait_lines(1)?;
    let feeder = Feeder::of(netdiag.pid())?;
    let samples = machine::amount(1_280_000, 128_000) as u64;
    let mut facts = Facts::new();
    facts.equal("opened", feeder.feed(What::Opened, 1, FLOWS)?.slowly(FLOWS)?, FLOWS);
    let found_room = feeder.feed(What::Sends, 1, FLOWS)?.slowly(samples)?;
    facts.equal("found room", found_room, samples);
    netdiag.wait_lines(2)?;
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;
    facts.at_rest(total);
    facts.holds("all of it arrived", sends(total) >= samples);
    let told: u64 = outcome.snapshots.iter().map(sends).sum();
    facts.equal("intervals add up to the total", told, sends(total));
    facts.holds(
        format!("own: {:?}", total.own),
        total.own.samples.is_some_and(|read| read >= samples + FLOWS),
    );
    facts.finish();
    Ok(())
}

#[test]
fn a_million_samples_a_second_are_read_to_the_sample() -> Result<()> {
    const FLOWS: u64 = 1_000;
    /// CPU time that reading may take, by that of whoever feeds: a sample is copied by the one, and looked up and added
    /// to its flow by the other.
    const MOST: f64 = 10.0;
    let _alone = alone();
    let mut arguments = vec!["--top", "20"];
    arguments.extend(FED);
    let mut netdiag = Netdiag::live(&arguments)?;
    netdiag.wait_lines(1)?;
    let pid = netdiag.pid();
    let feeder = Feeder::of(pid)?;
    let mut facts = Facts::new();
    facts.equal("opened", feeder.feed(What::Opened, 1, FLOWS)?.slowly(FLOWS)?, FLOWS);
    let (per_second, seconds) = machine::amount((1_000_000, 30), (20_000, 3));
    let feed = feeder.feed(What::Sends, 1, FLOWS)?;
    let before = [usage::cpu_time(pid)?, usage::cpu_time(process::id())?];
    let fed = feed.steadily(per_second, seconds)?;
    let after = [usage::cpu_time(pid)?, usage::cpu_time(process::id())?];
    netdiag.wait_lines(2)?;
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;
    facts.note(format!("{:.0} a second", fed.per_second()));
    facts.equal("found room", fed.found_room, fed.samples);
    facts.at_rest(total);
    let told = sum(total.flows.iter().filter(|flow| is_fed(flow)), "sends");
    facts.equal("told of the flows that were fed", told, fed.samples);
    let told: u64 = outcome.snapshots.iter().map(sends).sum();
    facts.equal("intervals add up to the total", told, sends(total));
    let send = total.accounting["send"];
    let gone = send.ring_full + send.rate_limited + send.shed;
    facts.equal(format!("lost or left out: {send:?}"), gone, 0);
    let [reading, feeding] = [0, 1].map(|of| after[of].saturating_sub(before[of]).as_secs_f64());
    let ratio = reading / feeding;
    let said = format!("{reading:.2} s of CPU time, {feeding:.2} s to feed: {ratio:.2}");
    // An emulated processor takes as long for other reasons.
    facts.holds(said, machine::emulated() || ratio <= MOST);
    facts.finish();
    Ok(())
}

#[test]
fn many_flows_take_little_memory() -> Result<()> {
    /// With send, rtt and response samples of each.
    const FLOWS: u64 = 100_000;
    const EACH: u64 = 4;
    /// Those whose records lie in one array: of 4 MiB at most before 6.0 (`array_map_alloc_check`, kernel/bpf/arraymap.c).
    const TOGETHER: u64 = 10_000;
    const MOST: u64 = 100_000_000;
    let _alone = alone();
    let mut arguments = vec!["live", "-o", "text", "-i", "1s", "--max-flows", "131072"];
    arguments.extend(FED);
    let mut netdiag = Netdiag::start(&arguments)?;
    netdiag.wait_lines(1)?;
    let feeder = Feeder::of(netdiag.pid())?;
    let mut facts = Facts::new();
    let each = [What::Sends, What::RoundTrips, What::Responses].map(|what| (what, EACH));
    for (what, each) in [(What::Opened, 1)].into_iter().chain(each) {
        for first in (1..=FLOWS).step_by(TOGETHER as usize) {
            let samples = TOGETHER * each;
            let found_room = feeder.feed(what, first, TOGETHER)?.slowly(samples)?;
            facts.equal(format!("{what:?} from {first} on"), found_room, samples);
        }
    }
    thread::sleep(Duration::from_secs(2));
    let memory = usage::memory(netdiag.pid())?;
    netdiag.stop_text()?;
    facts.holds(format!("{memory:?}, at most {MOST}"), memory.resident_bytes < MOST);
    facts.finish();
    Ok(())
}

#[test]
fn short_flows_come_and_go_in_bounded_memory_and_none_is_forgotten() -> Result<()> {
    let _alone = alone();
    // Nobody else is in it: what is summed up in `other` was fed as well.
    let here = Namespace::new("fed")?;
    let mut arguments = vec!["--max-flows", "8192", "--top", "20", "--netns", here.name()];
    arguments.extend(FED);
    let mut netdiag = Netdiag::live(&arguments)?;
    netdiag.wait_lines(1)?;
    let feeder = Feeder::of(netdiag.pid())?.in_netns(here.inode());
    // A tenth of them are more than are remembered at all.
    let flows = machine::amount(1_000_000_u64, 100_000);
    let fed = feeder.come_and_go(flows, netdiag.pid())?;
    netdiag.wait_lines(2)?;
    let memory = usage::memory(netdiag.pid())?;
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;
    let mut facts = Facts::new();
    facts.equal("samples without room", fed.lost, 0);
    facts.equal("flows that were fed", fed.flows, flows);
    facts.at_rest(total);
    let growth = fed.growth(memory)?;
    facts.holds(format!("{memory:?}, {growth:.2} of that after a tenth"), growth <= GROWTH);
    facts.equal("sends", sends(total), flows * EACH);
    let sent_bytes = sum(total.flows.iter().chain([&total.other]), "send_bytes");
    facts.equal("bytes that they sent", sent_bytes, flows * EACH * SENT_BYTES);
    let folded = total.folded.context("it is not told how many are summed up")?;
    facts.equal("flows", total.flows.len() as u64 + folded, flows);
    let is_whole = |flow: &&Flow| count(flow, "sends") == Some(EACH);
    let whole = total.flows.iter().filter(is_whole).count();
    facts.equal("those that are listed, with all their sends", whole, total.flows.len());
    let told: u64 = outcome.snapshots.iter().map(sends).sum();
    facts.equal("intervals add up to the total", told, sends(total));
    facts.finish();
    Ok(())
}

/// Whether programs of a signal were measured while they ran.
fn measures(snapshot: &Snapshot, signal: &str) -> bool {
    snapshot.own.programs.iter().any(|program| program.signal == signal && program.run_ns > 0)
}

#[test]
fn what_it_takes_itself_is_in_every_snapshot() -> Result<()> {
    let pair = Pair::new()?;
    let mut netdiag = Netdiag::live(&["--netns", pair.left.name()])?;
    let connection = Connection::open(&pair.left, &pair.right, Family::V4)?;
    // Until a window in which programs are measured falls into it.
    let is_measured = machine::wait_until(|| {
        let some = Exchange { sends: 1_000, bytes: 1, echo: true };
        exchange([(&connection, some)]).is_ok()
            && netdiag.outcome(None).is_ok_and(|outcome| {
                outcome.snapshots.last().is_some_and(|last| measures(last, "send"))
            })
    });
    netdiag.wait_lines(2)?;
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;
    let mut facts = Facts::new();
    for (nth, snapshot) in outcome.snapshots.iter().chain([total]).enumerate() {
        let own = &snapshot.own;
        let is_known = own.cpu_ns > Some(0)
            && own.cpu_ratio > Some(0.0)
            && own.resident_bytes > Some(1 << 20)
            && own.shed.is_empty()
            && own.max_cpu_ratio.is_none();
        facts.holds(format!("{nth}: {own:?}"), is_known);
    }
    let each = outcome.snapshots.iter().map(|snapshot| snapshot.own.cpu_ns);
    facts.equal("intervals add up to the total", each.sum(), total.own.cpu_ns);
    facts.holds(format!("programs: {:?}", total.own.programs), is_measured);
    facts.holds("in the total, too", measures(total, "send"));
    facts.holds("of one core", total.own.programs_cpu_ratio.is_some_and(|ratio| ratio < 4.0));
    facts.finish();
    Ok(())
}

#[test]
fn beyond_its_limit_it_sheds_in_the_kernel_and_every_call_is_accounted_for() -> Result<()> {
    const SENDS: usize = 2_000;
    let _alone = alone();
    let pair = Pair::new()?;
    let [left, right] = [pair.left.name(), pair.right.name()];
    let filter = format!("{left},{right}");
    // Less than it takes for nothing.
    let mut netdiag = Netdiag::live(&["--max-cpu", "0.1", "--netns", &filter])?;
    let connection = Connection::open(&pair.left, &pair.right, Family::V4)?;
    let some = Exchange { sends: 100, bytes: 1, echo: true };
    exchange([(&connection, some)])?;
    netdiag.wait_said("with all left out that may be")?;
    netdiag.wait_outcome("a snapshot that says so", |outcome| {
        outcome.snapshots.last().is_some_and(|last| last.own.shed.len() >= 3)
    })?;
    exchange([(&connection, Exchange { sends: SENDS, bytes: 1, echo: true })])?;
    let end = connection.client_end()?;
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;
    let mut facts = Facts::new();
    facts.note(format!("{:?}", outcome.stderr));
    for snapshot in &outcome.snapshots {
        facts.consistent(snapshot);
    }
    facts.at_rest(total);
    for signal in ["rtt", "turn", "send"] {
        let account = total.accounting[signal];
        facts.holds(format!("{signal}: {account:?}"), account.shed > 0);
    }
    let send = total.accounting["send"];
    // Both ends send.
    facts.holds(format!("{send:?}"), send.shed >= 2 * SENDS as u64);
    // Those of other namespaces are seen and filtered.
    facts.equal(
        "every call stands in one counter",
        send.seen - send.filtered + send.missed,
        2 * (SENDS + some.sends) as u64,
    );
    facts.equal("the limit", total.own.max_cpu_ratio, Some(0.001));
    let flow = total.flows.iter().find(|flow| flow.local.port == Some(end.local.port()));
    let flow = flow.context("the flow is not told of")?;
    facts.holds("what is rare is told", count(flow, "bytes_sent").is_some());
    facts.finish();
    Ok(())
}

#[test]
fn what_was_shed_is_traced_again_when_there_is_room() -> Result<()> {
    const FLOWS: u64 = 1_000;
    let _alone = alone();
    // On an emulated processor netdiag may take a fifth of it with nothing to read, and there would never be room.
    let mut arguments = vec!["--max-cpu", machine::amount("20", "50")];
    arguments.extend(FED);
    let mut netdiag = Netdiag::live(&arguments)?;
    netdiag.wait_lines(2)?;
    let feeder = Feeder::of(netdiag.pid())?;
    feeder.feed(What::Opened, 1, FLOWS)?.slowly(FLOWS)?;
    // As many as can be, so that it takes more than that wherever it runs.
    let fed = feeder.feed(What::RoundTrips, 1, FLOWS)?;
    let shed = |outcome: &netdiag_tests::outcome::Outcome| {
        outcome.snapshots.iter().any(|snapshot| !snapshot.own.shed.is_empty())
    };
    let is_shed = machine::wait_until(|| {
        let _ring_full = fed.samples(64 * 4_096);
        netdiag.outcome(None).is_ok_and(|outcome| shed(&outcome))
    });
    netdiag.wait_outcome("nothing that is shed any more", |outcome| {
        shed(outcome) && outcome.snapshots.last().is_some_and(|last| last.own.shed.is_empty())
    })?;
    let outcome = netdiag.stop()?;
    let mut facts = Facts::new();
    facts.note(format!("{:?}", outcome.stderr));
    facts.holds("it shed", is_shed);
    for words in ["left out and counted as shed", "count again"] {
        facts.holds(words, outcome.stderr.iter().any(|line| line.contains(words)));
    }
    facts.at_rest(outcome.total()?);
    facts.finish();
    Ok(())
}
