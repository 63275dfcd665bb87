//! TEMPORARY: measuring.
use std::net::Ipv4Addr;

use netdiag_common::{
    batch::BATCH,
    header::{Header, VERSION},
    signal::{
        Signal, rtt as rtt_record, send as send_record, socket as socket_record,
        turn as turn_record,
    },
};
use zerocopy::IntoBytes as _;

use super::*;
use crate::{node::own, signal::decode, snapshot::build::Listing};

fn header(signal: Signal, samples: u32) -> Header {
    Header { version: VERSION, signal: signal as u16, samples, time_ns: 1 }
}

fn socket_of(flow: u64, reported: bool) -> Vec<u8> {
    let [_, high, middle, low] = (flow as u32).to_be_bytes();
    let key = FlowKey {
        local_addr: Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped().octets(),
        peer_addr: Ipv4Addr::new(10, high | 64, middle, low).to_ipv6_mapped().octets(),
        local_port: 20_000,
        peer_port: 443,
        netns: 4_026_531_840,
        protocol: TCP,
        reserved: 0,
    };
    let times = u64::from(reported);
    let record = socket_record::Record {
        header: header(Signal::Socket, 1),
        socket: SocketRef { flow: (0xf0 << 56) + flow, sk: flow << 6, cookie: flow, key, state: 1 },
        what: if reported { socket_record::what::COUNTERS } else { socket_record::what::CONNECT },
        pid: 800 + flow as u32 % 10,
        comm: *b"shop\0\0\0\0\0\0\0\0\0\0\0\0",
        has_tcp: u32::from(reported),
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

fn batch_of(signal: Signal, flows: u64, at: u64) -> Vec<u8> {
    let mut record = header(signal, BATCH as u32).as_bytes().to_vec();
    for at in at..at + BATCH as u64 {
        let (flow, spread) = ((0xf0 << 56) + 1 + at % flows, at * 7919);
        match signal {
            Signal::Send => {
                let latency_ns = 3_000 + spread % 40_000;
                record.extend(send_record::Sample { flow, latency_ns, result: 512 }.as_bytes());
            }
            Signal::Rtt => {
                let rtt_us = 200 + (spread % 900) as u32;
                let sample = rtt_record::Sample {
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
                let sample = turn_record::Sample {
                    flow,
                    latency_ns,
                    other_ns: latency_ns + 10_000,
                    kind: turn_record::kind::RESPONSE,
                    ..Default::default()
                };
                record.extend(sample.as_bytes());
            }
        }
    }
    record
}

fn say(what: &str) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let kib = |name: &str| {
        status
            .lines()
            .find_map(|l| l.strip_prefix(name))
            .unwrap()
            .split_whitespace()
            .next()
            .unwrap()
            .parse::<f64>()
            .unwrap()
            * 1024.0
            / 1e6
    };
    // SAFETY: no precondition.
    let info = unsafe { libc::mallinfo2() };
    println!(
        "{what:24} rss {:6.1} peak {:6.1}  used {:6.1} free {:6.1} top {:5.1} mmapped {:6.1} MB",
        kib("VmRSS:"),
        kib("VmHWM:"),
        info.uordblks as f64 / 1e6,
        info.fordblks as f64 / 1e6,
        info.keepcost as f64 / 1e6,
        info.hblkhd as f64 / 1e6
    );
}

#[test]
#[ignore]
fn memory() {
    own::keep_memory_small();
    println!(
        "row {} sums {} past {} readings {} gauges {} frozen {}",
        size_of::<Row>(),
        size_of::<Sums>(),
        size_of::<crate::flow::sums::Past>(),
        size_of::<crate::flow::readings::Readings>(),
        size_of::<crate::flow::counts::Counts>(),
        size_of::<Frozen>()
    );
    let flows: u64 = std::env::var("FLOWS").map_or(100_000, |n| n.parse().unwrap());
    let reports = std::env::var("REPORTS").is_ok();
    let mut table = FlowTable::new(Config { max_flows: 131_072, ..Config::default() });
    let listing = Listing { top: Some(20), telling: true, ..Listing::default() };
    say("empty");
    let mut now = 1;
    let begun = own::cpu_time();
    let cut = |table: &mut FlowTable, what: &str, now: &mut u64| {
        say(&format!("{what} before cut"));
        // As the kernel is asked in each interval.
        let wanted = table.untold(*now);
        let keys: Vec<_> = wanted.iter().map(|(key, _)| *key).collect();
        drop(wanted);
        keys.iter().for_each(|key| table.unanswered(key, 0));
        drop(keys);
        *now += S;
        let begun = own::cpu_time();
        let interval = listing.interval(table, *now, false);
        let took = own::cpu_time() - begun;
        let folded = interval.folded;
        drop(interval);
        say(&format!("{what} cut"));
        println!("   folded {folded}, cut took {took:?}");
    };
    for flow in 1..=flows {
        let record = socket_of(flow, false);
        decode(&record, &mut |event| {
            let _ = table.apply(&event, now);
        })
        .unwrap();
    }
    cut(&mut table, "opened", &mut now);
    for signal in [Signal::Send, Signal::Rtt, Signal::Turn] {
        let all = flows * 4 / BATCH as u64;
        let begun = own::cpu_time();
        for nth in 0..all {
            let record = batch_of(signal, flows, nth * BATCH as u64);
            decode(&record, &mut |event| {
                let _ = table.apply(&event, now);
            })
            .unwrap();
            if nth % (all / 2) == all / 2 - 1 {
                cut(&mut table, &format!("{signal:?} {nth}"), &mut now);
            }
        }
        println!("   {signal:?}: {:?} per sample", (own::cpu_time() - begun) / (flows * 4) as u32);
    }
    if reports {
        for flow in 1..=flows {
            let record = socket_of(flow, true);
            decode(&record, &mut |event| {
                let _ = table.apply(&event, now);
            })
            .unwrap();
        }
        cut(&mut table, "reported", &mut now);
    }
    cut(&mut table, "idle", &mut now);
    own::release_freed();
    say("trimmed");
    for (_, row) in table.rows.iter().take(1) {
        println!("{row:?}");
    }
    println!("all: {:?}", own::cpu_time() - begun);
    drop(table);
    say("dropped");
    own::release_freed();
    say("trimmed");
}

#[test]
#[ignore]
fn rate() {
    own::keep_memory_small();
    const FLOWS: u64 = 1_000;
    let mut table = FlowTable::new(Config::default());
    let listing = Listing { top: Some(20), telling: true, ..Listing::default() };
    for flow in 1..=FLOWS {
        let record = socket_of(flow, false);
        decode(&record, &mut |event| {
            let _ = table.apply(&event, 1);
        })
        .unwrap();
    }
    let records: Vec<_> = [Signal::Send, Signal::Rtt, Signal::Turn]
        .into_iter()
        .flat_map(|signal| (0..1_000).map(move |nth| batch_of(signal, FLOWS, nth * BATCH as u64)))
        .collect();
    for _ in 0..5 {
        let (mut applied, mut cuts) = (std::time::Duration::ZERO, std::time::Duration::ZERO);
        for _ in 0..10 {
            let begun = own::cpu_time();
            for record in &records {
                decode(record, &mut |event| {
                    let _ = table.apply(&event, 1);
                })
                .unwrap();
            }
            applied += own::cpu_time() - begun;
            let begun = own::cpu_time();
            drop(listing.interval(&mut table, 1, false));
            cuts += own::cpu_time() - begun;
        }
        println!(
            "{:?} per sample, {:?} per cut",
            applied / (10 * records.len() * BATCH) as u32,
            cuts / 10
        );
    }
    let reports: Vec<_> = (1..=FLOWS).map(|flow| socket_of(flow, true)).collect();
    for _ in 0..3 {
        let begun = own::cpu_time();
        for _ in 0..100 {
            for record in &reports {
                decode(record, &mut |event| {
                    let _ = table.apply(&event, 1);
                })
                .unwrap();
            }
        }
        println!("{:?} per report", (own::cpu_time() - begun) / 100 / FLOWS as u32);
    }
}
