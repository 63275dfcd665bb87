//! What filters name, looked up on the node: processes, where they live, and network namespaces.

use std::sync::Arc;

use netdiag_common::globals::{FILTER_VALUES, Filters, Names, Numbers, Prefixes};

use super::Owners;
use crate::{
    cli::value::{NetnsName, Prefix, mask, nearest},
    exit::Error,
    owner::{Place, Pod},
};

mod nobody;

/// What filters name: AND between the fields, OR within one, empty passes everything. Each has at
/// most [`FILTER_VALUES`] values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Targets {
    /// Process ids of the socket's owner.
    pub pids: Vec<u32>,
    /// Either port.
    pub ports: Vec<u16>,
    /// Port of this end.
    pub local_ports: Vec<u16>,
    /// Port of the other end.
    pub peer_ports: Vec<u16>,
    /// Address of the other end.
    pub peers: Vec<Prefix>,
    /// Network namespaces.
    pub netns: Vec<NetnsName>,
    /// What else is asked of the owner.
    pub owners: Owners,
}

/// What a process id stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    /// A process.
    Exists,
    /// A thread of this process, other than its first.
    Thread(u32),
    /// Nothing.
    Absent,
}

/// Where processes may live, with its pod if that has a name.
pub type Home = (Arc<Place>, Option<Pod>);

/// What the node can be asked about the targets of filters.
pub trait Lookup {
    /// Whether processes have the numbers here by which the programs know them.
    fn knows_processes(&self) -> bool;
    /// What a process id stands for.
    fn process(&self, pid: u32) -> Process;
    /// The processes with the most TCP sockets, first the one with most, as `812 (nginx)`.
    fn socket_holders(&self) -> &[String];
    /// Inode number of a network namespace.
    ///
    /// # Errors
    /// Why there is none, as the middle of a sentence.
    fn netns(&self, name: &NetnsName) -> Result<u32, String>;
    /// Names that `--netns` knows.
    fn netns_names(&self) -> Vec<String>;
    /// Names of the processes that there are.
    fn process_names(&self) -> Vec<String>;
    /// Where processes may live, each with its pod if that has a name.
    ///
    /// # Errors
    /// Why nobody knows, as a sentence.
    fn places(&self) -> Result<Vec<Home>, String>;
}

/// The filters of the programs.
///
/// # Errors
/// A process or namespace that does not exist and so can match nothing: wrong usage, or a reason
/// to try again under `--wait`.
pub fn filters(targets: &Targets, node: &impl Lookup) -> Result<Filters, Error> {
    if let Some(pid) = targets.pids.first()
        && !node.knows_processes()
    {
        return Err(Error::usage(format!(
            "--pid {pid}: /proc is that of a container, whose process ids are not the node's, so another \
             process would match; run with the node's PID namespace (hostPID) or give --host-root"
        )));
    }
    for &pid in &targets.pids {
        match node.process(pid) {
            Process::Exists => {}
            Process::Thread(of) => {
                return Err(Error::usage(format!(
                    "--pid {pid}: a thread, but processes own sockets, so nothing would match; \
                     give its process, --pid {of}"
                )));
            }
            Process::Absent => return Err(unknown_process(pid, node)),
        }
    }
    let mut netns = Vec::new();
    for name in &targets.netns {
        netns.push(node.netns(name).map_err(|reason| unknown_netns(name, &reason, node))?);
    }
    nobody::check(&targets.owners, node)?;
    let mut comm = Names::default();
    for name in &targets.owners.comms {
        comm.add(name.as_bytes());
    }
    let wide = |ports: &[u16]| numbers(ports.iter().copied().map(u32::from));
    Ok(Filters {
        pid: numbers(targets.pids.iter().copied()),
        port: wide(&targets.ports),
        local_port: wide(&targets.local_ports),
        peer_port: wide(&targets.peer_ports),
        netns: numbers(netns.into_iter()),
        peer: prefixes(&targets.peers),
        comm,
        by_cgroup: u64::from(targets.owners.asks_for_place()),
    })
}

/// What filters ask for that cannot be told here, in one line.
#[must_use]
pub fn unknowable(targets: &Targets, node: &impl Lookup) -> Option<String> {
    let Owners { comms, .. } = &targets.owners;
    if node.knows_processes() || comms.is_empty() && !targets.owners.asks_for_place() {
        return None;
    }
    let unchecked = match &comms[..] {
        [] => String::new(),
        comms => format!(
            "; nor could it be checked that there is a process called {}",
            comms.join(" or ")
        ),
    };
    Some(format!(
        "/proc is that of a container, so it is not known whose the sockets from before the start are: those that \
         the filters by owner ask for are left out until they are used again{unchecked}; run with the node's PID \
         namespace (hostPID)"
    ))
}

fn unknown_process(pid: u32, node: &impl Lookup) -> Error {
    let most = node.socket_holders().iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    let hint = match most.is_empty() {
        true => "no process has TCP sockets".to_owned(),
        false => format!("most TCP sockets have {most}"),
    };
    Error::usage(format!(
        "--pid {pid}: no such process, so nothing would match; {hint} (--wait waits for it)"
    ))
}

fn unknown_netns(name: &NetnsName, reason: &str, node: &impl Lookup) -> Error {
    let known = node.netns_names();
    let near = nearest(&name.to_string(), known.iter().map(String::as_str)).join(", ");
    let hint = match (near.is_empty(), known.is_empty()) {
        (false, _) => format!("did you mean {near}?"),
        (true, false) => {
            format!("there are {}", known.iter().take(5).cloned().collect::<Vec<_>>().join(", "))
        }
        (true, true) => "there is none with a name, pid:N works for any process".to_owned(),
    };
    Error::usage(format!(
        "--netns {name}: {reason}, so nothing would match; {hint} (--wait waits for it)"
    ))
}

pub(in crate::config) fn numbers(all: impl Iterator<Item = u32>) -> Numbers {
    let mut numbers = Numbers::default();
    for (place, value) in numbers.values.iter_mut().zip(all) {
        *place = value;
        numbers.len += 1;
    }
    numbers
}

pub(in crate::config) fn prefixes(all: &[Prefix]) -> Prefixes {
    let mut prefixes = Prefixes::default();
    for (at, prefix) in all.iter().take(FILTER_VALUES).enumerate() {
        prefixes.network[at] = words(prefix.network.octets());
        prefixes.mask[at] = words(mask(prefix.length).to_be_bytes());
        prefixes.len += 1;
    }
    prefixes
}

/// Sixteen bytes of an address as a program loads them from memory, four at a time.
pub(in crate::config) fn words(octets: [u8; 16]) -> [u32; 4] {
    let (words, _none) = octets.as_chunks::<4>();
    std::array::from_fn(|at| u32::from_ne_bytes(words[at]))
}
