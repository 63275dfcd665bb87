//! Owners that nobody is, with the names that may have been meant.

use std::collections::BTreeSet;

use super::{Home, Lookup, Owners, Place, Pod};
use crate::{cli::value::nearest, config::owners::is_named, exit::Error, owner::SHORT_ID};

/// Names that an error lists.
const LISTED: usize = 5;

/// Whether there may be somebody.
///
/// # Errors
/// A process, cgroup, container, pod or namespace that does not exist: wrong usage, or a reason to try again under
/// `--wait`.
pub(super) fn check(owners: &Owners, node: &impl Lookup) -> Result<(), Error> {
    if !owners.comms.is_empty() && node.knows_processes() {
        let names = node.process_names();
        for comm in &owners.comms {
            if !names.iter().any(|name| is_named(comm, name)) {
                return Err(nobody("--comm", comm, "no process has this name", names));
            }
        }
    }
    if !owners.asks_for_place() {
        return Ok(());
    }
    let places = node.places().map_err(|reason| {
        Error::usage(format!(
            "filters by cgroup, container, pod and namespace need to see cgroups: {reason}"
        ))
    })?;
    for (flag, wanted, missing) in [
        ("--cgroup", &owners.cgroups, "no such cgroup"),
        ("--container", &owners.containers, "no container has an id that begins so"),
        ("--pod", &owners.pods, "no pod on this node has this name"),
        ("--namespace", &owners.namespaces, "no pod on this node is in it"),
    ] {
        for value in wanted {
            let alone = only(flag, value);
            let is_it = |(place, pod): &Home| accepts(&alone, place, pod.as_ref());
            if !places.iter().any(is_it) {
                let known =
                    places.iter().filter_map(|(place, pod)| name(flag, place, pod.as_ref()));
                return Err(nobody(flag, value, missing, known));
            }
        }
    }
    if !places.iter().any(|(place, pod)| accepts(owners, place, pod.as_ref())) {
        return Err(Error::usage(
            "no process lives where --cgroup, --container, --pod and --namespace all say, so nothing would match; \
             leave one out (--wait waits for it)",
        ));
    }
    Ok(())
}

fn accepts(owners: &Owners, place: &Place, pod: Option<&Pod>) -> bool {
    owners.accepts(place, pod) == Some(true)
}

fn only(flag: &str, value: &str) -> Owners {
    let values = vec![value.to_owned()];
    match flag {
        "--cgroup" => Owners { cgroups: values, ..Owners::default() },
        "--container" => Owners { containers: values, ..Owners::default() },
        "--pod" => Owners { pods: values, ..Owners::default() },
        _ => Owners { namespaces: values, ..Owners::default() },
    }
}

fn name(flag: &str, place: &Place, pod: Option<&Pod>) -> Option<String> {
    match flag {
        "--cgroup" => Some(place.cgroup.clone()).filter(|path| path != "/"),
        "--container" => place.container.as_ref().map(|id| id.chars().take(SHORT_ID).collect()),
        "--pod" => pod.map(|pod| pod.name.clone()),
        _ => pod.map(|pod| pod.namespace.clone()),
    }
}

fn nobody(
    flag: &str,
    value: &str,
    missing: &str,
    known: impl IntoIterator<Item = String>,
) -> Error {
    let known: BTreeSet<String> = known.into_iter().collect();
    let near = nearest(value, known.iter().map(String::as_str)).join(", ");
    let some = known.iter().take(LISTED).cloned().collect::<Vec<_>>().join(", ");
    let hint = match (near.is_empty(), known.len()) {
        (false, _) => format!("did you mean {near}?"),
        (true, 0) => "there is none".to_owned(),
        (true, 1..=LISTED) => format!("there are {some}"),
        (true, number) => format!("there are {number}, such as {some}"),
    };
    Error::usage(format!(
        "{flag} {value}: {missing}, so nothing would match; {hint} (--wait waits for it)"
    ))
}
