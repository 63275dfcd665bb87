//! Flows that have something in common, added up.

use std::{collections::BTreeMap, net::IpAddr};

use super::{Course, Seconds, Seen, Sums, Watched};
use crate::snapshot::{Owner, Role};

/// Flows that share what they are grouped by.
#[derive(Clone, Debug)]
pub struct Group<'a> {
    /// The flows, by id.
    pub flows: Vec<&'a Seen>,
    /// What all of them counted.
    pub sums: Sums,
}

impl<'a> Group<'a> {
    /// These, at least one.
    #[must_use]
    pub fn of(flows: Vec<&'a Seen>) -> Self {
        let mut sums = Sums::default();
        flows.iter().for_each(|flow| sums.add(&flow.sums));
        Self { flows, sums }
    }

    /// What the path takes at its best, by the flow that tells the least; none where none tells.
    #[must_use]
    pub fn rtt_min_ns(&self) -> Option<u64> {
        self.flows.iter().filter_map(|flow| flow.rtt_min_ns).min()
    }

    /// Those of them that are so; none where no one is.
    #[must_use]
    pub fn only(&self, is_so: impl Fn(&Seen) -> bool) -> Option<Self> {
        let flows: Vec<_> = self.flows.iter().copied().filter(|flow| is_so(flow)).collect();
        (!flows.is_empty()).then(|| Self::of(flows))
    }

    /// Seconds of the window in which any of them had that.
    #[must_use]
    pub fn seconds(&self, of: impl Fn(&Course) -> Seconds) -> Seconds {
        self.flows.iter().fold(Seconds::default(), |all, flow| all.or(of(&flow.course)))
    }

    /// A process in their network namespace, where one is known.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.flows.iter().find_map(|flow| flow.owner.pid)
    }

    /// The first flow: groups have at least one.
    #[must_use]
    pub fn first(&self) -> &'a Seen {
        self.flows[0]
    }

    /// The name of the process that holds all of them, where it is one.
    #[must_use]
    pub fn comm(&self) -> Option<&'a str> {
        let comm = self.first().owner.comm.as_deref()?;
        self.flows.iter().all(|flow| flow.owner.comm.as_deref() == Some(comm)).then_some(comm)
    }

    /// The process that holds all of them; of several what they have in common: a name, a pod.
    #[must_use]
    pub fn owner(&self) -> Owner {
        Owner::common(self.flows.iter().map(|flow| &flow.owner))
    }

    /// The same of the other ends, where all of them are on this node and known.
    #[must_use]
    pub fn peer_owner(&self) -> Option<Owner> {
        let owners = self.flows.iter().map(|flow| flow.peer_owner.as_ref());
        owners.collect::<Option<Vec<_>>>().map(Owner::common)
    }

    /// Whether all of them have both their ends on this node.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.flows.iter().all(|flow| flow.is_local())
    }

    /// Whether nothing says of any of them that its other end is on this node. What fails has no other end, and is told
    /// by the address alone: who asks one of its own is seen to ask from there.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        let is_here = |flow: &Seen| {
            let is_own = |ip: IpAddr| ip.is_loopback() || flow.local.ip == Some(ip);
            flow.is_local() || flow.peer.ip.is_some_and(is_own)
        };
        !self.flows.iter().any(|flow| is_here(flow))
    }
}

/// Namespace and address of a peer.
pub type Peer = (Option<u32>, IpAddr);
/// Namespace, address and port of a server that this node asks.
pub type Backend = (Option<u32>, IpAddr, u16);

impl Watched {
    /// Flows by what `key` says of them; those of which it says nothing are left out.
    pub fn by<K: Ord>(&self, key: impl Fn(&Seen) -> Option<K>) -> BTreeMap<K, Group<'_>> {
        let mut groups: BTreeMap<K, Vec<&Seen>> = BTreeMap::new();
        for flow in self.flows.values() {
            if let Some(key) = key(flow) {
                groups.entry(key).or_default().push(flow);
            }
        }
        groups.into_iter().map(|(key, flows)| (key, Group::of(flows))).collect()
    }

    /// TCP flows by the address of the other end.
    #[must_use]
    pub fn by_peer(&self) -> BTreeMap<Peer, Group<'_>> {
        self.by(|flow| flow.is_tcp().then_some((flow.netns, flow.peer.ip?)))
    }

    /// TCP flows of clients by the server that they ask.
    #[must_use]
    pub fn by_backend(&self) -> BTreeMap<Backend, Group<'_>> {
        let asks = |flow: &Seen| flow.is_tcp() && flow.is_client();
        self.by(|flow| asks(flow).then_some((flow.netns, flow.peer.ip?, flow.peer.port?)))
    }

    /// TCP flows of servers by namespace and port.
    #[must_use]
    pub fn by_service(&self) -> BTreeMap<(Option<u32>, u16), Group<'_>> {
        let serves = |flow: &Seen| flow.is_tcp() && flow.role == Some(Role::Server);
        self.by(|flow| serves(flow).then_some((flow.netns, flow.local.port?)))
    }

    /// What was asked of servers of names, by namespace and address of the server.
    #[must_use]
    pub fn by_resolver(&self) -> BTreeMap<Peer, Group<'_>> {
        let asked = |flow: &Seen| flow.sums.count("dns.queries").is_some_and(|n| n > 0);
        self.by(|flow| {
            let heard = flow.sums.samples("dns") > 0 || asked(flow);
            // Queries have a row without a port of their own. So have connects that found none, of which nothing is
            // heard unless a server of names was asked from there, too.
            let is_asker = flow.local.port.is_none() || flow.peer.port == Some(53);
            (heard && is_asker).then_some((flow.netns, flow.peer.ip?))
        })
    }
}
