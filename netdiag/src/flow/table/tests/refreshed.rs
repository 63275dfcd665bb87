//! Counters that the kernel tells when it is asked.

use netdiag_common::flow::{Detail, TcpDetail};

use super::*;

fn fresh(time_ns: u64, bytes_sent: u64, rwnd_limited_us: u64, window: u32) -> Fresh {
    let mut detail = TcpDetail::default();
    detail.set_time(Detail::RwndLimited, rwnd_limited_us);
    detail.set(Detail::SndWnd, window);
    let tcp = tcp(bytes_sent, 1);
    Fresh { time_ns, key: key(1), cookie: 7, tcp, detail: Some(detail) }
}

fn told(interval: &Interval) -> Vec<(Option<u64>, Option<u64>, Option<u64>)> {
    let of = |flow: &Frozen, name| flow.count(count_id(name));
    let flow =
        |flow| (of(flow, "bytes_sent"), of(flow, "rwnd_limited_ns"), of(flow, "snd_wnd_bytes"));
    interval.flows.iter().map(flow).collect()
}

#[test]
fn a_flow_that_waits_is_active_and_one_at_rest_is_not() {
    let mut table = FlowTable::new(config(10));
    apply(&mut table, &[opened(1, key(1), What::Connect)]);
    assert_eq!(table.untold(1), [(key(1), 0)], "no program told all of it");
    table.refresh(&fresh(10, 5, 0, 100), 10);
    assert_eq!(told(&table.interval(10)), [(Some(5), Some(0), Some(100))]);
    assert_eq!(table.untold(10), [(key(1), 7)][..0]);
    assert_eq!(table.untold(11), [(key(1), 7)]);
    table.refresh(&fresh(20, 5, 0, 90), 20);
    assert_eq!(told(&table.interval(20)), [], "only the window moved");
    table.refresh(&fresh(30, 5, 8, 0), 30);
    assert_eq!(told(&table.interval(30)), [(Some(0), Some(8_000), Some(0))]);
    table.refresh(&fresh(25, 4, 6, 9), 31);
    assert_eq!(told(&table.interval(31)), [], "older");
    assert_eq!(told(&table.total()), [(Some(5), Some(8_000), Some(0))]);
}

#[test]
fn a_flow_on_which_data_waits_is_active_though_nothing_moves() {
    let mut table = FlowTable::new(config(10));
    apply(&mut table, &[opened(1, key(1), What::Connect)]);
    table.refresh(&fresh(10, 5, 0, 100), 10);
    table.interval(10);
    let waiting = |time_ns, what, amount| {
        let mut fresh = fresh(time_ns, 5, 0, 100);
        fresh.detail.as_mut().unwrap().set(what, amount);
        fresh
    };
    let kinds = [Detail::Unread, Detail::Unsent, Detail::Unacknowledged];
    for (time_ns, what) in (20..).zip(kinds) {
        table.refresh(&waiting(time_ns, what, 2), time_ns);
        let flows = table.interval(time_ns).flows;
        assert!(matches!(&flows[..], [flow] if !flow.idle), "{what:?}");
    }
    table.refresh(&waiting(30, Detail::Unread, 1), 30);
    assert_eq!(table.interval(30).flows.len(), 0, "a FIN that was not read is no data");
}

#[test]
fn another_sockets_answer_is_nobodys() {
    let mut table = FlowTable::new(config(10));
    apply(&mut table, &[opened(1, key(1), What::Connect)]);
    table.refresh(&fresh(10, 5, 0, 100), 10);
    table.refresh(&Fresh { cookie: 8, ..fresh(20, 9, 0, 100) }, 20);
    table.refresh(&Fresh { key: key(2), ..fresh(20, 9, 0, 100) }, 20);
    assert_eq!(told(&table.total()), [(Some(5), Some(0), Some(100))]);
    apply(&mut table, &[opened(1, key(1), What::Close)]);
    assert_eq!(table.untold(u64::MAX), [], "it is gone");
}

#[test]
fn the_states_of_a_socket_that_is_not_answered_for_are_unknown() {
    let mut table = FlowTable::new(config(10));
    apply(&mut table, &[opened(1, key(1), What::Connect)]);
    table.refresh(&fresh(10, 5, 3, 100), 10);
    table.unanswered(&key(2), 20);
    assert_eq!(told(&table.interval(20)), [(Some(5), Some(3_000), Some(100))]);
    table.unanswered(&key(1), 30);
    assert_eq!(told(&table.total()), [(Some(5), Some(3_000), None)]);
    table.refresh(&fresh(40, 6, 3, 90), 40);
    assert_eq!(told(&table.total()), [(Some(6), Some(3_000), Some(90))]);
}

#[test]
fn what_cannot_be_added_up_is_unknown_of_several() {
    let mut table = FlowTable::new(config(10));
    apply(&mut table, &[opened(1, key(1), What::Connect)]);
    table.refresh(&fresh(10, 5, 3, 100), 10);
    let mut interval = table.interval(10);
    interval.keep(0);
    let of = |name| interval.other.count(count_id(name));
    assert_eq!((of("bytes_sent"), of("rwnd_limited_ns")), (Some(5), Some(3_000)));
    assert_eq!(of("snd_wnd_bytes"), None);
}
