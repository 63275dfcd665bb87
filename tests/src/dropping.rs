//! Packets that a kernel drops, each for a reason that is known beforehand.

pub(crate) mod raw;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::net::{self, AddressFamily, SocketType, sockopt};

use self::raw::{Checksum, Tunnel};
use crate::{
    counters::TcpCounters,
    fault,
    machine::{Series, patience, wait_until},
    namespace::Namespace,
    network::{LEFT_V4, Pair, RIGHT_V4},
    ss, tool,
    traffic::{Connection, Family, listen},
};

/// A way to have packets dropped.
pub struct Case {
    /// What happens to them.
    pub name: &'static str,
    /// The kernel's reason, by the series from which on it gives it, the youngest first. Before the
    /// first with reasons it is the place.
    reasons: &'static [(Series, &'static str)],
    /// Does it, and says what must have come of it.
    provoke: fn(&Pair) -> Result<Dropped>,
}

/// What must be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// Inode of the namespace whose end it is.
    pub netns: u32,
    /// That end, whatever the other.
    pub local: SocketAddr,
    /// How many, by the kernel's own counter or the tool that drops.
    pub packets: u64,
}

/// Packets of each case; fewer than any queue of the kernel has room for.
const PACKETS: u64 = 9;

const V5: Series = Series(5, 10);
const V6: Series = Series(6, 0);
/// Queue disciplines tell their reasons.
const V7: Series = Series(7, 2);

/// All cases.
pub const CASES: &[Case] = &[
    Case {
        name: "a closed TCP port",
        reasons: &[(V6, "NO_SOCKET"), (V5, "at:tcp_v4_rcv")],
        provoke: closed_tcp,
    },
    Case {
        name: "a closed UDP port",
        reasons: &[(V6, "NO_SOCKET"), (V5, "at:__udp4_lib_rcv")],
        provoke: closed_udp,
    },
    Case {
        name: "nftables in PREROUTING",
        reasons: NETFILTER,
        provoke: |pair| by_nftables(pair, "prerouting"),
    },
    Case {
        name: "nftables in INPUT",
        reasons: NETFILTER,
        provoke: |pair| by_nftables(pair, "input"),
    },
    Case {
        name: "nftables in OUTPUT",
        reasons: NETFILTER,
        provoke: |pair| by_nftables(pair, "output"),
    },
    Case {
        name: "nftables, of what IP in IP carries",
        reasons: NETFILTER,
        provoke: |pair| in_tunnel(pair, Tunnel::IpInIp),
    },
    Case {
        name: "nftables, of what VXLAN carries",
        reasons: NETFILTER,
        provoke: |pair| in_tunnel(pair, Tunnel::Vxlan),
    },
    Case {
        name: "nftables, of what Geneve carries",
        reasons: NETFILTER,
        provoke: |pair| in_tunnel(pair, Tunnel::Geneve),
    },
    Case {
        name: "a full UDP receive buffer",
        reasons: &[(V6, "SOCKET_RCVBUFF"), (V5, "at:udp_queue_rcv_one_skb")],
        provoke: udp_receive_buffer,
    },
    Case {
        name: "a bad TCP checksum",
        reasons: &[(V6, "TCP_CSUM"), (V5, "at:tcp_v4_rcv")],
        provoke: |pair| bad_checksum(pair, raw::tcp_syn, "InCsumErrors"),
    },
    Case {
        name: "a bad UDP checksum",
        reasons: &[(V6, "UDP_CSUM"), (V5, "at:__udp4_lib_rcv")],
        provoke: |pair| bad_checksum(pair, raw::udp, "UdpInCsumErrors"),
    },
    Case {
        name: "a full queue discipline",
        reasons: &[(V7, "QDISC_DROP_GENERIC"), (V6, "QDISC_DROP"), (V5, "at:kfree_skb_list")],
        provoke: queue_discipline,
    },
    Case {
        name: "a source that no answer would go to",
        reasons: &[(V6, "IP_RPFILTER"), (V5, "at:ip_rcv_finish_core")],
        provoke: reverse_path,
    },
    Case {
        name: "a neighbour that does not answer",
        reasons: &[(V6, "NEIGH_FAILED"), (V5, "at:neigh_invalidate")],
        provoke: absent_neighbour,
    },
];

const NETFILTER: &[(Series, &str)] = &[(V6, "NETFILTER_DROP"), (V5, "at:nf_hook_slow")];

/// Newer kernels do not throw away what waits to make room for what lies behind all of it, but that
/// (`tcp_prune_ofo_queue`, net/ipv4/tcp_input.c).
const PRUNED: &[(Series, &str)] = &[(Series(6, 12), "PROTO_MEM"), (V6, "TCP_OFO_QUEUE_PRUNE")];

fn on(reasons: &[(Series, &'static str)], series: Series) -> &'static str {
    let found = reasons.iter().find(|(since, _)| *since <= series);
    found.unwrap_or_else(|| panic!("{series:?} is older than all of {reasons:?}")).1
}

/// What a kernel calls a packet that nftables drops.
#[must_use]
pub fn by_firewall(series: Series) -> &'static str {
    on(NETFILTER, series)
}

/// What a kernel with reasons calls the segments of [`pruned`].
#[must_use]
pub fn by_full_buffer(series: Series) -> &'static str {
    on(PRUNED, series)
}

impl Case {
    /// What a kernel calls it.
    ///
    /// # Panics
    /// When the kernel is older than all.
    #[must_use]
    pub fn reason(&self, series: Series) -> &'static str {
        on(self.reasons, series)
    }

    /// Does it on a pair of its own.
    ///
    /// # Errors
    /// When a tool or a socket call fails, or the kernel's counters say otherwise.
    pub fn provoke(&self) -> Result<(Pair, Dropped)> {
        let pair = Pair::new()?;
        let dropped = (self.provoke)(&pair).with_context(|| self.name)?;
        ensure!(dropped.packets > 0, "{}: nothing was dropped", self.name);
        Ok((pair, dropped))
    }
}

fn at(port: u16) -> SocketAddr {
    (RIGHT_V4, port).into()
}

fn udp_socket(namespace: &Namespace) -> Result<UdpSocket> {
    Ok(namespace.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?)
}

/// How much a counter of the right end rises by what the left end sends in `work`.
fn rise(pair: &Pair, counter: &str, work: impl FnOnce() -> Result<()>) -> Result<u64> {
    let before = TcpCounters::read(&pair.right)?;
    work()?;
    pair.wait_until_received()?;
    Ok(TcpCounters::read(&pair.right)?.since(&before)[counter].try_into()?)
}

fn closed_tcp(pair: &Pair) -> Result<Dropped> {
    let local = at(81);
    let packets = rise(pair, "OutRsts", || {
        for _ in 0..PACKETS {
            let refused = pair.left.run(|| TcpStream::connect(local));
            ensure!(refused.is_err(), "somebody listens");
        }
        Ok(())
    })?;
    Ok(Dropped { netns: pair.right.inode(), local, packets })
}

/// Sends from `socket` to a port of the right end; the errors that come back are part of it.
fn send_all(socket: &UdpSocket, to: SocketAddr) {
    for _ in 0..PACKETS {
        let _refused = socket.send_to(b"netdiag", to);
    }
}

fn closed_udp(pair: &Pair) -> Result<Dropped> {
    let local = at(82);
    let socket = udp_socket(&pair.left)?;
    let packets = rise(pair, "UdpNoPorts", || {
        send_all(&socket, local);
        Ok(())
    })?;
    ensure_each(packets)?;
    Ok(Dropped { netns: pair.right.inode(), local, packets })
}

fn by_nftables(pair: &Pair, hook: &str) -> Result<Dropped> {
    let to = at(83);
    let socket = udp_socket(&pair.left)?;
    let sender = SocketAddr::new(LEFT_V4.into(), socket.local_addr()?.port());
    let (namespace, local) =
        if hook == "output" { (&pair.left, sender) } else { (&pair.right, to) };
    let rule = "udp dport 83 counter drop";
    let fault = match hook {
        "output" => fault::drop_outgoing(namespace, rule)?,
        "input" => fault::drop_delivered(namespace, rule)?,
        _ => fault::drop_incoming(namespace, rule)?,
    };
    send_all(&socket, to);
    pair.wait_until_received()?;
    let packets = counted(namespace)?;
    ensure_each(packets)?;
    fault.end()?;
    Ok(Dropped { netns: namespace.inode(), local, packets })
}

/// Packets of a conversation between two hosts that this one does not know.
fn in_tunnel(pair: &Pair, tunnel: Tunnel) -> Result<Dropped> {
    let [from, to] = [1, 2].map(|host| SocketAddrV4::new(Ipv4Addr::new(172, 16, 0, host), 87));
    let inner = raw::tcp_syn(from, to, Checksum::Right);
    let outer = tunnel.around(LEFT_V4, RIGHT_V4, &inner);
    let fault = fault::drop_incoming(&pair.right, &format!("{} counter drop", tunnel.rule()))?;
    raw::send(&raw::socket(&pair.left)?, &outer, PACKETS)?;
    pair.wait_until_received()?;
    let packets = counted(&pair.right)?;
    ensure_each(packets)?;
    fault.end()?;
    Ok(Dropped { netns: pair.right.inode(), local: to.into(), packets })
}

/// That each packet of a case was counted.
fn ensure_each(packets: u64) -> Result<()> {
    ensure!(packets == PACKETS, "{packets} of {PACKETS} packets were counted");
    Ok(())
}

/// What the counter of the only rule in a namespace says.
///
/// # Errors
/// When `nft` fails or there is none.
pub fn counted(namespace: &Namespace) -> Result<u64> {
    let listing = namespace.command("nft")?.args(["list", "ruleset"]).output()?;
    let listing = tool::finish("nft list ruleset", &listing)?;
    let counted = listing.split_once("counter packets ").context("no counter")?.1;
    Ok(counted.split_whitespace().next().context("no number")?.parse()?)
}

/// A firewall under attack: drops all that two threads send until `end`, one of them on one
/// connection, the other from ever other ports of ever other hosts. Returns how many packets that
/// were, by the firewall's counter.
///
/// # Errors
/// When `nft` or a socket call fails.
///
/// # Panics
/// When a thread does.
pub fn flood(pair: &Pair, end: &AtomicBool) -> Result<u64> {
    let fault = fault::drop_incoming(&pair.right, "udp dport 83 counter drop")?;
    let socket = udp_socket(&pair.left)?;
    socket.connect(at(83))?;
    thread::scope(|scope| -> Result<()> {
        let spoofing = scope.spawn(|| -> Result<()> {
            let socket = raw::socket(&pair.left)?;
            let target = SocketAddrV4::new(RIGHT_V4, 83);
            let mut sources = (0..=u16::MAX).cycle();
            while !end.load(Relaxed) {
                let number = sources.next().unwrap_or_default();
                let host = Ipv4Addr::new(10, 77, (number >> 8) as u8, 3);
                let source = SocketAddrV4::new(host, number | 1);
                raw::send(&socket, &raw::udp(source, target, Checksum::Right), 1)?;
            }
            Ok(())
        });
        while !end.load(Relaxed) {
            socket.send(b"netdiag")?;
        }
        spoofing.join().expect("the spoofing thread panicked")
    })?;
    pair.wait_until_received()?;
    let packets = counted(&pair.right)?;
    fault.end()?;
    Ok(packets)
}

/// Records that netdiag's programs hand on at most of what two threads do in that time, were each packet
/// one of its own: of full tables so many leave each processor in a tenth of a second.
#[must_use]
pub fn one_by_one(handed: u64, time: Duration) -> u64 {
    const THREADS: u64 = 2;
    const WINDOW: u128 = 100;
    THREADS * handed * (time.as_millis() / WINDOW + 1) as u64
}

fn udp_receive_buffer(pair: &Pair) -> Result<Dropped> {
    let full = udp_socket(&pair.right)?;
    sockopt::set_socket_recv_buffer_size(&full, 0)?;
    let local = at(full.local_addr()?.port());
    let socket = udp_socket(&pair.left)?;
    let packets = rise(pair, "UdpRcvbufErrors", || {
        for _ in 0..4 {
            send_all(&socket, local);
        }
        Ok(())
    })?;
    full.set_nonblocking(true)?;
    let took = std::iter::repeat_with(|| full.recv(&mut [0; 16])).take_while(Result::is_ok).count();
    let sent = 4 * PACKETS;
    ensure!(took as u64 + packets == sent, "{took} taken and {packets} dropped of {sent}");
    Ok(Dropped { netns: pair.right.inode(), local, packets })
}

/// Builds a packet of a protocol.
type Packet = fn(SocketAddrV4, SocketAddrV4, Checksum) -> Vec<u8>;

fn bad_checksum(pair: &Pair, packet: Packet, counter: &str) -> Result<Dropped> {
    let listener = listen(&pair.right, Family::V4)?;
    let socket = udp_socket(&pair.right)?;
    let port = if counter.starts_with("Udp") { socket.local_addr()?.port() } else { listener.1 };
    let packet = packet(
        SocketAddrV4::new(LEFT_V4, 4000),
        SocketAddrV4::new(RIGHT_V4, port),
        Checksum::Wrong,
    );
    let packets = rise(pair, counter, || raw::send(&raw::socket(&pair.left)?, &packet, PACKETS))?;
    ensure_each(packets)?;
    Ok(Dropped { netns: pair.right.inode(), local: at(port), packets })
}

fn queue_discipline(pair: &Pair) -> Result<Dropped> {
    // Nothing else shall wait in it.
    pair.left.run(|| fs::write("/proc/sys/net/ipv6/conf/wire/disable_ipv6", "1"))?;
    let socket = udp_socket(&pair.left)?;
    let local = SocketAddr::new(LEFT_V4.into(), socket.local_addr()?.port());
    pair.left.ip("neigh replace 10.77.0.2 lladdr 02:00:00:00:00:02 dev wire nud permanent")?;
    let tc = format!("tc -n {}", pair.left.name());
    tool::line(&format!("{tc} qdisc add dev wire root tbf rate 8kbit burst 1600 limit 2000"))?;
    for _ in 0..6 {
        for _ in 0..PACKETS {
            let _full = socket.send_to(&[0; 100], at(84));
        }
    }
    let statistics = tool::line(&format!("{tc} -s qdisc show dev wire"))?;
    let dropped = statistics.split_once("dropped ").context("tc shows no drops")?.1;
    let packets = dropped.split(',').next().context("tc shows no number")?.parse()?;
    Ok(Dropped { netns: pair.left.inode(), local, packets })
}

fn reverse_path(pair: &Pair) -> Result<Dropped> {
    pair.right.run(|| {
        ["all", "wire"].iter().try_for_each(|device| {
            fs::write(format!("/proc/sys/net/ipv4/conf/{device}/rp_filter"), "1")
        })
    })?;
    let source = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 4000);
    let packet = raw::udp(source, SocketAddrV4::new(RIGHT_V4, 85), Checksum::Right);
    let packets = rise(pair, "IPReversePathFilter", || {
        raw::send(&raw::socket(&pair.left)?, &packet, PACKETS)
    })?;
    ensure_each(packets)?;
    Ok(Dropped { netns: pair.right.inode(), local: at(85), packets })
}

/// Three of them wait for the address of the neighbour, and are dropped with it.
fn absent_neighbour(pair: &Pair) -> Result<Dropped> {
    const WAITING: u64 = 3;
    let socket = udp_socket(&pair.left)?;
    let local = SocketAddr::new(LEFT_V4.into(), socket.local_addr()?.port());
    for _ in 0..WAITING {
        socket.send_to(b"netdiag", "10.77.0.99:86")?;
    }
    let failed = wait_until(|| {
        let said = pair.left.ip("neigh show 10.77.0.99");
        said.is_ok_and(|said| said.contains("FAILED"))
    });
    ensure!(failed, "the neighbour does not fail");
    Ok(Dropped { netns: pair.left.inode(), local, packets: WAITING })
}

/// A listener that accepts nobody, and more clients than its queue has room for, which send their
/// requests again. Returns it with the requests that it dropped.
///
/// # Errors
/// When a socket call fails.
pub fn overflowed(pair: &Pair) -> Result<(Dropped, TcpListener)> {
    const ROOM: i32 = 2;
    /// Long enough for most to send it a second time, after a second.
    const BEYOND: Duration = Duration::from_millis(1500);
    let listener = pair.right.run(|| -> Result<_> {
        let socket = net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
        net::bind(&socket, &SocketAddrV4::new(RIGHT_V4, 0))?;
        net::listen(&socket, ROOM)?;
        Ok(TcpListener::from(socket))
    })?;
    let local = listener.local_addr()?;
    let packets = rise(pair, "ListenDrops", || {
        let connect = |within| pair.left.run(|| TcpStream::connect_timeout(&local, within));
        // One more than its room is let in.
        let _waiting = (0..=ROOM).map(|_| connect(patience())).collect::<Result<Vec<_>, _>>()?;
        // A client is connected before the last packet of its handshake has come.
        let full = wait_until(|| waiting(&pair.right, local).is_ok_and(|n| n > ROOM as u64));
        ensure!(full, "the accept queue does not fill");
        thread::scope(|scope| {
            let beyond = || connect(BEYOND);
            let clients: Vec<_> = (0..4).map(|_| scope.spawn(beyond)).collect();
            clients.into_iter().try_for_each(|client| {
                let refused = client.join().expect("a client panicked").is_err();
                ensure!(refused, "there was room");
                Ok(())
            })
        })
    })?;
    Ok((Dropped { netns: pair.right.inode(), local, packets }, listener))
}

/// Connections that wait for a listener of IPv4 to accept them (proc(5), /proc/net/tcp: where a socket
/// listens, what stands for the bytes received).
fn waiting(namespace: &Namespace, listener: SocketAddr) -> Result<u64> {
    const LISTEN: &str = "0A";
    let path = "/proc/thread-self/net/tcp";
    let text = namespace.run(|| fs::read_to_string(path)).context(path)?;
    let port = format!(":{:04X}", listener.port());
    let queue = text.lines().find_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let [_, local, _, LISTEN, queues, ..] = words[..] else { return None };
        local.ends_with(&port).then(|| queues.split_once(':'))?
    });
    let (_, received) = queue.with_context(|| format!("nobody listens at {listener}"))?;
    Ok(u64::from_str_radix(received, 16)?)
}

/// A connection whose receiver gets every second byte, each in a segment of its own, until those that
/// wait for the others take more than its receive buffer, by the overhead of each. Returns the
/// receiving end with its drops by `ss`, and the connection.
///
/// # Errors
/// When a socket call or `ss` fails.
pub fn pruned(pair: &Pair) -> Result<(Dropped, Connection)> {
    let connection = Connection::open(&pair.left, &pair.right, Family::V4)?;
    sockopt::set_socket_recv_buffer_size(&connection.server, 8 << 10)?;
    let end = connection.server_end()?;
    let (SocketAddr::V4(from), SocketAddr::V4(to)) = (end.peer, end.local) else {
        bail!("{end:?} is not IPv4")
    };
    let [sent, received] = raw::sequence_numbers(&connection.client)?;
    let socket = raw::socket(&pair.left)?;
    for hole in 0..200 {
        let packet = raw::tcp_byte(from, to, sent.wrapping_add(1 + 2 * hole), received);
        raw::send(&socket, &packet, 1)?;
    }
    pair.wait_until_received()?;
    let said = ss::said_of(&pair.right, &end)?;
    let packets = said.get("skmem_d").copied().context("ss shows no drops")?;
    Ok((Dropped { netns: end.netns, local: end.local, packets }, connection))
}
