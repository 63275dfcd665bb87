//! Records as the programs make them, of clients that send, wait for an answer, and have round trips.

use netdiag_common::{
    batch::BATCH,
    flow::{FlowKey, SocketRef, TCP, V4_MAPPED_PREFIX},
    header::{Header, VERSION},
    signal::{Signal, rtt, send, socket, turn},
};
use zerocopy::IntoBytes;

/// Flows that a busy node has.
pub(crate) const FLOWS: u64 = 1_000;
/// Samples of each, and of each kind, in an interval.
pub(crate) const SAMPLES: u64 = 20;

fn header(signal: Signal, samples: usize) -> Header {
    Header { version: VERSION, signal: signal as u16, samples: samples as u32, time_ns: 1 }
}

/// An IPv4 address as the kernel's side has it.
fn v4(address: [u8; 4]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..12].copy_from_slice(&V4_MAPPED_PREFIX);
    bytes[12..].copy_from_slice(&address);
    bytes
}

/// A record that introduces a client's socket.
pub(crate) fn opened(flow: u64) -> Vec<u8> {
    let key = FlowKey {
        local_addr: v4([10, 0, 0, 1]),
        peer_addr: v4([10, 0, 1, flow as u8]),
        local_port: 20_000 + flow as u16,
        peer_port: 443,
        netns: 4_026_531_840,
        protocol: TCP,
        reserved: 0,
    };
    let record = socket::Record {
        header: header(Signal::Socket, 1),
        socket: SocketRef { flow, sk: flow << 6, cookie: flow, key, state: 1 },
        what: socket::what::CONNECT,
        pid: 800 + flow as u32 % 10,
        comm: *b"shop\0\0\0\0\0\0\0\0\0\0\0\0",
        ..Default::default()
    };
    record.as_bytes().to_vec()
}

/// A full batch of samples of the flows `first`, `first + 1` and so on, up to [`FLOWS`] and round again.
pub(crate) fn sends(first: u64) -> Vec<u8> {
    let mut record = header(Signal::Send, BATCH).as_bytes().to_vec();
    for at in first..first + BATCH as u64 {
        let (flow, latency_ns) = (at % FLOWS + 1, 3_000 + at * 7919 % 40_000);
        record.extend(send::Sample { flow, latency_ns, result: 512 }.as_bytes());
    }
    record
}

/// The same of round trips.
pub(crate) fn rtts(first: u64) -> Vec<u8> {
    let mut record = header(Signal::Rtt, BATCH).as_bytes().to_vec();
    for at in first..first + BATCH as u64 {
        let rtt_us = 200 + (at * 7919 % 900) as u32;
        let sample = rtt::Sample {
            flow: at % FLOWS + 1,
            rtt_us,
            rtt_min_us: 180,
            srtt_us: rtt_us,
            ..Default::default()
        };
        record.extend(sample.as_bytes());
    }
    record
}

/// The same of answers, of which each flow is the client.
pub(crate) fn responses(first: u64) -> Vec<u8> {
    let mut record = header(Signal::Turn, BATCH).as_bytes().to_vec();
    for at in first..first + BATCH as u64 {
        let latency_ns = 900_000 + at * 7919 % 5_000_000;
        let sample = turn::Sample {
            flow: at % FLOWS + 1,
            latency_ns,
            other_ns: latency_ns + 10_000,
            kind: turn::kind::RESPONSE,
            ..Default::default()
        };
        record.extend(sample.as_bytes());
    }
    record
}
