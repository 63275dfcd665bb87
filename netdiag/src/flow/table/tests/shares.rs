//! What thousands of flows count in one interval, and its memory.

use super::*;

#[test]
fn memory_of_many_goes_back_and_what_is_held_back_stays() {
    const MANY: u16 = 9_000;
    let mut table = FlowTable::new(config(10_000));
    let used = |flow: u16, key| [opened(flow.into(), key, What::Connect), sent(flow.into(), 5)];
    (1..MANY).for_each(|flow| apply(&mut table, &used(flow, key(flow))));
    apply(&mut table, &used(MANY, FlowKey { local_port: 0, ..key(MANY) }));
    assert!(table.shares.is_large());
    assert_eq!(table.interval(0).flows.len(), usize::from(MANY) - 1);
    assert!(!table.shares.is_large() && !table.shares.is_empty());
    apply(&mut table, &[opened(MANY.into(), key(MANY), What::Counters)]);
    assert_eq!(shape(&table.interval(0)), (vec![(MANY, 1, 0)], (0, 0)));
    assert!(table.shares.is_empty());
}
