//! What most scenarios need, and what some have in common.

use anyhow::Result;

pub(super) use std::time::Duration;

pub(super) use crate::{
    conntrack::MAX,
    dropping::raw,
    lab::{
        Needs, Parameter, Scenario, Side,
        act::{
            Accept, Act, Ask, Bad, Datagrams, Dns, Each, End, Open, Races, Receive, Resolve, Send,
            Serve, Syns, Then,
        },
    },
    network::link::{Rate, Spell, Way},
    setting::Setting,
};
use crate::{
    conntrack::{Rules, track_at},
    lab::{
        Values,
        stage::Stage,
        witness::{Claims, Seen},
    },
};

pub(super) const MS: Duration = Duration::from_millis(1);

/// Lets a side track connections.
pub(super) fn track(stage: &Stage, side: Side) -> Result<()> {
    track_at(stage.side(side), Rules::Plain)
}

/// Fills a table with connections that stand: their entries give way to none.
pub(super) fn crowd(stage: &mut Stage, connections: u64) -> Result<()> {
    let at = stage.at(5222);
    stage.start(Side::Server, "chat", Act::Accept(Accept::at(vec![at], Each::Keeps)))?;
    let open = Open::at_once(vec![at], connections, Then::Keeps);
    stage.start(Side::Client, "proxy", Act::Open(open))?;
    Ok(())
}

/// A server of names that a resolver asks.
pub(super) fn names(stage: &mut Stage, dns: Dns, per_second: u64) -> Result<()> {
    stage.link_alike(Way::delayed(MS))?;
    let to = dns.at;
    stage.start(Side::Server, "named", Act::Dns(dns))?;
    let resolve = Resolve { to, per_second: per_second as f64, patience: Duration::from_secs(5) };
    stage.start(Side::Client, "resolver", Act::Resolve(resolve))?;
    Ok(())
}

/// The port of the server before which SYNs are dropped.
const SEARCH: u16 = 8080;

/// A table for `nft -f` that drops such SYNs to it as they arrive: what is dropped on its way out is a send that fails.
pub(super) fn syns_dropped(table: &str, which: &str) -> String {
    format!(
        "table inet {table} {{\n chain arrives {{\n type filter hook prerouting priority -300;\n \
         tcp dport {SEARCH} tcp flags syn {which} drop\n }}\n}}\n"
    )
}

/// A server before which so many of a thousand SYNs are dropped, and a client that connects for each request.
pub(super) fn losing_syns(stage: &mut Stage, per_mille: u64, per_second: u64) -> Result<()> {
    stage.link_alike(Way::delayed(MS))?;
    let at = stage.at(SEARCH);
    let some = format!("numgen random mod 1000 < {per_mille}");
    stage.nft(Side::Server, &syns_dropped("busy", &some))?;
    stage.start(Side::Server, "search", Act::Serve(Serve::at(vec![at])))?;
    let ask = Ask {
        end: End::Closes,
        patience: Duration::from_secs(5),
        ..Ask::to(vec![at; 32], per_second as f64)
    };
    stage.start(Side::Client, "web", Act::Ask(ask))?;
    Ok(())
}

/// Of requests that take long to arrive.
pub(super) const UPLOADS: &[Parameter] = &[
    Parameter::any("kb_per_s", [150, 300]),
    Parameter::any("work_ms", [50, 150]),
    Parameter::any("connections", [3, 6]),
];

/// Bytes of each.
const UPLOAD: u32 = 200_000;

/// Sends them from the client, which hands each over at once, to a server that reads them as they come.
pub(super) fn uploads(stage: &mut Stage, it: &Values) -> Result<()> {
    stage.link_alike(Way::delayed(2 * MS))?;
    let (at, work) = (stage.at(8080), it.ms("work_ms"));
    let serve = Serve { work, spread: work, ..Serve::at(vec![at]) };
    stage.start(Side::Server, "photos", Act::Serve(serve))?;
    let connections = it["connections"];
    let ask = Ask {
        request: UPLOAD,
        reply: 300,
        // For one request, also where each segment takes a buffer of its own.
        send_buffer: Some(400_000),
        pacing: Some(it["kb_per_s"] as u32 * 1_000),
        ..Ask::to(vec![at; connections as usize], connections as f64 / 2.0)
    };
    stage.start(Side::Client, "mobile", Act::Ask(ask))?;
    Ok(())
}

/// That they took long to arrive, by the client's clock and its kernel's, and their server less than half of that.
pub(super) fn uploaded(it: &Values, seen: &Seen, claims: &mut Claims) {
    let arrives_us = u64::from(UPLOAD) * 1_000 / it["kb_per_s"];
    let median_us = seen.said("mobile", "p50_us");
    // The first segments of a connection are not paced.
    claims.least("median answer, us", median_us, arrives_us * 8 / 10);
    claims.least("median answer, us, of twice the server's work", median_us, {
        2 * seen.said("photos", "p50_us")
    });
    claims.least("answers", seen.said("mobile", "answers"), 3 * it["connections"]);
    claims.least("ms busy sending", seen.most(Side::Client, "busy") as u64, 2_000);
}

/// Of a stream that is read slower than it is sent.
pub(super) const READING: &[Parameter] =
    &[Parameter::new("reads_per_s", [0, 2], [100, 200]), Parameter::any("sends_per_s", [10, 40])];

/// Sends it from the client to a server that reads so slowly.
pub(super) fn reading(stage: &mut Stage, it: &Values) -> Result<()> {
    stage.link_alike(Way::delayed(MS))?;
    let at = stage.at(5672);
    let receive =
        Receive { per_second: Some(it["reads_per_s"] as f64), chunk: 8_000, ..Receive::at(at) };
    stage.start(Side::Server, "consumer", Act::Receive(receive))?;
    let send = Send::paced(vec![at], it["sends_per_s"] * 10_000);
    stage.start(Side::Client, "producer", Act::Send(send))?;
    Ok(())
}
