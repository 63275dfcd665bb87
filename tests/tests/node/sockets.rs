//! Sockets and their owners against `ss`.

use std::{
    collections::{BTreeMap, HashSet},
    io::{Read, Write},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    path::Path,
    process::{self, Command, Stdio},
};

use netdiag::node::{
    owners, seed,
    sockets::{FULL, Socket, dump_all},
};
use netdiag_tests::traffic::canonical;

use super::{Asked as _, Made, NONE, make, unexpected, until};

/// What `ss` says of a socket that netdiag says as well.
#[derive(Debug, PartialEq)]
struct Said {
    local: SocketAddr,
    peer: Option<SocketAddr>,
    inode: u64,
    pid: Option<u32>,
    numbers: BTreeMap<&'static str, u64>,
}

const NUMBERS: [&str; 8] = [
    "bytes_sent",
    "bytes_received",
    "bytes_acked",
    "bytes_retrans",
    "segs_out",
    "segs_in",
    "cwnd",
    "rtt",
];

/// By cookie. `ss` leaves out what is zero.
fn ss(namespace: &Made) -> BTreeMap<u64, Said> {
    let text = namespace
        .exec("ss --tcp --numeric --all --processes --info --extended --no-header --oneline");
    text.lines().map(said).collect()
}

fn said(line: &str) -> (u64, Said) {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let after = |prefix: &str| {
        words.iter().find_map(|word| word.strip_prefix(prefix)).map(ToOwned::to_owned)
    };
    let pid = line.split("pid=").nth(1).and_then(|rest| rest.split(',').next()?.parse().ok());
    let number = |name: &str| match (name, after(&format!("{name}:"))) {
        (_, None) => 0,
        ("rtt", Some(pair)) => {
            let milliseconds: f64 = pair.split('/').next().unwrap().parse().unwrap();
            (milliseconds * 1000.0).round() as u64
        }
        (_, Some(value)) => value.parse().unwrap(),
    };
    let listens = words[0] == "LISTEN";
    let said = Said {
        local: address(words[3]).unwrap(),
        peer: address(words[4]),
        inode: after("ino:").map_or(0, |inode| inode.parse().unwrap()),
        pid,
        numbers: if listens {
            BTreeMap::new()
        } else {
            NUMBERS.into_iter().map(|name| (name, number(name))).collect()
        },
    };
    (u64::from_str_radix(&after("sk:").unwrap(), 16).unwrap(), said)
}

fn address(word: &str) -> Option<SocketAddr> {
    let (ip, port) = word.rsplit_once(':')?;
    let ip = match ip.trim_matches(['[', ']']) {
        "*" => Ipv6Addr::UNSPECIFIED.into(),
        ip => ip.parse().unwrap(),
    };
    Some(SocketAddr::new(ip, port.parse().ok()?))
}

fn ours(socket: &Socket, pid: Option<u32>) -> (u64, Said) {
    let address = |octets, port| {
        let address = Ipv6Addr::from(octets);
        let ip = address.to_ipv4_mapped().map_or(address.into(), Into::into);
        SocketAddr::new(ip, port)
    };
    let key = &socket.key;
    let numbers = socket.tcp.map(|tcp| {
        [
            tcp.bytes_sent,
            tcp.bytes_received,
            tcp.bytes_acked,
            tcp.bytes_retrans,
            tcp.segs_out.into(),
            tcp.segs_in.into(),
            tcp.cwnd.into(),
            tcp.srtt_us.into(),
        ]
    });
    let said = Said {
        local: address(key.local_addr, key.local_port),
        peer: (key.peer_port != 0).then(|| address(key.peer_addr, key.peer_port)),
        inode: socket.inode,
        pid,
        numbers: numbers
            .map(|numbers| NUMBERS.into_iter().zip(numbers).collect())
            .unwrap_or_default(),
    };
    (socket.cookie, said)
}

/// With addresses as netdiag names them.
fn of_canonical_ends(said: Said) -> Said {
    Said { local: canonical(said.local), peer: said.peer.map(canonical), ..said }
}

/// A connection to `listener` by way of `ip`, on which so many bytes went each way.
fn talk(listener: &TcpListener, ip: &str, request: usize, reply: usize) -> [TcpStream; 2] {
    let address = SocketAddr::new(ip.parse().unwrap(), listener.local_addr().unwrap().port());
    let mut client = TcpStream::connect(address).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    client.write_all(&vec![1; request]).unwrap();
    server.read_exact(&mut vec![0; request]).unwrap();
    server.write_all(&vec![2; reply]).unwrap();
    client.read_exact(&mut vec![0; reply]).unwrap();
    [client, server]
}

#[test]
fn equal_to_ss() {
    let made = make("ss");
    let _open = made.run(|| {
        let v4 = TcpListener::bind("127.0.0.1:0").unwrap();
        let v6 = TcpListener::bind("[::1]:0").unwrap();
        let both = TcpListener::bind("[::]:0").unwrap();
        let streams = [
            talk(&v4, "127.0.0.1", 1000, 70_000),
            talk(&v6, "::1", 20, 3),
            talk(&both, "127.0.0.1", 30_000, 1),
            talk(&both, "::1", 5, 5),
        ];
        (v4, v6, both, streams)
    });
    let namespace = [made.found()];
    // Delayed ACKs may still count: compare what was the same before and after.
    let (said, dump) = (0..50)
        .find_map(|_| {
            let before = ss(&made);
            let dump = dump_all(&namespace, &FULL);
            (before == ss(&made)).then_some((before, dump))
        })
        .expect("the sockets come to rest");
    assert_eq!(dump.problems, Vec::<String>::new());
    assert_eq!((dump.sockets.len(), dump.listeners.len()), (8, 3));
    let all = || dump.sockets.iter().chain(&dump.listeners);
    let inodes: HashSet<u64> = all().map(|socket| socket.inode).collect();
    let owners = owners::find(Path::new("/"), &inodes).unwrap();
    let ours: BTreeMap<u64, Said> = all()
        .map(|socket| ours(socket, owners.by_inode.get(&socket.inode).map(|owner| owner.pid)))
        .collect();
    let said: BTreeMap<u64, Said> =
        said.into_iter().map(|(cookie, said)| (cookie, of_canonical_ends(said))).collect();
    assert_eq!(ours, said);
    assert!(all().all(|socket| socket.key.netns == made.inode() && socket.uid == 0));
    assert!(owners.by_inode.values().all(|owner| owner.pid == process::id()));
    let sent: u64 = dump.sockets.iter().filter_map(|socket| Some(socket.tcp?.bytes_sent)).sum();
    assert_eq!(sent, 1000 + 70_000 + 20 + 3 + 30_000 + 1 + 5 + 5);
}

#[test]
fn a_mapped_socket_has_the_key_of_an_ipv4_one() {
    let made = make("mapped");
    let (_listener, [client, server]) = made.run(|| {
        let listener = TcpListener::bind("[::]:0").unwrap();
        let streams = talk(&listener, "127.0.0.1", 1, 1);
        (listener, streams)
    });
    let dump = dump_all(&[made.found()], &FULL);
    let key = |port| dump.sockets.iter().find(|socket| socket.key.local_port == port).unwrap().key;
    // The client is an AF_INET socket, the server an AF_INET6 one.
    let of_client = key(client.local_addr().unwrap().port());
    let of_server = key(server.local_addr().unwrap().port());
    assert_eq!(of_client.local_addr, of_server.peer_addr);
    assert_eq!(of_client.peer_addr, of_server.local_addr);
    assert_eq!(of_server.local_addr[10..], [0xff, 0xff, 127, 0, 0, 1]);
}

#[test]
fn of_two_holders_the_older_owns() {
    let made = make("shared");
    let (_listener, [client, server]) = made.run(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let streams = talk(&listener, "127.0.0.1", 1, 1);
        (listener, streams)
    });
    let inherited = Stdio::from(OwnedFd::from(client.try_clone().unwrap()));
    let mut child = Command::new("sleep").arg("1000").stdin(inherited).spawn().unwrap();
    let dump = dump_all(&[made.found()], &FULL);
    let inode_of = |stream: &TcpStream| {
        let port = stream.local_addr().unwrap().port();
        dump.sockets.iter().find(|socket| socket.key.local_port == port).unwrap().inode
    };
    let (shared, single) = (inode_of(&client), inode_of(&server));
    // A child that another test forks holds every descriptor until it executes its program.
    let holders = |inode, holders| {
        until("holding", || {
            let owners = owners::find(Path::new("/"), &HashSet::from([inode])).unwrap();
            assert_eq!(owners.by_inode.len(), 1);
            let owner = owners.by_inode[&inode].clone();
            (owner.holders == holders).then_some(owner)
        })
    };
    let both = holders(shared, 2);
    let one = holders(single, 1);
    drop(client);
    let left = holders(shared, 1);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!((both.pid, one.pid), (process::id(), process::id()));
    assert_eq!((left.pid, left.comm.as_str()), (child.id(), "sleep"));
}

#[test]
fn seeds_carry_owner_and_counters_of_every_namespace() {
    let made = [make("seed1"), make("seed2")];
    let open: Vec<_> = made
        .iter()
        .map(|made| {
            made.run(|| {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let streams = talk(&listener, "127.0.0.1", 100, 200);
                (listener, streams)
            })
        })
        .collect();
    let seeds = seed(Path::new("/"), true);
    assert_eq!(unexpected(&seeds.problems), NONE);
    let comm = std::fs::read_to_string("/proc/self/comm").unwrap();
    for (made, (listener, [client, server])) in made.iter().zip(&open) {
        let port = listener.local_addr().unwrap().port();
        let of = |local: u16| {
            let mut found = seeds
                .sockets
                .iter()
                .filter(|seed| seed.key.netns == made.inode() && seed.key.local_port == local);
            let seed = found.next().expect("a seed");
            assert!(found.next().is_none(), "one socket, two seeds");
            assert_eq!((seed.pid, seed.comm.as_deref()), (Some(process::id()), Some(comm.trim())));
            seed.tcp.unwrap()
        };
        let sent = of(client.local_addr().unwrap().port());
        assert_eq!((sent.bytes_sent, sent.bytes_received), (100, 200));
        let sent = of(server.local_addr().unwrap().port());
        assert_eq!((sent.bytes_sent, sent.bytes_received), (200, 100));
        let listens = |seed: &&netdiag::node::SeededSocket| {
            seed.key.netns == made.inode() && seed.key.local_port == port
        };
        assert_eq!(seeds.listeners.iter().filter(listens).count(), 1);
    }
}
