//! What flows of several nodes have in common.

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    flow::SERVER,
    snapshot::{Endpoint, Flow, Role},
};

/// What makes flows one row.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    JsonSchema,
    ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// The address of the other end
    Peer,
    /// The server as its clients address it, the two ends apart
    Service,
    /// The name of the process
    Owner,
    /// The pod
    Pod,
    /// The Kubernetes namespace
    Namespace,
    /// The network namespace
    Netns,
    /// The node that recorded it
    Node,
    /// Nothing: each has its own
    Flow,
}

impl By {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 8] = [
        Self::Peer,
        Self::Service,
        Self::Owner,
        Self::Pod,
        Self::Namespace,
        Self::Netns,
        Self::Node,
        Self::Flow,
    ];

    /// As on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Service => "service",
            Self::Owner => "owner",
            Self::Pod => "pod",
            Self::Namespace => "namespace",
            Self::Netns => "netns",
            Self::Node => "node",
            Self::Flow => "flow",
        }
    }

    /// What a flow of that run of a node has in common with others; none where that is not known.
    pub(super) fn of(self, node: &str, run: u32, flow: &Flow) -> Option<String> {
        let owner = &flow.owner;
        match self {
            Self::Peer => {
                let ip = flow.peer.ip?;
                Some(within(&flow.peer, node, flow.netns, ip.to_string()))
            }
            Self::Service => {
                let end = match (&flow.service, flow.role?) {
                    (Some(service), _) => service,
                    (None, Role::Server) => &flow.local,
                    (None, Role::Client) => &flow.peer,
                };
                let name = within(end, node, flow.netns, shown(end)?);
                let serves = flow.role == Some(Role::Server);
                Some(if serves { name + SERVER } else { name })
            }
            Self::Owner => owner.comm.clone(),
            Self::Pod => match (&owner.namespace, &owner.pod) {
                (Some(namespace), Some(pod)) => Some(format!("{namespace}/{pod}")),
                _ => owner.pod_uid.clone(),
            },
            Self::Namespace => owner.namespace.clone(),
            Self::Netns => Some(format!("{}@{node}", flow.netns?)),
            Self::Node => Some(node.to_owned()),
            Self::Flow => {
                let (local, peer) = (shown(&flow.local), shown(&flow.peer));
                if local.is_none() && peer.is_none() {
                    return Some(format!("{}@{node} #{run}", flow.id));
                }
                let [local, peer] = [local, peer].map(|end| end.unwrap_or_else(|| "-".to_owned()));
                let comm = owner.comm.as_deref().unwrap_or("-");
                Some(format!("{local} > {peer} {comm} {}@{node} #{run}", flow.id))
            }
        }
    }
}

/// `10.0.0.1:443`, `[2001:db8::1]:443`.
fn shown(end: &Endpoint) -> Option<String> {
    let ip = end.ip?;
    Some(match end.port {
        Some(port) => std::net::SocketAddr::new(ip, port).to_string(),
        None => ip.to_string(),
    })
}

/// The name of an address: a loopback one is another one in each namespace of each node.
fn within(end: &Endpoint, node: &str, netns: Option<u32>, name: String) -> String {
    match (end.ip, netns) {
        (Some(ip), Some(netns)) if ip.is_loopback() => format!("{name}/{netns}@{node}"),
        (Some(ip), None) if ip.is_loopback() => format!("{name}@{node}"),
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        snapshot::Owner,
        watched::kit::{self, NETNS},
    };

    #[test]
    fn flows_are_of_a_group_that_is_the_same_on_every_node() {
        let client = kit::flow("f1");
        let of = |by: By, flow: &Flow| by.of("a", 2, flow);
        let text = |text: &str| Some(text.to_owned());
        let expected = [
            (By::Peer, text("10.0.0.2")),
            (By::Service, text("10.0.0.2:443")),
            (By::Owner, text("shop")),
            (By::Pod, None),
            (By::Namespace, None),
            (By::Netns, Some(format!("{NETNS}@a"))),
            (By::Node, text("a")),
            (By::Flow, text("10.0.0.1:40000 > 10.0.0.2:443 shop f1@a #2")),
        ];
        for (by, expected) in expected {
            assert_eq!(of(by, &client), expected, "{by:?}");
        }
        assert_eq!(of(By::Service, &kit::flow("f1").serving(80)), text("10.0.0.1:80/server"));
        let behind = kit::flow("f1").to("10.96.0.1", 80).behind("10.244.1.9", 8080);
        assert_eq!(of(By::Service, &behind), text("10.96.0.1:80"));
        let local = kit::flow("f1").to("127.0.0.1", 80);
        assert_eq!(of(By::Peer, &local), Some(format!("127.0.0.1/{NETNS}@a")));
        let owner = Owner {
            pod: text("web-1"),
            namespace: text("shop"),
            pod_uid: text("1-2"),
            ..Owner::default()
        };
        let pod = Flow { owner, ..kit::flow("f1") };
        assert_eq!(
            (of(By::Pod, &pod), of(By::Namespace, &pod)),
            (text("shop/web-1"), text("shop"))
        );
        let unknown = Flow { role: None, ..kit::flow("f1") };
        assert_eq!(of(By::Service, &unknown), None);
    }

    #[test]
    fn names_are_those_of_the_command_line() {
        for by in By::ALL {
            let value = by.to_possible_value().expect("a value");
            assert_eq!(value.get_name(), by.name());
        }
    }
}
