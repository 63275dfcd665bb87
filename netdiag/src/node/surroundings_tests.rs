use super::*;
use crate::snapshot::node::{Qdisc, Softnet};

const NETNS: u32 = 7;
const QUEUE: qdiscs::QueueKey = (2, u32::MAX, 0);

fn begun() -> Surroundings {
    Surroundings {
        host_root: PathBuf::new(),
        kept: Kept::default(),
        asker: Asker::default(),
        tcp: Reading::default(),
        tracked: Reading::default(),
        last: Counted::default(),
        first: Load::default(),
        total: Rise::default(),
        censuses: BTreeMap::new(),
        counting: Pace::default(),
        owners: owners::Known::default(),
        rare: BTreeMap::new(),
        rarely: Pace::default(),
        cgroups: Cgroups::default(),
        problems: Vec::new(),
        shut: BTreeMap::new(),
        uncounted: BTreeMap::new(),
        unread: Vec::new(),
    }
}

/// What namespaces and a CPU say of which so much is counted, as far as it has room in 32 bits.
fn read(namespaces: &[u32], counted: u64) -> Counted {
    let wrapped = counted & u64::from(u32::MAX);
    let qdisc = Qdisc { bytes: counted, drops: wrapped, ..Qdisc::default() };
    let softnet = Softnet { cpu: 3, dropped: wrapped, ..Softnet::default() };
    let mut ip = BTreeMap::new();
    ip.insert("InDiscards", counted);
    let protocols = Protocols { ip, ..Protocols::default() };
    let mut all = Counted::default();
    for netns in namespaces {
        all.protocols.namespaces.insert(*netns, protocols.clone());
        all.queues.namespaces.insert(*netns, BTreeMap::from([(QUEUE, qdisc.clone())]));
    }
    all.load.softnet.insert(3, softnet);
    all
}

/// Of the run: IP's drops by namespace, those of the queue and those of the CPU.
fn total(surroundings: &Surroundings) -> (Vec<(u32, u64)>, Vec<u64>, Vec<u64>) {
    let mut node = Node::default();
    surroundings.total.tell(&mut node);
    (
        node.ip.iter().map(|(netns, counters)| (*netns, counters["InDiscards"])).collect(),
        node.qdiscs.iter().map(|one| one.drops).collect(),
        node.softnet.iter().map(|one| one.dropped).collect(),
    )
}

#[test]
fn a_run_is_the_sum_of_its_intervals() {
    const STEP: u64 = 2_000_000_000;
    let mut surroundings = begun();
    surroundings.last = read(&[NETNS], 5);
    for interval in 1..=5 {
        surroundings.take(read(&[NETNS], 5 + interval * STEP), &mut Node::default());
    }
    let counted = 5 * STEP;
    assert_eq!(total(&surroundings), (vec![(NETNS, counted)], vec![counted], vec![counted]));
}

#[test]
fn what_was_replaced_loses_nothing() {
    let mut surroundings = begun();
    surroundings.last = read(&[NETNS], 100);
    surroundings.take(read(&[NETNS], 130), &mut Node::default());
    // Others with the same numbers, which count from zero.
    surroundings.take(read(&[NETNS], 4), &mut Node::default());
    let (ip, queues, _) = total(&surroundings);
    assert_eq!((ip, queues), (vec![(NETNS, 34)], vec![34]));
}

#[test]
fn what_was_read_only_once_is_left_out() {
    let mut surroundings = begun();
    surroundings.last = read(&[NETNS, 8], 100);
    surroundings.take(read(&[NETNS], 101), &mut Node::default());
    let (ip, queues, _) = total(&surroundings);
    assert_eq!((ip, queues), (vec![(NETNS, 1)], vec![1]));
}

#[test]
fn sockets_are_looked_at_the_more_rarely_the_more_that_takes() {
    for (took_ms, rest_ms) in [(0, 0), (1, 1_000), (3, 3_000), (4, 4_000), (5_000, 4_000)] {
        let [took, expected] = [took_ms, rest_ms].map(Duration::from_millis);
        assert_eq!(rest(took), expected, "{took_ms} ms");
    }
}
