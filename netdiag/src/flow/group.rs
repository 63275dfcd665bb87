//! Flows that have something in common, as one row: their latencies and counts are added up, and of who and
//! what they are stays what all of them share.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use clap::ValueEnum;
use netdiag_common::flow::FlowKey;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Frozen, Interval, Role, tuples::address};
use crate::owner::Place;

/// What makes flows one row.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Grouping {
    /// Nothing: each has its own
    #[default]
    Flow,
    /// The address of the other end
    Peer,
    /// Who answers, behind a service's address where that is translated
    Backend,
    /// The process
    Process,
    /// The container
    Container,
    /// The pod
    Pod,
    /// The port of the server
    Port,
}

impl Grouping {
    /// As it is written on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flow => "flow",
            Self::Peer => "peer",
            Self::Backend => "backend",
            Self::Process => "process",
            Self::Container => "container",
            Self::Pod => "pod",
            Self::Port => "port",
        }
    }

    /// Whether the two ends of a conversation are apart, although both have it in common.
    const fn tells_ends_apart(self) -> bool {
        matches!(self, Self::Backend | Self::Port)
    }

    /// What a flow has in common with the others of its group; none where that is not known.
    fn of(self, flow: &Frozen) -> Option<String> {
        let FlowKey { local_addr, peer_addr, local_port, peer_port, netns, .. } = flow.key;
        let place = flow.place.as_deref();
        match self {
            Self::Flow => None,
            Self::Peer => {
                let ip = Some(address(peer_addr)).filter(|ip| !ip.is_unspecified())?;
                Some(within(ip, netns, ip.to_string()))
            }
            Self::Backend => {
                let (ip, port) = match (flow.role, flow.translation.as_deref()) {
                    (Some(Role::Server), _) => (local_addr, local_port),
                    (_, Some(translation)) => translation.backend,
                    (_, None) => (peer_addr, peer_port),
                };
                let ip = Some(address(ip)).filter(|ip| !ip.is_unspecified())?;
                let whole = || SocketAddr::new(ip, port).to_string();
                Some(within(ip, netns, if port == 0 { ip.to_string() } else { whole() }))
            }
            Self::Process => {
                let pid = flow.pid?;
                Some(
                    flow.comm
                        .as_ref()
                        .map_or_else(|| pid.to_string(), |comm| format!("{comm}/{pid}")),
                )
            }
            Self::Container => place?.container.clone(),
            Self::Pod => place?.pod_uid.clone(),
            Self::Port => {
                let port = if flow.role? == Role::Server { local_port } else { peer_port };
                (port != 0).then(|| port.to_string())
            }
        }
    }
}

/// The name of an address: a loopback one is another one in each namespace.
fn within(ip: IpAddr, netns: u32, name: String) -> String {
    if ip.is_loopback() && netns != 0 { format!("{name}/netns:{netns}") } else { name }
}

/// The end of the id of a group of servers' ends.
pub const SERVER: &str = "/server";

/// Which flows a row stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// What they have in common.
    pub by: Grouping,
    /// Its name; none where it is not known of them.
    pub name: Option<String>,
    /// Whether they are the servers' ends of their conversations, where those are apart from the clients'.
    pub serves: bool,
    /// How many they are.
    pub flows: u64,
}

impl Group {
    /// What the row is called: the same in every interval, in every run and on every node, and good for a tag
    /// of a log (no space, no comma).
    #[must_use]
    pub fn id(&self) -> String {
        let mut id = format!("{}:", self.by.name());
        match self.name.as_deref() {
            None => id.push('-'),
            // Else it would be taken for none.
            Some("-") => id.push_str("%2D"),
            Some(name) => {
                for byte in name.bytes() {
                    if byte.is_ascii_alphanumeric() || b"-_.:/[]".contains(&byte) {
                        id.push(byte.into());
                    } else {
                        id.push_str(&format!("%{byte:02X}"));
                    }
                }
            }
        }
        if self.serves {
            id.push_str(SERVER);
        }
        id
    }
}

impl Interval {
    /// Makes the flows that have that in common one row each. What the interval adds up to stays the same.
    pub fn group(&mut self, by: Grouping) {
        if by == Grouping::Flow {
            return;
        }
        let mut groups: BTreeMap<(Option<String>, bool), Frozen> = BTreeMap::new();
        for flow in self.flows.drain(..) {
            let serves = by.tells_ends_apart() && flow.role == Some(Role::Server);
            let key = (by.of(&flow), serves);
            match groups.get_mut(&key) {
                Some(group) => group.join(&flow),
                None => {
                    let name = key.0.clone();
                    groups.insert(key, flow.begin(Group { by, name, serves, flows: 1 }));
                }
            }
        }
        self.flows = groups.into_values().collect();
    }
}

impl Frozen {
    /// The first flow of a group. States are no one's but a single flow's.
    fn begin(self, group: Group) -> Self {
        Self {
            id: 0,
            pair: None,
            peer: None,
            srtt_ns: None,
            cwnd: None,
            gauges: Vec::new(),
            group: Some(Box::new(group)),
            ..self
        }
    }

    /// One more of the group.
    fn join(&mut self, flow: &Self) {
        fn keep<T: PartialEq>(mine: &mut T, other: &T, none: T) {
            if *mine != *other {
                *mine = none;
            }
        }
        let (mine, other) = (&mut self.key, &flow.key);
        keep(&mut mine.local_addr, &other.local_addr, [0; 16]);
        keep(&mut mine.peer_addr, &other.peer_addr, [0; 16]);
        keep(&mut mine.local_port, &other.local_port, 0);
        keep(&mut mine.peer_port, &other.peer_port, 0);
        keep(&mut mine.netns, &other.netns, 0);
        keep(&mut mine.protocol, &other.protocol, 0);
        keep(&mut self.role, &flow.role, None);
        keep(&mut self.pid, &flow.pid, None);
        keep(&mut self.comm, &flow.comm, None);
        keep(&mut self.translation, &flow.translation, None);
        if self.place != flow.place {
            let both = self.place.as_deref().zip(flow.place.as_deref());
            self.place = both.and_then(|(mine, other)| shared(mine, other)).map(Arc::new);
        }
        self.closed &= flow.closed;
        self.idle &= flow.idle;
        self.rtt_min_ns = [self.rtt_min_ns, flow.rtt_min_ns].into_iter().flatten().min();
        if let Some(group) = &mut self.group {
            group.flows += 1;
        }
        self.merge(flow);
    }
}

/// What two places have in common: the cgroup that holds both, too.
fn shared(one: &Place, other: &Place) -> Option<Place> {
    let parts = one.cgroup.split('/').zip(other.cgroup.split('/'));
    let cgroup: Vec<_> =
        parts.take_while(|(one, other)| one == other).map(|(part, _)| part).collect();
    let same = |one: &Option<String>, other: &Option<String>| {
        one.clone().filter(|it| other.as_ref() == Some(it))
    };
    let container = same(&one.container, &other.container);
    let pod_uid = same(&one.pod_uid, &other.pod_uid);
    let cgroup = cgroup.join("/");
    // That all are somewhere below the root says nothing.
    (!cgroup.is_empty() || container.is_some() || pod_uid.is_some()).then_some(Place {
        cgroup,
        container,
        pod_uid,
    })
}

#[cfg(test)]
mod tests;
