//! Whom something belongs to, for people.

use crate::{
    format::{MISSING, cut, or_missing, sanitised},
    snapshot::Owner,
};

/// The pod or container that a process lives in, `shop/web-6d5f nginx` where it has names, with what there is of
/// an id where it has none.
pub(in crate::view) fn home(owner: &Owner) -> Option<String> {
    let container = owner.container_name.clone().or_else(|| owner.container.as_deref().map(short));
    match (&owner.namespace, &owner.pod, &owner.pod_uid) {
        (Some(namespace), Some(pod), _) => {
            let name =
                owner.container_name.iter().map(|name| format!(" {name}")).collect::<String>();
            Some(format!("{namespace}/{pod}{name}"))
        }
        (_, _, Some(uid)) => Some(format!("pod {uid}")),
        _ => container.map(|container| format!("container {container}")),
    }
    .map(|home| sanitised(&home))
}

/// As much of a container id as its tools show.
fn short(id: &str) -> String {
    id.chars().take(12).collect()
}

pub(in crate::view) fn process(owner: &Owner) -> String {
    match (owner.comm.as_deref(), owner.pid) {
        (None, None) => MISSING.to_owned(),
        (comm, pid) => format!(
            "{}/{}",
            or_missing(comm, |comm| cut(&sanitised(comm), 15)),
            or_missing(pid, |pid| pid.to_string())
        ),
    }
}

/// A process that has a name of others wherever there may be one.
#[cfg(test)]
pub(super) fn of_others(name: &str) -> Owner {
    let name = || Some(name.to_owned());
    let pid = Some(812);
    Owner {
        pid,
        comm: name(),
        container_name: name(),
        pod: name(),
        namespace: name(),
        ..Owner::default()
    }
}
