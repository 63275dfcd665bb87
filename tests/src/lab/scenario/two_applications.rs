//! Two applications of a node that answer late: a control group holds back the processes of one, the other one takes
//! its time.

use super::prelude::*;
use crate::{cgroup::Limited, machine};

pub(super) static SCENARIO: Scenario = Scenario {
    watch: &[Side::Server],
    takes: Some("CPU limit"),
    parameters: &[
        Parameter::any("quota_percent", [3, 8]),
        Parameter::any("burn_ms", [6, 10]),
        Parameter::any("work_ms", [700, 2_000]),
    ],
    set: |stage, it| {
        stage.link_alike(Way::delayed(MS))?;
        let [render, resize, search] = [8080, 8081, 8082].map(|port| stage.at(port));
        let group = Limited::new(&stage.comm("render"), it["quota_percent"])?;
        for (role, at) in [("render", render), ("resize", resize)] {
            let serve = Serve { work: it.ms("burn_ms"), burns: true, ..Serve::at(vec![at]) };
            group.hold(stage.start(Side::Server, role, Act::Serve(serve))?)?;
        }
        stage.keep(group);
        let work = it.ms("work_ms");
        let serve = Serve { work, spread: work / 5, ..Serve::at(vec![search]) };
        stage.start(Side::Server, "search", Act::Serve(serve))?;
        // See cpu_starved.rs.
        let per_second = machine::amount(30.0, 2.0);
        let images = [[render; 4], [resize; 4]].concat();
        stage.start(Side::Client, "web", Act::Ask(Ask::to(images, per_second)))?;
        stage.start(Side::Client, "mobile", Act::Ask(Ask::to(vec![search; 12], 4.0)))?;
        Ok(())
    },
    proof: |it, seen, claims| {
        claims.least("slow answers, us", seen.said("web", "p90_us"), 60_000);
        claims.least("median of the other's, us", seen.said("mobile", "p50_us"), it["work_ms"] * 1000);
    },
    ..Scenario::faults(
        "two-applications",
        &[
            ("cpu-starved", &["node:", "process:{render}", "process:{resize}"]),
            ("slow-local-application", &["process:{search}"]),
        ],
    )
};
