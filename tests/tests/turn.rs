//! Turns: how long each end waits for the other, by the clocks of both, and none where nobody waits.

#[path = "turn/measured.rs"]
mod measured;
#[path = "turn/overlap.rs"]
mod overlap;

use std::{
    io::Read as _,
    net::{Shutdown, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use measured::{Bounds, Plan, timed, turn};
use netdiag::snapshot::{Distribution, Flow, Snapshot};
use netdiag_common::turn::SAME_READ_NS;
use netdiag_tests::{
    facts::Facts,
    machine,
    netdiag::Netdiag,
    network::Pair,
    outcome::{count, flow_of, flows_of, metric},
    random::Random,
    require,
    requirement::{Feature, alone},
    source, tool,
    traffic::{Connection, FAMILIES, Family, address, read_bytes, send_once},
};

/// Holds a distribution and the sum of all its samples against what each must have been.
fn within(
    facts: &mut Facts,
    what: &str,
    found: &Distribution,
    sum_ns: Option<u64>,
    bounds: impl Iterator<Item = Bounds> + Clone,
) {
    let n = bounds.clone().count();
    facts.equal(format_args!("{what}: samples"), found.count + found.out_of_range, n as u64);
    among(facts, what, found, sum_ns, bounds);
}

/// The same, of which there may be more than were made.
fn among(
    facts: &mut Facts,
    what: &str,
    found: &Distribution,
    sum_ns: Option<u64>,
    bounds: impl Iterator<Item = Bounds> + Clone,
) {
    let least = |ends: fn(Bounds) -> Duration| bounds.clone().map(ends).min().unwrap_or_default();
    let most = |ends: fn(Bounds) -> Duration| bounds.clone().map(ends).max().unwrap_or_default();
    let (min, max) = (found.min_ns.unwrap_or_default(), found.max_ns.unwrap_or_default());
    for (name, value, from, to) in [
        ("the least", min, least(|it| it.least), least(|it| it.most)),
        ("the most", max, most(|it| it.least), most(|it| it.most)),
    ] {
        let value = Duration::from_nanos(value);
        // A histogram has two significant digits.
        let holds = value >= from.mul_f64(0.99) && value <= to.mul_f64(1.01);
        facts.holds(format_args!("{what}: {name}: {from:?} <= {value:?} <= {to:?}"), holds);
    }
    let from: Duration = bounds.clone().map(|it| it.least).sum();
    let to: Duration = bounds.map(|it| it.most).sum();
    let sum = Duration::from_nanos(sum_ns.unwrap_or_default());
    facts.holds(format_args!("{what}: {from:?} <= {sum:?} <= {to:?} in all"), {
        from <= sum && sum <= to
    });
}

/// That latencies are what was set, within 5 % or 1 ms each. Threads may wait for a processor besides, but
/// for no longer than the clocks of both ends tell.
fn as_set(facts: &mut Facts, what: &str, sum_ns: Option<u64>, set: &[(Duration, Duration)]) {
    let expected: Duration = set.iter().map(|it| it.0).sum();
    let all: Duration = set.iter().map(|it| it.1).sum();
    let bound = expected.mul_f64(0.05).max(Duration::from_millis(set.len() as u64));
    let (least, most) = (expected.saturating_sub(bound), all.max(expected + bound));
    let sum = Duration::from_nanos(sum_ns.unwrap_or_default());
    facts.holds(format_args!("{what}: {sum:?} is {expected:?}, of {all:?}"), {
        least <= sum && sum <= most
    });
}

fn none(facts: &mut Facts, flow: &Flow, metrics: &[&str]) {
    for name in metrics {
        facts.equal(format_args!("{name} of {:?}", flow.role), flow.metrics.get(*name), None);
    }
}

/// Judges a run. Whether no turn was missed: else not all of them need be there.
#[track_caller]
fn judged(mut facts: Facts, total: &Snapshot) -> bool {
    let is_whole = total.accounting["turn"].missed == 0;
    if is_whole {
        facts.at_rest(total);
        facts.finish();
    } else {
        Facts::only_at_rest(total);
    }
    is_whole
}

/// Each turn of a connection that is kept alive, small or large, in one call or several.
#[test]
fn a_turn_takes_what_the_clocks_of_both_ends_say() -> Result<()> {
    let _alone = alone();
    let mut random = Random::default();
    for forced in source::loading("turn")? {
        source::until_unskipped(|| {
            let pair = Pair::new()?;
            let netdiag = Netdiag::live_by(&forced, &[])?;
            let mut facts = Facts::new();
            let mut all = Vec::new();
            for family in FAMILIES {
                let connection = Connection::open(&pair.left, &pair.right, family)?;
                let mut turns = Vec::new();
                for nth in 0..machine::amount(20, 6) {
                    let request: &[usize] = [&[100][..], &[200, 3_000]][nth % 2];
                    let reply: &[usize] = [&[50][..], &[10, 100_000, 7]][nth / 2 % 2];
                    let think = random.pause();
                    let plan = Plan { request, reply, think };
                    turns.push(turn(&connection, plan)?);
                }
                all.push((connection.client_end()?, connection.server_end()?, turns));
                connection.reset()?;
            }
            let outcome = netdiag.stop()?;
            let total = outcome.total()?;
            for (client, server, turns) in &all {
                let (client, server) = (flow_of(total, client)?, flow_of(total, server)?);
                facts.note(format_args!("{client:?}\n{server:?}"));
                let set: Vec<_> = turns.iter().map(|turn| (turn.think, turn.passed)).collect();
                for (name, flow, bounds) in [
                    ("response", client, turns.iter().map(|it| it.response).collect::<Vec<_>>()),
                    ("service", server, turns.iter().map(|it| it.service).collect()),
                ] {
                    let sum = count(flow, &format!("{name}_ns"));
                    let label = format!("{forced}: {name}");
                    within(&mut facts, &label, &metric(flow, name), sum, bounds.iter().copied());
                    as_set(&mut facts, &label, sum, &set);
                }
                none(&mut facts, client, &["service"]);
                none(&mut facts, server, &["response"]);
                for flow in [client, server] {
                    facts.equal("ambiguous", count(flow, "turns_ambiguous"), Some(0));
                    let waited = metric(flow, "read_wait");
                    facts.holds(format_args!("{waited:?}"), waited.count >= turns.len() as u64);
                }
            }
            Ok(judged(facts, total))
        })?;
    }
    Ok(())
}

/// Waits until so many bytes can be read: what was sent may still be on its way.
fn until_there(socket: &TcpStream, bytes: u64) -> Result<()> {
    let start = Instant::now();
    while rustix::io::ioctl_fionread(socket)? < bytes {
        anyhow::ensure!(start.elapsed() < machine::patience(), "{bytes} bytes do not come");
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Data that waits for its reader: neither the path nor who answers.
#[test]
fn a_slow_reader_raises_read_wait_only() -> Result<()> {
    let _alone = alone();
    let mut random = Random::default();
    for forced in source::loading("turn")? {
        source::until_unskipped(|| {
            let pair = Pair::new()?;
            let netdiag = Netdiag::live_by(&forced, &[])?;
            let connection = Connection::open(&pair.left, &pair.right, Family::V4)?;
            let mut bounds = Vec::new();
            let mut set = Vec::new();
            // Times that a call may have stood still between two buffers for so long that it counts as two.
            let mut pauses = 0;
            for _ in 0..machine::amount(20, 6) {
                let late = random.pause();
                // More than one buffer, which one call reads.
                let sent = timed(|| {
                    send_once(&connection.client, &[1; 10_000])?;
                    send_once(&connection.client, &[2; 10_000])
                })?;
                until_there(&connection.server, 20_000)?;
                let there = Instant::now();
                thread::sleep(late);
                let read = timed(|| {
                    let mut buffer = vec![0; 20_000];
                    Ok((&connection.server).read_exact(&mut buffer)?)
                })?;
                pauses += (read.1 - read.0).as_nanos() as u64 / SAME_READ_NS;
                bounds.push(Bounds {
                    least: read.0.saturating_duration_since(there),
                    most: read.1 - sent.0,
                });
                set.push((late, read.1 - sent.0));
            }
            let (client, server) = (connection.client_end()?, connection.server_end()?);
            connection.reset()?;
            let outcome = netdiag.stop()?;
            let total = outcome.total()?;
            let (client, server) = (flow_of(total, &client)?, flow_of(total, &server)?);
            let mut facts = Facts::new();
            facts.note(format_args!("{forced}: {client:?}\n{server:?}"));
            let sum = count(server, "read_wait_ns");
            let waited = metric(server, "read_wait");
            let (made, samples) = (bounds.len() as u64, waited.count + waited.out_of_range);
            facts.holds(format_args!("{samples} waits of {made}, and {pauses} pauses"), {
                (made..=made + pauses).contains(&samples)
            });
            among(&mut facts, "read_wait", &waited, sum, bounds.iter().copied());
            as_set(&mut facts, "read_wait", sum, &set);
            none(&mut facts, server, &["response", "service"]);
            none(&mut facts, client, &["response", "service", "read_wait"]);
            Ok(judged(facts, total))
        })?;
    }
    Ok(())
}

/// A client that has said all closes its side, and the server answers when it has read that.
#[test]
fn a_half_closed_connection_has_a_turn() -> Result<()> {
    let _alone = alone();
    let think = Duration::from_millis(machine::amount(20, 200));
    for forced in source::loading("turn")? {
        source::until_unskipped(|| {
            let pair = Pair::new()?;
            let netdiag = Netdiag::live_by(&forced, &[])?;
            let connection = Connection::open(&pair.left, &pair.right, Family::V4)?;
            let ends = (connection.client_end()?, connection.server_end()?);
            let Connection { client, server, .. } = &connection;
            let asked = timed(|| send_once(client, &[b'q'; 100]))?;
            client.shutdown(Shutdown::Write)?;
            read_bytes(server, 100)?;
            anyhow::ensure!((&*server).read(&mut [0])? == 0, "the end of what is asked");
            let read = Instant::now();
            thread::sleep(think);
            let answered = timed(|| send_once(server, &[b'a'; 100]))?;
            let got = timed(|| read_bytes(client, 100))?;
            thread::sleep(think);
            send_once(server, &[b'a'; 100])?;
            server.shutdown(Shutdown::Write)?;
            read_bytes(client, 100)?;
            drop(connection);
            let outcome = netdiag.stop()?;
            let total = outcome.total()?;
            let (client, server) = (flow_of(total, &ends.0)?, flow_of(total, &ends.1)?);
            let mut facts = Facts::new();
            facts.note(format_args!("{forced}: {client:?}\n{server:?}"));
            let response = Bounds { least: answered.0 - asked.1, most: got.1 - asked.0 };
            let service = Bounds { least: answered.0 - read, most: answered.1 - asked.0 };
            for (name, flow, bounds) in
                [("response", client, response), ("service", server, service)]
            {
                let sum = count(flow, &format!("{name}_ns"));
                within(&mut facts, name, &metric(flow, name), sum, [bounds].into_iter());
                facts.equal("ambiguous", count(flow, "turns_ambiguous"), Some(0));
            }
            facts.equal("the client's reads", metric(client, "read_wait").count, 2);
            facts.equal("the server's reads", metric(server, "read_wait").count, 1);
            Ok(judged(facts, total))
        })?;
    }
    Ok(())
}

/// A slow path is the client's wait, not the server's work.
#[test]
fn a_slow_path_is_not_a_slow_server() -> Result<()> {
    require!(Feature::Netem);
    let _alone = alone();
    let think = Duration::from_millis(50);
    for forced in source::loading("turn")? {
        source::until_unskipped(|| {
            let delay = Duration::from_millis(400);
            let pair = Pair::new()?;
            let set = format!("qdisc add dev wire root netem delay {}ms", delay.as_millis());
            tool::line(&format!("tc -n {} {set}", pair.left.name()))?;
            let netdiag = Netdiag::live_by(&forced, &[])?;
            let connection = Connection::open(&pair.left, &pair.right, Family::V4)?;
            let plan = Plan { request: &[100], reply: &[100], think };
            let turns: Vec<_> = (0..6).map(|_| turn(&connection, plan)).collect::<Result<_>>()?;
            let ends = (connection.client_end()?, connection.server_end()?);
            connection.reset()?;
            let outcome = netdiag.stop()?;
            let total = outcome.total()?;
            let (client, server) = (flow_of(total, &ends.0)?, flow_of(total, &ends.1)?);
            let mut facts = Facts::new();
            facts.note(format_args!("{forced}: {client:?}\n{server:?}"));
            let response = metric(client, "response");
            let bounds = turns.iter().map(|turn| turn.response);
            within(&mut facts, "response", &response, count(client, "response_ns"), bounds);
            let least = response.min_ns.map(Duration::from_nanos).unwrap_or_default();
            facts.holds(format_args!("{least:?} has both"), least >= (delay + think).mul_f64(0.99));
            // No request is there before the path's delay is over: what the server takes is without it.
            let alone = turns.iter().map(|turn| Bounds {
                least: turn.service.least,
                most: turn.service.most.saturating_sub(delay),
            });
            let service = metric(server, "service");
            within(&mut facts, "service", &service, count(server, "service_ns"), alone);
            Ok(judged(facts, total))
        })?;
    }
    Ok(())
}

/// Who asks on a connection that is older than netdiag is known by the server's listener and by the
/// client's port. The first turn of it may have begun before.
#[test]
fn an_older_connection_has_turns() -> Result<()> {
    const PORT: u16 = 7_000;
    let _alone = alone();
    for forced in source::loading("turn")? {
        source::until_unskipped(|| {
            let pair = Pair::new()?;
            let address = address(Family::V4, false, PORT);
            let listener = pair.right.run(|| TcpListener::bind(address))?;
            let connection =
                Connection::open_to(&pair.left, &pair.right, Family::V4, &listener, address)?;
            let plan = Plan { request: &[100], reply: &[100], think: Duration::from_millis(3) };
            turn(&connection, plan)?;
            let netdiag = Netdiag::live_by(&forced, &[])?;
            for _ in 0..5 {
                turn(&connection, plan)?;
            }
            let ends = (connection.client_end()?, connection.server_end()?);
            connection.reset()?;
            let outcome = netdiag.stop()?;
            let total = outcome.total()?;
            let mut facts = Facts::new();
            for (end, name) in [(ends.0, "response"), (ends.1, "service")] {
                let flow = flow_of(total, &end)?;
                facts.note(format_args!("{forced}: {flow:?}"));
                facts.equal(name, metric(flow, name).count, 4);
                facts.equal("ambiguous", count(flow, "turns_ambiguous"), Some(0));
            }
            Ok(judged(facts, total))
        })?;
    }
    Ok(())
}

#[test]
fn filters_narrow_turns() -> Result<()> {
    let _alone = alone();
    for forced in source::loading("turn")? {
        source::until_unskipped(|| {
            let pair = Pair::new()?;
            let netdiag = Netdiag::live_by(&forced, &["--netns", pair.left.name()])?;
            let connection = Connection::open(&pair.left, &pair.right, Family::V4)?;
            let plan = Plan { request: &[100], reply: &[100], think: Duration::from_millis(2) };
            let turns: Vec<_> = (0..5).map(|_| turn(&connection, plan)).collect::<Result<_>>()?;
            let ends = (connection.client_end()?, connection.server_end()?);
            connection.reset()?;
            let outcome = netdiag.stop()?;
            let total = outcome.total()?;
            let mut facts = Facts::new();
            let found = metric(flow_of(total, &ends.0)?, "response").count;
            facts.equal(format_args!("{forced}: responses"), found, turns.len() as u64);
            facts.equal("flows of the other end", flows_of(total, &ends.1).len(), 0);
            Ok(judged(facts, total))
        })?;
    }
    Ok(())
}
