//! The consumer stands still while the ring overflows: what is lost is counted and shown, to the
//! sample, and what comes after is exact again.

use anyhow::Result;
use netdiag_tests::{
    facts::Facts,
    machine,
    netdiag::Netdiag,
    network::Pair,
    outcome::{count, flow_of, in_namespaces, sum},
    requirement::alone,
    source,
    traffic::{
        Connection, Family,
        request::{Exchange, exchange},
    },
};
use rustix::process::Signal;

/// Smallest ring that netdiag takes; a record of 64 sends is 1.5 KiB.
const RING: &str = "64KiB";

/// Exchanges after the stall.
const PARTS: usize = 5;

fn flood() -> Exchange {
    Exchange { sends: machine::amount(50_000, 10_000), bytes: 1, echo: false }
}

#[test]
fn loss_is_counted_and_ends_with_the_stall() -> Result<()> {
    let _alone = alone();
    let pair = Pair::new()?;
    let [left, right] = [pair.left.name(), pair.right.name()];
    // Narrowed to the pair, so that nobody else's samples are among the lost.
    let filter = format!("{left},{right}");
    let mut netdiag = Netdiag::live(&["--ring-size", RING, "--netns", &filter])?;
    let flooded = Connection::open(&pair.left, &pair.right, Family::V4)?;
    let one = Exchange { sends: 1, bytes: 1, echo: true };
    exchange([(&flooded, one)])?;
    netdiag.wait_lines(2)?;

    netdiag.freeze()?;
    exchange([(&flooded, flood())])?;
    netdiag.signal(Signal::CONT)?;
    netdiag.wait_outcome("a snapshot that tells of the loss", |outcome| {
        outcome.snapshots.iter().any(|snapshot| !snapshot.complete)
    })?;
    netdiag.wait_lines(2)?;

    let later = Connection::open(&pair.left, &pair.right, Family::V6)?;
    // In parts that the ring has room for, were the reader to get no CPU time meanwhile.
    let part = Exchange { sends: 200, bytes: 1, echo: true };
    for _ in 0..PARTS {
        exchange([(&later, part)])?;
        netdiag.wait_lines(1)?;
    }
    let (flooded, later) = (flooded.client_end()?, later.client_end()?);
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;

    let mut facts = Facts::new();
    for snapshot in &outcome.snapshots {
        facts.consistent(snapshot);
    }
    facts.at_rest(total);
    facts.equal("complete", total.complete, false);
    let send = total.accounting["send"];
    facts.holds("the ring was full", send.ring_full > 0);
    let flow = flow_of(total, &flooded)?;
    facts.note(format_args!("{flow:?}"));
    let made = (flood().sends + one.sends) as u64;
    let seen = count(flow, "sends").unwrap_or_default();
    facts.equal(
        format_args!("{seen} seen sends of the flood and {} lost", send.lost()),
        seen + send.lost(),
        made,
    );
    let flow = flow_of(total, &later)?;
    facts.equal("sends after the stall", count(flow, "sends"), Some((PARTS * part.sends) as u64));
    let all = sum(in_namespaces(total, &[pair.left.inode(), pair.right.inode()]), "sends");
    let other = count(&total.other, "sends").unwrap_or_default();
    facts.equal("decoded sends, of flows and other", all + other, send.submitted);
    facts.equal("exit status", outcome.code(), Some(0));
    facts.finish();
    Ok(())
}

#[test]
fn loss_is_on_the_screen() -> Result<()> {
    let _alone = alone();
    let pair = Pair::new()?;
    let mut netdiag = Netdiag::start(&["live", "-o", "text", "-i", "1s", "--ring-size", RING])?;
    let flooded = Connection::open(&pair.left, &pair.right, Family::V4)?;
    netdiag.freeze()?;
    exchange([(&flooded, flood())])?;
    netdiag.signal(Signal::CONT)?;
    netdiag.wait_lines(3)?;
    let (status, out, err) = netdiag.stop_text()?;
    let mut facts = Facts::new();
    facts.equal("exit status", status.code(), Some(0));
    let told = out.iter().position(|line| line.starts_with("LOST") && line.contains("send"));
    let ended = out.iter().position(|line| line == "samples since the start");
    facts.holds(
        format_args!("line {told:?}, before the end's {ended:?}, tells of lost sends"),
        told.is_some() && told < ended,
    );
    facts.note(format_args!("standard output:\n{}", out.join("\n")));
    facts.note(format_args!("standard error:\n{}", err.join("\n")));
    facts.finish();
    Ok(())
}

#[test]
fn strict_makes_loss_an_exit_status() -> Result<()> {
    let _alone = alone();
    let pair = Pair::new()?;
    for (stall, code) in [(true, 4), (false, 0)] {
        source::until_unskipped(|| {
            let netdiag =
                Netdiag::live(&["--ring-size", RING, "--strict", "--netns", pair.left.name()])?;
            let connection = Connection::open(&pair.left, &pair.right, Family::V4)?;
            let mut facts = Facts::new();
            if stall {
                netdiag.freeze()?;
                exchange([(&connection, flood())])?;
                netdiag.signal(Signal::CONT)?;
            } else {
                exchange([(&connection, Exchange { sends: 10, bytes: 1, echo: true })])?;
            }
            let outcome = netdiag.stop()?;
            let total = outcome.total()?;
            facts.at_rest(total);
            if !stall && total.accounting.values().any(|account| account.missed > 0) {
                facts.finish();
                return Ok(false);
            }
            facts.equal("complete", total.complete, !stall);
            facts.equal(
                format_args!("exit status; {:?}", outcome.stderr),
                outcome.code(),
                Some(code),
            );
            facts.finish();
            Ok(true)
        })?;
    }
    Ok(())
}
