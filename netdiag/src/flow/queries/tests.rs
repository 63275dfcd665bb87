use netdiag_common::message::Message;
use proptest::{collection::vec, prelude::*, sample::Index};

use super::*;

const SECOND: u64 = 1_000_000_000;
const CLIENT: u32 = 1;
const ROUTER: u32 = 2;
const SERVER: u32 = 3;

/// Places that a query passes on its way to a server behind a router.
const WAY: [Place; 4] = [
    Place { netns: CLIENT, ifindex: 2, out: true },
    Place { netns: ROUTER, ifindex: 2, out: false },
    Place { netns: ROUTER, ifindex: 3, out: true },
    Place { netns: SERVER, ifindex: 2, out: false },
];

fn key(asker: (u8, u16), server: u8) -> FlowKey {
    let mapped = |host| std::net::Ipv4Addr::new(10, 0, 0, host).to_ipv6_mapped().octets();
    FlowKey {
        local_addr: mapped(asker.0),
        peer_addr: mapped(server),
        local_port: asker.1,
        peer_port: 53,
        netns: 0,
        protocol: 17,
        reserved: 0,
    }
}

/// Messages of one conversation.
#[derive(Clone, Copy)]
struct Talk {
    seen: FlowKey,
    asked: Option<FlowKey>,
    id: u16,
    seq: Option<u32>,
}

impl Talk {
    fn new(port: u16, id: u16) -> Self {
        Self { seen: key((1, port), 2), asked: None, id, seq: None }
    }

    fn at(self, time_ns: u64, place: Place, answer: Option<u8>) -> Passage {
        Passage {
            time_ns,
            place,
            seen: FlowKey { netns: place.netns, ..self.seen },
            asked: self.asked.map(|asked| FlowKey { netns: place.netns, ..asked }),
            message: Message {
                id: self.id,
                is_answer: answer.is_some(),
                rcode: answer.unwrap_or(0),
            },
            seq: self.seq,
        }
    }

    fn asks(self, time_ns: u64, place: Place) -> Passage {
        self.at(time_ns, place, None)
    }

    fn hears(self, time_ns: u64, place: Place, rcode: u8) -> Passage {
        self.at(time_ns, place.back(), Some(rcode))
    }
}

/// What becomes of messages when all is known up to the last time that is given.
fn told(passages: &[Passage], now_ns: u64) -> (Vec<(u64, What)>, Lost) {
    let mut queries = Queries::new(1_000);
    run(&mut queries, passages, now_ns)
}

fn run(queries: &mut Queries, passages: &[Passage], now_ns: u64) -> (Vec<(u64, What)>, Lost) {
    let mut told = Vec::new();
    passages.iter().for_each(|passage| queries.hold(*passage));
    let lost = queries.advance(now_ns, &mut |query| told.push((query.time_ns, query.what)));
    (told, lost)
}

const fn answered(rcode: u8, latency_ns: u64, late: bool) -> What {
    What::Answered { rcode, latency_ns, late }
}

#[test]
fn a_query_is_one_at_all_its_places_and_its_time_is_the_askers() {
    let talk = Talk::new(4_000, 7);
    let out = (10..).zip(WAY).map(|(time, place)| talk.asks(time, place));
    let back = (20..).zip(WAY.into_iter().rev()).map(|(time, place)| talk.hears(time, place, 3));
    let mut passages: Vec<_> = out.chain(back).collect();
    // Rings are read in any order.
    passages.reverse();
    let (told, lost) = told(&passages, 30);
    assert_eq!(told, [(10, What::Asked), (23, answered(3, 13, false))]);
    assert_eq!(lost, Lost::default());
}

#[test]
fn names_that_are_translated_lead_to_one_query() {
    let (asker, service, port) = ((1, 4_000), 9, 60_123);
    let near = Talk { seen: key(asker, service), asked: None, id: 7, seq: None };
    let tracked =
        Talk { seen: key((5, port), 2), asked: Some(key(asker, service)), id: 7, seq: None };
    let far = Talk { seen: key((5, port), 2), asked: None, id: 7, seq: None };
    let passages = [
        near.asks(1, WAY[0]),
        near.asks(2, WAY[1]),
        tracked.asks(3, WAY[2]),
        far.asks(4, WAY[3]),
        far.hears(5, WAY[3], 0),
        far.hears(6, WAY[2], 0),
        Talk { asked: Some(key(asker, service)), ..near }.hears(7, WAY[1], 0),
        near.hears(8, WAY[0], 0),
    ];
    let mut queries = Queries::new(10);
    let mut told = Vec::new();
    passages.iter().for_each(|passage| queries.hold(*passage));
    let lost = queries.advance(9, &mut |query| told.push(query));
    assert_eq!(lost, Lost::default());
    let asker = FlowKey { netns: CLIENT, local_port: 0, ..key(asker, service) };
    let tell = |time_ns, what| Query { time_ns, asker, what };
    assert_eq!(told, [tell(1, What::Asked), tell(8, answered(0, 7, false))]);
    // Nothing is left once all has settled.
    let lost = queries.advance(2 * SETTLE_NS, &mut |query| told.push(query));
    assert_eq!((lost, queries.names.len(), queries.pending.len()), (Lost::default(), 0, 0));
}

#[test]
fn what_is_sent_again_before_and_after_its_answer() {
    let talk = Talk::new(4_000, 7);
    let [near, far] = [WAY[0], WAY[3]];
    let passages = [
        talk.asks(1, near),
        talk.asks(2, far),
        talk.asks(SECOND, near),
        talk.asks(SECOND + 1, far),
        talk.hears(SECOND + 5, far, 0),
        talk.hears(SECOND + 6, near, 0),
        // The answer to what was sent again.
        talk.hears(SECOND + 8, far, 0),
        talk.hears(SECOND + 9, near, 0),
        // Another question.
        talk.asks(SECOND + 20, near),
        talk.hears(SECOND + 25, near, 5),
    ];
    let (told, lost) = told(&passages, 2 * SECOND);
    assert_eq!(lost, Lost::default());
    assert_eq!(
        told,
        [
            (1, What::Asked),
            (SECOND, What::Retried),
            (SECOND + 6, answered(0, SECOND + 5, false)),
            (SECOND + 20, What::Asked),
            (SECOND + 25, answered(5, 5, false)),
        ]
    );
}

/// The answer is lost behind the place that saw it, so TCP sends the same bytes again; another question with the same
/// id lies behind them.
#[test]
fn what_tcp_sends_again_after_its_answer_is_no_other_question() {
    let with = |seq| Talk { seq: Some(seq), ..Talk::new(4_000, 7) };
    let near = WAY[0];
    // With its length before it, and around the end of the numbers.
    let (talk, again, other) = (with(0), with(u32::MAX - 1), with(30));
    let passages = [
        talk.asks(1, near),
        talk.hears(5, near, 0),
        again.asks(20, near),
        again.hears(25, near, 0),
        other.asks(30, near),
        other.hears(37, near, 0),
    ];
    let (told, lost) = told(&passages, 2 * SECOND);
    assert_eq!(lost, Lost::default());
    assert_eq!(
        told,
        [
            (1, What::Asked),
            (5, answered(0, 4, false)),
            (20, What::Retried),
            (30, What::Asked),
            (37, answered(0, 7, false)),
        ]
    );
}

#[test]
fn what_is_not_answered_in_time_or_never() {
    let (late, lost) = (Talk::new(4_000, 7), Talk::new(4_000, 8));
    let asks = [late.asks(10, WAY[0]), lost.asks(20, WAY[0])];
    let mut queries = Queries::new(10);
    let (first, _) = run(&mut queries, &asks, PATIENCE_NS + 9);
    assert_eq!(first, [(10, What::Asked), (20, What::Asked)]);
    let (second, _) = run(&mut queries, &[], PATIENCE_NS + 20);
    assert_eq!(
        second,
        [(PATIENCE_NS + 10, What::Unanswered), (PATIENCE_NS + 20, What::Unanswered)]
    );
    let again = lost.asks(PATIENCE_NS + 30, WAY[0]);
    let hears = late.hears(PATIENCE_NS + 40, WAY[0], 2);
    let (third, _) = run(&mut queries, &[again, hears], 2 * PATIENCE_NS);
    let latency = PATIENCE_NS + 30;
    assert_eq!(
        third,
        [(PATIENCE_NS + 30, What::Retried), (PATIENCE_NS + 40, answered(2, latency, true)),]
    );
    let (rest, _) = run(&mut queries, &[], 2 * KEEP_NS);
    assert_eq!((rest, queries.pending.len()), (vec![], 0));
    // By now it is forgotten.
    let (none, unmatched) = run(&mut queries, &[lost.hears(2 * KEEP_NS, WAY[0], 0)], 2 * KEEP_NS);
    assert_eq!((none, unmatched), (vec![], Lost { unmatched: 1, no_room: 0 }));
}

/// Where messages are missing an answer may be among them.
#[test]
fn what_was_not_seen_is_not_said_to_be_missing() {
    let asks = [(7, 10), (8, 20)].map(|(id, time)| Talk::new(4_000, id).asks(time, WAY[0]));
    let mut queries = Queries::new(10);
    queries.miss(20);
    // What was not told of later is still not told of.
    queries.miss(15);
    let (told, _) = run(&mut queries, &asks, 20 + PATIENCE_NS);
    assert_eq!(
        told[2..],
        [(10 + PATIENCE_NS, What::Unknown), (20 + PATIENCE_NS, What::Unanswered)]
    );
}

/// Whatever was read when: the late answer of one reading.
#[test]
fn a_late_answer_was_missed_before() {
    let talk = Talk::new(4_000, 7);
    let passages = [talk.asks(0, WAY[0]), talk.hears(6 * SECOND, WAY[0], 0)];
    let (told, _) = told(&passages, 7 * SECOND);
    assert_eq!(
        told,
        [
            (0, What::Asked),
            (PATIENCE_NS, What::Unanswered),
            (6 * SECOND, answered(0, 6 * SECOND, true)),
        ]
    );
}

#[test]
fn an_answer_by_another_device_counts_where_no_answer_ever_passes_that_one() {
    let bond = Place { netns: CLIENT, ifindex: 9, out: true };
    let talk = Talk::new(4_000, 7);
    let passages = [talk.asks(1, bond), talk.asks(2, WAY[0]), talk.hears(5, WAY[0], 0)];
    let (now, _) = told(&passages, 10);
    assert_eq!(now, [(1, What::Asked)]);
    let (later, _) = told(&passages, 5 + SETTLE_NS);
    assert_eq!(later, [(1, What::Asked), (5, answered(0, 4, false))]);
    // At the end of a run nobody waits for more.
    let mut queries = Queries::new(10);
    passages.iter().for_each(|passage| queries.hold(*passage));
    let mut end = Vec::new();
    queries.end(0, &mut |query| end.push((query.time_ns, query.what)));
    assert_eq!(end, later);
}

#[test]
fn an_answer_that_is_lost_on_its_way_is_none() {
    let (first, second) = (Talk::new(4_000, 7), Talk::new(4_001, 8));
    let passages = [
        first.asks(1, WAY[0]),
        first.hears(5, WAY[0], 0),
        second.asks(10, WAY[0]),
        second.asks(11, WAY[2]),
        second.hears(12, WAY[2], 0),
    ];
    let (told, _) = told(&passages, 10 + PATIENCE_NS);
    assert_eq!(told[2..], [(10, What::Asked), (10 + PATIENCE_NS, What::Unanswered)]);
}

/// A loopback address is another one in each namespace.
#[test]
fn loopback_never_leaves_its_namespace() {
    let loopback = std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets();
    let mut talk = Talk::new(4_000, 7);
    (talk.seen.local_addr, talk.seen.peer_addr) = (loopback, loopback);
    let lo = |netns, out| Place { netns, ifindex: 1, out };
    let passages = [
        talk.asks(1, lo(CLIENT, true)),
        talk.asks(2, lo(CLIENT, false)),
        talk.asks(3, lo(SERVER, true)),
        talk.hears(4, lo(CLIENT, false), 0),
        talk.hears(5, lo(CLIENT, true), 0),
    ];
    let (told, _) = told(&passages, 10);
    assert_eq!(told, [(1, What::Asked), (3, What::Asked), (5, answered(0, 4, false))]);
}

#[test]
fn the_oldest_of_which_all_is_told_gives_way() {
    let mut queries = Queries::new(2);
    let talks = [4_000, 4_001, 4_002, 4_003].map(|port| Talk::new(port, 7));
    let passages = [
        talks[0].asks(1, WAY[0]),
        talks[0].hears(2, WAY[0], 0),
        talks[1].asks(3, WAY[0]),
        talks[2].asks(4, WAY[0]),
        // No room, and none for what else is seen of it.
        talks[3].asks(5, WAY[0]),
        talks[3].asks(6, WAY[1]),
        talks[3].hears(7, WAY[0], 0),
    ];
    let (told, lost) = run(&mut queries, &passages, 10);
    assert_eq!(told.len(), 4, "{told:?}");
    assert_eq!(lost, Lost { unmatched: 1, no_room: 2 });
}

#[test]
fn what_is_remembered_is_of_queries_that_are_there() {
    let mut queries = Queries::new(1_000);
    for second in 0..100 {
        let passages = (0..20).flat_map(|port| {
            let talk = Talk::new(port, 7);
            let asks = (0..5).map(move |again| talk.asks(second * SECOND + again, WAY[0]));
            let hears = talk.hears(second * SECOND + 9, WAY[0], 0);
            asks.chain((port > 0).then_some(hears))
        });
        let passages: Vec<_> = passages.collect();
        run(&mut queries, &passages, (second + 1) * SECOND - 1);
        let there = queries.pending.len();
        assert_eq!(queries.due.len(), there, "{second}");
        assert!(queries.idle.len() <= there, "{second}: {} of {there}", queries.idle.len());
    }
    run(&mut queries, &[], 100 * SECOND + KEEP_NS);
    let left = (queries.pending.len(), queries.due.len(), queries.idle.len());
    assert_eq!((left, queries.names.len()), ((0, 0, 0), 0));
}

/// A query of a random run.
#[derive(Clone, Debug)]
struct Plan {
    /// After the one before, so that the same client may ask with the same id again.
    pause_ns: u64,
    port: u16,
    /// Resent after so long each.
    again_ns: Vec<u64>,
    /// When it is answered, if at all.
    answer_ns: Option<u64>,
    rcode: u8,
}

fn plan() -> impl Strategy<Value = Plan> {
    (
        0..3 * SECOND,
        0..5_u16,
        vec(1..2 * SECOND, 0..3),
        proptest::option::of(1..20 * SECOND),
        0..16_u8,
    )
        .prop_map(|(pause_ns, port, again_ns, answer_ns, rcode)| Plan {
            pause_ns,
            port,
            again_ns,
            answer_ns,
            rcode,
        })
}

proptest! {
    /// Every query is counted once, as what became of it, however its messages are read.
    #[test]
    fn queries_are_answered_or_not(
        plans in vec(plan(), 1..30),
        readings in vec(any::<Index>(), 0..10),
    ) {
        let mut passages = Vec::new();
        let mut began = 0;
        let mut expected = [0_u64; 4];
        for (id, plan) in (0..).zip(&plans) {
            began += plan.pause_ns;
            let talk = Talk::new(plan.port, id);
            let mut sent = began;
            for pause in [0].iter().chain(&plan.again_ns) {
                sent += pause;
                // No resolver asks again what was answered.
                if sent > began && plan.answer_ns.is_some_and(|after| began + after <= sent) {
                    break;
                }
                expected[1] += u64::from(sent > began);
                passages.extend((sent..).zip(WAY).map(|(time, place)| talk.asks(time, place)));
            }
            expected[0] += 1;
            expected[2] += u64::from(plan.answer_ns.is_none_or(|after| after + 10 >= PATIENCE_NS));
            if let Some(after) = plan.answer_ns {
                expected[3] += 1;
                let way = WAY.into_iter().rev();
                passages.extend(
                    (began + after + 7..)
                        .zip(way)
                        .map(|(time, place)| talk.hears(time, place, plan.rcode)),
                );
            }
        }
        passages.sort_by_key(|passage| passage.time_ns);
        let mut cuts: Vec<_> = readings.iter().map(|cut| cut.index(passages.len())).collect();
        cuts.sort_unstable();
        cuts.push(passages.len());
        let mut queries = Queries::new(100);
        let mut found = [0_u64; 4];
        let mut count = |query: Query| {
            found[match query.what {
                What::Asked => 0,
                What::Retried => 1,
                What::Unanswered | What::Unknown => 2,
                What::Answered { .. } => 3,
            }] += 1;
        };
        let (mut from, mut lost) = (0, 0);
        for cut in cuts {
            passages[from..cut].iter().rev().for_each(|passage| queries.hold(*passage));
            let now_ns = passages[..cut].last().map_or(0, |passage| passage.time_ns);
            lost += queries.advance(now_ns, &mut count).unmatched;
            from = cut;
        }
        lost += queries.end(began + 100 * SECOND, &mut count).unmatched;
        prop_assert_eq!((found, lost), (expected, 0));
        prop_assert_eq!(queries.names.len(), 0);
    }
}
