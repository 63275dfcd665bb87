//! The fault lab: faults made on purpose in namespaces of their own, and what `netdiag diagnose` makes of them.
//!
//! A [`Scenario`] is one small file in `lab/scenario/`: it sets a [`stage::Stage`] (two namespaces, a link,
//! actors that are processes of their own), says by which of the kernel's own numbers the fault is really
//! there, and which finding must name it, with which scope. Its parameters are drawn from a seed. Its twin is
//! the same with parameters just below what anyone should be told of, and must be found healthy. Scenarios
//! run side by side under one netdiag; addresses, devices and processes tell whose finding it is.

pub mod act;
mod blind;
pub mod judge;
pub mod run;
pub mod scenario;
pub mod stage;
pub mod table;
pub mod witness;

use std::{collections::BTreeMap, fmt, ops::Index, time::Duration};

use anyhow::Result;

use self::{
    stage::Stage,
    witness::{Claims, Seen},
};
use crate::random::Random;

/// One of the two namespaces of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Where clients live.
    Client,
    /// Where servers live.
    Server,
}

/// What netdiag must make of a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The finding of the scenario's name, first and with one of these scopes, each `kind:name`; in a name
    /// `{client}` and `{server}` stand for their address, `{client-netns}` and `{server-netns}` for their
    /// namespace, `{link}` for the device, and `{name}` for the process of that name.
    Fault(&'static [&'static str]),
    /// Findings of these ids, whichever is first, each with one of its scopes. They have nothing to do with each other:
    /// none is said to come of anything.
    Faults(&'static [(&'static str, &'static [&'static str])]),
    /// The same, each the cause of the next: in that order, and said so.
    Chain(&'static [(&'static str, &'static [&'static str])]),
    /// Nothing above info.
    Healthy,
}

/// What a scenario needs of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Namespaces and tun devices: every machine that tests run on has them.
    Nothing,
    /// A machine that is made for a test, whose settings may be changed; with the reason.
    OwnMachine(&'static str),
}

/// What is drawn for a run, from the first to the last of a range.
#[derive(Clone, Copy, Debug)]
pub struct Parameter {
    /// Name, with its unit.
    pub name: &'static str,
    /// Where the fault is.
    pub fault: [u64; 2],
    /// Where it is none yet.
    pub twin: [u64; 2],
}

impl Parameter {
    /// One by which the twin differs.
    #[must_use]
    pub const fn new(name: &'static str, fault: [u64; 2], twin: [u64; 2]) -> Self {
        Self { name, fault, twin }
    }

    /// One that has nothing to do with whether it is a fault.
    #[must_use]
    pub const fn any(name: &'static str, range: [u64; 2]) -> Self {
        Self::new(name, range, range)
    }
}

/// Values of a run's parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Values(BTreeMap<&'static str, u64>);

impl Values {
    /// Draws them.
    pub fn draw(parameters: &[Parameter], twin: bool, random: &mut Random) -> Self {
        let one = |parameter: &Parameter| {
            let [from, to] = if twin { parameter.twin } else { parameter.fault };
            (parameter.name, from + random.below(to - from + 1))
        };
        Self(parameters.iter().map(one).collect())
    }

    /// One that is in milliseconds.
    #[must_use]
    pub fn ms(&self, name: &str) -> Duration {
        Duration::from_millis(self[name])
    }
}

impl Index<&str> for Values {
    type Output = u64;

    fn index(&self, name: &str) -> &u64 {
        &self.0[name]
    }
}

impl fmt::Display for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (name, value)) in self.0.iter().enumerate() {
            write!(f, "{}{name}={value}", if number > 0 { " " } else { "" })?;
        }
        Ok(())
    }
}

/// A fault with its twin, or a healthy workload.
#[derive(Debug)]
pub struct Scenario {
    /// Name: of a fault, the id of its finding.
    pub name: &'static str,
    /// What netdiag must make of it.
    pub expect: Expect,
    /// Whose flows netdiag watches: where it is not both, the other end stands for another node.
    pub watch: &'static [Side],
    /// What it needs.
    pub needs: Needs,
    /// Something that only one scenario can have at a time.
    pub takes: Option<&'static str>,
    /// How long it must be watched, where that is longer than for others.
    pub lasts: fn(&Values) -> Duration,
    /// What is drawn for each run.
    pub parameters: &'static [Parameter],
    /// Sets the stage.
    pub set: fn(&mut Stage, &Values) -> Result<()>,
    /// Claims that hold while the fault is there, or what a healthy workload has that looks like one, by witnesses that
    /// netdiag has no part in. Not asked of the twin.
    pub proof: fn(&Values, &Seen, &mut Claims),
    /// What its clients get done at least, all together, where nothing must be found: a workload that does nothing is
    /// healthy whatever netdiag sees.
    pub done: u64,
}

impl Scenario {
    /// A fault that is seen from the client's end.
    #[must_use]
    pub const fn fault(name: &'static str, scope: &'static [&'static str]) -> Self {
        Self { name, expect: Expect::Fault(scope), ..Self::healthy(name) }
    }

    /// Several faults at once, seen from the client's end.
    #[must_use]
    pub const fn faults(
        name: &'static str,
        all: &'static [(&'static str, &'static [&'static str])],
    ) -> Self {
        Self { expect: Expect::Faults(all), ..Self::healthy(name) }
    }

    /// A fault and what comes of it, seen from the client's end.
    #[must_use]
    pub const fn chain(
        name: &'static str,
        all: &'static [(&'static str, &'static [&'static str])],
    ) -> Self {
        Self { expect: Expect::Chain(all), ..Self::healthy(name) }
    }

    /// Whether it has a twin.
    #[must_use]
    pub const fn has_twin(&self) -> bool {
        matches!(self.expect, Expect::Fault(_))
    }

    /// A workload that nothing is wrong with, seen from the client's end unless `watch` says otherwise.
    #[must_use]
    pub const fn healthy(name: &'static str) -> Self {
        Self {
            name,
            expect: Expect::Healthy,
            watch: &[Side::Client],
            needs: Needs::Nothing,
            takes: None,
            lasts: |_| Duration::ZERO,
            parameters: &[],
            set: |_, _| Ok(()),
            proof: |_, _, _| (),
            done: 10,
        }
    }
}
