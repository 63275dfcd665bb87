//! Senders that wait for room in the send buffer: every call seen, each with the latency that the
//! caller's own clock says.

use std::{thread, time::Duration};

use anyhow::Result;
use netdiag::snapshot::{Distribution, Snapshot};
use netdiag_tests::{
    facts::Facts,
    machine,
    netdiag::Netdiag,
    network::Pair,
    outcome::{count, flow_of, metric},
    requirement::alone,
    source,
    traffic::{
        Connection, Family,
        blocked::{Call, Pace, fill, send_blocked},
    },
};

const SENDERS: usize = 64;
/// By each sender: on 64 sockets the least, the median and the greatest latency are one each.
const SENDS: usize = 3;
const CALLS: usize = SENDERS * SENDS;
/// More than a full connection holds, so that every call waits for the reader.
const BYTES: usize = 96 << 10;

/// The caller's latency and netdiag's agree: 1 % or 50 µs (5 % on an emulated machine, whose
/// clocks are read far apart), and the width of a histogram bucket, 1 %. It lies between `least` and
/// `most` by the callers' clocks.
fn agree(least: Duration, most: Duration, histogram_ns: u64) -> bool {
    let found = histogram_ns as f64;
    let [least, most] = [least, most].map(|time| time.as_nanos() as f64);
    let tolerance = |caller: f64| {
        let width = 0.01 * caller;
        machine::amount(0.01 * caller, 0.05 * caller).max(50_000.0) + width
    };
    least - tolerance(least) <= found && found <= most + tolerance(most)
}

/// What each call took at least, and at most, in ascending order: on an emulated machine, where 64
/// threads share two slow processors that may stand still, a caller's clock may count anything around the
/// call but its sleep.
fn bounds(calls: &[Call]) -> [Vec<Duration>; 2] {
    let of = |time: fn(&Call) -> Duration| {
        let mut sorted: Vec<_> = calls.iter().map(time).collect();
        sorted.sort_unstable();
        sorted
    };
    let least: fn(&Call) -> Duration =
        machine::amount(|call| call.took, |call| call.took.saturating_sub(call.awake));
    [of(least), of(|call| call.took)]
}

/// The value below which a share of the samples lies, as histograms define it: the smallest with
/// at least that share at or below it.
fn at_quantile(sorted: &[Duration], quantile: f64) -> Duration {
    let rank = (quantile * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

fn compare(facts: &mut Facts, what: &str, callers: &[Call], found: &Distribution) {
    facts.equal(format_args!("{what}: samples"), found.count, callers.len() as u64);
    facts.equal(format_args!("{what}: out of range"), found.out_of_range, 0);
    let points = [
        ("min", found.min_ns, 0.0),
        ("p50", found.p50_ns, 0.5),
        ("p90", found.p90_ns, 0.9),
        ("p99", found.p99_ns, 0.99),
        ("p99.9", found.p999_ns, 0.999),
        ("max", found.max_ns, 1.0),
    ];
    let bounds = bounds(callers);
    for (point, found, quantile) in points {
        let [least, most] = bounds.each_ref().map(|sorted| at_quantile(sorted, quantile));
        facts.holds(
            format_args!("{what}: {point} {found:?} ns is the caller's {least:?} to {most:?}"),
            found.is_some_and(|found| agree(least, most, found)),
        );
    }
}

/// Every call was measured; returns true. Where the kernel skipped runs of the source, every call
/// was measured or missed, but latencies may be wrong, which the incomplete total tells: then false.
fn none_lost(facts: &mut Facts, forced: &str, total: &Snapshot, measured: u64) -> bool {
    facts.at_rest(total);
    for (signal, account) in &total.accounting {
        let unmissed = account.lost() - account.missed;
        facts.equal(format_args!("{signal} lost other than by skipped runs"), unmissed, 0);
    }
    let (missed, calls) = (total.accounting["send"].missed, CALLS as u64);
    if missed == 0 || !source::may_skip(forced) {
        facts.equal(format_args!("{forced}: missed"), missed, 0);
        facts.equal(format_args!("{forced}: calls measured"), measured, calls);
    } else if forced == "send=tracepoints" {
        // A call of several turns that lost its first is there, and its skipped run counts.
        facts.holds(
            format_args!("{forced}: {measured} measured and {missed} missed of {calls} calls"),
            measured <= calls && measured + missed >= calls,
        );
    } else {
        facts.equal(format_args!("{forced}: measured or missed"), measured + missed, calls);
    }
    missed == 0
}

/// Few calls on each of 64 sockets: minimum, median and maximum are the latencies of each.
#[test]
fn on_64_sockets() -> Result<()> {
    let _alone = alone();
    for forced in source::loading("send")? {
        source::until_unskipped(|| sockets(&forced))?;
    }
    Ok(())
}

fn sockets(forced: &str) -> Result<bool> {
    let pair = Pair::new()?;
    let mut connections = Vec::new();
    for _ in 0..SENDERS {
        let connection = Connection::open(&pair.left, &pair.right, Family::V4)?;
        let filled = fill(&connection)?;
        connections.push((connection, filled));
    }
    let netdiag = Netdiag::live_by(forced, &[])?;
    let calls = thread::scope(|scope| {
        let threads: Vec<_> = connections
            .iter()
            .enumerate()
            .map(|(i, (connection, filled))| {
                let start = Duration::from_millis(700 + 20 * i as u64);
                let pace = Pace { start, step: start, step_bytes: BYTES };
                scope.spawn(move || send_blocked(connection, *filled, 1, SENDS, BYTES, pace))
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a sender panicked"))
            .collect::<Result<Vec<_>>>()
    })?;
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;
    let mut measured = 0;
    for (connection, _) in &connections {
        let flow = flow_of(total, &connection.client_end()?)?;
        measured += count(flow, "sends").unwrap_or_default();
    }
    let mut facts = Facts::new();
    let unskipped = none_lost(&mut facts, forced, total, measured);
    if unskipped {
        for ((connection, _), callers) in connections.iter().zip(calls) {
            let flow = flow_of(total, &connection.client_end()?)?;
            let what = format!("{forced}, flow {}, callers {callers:?}", flow.id);
            compare(&mut facts, &what, &callers, &metric(flow, "send"));
        }
    }
    facts.finish();
    Ok(unskipped)
}

/// Calls by 64 threads on one socket: all percentiles of the one flow.
#[test]
fn on_one_socket() -> Result<()> {
    let _alone = alone();
    for forced in source::loading("send")? {
        source::until_unskipped(|| one_socket(&forced))?;
    }
    Ok(())
}

fn one_socket(forced: &str) -> Result<bool> {
    let pair = Pair::new()?;
    let connection = Connection::open(&pair.left, &pair.right, Family::V6)?;
    let filled = fill(&connection)?;
    let netdiag = Netdiag::live_by(forced, &[])?;
    let pace = Pace {
        start: Duration::from_secs(1),
        step: Duration::from_millis(10),
        step_bytes: 32 << 10,
    };
    let callers = send_blocked(&connection, filled, SENDERS, SENDS, BYTES, pace)?;
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;
    let flow = flow_of(total, &connection.client_end()?)?;
    let measured = count(flow, "sends").unwrap_or_default();
    let mut facts = Facts::new();
    facts.equal("bytes", count(flow, "send_bytes"), Some(measured * BYTES as u64));
    let unskipped = none_lost(&mut facts, forced, total, measured);
    if unskipped {
        compare(&mut facts, forced, &callers, &metric(flow, "send"));
    }
    facts.note(format_args!("callers: {callers:?}"));
    facts.finish();
    Ok(unskipped)
}
