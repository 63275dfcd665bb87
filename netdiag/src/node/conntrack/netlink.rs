//! The statistics by netlink (`net/netfilter/nf_conntrack_netlink.c`).
//!
//! The crate netlink-packet-netfilter knows connections and not these.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
    sync::OnceLock,
};

use netlink_packet_core::{NLM_F_DUMP, NlasIterator};
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::{Counter, Statistics, statistics::Row};
use crate::node::{
    files,
    netlink::{self, Flaws},
};

/// `NFNL_SUBSYS_CTNETLINK` (`include/uapi/linux/netfilter/nfnetlink.h`) and
/// `IPCTNL_MSG_CT_GET_STATS_CPU`.
const GET_STATS_CPU: u16 = 1 << 8 | 4;

/// `struct nfgenmsg`: family, version, and in network order a number, here the processor's.
const GENERIC_BYTES: usize = 4;

/// `enum ctattr_stats_cpu` (`include/uapi/linux/netfilter/nfnetlink_conntrack.h`).
const fn attribute(counter: Counter) -> u16 {
    match counter {
        Counter::Found => 2,
        Counter::Invalid => 4,
        Counter::Insert => 8,
        Counter::InsertFailed => 9,
        Counter::Drop => 10,
        Counter::EarlyDrop => 11,
        Counter::Error => 12,
        Counter::SearchRestart => 13,
        Counter::ClashResolve => 14,
        Counter::ChainTooLong => 15,
    }
}

/// [`read`] where that loads no module.
pub(super) fn read_unless_it_loads() -> Option<Statistics> {
    answers().then(read)?.ok()
}

/// Whether what answers is there already: loaded, or part of the kernel.
pub(super) fn answers() -> bool {
    /// That does not change.
    static IS_BUILT_IN: OnceLock<bool> = OnceLock::new();
    match files::text("/proc/modules") {
        Ok(modules) => {
            is_loaded(&modules)
                || Path::new("/sys/module/nf_conntrack_netlink").exists()
                || *IS_BUILT_IN.get_or_init(|| {
                    let symbols = File::open("/proc/kallsyms").map(BufReader::new);
                    symbols.is_ok_and(is_built_in)
                })
        }
        // A kernel that has no modules has none to load.
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Whether it is in this `/proc/kallsyms`, and not as a module's: address, kind, name, and the module. What is
/// built in need not be in `/sys/module`.
fn is_built_in(symbols: impl BufRead) -> bool {
    symbols.split(b'\n').map_while(Result::ok).any(|line| {
        let mut words = line.split(u8::is_ascii_whitespace).skip(2);
        words.next().is_some_and(|name| name.starts_with(b"ctnetlink_dump_table"))
            && words.next().is_none()
    })
}

/// Whether the module that answers is in this `/proc/modules`.
fn is_loaded(modules: &str) -> bool {
    let names = modules.lines().filter_map(|line| line.split_ascii_whitespace().next());
    names.into_iter().any(|name| name == "nf_conntrack_netlink")
}

/// Asks for the statistics of the calling thread's namespace. The kernel may load a module to answer.
///
/// # Errors
/// That of the kernel, which wants CAP_NET_ADMIN, and `InvalidData` when the answer makes no sense.
pub fn read() -> io::Result<Statistics> {
    const SEQUENCE: u32 = 1;
    let mut reply = Reply::default();
    let flaws = netlink::dump(NETLINK_NETFILTER, &request(SEQUENCE), SEQUENCE, |kind, payload| {
        reply.take(kind, payload).is_some()
    })?;
    reply.statistics(flaws)
}

fn request(sequence: u32) -> Vec<u8> {
    netlink::request(GET_STATS_CPU, NLM_F_DUMP, sequence, &[0; GENERIC_BYTES])
}

/// What was read of an answer so far.
#[derive(Default)]
struct Reply {
    known: Vec<Counter>,
    rows: Vec<Row>,
}

impl Reply {
    /// Takes one message, that of a processor; none when it makes no sense.
    fn take(&mut self, kind: u16, payload: &[u8]) -> Option<()> {
        if kind != GET_STATS_CPU {
            return None;
        }
        let (&[_family, _version, high, low], attributes) = payload.split_first_chunk()?;
        let cpu = usize::from(u16::from_be_bytes([high, low]));
        let mut counters = Vec::new();
        for found in NlasIterator::new(attributes) {
            let found = found.ok()?;
            let counter = Counter::ALL.into_iter().find(|known| attribute(*known) == found.kind());
            if let Some(counter) = counter {
                counters.push((counter, u32::from_be_bytes(found.value().try_into().ok()?)));
            }
        }
        self.known.extend(counters.iter().map(|(counter, _)| *counter));
        if self.rows.len() <= cpu {
            self.rows.resize(cpu + 1, Row::default());
        }
        self.rows[cpu] = counters.into_iter().collect();
        Some(())
    }

    /// A part of it would pass for all.
    fn statistics(self, flaws: Flaws) -> io::Result<Statistics> {
        if flaws != Flaws::default() {
            let what = "the kernel's statistics of connection tracking make no sense";
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(Statistics::new(self.known, self.rows))
    }
}

#[cfg(test)]
#[path = "netlink_tests.rs"]
mod tests;
