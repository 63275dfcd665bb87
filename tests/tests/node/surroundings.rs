//! Interfaces, queues, sockets, ports, CPUs and rules against `ip`, `tc`, `ss`, `nstat`, `nft` and the
//! kernel's own files.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    net::{Shutdown, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    os::fd::OwnedFd,
    path::Path,
    process,
    time::Duration,
};

use netdiag::{
    node::{netns::Namespace, own, surroundings::Surroundings},
    snapshot::{Node, node::States},
};
use netdiag_tests::{cgroup::Limited, child::Own, requirement::alone};
use rustix::{
    io::Errno,
    net::{self, AddressFamily, SocketType, sockopt},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use serde_json::Value;

use super::{Asked as _, Made, make, until};

/// Two namespaces with a link between them whose ends disagree on the MTU.
fn linked() -> (Made, Made) {
    let (here, there) = (make("here"), make("there"));
    here.exec(&format!("ip link add v0 type veth peer name v1 netns {}", there.name()));
    here.exec("ip address add 10.99.0.1/24 dev v0");
    there.exec("ip address add 10.99.0.2/24 dev v1");
    here.exec("ip link set v0 up");
    there.exec("ip link set v1 up mtu 1400");
    (here, there)
}

struct Watch {
    namespaces: Vec<Namespace>,
    surroundings: Surroundings,
}

impl Watch {
    fn begin(made: &[&Made]) -> Self {
        let namespaces: Vec<_> = made.iter().map(|made| made.found()).collect();
        let surroundings = Surroundings::begin(&namespaces, Path::new("/"));
        Self { namespaces, surroundings }
    }

    fn advance(&mut self) -> Node {
        let mut node = Node::default();
        self.surroundings.advance(&self.namespaces, &mut node);
        assert_eq!(self.surroundings.problems(), [""; 0]);
        node
    }

    fn total(&mut self) -> Node {
        let mut node = Node::default();
        self.surroundings.total(&mut node);
        node
    }
}

fn json(made: &Made, command: &str) -> Vec<Value> {
    serde_json::from_str(&made.exec(command)).unwrap()
}

/// The counts of an interface by `ip`.
fn counts(made: &Made, name: &str) -> BTreeMap<&'static str, u64> {
    let links = json(made, "ip -s -s -j link");
    let link = links.iter().find(|link| link["ifname"] == name).unwrap();
    [
        ("rx_bytes", "/stats64/rx/bytes"),
        ("rx_packets", "/stats64/rx/packets"),
        ("rx_errors", "/stats64/rx/errors"),
        ("rx_dropped", "/stats64/rx/dropped"),
        ("tx_bytes", "/stats64/tx/bytes"),
        ("tx_packets", "/stats64/tx/packets"),
        ("tx_errors", "/stats64/tx/errors"),
        ("tx_dropped", "/stats64/tx/dropped"),
    ]
    .map(|(name, path)| (name, link.pointer(path).and_then(Value::as_u64).unwrap()))
    .into()
}

#[test]
fn links_queues_routes_and_rules() {
    let (here, there) = linked();
    here.exec("ip route add 10.98.0.0/16 via 10.99.0.2 mtu 1300");
    here.exec("tc qdisc add dev v0 root tbf rate 1mbit burst 3000 limit 6000");
    here.exec("nft add table ip some");
    here.exec("nft add chain ip some rules");
    for _ in 0..3 {
        here.exec("nft add rule ip some rules counter");
    }
    here.exec("nft add table inet none");
    // A neighbour may be looked for at any time.
    let (mut watch, before) = until("nothing moves", || {
        let first = counts(&here, "v0");
        let watch = Watch::begin(&[&here, &there]);
        (first == counts(&here, "v0")).then_some((watch, first))
    });
    here.run(|| {
        let socket = UdpSocket::bind("10.99.0.1:0").unwrap();
        for _ in 0..40 {
            let _refused = socket.send_to(&[0; 1300], "10.99.0.2:9");
        }
    });
    until("the queue is empty", || {
        let queues = json(&here, "tc -s -j qdisc show dev v0");
        (queues[0]["qlen"] == 0).then_some(())
    });
    let (node, rose) = until("nothing moves", || {
        let first = counts(&here, "v0");
        watch.advance();
        let total = watch.total();
        let second = counts(&here, "v0");
        let rise = |(name, now): (&&'static str, &u64)| (*name, now - before[name]);
        (first == second).then(|| (total, second.iter().map(rise).collect::<BTreeMap<_, _>>()))
    });
    let interface = |made: &Made, name: &str| {
        let of = |one: &&_| one_is(one, made, name);
        node.interfaces.iter().find(of).unwrap()
    };
    let (v0, v1) = (interface(&here, "v0"), interface(&there, "v1"));
    let ours = BTreeMap::from(
        [
            ("rx_bytes", v0.rx_bytes),
            ("rx_packets", v0.rx_packets),
            ("rx_errors", v0.rx_errors),
            ("rx_dropped", v0.rx_dropped),
            ("tx_bytes", v0.tx_bytes),
            ("tx_packets", v0.tx_packets),
            ("tx_errors", v0.tx_errors),
            ("tx_dropped", v0.tx_dropped),
        ]
        .map(|(name, value)| (name, value.unwrap())),
    );
    assert_eq!(ours, rose);
    assert!(rose["tx_packets"] > 0, "{rose:?}");
    assert_eq!((v0.mtu, v1.mtu, v0.kind.as_deref()), (1500, 1400, Some("veth")));
    assert_eq!((v0.up, v0.carrier, v0.speed_bits, v0.loopback), (true, Some(true), None, false));
    let peer = v0.peer.unwrap();
    assert_eq!((peer.index, peer.netns), (v1.index, Some(there.inode())));
    assert_eq!(v1.peer.unwrap().netns, Some(here.inode()));
    assert!(interface(&here, "lo").loopback);

    let queues = json(&here, "tc -s -j qdisc show dev v0");
    let theirs = queues.iter().find(|queue| queue["kind"] == "tbf").unwrap();
    let qdisc = node.qdiscs.iter().find(|one| one.netns == here.inode()).unwrap();
    assert_eq!((qdisc.kind.as_str(), qdisc.interface.as_deref()), ("tbf", Some("v0")));
    assert_eq!(qdisc.rate_bits, Some(1_000_000));
    assert_eq!(qdisc.handle, theirs["handle"]);
    for (name, ours) in
        [("drops", qdisc.drops), ("overlimits", qdisc.overlimits), ("requeues", qdisc.requeues)]
    {
        assert_eq!(theirs[name], ours, "{name}: {qdisc:?}");
    }
    assert!(qdisc.drops > 0 && qdisc.overlimits > 0, "{qdisc:?}");

    let routes: Vec<_> = node
        .route_mtus
        .iter()
        .map(|route| (route.netns, route.destination.as_str(), route.index, route.mtu))
        .collect();
    assert_eq!(routes, [(here.inode(), "10.98.0.0/16", Some(v0.index), 1300)]);
    let tables: Vec<_> = node
        .netfilter
        .iter()
        .map(|table| (table.netns, table.family.as_str(), table.table.as_str(), table.rules))
        .collect();
    let here = here.inode();
    assert_eq!(tables, [(here, "inet", "none", Some(0)), (here, "ip", "some", Some(3))]);
}

fn one_is(one: &netdiag::snapshot::node::Interface, made: &Made, name: &str) -> bool {
    one.netns == made.inode() && one.name == name
}

/// How many sockets by state, by `ss`.
fn ss(made: &Made) -> States {
    let mut states = States::default();
    for line in made.exec("ss -H -tan").lines() {
        *match line.split_ascii_whitespace().next().unwrap() {
            "ESTAB" => &mut states.established,
            "SYN-SENT" => &mut states.syn_sent,
            "SYN-RECV" => &mut states.syn_recv,
            "FIN-WAIT-1" => &mut states.fin_wait1,
            "FIN-WAIT-2" => &mut states.fin_wait2,
            "TIME-WAIT" => &mut states.time_wait,
            "CLOSE-WAIT" => &mut states.close_wait,
            "LAST-ACK" => &mut states.last_ack,
            "LISTEN" => &mut states.listen,
            "CLOSING" => &mut states.closing,
            other => panic!("{other}"),
        } += 1;
    }
    states
}

/// A connection that waits for an answer.
fn begin_to_connect(to: &str) -> OwnedFd {
    let socket = net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::io::ioctl_fionbio(&socket, true).unwrap();
    let to: SocketAddrV4 = to.parse().unwrap();
    assert_eq!(net::connect(&socket, &to), Err(Errno::INPROGRESS));
    socket
}

#[test]
fn sockets_ports_and_queues() {
    const LEAKED: usize = 12;
    let (here, there) = linked();
    here.exec("ip neighbour add 10.99.0.9 lladdr 02:00:00:00:00:01 dev v0");
    let held = here.run(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = listener.local_addr().unwrap();
        let pair = || {
            let client = TcpStream::connect(there).unwrap();
            (client, listener.accept().unwrap().0)
        };
        // Both ends are open; the client closed; and both closed, the client first.
        let mut all: Vec<_> = (0..5).map(|_| pair()).collect();
        for _ in 0..LEAKED {
            let (client, server) = pair();
            client.shutdown(Shutdown::Write).unwrap();
            all.push((client, server));
        }
        for _ in 0..3 {
            let (client, server) = pair();
            drop(client);
            drop(server);
        }
        let lost: Vec<_> = (0..4).map(|_| begin_to_connect("10.99.0.9:443")).collect();
        // Nobody accepts.
        let full = TcpListener::bind("127.0.0.1:0").unwrap();
        net::listen(&full, 2).unwrap();
        let waiting: Vec<_> =
            (0..2).map(|_| TcpStream::connect(full.local_addr().unwrap()).unwrap()).collect();
        (listener, all, lost, full, waiting)
    });
    // Its answer goes nowhere, and the request stays one.
    let requested = there.run(|| TcpListener::bind("10.99.0.2:80").unwrap());
    there.exec("ip neighbour replace 10.99.0.1 lladdr 02:00:00:00:00:66 dev v1");
    let request = here.run(|| begin_to_connect("10.99.0.2:80"));
    until("the request arrives", || (ss(&there).syn_recv == 1).then_some(()));

    let (node, theirs) = until("the states come to rest", || {
        // One that just began counts at once, later ones are seconds apart.
        let (first, mut watch) = (ss(&here), Watch::begin(&[&here, &there]));
        let (node, second) = (watch.advance(), ss(&here));
        let is_told = |made: &Made| node.sockets.iter().any(|one| one.netns == made.inode());
        let rests = first == second && is_told(&here) && is_told(&there);
        rests.then_some((node, second))
    });
    let of = |made: &Made| node.sockets.iter().find(|one| one.netns == made.inode()).unwrap();
    let ours = of(&here);
    assert_eq!(ours.states, theirs);
    let States { established, close_wait, fin_wait2, time_wait, syn_sent, listen, .. } = theirs;
    assert_eq!((close_wait, fin_wait2, time_wait), (LEAKED as u64, LEAKED as u64, 3));
    assert_eq!((established, syn_sent, listen), (10 + 4, 5, 2));
    assert_eq!(of(&there).states.syn_recv, 1);

    let [leak] = &ours.close_wait[..] else { panic!("{ours:?}") };
    assert_eq!((leak.owner.pid, leak.count), (Some(process::id()), LEAKED as u64));
    let served = held.0.local_addr().unwrap();
    let [waits] = &ours.time_wait[..] else { panic!("{ours:?}") };
    assert_eq!((waits.count, waits.peer.port), (3, Some(served.port())));
    assert_eq!(ours.fin_wait2[0].peer.port, Some(served.port()));
    let sent: Vec<_> = ours.syn_sent.iter().map(|one| (one.peer.port, one.count)).collect();
    assert_eq!(sent, [(Some(443), 4), (Some(80), 1)]);

    let ports = node.ports.iter().find(|one| one.netns == here.inode()).unwrap();
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let range: Vec<u16> = range.split_whitespace().map(|port| port.parse().unwrap()).collect();
    assert_eq!((ports.first, ports.last), (Some(range[0]), Some(range[1])));
    let most = &ports.destinations[0];
    assert_eq!((most.peer.port, most.taken), (Some(served.port()), 5 + LEAKED as u64 + 3));
    assert_eq!(most.time_wait, 3);
    let expected: std::collections::BTreeSet<u16> = here
        .exec("ss -H -tan")
        .lines()
        .filter_map(|line| line.split_whitespace().nth(3)?.rsplit_once(':')?.1.parse().ok())
        .filter(|port| (range[0]..=range[1]).contains(port))
        .collect();
    assert_eq!(ports.taken, expected.len() as u64);

    let full = held.3.local_addr().unwrap().port();
    let queue = node.listen_queues.iter().find(|one| one.netns == here.inode()).unwrap();
    assert_eq!((queue.local.port, queue.accept_queue), (Some(full), 2));
    assert_eq!((queue.accept_queue_limit, queue.owner.pid), (2, Some(process::id())));
    drop((held, requested, request));
}

#[test]
fn counters_of_protocols_equal_to_nstat() {
    let (here, there) = linked();
    let nstat = || -> BTreeMap<String, u64> {
        let all: Value = serde_json::from_str(&here.exec("nstat -z -a -s -j")).unwrap();
        let all = all["kernel"].as_object().unwrap();
        all.iter().map(|(name, value)| (name.clone(), value.as_u64().unwrap())).collect()
    };
    // A neighbour may be looked for at any time.
    let (mut watch, before) = until("the counters rest", || {
        let first = nstat();
        let watch = Watch::begin(&[&here, &there]);
        (first == nstat()).then_some((watch, first))
    });
    let _open = here.run(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(&[1], "127.0.0.1:9").unwrap();
        let full = UdpSocket::bind("127.0.0.1:0").unwrap();
        sockopt::set_socket_recv_buffer_size(&full, 4_096).unwrap();
        for _ in 0..20 {
            let _ = socket.send_to(&[0; 1_000], full.local_addr().unwrap());
        }
        // Nobody routes that.
        let _unreachable = socket.send_to(&[1], "192.0.2.1:9");
        (socket, full)
    });
    let (total, after) = until("the counters come to rest", || {
        let first = nstat();
        watch.advance();
        let total = watch.total();
        (first == nstat()).then_some((total, first))
    });
    let groups = [("Ip", &total.ip), ("Udp", &total.udp), ("Icmp", &total.icmp)];
    for (group, ours) in groups {
        for (name, value) in &ours[&here.inode()] {
            let theirs = ["", group]
                .map(|before| format!("{before}{name}"))
                .into_iter()
                .find(|name| after.contains_key(name))
                .or_else(|| Some(format!("IcmpMsg{name}")).filter(|one| after.contains_key(one)));
            let Some(theirs) = theirs else {
                assert!(*value == 0 && name.ends_with("Type3"), "nstat has no {group}{name}");
                continue;
            };
            let rise = after[&theirs] - before.get(&theirs).copied().unwrap_or(0);
            assert_eq!(*value, rise, "{theirs}");
        }
    }
    let told = |all: &BTreeMap<u32, BTreeMap<String, u64>>, name: &str| all[&here.inode()][name];
    assert_eq!(told(&total.udp, "NoPorts"), 1);
    assert!(told(&total.udp, "RcvbufErrors") > 0);
    assert_eq!(told(&total.icmp, "InType3"), 1);
    assert!(told(&total.ip, "OutNoRoutes") >= 1);
}

#[test]
fn cpus_and_what_they_take() {
    let made = make("cpus");
    let processed = || -> u64 {
        let text = fs::read_to_string("/proc/net/softnet_stat").unwrap();
        let first = text.lines().map(|line| line.split(' ').next().unwrap());
        first.map(|word| u64::from_str_radix(word, 16).unwrap()).sum()
    };
    let outside = processed();
    let mut watch = Watch::begin(&[&made]);
    let inside = processed();
    made.run(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..200 {
            socket.send_to(&[1], socket.local_addr().unwrap()).unwrap();
        }
        let begin = std::time::Instant::now();
        while begin.elapsed() < Duration::from_millis(300) {
            std::hint::black_box(());
        }
    });
    let least = processed() - inside;
    let node = watch.advance();
    let most = processed() - outside;
    let ours: u64 = node.softnet.iter().map(|one| one.processed).sum();
    assert!((200..).contains(&least) && (least..=most).contains(&ours), "{least} {ours} {most}");
    let cpu = node.cpu.unwrap();
    assert!(cpu.busiest.busy_ratio > 0.3 && cpu.mean.busy_ratio <= 1.0, "{cpu:?}");
    assert!(cpu.runnable.unwrap() >= 1, "{cpu:?}");
    assert_eq!(cpu.pressure.is_some(), fs::read("/proc/pressure/cpu").is_ok());
    assert!(node.memory.tcp.pages.is_some() && node.memory.udp.high_pages.is_some());
    assert_eq!(node.settings.len(), 1);
}

#[test]
fn a_group_that_is_held_back() {
    // It changes what groups of the machine have.
    let _alone = alone();
    let group = Limited::new("held-back", 5).unwrap();
    let made = make("held-back");
    let mut watch = Watch::begin(&[&made]);
    let mut busy = process::Command::new("sh")
        .args(["-c", "read go; while :; do :; done"])
        .stdin(process::Stdio::piped())
        .spawn()
        .unwrap();
    group.hold(busy.id()).unwrap();
    let idle = Own::from(process::Command::new("sleep").arg("1000").spawn().unwrap());
    group.hold(idle.id()).unwrap();
    busy.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let throttled = || group.throttled().unwrap();
    until("it is held back", || (throttled() >= 3).then_some(()));
    busy.kill().unwrap();
    busy.wait().unwrap();
    until("it rests", || {
        let before = throttled();
        std::thread::sleep(Duration::from_millis(250));
        (throttled() == before).then_some(())
    });
    let node = watch.advance();
    let found = node.throttled.iter().find(|one| one.cgroup.ends_with(group.name()));
    let found = found.unwrap_or_else(|| panic!("{:?}", node.throttled));
    assert_eq!(found.throttled_periods, throttled());
    assert!(found.throttled_us > 0 && found.periods >= found.throttled_periods, "{found:?}");
    assert_eq!((found.quota_us, found.period_us), (Some(5_000), Some(100_000)));
    // By the numbers of the first PID namespace (include/linux/proc_ns.h), or not at all.
    let own = fs::read_link("/proc/self/ns/pid").unwrap();
    let is_first = own.as_os_str() == "pid:[4026531836]";
    assert_eq!(found.pids, is_first.then(|| vec![idle.id()]), "{own:?}");
}

/// Times are printed, not judged.
#[test]
fn twenty_namespaces_and_a_thousand_sockets() {
    let made: Vec<_> = (0..20).map(|number| make(&format!("s{number}"))).collect();
    let pairs = std::env::var("NETDIAG_PAIRS").ok().map_or(500, |pairs| pairs.parse().unwrap());
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.current.max(Some(2 * pairs as u64 + 500));
    let maximum = limit.maximum.max(wanted);
    setrlimit(Resource::Nofile, Rlimit { current: wanted, maximum }).unwrap();
    let held = made[0].run(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = listener.local_addr().unwrap();
        let pair = |_| (TcpStream::connect(there).unwrap(), listener.accept().unwrap().0);
        (0..pairs).map(pair).collect::<Vec<_>>()
    });
    let mut watch = Watch::begin(&made.iter().collect::<Vec<_>>());
    for round in 0..6 {
        let before = own::cpu_time();
        let node = watch.advance();
        let spent = own::cpu_time() - before;
        let sockets = node.sockets.first().map(|one| (one.states.established, one.age_ns));
        eprintln!("round {round}: {spent:?} of CPU time, sockets and their age: {sockets:?}");
        std::thread::sleep(Duration::from_millis(500));
    }
    let node = watch.advance();
    assert_eq!(node.settings.len(), made.len());
    assert_eq!(node.sockets[0].states.established, 2 * held.len() as u64);
}
