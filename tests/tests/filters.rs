//! Each filter flag alone and with others: only flows that match, all of their sends, and the rest
//! counted as filtered.

use std::{net::TcpStream, thread};

use anyhow::Result;
use netdiag::snapshot::Flow;
use netdiag_tests::{
    counters::TcpCounters,
    facts::Facts,
    fault,
    netdiag::Netdiag,
    network::{LEFT_V4, Pair, RIGHT_V4, RIGHT_V6},
    outcome::{count, flows_of, in_namespaces, sum},
    require,
    requirement::{Feature, alone},
    traffic::{
        Connection, End, FAMILIES, Family, address, listen,
        process::Shell,
        request::{Exchange, exchange},
    },
};

const SENDS: usize = 50;

/// One end of the traffic: how often it sends and whose it is.
struct Sender {
    end: End,
    pid: u32,
    sends: usize,
}

struct Traffic {
    pair: Pair,
    connections: Vec<Connection>,
    shell: Shell,
    senders: Vec<Sender>,
}

impl Traffic {
    fn new() -> Result<Self> {
        let pair = Pair::new()?;
        let connections = open(&pair)?;
        let shell = Shell::connect(&pair.left, &pair.right, SENDS)?;
        let pid = std::process::id();
        let listening = shell.server_end(pair.right.inode());
        let mut senders = vec![
            Sender { end: shell.end, pid: shell.pid(), sends: SENDS },
            Sender { end: listening, pid, sends: 1 },
        ];
        senders.extend(ends(&connections)?);
        Ok(Self { pair, connections, shell, senders })
    }

    fn send(&self) -> Result<()> {
        echo(&self.connections)?;
        self.shell.send()
    }
}

/// A connection of each family.
fn open(pair: &Pair) -> Result<Vec<Connection>> {
    FAMILIES.into_iter().map(|family| Connection::open(&pair.left, &pair.right, family)).collect()
}

/// Sends over each of them, to and fro.
fn echo(connections: &[Connection]) -> Result<()> {
    let echo = Exchange { sends: SENDS, bytes: 1, echo: true };
    exchange(connections.iter().map(|connection| (connection, echo)))
}

/// Both ends of each of them.
fn ends(connections: &[Connection]) -> Result<Vec<Sender>> {
    let ends = connections.iter().flat_map(|it| [it.client_end(), it.server_end()]);
    let pid = std::process::id();
    ends.map(|end| Ok(Sender { end: end?, pid, sends: SENDS })).collect()
}

type Matches<'a> = Box<dyn Fn(&Sender) -> bool + 'a>;

fn cases(traffic: &Traffic) -> Vec<(Vec<String>, Matches<'_>)> {
    let (left, right) = (&traffic.pair.left, &traffic.pair.right);
    let own = std::process::id();
    let shell = traffic.shell.pid();
    let first = traffic.senders[2].end;
    let second = traffic.senders[4].end;
    let arguments = |line: String| line.split_whitespace().map(str::to_owned).collect();
    let port = |end: &End| [end.local.port(), end.peer.port()];
    let case = |line: String, matches: Matches<'static>| (arguments(line), matches);
    let left_inode = left.inode();
    vec![
        case(format!("--pid {shell}"), Box::new(move |s| s.pid == shell)),
        case(format!("--pid {own},{shell}"), Box::new(|_| true)),
        case(
            format!("--port {}", first.local.port()),
            Box::new(move |s| port(&s.end).contains(&first.local.port())),
        ),
        case(
            format!("--port {} --port {}", first.local.port(), second.local.port()),
            Box::new(move |s| {
                port(&s.end).contains(&first.local.port())
                    || port(&s.end).contains(&second.local.port())
            }),
        ),
        case(
            format!("--local-port {}", first.local.port()),
            Box::new(move |s| s.end.local.port() == first.local.port()),
        ),
        case(
            format!("--peer-port {}", first.local.port()),
            Box::new(move |s| s.end.peer.port() == first.local.port()),
        ),
        case(format!("--peer {RIGHT_V4}"), Box::new(|s| s.end.peer.ip() == RIGHT_V4)),
        case(format!("--peer {LEFT_V4}/24"), Box::new(|s| s.end.peer.is_ipv4())),
        case(format!("--peer {RIGHT_V6}/128"), Box::new(|s| s.end.peer.ip() == RIGHT_V6)),
        case(format!("--peer {RIGHT_V6}/128,{RIGHT_V4}/32"), {
            Box::new(|s| s.end.peer.ip() == RIGHT_V6 || s.end.peer.ip() == RIGHT_V4)
        }),
        case(format!("--netns {}", left.name()), Box::new(move |s| s.end.netns == left_inode)),
        case(format!("--netns {left_inode}"), Box::new(move |s| s.end.netns == left_inode)),
        case(
            format!("--netns /run/netns/{}", left.name()),
            Box::new(move |s| s.end.netns == left_inode),
        ),
        case(format!("--netns pid:{shell}"), Box::new(move |s| s.end.netns == left_inode)),
        case(format!("--netns {},{}", left.name(), right.name()), Box::new(|_| true)),
        case(
            format!("--netns {} --pid {own} --peer {RIGHT_V6}", left.name()),
            Box::new(move |s| {
                s.end.netns == left_inode && s.pid == own && s.end.peer.ip() == RIGHT_V6
            }),
        ),
        case(format!("--pid {shell} --local-port {}", first.local.port()), Box::new(|_| false)),
    ]
}

#[test]
fn only_matching_flows_pass() -> Result<()> {
    let _alone = alone();
    let traffic = Traffic::new()?;
    for (arguments, matches) in cases(&traffic) {
        judge(&traffic, &arguments, &matches)?;
    }
    Ok(())
}

/// Sends over all connections, and over those that are younger than the attach.
fn judge(traffic: &Traffic, arguments: &[String], matches: &Matches<'_>) -> Result<()> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let netdiag = Netdiag::live(&arguments)?;
    let connections = open(&traffic.pair)?;
    echo(&connections)?;
    traffic.send()?;
    let younger = ends(&connections)?;
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;
    let mut facts = Facts::new();
    let (mut expected, mut rejected) = (0, 0);
    for sender in traffic.senders.iter().chain(&younger) {
        let found = flows_of(total, &sender.end);
        let sends: Vec<_> = found.iter().map(|flow| count(flow, "sends")).collect();
        let wanted = if matches(sender) { vec![Some(sender.sends as u64)] } else { vec![] };
        expected += wanted.len();
        rejected += if wanted.is_empty() { sender.sends as u64 } else { 0 };
        if sends != wanted {
            facts.note(format_args!("{found:#?}"));
        }
        facts.equal(format_args!("{arguments:?}: sends of {:?}", sender.end), sends, wanted);
    }
    let ours = [traffic.pair.left.inode(), traffic.pair.right.inode()];
    let listed: Vec<&Flow> = in_namespaces(total, &ours)
        .filter(|flow| count(flow, "sends").is_some_and(|sends| sends > 0))
        .collect();
    facts.note(format_args!("{listed:#?}"));
    facts.equal(format_args!("{arguments:?}: flows that sent"), listed.len(), expected);
    facts.equal(format_args!("{arguments:?}: said to be filtered"), total.filtered, true);
    let filtered = total.accounting["send"].filtered;
    facts.holds(
        format_args!("{arguments:?}: {filtered} sends filtered, the {rejected} of ours among them"),
        filtered >= rejected,
    );
    facts.at_rest(total);
    facts.finish();
    Ok(())
}

/// A SYN-ACK is sent again for a listener, by a timer or a packet that came in, before anyone owns the
/// connection: it is the listening process's.
#[test]
fn synacks_sent_again_belong_to_who_listens() -> Result<()> {
    require!(Feature::Nft);
    let _alone = alone();
    let pair = Pair::new()?;
    let shell = Shell::connect(&pair.left, &pair.right, 1)?;
    for (pid, passes) in [(std::process::id(), true), (shell.pid(), false)] {
        let older = [listen(&pair.right, Family::V4)?, listen(&pair.right, Family::V6)?];
        let netdiag = Netdiag::live(&["--pid", &pid.to_string()])?;
        let younger = [listen(&pair.right, Family::V4)?, listen(&pair.right, Family::V6)?];
        // A child is no listener that ends, though it is a copy of one.
        for ((listener, port), family) in older.iter().zip([Family::V4, Family::Mapped]) {
            let address = address(family, false, *port);
            let _client = pair.left.run(|| TcpStream::connect(address))?;
            listener.accept()?;
        }
        let before = TcpCounters::read(&pair.right)?;
        let every_second = "tcp flags & (syn|ack) == (syn|ack) numgen inc mod 2 0 drop";
        let lost = fault::drop_incoming(&pair.left, every_second)?;
        thread::scope(|scope| {
            let of_family = [Family::V4, Family::Mapped, Family::V4, Family::Mapped];
            let threads: Vec<_> = older
                .iter()
                .chain(&younger)
                .zip(of_family)
                .map(|((listener, port), family)| {
                    let address = address(family, false, *port);
                    let left = &pair.left;
                    let connect = move || -> Result<()> {
                        let _client = left.run(|| TcpStream::connect(address))?;
                        listener.accept()?;
                        Ok(())
                    };
                    scope.spawn(connect)
                })
                .collect();
            threads.into_iter().try_for_each(|thread| thread.join().expect("a client panicked"))
        })?;
        lost.end()?;
        let kernel = TcpCounters::read(&pair.right)?.since(&before)["TCPSynRetrans"];
        let outcome = netdiag.stop()?;
        let total = outcome.total()?;
        let seen = sum(in_namespaces(total, &[pair.right.inode()]), "retransmits.synack") as i64;
        let mut facts = Facts::new();
        facts.holds(format_args!("{kernel} SYN-ACKs were sent again"), kernel > 0);
        let wanted = if passes { kernel } else { 0 };
        facts.equal(format_args!("--pid {pid}: SYN-ACKs sent again"), seen, wanted);
        facts.at_rest(total);
        facts.finish();
    }
    Ok(())
}
