//! Which flow, or which group of them, a row is about.

use std::net::SocketAddr;

use crate::{
    flow::{Grouping, SERVER},
    format::{self, MISSING, cut, sanitised},
    owner::SHORT_ID,
    snapshot::{Endpoint, Flow, Group, Owner},
    view::owner::process,
};

/// The first columns of a row, as many as [`names`].
pub(super) fn of(flow: &Flow, by: Grouping) -> Vec<String> {
    if let Some(group) = &flow.group {
        return vec![group_name(flow, group, by), format::count(group.flows)];
    }
    if flow.local.ip.is_some() || flow.peer.ip.is_some() {
        return vec![endpoint(&flow.local), endpoint(&flow.peer), process(&flow.owner)];
    }
    let mut columns = vec![String::new(); names(by).len()];
    columns[0].clone_from(&flow.id);
    columns
}

/// What stands above the columns that say which flow it is.
pub(super) fn names(by: Grouping) -> Vec<String> {
    match by {
        Grouping::Flow => ["LOCAL", "PEER", "PROCESS"].map(str::to_owned).to_vec(),
        by => vec![by.name().to_uppercase(), "FLOWS".to_owned()],
    }
}

/// The name that people know, where there is one.
pub(in crate::view) fn group_name(flow: &Flow, group: &Group, by: Grouping) -> String {
    let Some(name) = &group.name else { return MISSING.to_owned() };
    let Owner { pod, namespace, container_name, .. } = &flow.owner;
    let known: Vec<&str> = match by {
        Grouping::Pod => [namespace, pod].into_iter().flatten().map(String::as_str).collect(),
        Grouping::Container => {
            [namespace, pod, container_name].into_iter().flatten().map(String::as_str).collect()
        }
        Grouping::Flow
        | Grouping::Peer
        | Grouping::Backend
        | Grouping::Process
        | Grouping::Port => Vec::new(),
    };
    let served = flow.id.ends_with(SERVER);
    match (known.is_empty(), by) {
        (false, _) => sanitised(&known.join("/")),
        (true, Grouping::Container) => cut(&sanitised(name), SHORT_ID),
        (true, _) if served => format!("{} (server)", sanitised(name)),
        (true, _) => sanitised(name),
    }
}

/// The end of a translated conversation that neither column shows.
pub(in crate::view) fn translation(
    local: &Endpoint,
    service: Option<&Endpoint>,
    backend: Option<&Endpoint>,
) -> Option<String> {
    let (service, backend) = (service?, backend?);
    Some(if backend == local {
        format!("service {}", endpoint(service))
    } else {
        format!("backend {}", endpoint(backend))
    })
}

/// `10.0.0.1:443`, `[2001:db8::1]:443`.
pub(in crate::view) fn endpoint(end: &Endpoint) -> String {
    match (end.ip, end.port) {
        (None, _) => MISSING.to_owned(),
        (Some(ip), None) => ip.to_string(),
        (Some(ip), Some(port)) => SocketAddr::new(ip, port).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watched::kit;

    #[test]
    fn groups_have_the_names_that_people_know() {
        let named = |by, name: Option<&str>, owner: Owner| {
            let group = Some(Group { name: name.map(str::to_owned), flows: 3 });
            of(&Flow { group, owner, ..kit::flow("f1") }, by)
        };
        let text = |text: &str| Some(text.to_owned());
        let known = Owner {
            pod: text("web-1"),
            namespace: text("shop"),
            container_name: text("nginx"),
            ..Owner::default()
        };
        let id = "0123456789abcdef";
        let cases = [
            (Grouping::Peer, Some("10.0.0.9"), Owner::default(), "10.0.0.9"),
            (Grouping::Process, None, Owner::default(), MISSING),
            (Grouping::Pod, Some("1-2"), known.clone(), "shop/web-1"),
            (Grouping::Pod, Some("1-2"), Owner::default(), "1-2"),
            (Grouping::Container, Some(id), known, "shop/web-1/nginx"),
            (Grouping::Container, Some(id), Owner::default(), "0123456789a…"),
        ];
        for (by, name, owner, expected) in cases {
            assert_eq!(named(by, name, owner), [expected, "3"], "{by:?}");
        }
        let served = Flow { id: "port:443/server".to_owned(), ..kit::flow("f1") };
        let group = Some(Group { name: text("443"), flows: 1 });
        assert_eq!(of(&Flow { group, ..served }, Grouping::Port)[0], "443 (server)");
    }
}
