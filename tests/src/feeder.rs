//! Samples by the million: records that no hook made, handed to a running netdiag by its own rings.
//!
//! A small program of ours, which the kernel runs as often as it is asked to (`BPF_PROG_TEST_RUN`), copies records
//! into a ring of that netdiag as its own programs do, wakes its reader when they would, and counts in its counters. So
//! what is read, decoded, folded and accounted for is what always is, at any rate.

mod pace;
mod program;
pub mod short;
mod sys;

use std::{fs, net::IpAddr, os::fd::OwnedFd, path::PathBuf};

use anyhow::{Context as _, Result, bail};
use netdiag::{kernel::memlock, snapshot};
use netdiag_common::{
    batch::BATCH,
    flow::{FlowKey, SocketRef, TCP, TcpCounters, V4_MAPPED_PREFIX},
    header::{Header, VERSION},
    signal::{Signal, rtt, send, socket, turn},
};
use zerocopy::IntoBytes;

pub use self::pace::Fed;
use self::program::Program;

/// Numbers of flows that no program gives.
const FLOWS: u64 = 0xf0 << 56;
/// This end's address of all that is fed, and the other end's port.
const LOCAL: [u8; 4] = [10, 0, 0, 1];
const PORT: u16 = 443;
/// Bytes that a send call of those that are fed hands over.
pub const SENT_BYTES: u64 = 512;
/// Of a ring, the part that is filled at once where samples are fed at a rate: its reader is woken at a quarter.
const AT_ONCE: u64 = 8;

/// Rings and counters of a running netdiag.
pub struct Feeder {
    samples: OwnedFd,
    sockets: OwnedFd,
    counters: OwnedFd,
    samples_bytes: u32,
    netns: u32,
}

/// What is fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Send calls, in full batches.
    Sends,
    /// Round trips, likewise.
    RoundTrips,
    /// Answers of peers, likewise.
    Responses,
    /// Connections that this end asked for.
    Opened,
    /// Their counters, as they are told while they last.
    Reported,
    /// Their end.
    Closed,
}

impl What {
    const fn signal(self) -> Signal {
        match self {
            Self::Sends => Signal::Send,
            Self::RoundTrips => Signal::Rtt,
            Self::Responses => Signal::Turn,
            Self::Opened | Self::Reported | Self::Closed => Signal::Socket,
        }
    }

    /// A lane in which none of the programs counts: the twin of the one that empties batches.
    const fn lane(self) -> usize {
        let lane = match self {
            Self::Sends => send::lane::FLUSH,
            Self::RoundTrips => rtt::lane::FLUSH,
            Self::Responses => turn::lane::FLUSH,
            Self::Opened | Self::Reported | Self::Closed => netdiag_common::counters::LANES - 1,
        };
        netdiag_common::counters::LANES + lane
    }

    /// Flows in one record.
    const fn per_record(self) -> usize {
        match self {
            Self::Sends | Self::RoundTrips | Self::Responses => BATCH,
            Self::Opened | Self::Reported | Self::Closed => 1,
        }
    }
}

impl Feeder {
    /// Of the netdiag with this process id, which observes sends, round trips and turns.
    ///
    /// # Errors
    /// It is not there, has no such rings, or nothing of BPF is permitted.
    pub fn of(pid: u32) -> Result<Self> {
        // Kernels before 5.11 charge maps to locked memory, with those of that netdiag: where it stays limited, they refuse.
        let _limited = memlock::raise();
        let (mut samples, mut sockets, mut counters) = (None, None, None);
        for id in maps_of(pid)? {
            let map = sys::map_by_id(id)?;
            let (name, size) = sys::map_info(&map)?;
            match name.as_str() {
                "SAMPLES" => samples = Some((map, size)),
                "SOCKETS" => sockets = Some(map),
                "COUNTERS" => counters = Some(map),
                _ => {}
            }
        }
        let (samples, samples_bytes) = samples.context("netdiag has no ring for samples")?;
        Ok(Self {
            samples,
            sockets: sockets.context("netdiag has no ring for sockets")?,
            counters: counters.context("netdiag has no counters")?,
            samples_bytes,
            netns: own_netns()?,
        })
    }

    /// The same for flows of another network namespace, by its inode number.
    #[must_use]
    pub fn in_netns(self, netns: u32) -> Self {
        Self { netns, ..self }
    }

    /// A feed of something, for flows `first`, `first + 1` and so on, round and round.
    ///
    /// # Errors
    /// The kernel refuses the program.
    pub fn feed(&self, what: What, first: u64, flows: u64) -> Result<Feed> {
        let records: Vec<Vec<u8>> = match what {
            What::Opened | What::Reported | What::Closed => {
                (first..first + flows).map(|flow| self.socket(what, flow)).collect()
            }
            _ => {
                // Whole rounds, so that each flow has as many.
                let rounds = flows / gcd(flows, BATCH as u64);
                let batches = (0..rounds).map(|round| round * BATCH as u64);
                batches.map(|at| batch(what, first, flows, at)).collect()
            }
        };
        let (ring, ring_bytes) = match what.signal() {
            Signal::Socket => (&self.sockets, self.samples_bytes / 2),
            _ => (&self.samples, self.samples_bytes),
        };
        let program = Program::load(&program::Plan {
            ring,
            counters: &self.counters,
            records: &records,
            samples: what.per_record() as u32,
            signal: what.signal() as u32,
            lane: what.lane(),
            wake_above: ring_bytes / 4,
        })?;
        let length = records.first().context("no records")?.len() as u64;
        let per_record = what.per_record() as u64;
        let at_once = (u64::from(ring_bytes) / AT_ONCE / length).max(1) * per_record;
        Ok(Feed { program, per_record, at_once })
    }

    fn socket(&self, what: What, flow: u64) -> Vec<u8> {
        let [_, high, middle, low] = (flow as u32).to_be_bytes();
        let key = FlowKey {
            local_addr: v4(LOCAL),
            peer_addr: v4([10, high | 64, middle, low]),
            local_port: 20_000 + (flow >> 24) as u16,
            peer_port: PORT,
            netns: self.netns,
            protocol: TCP,
            reserved: 0,
        };
        let (record, times) = match what {
            What::Opened => (socket::what::CONNECT, 0),
            What::Reported => (socket::what::COUNTERS, 1),
            _ => (socket::what::CLOSE, 2),
        };
        let record = socket::Record {
            header: header(Signal::Socket, 1),
            socket: SocketRef { flow: FLOWS + flow, sk: flow << 6, cookie: flow, key, state: 1 },
            what: record,
            pid: 800 + flow as u32 % 10,
            comm: *b"shop\0\0\0\0\0\0\0\0\0\0\0\0",
            has_tcp: u32::from(what != What::Opened),
            tcp: TcpCounters {
                bytes_sent: 512 * times,
                bytes_received: 2_048 * times,
                bytes_acked: 512 * times,
                segs_out: 3 * times as u32,
                segs_in: 4 * times as u32,
                srtt_us: 190,
                rtt_min_us: 180,
                cwnd: 10,
                ..Default::default()
            },
            ..Default::default()
        };
        record.as_bytes().to_vec()
    }
}

/// Records that are fed again and again.
pub struct Feed {
    program: Program,
    per_record: u64,
    /// Samples that are fed in one turn of a rate at most.
    at_once: u64,
}

impl Feed {
    /// Feeds the next records, which have so many samples; returns how many of those found room.
    ///
    /// # Errors
    /// The kernel does not run the program.
    pub fn samples(&self, samples: u64) -> Result<u64> {
        Ok(self.program.run(samples / self.per_record)? * self.per_record)
    }
}

/// Whether a flow is one that was fed, by its ends.
#[must_use]
pub fn is_fed(flow: &snapshot::Flow) -> bool {
    flow.local.ip == Some(IpAddr::from(LOCAL)) && flow.peer.port == Some(PORT)
}

/// A full batch from the `at`th sample on.
fn batch(what: What, first: u64, flows: u64, at: u64) -> Vec<u8> {
    let mut record = header(what.signal(), BATCH as u32).as_bytes().to_vec();
    for at in at..at + BATCH as u64 {
        let (flow, spread) = (FLOWS + first + at % flows, at * 7919);
        match what {
            What::Sends => {
                let latency_ns = 3_000 + spread % 40_000;
                let result = SENT_BYTES as i64;
                record.extend(send::Sample { flow, latency_ns, result }.as_bytes());
            }
            What::RoundTrips => {
                let rtt_us = 200 + (spread % 900) as u32;
                let sample = rtt::Sample {
                    flow,
                    rtt_us,
                    rtt_min_us: 180,
                    srtt_us: rtt_us,
                    ..Default::default()
                };
                record.extend(sample.as_bytes());
            }
            _ => {
                let latency_ns = 900_000 + spread % 5_000_000;
                let sample = turn::Sample {
                    flow,
                    latency_ns,
                    other_ns: latency_ns + 10_000,
                    kind: turn::kind::RESPONSE,
                    ..Default::default()
                };
                record.extend(sample.as_bytes());
            }
        }
    }
    record
}

const fn header(signal: Signal, samples: u32) -> Header {
    Header { version: VERSION, signal: signal as u16, samples, time_ns: 1 }
}

fn v4(address: [u8; 4]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..12].copy_from_slice(&V4_MAPPED_PREFIX);
    bytes[12..].copy_from_slice(&address);
    bytes
}

const fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Ids of the maps that a process has descriptors of.
fn maps_of(pid: u32) -> Result<Vec<u32>> {
    let directory = PathBuf::from(format!("/proc/{pid}/fdinfo"));
    let mut ids = Vec::new();
    for entry in fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
        // It may have been closed meanwhile.
        let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
        let id = text.lines().find_map(|line| line.strip_prefix("map_id:"));
        ids.extend(id.and_then(|id| id.trim().parse::<u32>().ok()));
    }
    if ids.is_empty() {
        bail!("process {pid} has no maps");
    }
    Ok(ids)
}

fn own_netns() -> Result<u32> {
    use std::os::linux::fs::MetadataExt as _;
    Ok(fs::metadata("/proc/self/ns/net")?.st_ino() as u32)
}
