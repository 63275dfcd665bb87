//! A server that its control group lets have less of the CPU than its requests take.

use super::prelude::*;
use crate::{cgroup::Limited, machine};

pub(super) static SCENARIO: Scenario = Scenario {
    watch: &[Side::Server],
    // Of a control group with several processes, or with none that is known, the finding is the node's.
    takes: Some("CPU limit"),
    parameters: &[
        Parameter::new("quota_percent", [3, 8], [60, 90]),
        Parameter::any("work_ms", [6, 10]),
    ],
    set: |stage, it| {
        stage.link_alike(Way::delayed(MS))?;
        let at = stage.at(8080);
        let serve = Serve { work: it.ms("work_ms"), burns: true, ..Serve::at(vec![at]) };
        let pid = stage.start(Side::Server, "render", Act::Serve(serve))?;
        // What an emulated processor takes beyond its work would hold the twin back.
        let quota_percent = it["quota_percent"] * machine::amount(1, 2);
        let group = Limited::new(&stage.comm("render"), quota_percent)?;
        group.hold(pid)?;
        stage.keep(group);
        // An emulated processor takes a multiple of that for each answer, and others play beside it: more than it can
        // do would be a fault of its own.
        let per_second = machine::amount(30.0, 2.0);
        stage.start(Side::Client, "web", Act::Ask(Ask::to(vec![at; 8], per_second)))?;
        Ok(())
    },
    proof: |_, seen, claims| {
        claims.least("slow answers, us", seen.said("web", "p90_us"), 60_000);
        claims.least("answers", seen.said("web", "answers"), 10);
    },
    ..Scenario::fault("cpu-starved", &["process:{render}", "node:"])
};
