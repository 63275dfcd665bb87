//! Conversations in which nobody waits, or in which it cannot be told who waits for what.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use netdiag::snapshot::{Flow, Snapshot};
use netdiag_tests::{
    facts::Facts,
    machine,
    netdiag::Netdiag,
    network::Pair,
    outcome::{count, flow_of, metric},
    requirement::alone,
    source,
    traffic::{
        Connection, End, Family, read_bytes,
        request::{Exchange, exchange},
        send_once,
    },
};

use super::none;

/// Who speaks without waiting, on a link so long that several of its messages are on their way whenever
/// something arrives: that is certain, however threads get to run, unless one of them stands still for
/// the time of a round trip.
struct Pace {
    one_way: Duration,
    every: Duration,
}

impl Pace {
    fn of_this_machine() -> Self {
        let [one_way, every] = machine::amount([5, 2], [60, 20]);
        Self { one_way: Duration::from_millis(one_way), every: Duration::from_millis(every) }
    }

    /// Does it so many times, one after the other at the times set, or late.
    fn keep(&self, times: u32, mut speak: impl FnMut() -> Result<()>) -> Result<()> {
        let began = Instant::now();
        (0..times).try_for_each(|nth| {
            thread::sleep((began + nth * self.every).saturating_duration_since(Instant::now()));
            speak()
        })
    }
}

/// That hardly anything seems a turn on either end, at most one in `share`, and that it is said why.
/// Where one end was first and the other one had it all before it spoke, that is a turn as far as anybody
/// can tell: at the beginning, or after a pause.
fn hardly_any(
    facts: &mut Facts,
    total: &Snapshot,
    ends: &(End, End),
    (spoken, share): (u32, u32),
) -> Result<()> {
    for end in [&ends.0, &ends.1] {
        let flow: &Flow = flow_of(total, end)?;
        facts.note(format_args!("{flow:?}"));
        let turns: u64 = ["response", "service"].map(|name| metric(flow, name).count).iter().sum();
        let ambiguous = count(flow, "turns_ambiguous").unwrap_or_default();
        facts.holds(
            format_args!("{:?}: of {spoken}, {turns} seem turns, {ambiguous} do not", flow.role),
            turns <= u64::from(spoken / share) && ambiguous > u64::from(spoken / share),
        );
    }
    Ok(())
}

/// Streams in one direction have no turns, and those in both hardly any that seem so.
#[test]
fn who_does_not_wait_has_no_turn() -> Result<()> {
    let _alone = alone();
    let pace = Pace::of_this_machine();
    for forced in source::loading("turn")? {
        let pair = Pair::distant(pace.one_way)?;
        let netdiag = Netdiag::live_by(&forced, &[])?;
        let one_way = Connection::open(&pair.left, &pair.right, Family::V4)?;
        let sends = machine::amount(2_000, 200);
        exchange([(&one_way, Exchange { sends, bytes: 5_000, echo: false })])?;
        let both_ways = Connection::open(&pair.left, &pair.right, Family::V4)?;
        let (calls, bytes) = (machine::amount(512, 128), 4_096);
        thread::scope(|scope| {
            let mut threads = Vec::new();
            for socket in [&both_ways.client, &both_ways.server] {
                let message = vec![7; bytes];
                let pace = &pace;
                threads.push(scope.spawn(move || pace.keep(calls, || send_once(socket, &message))));
                threads.push(scope.spawn(move || read_bytes(socket, calls as usize * bytes)));
            }
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().map_err(|_| anyhow!("a stream panicked"))?)
        })?;
        let mut ends = Vec::new();
        for connection in [one_way, both_ways] {
            ends.push((connection.client_end()?, connection.server_end()?));
            connection.reset()?;
        }
        let outcome = netdiag.stop()?;
        let total = outcome.total()?;
        let mut facts = Facts::new();
        facts.note(&forced);
        for end in [&ends[0].0, &ends[0].1] {
            let flow = flow_of(total, end)?;
            none(&mut facts, flow, &["response", "service"]);
            facts.equal("ambiguous", count(flow, "turns_ambiguous"), Some(0));
        }
        hardly_any(&mut facts, total, &ends[1], (calls, 32))?;
        facts.at_rest(total);
        facts.finish();
    }
    Ok(())
}

/// Commands that do not wait for the replies to those before: what netdiag takes for a turn is one.
#[test]
fn pipelined_commands_are_no_turns_of_their_own() -> Result<()> {
    const COMMAND: &[u8] = b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n";
    const REPLY: &[u8] = b"$5\r\nvalue\r\n";
    let _alone = alone();
    let pace = Pace::of_this_machine();
    let commands = machine::amount(500, 100);
    for forced in source::loading("turn")? {
        let pair = Pair::distant(pace.one_way)?;
        let netdiag = Netdiag::live_by(&forced, &[])?;
        let connection = Connection::open(&pair.left, &pair.right, Family::V4)?;
        let Connection { client, server, .. } = &connection;
        thread::scope(|scope| {
            let serves = scope.spawn(|| {
                (0..commands).try_for_each(|_| {
                    read_bytes(server, COMMAND.len())?;
                    send_once(server, REPLY)
                })
            });
            let asks = scope.spawn(|| pace.keep(commands, || send_once(client, COMMAND)));
            read_bytes(client, commands as usize * REPLY.len())?;
            for thread in [serves, asks] {
                thread.join().map_err(|_| anyhow!("an end panicked"))??;
            }
            anyhow::Ok(())
        })?;
        let ends = (connection.client_end()?, connection.server_end()?);
        connection.reset()?;
        let outcome = netdiag.stop()?;
        let total = outcome.total()?;
        let mut facts = Facts::new();
        facts.note(&forced);
        hardly_any(&mut facts, total, &ends, (commands, 10))?;
        facts.at_rest(total);
        facts.finish();
    }
    Ok(())
}
