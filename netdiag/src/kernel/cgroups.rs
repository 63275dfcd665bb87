//! Which cgroup of a task the programs tell, and why none.

use netdiag_common::{
    field::Field,
    globals::{Settings, hierarchy},
    signal::Signal,
};

use super::{facts::Lockdown, hooks::Kernel, plan::Options};
use crate::{
    coverage::{SignalStatus, Status},
    node::hierarchy::{self as mounted, Hierarchy},
};

/// What the programs read to find a task's cgroup in a hierarchy of version 1.
const FIELDS: [Field; 5] = [
    Field::TaskCgroups,
    Field::CgroupsSubsys,
    Field::SubsysCgroup,
    Field::CgroupNode,
    Field::NodeId,
];

/// Tells the programs which hierarchy to look into. Without one there, it is that of version 2, which every
/// kernel has.
pub(super) fn configure(kernel: &Kernel, options: &Options, settings: &mut Settings) {
    let hierarchy = mounted::find(&options.host_root);
    settings.hierarchy = number(kernel, hierarchy.as_ref()).unwrap_or(hierarchy::NONE);
}

/// Says that cgroups are not told.
pub(super) fn amend(kernel: &Kernel, options: &Options, statuses: &mut [SignalStatus]) {
    let Err(reason) = number(kernel, mounted::find(&options.host_root).as_ref()) else { return };
    let status = &mut statuses[Signal::Socket as usize];
    if status.status != Status::Off {
        status.status = Status::Degraded;
        status.missing.push(format!("cgroups of processes that end at once: {reason}"));
    }
}

fn number(kernel: &Kernel, hierarchy: Option<&Hierarchy>) -> Result<u32, String> {
    let Some(subsystem) = hierarchy.and_then(Hierarchy::subsystem) else {
        return Ok(hierarchy::UNIFIED);
    };
    if kernel.facts.lockdown == Some(Lockdown::Confidentiality) {
        return Err("lockdown forbids to read those of version 1".to_owned());
    }
    for field in FIELDS {
        kernel.btf.locate(field).map_err(|error| error.to_string())?;
    }
    let number = kernel.btf.enum_value("cgroup_subsys_id", &subsystem);
    let number = number.and_then(|number| u32::try_from(number).ok());
    let number = number.filter(|&number| number < hierarchy::SUBSYSTEMS);
    let number = number.ok_or_else(|| format!("this kernel has no subsystem {subsystem}"))?;
    Ok(hierarchy::FIRST_SUBSYSTEM + number)
}
