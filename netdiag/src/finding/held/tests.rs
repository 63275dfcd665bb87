use super::*;
use crate::{
    finding::{Severity, slow_peer_application::DEFINITION, tests::check},
    snapshot::Flow,
    watched::kit,
};

const MS: u64 = 1_000_000;

/// An answer in a second, of so many bytes, that takes so long.
fn answer(ms: u64, bytes: u64) -> Flow {
    kit::flow("f1")
        .latency("response", 1, ms * MS)
        .count("response_ns", ms * MS)
        .count("bytes_received", bytes)
}

fn look<'a>(watched: &'a Watched, limits: &'a Limits) -> Look<'a> {
    Look { watched, limits, answers: AWAITED, least: 5 }
}

fn timer(watched: &Watched) -> Option<Timer> {
    let group = Group::of(watched.flows.values().collect());
    Timer::of(&look(watched, &Limits::default()), &group)
}

fn is_poll(watched: &Watched) -> Option<bool> {
    timer(watched).map(|timer| timer.is_poll)
}

#[test]
fn thresholds() {
    // Two in ten are later.
    let late = |ms| kit::series(|second| vec![answer(if second < 2 { ms } else { 700 }, 60)]);
    assert_eq!([late(700), late(721)].map(|it| is_poll(&it)), [Some(true), Some(true)]);
    assert_eq!(is_poll(&late(725)), None);
    let open = |ms| kit::series(|_| vec![answer(ms, 60)]);
    assert_eq!([open(700), open(690)].map(|it| is_poll(&it)), [Some(true), None]);
    let of = |bytes| kit::series(|_| vec![answer(900, bytes)]);
    assert_eq!([of(4_095), of(4_096)].map(|it| is_poll(&it)), [Some(true), Some(false)]);
    let unknown = kit::series(|_| {
        vec![kit::flow("f1").latency("response", 1, 900 * MS).count("response_ns", 900 * MS)]
    });
    assert_eq!(is_poll(&unknown), Some(false));
}

/// Some that come before the timer ends, as there was something to tell, make no work of it.
#[test]
fn half_of_them_are_enough() {
    let busy =
        |of: u64| kit::series(|second| vec![answer(if second < of { 100 } else { 1_000 }, 60)]);
    assert_eq!([busy(3), busy(6)].map(|it| is_poll(&it)), [Some(true), None]);
}

#[test]
fn how_long_requests_are_open_takes_time_to_tell() {
    let until = |last: u64, flows: &[&str]| {
        let flow = |id: &&str| Flow { id: (*id).to_owned(), ..answer(1_000, 60) };
        kit::series(|second| if second <= last { flows.iter().map(flow).collect() } else { vec![] })
    };
    assert_eq!(is_poll(&until(4, &["f1"])), Some(true));
    assert_eq!(is_poll(&until(3, &["f1"])), None, "four answers");
    assert_eq!(is_poll(&until(2, &["f1", "f2"])), Some(true));
    assert_eq!(is_poll(&until(1, &["f1", "f2", "f3"])), Some(false), "three seconds");
}

#[test]
fn who_polls_is_told_from_who_works() {
    let watched = kit::series(|second| {
        let works = answer(if second < 5 { 600 } else { 5 }, 60);
        vec![answer(1_000, 60), Flow { id: "f2".to_owned(), ..works }]
    });
    let group = Group::of(watched.flows.values().collect());
    let (polls, rest, _) = apart(&look(&watched, &Limits::default()), &group);
    let ids = [polls, rest].map(|group| group.map(|group| group.first().id.clone()));
    assert_eq!(ids, ["f1", "f2"].map(|id| Some(id.to_owned())));
    let all = kit::series(|_| vec![answer(1_000, 60)]);
    let group = Group::of(all.flows.values().collect());
    let (polls, rest, _) = apart(&look(&all, &Limits::default()), &group);
    assert!(polls.is_some() && rest.is_none());
}

/// What a connection answers in a second.
type Work = fn(u64) -> Option<Flow>;

/// Those of them that work, where twelve poll each second.
fn beside_many(works: &[Work]) -> Vec<String> {
    let watched = kit::series(|second| {
        let poll = |n: usize| Flow { id: format!("p{n}"), ..answer(1_000, 60) };
        let works = works.iter().zip(0..).filter_map(|(work, n): (_, usize)| {
            Some(Flow { id: format!("w{n}"), ..work(second)? })
        });
        (0..12).map(poll).chain(works).collect()
    });
    assert_eq!(is_poll(&watched), Some(true), "all of them together");
    let group = Group::of(watched.flows.values().collect());
    let (polls, rest, _) = apart(&look(&watched, &Limits::default()), &group);
    let ids = |group: Group<'_>| group.flows.iter().map(|flow| flow.id.clone()).collect();
    let rest: Vec<String> = rest.map(ids).unwrap_or_default();
    let polls = polls.map_or(0, |polls| polls.flows.len());
    assert_eq!(polls + rest.len(), 12 + works.len());
    rest
}

#[test]
fn many_that_poll_hide_none_of_the_others() {
    /// One whose answers take by turns half a second and so long.
    fn by_turns(second: u64, ms: u64) -> Flow {
        answer(if second.is_multiple_of(2) { 500 } else { ms }, 60)
    }
    let cases: [(Work, bool); 11] = [
        (|second| Some(by_turns(second, 1_030)), false),
        (|second| Some(by_turns(second, 1_035)), true),
        (|second| Some(by_turns(second, 970)), false),
        (|second| Some(by_turns(second, 960)), true),
        // Two in ten, and three.
        (|second| Some(answer(if second < 2 { 2_000 } else { 1_000 }, 60)), false),
        (|second| Some(answer(if second < 3 { 2_000 } else { 1_000 }, 60)), true),
        (|_| Some(answer(1_000, 4_096)), true),
        // It rests every other second.
        (|second| second.is_multiple_of(2).then(|| answer(1_000, 60)), true),
        // Of three answers nobody can tell, of four it shows.
        (|second| second.is_multiple_of(4).then(|| answer(1_000, 60)), false),
        (|second| second.is_multiple_of(3).then(|| answer(1_000, 60)), true),
        // Four answers are too few to tell, unless they are late.
        (|second| (second > 5).then(|| by_turns(second, 900)), false),
    ];
    for (nth, (work, is_work)) in cases.into_iter().enumerate() {
        let expected: &[&str] = if is_work { &["w0"] } else { &[] };
        assert_eq!(beside_many(&[work]), expected, "case {nth}");
    }
    let late: Work = |second| (second > 5).then(|| answer(1_900, 60));
    let polls: Work = |_| Some(answer(1_000, 60));
    assert_eq!(beside_many(&[late, polls]), ["w0"]);
}

/// An answer of a connection: in which second of a minute it comes, how long it takes, and its bytes.
type Answer = (u64, u64, u64);

/// A minute of a server with these connections.
fn minute(connections: &[&[Answer]]) -> Watched {
    let flow = |n: usize, ms: u64, bytes: u64| {
        Flow { id: format!("f{n}"), ..answer(ms, bytes) }
            .path(200_000)
            .count("spent_ns.peer_application", ms * MS - 200_000)
            .count("spent_ns.network_path", 200_000)
            .count("busy_ns", 200_000)
    };
    let mut watched = Watched::default();
    for second in 0..60 {
        let come = connections.iter().zip(0..).flat_map(|(answers, n)| {
            let come = answers.iter().filter(move |(at, ..)| *at == second);
            come.map(move |(_, ms, bytes)| flow(n, *ms, *bytes))
        });
        watched.take(&kit::snapshot(second, come.collect()));
    }
    watched
}

/// Without news for half a minute, twice.
const IDLE: &[Answer] = &[(29, 30_000, 60), (59, 30_000, 60)];
/// With some again and again.
const CHATTY: &[Answer] = &[
    (2, 3_000, 60),
    (10, 8_000, 60),
    (15, 5_000, 60),
    (21, 6_000, 60),
    (29, 8_000, 60),
    (33, 4_000, 60),
    (40, 7_000, 60),
    (43, 3_000, 60),
    (51, 8_000, 60),
    (59, 8_000, 60),
];

#[test]
fn a_poll_that_has_news_all_the_time_is_no_alarm() {
    let with = |other| minute(&[vec![IDLE; 20], vec![other]].concat());
    check(&DEFINITION, &with(CHATTY), Some(Severity::Warning));
    let found = (DEFINITION.rule)(&with(CHATTY), &Limits::default()).remove(0);
    let first = &found.evidence[0];
    assert_eq!((first.metric.as_str(), first.threshold), ("response p90", Some(500e6)));
    assert!((found.confidence - 0.6).abs() < 1e-9, "{found:#?}");
    let said = "others at that port are answered as by a timer of 30.1s, and these before it ends";
    assert!(found.not_observable.iter().any(|line| line.ends_with(said)), "{found:#?}");
    // Four of its answers are too few to tell it from the others.
    check(&DEFINITION, &with(&CHATTY[..4]), Some(Severity::Info));
    // Where nobody polls it is one.
    check(&DEFINITION, &minute(&[CHATTY]), Some(Severity::Critical));
}

/// Two in twenty have some news at first, so that their requests seem to be open for less than they were.
#[test]
fn polls_whose_first_answer_is_early_are_some_still() {
    let idle: &[Answer] = &[(19, 20_000, 60), (39, 20_000, 60), (59, 20_000, 60)];
    let early: &[Answer] = &[(0, 1_000, 60), (20, 20_000, 60), (40, 20_000, 60)];
    let watched = minute(&[vec![idle; 18], vec![early; 2]].concat());
    check(&DEFINITION, &watched, Some(Severity::Info));
}

/// Three in twenty get one message each, and wait out the timer otherwise, or nearly so, or longer.
#[test]
fn polls_with_much_to_tell_are_told_with_the_others() {
    let with = |ms: u64| {
        let much: &[Answer] = &[(29, ms, 60), (30, 1_000, 10_000)];
        minute(&[vec![IDLE; 17], vec![much; 3]].concat())
    };
    for (ms, expected, answers) in [
        (30_000, Severity::Info, 40.0),
        (29_200, Severity::Info, 40.0),
        (29_000, Severity::Warning, 6.0),
        (30_800, Severity::Info, 40.0),
        (31_000, Severity::Critical, 6.0),
    ] {
        check(&DEFINITION, &with(ms), Some(expected));
        let found = (DEFINITION.rule)(&with(ms), &Limits::default()).remove(0);
        let told = found.evidence.iter().find(|one| one.metric == "responses");
        assert_eq!(told.map(|one| one.value), Some(answers), "{ms}: {found:#?}");
    }
}

/// Half of what comes to those with the least to tell comes early: without the others they look like work.
#[test]
fn polls_may_look_like_it_together_alone() {
    let much: &[Answer] = &[(29, 30_000, 4_200), (59, 30_000, 4_200)];
    let news: &[Answer] = &[(0, 1_000, 60), (30, 30_000, 60)];
    let watched = minute(&[vec![much; 12], vec![news; 8]].concat());
    check(&DEFINITION, &watched, Some(Severity::Info));
}
