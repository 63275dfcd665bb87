//! Runs scenarios side by side under one netdiag.

use std::{collections::VecDeque, thread, time::Duration};

use anyhow::{Context as _, Result, bail};
use netdiag_common::{globals::FILTER_VALUES, signal::Signal};
use serde_json::Value;

use super::{
    Expect, Needs, Scenario, Side, Values,
    blind::Blind,
    judge::{Found, Judgement, Wanted, causes_of_independent, findings, is_chained, judge},
    stage::Stage,
    table,
    witness::{Claims, Readings, Seen, at_work},
};
use crate::{
    attempt::Spoilt,
    hiccup::Hiccups,
    netdiag::Netdiag,
    random::Random,
    requirement::{Feature, available},
};

/// One run of a scenario, or of its twin.
#[derive(Clone, Debug)]
pub struct Case {
    /// The scenario.
    pub scenario: &'static Scenario,
    /// Whether it is the twin.
    pub twin: bool,
    /// Its parameters.
    pub values: Values,
    random: u64,
}

impl Case {
    /// Draws the parameters of one run, always the same of one seed.
    #[must_use]
    pub fn draw(scenario: &'static Scenario, twin: bool, seed: u64) -> Self {
        // FNV-1a
        let name = scenario.name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let mut random = Random::of(seed ^ name ^ u64::from(twin));
        let values = Values::draw(scenario.parameters, twin, &mut random);
        Self { scenario, twin, values, random: random.below(u64::MAX) }
    }

    /// What netdiag must make of it.
    #[must_use]
    pub const fn expect(&self) -> Expect {
        if self.twin { Expect::Healthy } else { self.scenario.expect }
    }

    /// Its name in tables.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}{}", self.scenario.name, if self.twin { " (twin)" } else { "" })
    }

    /// Whether whatever plays beside it would suffer.
    const fn alone(&self) -> bool {
        matches!(self.scenario.needs, Needs::OwnMachine(_))
    }

    /// Why it cannot be had here, if so.
    #[must_use]
    pub fn missing(&self) -> Option<&'static str> {
        match self.scenario.needs {
            Needs::OwnMachine(why) if !available(Feature::OwnModules) => Some(why),
            Needs::Nothing | Needs::OwnMachine(_) => None,
        }
    }
}

/// What came of a case.
#[derive(Debug)]
pub struct Outcome {
    /// Which it was.
    pub case: Case,
    /// Whether the fault was there.
    pub claims: Claims,
    /// What netdiag made of it, where it was asked.
    pub judgement: Option<Judgement>,
    /// All that it found here, as ranked.
    pub found: Vec<Found>,
    /// What the kernel and the actors said.
    pub seen: Seen,
    /// What is wrong with what was found without a signal.
    pub blind: Vec<String>,
}

impl Outcome {
    /// Whether the fault was there, and all that was found is right.
    #[must_use]
    pub fn is_right(&self) -> bool {
        let is_right = |it: &Judgement| {
            it.right && it.scoped && it.others.is_empty() && it.wrong_causes.is_empty()
        };
        self.claims.broken.is_empty()
            && self.blind.is_empty()
            && self.judgement.as_ref().is_none_or(is_right)
    }
}

/// What came of scenarios that played side by side.
#[derive(Debug)]
pub struct Batch {
    /// Each of them.
    pub outcomes: Vec<Outcome>,
    /// What was found that concerns none of them.
    pub strays: Vec<Found>,
    /// Runs of them before these, on a machine that did not keep up.
    pub again: usize,
}

impl Batch {
    /// Whether all of it is as it must be.
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.outcomes.iter().all(Outcome::is_right) && !self.strays.iter().any(|it| it.counts)
    }

    /// Whether all that is wrong may come of a machine that does not keep up: findings of time do, and that the right
    /// one is not there; no scope of it does, nor what is not said to be withheld.
    fn may_be_late(&self) -> bool {
        let is_of_time = |id: &String| OF_TIME.contains(&id.as_str());
        let judged_late = |it: &Judgement| {
            let mut ids = it.others.iter().chain(&it.wrong_causes);
            (it.scoped || !it.right) && ids.all(is_of_time)
        };
        let may_be =
            |one: &Outcome| one.blind.is_empty() && one.judgement.as_ref().is_none_or(judged_late);
        let mut strays = self.strays.iter().filter(|stray| stray.counts);
        self.outcomes.iter().all(may_be) && strays.all(|stray| is_of_time(&stray.id))
    }
}

/// How to run.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// How long each is watched, at least.
    pub time: Duration,
    /// How many play side by side.
    pub together: usize,
    /// Whether netdiag is asked; else only the faults are proven.
    pub diagnose: bool,
    /// Signals that are done without, each by one more netdiag beside the one that sees all.
    pub without: &'static [Signal],
}

/// Cases that can play side by side: at most so many, with no more namespaces than a filter of netdiag takes, and no
/// two that take the same. Who changes the machine plays alone.
#[must_use]
pub fn batches(cases: Vec<Case>, together: usize) -> Vec<Vec<Case>> {
    let mut waiting = VecDeque::from(cases);
    let mut batches = Vec::new();
    while !waiting.is_empty() {
        let mut batch: Vec<Case> = Vec::new();
        for _ in 0..waiting.len() {
            let Some(case) = waiting.pop_front() else { break };
            let takes = case.scenario.takes;
            let taken = batch.iter().any(|one| {
                one.alone() || case.alone() || (takes.is_some() && one.scenario.takes == takes)
            });
            let watched: usize = batch.iter().map(|one| one.scenario.watch.len()).sum();
            let is_room = watched + case.scenario.watch.len() <= FILTER_VALUES;
            if batch.len() < together && is_room && !taken {
                batch.push(case);
            } else {
                waiting.push_back(case);
            }
        }
        batches.push(batch);
    }
    batches
}

/// Findings that a machine which does not keep up really has.
const OF_TIME: [&str; 14] = [
    "bufferbloat",
    "cpu-starved",
    "dns-slow",
    "dns-unanswered",
    "high-rtt",
    "listen-overflow",
    "local-not-reading",
    "packet-loss",
    "peer-not-reading",
    "peer-unreachable",
    "periodic-latency",
    "slow-local-application",
    "slow-peer-application",
    "softnet-drop",
];

/// How often a batch is played at most.
const ATTEMPTS: usize = 3;

/// Runs cases side by side, again where something is not as it must be and the machine did not keep up in that time:
/// what is slow in it is slow indeed then. Each time half as many play together, for the load is theirs. What the last
/// attempt comes to counts, whatever that is.
///
/// # Errors
/// As for [`batch`].
///
/// # Panics
/// As for [`batch`].
pub fn batch_on_time(cases: &[Case], manner: Manner) -> Result<Batch> {
    on_time(cases, manner, ATTEMPTS - 1)
}

fn on_time(cases: &[Case], manner: Manner, attempts_left: usize) -> Result<Batch> {
    let hiccups = Hiccups::watch();
    let played = batch(cases.to_vec(), manner)?;
    let why = hiccups.stood_still().filter(|_| !played.is_right() && played.may_be_late());
    let Some(why) = why.filter(|_| attempts_left > 0) else { return Ok(played) };
    eprintln!("RETRIED: {}", Spoilt::StoodStill);
    let stories = played.outcomes.iter().map(table::story).collect::<String>();
    eprintln!("{why}:\n{stories}{:?}", played.strays);
    let mut whole = Batch { outcomes: vec![], strays: vec![], again: cases.len() };
    for half in cases.chunks(cases.len().div_ceil(2)) {
        let mut half = on_time(half, manner, attempts_left - 1)?;
        whole.outcomes.append(&mut half.outcomes);
        whole.strays.append(&mut half.strays);
        whole.again += half.again;
    }
    Ok(whole)
}

/// Runs cases side by side.
///
/// # Errors
/// When a stage cannot be set or netdiag fails.
///
/// # Panics
/// When a thread does.
pub fn batch(cases: Vec<Case>, manner: Manner) -> Result<Batch> {
    /// Until streams have found their pace and sockets their states.
    const SETTLE: Duration = Duration::from_millis(1500);
    let longest = cases.iter().map(|case| (case.scenario.lasts)(&case.values)).max();
    let time = manner.time.max(longest.unwrap_or_default());
    let mut stages = set(&cases)?;
    thread::sleep(SETTLE);
    let chosen = chosen(&cases, &stages);
    let blind = manner.without.iter().map(|&signal| Blind::start(signal, &chosen));
    let blind = blind.collect::<Result<Vec<_>>>()?;
    let netdiag = if manner.diagnose { Some(begin(&chosen, time)?) } else { None };
    let before = stages.iter().map(Readings::take).collect::<Result<Vec<_>>>()?;
    stages.iter_mut().for_each(Stage::watched);
    // Longer than one waits for a word of netdiag, where a scenario takes that long.
    thread::sleep(time);
    let diagnosis = netdiag.map(end).transpose()?;
    let blind = blind.into_iter().map(Blind::stop).collect::<Result<Vec<_>>>()?;
    let mut found = diagnosis.as_ref().map(findings).transpose()?.unwrap_or_default();
    // What another node would say of itself.
    let elsewhere = elsewhere(&cases, &stages);
    found.retain(|one| !one.is_of(&elsewhere));
    let marks: Vec<_> = stages.iter().map(Stage::marks).collect();
    let wanted: Vec<_> =
        cases.iter().zip(&stages).map(|(case, stage)| wanted(case, stage)).collect();
    let (shares, strays) = share(&found, &marks, &wanted);
    let blind: Vec<Vec<_>> = blind
        .iter()
        .map(|said| {
            let mut found = said.found().to_vec();
            found.retain(|one| !one.is_of(&elsewhere));
            let (shares, _) = share(&found, &marks, &wanted);
            shares.into_iter().map(|share| said.of(share)).collect()
        })
        .collect();
    let after = stages.iter().map(Readings::take).collect::<Result<Vec<_>>>()?;
    let readings = before.into_iter().zip(after);
    let mut outcomes = Vec::new();
    for (number, (((case, mut stage), (before, after)), (found, wanted))) in
        cases.into_iter().zip(stages).zip(readings).zip(shares.into_iter().zip(wanted)).enumerate()
    {
        let clients = stage.clients();
        let said = stage.end().with_context(|| case.name())?;
        let seen = Seen { before, after, said };
        let mut claims = Claims::default();
        if !case.twin {
            (case.scenario.proof)(&case.values, &seen, &mut claims);
        }
        if case.expect() == Expect::Healthy {
            at_work(&seen, &clients, case.scenario.done, &mut claims);
        }
        let judged = || {
            let found: Vec<_> = found.iter().collect();
            let mut judged = judge(&wanted, &found);
            match case.expect() {
                Expect::Chain(_) => judged.right &= is_chained(&wanted, &found),
                Expect::Faults(_) => {
                    judged.wrong_causes.extend(causes_of_independent(&wanted, &found));
                }
                Expect::Fault(_) | Expect::Healthy => {}
            }
            judged
        };
        let judgement = manner.diagnose.then(judged);
        let blind = blind.iter().flat_map(|said| said[number].problems(&wanted, &found)).collect();
        outcomes.push(Outcome { case, claims, judgement, found, seen, blind });
    }
    Ok(Batch { outcomes, strays, again: 0 })
}

/// The namespaces that stand for other nodes.
fn elsewhere(cases: &[Case], stages: &[Stage]) -> Vec<String> {
    let unwatched = cases.iter().zip(stages).flat_map(|(case, stage)| {
        let sides = [Side::Client, Side::Server].into_iter();
        let others = sides.filter(|side| !case.scenario.watch.contains(side));
        others.map(|side| stage.side(side).inode().to_string())
    });
    unwatched.collect()
}

fn set(cases: &[Case]) -> Result<Vec<Stage>> {
    thread::scope(|scope| {
        let threads: Vec<_> = (1_u8..)
            .zip(cases)
            .map(|(number, case)| {
                scope.spawn(move || -> Result<Stage> {
                    let mut stage = Stage::new(number, Random::of(case.random))?;
                    (case.scenario.set)(&mut stage, &case.values)
                        .with_context(|| format!("{} {}", case.name(), case.values))?;
                    Ok(stage)
                })
            })
            .collect();
        let set = threads.into_iter().map(|thread| thread.join().expect("a stage panicked"));
        set.collect()
    })
}

/// What netdiag must find.
fn wanted(case: &Case, stage: &Stage) -> Vec<Wanted> {
    let of = |id: &str, scopes: &[&str]| -> Wanted {
        (id.to_owned(), scopes.iter().map(|scope| stage.scope(scope)).collect())
    };
    match case.expect() {
        Expect::Fault(scopes) => vec![of(case.scenario.name, scopes)],
        Expect::Faults(all) | Expect::Chain(all) => {
            all.iter().map(|(id, scopes)| of(id, scopes)).collect()
        }
        Expect::Healthy => Vec::new(),
    }
}

/// Findings of the whole node go to who expects such a one. Returns those of nobody.
fn share(
    found: &[Found],
    marks: &[Vec<String>],
    wanted: &[Vec<Wanted>],
) -> (Vec<Vec<Found>>, Vec<Found>) {
    let mut shares = vec![Vec::new(); marks.len()];
    let mut strays = Vec::new();
    for one in found {
        let whose = marks.iter().position(|marks| one.is_of(marks)).or_else(|| {
            let wants = |(id, scopes): &Wanted| *id == one.id && one.has_scope(scopes);
            wanted.iter().position(|wanted| wanted.iter().any(wants))
        });
        match whose {
            Some(whose) => shares[whose].push(one.clone()),
            None => strays.push(one.clone()),
        }
    }
    (shares, strays)
}

/// The flags that choose the namespaces that are watched.
fn chosen<'a>(cases: &[Case], stages: &'a [Stage]) -> Vec<&'a str> {
    let each = cases.iter().zip(stages).flat_map(|(case, stage)| {
        case.scenario.watch.iter().flat_map(|side| ["--netns", stage.side(*side).name()])
    });
    each.collect()
}

fn begin(chosen: &[&str], time: Duration) -> Result<Netdiag> {
    let time = format!("{}s", time.as_secs());
    Netdiag::start(&[&["diagnose", "-d", &time, "-o", "json"], chosen].concat())
}

fn end(netdiag: Netdiag) -> Result<Value> {
    let (status, out, err) = netdiag.wait_text()?;
    let said = || format!("{status}: {out:?}\n{}", err.join("\n"));
    if !status.success() {
        bail!("netdiag failed: {}", said());
    }
    let last = out.iter().rev().find(|line| line.starts_with("{\"schema\":\"netdiag.diagnose/"));
    Ok(serde_json::from_str(last.with_context(said)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    static PLAIN: Scenario = Scenario::healthy("plain");
    static GREEDY: Scenario = Scenario { takes: Some("table"), ..Scenario::healthy("greedy") };

    #[test]
    fn what_is_the_nodes_is_of_who_expects_it() {
        let found = |id: &str, name: &str| Found {
            id: id.to_owned(),
            counts: true,
            kind: "node".to_owned(),
            name: name.to_owned(),
            caused_by: vec![],
            title: String::new(),
        };
        let all = [found("a", "10.77.1.2"), found("b", "host"), found("c", "host")];
        let marks = [vec!["10.77.1.".to_owned()], vec!["10.77.2.".to_owned()]];
        let wanted = [vec![], vec![("b".to_owned(), vec![("node".to_owned(), vec![])])]];
        let (shares, strays) = share(&all, &marks, &wanted);
        assert_eq!(shares, [vec![all[0].clone()], vec![all[1].clone()]]);
        assert_eq!(strays, [all[2].clone()]);
    }

    #[test]
    fn no_two_take_the_same() {
        let cases = [&PLAIN, &GREEDY, &GREEDY, &PLAIN, &PLAIN];
        let cases = cases.map(|scenario| Case::draw(scenario, false, 1)).to_vec();
        let sizes: Vec<_> = batches(cases, 3)
            .iter()
            .map(|batch| batch.iter().filter(|case| case.scenario.takes.is_some()).count())
            .collect();
        assert_eq!(sizes, [1, 1]);
    }

    #[test]
    fn what_is_watched_has_room_in_a_filter() {
        static BOTH: Scenario =
            Scenario { watch: &[Side::Client, Side::Server], ..Scenario::healthy("both") };
        let cases = vec![Case::draw(&BOTH, false, 1); FILTER_VALUES];
        let sizes: Vec<_> = batches(cases, FILTER_VALUES).iter().map(Vec::len).collect();
        assert_eq!(sizes, [FILTER_VALUES / 2; 2]);
    }

    #[test]
    fn who_changes_the_machine_plays_alone() {
        static RUDE: Scenario =
            Scenario { needs: Needs::OwnMachine("the limit"), ..Scenario::healthy("rude") };
        let cases = [&PLAIN, &RUDE, &PLAIN, &RUDE].map(|scenario| Case::draw(scenario, false, 1));
        let names = batches(cases.to_vec(), 6);
        let names: Vec<Vec<_>> =
            names.iter().map(|batch| batch.iter().map(Case::name).collect()).collect();
        assert_eq!(names, [vec!["plain", "plain"], vec!["rude"], vec!["rude"]]);
    }
}
