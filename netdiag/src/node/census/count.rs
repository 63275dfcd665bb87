//! What sockets add up to.

use std::{collections::HashMap, net::IpAddr};

use super::{Signs, Socket, state};
use crate::snapshot::node::States;

/// Groups that are counted; of a namespace with more the rest goes by unnamed.
const GROUPS: usize = 65_536;

/// Of a list, those with most.
const TOP: usize = 10;

/// Connection requests of a listener that are not worth telling.
const FEW: u64 = 16;

/// Sockets of a kind whose owners may be asked for.
const INODES: usize = 4_096;

/// Sockets of one destination whose owners may be asked for.
const SAMPLES: usize = 64;

/// An address and a port.
pub(super) type End = (IpAddr, u16);

/// Who talks to whom; port 0 stands for any.
pub(super) type Group = (End, End);

/// Ports that the kernel gives to sockets that connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
    /// How many may be given.
    pub available: u64,
}

impl Range {
    /// From the texts of `ip_local_port_range` and `ip_local_reserved_ports`.
    fn parse(range: &str, reserved: &str) -> Option<Self> {
        let mut words = range.split_ascii_whitespace().map(str::parse::<u16>);
        let (first, last) = (words.next()?.ok()?, words.next()?.ok()?);
        let kept = reserved.trim().split(',').filter_map(|part| {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            let (from, to) =
                (from.parse::<u16>().ok()?.max(first), to.parse::<u16>().ok()?.min(last));
            (from <= to).then(|| u64::from(to - from) + 1)
        });
        let all = u64::from(last.checked_sub(first)?) + 1;
        Some(Self { first, last, available: all.saturating_sub(kept.sum()) })
    }

    pub(super) const fn contains(&self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

/// The range unless it is set otherwise, for a kernel that does not tell.
const USUAL: Range = Range { first: 32_768, last: 60_999, available: 28_232 };

/// Ports towards one destination.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// All.
    pub ports: u64,
    /// Those in TIME_WAIT.
    pub time_wait: u64,
    /// Inode numbers of some of the sockets.
    pub inodes: Vec<u64>,
}

/// A listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening {
    /// Where.
    pub local: End,
    /// Connections that wait.
    pub queue: u32,
    /// How many may.
    pub limit: u32,
    /// Inode number of the socket.
    pub inode: u64,
}

/// The sockets of one namespace.
#[derive(Clone, Debug)]
pub struct Census {
    /// By state.
    pub states: States,
    /// The range, where the kernel tells.
    pub range: Option<Range>,
    /// Ports of the range that are taken.
    pub ports: u64,
    /// Listeners; none once it is [settled](Self::settle).
    pub listeners: Vec<Listening>,
    /// Those of them with a queue more than half full, with their connection requests.
    pub full: Vec<(Listening, u64)>,
    /// Whether any connection waits to be accepted, once it is settled.
    waits: bool,
    /// Connection requests by what they came to.
    requests: HashMap<End, u64>,
    /// Those in CLOSE_WAIT, by inode number of the socket.
    pub close_wait: Vec<u64>,
    /// Those in CLOSE_WAIT that no process has yet (`sock_i_ino`, net/core/sock.c: without a file it is 0).
    pub unaccepted: u64,
    /// Conversations by state: SYN_SENT, FIN_WAIT2, TIME_WAIT.
    pub groups: [HashMap<Group, u64>; 3],
    /// Ports by destination.
    pub taken: HashMap<(IpAddr, End), Taken>,
    /// Bit by port: somebody listens there.
    listening: Vec<u64>,
    /// Bit by port: taken.
    used: Vec<u64>,
    /// What the namespace said just before; none where it did not tell.
    pub(super) signs: Option<Signs>,
    /// Whether it had said the same before an earlier count.
    pub(super) rested: bool,
}

impl Census {
    /// Nothing counted yet; from the texts of the two settings.
    pub(super) fn new(range: Option<&str>, reserved: Option<&str>) -> Self {
        Self {
            states: States::default(),
            range: range.and_then(|range| Range::parse(range, reserved.unwrap_or_default())),
            ports: 0,
            listeners: Vec::new(),
            full: Vec::new(),
            waits: false,
            requests: HashMap::new(),
            close_wait: Vec::new(),
            unaccepted: 0,
            groups: Default::default(),
            taken: HashMap::new(),
            listening: vec![0; 1024],
            used: vec![0; 1024],
            signs: None,
            rested: false,
        }
    }

    /// Whether these later signs are those of before it was counted.
    pub(super) fn followed(&self, later: Option<&Signs>) -> bool {
        self.signs.as_ref().zip(later).is_some_and(|(then, now)| then.last_until(now))
    }

    /// Whether nothing happened to the sockets by these later signs, once they are [settled](Self::settle). The
    /// kernel counts a segment before the socket has it, so the first count after one is not sure. A connection is
    /// accepted and a request given up without any sign, so where one waits for that nobody knows.
    #[must_use]
    pub fn stands(&self, later: Option<&Signs>) -> bool {
        self.rested && !self.waits && self.states.syn_recv == 0 && self.followed(later)
    }

    /// Counts a socket. Listeners come before all others.
    pub(super) fn add(&mut self, socket: &Socket) {
        let states = &mut self.states;
        let count = match socket.state {
            state::ESTABLISHED => &mut states.established,
            state::SYN_SENT => &mut states.syn_sent,
            state::SYN_RECV => &mut states.syn_recv,
            state::FIN_WAIT1 => &mut states.fin_wait1,
            state::FIN_WAIT2 => &mut states.fin_wait2,
            state::TIME_WAIT => &mut states.time_wait,
            state::CLOSE_WAIT => &mut states.close_wait,
            state::LAST_ACK => &mut states.last_ack,
            state::LISTEN => &mut states.listen,
            state::CLOSING => &mut states.closing,
            _ => return,
        };
        *count += 1;
        let port = socket.local.1;
        let range = self.range.as_ref().unwrap_or(&USUAL);
        let given = range.contains(port);
        if given && set(&mut self.used, port) {
            self.ports += 1;
        }
        match socket.state {
            state::LISTEN => {
                set(&mut self.listening, port);
                let (queue, limit) = socket.queue;
                let inode = socket.inode;
                self.listeners.push(Listening { local: socket.local, queue, limit, inode });
                return;
            }
            state::SYN_RECV => bounded(&mut self.requests, socket.local, |count| *count += 1),
            state::CLOSE_WAIT if socket.inode == 0 => self.unaccepted += 1,
            state::CLOSE_WAIT if self.close_wait.len() < INODES => {
                self.close_wait.push(socket.inode);
            }
            _ => {}
        }
        let served = is_set(&self.listening, port);
        let asks = !served && (given || !range.contains(socket.peer.1));
        if let Some(groups) = self.groups_of(socket.state) {
            let group = if asks {
                ((socket.local.0, 0), socket.peer)
            } else {
                (socket.local, (socket.peer.0, 0))
            };
            bounded(groups, group, |count| *count += 1);
        }
        if given && !served {
            bounded(&mut self.taken, (socket.local.0, socket.peer), |taken| {
                taken.ports += 1;
                taken.time_wait += u64::from(socket.state == state::TIME_WAIT);
                if socket.inode != 0 && taken.inodes.len() < SAMPLES {
                    taken.inodes.push(socket.inode);
                }
            });
        }
    }

    /// Leaves what is told of, once all sockets are counted.
    #[must_use]
    pub fn settle(mut self) -> Self {
        let listeners = std::mem::take(&mut self.listeners);
        self.waits = listeners.iter().any(|one| one.queue > 0);
        self.full = listeners
            .iter()
            .filter_map(|one| Some((one.clone(), self.waiting(one, &listeners)?)))
            .collect();
        self.groups = self.groups.map(|groups| top(groups, |count| *count));
        self.taken = top(self.taken, |taken| taken.ports);
        self.requests = HashMap::new();
        (self.used, self.listening) = (Vec::new(), Vec::new());
        self
    }

    /// Connection requests of a listener, where one of its queues is more than half full. A request
    /// belongs to the listener at its address, else to the one on all.
    fn waiting(&self, one: &Listening, listeners: &[Listening]) -> Option<u64> {
        let (address, port) = one.local;
        let requests = if address.is_unspecified() {
            let own = |ip| listeners.iter().any(|other| other.local == (ip, port));
            let here = self.requests.iter().filter(|((ip, to), _)| *to == port && !own(*ip));
            here.map(|(_, count)| count).sum()
        } else {
            self.requests.get(&one.local).copied().unwrap_or(0)
        };
        let limit = u64::from(one.limit);
        let full = 2 * u64::from(one.queue) > limit || (requests >= FEW && 2 * requests > limit);
        // A limit of zero lets one wait.
        (full && (one.queue > 0 || requests > 0)).then_some(requests)
    }

    fn groups_of(&mut self, state: u8) -> Option<&mut HashMap<Group, u64>> {
        let [syn_sent, fin_wait2, time_wait] = &mut self.groups;
        match state {
            state::SYN_SENT => Some(syn_sent),
            state::FIN_WAIT2 => Some(fin_wait2),
            state::TIME_WAIT => Some(time_wait),
            _ => None,
        }
    }
}

/// Leaves those with the most.
fn top<K: Ord + std::hash::Hash, V>(
    counts: HashMap<K, V>,
    count: impl Fn(&V) -> u64,
) -> HashMap<K, V> {
    let mut all: Vec<_> = counts.into_iter().collect();
    all.sort_unstable_by(|(key, value), (other, than)| {
        count(than).cmp(&count(value)).then_with(|| key.cmp(other))
    });
    all.truncate(TOP);
    all.into_iter().collect()
}

fn bounded<K: std::hash::Hash + Eq, V: Default>(
    map: &mut HashMap<K, V>,
    key: K,
    change: impl FnOnce(&mut V),
) {
    if map.len() < GROUPS || map.contains_key(&key) {
        change(map.entry(key).or_default());
    }
}

/// Sets a bit; whether it was not set.
fn set(bits: &mut [u64], port: u16) -> bool {
    let (word, bit) = (&mut bits[usize::from(port) / 64], 1 << (port % 64));
    let is_new = *word & bit == 0;
    *word |= bit;
    is_new
}

fn is_set(bits: &[u64], port: u16) -> bool {
    bits[usize::from(port) / 64] & 1 << (port % 64) != 0
}

#[cfg(test)]
#[path = "count_tests.rs"]
mod tests;
