//! Another program keeps BPF busy on a processor: runs of netdiag's programs that the kernel leaves out for that are
//! counted.

use std::{
    net::{SocketAddr, UdpSocket},
    ops::Range,
    os::fd::{AsFd as _, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use netdiag::kernel::{
    missed::Runs,
    tracefs::{Tracefs, attach_tracepoint},
};
use netdiag_tests::{
    conntrack::{Rules, said, table, track},
    facts::Facts,
    machine::{self, Series},
    netdiag::Netdiag,
    network::{LEFT_V4, Pair, RIGHT_V4},
    processor, program, require,
    requirement::{Feature, alone},
    source, tool,
};
use rustix::thread::set_name;

/// Where all of it happens: a program is left out where another one runs.
const FIRST: usize = 0;

/// Instructions of a run of the other program: much more than what leads to it, so that nearly everything that comes
/// in between comes inside of it.
const INSTRUCTIONS: usize = 50_000;

/// The first kernel that counts what it leaves out of kprobes (`bpf_prog_inc_misses_counters` in `trace_call_bpf`).
const COUNTS: Series = Series(6, 7);

/// Of which source the kernel leaves runs out: its programs run in softirqs, and wait for no other one of any kind.
const SOURCE: &str = "conntrack=kprobe";

/// Conversations that begin when the other program is gone: whatever was left out before, these are seen.
const ALONE: u16 = 20;

/// Runs the other program until it is told to stop: each time that a thread gets a name.
fn keep_busy(other: &OwnedFd, over: &AtomicBool) -> Result<()> {
    let id = Tracefs::open()?.id("task", "task_rename")?;
    let _attached = attach_tracepoint(other.as_fd(), id.context("no tracepoint task_rename")?)?;
    while !over.load(Ordering::Relaxed) {
        set_name(c"busy")?;
    }
    Ok(())
}

/// Datagrams that begin a conversation each, to the end that tracks; the link keeps each for a while, so that it goes
/// on in a softirq. Each has a port of its own: of a few hundred that the kernel chooses, two are often the same.
fn begin(pair: &Pair, to: SocketAddr, which: Range<u16>) -> Result<()> {
    const PORTS: u16 = 20_000;
    pair.right.run(|| -> Result<()> {
        for at in which {
            UdpSocket::bind((RIGHT_V4, PORTS + at))?.send_to(b"x", to)?;
            thread::sleep(Duration::from_millis(3));
        }
        Ok(())
    })
}

/// So many, all of which are in the table at the end.
fn conversations(pair: &Pair, number: u16) -> Result<()> {
    let receiver = pair.left.run(|| UdpSocket::bind((LEFT_V4, 0)))?;
    begin(pair, receiver.local_addr()?, 0..number)?;
    let tracked = || table::count(&pair.left).is_ok_and(|entries| entries >= number.into());
    ensure!(machine::wait_until(tracked), "of {number} conversations not all are tracked");
    Ok(())
}

/// Some more behind them, all of which have arrived at the end, and so were in the table.
fn conversations_alone(pair: &Pair, which: Range<u16>) -> Result<()> {
    let receiver = pair.left.run(|| UdpSocket::bind((LEFT_V4, 0)))?;
    receiver.set_read_timeout(Some(machine::patience()))?;
    begin(pair, receiver.local_addr()?, which.clone())?;
    for at in which {
        receiver.recv(&mut [0]).with_context(|| format!("conversation {at}"))?;
    }
    Ok(())
}

#[test]
fn runs_that_are_left_out_for_another_program_are_missed() -> Result<()> {
    require!(Feature::Kprobes);
    require!(Feature::Netem);
    require!(Feature::Nft);
    require!(Feature::Conntrack);
    let _alone = alone();
    ensure!(source::loading("conntrack")?.iter().any(|it| it == SOURCE), "no {SOURCE}");
    let pair = Pair::new()?;
    track(&pair, Rules::Plain)?;
    tool::line(&format!("tc -n {} qdisc add dev wire root netem delay 2ms", pair.right.name()))?;
    let netdiag = Netdiag::live_by(SOURCE, &[])?;
    let number: u16 = machine::amount(1_000, 200);
    let (other, _counted) = (program::idle(INSTRUCTIONS)?, program::count_runs()?);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let busy = scope.spawn(|| processor::on(FIRST, || keep_busy(&other, &over)));
        let driven = processor::on(FIRST, || conversations(&pair, number));
        over.store(true, Ordering::Relaxed);
        driven.and(busy.join().expect("who keeps it busy panicked"))
    })?;
    let runs = Runs::of(other.as_fd())?.run_count;
    let all = number + ALONE;
    processor::on(FIRST, || conversations_alone(&pair, number..all))?;
    let (outcome, said) = said::stop(netdiag)?;
    let total = outcome.total()?;
    let account = total.accounting["conntrack"];
    let number = u64::from(all);
    let new = said::sum_in(&said, &[pair.left.inode()], "new")?.context("new entries")?;
    let mut facts = Facts::new();
    facts.note(format_args!("{account:?}; {:?}", outcome.stderr));
    facts.holds(format_args!("the other program ran {runs:?} times"), runs > Some(number));
    facts.holds(format_args!("{new} new of {number}"), new > 0 && new <= number);
    if machine::series() >= COUNTS {
        facts.holds(format_args!("{new} new or {} missed", account.missed), {
            new + account.missed >= number
        });
        facts.holds("some were left out", account.missed > 0);
        facts.equal("complete", total.complete, false);
    }
    outcome.snapshots.iter().for_each(|snapshot| facts.consistent(snapshot));
    facts.at_rest(total);
    facts.equal("exit status", outcome.code(), Some(0));
    facts.finish();
    Ok(())
}
