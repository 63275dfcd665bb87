//! Whom something belongs to, with the names of pod and container.

use crate::{
    flow::{Frozen, Who},
    labels::Labels,
    owner::Place,
    snapshot::Owner,
};

/// The owner of a flow.
pub(in crate::snapshot) fn of_flow(flow: &Frozen, labels: &Labels) -> Owner {
    owner(flow.pid, flow.comm.clone(), flow.place.as_deref(), labels)
}

/// One end's.
pub(in crate::snapshot) fn of(who: &Who, labels: &Labels) -> Owner {
    owner(who.pid, who.comm.clone(), who.place.as_deref(), labels)
}

/// A process; an empty name is not known.
pub(in crate::snapshot) fn of_process(
    pid: u32,
    comm: &str,
    place: Option<&Place>,
    labels: &Labels,
) -> Owner {
    owner(Some(pid), (!comm.is_empty()).then(|| comm.to_owned()), place, labels)
}

fn owner(pid: Option<u32>, comm: Option<String>, place: Option<&Place>, labels: &Labels) -> Owner {
    let mut owner = Owner { pid, comm, ..Owner::default() };
    if let Some(place) = place {
        owner.locate(place);
        owner.name(labels);
    }
    owner
}

impl Owner {
    /// Says where it lives.
    pub fn locate(&mut self, place: &Place) {
        self.cgroup = Some(place.cgroup.clone());
        self.container.clone_from(&place.container);
        self.pod_uid.clone_from(&place.pod_uid);
    }

    /// Says what its pod and container are called, where that is known.
    pub fn name(&mut self, labels: &Labels) {
        let place = self.place();
        if let Some(pod) = labels.owners.pod(&place) {
            (self.pod, self.namespace) = (Some(pod.name.clone()), Some(pod.namespace.clone()));
        }
        if let Some(name) = labels.owners.container(&place) {
            self.container_name = Some(name.to_owned());
        }
    }

    /// Where it lives, as far as it says so.
    #[must_use]
    pub fn place(&self) -> Place {
        Place {
            cgroup: self.cgroup.clone().unwrap_or_default(),
            container: self.container.clone(),
            pod_uid: self.pod_uid.clone(),
        }
    }
}
