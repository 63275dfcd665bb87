//! The harness itself, held against the kernel's own counters, so that a difference found later is
//! netdiag's.

#[path = "harness/conntrack.rs"]
mod conntrack;

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use hdrhistogram::{
    Histogram,
    serialization::{
        V2DeflateSerializer,
        interval_log::{IntervalLogWriterBuilder, Tag},
    },
};
use netdiag_tests::{
    attempt::{Watched, until_whole},
    counters::{TcpCounters, wait_until_quiet},
    facts::Facts,
    fault, machine,
    namespace::Namespace,
    network::{LEFT_V4, Pair, RIGHT_V4},
    reader::{self, Read},
    require,
    requirement::{Feature, alone},
    ss,
    traffic::{
        Connection, End, FAMILIES, Family,
        blocked::{Pace, fill, send_blocked},
        calls::{every_call, failing_call},
        read_bytes,
        request::{Exchange, exchange},
    },
};

/// A number that `ss` shows of a socket; what is 0 it leaves out.
fn kernel_says(namespace: &Namespace, end: &End, name: &str) -> Result<u64> {
    Ok(ss::said_of(namespace, end)?.get(name).copied().unwrap_or_default())
}

#[test]
fn every_send_of_an_exchange_is_a_segment_of_its_socket() -> Result<()> {
    let _alone = alone();
    until_whole(|| {
        let pair = Pair::new()?;
        let watched = Watched::new([&pair.left, &pair.right])?;
        let connections = FAMILIES
            .map(|family| Connection::open(&pair.left, &pair.right, family))
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        let echo = Exchange { sends: 300, bytes: 10, echo: true };
        exchange(connections.iter().map(|connection| (connection, echo)))?;
        let mut facts = Facts::new();
        let mut segments = Vec::new();
        for connection in &connections {
            for (namespace, end) in
                [(&pair.left, connection.client_end()?), (&pair.right, connection.server_end()?)]
            {
                facts.note(format_args!("{:?} {end:?}", connection.family));
                let said = |name| kernel_says(namespace, &end, name);
                segments.push((said("data_segs_out")?, said("bytes_sent")?));
            }
        }
        let mapped = connections[2].client_end()?;
        facts.equal("v4-mapped local address", mapped.local.ip(), LEFT_V4.into());
        facts.equal("v4-mapped peer address", mapped.peer.ip(), RIGHT_V4.into());
        facts.holds("the namespaces differ", pair.left.inode() != pair.right.inode());
        let spoilt = watched.sent_again()?;
        if spoilt.is_none() {
            facts.equal("segments and bytes", segments, vec![(300, 3_000); 2 * FAMILIES.len()]);
        }
        facts.finish();
        Ok(spoilt)
    })
}

#[test]
fn loss_makes_retransmits_that_sockets_and_namespace_agree_on() -> Result<()> {
    require!(Feature::Nft);
    let _alone = alone();
    let pair = Pair::new()?;
    pair.without_offload()?;
    let before = TcpCounters::read(&pair.left)?;
    let loss = fault::loss(&pair.left, &pair.right, 20)?;
    let connections = (0..4)
        .map(|_| Connection::open(&pair.left, &pair.right, Family::V4))
        .collect::<Result<Vec<_>>>()?;
    let bulk = Exchange { sends: 30, bytes: 20_000, echo: false };
    exchange(connections.iter().map(|connection| (connection, bulk)))?;
    loss.end()?;
    let quiet = machine::wait_until(|| {
        let unacked = |connection: &Connection| -> Result<u64> {
            kernel_says(&pair.left, &connection.client_end()?, "unacked")
        };
        connections.iter().all(|connection| unacked(connection).is_ok_and(|unacked| unacked == 0))
    });
    let mut facts = Facts::new();
    facts.holds("all is acknowledged", quiet);
    let after = TcpCounters::read(&pair.left)?.since(&before);
    let mut by_socket = 0;
    for connection in connections {
        by_socket += kernel_says(&pair.left, &connection.client_end()?, "retrans_sum")?;
        connection.reset()?;
    }
    facts.note(after.moved());
    facts.holds("something was sent again", by_socket > 20);
    // A lost SYN is counted by the namespace and, as its own first retransmission, by the socket.
    facts.equal("TcpRetransSegs", after["RetransSegs"], i64::try_from(by_socket)?);
    wait_until_quiet(&pair.left)?;
    wait_until_quiet(&pair.right)?;
    facts.finish();
    Ok(())
}

#[test]
fn a_drop_on_the_way_out_is_a_failed_attempt() -> Result<()> {
    require!(Feature::Nft);
    let _alone = alone();
    let pair = Pair::new()?;
    let connection = Connection::open(&pair.left, &pair.right, Family::V4)?;
    let lost = fault::drop_incoming(&pair.right, "meta l4proto tcp drop")?;
    netdiag_tests::traffic::send_once(&connection.client, b"lost on the way")?;
    let before = TcpCounters::read(&pair.left)?;
    let failing = fault::drop_outgoing(&pair.left, "meta l4proto tcp drop")?;
    let failed =
        || -> Result<i64> { Ok(TcpCounters::read(&pair.left)?.since(&before)["TCPRetransFail"]) };
    let seen = machine::wait_until(|| failed().is_ok_and(|failed| failed >= 2));
    failing.end()?;
    lost.end()?;
    read_bytes(&connection.server, b"lost on the way".len())?;
    let mut facts = Facts::new();
    facts.note(TcpCounters::read(&pair.left)?.since(&before).moved());
    facts.holds("attempts failed", seen);
    facts.finish();
    Ok(())
}

#[test]
fn a_full_connection_blocks_its_senders_until_it_is_read() -> Result<()> {
    let _alone = alone();
    let pair = Pair::new()?;
    let connection = Connection::open(&pair.left, &pair.right, Family::V4)?;
    let filled = fill(&connection)?;
    let start = Duration::from_millis(300);
    let pace = Pace { start, step: Duration::from_millis(5), step_bytes: 20_000 };
    let begun = Instant::now();
    let calls = send_blocked(&connection, filled, 8, 1, 60_000, pace)?;
    let mut facts = Facts::new();
    facts.note(format_args!("{filled} bytes filled it; {calls:?}"));
    let waited = calls.iter().all(|call| call.returned - begun >= start);
    facts.holds("none returned before its connection was read", waited);
    facts.finish();
    Ok(())
}

#[test]
fn every_way_of_sending_sends() -> Result<()> {
    let _alone = alone();
    let pair = Pair::new()?;
    let connection = Connection::open(&pair.left, &pair.right, Family::V6)?;
    let sent = thread::scope(|scope| -> Result<_> {
        let sender = scope.spawn(|| {
            let sent = every_call(&connection.client);
            connection.client.shutdown(std::net::Shutdown::Write)?;
            failing_call(&connection.client)?;
            sent
        });
        let mut received = 0;
        while read_bytes(&connection.server, 1).is_ok() {
            received += 1;
        }
        let sent = sender.join().expect("the sender panicked")?;
        Ok((sent, received))
    });
    let (sent, received) = sent?;
    let mut facts = Facts::new();
    facts.note(format_args!("{sent:?}"));
    facts.equal("bytes received", received, sent.iter().map(|call| call.bytes).sum::<usize>());
    facts.finish();
    Ok(())
}

/// The readers understand each other's reference and agree with the library that netdiag uses.
#[test]
fn readers_agree_on_a_log() -> Result<()> {
    require!(Feature::Readers);
    let mut whole = Histogram::<u64>::new_with_bounds(1, 3_600_000_000_000, 2)?;
    let mut file = tempfile::NamedTempFile::new()?;
    let mut serializer = V2DeflateSerializer::new();
    let mut log = IntervalLogWriterBuilder::new().begin_log_with(&mut file, &mut serializer)?;
    for interval in 0..3 {
        let mut part = Histogram::<u64>::new_with_bounds(1, 3_600_000_000_000, 2)?;
        for value in 1..=200 {
            part.record(value * value * value * 40_000)?;
        }
        let start = Duration::from_secs(interval);
        for tag in [None, Tag::new("f12.send")] {
            log.write_histogram(&part, start, Duration::from_secs(1), tag)?;
        }
        log.write_comment("[Complete: 1]")?;
        whole.add(&part)?;
    }
    let expected = Read {
        intervals: 3,
        count: whole.len(),
        max: whole.max(),
        p99: whole.value_at_quantile(0.99),
    };
    let mut facts = Facts::new();
    for reader in reader::all()? {
        for (tag, read) in reader.read(file.path())? {
            facts.equal(format_args!("{}: {tag:?}", reader.language), read, expected);
        }
    }
    facts.finish();
    Ok(())
}
