//! Traffic that loses packets, so that TCP sends again.

use std::thread;

use anyhow::Result;

use super::{
    Connection, FAMILIES,
    request::{Exchange, exchange},
};
use crate::{counters::wait_until_quiet, dropping, fault, machine, network::Pair};

/// Bulk data, requests with pauses (tail losses) and handshakes, all under loss.
///
/// # Errors
/// A connection broke, or the loss cannot be set up.
pub fn data(pair: &Pair) -> Result<()> {
    let loss = fault::loss(&pair.left, &pair.right, 12)?;
    let mut connections = Vec::new();
    for family in FAMILIES.into_iter().cycle().take(9) {
        connections.push(Connection::open(&pair.left, &pair.right, family)?);
    }
    let bulk = Exchange { sends: machine::amount(150, 40), bytes: 32 << 10, echo: false };
    let small = Exchange { sends: machine::amount(80, 30), bytes: 100, echo: true };
    let plan = |i: usize| if i.is_multiple_of(3) { small } else { bulk };
    exchange(connections.iter().enumerate().map(|(i, connection)| (connection, plan(i))))?;
    loss.end()?;
    for connection in connections {
        connection.reset()?;
    }
    Ok(())
}

/// Bulk data of which every twelfth packet is lost to a rule. Returns how many that were.
///
/// # Errors
/// As for [`data`].
pub fn bulk(pair: &Pair) -> Result<u64> {
    let rule = "meta l4proto tcp numgen inc mod 12 0 counter drop";
    let loss = fault::drop_incoming(&pair.right, rule)?;
    let open = |family| Connection::open(&pair.left, &pair.right, family);
    let connections: Vec<_> = FAMILIES.into_iter().map(open).collect::<Result<_>>()?;
    let plan = Exchange { sends: machine::amount(300, 40), bytes: 32 << 10, echo: false };
    exchange(connections.iter().map(|connection| (connection, plan)))?;
    for connection in connections {
        connection.reset()?;
    }
    wait_until_quiet(&pair.left)?;
    let lost = dropping::counted(&pair.right)?;
    loss.end()?;
    Ok(lost)
}

/// Handshakes whose first packets are lost: SYNs on the way there, SYN-ACKs on the way back.
///
/// # Errors
/// As for [`data`].
///
/// # Panics
/// When a client does.
pub fn handshakes(pair: &Pair) -> Result<()> {
    let open = || -> Result<()> {
        let families = FAMILIES.into_iter().cycle().take(6);
        thread::scope(|scope| {
            let threads: Vec<_> = families
                .map(|family| {
                    scope.spawn(move || Connection::open(&pair.left, &pair.right, family)?.reset())
                })
                .collect();
            threads.into_iter().try_for_each(|thread| thread.join().expect("a client panicked"))
        })
    };
    // Every second one, by a counter of the rule.
    let syn = "tcp flags & (syn|ack) == syn numgen inc mod 2 0 drop";
    let lost = fault::drop_incoming(&pair.right, syn)?;
    open()?;
    lost.end()?;
    let synack = "tcp flags & (syn|ack) == (syn|ack) numgen inc mod 2 0 drop";
    let lost = fault::drop_incoming(&pair.left, synack)?;
    open()?;
    lost.end()
}
