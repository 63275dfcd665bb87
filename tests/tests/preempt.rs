//! More busy clients than processors: on a preemptible kernel a task may be preempted inside a
//! program, and the kernel skips the program for the next task on that processor. Every call is
//! measured, or it is among the missed, to the last one.

use anyhow::Result;
use netdiag_tests::{
    facts::Facts,
    machine,
    namespace::Namespace,
    netdiag::Netdiag,
    outcome::{count, flow_of},
    requirement::alone,
    source,
    traffic::{
        Connection, Family,
        request::{Exchange, exchange},
    },
};

const CLIENTS: usize = 6;

#[test]
fn busy_clients_are_seen_or_counted_as_missed() -> Result<()> {
    let _alone = alone();
    for forced in source::loading("send")? {
        let namespace = Namespace::new("busy")?;
        let netdiag = Netdiag::live_by(&forced, &[])?;
        let connections = (0..CLIENTS)
            .map(|_| Connection::open(&namespace, &namespace, Family::V4))
            .collect::<Result<Vec<_>>>()?;
        let busy = Exchange { sends: machine::amount(20_000, 5_000), bytes: 64, echo: true };
        exchange(connections.iter().map(|connection| (connection, busy)))?;
        let mut ends = Vec::new();
        for connection in &connections {
            ends.extend([connection.client_end()?, connection.server_end()?]);
        }
        let outcome = netdiag.stop()?;
        let total = outcome.total()?;
        let mut facts = Facts::new();
        let calls = (CLIENTS * 2 * busy.sends) as u64;
        let mut measured = 0;
        for end in &ends {
            let sends = count(flow_of(total, end)?, "sends").unwrap_or_default();
            facts.note(format_args!("{forced}: {end:?}: {sends}"));
            facts.holds("never more than were made", sends <= busy.sends as u64);
            measured += sends;
        }
        let account = total.accounting["send"];
        facts.note(format_args!("{forced}: {measured} of {calls} calls measured; {account:?}"));
        if account.missed == 0 {
            facts.equal("calls measured, nothing missed", measured, calls);
        } else {
            facts.equal("complete although calls were missed", total.complete, false);
            facts.equal("calls measured or missed", measured + account.missed, calls);
            facts.equal("calls half seen", account.unmatched, 0);
        }
        facts.at_rest(total);
        facts.finish();
    }
    Ok(())
}
