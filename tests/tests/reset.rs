//! Connections that are reset: each of them, of the right end and direction, as the kernel counts them.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read as _},
    net::{SocketAddr, TcpStream},
};

use anyhow::{Result, ensure};
use netdiag::{
    kernel::btf::Btf,
    snapshot::{Flow, Snapshot},
};
use netdiag_tests::{
    counters::{TcpCounters, wait_until_quiet},
    facts::Facts,
    machine,
    namespace::Namespace,
    netdiag::Netdiag,
    network::Pair,
    outcome::{count, group, in_namespaces},
    requirement::alone,
    source,
    stream::{self, Stream, is_in, sum},
    traffic::{Family, address, end_by_reset, listen, send_once},
};

/// Resets that a flow sent, by the kernel's reason.
fn sent(flow: &Flow) -> BTreeMap<&str, u64> {
    group(flow, "resets_sent")
}

/// How a connection ends, and what of it the client and the server then count.
#[derive(Clone, Copy, Debug)]
enum Case {
    /// Nobody listens.
    ClosedPort,
    /// The client closes with SO_LINGER 0.
    Linger,
    /// The server closes what it has not read.
    Unread,
    /// The client sends to a server that has closed.
    AfterClose,
    /// Both close as they should.
    Orderly,
    /// The client closes before the server has accepted.
    Unaccepted,
}

const CASES: [Case; 6] = [
    Case::ClosedPort,
    Case::Linger,
    Case::Unread,
    Case::AfterClose,
    Case::Orderly,
    Case::Unaccepted,
];

/// Sent and received.
type Resets = [u64; 2];

impl Case {
    /// Of the client's end and the server's.
    const fn expected(self) -> [Resets; 2] {
        match self {
            Self::ClosedPort | Self::Unread | Self::AfterClose => [[0, 1], [1, 0]],
            Self::Linger | Self::Unaccepted => [[1, 0], [0, 1]],
            Self::Orderly => [[0, 0], [0, 0]],
        }
    }

    /// Makes it happen, and returns the server's port.
    fn provoke(self, pair: &Pair, family: Family) -> Result<u16> {
        let (listener, port) = listen(&pair.right, family)?;
        let to: SocketAddr = address(family, false, port);
        if matches!(self, Self::ClosedPort) {
            drop(listener);
            let refused = pair.left.run(|| TcpStream::connect(to)).map(drop);
            ensure!(refused.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused));
            return Ok(port);
        }
        let mut client = pair.left.run(|| TcpStream::connect(to))?;
        if matches!(self, Self::Unaccepted) {
            let before = TcpCounters::read(&pair.right)?;
            end_by_reset([&client])?;
            drop(client);
            let resets = |now: TcpCounters| now.since(&before)["EstabResets"];
            let is_reset = || TcpCounters::read(&pair.right).is_ok_and(|now| resets(now) > 0);
            ensure!(machine::wait_until(is_reset), "nothing is reset");
            return Ok(port);
        }
        let (mut server, _) = listener.accept()?;
        let end_of = |stream: &mut TcpStream| stream.read(&mut [0; 16]).map_err(|e| e.kind());
        match self {
            Self::Linger => {
                end_by_reset([&client])?;
                drop(client);
                ensure!(end_of(&mut server) == Err(ErrorKind::ConnectionReset));
            }
            Self::Unread => {
                send_once(&client, b"unread")?;
                server.peek(&mut [0])?;
                drop(server);
                ensure!(end_of(&mut client) == Err(ErrorKind::ConnectionReset));
            }
            Self::AfterClose => {
                drop(server);
                ensure!(end_of(&mut client) == Ok(0));
                send_once(&client, b"late")?;
                let is_reset = || client.take_error().is_ok_and(|error| error.is_some());
                ensure!(machine::wait_until(is_reset), "nothing is reset");
            }
            Self::Orderly => {
                drop(client);
                ensure!(end_of(&mut server) == Ok(0));
            }
            Self::ClosedPort | Self::Unaccepted => {}
        }
        Ok(port)
    }
}

/// What the flows of a namespace that are to or of that port counted; the other family may have the same one.
fn of_port(total: &Snapshot, namespace: &Namespace, family: Family, port: u16) -> Resets {
    let mut all = [0, 0];
    for flow in in_namespaces(total, &[namespace.inode()]) {
        let is_of = flow.local.ip.is_some_and(|ip| ip.is_ipv4() == matches!(family, Family::V4));
        if is_of && [flow.local.port, flow.peer.port].contains(&Some(port)) {
            all[0] += sent(flow).values().sum::<u64>();
            all[1] += count(flow, "resets_received").unwrap_or_default();
        }
    }
    all
}

#[test]
fn each_reset_belongs_to_its_end() -> Result<()> {
    let _alone = alone();
    let has_reasons = Btf::load(None)?.enumerators("sk_rst_reason").next().is_some();
    for forced in source::loading("reset")? {
        source::until_unskipped(|| {
            let pair = Pair::new()?;
            let spaces = [&pair.left, &pair.right];
            let read = || spaces.map(TcpCounters::read).into_iter().collect::<Result<Vec<_>>>();
            let before = read()?;
            let netdiag = Netdiag::live_by(&forced, &[])?;
            let events =
                stream::start(&["--signals", "reset", "--kind", "reset", "--source", &forced])?;
            let mut provoked = Vec::new();
            for family in [Family::V4, Family::V6] {
                for case in CASES {
                    provoked.push((family, case, case.provoke(&pair, family)?));
                }
            }
            for namespace in spaces {
                wait_until_quiet(namespace)?;
            }
            let told = Stream::stop(events)?;
            let outcome = netdiag.stop()?;
            let total = outcome.total()?;
            let after = read()?;
            let missed = total.accounting["reset"].missed + told.account("reset")?.missed;
            let mut facts = Facts::new();
            told.at_rest(&mut facts)?;
            if missed > 0 {
                facts.at_rest(total);
                facts.finish();
                return Ok(false);
            }
            facts.note(&forced);
            for (family, case, port) in provoked {
                let found = spaces.map(|space| of_port(total, space, family, port));
                facts.equal(format_args!("{case:?} {family:?}"), found, case.expected());
            }
            for ((space, before), after) in spaces.into_iter().zip(&before).zip(&after) {
                let kernel = after.since(before);
                facts.note(kernel.moved());
                let inode = [space.inode()];
                let flows = || in_namespaces(total, &inode);
                let reasons: Vec<_> = flows().flat_map(sent).collect();
                facts.note(format_args!("{reasons:?}"));
                let all: u64 = reasons.iter().map(|(_, n)| n).sum();
                facts.equal("sent, as the kernel counts them", all as i64, kernel["OutRsts"]);
                let known = reasons.iter().all(|(reason, _)| (*reason != "unknown") == has_reasons);
                facts.holds("reasons are known where the kernel has them", known);
                for direction in ["sent", "received"] {
                    let of = told
                        .of("reset")
                        .filter(|event| is_in(event, space.inode()))
                        .filter(|event| event["direction"] == direction);
                    let expected = match direction {
                        "sent" => all,
                        _ => flows().filter_map(|flow| count(flow, "resets_received")).sum(),
                    };
                    facts.equal(format_args!("{direction} are told"), sum(of, "resets"), expected);
                }
            }
            if has_reasons {
                let ports = total.flows.iter().filter(|flow| sent(flow).contains_key("NO_SOCKET"));
                facts.holds("closed ports have that reason", ports.count() >= 2);
            }
            facts.at_rest(total);
            facts.lossless(total);
            facts.finish();
            Ok(true)
        })?;
    }
    Ok(())
}
