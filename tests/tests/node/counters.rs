//! TCP counters against `nstat`, which reads the same files in its own way.

use std::{
    collections::BTreeMap,
    net::{SocketAddrV4, TcpListener, TcpStream},
};

use netdiag::node::tcp_counters::{DOCUMENTED, increase, named, read, read_all};
use rustix::{
    io::Errno,
    net::{self, AddressFamily, SocketType},
};

use super::{Asked as _, Made, here, make, until};

/// All values of `Tcp:` and `TcpExt:` by nstat, those that never counted included.
fn nstat(namespace: &Made) -> BTreeMap<String, u64> {
    namespace
        .exec("nstat -z -a -s -j")
        .split(['{', '}', ','])
        .filter_map(|pair| pair.trim().split_once(':'))
        .filter_map(|(name, value)| {
            let name = name.trim().trim_matches('"');
            let name = name.strip_prefix("TcpExt").or_else(|| name.strip_prefix("Tcp"))?;
            Some((name.to_owned(), value.trim().parse().ok()?))
        })
        .collect()
}

#[test]
fn equal_to_nstat_before_and_after_lost_syns() {
    let made = make("counters");
    let other = make("quiet");
    // A link to a namespace that does not know the address, and a neighbour that nobody is.
    made.exec(&format!("ip link add veth0 type veth peer name veth0 netns {}", other.name()));
    other.exec("ip link set veth0 up");
    made.exec("ip address add 10.99.0.1/24 dev veth0");
    made.exec("ip link set veth0 up");
    made.exec("ip neighbour add 10.99.0.2 lladdr 02:00:00:00:00:01 dev veth0");
    let namespaces = [made.found(), other.found()];
    let before = read_all(&namespaces);
    let nstat_before = nstat(&made);

    let delivered = made.run(|| {
        assert_eq!(here(), made.inode());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (listener.accept().unwrap(), client)
    });
    // Nobody answers, and the SYN is sent again after a second.
    made.run(|| {
        let lost = net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        rustix::io::ioctl_fionbio(&lost, true).unwrap();
        let address: SocketAddrV4 = "10.99.0.2:80".parse().unwrap();
        assert_eq!(net::connect(&lost, &address), Err(Errno::INPROGRESS));
        until("a SYN is sent again", || (read().unwrap()["TCPSynRetrans"] > 0).then_some(()));
    });

    // Nothing may count between the two readings that are compared.
    let (after, nstat_after) = until("the counters come to rest", || {
        let first = nstat(&made);
        let after = read_all(&namespaces);
        let second = nstat(&made);
        (first == second).then_some((after, second))
    });
    let rose: BTreeMap<String, u64> =
        nstat_after.iter().map(|(name, now)| (name.clone(), now - nstat_before[name])).collect();
    let increase = named(&increase(&before, &after));
    let ours = &increase[&made.inode()];
    let expected: BTreeMap<_, _> = DOCUMENTED
        .iter()
        .filter_map(|(name, _)| Some(((*name).to_owned(), *rose.get(*name)?)))
        .collect();
    assert_eq!(ours, &expected);
    let told = |name: &str| ours[name];
    assert!(told("TCPSynRetrans") >= 1, "{ours:?}");
    assert_eq!(told("RetransSegs"), told("TCPSynRetrans"), "{ours:?}");
    assert_eq!((told("ActiveOpens"), told("PassiveOpens")), (2, 1), "{ours:?}");
    assert!(increase[&other.inode()].values().all(|value| *value == 0));
    assert_eq!(after.unread, BTreeMap::new());
    drop(delivered);
}

#[test]
fn every_documented_counter_of_this_kernel_is_read() {
    let made = make("all");
    let ours = made.run(|| read().unwrap());
    let nstat = nstat(&made);
    for (name, _) in DOCUMENTED {
        assert!(nstat.contains_key(*name), "nstat has no {name}");
        assert!(ours.contains_key(name), "this kernel has no {name}");
    }
    assert_eq!(ours.len(), DOCUMENTED.len());
}

#[test]
fn a_namespace_that_is_gone_is_told() {
    let made = make("gone");
    let namespace = made.found();
    let inode = made.inode();
    drop(made);
    let reading = read_all(&[namespace]);
    assert!(reading.namespaces.is_empty());
    let problem = &reading.unread[&inode];
    assert!(problem.contains("is gone") && problem.contains("missing"), "{problem}");
}
