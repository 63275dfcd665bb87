//! netdiag takes everything with it when it dies, and does not disturb others on the same hooks.

use anyhow::Result;
use netdiag::snapshot::Snapshot;
use netdiag_tests::{
    bpf::Loaded,
    bpftrace::Bpftrace,
    facts::Facts,
    machine,
    namespace::Namespace,
    netdiag::Netdiag,
    outcome::{count, flow_of, metric},
    require,
    requirement::{Feature, alone},
    source,
    traffic::{
        Connection, Family,
        request::{Exchange, exchange},
    },
};

use rustix::process::Signal;

const ECHO: Exchange = Exchange { sends: 2000, bytes: 10, echo: true };

#[test]
fn kill_leaves_nothing_loaded() -> Result<()> {
    require!(Feature::Bpftool);
    let _alone = alone();
    for forced in source::loading("send")? {
        for signal in [Signal::KILL, Signal::INT, Signal::TERM] {
            let before = Loaded::now()?;
            // Who is killed has all of its programs loaded.
            let netdiag = match signal {
                Signal::KILL => Netdiag::live(&["--source", &forced])?,
                _ => Netdiag::live_by(&forced, &[])?,
            };
            let during = Loaded::now()?.since(&before);
            netdiag.signal(signal)?;
            // A process that was killed says nothing; only its end matters here.
            let _ = netdiag.wait();
            // The kernel frees programs and maps after a grace period. Others load theirs at any time.
            let mut left = Ok(Loaded::default());
            machine::wait_until(|| {
                left = Loaded::now().map(|now| now.of(&during));
                left.as_ref().is_ok_and(Loaded::is_empty)
            });
            let left = left?;
            let mut facts = Facts::new();
            facts.note(format_args!("while it ran: {during:#?}"));
            for kind in ["prog", "map"] {
                facts.holds(format_args!("{forced}: a {kind} of netdiag is listed"), {
                    during.has(kind)
                });
            }
            facts.equal(format_args!("{forced}: left after {signal:?}"), left, Loaded::default());
            facts.finish();
        }
    }
    Ok(())
}

fn busy_connections(namespace: &Namespace) -> Result<Vec<Connection>> {
    (0..4).map(|_| Connection::open(namespace, namespace, Family::V4)).collect()
}

/// Sends, samples and bytes of both ends of each connection.
fn numbers(total: &Snapshot, connections: &[Connection]) -> Result<Vec<(u64, u64, u64)>> {
    let mut all = Vec::new();
    for connection in connections {
        for end in [connection.client_end()?, connection.server_end()?] {
            let flow = flow_of(total, &end)?;
            let of = |name| count(flow, name).unwrap_or_default();
            all.push((of("sends"), metric(flow, "send").count, of("send_bytes")));
        }
    }
    Ok(all)
}

fn expected(connections: &[Connection]) -> Vec<(u64, u64, u64)> {
    let (sends, bytes) = (ECHO.sends as u64, (ECHO.sends * ECHO.bytes) as u64);
    vec![(sends, sends, bytes); 2 * connections.len()]
}

/// That each call was measured, with its bytes; on a kernel that skips programs, or is among the missed.
fn measured(
    facts: &mut Facts,
    forced: &str,
    total: &Snapshot,
    connections: &[Connection],
) -> Result<()> {
    let (numbers, expected) = (numbers(total, connections)?, expected(connections));
    let account = total.accounting["send"];
    if account.missed == 0 {
        facts.equal(format_args!("{forced}: numbers"), numbers, expected);
        return Ok(());
    }
    facts.note(format_args!("{forced}: {account:?}, {numbers:?}"));
    for (sends, samples, bytes) in &numbers {
        facts.equal("samples of the calls measured", samples, sends);
        facts.equal("bytes of the calls measured", *bytes, sends * ECHO.bytes as u64);
        facts.holds("never more than were made", *sends <= ECHO.sends as u64);
    }
    let calls = |all: &[(u64, u64, u64)]| all.iter().map(|(sends, ..)| sends).sum::<u64>();
    let (found, made) = (calls(&numbers), calls(&expected));
    facts.equal(format_args!("{forced}: calls measured or missed"), found + account.missed, made);
    facts.equal("calls half seen", account.unmatched, 0);
    facts.equal("complete although calls were missed", total.complete, false);
    Ok(())
}

#[test]
fn two_at_once_see_the_same() -> Result<()> {
    let _alone = alone();
    for forced in source::loading("send")? {
        let namespace = Namespace::new("shared")?;
        let both = [Netdiag::live_by(&forced, &[])?, Netdiag::live_by(&forced, &[])?];
        let connections = busy_connections(&namespace)?;
        exchange(connections.iter().map(|connection| (connection, ECHO)))?;
        let mut facts = Facts::new();
        for netdiag in both {
            let outcome = netdiag.stop()?;
            let total = outcome.total()?;
            measured(&mut facts, &forced, total, &connections)?;
            facts.at_rest(total);
        }
        facts.finish();
    }
    Ok(())
}

#[test]
fn another_tracer_on_the_same_hooks_changes_nothing() -> Result<()> {
    require!(Feature::Bpftrace);
    let _alone = alone();
    let kprobes = netdiag_tests::requirement::available(Feature::Kprobes);
    let probe = if kprobes { "kprobe:tcp_sendmsg" } else { "tracepoint:sock:sock_send_length" };
    for forced in source::loading("send")? {
        let namespace = Namespace::new("shared")?;
        let pid = std::process::id();
        let other = Bpftrace::start(&format!("{probe} /pid == {pid}/ {{ @ = count(); }}"))?;
        let netdiag = Netdiag::live_by(&forced, &[])?;
        let connections = busy_connections(&namespace)?;
        exchange(connections.iter().map(|connection| (connection, ECHO)))?;
        let outcome = netdiag.stop()?;
        let counted = other.counts()?.get("@").copied().unwrap_or_default();
        let total = outcome.total()?;
        let mut facts = Facts::new();
        facts.at_rest(total);
        measured(&mut facts, &forced, total, &connections)?;
        let sends = expected(&connections).iter().map(|(sends, ..)| sends).sum();
        facts.equal(format_args!("{forced}: what {probe} counted"), counted, sends);
        facts.finish();
    }
    Ok(())
}

/// Verifiers know more of a program that logs; it must pass all the same.
#[test]
fn the_programs_own_log_changes_no_source() -> Result<()> {
    let _alone = alone();
    let sources = |arguments: &[&str]| -> Result<Vec<_>> {
        let doctor = source::doctor(arguments)?;
        Ok(doctor.signals.into_iter().map(|status| (status.signal, status.source)).collect())
    };
    assert_eq!(sources(&["--log", "debug"])?, sources(&[])?);
    Ok(())
}
