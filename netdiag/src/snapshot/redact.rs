//! Outputs that may be given to others: addresses and names stand as pseudonyms, everything that is counted or
//! measured as it is.
//!
//! It is done to a snapshot or an event before any view or rule sees it, so none can forget it: text, findings and
//! commands are made of what stands there. Types that have names are taken apart field by field as far as they are
//! not numbers alone, so that one which is added has to be decided about. The key is new in each run and leaves it nowhere.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use super::{
    Conntrack, Endpoint, Entry, Flow, Group, Listener, Node, Owner, Snapshot, TopCreator, Tuple,
    node::{
        Interface, ListenQueue, PortUse, Ports, Qdisc, RouteMtu, RuleTable, SocketGroup, Sockets,
        Throttled, Unread,
    },
    told::{Event, EventFlow, Said},
};
use crate::flow::{Grouping, SERVER};

/// Rounds of the permutation of addresses: four suffice (Luby and Rackoff, 1988).
const ROUNDS: u32 = 4;
/// Bits of a name's pseudonym: 10,000 names share one in 22,000 runs.
const NAME_BITS: u32 = 40;

/// What the pseudonym of a process begins with: with what follows it is as long as the kernel lets a name be.
const PROCESS: &str = "proc";

/// The interface that every network namespace has: it tells nobody anything.
const LOOPBACK: &str = "lo";

/// Tables that iptables has everywhere, likewise. A process or a namespace of that name has it of somebody.
const TABLES: &[&str] = &["filter", "nat", "mangle", "raw", "security"];

/// Gives pseudonyms: the same one for the same name all the run.
#[derive(Clone, Debug, Default)]
pub struct Redactor {
    key: RandomState,
}

impl Redactor {
    /// Leaves no address and no name in a snapshot.
    pub fn snapshot(&self, snapshot: &mut Snapshot) {
        let by = snapshot.by;
        snapshot.flows.iter_mut().for_each(|flow| self.flow(flow, by));
        self.rest(snapshot);
    }

    /// The same of a snapshot whose flows have their pseudonyms, or get them one by one ([`Self::flow`]).
    pub fn rest<F>(&self, snapshot: &mut Snapshot<F>) {
        self.flow(&mut snapshot.other, snapshot.by);
        snapshot.conntrack.iter_mut().for_each(|conntrack| self.conntrack(conntrack));
        self.node(&mut snapshot.node);
    }

    /// Leaves no address and no name in an event.
    pub fn event(&self, event: &mut Event) {
        let EventFlow {
            local,
            peer,
            owner,
            service,
            backend,
            id: _,
            netns: _,
            protocol: _,
            role: _,
        } = &mut event.flow;
        for end in [local, peer].into_iter().chain(service).chain(backend) {
            self.endpoint(end);
        }
        self.owner(owner);
        for said in event.fields.values_mut() {
            match said {
                // Text is the kernel's: reasons, states, errors, places.
                Said::Unknown
                | Said::Number(_)
                | Said::Text(_)
                | Said::Flag(_)
                | Said::Counts(_) => {}
                Said::Owner(owner) => self.owner(owner),
                Said::Endpoint(end) => self.endpoint(end),
                Said::Tuple(tuple) => self.tuple(tuple),
            }
        }
    }

    /// Leaves no address and no name in a row that stands for so many flows.
    pub fn flow(&self, flow: &mut Flow, by: Grouping) {
        let Flow { id, local, peer, owner, service, backend, peer_owner, group, .. } = flow;
        for end in [local, peer].into_iter().chain(service).chain(backend) {
            self.endpoint(end);
        }
        [owner].into_iter().chain(peer_owner).for_each(|owner| self.owner(owner));
        let Some(Group { name, flows: _ }) = group else { return };
        if let Some(name) = name.as_mut().filter(|_| by != Grouping::Port) {
            *name = self.group(by, name);
            // It is made of the name, and of which end it is.
            let end = if id.ends_with(SERVER) { SERVER } else { "" };
            *id = format!("{}:{name}{end}", by.name());
        }
    }

    /// The name of a group: that of what it has in common, as it stands elsewhere.
    fn group(&self, by: Grouping, name: &str) -> String {
        match by {
            Grouping::Peer | Grouping::Backend => {
                // A loopback one is followed by its namespace.
                let (end, within) = name.split_once('/').unwrap_or((name, ""));
                let end = match (end.parse::<SocketAddr>(), end.parse::<IpAddr>()) {
                    (Ok(end), _) => SocketAddr::new(self.ip(end.ip()), end.port()).to_string(),
                    (_, Ok(ip)) => self.ip(ip).to_string(),
                    _ => self.name("end", end),
                };
                if within.is_empty() { end } else { format!("{end}/{within}") }
            }
            Grouping::Process => match name.rsplit_once('/') {
                Some((comm, pid)) => format!("{}/{pid}", self.name(PROCESS, comm)),
                // A process id alone.
                None => name.to_owned(),
            },
            Grouping::Container => self.container(name),
            Grouping::Pod => self.name("pod", name),
            Grouping::Flow | Grouping::Port => name.to_owned(),
        }
    }

    fn conntrack(&self, conntrack: &mut Conntrack) {
        let Conntrack { entries, creators, other: _ } = conntrack;
        for Entry { original, reply, creator, .. } in entries {
            [original].into_iter().chain(reply).for_each(|tuple| self.tuple(tuple));
            creator.iter_mut().for_each(|owner| self.owner(owner));
        }
        for TopCreator { destination, creator, .. } in creators {
            self.endpoint(destination);
            creator.iter_mut().for_each(|owner| self.owner(owner));
        }
    }

    fn node(&self, node: &mut Node) {
        node.owners_mut().for_each(|owner| self.owner(owner));
        let Node {
            sockets,
            ports,
            listeners,
            listen_queues,
            interfaces,
            qdiscs,
            route_mtus,
            throttled,
            netfilter,
            unread,
            // Numbers, and words of the kernel.
            tcp: _,
            ip: _,
            udp: _,
            icmp: _,
            interfaces_left_out: _,
            softnet: _,
            cpu: _,
            cgroups_left_out: _,
            memory: _,
            settings: _,
            conntrack: _,
            own_cpu_ns: _,
            own_resident_bytes: _,
        } = node;
        for Sockets {
            // Their owners are done.
            close_wait: _,
            time_wait,
            syn_sent,
            fin_wait2,
            netns: _,
            age_ns: _,
            unchanged_ns: _,
            states: _,
            close_wait_looked_at: _,
            close_wait_unaccepted: _,
        } in sockets
        {
            for SocketGroup { local, peer, count: _ } in
                time_wait.iter_mut().chain(syn_sent).chain(fin_wait2)
            {
                [local, peer].into_iter().for_each(|end| self.endpoint(end));
            }
        }
        for Ports { destinations, .. } in ports {
            for PortUse { local_ip, peer, .. } in destinations {
                *local_ip = self.ip(*local_ip);
                self.endpoint(peer);
            }
        }
        listeners.iter_mut().for_each(|Listener { local, .. }| self.endpoint(local));
        listen_queues.iter_mut().for_each(|ListenQueue { local, .. }| self.endpoint(local));
        interfaces.iter_mut().for_each(|Interface { name, .. }| self.interface(name));
        let of_qdiscs = qdiscs.iter_mut().filter_map(|Qdisc { interface, .. }| interface.as_mut());
        of_qdiscs.for_each(|name| self.interface(name));
        for RouteMtu { destination, .. } in route_mtus {
            *destination = self.prefix(destination);
        }
        throttled.iter_mut().for_each(|Throttled { cgroup, .. }| *cgroup = self.cgroup(cgroup));
        netfilter.iter_mut().for_each(|RuleTable { table, .. }| self.table(table));
        // Namespaces have names, and files paths, which stand in the reasons.
        for Unread { part, reason, namespaces: _, netns: _ } in unread {
            *reason = format!("the {} could not be read", part.words());
        }
    }

    fn owner(&self, owner: &mut Owner) {
        let Owner { pid: _, comm, cgroup, container, container_name, pod_uid, pod, namespace } =
            owner;
        cgroup.iter_mut().for_each(|path| *path = self.cgroup(path));
        container.iter_mut().for_each(|id| *id = self.container(id));
        for (kind, name) in [
            (PROCESS, comm),
            ("container", container_name),
            ("pod", pod_uid),
            ("pod", pod),
            ("namespace", namespace),
        ] {
            name.iter_mut().for_each(|name| self.rename(kind, name));
        }
    }

    fn endpoint(&self, end: &mut Endpoint) {
        let Endpoint { ip, port: _ } = end;
        ip.iter_mut().for_each(|ip| *ip = self.ip(*ip));
    }

    fn tuple(&self, tuple: &mut Tuple) {
        let Tuple { source, destination } = tuple;
        [source, destination].into_iter().for_each(|end| self.endpoint(end));
    }

    /// Another name, which says what kind of thing it is the name of.
    fn name(&self, kind: &str, name: &str) -> String {
        let digest = self.key.hash_one((kind, name)) >> (u64::BITS - NAME_BITS);
        format!("{kind}-{digest:0width$x}", width = NAME_BITS as usize / 4)
    }

    /// Another id, as long as views show of one.
    fn container(&self, id: &str) -> String {
        format!("{:012x}", self.key.hash_one(("container", id)) >> 16)
    }

    fn rename(&self, kind: &str, name: &mut String) {
        if !name.is_empty() {
            *name = self.name(kind, name);
        }
    }

    fn interface(&self, name: &mut String) {
        if name != LOOPBACK {
            self.rename("interface", name);
        }
    }

    fn table(&self, name: &mut String) {
        if !TABLES.contains(&name.as_str()) {
            self.rename("table", name);
        }
    }

    /// Each part of the path has a name of its own, so that what is in what can be told still. The root stays.
    fn cgroup(&self, path: &str) -> String {
        let mut redacted = String::new();
        let ends = path.match_indices('/').map(|(at, _)| at).skip(1).chain([path.len()]);
        for end in ends.filter(|end| !path[..*end].trim_matches('/').is_empty()) {
            redacted.push('/');
            redacted.push_str(&self.name("cgroup", path[..end].trim_matches('/')));
        }
        if redacted.is_empty() { "/".to_owned() } else { redacted }
    }

    /// A destination of routes: an address and how many bits of it count, or a word.
    fn prefix(&self, destination: &str) -> String {
        let (ip, bits) = destination.split_once('/').unwrap_or((destination, ""));
        let Ok(ip) = ip.parse::<IpAddr>() else { return destination.to_owned() };
        let ip = self.ip(ip);
        if bits.is_empty() { ip.to_string() } else { format!("{ip}/{bits}") }
    }

    /// An address of the same class: no rule decides otherwise for it.
    #[must_use]
    pub fn ip(&self, ip: IpAddr) -> IpAddr {
        match ip {
            IpAddr::V4(ip) => self.v4(ip).into(),
            IpAddr::V6(ip) => self.v6(ip).into(),
        }
    }

    /// No two share one. What may be to all of a network, by its last octet, may be so still, and nothing else.
    fn v4(&self, ip: Ipv4Addr) -> Ipv4Addr {
        let of = class(ip);
        let host = match of {
            Class::Known => return ip,
            Class::Within(host) => host,
            Class::Public => u32::BITS,
        };
        let is_to_all = |ip: Ipv4Addr| ip.octets()[3] == 255;
        // A permutation of numbers, followed until it is among those alike again, is one of these.
        let mut other = ip;
        loop {
            let bits = other.to_bits();
            let own = self.permuted(bits & mask(host), host);
            other = Ipv4Addr::from_bits(bits & !mask(host) | own);
            if class(other) == of && is_to_all(other) == is_to_all(ip) {
                return other;
            }
        }
    }

    /// Global ones lie in the prefix that is for documents (RFC 3849), others in their own.
    fn v6(&self, ip: Ipv6Addr) -> Ipv6Addr {
        const DOCUMENTS: u128 = 0x2001_0db8 << 96;
        if let Some(ip) = ip.to_ipv4_mapped() {
            return self.v4(ip).to_ipv6_mapped();
        }
        if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() {
            return ip;
        }
        let digest = |half| u128::from(self.key.hash_one((half, ip.to_bits())));
        let hash = digest(0) << 64 | digest(1);
        let (prefix, host) = match ip.segments()[0] {
            first if first & 0xffc0 == 0xfe80 => (0xfe80 << 112, 64),
            first if first & 0xfe00 == 0xfc00 => (0xfd00 << 112, 120),
            _ => (DOCUMENTS, 96),
        };
        Ipv6Addr::from_bits(prefix | hash & ((1 << host) - 1))
    }

    /// One of the numbers of so many bits for each of them, by a Feistel network; one that lands beyond goes again.
    fn permuted(&self, value: u32, bits: u32) -> u32 {
        let half = bits.div_ceil(2);
        let mut value = value;
        loop {
            let (mut left, mut right) = (value.unbounded_shr(half), value & mask(half));
            for round in 0..ROUNDS {
                let mixed = self.key.hash_one((round, bits, right)) as u32 & mask(half);
                (left, right) = (right, left ^ mixed);
            }
            value = left.unbounded_shl(half) | right;
            if value & mask(bits) == value {
                return value;
            }
        }
    }
}

/// What an address of IPv4 is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// It tells nobody anything.
    Known,
    /// Private or reserved; so many bits are its own.
    Within(u32),
    /// Any other.
    Public,
}

fn class(ip: Ipv4Addr) -> Class {
    match ip.octets() {
        [0 | 127 | 224..=239, ..] | [255, 255, 255, 255] => Class::Known,
        [10, ..] => Class::Within(24),
        [172, 16..=31, ..] => Class::Within(20),
        [192, 168, ..] | [169, 254, ..] => Class::Within(16),
        // RFC 6598.
        [100, 64..=127, ..] => Class::Within(22),
        // Reserved, RFC 1112.
        [240..=255, ..] => Class::Within(28),
        _ => Class::Public,
    }
}

/// So many bits from the lowest on.
const fn mask(bits: u32) -> u32 {
    1_u32.unbounded_shl(bits).wrapping_sub(1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn addresses_stay_in_their_class_and_apart() {
        let redactor = Redactor::default();
        for (network, bits) in [
            ([10, 0, 0, 0], 24),
            ([172, 16, 0, 0], 20),
            ([192, 168, 0, 0], 16),
            ([100, 64, 0, 0], 22),
            ([169, 254, 0, 0], 16),
            ([240, 0, 0, 0], 28),
        ] {
            let network = Ipv4Addr::from(network).to_bits();
            let others: HashSet<_> = (0..4096)
                .map(|host| redactor.v4(Ipv4Addr::from_bits(network | host)).to_bits())
                .collect();
            assert_eq!(others.len(), 4096, "no two share one");
            assert!(others.iter().all(|other| other & !mask(bits) == network));
        }
        let to_all = redactor.v4(Ipv4Addr::new(10, 0, 7, 255));
        assert_eq!(to_all.octets()[3], 255, "{to_all}");
        let public: HashSet<_> =
            (0..4096).map(|n| redactor.v4(Ipv4Addr::from_bits(0x0808_0000 | n))).collect();
        assert_eq!(public.len(), 4096);
        assert!(public.iter().all(|ip| matches!(class(*ip), Class::Public)));
        for known in ["127.0.0.1", "0.0.0.0", "::1", "::", "255.255.255.255", "224.0.0.1"] {
            let known: IpAddr = known.parse().expect("an address");
            assert_eq!(redactor.ip(known), known);
        }
        for (clear, begins) in
            [("fe80::1", "fe80::"), ("fd12::1", "fd"), ("2a00:1450::1", "2001:db8:")]
        {
            let ip = redactor.ip(clear.parse().expect("an address"));
            assert!(ip.to_string().starts_with(begins), "{clear}: {ip}");
            assert_ne!(ip.to_string(), clear);
        }
        let mapped = redactor.ip("::ffff:10.1.2.3".parse().expect("an address")).to_string();
        assert_eq!(mapped, format!("::ffff:{}", redactor.v4(Ipv4Addr::new(10, 1, 2, 3))));
    }

    /// Anybody may call his process, pod or namespace like what the kernel has.
    #[test]
    fn a_name_is_the_kernels_where_it_names_something_of_the_kernels() {
        let redactor = Redactor::default();
        for word in TABLES.iter().copied().chain([LOOPBACK]) {
            let name = || Some(word.to_owned());
            let mut owner = Owner {
                comm: name(),
                container_name: name(),
                pod_uid: name(),
                pod: name(),
                namespace: name(),
                ..Owner::default()
            };
            redactor.owner(&mut owner);
            assert_eq!(owner.pod, owner.pod_uid, "a group of either has the name of its flows");
            let Owner { comm, container_name, pod, namespace, .. } = owner;
            let [comm, pod, namespace, container] =
                [comm, pod, namespace, container_name].map(Option::unwrap_or_default);
            assert_eq!(comm, redactor.name(PROCESS, word));
            assert_eq!(pod, redactor.name("pod", word));
            assert_eq!(namespace, redactor.name("namespace", word));
            assert_eq!(container, redactor.name("container", word));
            let group = redactor.group(Grouping::Process, &format!("{word}/7"));
            assert_eq!(group, format!("{comm}/7"), "as its flows are called");
            assert_eq!(redactor.group(Grouping::Pod, word), pod);
            let stays = |rename: fn(&Redactor, &mut String)| {
                let mut name = word.to_owned();
                rename(&redactor, &mut name);
                name == word
            };
            assert_eq!(stays(Redactor::interface), word == LOOPBACK, "{word}");
            assert_eq!(stays(Redactor::table), word != LOOPBACK, "{word}");
        }
        let mut all = String::new();
        redactor.table(&mut all);
        assert_eq!(all, "", "it stands for all tables");
    }

    #[test]
    fn a_pseudonym_is_of_a_run() {
        let (one, other) = (Redactor::default(), Redactor::default());
        assert_eq!(one.name("pod", "cart"), one.name("pod", "cart"));
        assert_ne!(one.name("pod", "cart"), other.name("pod", "cart"));
        assert_ne!(one.name("pod", "cart"), one.name("pod", "card"));
        let (within, group) = (one.cgroup("/kubepods/pod1/box"), one.cgroup("/kubepods/pod1"));
        assert!(within.starts_with(&format!("{group}/")), "{within} {group}");
        assert_eq!((one.cgroup("/").as_str(), one.cgroup("").as_str()), ("/", "/"));
        assert!(one.name(PROCESS, "nginx").len() <= 15);
        assert_eq!(one.group(Grouping::Process, "812"), "812");
        let ip = Ipv4Addr::new(10, 1, 2, 3);
        assert_eq!(one.group(Grouping::Backend, "10.1.2.3:80"), format!("{}:80", one.v4(ip)));
        assert_eq!(one.group(Grouping::Peer, "127.0.0.1/netns:7"), "127.0.0.1/netns:7");
        assert!(one.name("pod", "cart").starts_with("pod-"));
        assert_eq!(one.prefix("default"), "default");
        assert!(one.prefix("10.1.0.0/16").ends_with("/16"));
    }
}
