//! What happens to entries, told one by one.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result};
use netdiag::snapshot;
use netdiag_tests::{
    conntrack::{Rules, connect, entry, said, table, table::Tuple, track},
    facts::Facts,
    machine,
    network::Pair,
    require,
    requirement::{Feature, alone},
    stream::{self, Stream},
};
use serde_json::Value;

use crate::{KPROBE, best};

/// How long every entry lives at least.
const LIFE: Duration = Duration::from_millis(300);

fn tuple(event: &Value, name: &str) -> Result<Option<Tuple>> {
    let told: Option<snapshot::Tuple> = serde_json::from_value(event[name].clone())?;
    Ok(told.and_then(|told| {
        Some(Tuple { source: said::end(&told.source)?, destination: said::end(&told.destination)? })
    }))
}

#[test]
fn what_happens_to_an_entry_is_told() -> Result<()> {
    require!(Feature::Nft);
    require!(Feature::Conntrack);
    const NUMBER: usize = 4;
    let _alone = alone();
    let forced = best()?;
    let pair = Pair::new()?;
    track(&pair, Rules::Dnat)?;
    let netns = pair.left.inode().to_string();
    let arguments = ["--kind", "conntrack", "--source", &forced, "--netns", &netns, "--limit", "0"];
    let mut events = stream::start(&arguments)?;
    let connections = connect(&pair, Rules::Dnat, NUMBER)?;
    let expected = connections
        .iter()
        .map(|connection| entry(connection, Rules::Dnat))
        .collect::<Result<Vec<_>>>()?;
    let kinds = if forced == KPROBE { 3 } else { 2 };
    // All but the end. What the kernel tells by itself is stamped when it is read, which it is by now.
    events.wait_lines_in_all(NUMBER * (kinds - 1))?;
    thread::sleep(LIFE);
    table::remove_all(&pair.left)?;
    events.wait_lines_in_all(NUMBER * kinds)?;
    let told = Stream::stop(events)?;
    let mut facts = Facts::new();
    facts.note(format_args!("{forced}: {:#?}", told.events));
    facts.equal("events", told.events.len(), NUMBER * kinds);
    for entry in &expected {
        let mut whats = Vec::new();
        for event in told.of("conntrack") {
            if tuple(event, "original")? != Some(entry.original) {
                continue;
            }
            let what = event["what"].as_str().context("nothing happened")?;
            whats.push(what);
            facts.equal("times", event["times"].as_u64(), Some(1));
            facts.equal("its protocol", event["protocol"].as_str(), Some("tcp"));
            facts.equal("its namespace", event["netns"].as_u64(), Some(entry.netns.into()));
            if what != "new" {
                let reply = tuple(event, "reply")?;
                facts.equal(format_args!("the reply of {what}"), reply, Some(entry.reply));
            }
            if what != "destroyed" {
                let pid = event["creator"]["pid"].as_u64();
                let known = (forced == KPROBE).then(|| std::process::id().into());
                facts.equal(format_args!("the creator of {what}"), pid, known);
            }
            let lifetime = event["lifetime_ns"].as_u64();
            facts.equal(
                format_args!("{what} has a lifetime"),
                lifetime.is_some(),
                what == "destroyed",
            );
            if let Some(lifetime) = lifetime {
                let least = LIFE.as_nanos() as u64;
                let most = machine::patience().as_nanos() as u64;
                facts.holds(
                    format_args!("it lived {lifetime} ns"),
                    (least..most).contains(&lifetime),
                );
            }
        }
        whats.sort_unstable();
        let all = ["confirmed", "destroyed", "new"];
        facts.equal(format_args!("what happened to {entry:?}"), &whats[..], &all[..kinds]);
    }
    told.at_rest(&mut facts)?;
    facts.finish();
    Ok(())
}
