//! Where owners live, and whose the other end is.

use std::sync::Arc;

use super::*;
use crate::owner;

fn place(path: &str) -> Option<Arc<owner::Place>> {
    Some(Arc::new(owner::Place::of(path)))
}

fn by(what: What, key: FlowKey, pid: u32, path: Option<&str>) -> socket::Event {
    let place = path.and_then(place);
    let comm = Some(pid.to_string());
    socket::Event { pid: Some(pid), comm, place, ..socket(u64::from(pid), key, what) }
}

#[test]
fn a_place_goes_with_its_process() {
    let owner = |table: &FlowTable| {
        let flow = table.total().flows.remove(0);
        (flow.pid, flow.place.map(|place| place.cgroup.clone()))
    };
    let at = |pid, path: Option<&str>| (Some(pid), path.map(str::to_owned));
    let event = |what, pid, path| {
        let event = by(what, key(9), pid, path);
        Event::Socket(socket::Event { socket: SocketRef { flow: 1, ..event.socket }, ..event })
    };
    let mut table = FlowTable::new(config(100));
    let seed = Seed { key: key(9), pid: Some(3), place: place("/three"), ..Seed::default() };
    assert!(table.seed(&seed, 0));
    assert_eq!(owner(&table), at(3, Some("/three")));
    // The dump was of an earlier socket. Where the later one's owner is comes with the next event.
    table.apply(&event(What::Seen, 4, None), 0);
    assert_eq!(owner(&table), at(4, None));
    let Event::Socket(told) = event(What::Counters, 4, Some("/four")) else { unreachable!() };
    assert!(!table.knows_owner(&told));
    table.apply(&Event::Socket(told.clone()), 0);
    assert_eq!(owner(&table), at(4, Some("/four")));
    assert!(table.knows_owner(&told));
    // Not of the owner.
    table.apply(&event(What::Counters, 5, Some("/five")), 0);
    assert_eq!(owner(&table), at(4, Some("/four")));
    // It moved, and is lost sight of.
    table.apply(&event(What::Owner, 4, Some("/moved")), 0);
    table.apply(&event(What::Owner, 4, None), 0);
    assert_eq!(owner(&table), at(4, Some("/moved")));
    table.apply(&event(What::Owner, 5, None), 0);
    assert_eq!(owner(&table), at(5, None));
}

#[test]
fn the_other_end_is_named_and_keeps_its_name() {
    let mut table = FlowTable::new(config(100));
    let here = by(What::Connect, key(9), 4, Some("/client"));
    let there = by(What::Accept, reversed(&key(9)), 5, Some("/server"));
    table.apply(&Event::Socket(here), 0);
    assert_eq!(table.interval(0).flows[0].peer, None);
    table.apply(&Event::Socket(there.clone()), 0);
    table.apply(&Event::Socket(socket::Event { what: What::Close, ..there }), 0);
    table.apply(&sent(4, 1), 0);
    let names = |interval: Interval| -> Vec<_> {
        let peers = interval.flows.into_iter().map(|flow| flow.peer);
        peers.map(|peer| peer.map(|peer| (peer.comm, peer.place))).collect()
    };
    let named = |pid: u32, path| Some((Some(pid.to_string()), place(path)));
    let both = vec![named(5, "/server"), named(4, "/client")];
    assert_eq!(names(table.interval(0)), both);
    assert_eq!(names(table.total()), both);
}

#[test]
fn a_socket_that_closes_while_it_is_left_out_leaves_the_table() {
    let mut table = FlowTable::new(config(100));
    table.apply(&Event::Socket(by(What::Connect, key(9), 4, None)), 0);
    table.admit(4, false);
    let closed = Event::Socket(by(What::Close, key(9), 4, None));
    assert_eq!(table.apply(&closed, 0), Whose::LeftOut);
    assert!(table.is_empty() && table.total().flows[0].closed);
    // Its tuple may be another's now.
    table.apply(&Event::Socket(by(What::Connect, key(9), 5, None)), 0);
    let pids: Vec<_> =
        table.total().flows.into_iter().map(|flow| (flow.pid, flow.closed)).collect();
    assert_eq!(pids, [(Some(4), true), (Some(5), false)]);
}

#[test]
fn a_socket_that_is_wanted_after_all_has_a_row_with_its_owner() {
    let mut table = FlowTable::new(config(100));
    let event = by(What::Connect, key(9), 4, Some("/four"));
    table.admit(4, false);
    assert_eq!(table.apply(&Event::Socket(event.clone()), 0), Whose::LeftOut);
    assert_eq!(table.apply(&sent(4, 1), 0), Whose::LeftOut);
    table.readmit(&event, 0);
    // All that it does from now on names nothing but its number.
    assert_ne!(table.apply(&sent(4, 1), 0), Whose::LeftOut);
    let flow = table.interval(0).flows.remove(0);
    assert_eq!((flow.pid, flow.place, flow.role), (Some(4), place("/four"), Some(Role::Client)));
    assert_eq!(flow.latencies.len(), 1);
}
