use super::*;
use crate::watched::{Watched, kit};

const SPIKY: Spiky = Spiky { times: 5.0, above_ns: 20e6 };

/// xorshift: the same numbers on each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Intervals of answers: each asked then and answered after that. One asks at a pace, or when it has an
/// answer.
fn intervals(asked: &[(f64, f64)], seconds: f64, every: f64) -> Vec<Cell> {
    let mut watched = Watched::default();
    let mut told = vec![Vec::new(); (seconds / every) as usize];
    for (start, took) in asked {
        if let Some(of) = told.get_mut(((start + took) / every) as usize) {
            of.push((took * 1e9) as u64);
        }
    }
    for (number, of) in (0..).zip(&told) {
        let flows = (of.iter()).enumerate();
        let flows =
            flows.map(|(nth, ns)| kit::flow(&format!("f{nth}")).latency("response", 1, *ns));
        let mut snapshot = kit::snapshot(0, flows.collect());
        let origin: jiff::Timestamp = snapshot.start.parse().expect("a time");
        let at = |number: u64| {
            let after = jiff::SignedDuration::from_secs_f64(number as f64 * every);
            format!("{:.9}", origin + after)
        };
        (snapshot.start, snapshot.end) = (at(number), at(number + 1));
        watched.take(&snapshot);
    }
    let line = watched.series.lines().next().expect("a line").2;
    watched.series.cells(line)
}

/// How long an answer takes that is asked for then.
fn latency(at: f64, spikes: &[(f64, f64)], height: f64) -> f64 {
    let slow = spikes.iter().any(|(start, lasts)| (*start..start + lasts).contains(&at));
    if slow { height } else { 0.005 }
}

/// Asks at a pace, whatever becomes of it.
fn open(per_second: f64, seconds: f64, spikes: &[(f64, f64)], height: f64) -> Vec<(f64, f64)> {
    let times = (0..(seconds * per_second) as usize).map(|n| n as f64 / per_second);
    times.map(|at| (at, latency(at, spikes, height))).collect()
}

/// Asks again when it has its answer, after some time.
fn closed(wait: f64, seconds: f64, spikes: &[(f64, f64)], height: f64) -> Vec<(f64, f64)> {
    let mut asked = Vec::new();
    let mut at = 0.0;
    while at < seconds {
        let took = latency(at, spikes, height);
        asked.push((at, took));
        at += took + wait;
    }
    asked
}

/// Two seconds in each thirty, from 7.3 s on.
fn every_thirty() -> Vec<(f64, f64)> {
    (0..8).map(|n| (7.3 + 30.0 * f64::from(n), 2.0)).collect()
}

#[track_caller]
fn check(asked: &[(f64, f64)], every: f64) {
    let cells = intervals(asked, 240.0, every);
    let Some(Period { fit, lasts, height_ns, usual_ns, .. }) = period(&cells, SPIKY) else {
        panic!("none: every {every}")
    };
    let phase = fit.last - 30.0 * 7.0 - 7.3;
    assert!((fit.seconds - 30.0).abs() < 0.6, "{fit:?}");
    assert!(phase.abs() < 0.2 + every / 4.0, "{every}: {phase} {fit:?}");
    assert!((lasts - 2.0).abs() < 0.2, "{every}: {lasts}");
    assert!((500_000_000_u64..520_000_000).contains(&height_ns), "{height_ns}");
    assert!((5_000_000_u64..5_100_000).contains(&usual_ns), "{usual_ns}");
    assert!(fit.chance < 1e-6, "{fit:?}");
}

#[test]
fn two_seconds_in_thirty_are_found_however_they_are_watched() {
    let spikes = every_thirty();
    for every in [0.2, 1.0] {
        check(&open(50.0, 240.0, &spikes, 0.5), every);
        check(&closed(0.015, 240.0, &spikes, 0.5), every);
    }
}

#[test]
fn few_answers_tell_the_period_too() {
    for every in [0.2, 1.0] {
        let cells = intervals(&open(2.0, 240.0, &every_thirty(), 0.5), 240.0, every);
        let period = period(&cells, SPIKY).expect("a period");
        assert!((period.fit.seconds - 30.0).abs() < 0.6, "{period:?}");
    }
}

#[test]
fn short_spikes_of_short_periods() {
    for (nth, every) in [2.0_f64, 2.7, 3.5].into_iter().enumerate() {
        let spikes: Vec<_> = (0..12).map(|n| (0.9 + every * f64::from(n), 0.3)).collect();
        let asked = open(160.0, 25.0, &spikes, 0.1 + 0.2 * nth as f64);
        let found = period(&intervals(&asked, 25.0, 0.2), SPIKY).expect("a period");
        assert!((found.fit.seconds - every).abs() < 0.02 * every, "{every}: {found:?}");
        assert!((found.lasts - 0.3).abs() < 0.1, "{every}: {found:?}");
        assert!(found.fit.chance < 1e-3, "{found:?}");
    }
}

#[test]
fn a_spike_that_is_missing_or_in_between_changes_nothing() {
    let mut spikes = every_thirty();
    spikes.remove(3);
    spikes.push((110.0, 1.0));
    let asked = open(50.0, 240.0, &spikes, 0.5);
    for every in [0.2, 1.0] {
        let found = period(&intervals(&asked, 240.0, every), SPIKY).expect("a period");
        assert!((found.fit.seconds - 30.0).abs() < 0.6, "{found:?}");
        assert_eq!((found.fit.on.len(), found.fit.places), (7, 8), "{found:?}");
    }
}

#[test]
fn random_spikes_have_no_period() {
    let mut found = Vec::new();
    for seed in 1..=300_u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let n = 4 + (random.next() * 20.0) as usize;
        let spikes: Vec<_> = (0..n).map(|_| (random.next() * 238.0, random.next())).collect();
        let every = if seed % 2 == 0 { 1.0 } else { 0.5 };
        let cells = intervals(&open(20.0, 240.0, &spikes, 0.4), 240.0, every);
        found.extend(period(&cells, SPIKY).filter(|period| period.fit.chance < 1e-3));
    }
    assert!(found.is_empty(), "{}: {found:#?}", found.len());
}

#[test]
fn single_slow_answers_at_random_have_no_period() {
    for seed in 1..=50_u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let slow = |(at, _): (f64, f64)| (at, if random.next() < 0.02 { 0.3 } else { 0.004 });
        let asked: Vec<_> = open(60.0, 25.0, &[], 0.0).into_iter().map(slow).collect();
        for every in [0.2, 1.0] {
            let found = period(&intervals(&asked, 25.0, every), SPIKY);
            let found = found.filter(|period| period.fit.chance < 1e-3);
            assert_eq!(found, None, "{seed} {every}");
        }
    }
}

#[test]
fn one_burst_or_an_answer_as_long_as_the_period_is_none() {
    let asked = open(50.0, 240.0, &[(100.0, 20.0)], 0.5);
    assert_eq!(period(&intervals(&asked, 240.0, 1.0), SPIKY), None);
    let mut polls = open(20.0, 240.0, &[], 0.0);
    polls.extend((0..10).map(|n| (f64::from(n) * 20.0, 20.0)));
    assert_eq!(period(&intervals(&polls, 240.0, 1.0), SPIKY), None);
}
