//! All that each network namespace and the node as a whole say of themselves, read in one visit to each namespace. What
//! becomes of TCP counters and of connection tracking is told elsewhere.
//!
//! Counters and interfaces are read each time. Sockets are counted where anything happened to them, as often as
//! little of one CPU lets them; rules, routes, settings and speeds change rarely, and are read rarely.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    census::{self, Census, When},
    cgroups::Cgroups,
    conntrack::{self, Table},
    cpu::{self, Load},
    files::Kept,
    links::Links,
    memory,
    netlink::Asker,
    netns::{self, Namespace},
    owners,
    pace::Pace,
    protocols::Protocols,
    qdiscs::{self, Queues},
    reading::{self, Reading},
    ruleset,
    tcp_counters::{self, Counters},
};
use crate::snapshot::node::{Node, Part, Unread};

mod rare;
mod rise;
mod visit;

use rare::Rare;
use rise::Rise;
use visit::{Looked, Took, Visit, Wanted};

/// What changes rarely is read so rarely at most, and sockets to which nothing seems to have happened are counted again.
const RARELY: Duration = Duration::from_secs(30);

/// By how much longer than it took sockets are not looked at again, up to [`SELDOM`].
const REST: u32 = 1_000;

/// So rarely they are looked at for what that costs, as long as it is no hundredth of a CPU: of the five seconds that
/// rules go by they have two counts then.
const SELDOM: Duration = Duration::from_secs(4);

/// What all namespaces counted by one time.
#[derive(Clone, Default)]
struct Counted {
    protocols: Reading<Protocols>,
    links: Reading<Links>,
    queues: Reading<Queues>,
    load: Load,
    /// Namespaces that could not be entered.
    unvisited: BTreeSet<u32>,
}

/// Readings one interval apart.
pub struct Surroundings {
    host_root: PathBuf,
    /// What is read in each interval, of the node and of the own namespace.
    kept: Kept,
    /// Who asks for interfaces and queues of the latter.
    asker: Asker,
    /// What the last visits read of these, until it is taken over.
    tcp: Reading<Counters>,
    tracked: Reading<Table>,
    last: Counted,
    /// What the CPUs said first.
    first: Load,
    /// Of the run.
    total: Rise,
    censuses: BTreeMap<u32, (When, Box<Census>)>,
    counting: Pace,
    owners: owners::Known,
    rare: BTreeMap<u32, Rare>,
    rarely: Pace,
    cgroups: Cgroups,
    problems: Vec<String>,
    /// Namespaces that could not be entered this time and the time before, with why not.
    shut: BTreeMap<u32, String>,
    /// Namespaces whose sockets could not be counted the last time, with why not.
    uncounted: BTreeMap<u32, String>,
    /// What else could not be read the last time and the time before.
    unread: Vec<Unread>,
}

impl Surroundings {
    /// Reads for the first time.
    #[must_use]
    pub fn begin(namespaces: &[Namespace], host_root: &Path) -> Self {
        let mut cgroups = Cgroups::default();
        cgroups.begin(host_root);
        let mut all = Self {
            host_root: host_root.to_owned(),
            kept: Kept::default(),
            asker: Asker::default(),
            tcp: Reading::default(),
            tracked: Reading::default(),
            last: Counted::default(),
            first: Load::default(),
            total: Rise::default(),
            censuses: BTreeMap::new(),
            counting: Pace::default(),
            owners: owners::Known::default(),
            rare: BTreeMap::new(),
            rarely: Pace::default(),
            cgroups,
            problems: Vec::new(),
            shut: BTreeMap::new(),
            uncounted: BTreeMap::new(),
            unread: Vec::new(),
        };
        all.last = all.read(namespaces);
        all.first = all.last.load.clone();
        all
    }

    /// Has sockets looked at the next time, whatever that costs: where nothing happened to them their last count
    /// stands.
    pub const fn count_sockets(&mut self) {
        self.counting = Pace::NEW;
    }

    /// Adds what happened since the last time, and how things stand.
    pub fn advance(&mut self, namespaces: &[Namespace], node: &mut Node) {
        let now = self.read(namespaces);
        self.take(now, node);
        node.throttled = self.cgroups.advance();
        node.cgroups_left_out = self.cgroups.left_out();
        self.stand(node);
    }

    /// The TCP counters as the last visits read them; once.
    #[must_use]
    pub fn take_tcp(&mut self) -> tcp_counters::Reading {
        mem::take(&mut self.tcp)
    }

    /// The same of the tables of connection tracking.
    #[must_use]
    pub fn take_tracked(&mut self) -> Reading<Table> {
        mem::take(&mut self.tracked)
    }

    /// Adds what happened since the last reading, and takes over a later one.
    fn take(&mut self, now: Counted, node: &mut Node) {
        let rise = Rise::between(&self.last, &now);
        rise.tell(node);
        node.cpu = cpu::busy(&self.last.load, &now.load);
        self.total.add(&rise);
        self.problems = [
            lasting(&self.last.protocols, &now.protocols, &now.unvisited),
            lasting(&self.last.links, &now.links, &now.unvisited),
            lasting(&self.last.queues, &now.queues, &now.unvisited),
            rare::problems(&self.rare),
        ]
        .concat();
        self.unread = [
            (Part::Protocols, now.protocols.lasting_problems(&self.last.protocols)),
            (Part::Interfaces, now.links.lasting_problems(&self.last.links)),
            (Part::Qdiscs, now.queues.lasting_problems(&self.last.queues)),
        ]
        .iter()
        .filter_map(|(part, problems)| Unread::in_namespaces(*part, problems))
        .collect();
        self.last.protocols.follow(now.protocols);
        self.last.links.follow(now.links);
        qdiscs::follow(&mut self.last.queues, now.queues);
        self.last.load = now.load;
        self.last.unvisited = now.unvisited;
        self.total.keep(&self.last);
    }

    /// Adds what happened since the first time, and how things stood the last time. What was read only once
    /// is left out.
    pub fn total(&mut self, node: &mut Node) {
        self.total.tell(node);
        node.cpu = cpu::busy(&self.first, &self.last.load);
        node.throttled = self.cgroups.total();
        node.cgroups_left_out = self.cgroups.left_out();
        self.stand(node);
    }

    /// Why namespaces, or what they say rarely, cannot be read, one line each. Those that cannot even be entered have no TCP
    /// counters either, and are told of by these.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    fn read(&mut self, namespaces: &[Namespace]) -> Counted {
        let (counts, rarely) = (self.counting.is_due(), self.rarely.is_due());
        let (known, censuses) = (&self.rare, &self.censuses);
        let is_new = |namespace: &Namespace| !known.contains_key(&namespace.inode);
        let may_ask = (rarely || namespaces.iter().any(is_new)) && ruleset::may_ask();
        let last = |namespace: &Namespace| {
            let (when, census) = censuses.get(&namespace.inode)?;
            Some((&**census, when.counted.elapsed() < RARELY))
        };
        let mut took = Took::default();
        let (kept, own, tracked) = (&mut self.kept, &mut self.asker, conntrack::is_there());
        let visits = netns::enter_all(namespaces, |namespace| {
            let (sockets, last) = (counts, last(namespace));
            let rare = rarely || is_new(namespace);
            let wanted = Wanted { tracked, sockets, last, rare, may_ask_rules: may_ask };
            // A socket would keep another namespace alive.
            let mut once = Asker::default();
            let asker = if namespace.own { &mut *own } else { &mut once };
            Visit::make(&wanted, &mut kept.within(namespace), asker, &mut took)
        });
        if counts {
            self.counting.spent(rest(took.sockets), took.sockets);
        }
        if rarely {
            self.rarely.spent(RARELY, took.rare);
        }
        self.sort(namespaces, visits, tracked)
    }

    /// Takes apart what namespaces said, and whether connections are tracked.
    fn sort(
        &mut self,
        namespaces: &[Namespace],
        visits: Vec<Result<Visit, String>>,
        tracks: bool,
    ) -> Counted {
        let (mut protocols, mut links, mut queues) = (Vec::new(), Vec::new(), Vec::new());
        let (mut tcp, mut tracked) = (Vec::new(), Vec::new());
        let mut unvisited = BTreeSet::new();
        self.shut.clear();
        let there = |inode: &u32| namespaces.iter().any(|namespace| namespace.inode == *inode);
        self.censuses.retain(|inode, _| there(inode));
        self.rare.retain(|inode, _| there(inode));
        self.uncounted.retain(|inode, _| there(inode));
        for (namespace, visit) in namespaces.iter().zip(visits) {
            match visit {
                Ok(visit) => {
                    tcp.push(Ok(visit.tcp));
                    tracked.push(Ok(visit.tracked));
                    protocols.push(Ok(visit.protocols));
                    links.push(Ok(visit.links));
                    queues.push(Ok(visit.queues));
                    match visit.sockets {
                        Looked::Not => {}
                        Looked::Unchanged => {
                            if let Some((when, _)) = self.censuses.get_mut(&namespace.inode) {
                                when.unchanged = visit.at;
                            }
                        }
                        Looked::Counted(Ok(census)) => {
                            self.uncounted.remove(&namespace.inode);
                            self.censuses.remove(&namespace.inode);
                            let counted = census.map(|census| (When::at(visit.at), census));
                            self.censuses.extend(counted.map(|one| (namespace.inode, one)));
                        }
                        // On standard error it is told by those who ask for sockets at the start.
                        Looked::Counted(Err(error)) => {
                            self.censuses.remove(&namespace.inode);
                            let of = namespace.describe();
                            let problem = format!("cannot count the TCP sockets of {of}: {error}");
                            self.uncounted.insert(namespace.inode, problem);
                        }
                    }
                    self.rare.extend(visit.rare.map(|rare| (namespace.inode, rare)));
                }
                Err(problem) => {
                    unvisited.insert(namespace.inode);
                    // One that is on its way out is no problem.
                    if self.last.unvisited.contains(&namespace.inode) {
                        self.shut.insert(namespace.inode, problem.clone());
                    }
                    tcp.push(Err(problem.clone()));
                    tracked.push(Err(problem.clone()));
                    protocols.push(Err(problem.clone()));
                    links.push(Err(problem.clone()));
                    queues.push(Err(problem));
                }
            }
        }
        self.tcp = reading::collect(namespaces, tcp_counters::WHAT, tcp);
        self.tracked = match tracks {
            true => reading::collect(namespaces, conntrack::WHAT, tracked),
            false => Reading::default(),
        };
        Counted {
            protocols: reading::collect(namespaces, "IP, UDP and ICMP counters", protocols),
            links: reading::collect(namespaces, "interfaces", links),
            queues: reading::collect(namespaces, "queueing disciplines", queues),
            load: cpu::read(&self.host_root, &mut self.kept),
            unvisited,
        }
    }

    /// How things stand.
    fn stand(&mut self, node: &mut Node) {
        let censuses = self.censuses.iter();
        let counted = censuses.map(|(netns, (when, census))| (*netns, *when, &**census));
        let told = census::tell(counted, &mut self.owners, &self.host_root);
        node.sockets = told.sockets;
        node.ports = told.ports;
        node.listen_queues = told.listen_queues;
        node.memory = memory::read(&mut self.kept);
        for (netns, rare) in &self.rare {
            rare.tell(*netns, node);
        }
        node.unread.extend_from_slice(&self.unread);
        node.unread.extend_from_slice(&self.last.load.unread);
        node.unread.extend(rare::unread(&self.rare, &self.shut));
        let mut uncounted = self.uncounted.clone();
        uncounted.extend(self.shut.clone());
        let sockets = Unread::in_namespaces(Part::Sockets, &uncounted);
        let others = [sockets, memory::unread(&node.memory), self.cgroups.unread()];
        node.unread.extend(others.into_iter().flatten());
    }
}

/// For how long sockets are not looked at again after it took so much: most of that is walking over the kernel's hash,
/// however few they are.
fn rest(took: Duration) -> Duration {
    (took * REST).min(SELDOM)
}

/// Problems of namespaces that were entered and could not be read, twice.
fn lasting<T>(then: &Reading<T>, now: &Reading<T>, unvisited: &BTreeSet<u32>) -> Vec<String> {
    let lasts = |inode| then.unread.contains_key(inode) && !unvisited.contains(inode);
    let unread = now.unread.iter().filter(|(inode, _)| lasts(inode));
    unread.map(|(_, problem)| problem.clone()).collect()
}

#[cfg(test)]
#[path = "surroundings_tests.rs"]
mod tests;
