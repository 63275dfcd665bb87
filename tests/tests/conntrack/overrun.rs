//! More connections than the kernel can tell while nobody listens: that something is lost is said.

use std::net::UdpSocket;

use anyhow::Result;
use netdiag_tests::{
    conntrack::{said, table},
    facts::Facts,
    netdiag::Netdiag,
    network::{Pair, RIGHT_V4},
    require,
    requirement::{Feature, alone},
};
use rustix::process::Signal;

use crate::{CTNETLINK, listening};

/// More than find room in a socket.
const CROWD: u64 = 30_000;

/// Sends one datagram each from so many ports.
fn datagrams(pair: &Pair, number: u64) -> Result<()> {
    pair.left.run(|| {
        for port in 0..number {
            let socket = UdpSocket::bind(("0.0.0.0", 10_000 + port as u16))?;
            socket.send_to(b"x", (RIGHT_V4, 9))?;
        }
        Ok(())
    })
}

#[test]
fn what_the_kernel_could_not_tell_is_said() -> Result<()> {
    require!(Feature::Nft);
    require!(Feature::Conntrack);
    let _alone = alone();
    let pair = listening()?;
    let mut netdiag = Netdiag::live_by(CTNETLINK, &[])?;
    netdiag.freeze()?;
    datagrams(&pair, CROWD)?;
    netdiag.signal(Signal::CONT)?;
    netdiag.wait_lines(2)?;
    let removed = table::remove_all(&pair.left)?;
    let (outcome, said) = said::stop(netdiag)?;
    let total = outcome.total()?;
    let mut facts = Facts::new();
    let account = total.accounting["conntrack"];
    facts.note(format_args!("{account:?}, {} rows, {removed} removed", said.entries.len()));
    facts.equal("removed", removed, CROWD);
    let confirmed = said::sum(&said, "confirmed")?;
    facts.holds(
        format_args!("{confirmed:?} of {CROWD} entries are told of"),
        confirmed.is_some_and(|confirmed| confirmed > 0 && confirmed < CROWD),
    );
    facts.holds("that some are lost is said", account.missed > 0 && !total.complete);
    facts.at_rest(total);
    facts.finish();
    Ok(())
}
