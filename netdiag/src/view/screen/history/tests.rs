use super::*;
use crate::{flow::latency::Latency, signal::Count};

/// The group whose sums are looked at.
const GROUP: &str = "retransmits";

fn row(id: u64, retransmits: u64) -> Frozen {
    let is_it = |(_, _, count): &(_, _, &Count)| count.group() == Some(GROUP);
    let (count, ..) = counts().find(is_it).expect(GROUP);
    Frozen { id, counts: vec![(count, retransmits)], ..Frozen::default() }
}

/// What is shown of a row's sums.
fn sums(history: &History, id: u64) -> Vec<Option<u64>> {
    let group = history.groups().iter().position(|group| group.name == GROUP).expect(GROUP);
    history.sums(&RowId::Flow(id), group).collect()
}

#[test]
fn the_oldest_interval_goes_and_nothing_of_it_stays() {
    let mut history = History::new();
    for nth in 1..=INTERVALS as u64 + 1 {
        // The second one is there at first only.
        let rows = [row(1, nth), row(2, 100)];
        history.take(rows.iter().take(if nth == 1 { 2 } else { 1 }), None);
    }
    let expected: Vec<_> = (2..=INTERVALS as u64 + 1).map(Some).collect();
    assert_eq!(sums(&history, 1), expected);
    assert_eq!(sums(&history, 2), vec![None; INTERVALS]);
}

#[test]
fn the_lowest_of_those_heard_of_longest_ago_make_room() {
    let rows = |ids: std::ops::Range<u64>| ids.map(|id| row(id, 1)).collect::<Vec<_>>();
    let (each, more) = (FOLLOWED as u64, 10);
    let mut history = History::new();
    history.take(rows(0..each).iter(), None);
    history.take(rows(each..2 * each).iter(), None);
    assert_eq!(history.followed.len(), ROWS);
    // The lowest of all is open.
    let open = RowId::Flow(each - 1);
    history.take(rows(2 * each..2 * each + more).iter(), Some(&open));
    let gone = |id: &u64| !history.followed.contains_key(&RowId::Flow(*id));
    let gone: Vec<_> = (0..2 * each + more).filter(gone).collect();
    assert_eq!(gone, (each - more..each - 1).collect::<Vec<_>>());
}

#[test]
fn a_row_is_followed_where_it_sinks_and_one_that_never_rose_is_not() {
    let many: Vec<_> = (10..10 + FOLLOWED as u64).map(|id| row(id, 1)).collect();
    let mut history = History::new();
    history.take([row(1, 5)].iter(), None);
    history.take(many.iter().chain(&[row(1, 6), row(2, 7), row(3, 8)]), Some(&RowId::Flow(3)));
    assert_eq!(sums(&history, 1), [Some(5), Some(6)]);
    assert_eq!(sums(&history, 2), [None, None]);
    assert_eq!(sums(&history, 3), [None, Some(8)], "it is open");
}

#[test]
fn what_was_not_heard_of_is_unknown_and_not_0() {
    let mut history = History::new();
    history.take([row(1, 5)].iter(), None);
    history.take(std::iter::empty(), None);
    history.take([row(1, 0)].iter(), None);
    assert_eq!(sums(&history, 1), [Some(5), None, Some(0)]);
}

#[test]
fn without_samples_there_is_no_percentile() {
    let (metric, ..) = metrics().next().expect("a metric");
    let mut latency = Latency::default();
    latency.record(1_000);
    let measured = Frozen { latencies: vec![(metric, latency)], ..row(1, 0) };
    let mut history = History::new();
    history.take([row(1, 0)].iter(), None);
    history.take([measured].iter(), None);
    let p99: Vec<_> = history.p99_ns(&RowId::Flow(1), 0).collect();
    assert!(matches!(p99[..], [None, Some(1_000..1_100)]), "{p99:?}");
    assert_eq!(sums(&history, 1), [Some(0), Some(0)]);
}

#[test]
fn what_is_cleared_is_forgotten() {
    let mut history = History::new();
    history.take([row(1, 5)].iter(), None);
    history.clear();
    assert!(sums(&history, 1).is_empty());
    history.take([row(1, 6)].iter(), None);
    assert_eq!(sums(&history, 1), [Some(6)]);
}
