//! Conversations in which nobody waits, or in which it cannot be told who waits for what.

use std::{sync::mpsc, thread};

use anyhow::{Result, anyhow};
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

/// Streams in one direction have no turns, and those in both hardly any that seem so.
#[test]
fn who_does_not_wait_has_no_turn() -> Result<()> {
    let _alone = alone();
    for forced in source::loading("turn")? {
        let pair = Pair::new()?;
        let netdiag = Netdiag::live_by(&forced, &[])?;
        let one_way = Connection::open(&pair.left, &pair.right, Family::V4)?;
        let sends = machine::amount(2_000, 200);
        exchange([(&one_way, Exchange { sends, bytes: 5_000, echo: false })])?;
        let both_ways = Connection::open(&pair.left, &pair.right, Family::V4)?;
        let calls = machine::amount(4_096, 128);
        let bytes = calls * 16_384;
        thread::scope(|scope| {
            let mut threads = Vec::new();
            for socket in [&both_ways.client, &both_ways.server] {
                threads.push(scope.spawn(move || {
                    (0..calls)
                        .try_for_each(|_| std::io::Write::write_all(&mut &*socket, &[7; 16_384]))?;
                    Ok(())
                }));
                threads.push(scope.spawn(move || read_bytes(socket, bytes)));
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
        let of = |ends: &(End, End)| -> Result<_> {
            Ok([flow_of(total, &ends.0)?, flow_of(total, &ends.1)?])
        };
        for flow in of(&ends[0])? {
            facts.note(format_args!("{forced}: {flow:?}"));
            none(&mut facts, flow, &["response", "service"]);
            facts.equal("ambiguous", count(flow, "turns_ambiguous"), Some(0));
        }
        let mut ambiguous = 0;
        for flow in of(&ends[1])? {
            ambiguous += count(flow, "turns_ambiguous").unwrap_or_default();
            facts.note(format_args!("{forced}: {flow:?}"));
            // Where one end was first by chance and the other one had it all before it spoke, that is a
            // turn as far as anybody can tell: at the beginning, after a pause, or many times in a row.
            let turns = ["response", "service"].map(|name| metric(flow, name).count);
            facts.holds(format_args!("{turns:?} of {calls} calls seem turns"), {
                turns.iter().sum::<u64>() <= calls as u64 / 32
            });
        }
        // Of the two ends, which may find that the other one began before it.
        facts.holds(format_args!("{ambiguous} ambiguous ones"), ambiguous > 0);
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
    let commands = machine::amount(3_000, 300);
    for forced in source::loading("turn")? {
        let pair = Pair::new()?;
        let netdiag = Netdiag::live_by(&forced, &[])?;
        let connection = Connection::open(&pair.left, &pair.right, Family::V4)?;
        let Connection { client, server, .. } = &connection;
        // So many may be under way.
        let (done, window) = mpsc::sync_channel::<()>(16);
        thread::scope(|scope| {
            let serves = scope.spawn(|| {
                (0..commands).try_for_each(|_| {
                    read_bytes(server, COMMAND.len())?;
                    send_once(server, REPLY)
                })
            });
            let asks = scope.spawn(move || {
                (0..commands).try_for_each(|_| {
                    done.send(())?;
                    send_once(client, COMMAND)
                })
            });
            for _ in 0..commands {
                read_bytes(client, REPLY.len())?;
                window.recv()?;
            }
            for thread in [serves, asks] {
                thread.join().map_err(|_| anyhow!("an end panicked"))??;
            }
            anyhow::Ok(())
        })?;
        let ends = (connection.client_end()?, connection.server_end()?);
        connection.reset()?;
        let outcome = netdiag.stop()?;
        let total = outcome.total()?;
        let client = flow_of(total, &ends.0)?;
        let mut facts = Facts::new();
        facts.note(format_args!("{forced}: {client:?}\n{:?}", flow_of(total, &ends.1)?));
        let responses = metric(client, "response").count;
        let ambiguous = count(client, "turns_ambiguous").unwrap_or_default();
        facts.holds(
            format_args!("{responses} of {commands} seem turns, {ambiguous} are ambiguous"),
            responses <= commands as u64 / 10 && ambiguous > 0,
        );
        facts.at_rest(total);
        facts.finish();
    }
    Ok(())
}
