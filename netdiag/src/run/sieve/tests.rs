use std::fs;

use netdiag_common::flow::{FlowKey, SocketRef, TCP};

use super::*;
use crate::{
    flow::table::Config,
    signal::conntrack::{self, Creator, Entry},
};

const UID: &str = "0b1f6a9e-8f4d-4f7a-9c51-6a3b1f0e7d42";
const FOREIGN: &str = "1b1f6a9e-8f4d-4f7a-9c51-6a3b1f0e7d42";

fn place(uid: &str) -> Arc<Place> {
    Arc::new(Place::of(&format!("/kubepods/pod{uid}")))
}

fn sieve(host_root: &Path) -> Sieve {
    let filters = Filters { by_cgroup: 1, ..Filters::default() };
    let owners = Owners { pods: vec!["web-0".to_owned()], ..Owners::default() };
    Sieve::new(&filters, &owners, host_root).expect("a filter by owner")
}

fn event(flow: FlowId, what: What, place: Option<Arc<Place>>) -> Event {
    let key = FlowKey {
        local_addr: [1; 16],
        peer_addr: [2; 16],
        local_port: 1000 + flow as u16,
        peer_port: 80,
        netns: 7,
        protocol: TCP,
        reserved: 0,
    };
    Event::Socket(socket::Event {
        time_ns: 0,
        what,
        socket: SocketRef { flow, sk: 1, key, ..SocketRef::default() },
        pid: Some(4),
        tid: Some(4),
        comm: Some("web".to_owned()),
        cgroup: None,
        place,
        tcp: None,
        detail: None,
        accept_wait_ns: None,
    })
}

#[test]
fn sockets_of_a_pod_that_is_named_late_count_from_then_on() {
    let root = tempfile::tempdir().unwrap();
    let (mut sieve, mut table) = (sieve(root.path()), FlowTable::new(Config::default()));
    for (flow, uid) in [(1, UID), (2, FOREIGN), (3, UID)] {
        assert!(!sieve.passes(&event(flow, What::Connect, Some(place(uid))), &mut table));
    }
    // What comes without its user is the table's to leave out.
    assert!(!sieve.passes(&event(3, What::Close, Some(place(UID))), &mut table));
    sieve.readmit(&mut table, 0);
    assert_eq!((table.len(), sieve.held.len()), (0, 2), "nothing is known yet");
    for (uid, pod) in [(UID, "web-0"), (FOREIGN, "web-1")] {
        fs::create_dir_all(root.path().join(format!("var/log/pods/shop_{pod}_{uid}"))).unwrap();
    }
    sieve.listing = Beside::new(LEARNT_EVERY);
    sieve.decide(Vec::new());
    sieve.readmit(&mut table, 0);
    assert_eq!((table.len(), sieve.held.len()), (1, 0));
    let flow = table.total().flows.remove(0);
    assert_eq!((flow.pid, flow.place), (Some(4), Some(place(UID))));
    assert!(sieve.passes(&event(4, What::Connect, Some(place(UID))), &mut table));
    assert!(!sieve.passes(&event(5, What::Connect, Some(place(FOREIGN))), &mut table));
    assert!(!sieve.passes(&event(6, What::Connect, None), &mut table));
    assert!(sieve.held.is_empty());
}

fn older(port: u16, uid: &str) -> SeededSocket {
    let Event::Socket(event) = event(FlowId::from(port), What::Connect, Some(place(uid))) else {
        unreachable!("it is one of a socket")
    };
    SeededSocket {
        key: event.socket.key,
        cookie: port.into(),
        state: 1,
        pid: event.pid,
        comm: event.comm,
        place: event.place,
        tcp: None,
        detail: None,
        asks: Some(true),
    }
}

#[test]
fn older_sockets_of_a_pod_that_is_named_late_return_by_themselves() {
    let root = tempfile::tempdir().unwrap();
    let (mut sieve, mut table) = (sieve(root.path()), FlowTable::new(Config::default()));
    for (port, uid) in [(1, UID), (2, FOREIGN), (3, UID), (4, UID)] {
        assert!(!sieve.wants(&older(port, uid)), "{port}");
    }
    sieve.passes(&event(3, What::Close, None), &mut table);
    assert_eq!(sieve.readmit(&mut table, 0), []);
    assert_eq!((table.len(), sieve.older.len()), (0, 3), "nothing is known yet");
    for (uid, pod) in [(UID, "web-0"), (FOREIGN, "web-1")] {
        fs::create_dir_all(root.path().join(format!("var/log/pods/shop_{pod}_{uid}"))).unwrap();
    }
    sieve.listing = Beside::new(LEARNT_EVERY);
    sieve.decide(Vec::new());
    let mut owners = sieve.readmit(&mut table, 0);
    owners.sort_by_key(|(key, _)| key.local_port);
    assert_eq!(owners, [1, 4].map(|port| (older(port, UID).key, 4)));
    assert_eq!((table.len(), sieve.older.len()), (2, 0));
    assert!(sieve.wants(&older(5, UID)) && !sieve.wants(&older(6, FOREIGN)));
}

#[test]
fn a_close_by_another_process_ends_the_row() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join(format!("var/log/pods/shop_web-0_{UID}"))).unwrap();
    let (mut sieve, mut table) = (sieve(root.path()), FlowTable::new(Config::default()));
    let wanted = event(1, What::Connect, Some(place(UID)));
    assert!(sieve.passes(&wanted, &mut table));
    table.apply(&wanted, 0);
    assert!(!sieve.passes(&event(1, What::Close, Some(Arc::new(Place::of("/host")))), &mut table));
    assert!(table.is_empty() && table.total().flows[0].closed);
}

#[test]
fn what_nobody_is_known_to_have_tracked_does_not_pass() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join(format!("var/log/pods/shop_web-0_{UID}"))).unwrap();
    let (mut sieve, mut table) = (sieve(root.path()), FlowTable::new(Config::default()));
    let creator = |place| Some(Creator { pid: 4, comm: "web".to_owned(), place });
    for (creator, passes) in [
        (creator(Some(place(UID))), true),
        (creator(Some(Arc::new(Place::of("/host")))), false),
        (creator(None), false),
        (None, false),
    ] {
        let event = conntrack::Event {
            time_ns: 0,
            entry: Entry::default(),
            reply: None,
            what: conntrack::CONFIRMED,
            times: 1,
            creator,
        };
        assert_eq!(sieve.passes(&Event::Conntrack(event.clone()), &mut table), passes, "{event:?}");
    }
}

#[test]
fn cgroups_that_are_gone_are_forgotten() {
    let root = tempfile::tempdir().unwrap();
    let mut sieve = sieve(root.path());
    let host = Arc::new(Place::of("/host"));
    let open = vec![(1, host.clone()), (2, host), (3, place(UID)), (4, place(UID))];
    assert_eq!(sieve.decide(open), [(1, false), (2, false)]);
    assert_eq!(sieve.sweep(|id, _| id % 2 == 0), [1]);
    let ids: Vec<u64> = sieve.nameless.iter().map(|(id, _)| *id).collect();
    assert_eq!((sieve.told.len(), ids), (1, vec![4]));
    let many = (10..).map(|id| (id, place(UID))).take(MOST_NAMELESS);
    assert_eq!(sieve.decide(many.collect()), []);
    assert_eq!((sieve.nameless.len(), sieve.nameless[0].0), (MOST_NAMELESS, 10));
}
