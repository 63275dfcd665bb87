//! What a finding concerns, by name and by what it has in common with others.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::snapshot::Owner;

/// What a finding concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ScopeKind {
    /// One end of one conversation.
    Flow,
    /// An address, and all that this node has with it.
    Peer,
    /// A server that this node asks, by address and port.
    Backend,
    /// A process of this node.
    Process,
    /// A network namespace of this node.
    Namespace,
    /// A network interface of this node.
    Interface,
    /// The whole node.
    Node,
}

impl ScopeKind {
    /// Whether it is at the other end of conversations: the owner of such a scope asks, or sends there.
    pub(super) const fn is_elsewhere(self) -> bool {
        matches!(self, Self::Flow | Self::Peer | Self::Backend)
    }
}

/// What a finding concerns, by name and by what it has in common with others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Scope {
    /// Of what kind it is.
    pub kind: ScopeKind,
    /// Its name: an address, address and port, process name and id, inode of a namespace, interface.
    pub name: String,
    /// Inode number of the network namespace, null where it is no single one.
    pub netns: Option<u32>,
    /// The process, as far as it is a single one.
    pub owner: Owner,
    /// The address of the other end, where it is a single one.
    pub peer: Option<IpAddr>,
    /// The port of the server, where it is a single one.
    pub port: Option<u16>,
}

impl Scope {
    fn new(kind: ScopeKind, name: String, netns: Option<u32>) -> Self {
        Self { kind, name, netns, owner: Owner::default(), peer: None, port: None }
    }

    /// An address.
    #[must_use]
    pub fn peer(netns: Option<u32>, ip: IpAddr) -> Self {
        Self { peer: Some(ip), ..Self::new(ScopeKind::Peer, ip.to_string(), netns) }
    }

    /// A server that this node asks.
    #[must_use]
    pub fn backend(netns: Option<u32>, ip: IpAddr, port: u16) -> Self {
        let name = std::net::SocketAddr::new(ip, port).to_string();
        let scope = Self::new(ScopeKind::Backend, name, netns);
        Self { peer: Some(ip), port: Some(port), ..scope }
    }

    /// A process.
    #[must_use]
    pub fn process(netns: Option<u32>, owner: &Owner) -> Self {
        Self { owner: owner.clone(), ..Self::new(ScopeKind::Process, named(owner), netns) }
    }

    /// A network namespace, by its inode number.
    #[must_use]
    pub fn namespace(netns: u32) -> Self {
        Self::new(ScopeKind::Namespace, netns.to_string(), Some(netns))
    }

    /// A network interface of a namespace.
    #[must_use]
    pub fn interface(netns: u32, name: &str) -> Self {
        Self::new(ScopeKind::Interface, name.to_owned(), Some(netns))
    }

    /// The node.
    #[must_use]
    pub fn node(host: &str) -> Self {
        Self::new(ScopeKind::Node, host.to_owned(), None)
    }

    /// The same, by this process.
    #[must_use]
    pub fn by(self, owner: &Owner) -> Self {
        Self { owner: owner.clone(), ..self }
    }

    /// The same, with this server's port.
    #[must_use]
    pub fn at(self, port: u16) -> Self {
        Self { port: Some(port), ..self }
    }

    /// Whether both may concern the same: what one says and the other says, too, is equal.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        fn agree<T: PartialEq + Copy>(one: Option<T>, other: Option<T>) -> bool {
            one.is_none() || other.is_none() || one == other
        }
        let owners_agree = match (self.kind.is_elsewhere(), other.kind.is_elsewhere()) {
            // Whoever asks, it is the same that is asked.
            (true, true) => true,
            (false, false) => self.owner.may_be(&other.owner),
            _ => agree(self.owner.pid, other.owner.pid),
        };
        agree(self.netns, other.netns)
            && agree(self.peer, other.peer)
            && agree(self.port, other.port)
            && owners_agree
    }

    /// Whether both name the same. Who asks it may be another one each time; of a process several may be told that it
    /// is one of.
    pub(super) fn is_again(&self, earlier: &Self) -> bool {
        let is_named = match self.kind {
            ScopeKind::Process => is_one_of(&self.owner, &earlier.owner),
            _ => self.name == earlier.name,
        };
        is_named
            && self.kind == earlier.kind
            && (self.netns, self.peer, self.port) == (earlier.netns, earlier.peer, earlier.port)
    }

    /// What is the same in both, where they say the same of the same. Of several who asked it, or did it, only what
    /// they have in common is told.
    #[must_use]
    pub fn in_common(&self, other: &Self) -> Self {
        fn agreed<T: PartialEq + Copy>(one: Option<T>, other: Option<T>) -> Option<T> {
            one.filter(|_| one == other)
        }
        // Of one process of a cgroup, and of several.
        if self.kind != other.kind {
            return if self.kind == ScopeKind::Process { other } else { self }.clone();
        }
        let owner = Owner::common([&self.owner, &other.owner]);
        let name = match (self.kind, &owner) {
            _ if self.name == other.name => self.name.clone(),
            // Programs of one cgroup.
            (ScopeKind::Process, Owner { pid: None, comm: None, .. }) => "several".to_owned(),
            (ScopeKind::Process, _) => named(&owner),
            _ => self.name.clone(),
        };
        Self {
            name,
            netns: agreed(self.netns, other.netns),
            peer: agreed(self.peer, other.peer),
            port: agreed(self.port, other.port),
            owner,
            kind: self.kind,
        }
    }
}

/// Name and id of a process; the name of several.
fn named(owner: &Owner) -> String {
    match (&owner.comm, owner.pid) {
        (Some(comm), Some(pid)) => format!("{comm}/{pid}"),
        (None, Some(pid)) => pid.to_string(),
        (comm, None) => comm.clone().unwrap_or_else(|| "unknown".to_owned()),
    }
}

/// Whether both are the same process, or one is several of which the other one is one, as far as names tell.
fn is_one_of(one: &Owner, other: &Owner) -> bool {
    (one.pid == other.pid || one.pid.is_none() || other.pid.is_none())
        && one.comm == other.comm
        && one.container == other.container
        && one.pod_uid == other.pod_uid
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(pid: Option<u32>, container: &str) -> Owner {
        Owner { pid, container: Some(container.to_owned()), ..Owner::default() }
    }

    /// Who asks for something is not what it is about.
    #[test]
    fn processes_meet_themselves_and_what_is_asked_meets_whoever_asks() {
        let (one, another) = (owner(Some(7), "a"), owner(Some(8), "b"));
        let (several, unknown) = (owner(None, "a"), Owner::default());
        let process = |owner: &Owner| Scope::process(Some(1), owner);
        let peer = |owner: &Owner| Scope::peer(Some(1), IpAddr::from([10, 0, 0, 2])).by(owner);
        for (first, second, expected) in [
            (process(&one), process(&one), true),
            (process(&one), process(&another), false),
            (process(&one), process(&several), true),
            (process(&another), process(&several), false),
            (process(&another), process(&unknown), true),
            (process(&one), Scope::namespace(1), true),
            (process(&one), Scope::namespace(2), false),
            (process(&one), peer(&one), true),
            (process(&one), peer(&another), false),
            (peer(&one), peer(&another), true),
        ] {
            assert_eq!(first.meets(&second), expected, "{first:?} {second:?}");
            assert_eq!(second.meets(&first), expected, "{second:?} {first:?}");
        }
    }

    #[test]
    fn several_are_named_by_what_they_have_in_common() {
        let process = |pid, comm: &str| {
            let owner = Owner { comm: Some(comm.to_owned()), ..owner(Some(pid), "a") };
            Scope::process(Some(1), &owner)
        };
        let nobody = Scope::process(None, &Owner::default());
        for (one, other, name, pid) in [
            (process(7, "web"), process(7, "web"), "web/7", Some(7)),
            (process(7, "web"), process(8, "web"), "web", None),
            (process(7, "web"), process(8, "db"), "several", None),
            (nobody.clone(), nobody, "unknown", None),
        ] {
            for common in [one.in_common(&other), other.in_common(&one)] {
                assert_eq!((common.name.as_str(), common.owner.pid), (name, pid));
                assert_eq!(common.owner.container, one.owner.container);
            }
        }
        let [one, other] = [1, 2].map(|n: u8| {
            let ip = IpAddr::from([10, 0, 0, n]);
            Scope { peer: Some(ip), ..Scope::namespace(n.into()).at(n.into()) }
        });
        let common = one.in_common(&other);
        assert_eq!((common.netns, common.peer, common.port), (None, None, None));
        let itself = one.in_common(&one);
        assert_eq!(itself, one);
    }
}
