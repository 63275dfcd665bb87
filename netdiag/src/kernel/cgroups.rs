//! What the programs tell of tasks, and why it may be less than there is.

use netdiag_common::{
    field::Field,
    globals::{Settings, hierarchy},
    signal::Signal,
};

use super::hooks::Kernel;
use crate::{
    coverage::{SignalStatus, Status},
    node::places::{Hierarchy, Kind},
};

/// What the programs read to find a task's cgroup in a hierarchy of version 1.
const OF_CGROUP: [Field; 5] = [
    Field::TaskCgroups,
    Field::CgroupsSubsys,
    Field::SubsysCgroup,
    Field::CgroupNode,
    Field::NodeId,
];

/// The same for the name of a thread's process.
const OF_NAME: [Field; 2] = [Field::TaskLeader, Field::TaskComm];

/// The same for whether it reads for itself.
const OF_READER: [Field; 2] = [Field::TaskFlags, Field::SkLockOwned];

/// Tells the programs which hierarchy to look into, and whether they may look at tasks at all. Without one that is
/// mounted it is that of version 2, which every kernel has.
pub(super) fn configure(
    kernel: &Kernel,
    hierarchy: Option<&Hierarchy>,
    reads_memory: bool,
    settings: &mut Settings,
) {
    settings.hierarchy = number(kernel, hierarchy, reads_memory).unwrap_or(hierarchy::NONE);
    settings.reads_tasks = u32::from(reads_memory && locate(kernel, &OF_NAME).is_ok());
    settings.tells_readers = u32::from(reads_memory && locate(kernel, &OF_READER).is_ok());
}

/// Says that cgroups are not told.
pub(super) fn amend(
    kernel: &Kernel,
    hierarchy: Option<&Hierarchy>,
    reads_memory: bool,
    statuses: &mut [SignalStatus],
) {
    let Err(reason) = number(kernel, hierarchy, reads_memory) else { return };
    let status = &mut statuses[Signal::Socket as usize];
    if status.status != Status::Off {
        status.status = Status::Degraded;
        status
            .missing
            .push(format!("cgroups of processes that end before they are looked up: {reason}"));
    }
}

fn number(
    kernel: &Kernel,
    hierarchy: Option<&Hierarchy>,
    reads_memory: bool,
) -> Result<u32, String> {
    let Some(Kind::V1(controller)) = hierarchy.map(|hierarchy| hierarchy.kind) else {
        return Ok(hierarchy::UNIFIED);
    };
    if !reads_memory {
        return Err("lockdown forbids to read those of version 1".to_owned());
    }
    locate(kernel, &OF_CGROUP)?;
    // As `enum cgroup_subsys_id` calls it.
    let name = format!("{}_cgrp_id", if controller == "blkio" { "io" } else { controller });
    let number = kernel.btf.enum_value("cgroup_subsys_id", &name);
    let number = number.and_then(|number| u32::try_from(number).ok());
    let number = number.filter(|&number| number < hierarchy::SUBSYSTEMS);
    let number = number.ok_or_else(|| format!("this kernel has no {name}"))?;
    Ok(hierarchy::FIRST_SUBSYSTEM + number)
}

fn locate(kernel: &Kernel, fields: &[Field]) -> Result<(), String> {
    let located = fields.iter().map(|&field| kernel.btf.locate(field).map(drop));
    located.collect::<Result<(), _>>().map_err(|error| error.to_string())
}
