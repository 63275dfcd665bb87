//! Round trips: each sample that the kernel takes, once, and the path beside them.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use netdiag_tests::{
    attempt::{Watched, skipped, until_whole},
    facts::Facts,
    machine,
    namespace::Namespace,
    netdiag::Netdiag,
    network::Pair,
    outcome::{count, flow_of, flows_of, metric, status},
    require,
    requirement::{Feature, alone},
    source, ss, tool,
    traffic::{
        Connection, End, FAMILIES, Family, read_bytes,
        request::{Exchange, exchange},
        send_once,
    },
};

/// What `ss` says of a socket, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Said {
    rtt: u64,
    rtt_min: u64,
}

/// Waits until everything that it sent is acknowledged, and asks.
fn acknowledged(namespace: &Namespace, end: &End) -> Result<Said> {
    let mut said = None;
    let quiet = machine::wait_until(|| {
        said = ss::said_of(namespace, end).ok();
        said.as_ref().is_some_and(|said| said.contains_key("rtt") && !said.contains_key("unacked"))
    });
    ensure!(quiet, "{end:?} is never acknowledged: {said:?}");
    let said = said.context("nothing was said")?;
    let microseconds =
        |name: &str| Ok::<_, anyhow::Error>(said.get(name).context(name.to_owned())? / 1_000);
    Ok(Said { rtt: microseconds("rtt")?, rtt_min: microseconds("minrtt")? })
}

/// Both ends of connections, each with what `ss` says of it.
fn ends(pair: &Pair, connections: &[Connection]) -> Result<Vec<(End, Said)>> {
    let mut ends = Vec::new();
    for connection in connections {
        for (namespace, end) in
            [(&pair.left, connection.client_end()?), (&pair.right, connection.server_end()?)]
        {
            ends.push((end, acknowledged(namespace, &end)?));
        }
    }
    Ok(ends)
}

/// Each segment that is acknowledged is a sample: the handshake's and one for each request and each
/// answer. What is not told of a busy flow is counted, and the last sample's state is what `ss` says.
#[test]
fn every_sample_is_seen_once() -> Result<()> {
    let _alone = alone();
    let (older, sends) = (50, machine::amount(3_000, 300));
    for forced in source::loading("rtt")? {
        until_whole(|| {
            let pair = Pair::new()?;
            let watched = Watched::new([&pair.left, &pair.right])?;
            let older = Exchange { sends: older, bytes: 10, echo: true };
            let mut connections = vec![Connection::open(&pair.left, &pair.right, Family::V4)?];
            exchange(connections.iter().map(|connection| (connection, older)))?;
            // Nothing of theirs is on its way any more.
            ends(&pair, &connections)?;
            let spaces = format!("{},{}", pair.left.name(), pair.right.name());
            let netdiag = Netdiag::live_by(&forced, &["--netns", &spaces])?;
            for family in FAMILIES {
                connections.push(Connection::open(&pair.left, &pair.right, family)?);
            }
            let plan = Exchange { sends, bytes: 10, echo: true };
            exchange(connections.iter().map(|connection| (connection, plan)))?;
            let ends = ends(&pair, &connections)?;
            connections.into_iter().try_for_each(Connection::reset)?;
            let outcome = netdiag.stop()?;
            let total = outcome.total()?;
            let account = total.accounting["rtt"];
            let mut facts = Facts::new();
            facts.note(format_args!("{:?}", status(total, "rtt")?));
            // The handshake of the first two ends was before.
            let samples = (ends.len() * sends + ends.len() - 2) as u64;
            let mut told = 0;
            for (end, said) in &ends {
                let flow = flow_of(total, end)?;
                facts.note(format_args!("{flow:?}"));
                let rtt = metric(flow, "rtt");
                told += rtt.count + rtt.out_of_range;
                let srtt = flow.srtt_ns.map(|ns| ns / 1_000);
                facts.equal(format_args!("{forced}: {end:?}: srtt"), srtt, Some(said.rtt));
                let rtt_min = flow.rtt_min_ns.map(|ns| ns / 1_000);
                facts.equal(format_args!("{end:?}: rtt_min"), rtt_min, Some(said.rtt_min));
                let least = said.rtt_min as f64 * 990.0;
                let found = rtt.min_ns.unwrap_or_default() as f64;
                facts.holds(format_args!("{found} ns, not below {least} ns"), found >= least);
                let delayed = count(flow, "rtt_delayed");
                // Each request is small and alone, as the kernel's rule has it.
                let most = delayed.unwrap_or_default() * 10 >= rtt.count * 9;
                facts.holds(format_args!("{delayed:?} of {}", rtt.count), most);
            }
            facts.equal("samples told", told, account.submitted);
            facts.at_rest(total);
            if let Some(spoilt) = watched.sent_again()?.or(skipped(total, &["rtt"])) {
                facts.finish();
                return Ok(Some(spoilt));
            }
            facts.equal("samples", account.submitted + account.rate_limited, samples);
            facts.equal("several at once", account.unmatched, 0);
            facts.holds(
                format_args!("{} more of a busy flow are not told", account.rate_limited),
                machine::emulated() || account.rate_limited > 0,
            );
            facts.finish();
            Ok(None)
        })?;
    }
    Ok(())
}

/// What one source computes from the estimator is what another one is told by the kernel.
#[test]
fn all_sources_see_the_same() -> Result<()> {
    let _alone = alone();
    let sources = source::loading("rtt")?;
    source::until_unskipped(|| {
        let pair = Pair::new()?;
        let spaces = format!("{},{}", pair.left.name(), pair.right.name());
        let tracers: Vec<_> = sources
            .iter()
            .map(|forced| Netdiag::live_by(forced, &["--netns", &spaces]))
            .collect::<Result<_>>()?;
        let connections: Vec<_> = FAMILIES
            .into_iter()
            .map(|family| Connection::open(&pair.left, &pair.right, family))
            .collect::<Result<_>>()?;
        for size in (0..machine::amount(300, 100)).map(|i| 1 + i * 37 % 4_000) {
            for connection in &connections {
                request(connection, size, Duration::ZERO)?;
            }
            // So few that all are told.
            thread::sleep(Duration::from_millis(2));
        }
        let ends: Vec<_> = ends(&pair, &connections)?.into_iter().map(|(end, _)| end).collect();
        connections.into_iter().try_for_each(Connection::reset)?;
        let outcomes: Vec<_> = tracers.into_iter().map(Netdiag::stop).collect::<Result<_>>()?;
        let mut facts = Facts::new();
        let mut missed = 0;
        let first = outcomes[0].total()?;
        for (forced, outcome) in sources.iter().zip(&outcomes) {
            let total = outcome.total()?;
            let account = total.accounting["rtt"];
            missed += account.missed;
            facts.equal(format_args!("{forced}: left out"), account.rate_limited, 0);
            facts.at_rest(total);
            for end in &ends {
                let flow = flow_of(total, end)?;
                let found = metric(flow, "rtt");
                // Requests of several segments and of less than one.
                let delayed = count(flow, "rtt_delayed").unwrap_or_default();
                let some = 0 < delayed && delayed < found.count;
                facts.holds(format_args!("{forced}: {delayed} delayed"), some);
                let expected = metric(flow_of(first, end)?, "rtt");
                facts.note(format_args!("{forced}: {end:?}: {found:?}"));
                if missed == 0 {
                    facts.holds("there are many", found.count > 100);
                    facts.equal(format_args!("{forced} and {}", sources[0]), found, expected);
                }
            }
        }
        facts.finish();
        Ok(missed == 0)
    })
}

/// One request and its answer, for which the server takes that long.
fn request(connection: &Connection, bytes: usize, think: Duration) -> Result<()> {
    let message = vec![b'x'; bytes];
    send_once(&connection.client, &message)?;
    read_bytes(&connection.server, bytes)?;
    thread::sleep(think);
    send_once(&connection.server, &message)?;
    read_bytes(&connection.client, bytes)
}

/// A slow server raises what an ACK that waits for its answer takes, not the path's share.
#[test]
fn a_slow_server_is_not_a_slow_path() -> Result<()> {
    let _alone = alone();
    let think = Duration::from_millis(machine::amount(30, 200));
    for forced in source::loading("rtt")? {
        let pair = Pair::new()?;
        let netdiag = Netdiag::live_by(&forced, &["--netns", pair.left.name()])?;
        let connection = Connection::open(&pair.left, &pair.right, Family::V4)?;
        for _ in 0..machine::amount(30, 10) {
            request(&connection, 100, think)?;
        }
        let connections = [connection];
        let ends = ends(&pair, &connections)?;
        let (end, said) = ends[0];
        let outcome = netdiag.stop()?;
        let flow = flow_of(outcome.total()?, &end)?;
        let mut facts = Facts::new();
        facts.note(format_args!("{forced}: {said:?} {flow:?}"));
        let rtt_min = flow.rtt_min_ns.map(Duration::from_nanos);
        let path = rtt_min.is_some_and(|path| path < think / 2);
        facts.holds(format_args!("{rtt_min:?} is the path, not {think:?}"), path);
        facts.equal("as ss has it", rtt_min, Some(Duration::from_micros(said.rtt_min)));
        if !machine::emulated() {
            // The kernel delays ACKs by 40 ms and more, once it knows the server.
            let waits = metric(flow, "rtt").max_ns.map(Duration::from_nanos);
            facts.holds(format_args!("{waits:?} holds the wait"), waits > Some(think / 2));
        }
        facts.finish();
    }
    Ok(())
}

/// A link of known delay, in one direction.
#[test]
fn a_slow_path_is_as_slow_as_its_link() -> Result<()> {
    require!(Feature::Netem);
    let _alone = alone();
    for (at, forced) in source::loading("rtt")?.into_iter().enumerate() {
        let delay = Duration::from_millis(40 << at);
        let pair = Pair::new()?;
        let set = format!("qdisc add dev wire root netem delay {}ms", delay.as_millis());
        tool::line(&format!("tc -n {} {set}", pair.left.name()))?;
        let netdiag = Netdiag::live(&[
            "--signals",
            "rtt,socket",
            "--source",
            &forced,
            "--netns",
            pair.left.name(),
        ])?;
        let connections = [Connection::open(&pair.left, &pair.right, Family::V4)?];
        let bound = Duration::from_millis(machine::amount(1, 20)).max(delay.mul_f64(0.05));
        // By the kernel's own word: on a machine that stands still now and then each may take longer.
        let is_told = || -> Result<bool> {
            for _ in 0..machine::amount(20, 8) {
                request(&connections[0], 100, Duration::ZERO)?;
            }
            let (_, said) = ends(&pair, &connections)?[0];
            Ok(Duration::from_micros(said.rtt_min) <= delay + bound)
        };
        for _ in 0..10 {
            if is_told()? {
                break;
            }
        }
        let (end, said) = ends(&pair, &connections)?[0];
        let outcome = netdiag.stop()?;
        let flow = flow_of(outcome.total()?, &end)?;
        let mut facts = Facts::new();
        facts.note(format_args!("{forced}: {said:?} {flow:?}"));
        let rtt_min = flow.rtt_min_ns.map(Duration::from_nanos).unwrap_or_default();
        facts.holds(format_args!("{rtt_min:?} is not below {delay:?}"), rtt_min >= delay);
        facts.holds(format_args!("nor above by {bound:?}"), rtt_min <= delay + bound);
        facts.equal("as ss has it", rtt_min, Duration::from_micros(said.rtt_min));
        let least = metric(flow, "rtt").min_ns.map(Duration::from_nanos).unwrap_or_default();
        facts.holds(format_args!("{least:?} is the least"), least >= delay.mul_f64(0.99));
        let connect = metric(flow, "connect").min_ns.map(Duration::from_nanos);
        facts.holds(format_args!("{connect:?} to connect"), connect >= Some(delay.mul_f64(0.99)));
        facts.finish();
    }
    Ok(())
}

#[test]
fn filters_narrow_samples() -> Result<()> {
    let _alone = alone();
    for forced in source::loading("rtt")? {
        let pair = Pair::new()?;
        let wanted = Connection::open(&pair.left, &pair.right, Family::V4)?;
        let other = Connection::open(&pair.left, &pair.right, Family::V4)?;
        let port = wanted.client_end()?.local.port().to_string();
        let netdiag = Netdiag::live_by(&forced, &["--port", &port])?;
        for connection in [&wanted, &other] {
            for _ in 0..20 {
                request(connection, 100, Duration::from_millis(1))?;
            }
        }
        let (end, unwanted) = (wanted.client_end()?, other.client_end()?);
        let outcome = netdiag.stop()?;
        let total = outcome.total()?;
        let mut facts = Facts::new();
        let samples = metric(flow_of(total, &end)?, "rtt").count;
        facts.holds(format_args!("{forced}: {samples} samples"), samples >= 19);
        facts.equal("flows of the other", flows_of(total, &unwanted).len(), 0);
        facts.equal("samples of others", total.other.metrics.get("rtt"), None);
        let account = total.accounting["rtt"];
        if forced == "rtt=fexit" {
            facts.holds(format_args!("{account:?}"), account.filtered >= 20);
        }
        facts.at_rest(total);
        facts.finish();
    }
    Ok(())
}

/// Without the signal there are no samples, and the path is still known from the socket's reports.
#[test]
fn the_path_is_known_without_samples() -> Result<()> {
    let _alone = alone();
    let pair = Pair::new()?;
    let older = [Connection::open(&pair.left, &pair.right, Family::V4)?];
    request(&older[0], 100, Duration::ZERO)?;
    let (idle, idle_said) = ends(&pair, &older)?[0];
    let netdiag = Netdiag::live(&["--signals", "send"])?;
    let younger = [Connection::open(&pair.left, &pair.right, Family::V4)?];
    for _ in 0..5 {
        request(&younger[0], 100, Duration::ZERO)?;
    }
    let (end, said) = ends(&pair, &younger)?[0];
    younger.into_iter().try_for_each(Connection::reset)?;
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;
    let mut facts = Facts::new();
    for (end, said) in [(end, said), (idle, idle_said)] {
        let flow = flow_of(total, &end)?;
        facts.note(format_args!("{said:?} {flow:?}"));
        facts.equal("samples", flow.metrics.get("rtt"), None);
        facts.equal("delayed ones", count(flow, "rtt_delayed"), None);
        facts.equal("rtt_min", flow.rtt_min_ns, Some(said.rtt_min * 1_000));
        facts.equal("srtt", flow.srtt_ns, Some(said.rtt * 1_000));
    }
    facts.equal("seen", total.accounting["rtt"].seen, 0);
    facts.at_rest(total);
    facts.finish();
    Ok(())
}
