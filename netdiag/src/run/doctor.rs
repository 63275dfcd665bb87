//! `netdiag doctor`: attaches everything once, says how that went, and lets go again.

use std::io;

use anyhow::Result;

use crate::{
    cli::Output,
    config,
    exit::Status,
    kernel::{facts::Preemption, plan},
    node::{places::Hierarchy, vantage},
    run::watch::options,
    sandbox::{self, Later, Reached},
    snapshot::Doctor,
    view,
};

/// Runs the command. `lacking` is what could not be given up before it.
pub(super) fn run(
    kernel: &config::Kernel,
    form: Output,
    mut lacking: Vec<String>,
) -> Result<Status> {
    let hierarchy = Hierarchy::find(&kernel.host_root);
    let report = plan::examine(&options(kernel, hierarchy.as_ref(), None))?;
    let facts = &report.facts;
    let preemption = match facts.preemption {
        Preemption::Unknown => None,
        known => Some(known.to_string()),
    };
    let mut doctor = Doctor {
        schema: "netdiag.doctor/1".to_owned(),
        kernel: facts.release.clone(),
        btf: report.btf,
        lockdown: facts.lockdown.map(|mode| mode.to_string()),
        preemption,
        host_root: kernel.host_root.display().to_string(),
        unseen: vantage::unseen(&kernel.host_root),
        sandbox: None,
        signals: report.signals,
    };
    let later = Later { programs: report.attaches_late, rings: report.opens_rings };
    doctor.sandbox = sandbox::confine(later).map(|mut reached| {
        sandbox::try_landlock(&mut reached);
        lacking.extend(reached.lacking);
        // Capabilities are given up at both times.
        lacking.dedup();
        Reached { lacking, ..reached }
    });
    let mut out = io::stdout().lock();
    match form {
        Output::Text => view::doctor::text(&doctor, view::table::COLUMNS, &mut out)?,
        Output::Json => view::json::line(&doctor, &mut out)?,
    }
    Ok(report.refusal.map_or(Ok(Status::Ran), Err)?)
}
