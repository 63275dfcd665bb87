//! Some scenarios of the fault lab, once each: faults are named with their scope, and healthy workloads are
//! found healthy. All of them many times: `cargo xtask lab`.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netdiag::finding::DEFINITIONS;
use netdiag_common::signal::Signal;
use netdiag_tests::{
    facts::Facts,
    lab::{
        act,
        run::{Case, Manner, batch_on_time, batches},
        scenario::{SCENARIOS, named},
        table,
    },
    machine,
    random::Random,
    requirement::alone,
};

/// Quick to be there, and of every kind: the path, the kernel, applications and names.
const FAULTS: [&str; 6] = [
    "packet-loss",
    "connection-refused",
    "slow-peer-application",
    "close-wait-leak",
    "listen-overflow",
    "dns-failing",
];

/// The same where everything takes many times as long. What only a machine of the test's own can have (softnet-drop,
/// tcp-memory-pressure) depends on how quick that machine is, and is for `cargo xtask lab --kernel`.
const WHERE_ALL_IS_SLOW: [&str; 2] = ["connection-refused", "close-wait-leak"];

const HEALTHY: [&str; 9] = [
    "request-response",
    "wide-area",
    "short-connections",
    "idle-connections",
    "deploy",
    "slow-uploads",
    "large-requests",
    "idle-consumers",
    "unlike-services",
];

/// What parameters are drawn from, unless `NETDIAG_SEED` says otherwise: the same in each run of a test.
const SEED: u64 = 1;

/// What the actors of the lab are: this very test, in a process of its own (`lab::act`).
#[test]
fn act() {
    act::perform();
}

fn play(names: &[&str], twins: bool, without: &'static [Signal]) -> Result<()> {
    let manner = Manner {
        time: Duration::from_secs(12),
        together: machine::amount(12, 1),
        diagnose: true,
        without,
    };
    let seed = Random::given().unwrap_or(SEED);
    let mut cases = Vec::new();
    for name in names {
        let scenario = named(name).with_context(|| format!("no scenario {name}"))?;
        let wanted = [true, twins && scenario.has_twin()];
        for (twin, _) in [false, true].into_iter().zip(wanted).filter(|(_, wanted)| *wanted) {
            let case = Case::draw(scenario, twin, seed);
            // What is listed here can be had everywhere: one that cannot is no pass.
            ensure!(case.missing().is_none(), "{}: {:?}", case.name(), case.missing());
            cases.push(case);
        }
    }
    let mut facts = Facts::new();
    for some in batches(cases, manner.together) {
        let played = batch_on_time(&some, manner)?;
        let (strays, hints): (Vec<_>, Vec<_>) =
            played.strays.iter().partition(|stray| stray.counts);
        let lines = |all: Vec<_>| all.into_iter().map(table::line).collect::<Vec<_>>();
        facts.equal("findings of none of these", lines(strays), vec![]);
        facts.note(format_args!("info of none of these: {:?}", lines(hints)));
        for outcome in played.outcomes {
            facts.note(table::story(&outcome));
            let name = outcome.case.name();
            facts.equal(format_args!("{name}: not there"), outcome.claims.broken, vec![]);
            let judgement = outcome.judgement.context("nothing was judged")?;
            facts.holds(format_args!("{name}: the first finding is right"), judgement.right);
            facts.holds(format_args!("{name}: its scope is right"), judgement.scoped);
            facts.equal(format_args!("{name}: other findings"), judgement.others, vec![]);
            facts.equal(format_args!("{name}: wrong causes"), judgement.wrong_causes, vec![]);
            facts.equal(format_args!("{name}: without a signal"), outcome.blind, vec![]);
        }
    }
    facts.finish();
    Ok(())
}

#[test]
fn faults_are_named_and_twins_are_not() -> Result<()> {
    let _alone = alone();
    if machine::emulated() {
        play(&WHERE_ALL_IS_SLOW, false, &[])
    } else {
        play(&FAULTS, true, &[])
    }
}

/// Ten netdiags at once are too much for an emulated machine.
#[test]
fn what_cannot_be_seen_is_withheld_and_nothing_turns_wrong() -> Result<()> {
    let _alone = alone();
    if machine::emulated() {
        play(&WHERE_ALL_IS_SLOW, false, &[Signal::Drop, Signal::Reset])
    } else {
        play(&FAULTS, false, Signal::ALL)
    }
}

#[test]
fn healthy_workloads_are_healthy() -> Result<()> {
    let _alone = alone();
    play(&HEALTHY[..machine::amount(HEALTHY.len(), 2)], false, &[])
}

/// Each finding has its fault, which bears its name.
#[test]
fn each_finding_has_its_fault() {
    let is_shown = |id: &str| SCENARIOS.iter().any(|it| it.has_twin() && it.name == id);
    let unshown: Vec<_> =
        DEFINITIONS.iter().map(|definition| definition.id).filter(|id| !is_shown(id)).collect();
    assert_eq!(unshown, [""; 0]);
}
