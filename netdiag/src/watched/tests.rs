use super::{kit::*, sums::approximate, *};
use crate::snapshot::{Distribution, Flow};

#[test]
fn counts_add_up_and_states_are_the_last() {
    let flow = flow("f1").count("bytes_sent", 10).count("snd_wnd_bytes", 7);
    let watched = watched(&[flow.count("retransmits.rto", 1).count("retransmits.fast", 2)]);
    let sums = &watched.flows["f1"].sums;
    assert_eq!(sums.count("bytes_sent"), Some(100));
    assert_eq!(sums.count("snd_wnd_bytes"), Some(7));
    assert_eq!(sums.count("retransmits"), Some(30));
    assert_eq!(sums.keys("retransmits"), [("fast", 20), ("rto", 10)]);
    assert_eq!(sums.count("drops"), None, "unknown is not 0");
    assert!((watched.seconds - 10.0).abs() < 1e-9);
}

#[test]
fn states_of_several_flows_are_no_sum() {
    let flows = ["f1", "f2"].map(|id| flow(id).count("snd_wnd_bytes", 7).count("sends", 1));
    let watched = watched(&flows);
    let groups = watched.by_peer();
    let sums = &groups.values().next().expect("a group").sums;
    assert_eq!((sums.count("snd_wnd_bytes"), sums.count("sends")), (None, Some(20)));
}

#[test]
fn percentiles_of_one_interval_stay_what_they_were() {
    let at = |ns: u64| Some(ns * 1_000_000);
    let told = Distribution {
        count: 1_000,
        min_ns: at(1),
        p50_ns: at(2),
        p90_ns: at(5),
        p99_ns: at(9),
        p999_ns: at(20),
        max_ns: at(40),
        out_of_range: 3,
    };
    let latency = approximate(&told);
    assert_eq!((latency.count(), latency.out_of_range()), (1_000, 3));
    for (quantile, ns) in
        [(0.5, at(2)), (0.9, at(5)), (0.99, at(9)), (0.999, at(20)), (1.0, at(40))]
    {
        let (got, ns) = (latency.quantile(quantile).expect("samples"), ns.expect("a value"));
        assert!(got.abs_diff(ns) * 100 <= ns, "{quantile}: {got}, not {ns}");
    }
}

#[test]
fn loss_is_that_of_the_window() {
    let lossy = |second, lost: u64| {
        let mut snapshot = snapshot(second, Vec::new());
        let account = snapshot.accounting.entry("drop".to_owned()).or_default();
        (account.ring_full, account.map_full) = (lost - 1, 1);
        snapshot
    };
    let mut first = Watched::default();
    first.take(&lossy(0, 5));
    first.take(&lossy(1, 7));
    assert_eq!((first.lost["drop"], first.no_room["drop"]), (7, 1));
    let mut next = first.next();
    next.take(&lossy(2, 9));
    assert_eq!((next.lost["drop"], next.no_room["drop"]), (2, 0));
    next.take(&lossy(3, 1));
    assert_eq!(next.lost["drop"], 3, "another run began");
}

#[test]
fn what_is_left_out_and_told_is_that_of_the_window() {
    let at = |second, shed, submitted| {
        let mut snapshot = snapshot(second, Vec::new());
        let account = Account { shed, submitted, ..Account::default() };
        snapshot.accounting.insert("rtt".to_owned(), account);
        snapshot
    };
    let mut first = Watched::default();
    first.take(&at(0, 0, 5));
    first.take(&at(1, 2, 9));
    assert_eq!((first.left_out("rtt"), first.told["rtt"]), (2, 9));
    let mut next = first.next();
    next.take(&at(2, 7, 9));
    assert_eq!((next.left_out("rtt"), next.told["rtt"], next.lost["rtt"]), (5, 0, 0));
}

/// The other end may be accepted in a later interval, and by another process in a later window.
#[test]
fn whose_the_other_end_is_may_come_later() {
    let with = |pair: Option<&str>, peer: Option<&str>| Flow {
        pair: pair.map(str::to_owned),
        peer_owner: peer.map(owner),
        ..flow("f1")
    };
    let window = |flows: &[Flow]| {
        let mut watched = Watched::default();
        for (second, flow) in (0..).zip(flows) {
            watched.take(&snapshot(second, vec![flow.clone()]));
        }
        watched.flows["f1"].clone()
    };
    let told = |seen: &Seen| {
        (seen.pair.clone(), seen.peer_owner.as_ref().and_then(|owner| owner.comm.clone()))
    };
    let pair = |id: &str, name: &str| (Some(id.to_owned()), Some(name.to_owned()));
    let first = window(&[with(None, None), with(Some("f2"), Some("web")), with(None, None)]);
    assert_eq!(told(&first), pair("f2", "web"));
    let mut both = window(&[with(None, None)]);
    both.follow(&first);
    assert_eq!(told(&both), pair("f2", "web"));
    both.follow(&window(&[with(Some("f3"), Some("db"))]));
    assert_eq!(told(&both), pair("f3", "db"));
}
