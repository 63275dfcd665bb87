//! From counts to what a snapshot says of them.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    path::Path,
};

use super::{
    count::{Census, End, Group},
    signs::{Ages, When},
};
use crate::{
    node::owners::Known,
    snapshot::{
        Endpoint, Owner,
        node::{HeldSockets, ListenQueue, PortUse, Ports, SocketGroup, Sockets},
    },
};

/// Rows of a list.
const TOP: usize = 10;

/// Listeners of a list.
const LISTENERS: usize = 20;

/// Sockets in CLOSE_WAIT from which on it is asked whose they are.
const MANY: u64 = 10;

fn owner(found: Option<&(u32, String)>) -> Owner {
    Owner {
        pid: found.map(|(pid, _)| *pid),
        comm: found.map(|(_, comm)| comm.clone()).filter(|comm| !comm.is_empty()),
        ..Owner::default()
    }
}

/// What is told of sockets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// States and conversations.
    pub sockets: Vec<Sockets>,
    /// Ports.
    pub ports: Vec<Ports>,
    /// Queues.
    pub listen_queues: Vec<ListenQueue>,
}

/// What is to be told of the sockets of these namespaces, counted at some time each.
pub fn tell<'a>(
    counted: impl Iterator<Item = (u32, When, &'a Census)> + Clone,
    owners: &mut Known,
    host_root: &Path,
) -> Told {
    let mut wanted = HashSet::new();
    for (_, _, census) in counted.clone() {
        wanted.extend(inodes(census));
    }
    owners.keep(&wanted);
    owners.find(&wanted, host_root);
    let mut told = Told::default();
    for (netns, when, census) in counted {
        let ages = when.ages();
        told.sockets.push(sockets(netns, ages, census, owners));
        told.ports.extend(ports(netns, ages, census, owners));
        told.listen_queues.extend(census.full.iter().map(|(one, syn_recv)| ListenQueue {
            netns,
            local: end(one.local),
            owner: owner(owners.of(one.inode)),
            accept_queue: one.queue,
            accept_queue_limit: one.limit,
            syn_recv: *syn_recv,
        }));
    }
    told.listen_queues.sort_by_cached_key(|one| {
        let waiting = u64::from(one.accept_queue).max(one.syn_recv);
        let full = waiting * 1_000 / u64::from(one.accept_queue_limit).max(1);
        (Reverse(full), one.netns, one.local.clone())
    });
    told.listen_queues.truncate(LISTENERS);
    told
}

/// The sockets whose owners are told.
fn inodes(census: &Census) -> Vec<u64> {
    let mut all = Vec::new();
    if census.states.close_wait >= MANY {
        all.extend(&census.close_wait);
    }
    let quarter = quarter(census);
    for taken in census.taken.values().filter(|taken| taken.ports >= quarter) {
        all.extend(&taken.inodes);
    }
    all.extend(census.full.iter().map(|(one, _)| one.inode));
    all.retain(|inode| *inode != 0);
    all
}

fn quarter(census: &Census) -> u64 {
    census.range.as_ref().map_or(7_000, |range| range.available / 4).max(1)
}

fn sockets(netns: u32, ages: Ages, census: &Census, owners: &Known) -> Sockets {
    let [syn_sent, fin_wait2, time_wait] = census.groups.each_ref().map(groups);
    let looked_at = if census.states.close_wait >= MANY { &census.close_wait[..] } else { &[] };
    let held = held(looked_at, owners).into_iter();
    Sockets {
        netns,
        age_ns: ages.counted_ns,
        unchanged_ns: Some(ages.unchanged_ns),
        states: census.states,
        close_wait: held.map(|(found, count)| HeldSockets { owner: owner(found), count }).collect(),
        close_wait_looked_at: Some(looked_at.len() as u64),
        close_wait_unaccepted: Some(census.unaccepted),
        time_wait,
        syn_sent,
        fin_wait2,
    }
}

/// Who holds how many of these, the most first.
fn held<'a>(inodes: &[u64], owners: &'a Known) -> Vec<(Option<&'a (u32, String)>, u64)> {
    let mut counts: HashMap<_, u64> = HashMap::new();
    for inode in inodes {
        *counts.entry(owners.of(*inode)).or_default() += 1;
    }
    let mut held: Vec<_> = counts.into_iter().collect();
    held.sort_unstable_by_key(|(found, count)| (Reverse(*count), *found));
    held.truncate(TOP);
    held
}

/// The groups with most sockets.
fn groups(counts: &HashMap<Group, u64>) -> Vec<SocketGroup> {
    top(counts, |count| *count)
        .map(|((local, peer), count)| SocketGroup {
            local: end(*local),
            peer: end(*peer),
            count: *count,
        })
        .collect()
}

/// The most first.
fn top<K: Ord, V>(
    counts: &HashMap<K, V>,
    count: impl Fn(&V) -> u64,
) -> impl Iterator<Item = (&K, &V)> {
    let mut all: Vec<_> = counts.iter().collect();
    all.sort_unstable_by(|(key, value), (other, than)| {
        count(than).cmp(&count(value)).then_with(|| key.cmp(other))
    });
    all.truncate(TOP);
    all.into_iter()
}

fn ports(netns: u32, ages: Ages, census: &Census, owners: &Known) -> Option<Ports> {
    if census.ports == 0 {
        return None;
    }
    let range = census.range.as_ref();
    let quarter = quarter(census);
    let destinations = top(&census.taken, |taken| taken.ports).map(|((local_ip, peer), taken)| {
        let holder = (taken.ports >= quarter)
            .then(|| held(&taken.inodes, owners).into_iter().find_map(|(found, _)| found));
        PortUse {
            local_ip: *local_ip,
            peer: end(*peer),
            taken: taken.ports,
            time_wait: taken.time_wait,
            owner: owner(holder.flatten()),
        }
    });
    Some(Ports {
        netns,
        age_ns: ages.counted_ns,
        unchanged_ns: Some(ages.unchanged_ns),
        first: range.map(|range| range.first),
        last: range.map(|range| range.last),
        available: range.map(|range| range.available),
        taken: census.ports,
        destinations: destinations.collect(),
    })
}

fn end((ip, port): End) -> Endpoint {
    Endpoint { ip: Some(ip), port: Some(port).filter(|port| *port != 0) }
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, time::Instant};

    use super::*;
    use crate::node::census::{Socket, state};

    fn socket(state: u8, local: (&str, u16), peer: (&str, u16), inode: u64) -> Socket {
        let end = |(ip, port): (&str, u16)| (ip.parse::<IpAddr>().unwrap(), port);
        Socket { state, local: end(local), peer: end(peer), inode, queue: (3, 4) }
    }

    #[test]
    fn what_is_told_has_owners_and_is_bounded() {
        let mut census = Census::new(Some("40000 40099"), None);
        let listener = socket(state::LISTEN, ("0.0.0.0", 80), ("0.0.0.0", 0), 1);
        census.add(&Socket { queue: (0, 128), ..listener });
        census.add(&socket(state::LISTEN, ("10.0.0.1", 81), ("0.0.0.0", 0), 2));
        for port in 0..70 {
            census.add(&socket(state::SYN_RECV, ("10.0.0.1", 80), ("10.0.0.9", port + 1), 0));
        }
        for port in 0..12 {
            let peer = ("10.0.0.9", 50_000 + port);
            census.add(&socket(
                state::CLOSE_WAIT,
                ("10.0.0.1", 80),
                peer,
                100 + u64::from(port % 3),
            ));
        }
        for port in 0..30 {
            let state = if port < 10 { state::TIME_WAIT } else { state::ESTABLISHED };
            let inode = if port < 10 { 0 } else { 200 };
            census.add(&socket(state, ("10.0.0.1", 40_000 + port), ("10.0.0.2", 443), inode));
        }
        for server in 0..20 {
            let peer = format!("10.0.1.{server}");
            census.add(&socket(state::SYN_SENT, ("10.0.0.1", 40_050), (&peer, 443), 0));
        }
        let found = [(2, "late"), (100, "a"), (101, "a"), (102, "b"), (200, "client"), (1, "web")]
            .map(|(inode, comm)| (inode, (comm.len() as u32, comm.to_owned())));
        let mut owners = Known::with(found);
        let census = census.settle();
        let all = [(5, When::at(Instant::now()), &census)];
        let told = tell(all.into_iter(), &mut owners, Path::new("/nowhere"));
        let [sockets] = &told.sockets[..] else { panic!("{told:?}") };
        assert_eq!((sockets.states.close_wait, sockets.states.syn_recv), (12, 70));
        assert_eq!(sockets.close_wait_looked_at, Some(12));
        let held: Vec<_> = sockets
            .close_wait
            .iter()
            .map(|held| (held.owner.comm.as_deref().unwrap(), held.count))
            .collect();
        assert_eq!(held, [("a", 8), ("b", 4)]);
        assert_eq!(sockets.syn_sent.len(), TOP);
        assert_eq!((sockets.time_wait.len(), sockets.time_wait[0].count), (1, 10));
        let [ports] = &told.ports[..] else { panic!("{told:?}") };
        assert_eq!((ports.taken, ports.available), (31, Some(100)));
        let most = &ports.destinations[0];
        assert_eq!((most.taken, most.time_wait, most.peer.port), (30, 10, Some(443)));
        assert_eq!(most.owner.comm.as_deref(), Some("client"));
        let queues: Vec<_> = told
            .listen_queues
            .iter()
            .map(|one| (one.local.port, one.accept_queue, one.syn_recv, one.owner.comm.as_deref()))
            .collect();
        assert_eq!(queues, [(Some(81), 3, 0, Some("late")), (Some(80), 0, 70, Some("web"))]);
    }

    #[test]
    fn how_old_a_count_is_and_until_when_it_stands_is_told() {
        let mut census = Census::new(Some("40000 40099"), None);
        census.add(&socket(state::LISTEN, ("0.0.0.0", 40_000), ("0.0.0.0", 0), 1));
        let (ages, owners) = (Ages { counted_ns: 9, unchanged_ns: 2 }, Known::default());
        let told = sockets(5, ages, &census, &owners);
        assert_eq!((told.age_ns, told.unchanged_ns, told.known_ns()), (9, Some(2), 2));
        let told = ports(5, ages, &census, &owners).unwrap();
        assert_eq!((told.age_ns, told.unchanged_ns, told.known_ns()), (9, Some(2), 2));
    }

    #[test]
    fn how_many_sockets_were_looked_at_is_told() {
        for (count, looked_at) in [(9, 0), (10, 10), (5_000, 4_096)] {
            let mut census = Census::new(None, None);
            for inode in 0..count {
                let peer = ("10.0.0.9", inode as u16 + 1);
                census.add(&socket(state::CLOSE_WAIT, ("10.0.0.1", 80), peer, inode + 1));
            }
            let told = sockets(5, Ages::default(), &census.settle(), &Known::default());
            assert_eq!(told.states.close_wait, count);
            assert_eq!(told.close_wait_looked_at, Some(looked_at));
            assert_eq!(told.close_wait.iter().map(|held| held.count).sum::<u64>(), looked_at);
        }
    }
}
