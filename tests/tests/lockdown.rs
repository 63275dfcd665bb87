//! Lockdown in mode confidentiality forbids kprobes and reading kernel memory by address, not
//! tracing: netdiag runs with what is left and says what is not.

use anyhow::Result;
use netdiag::snapshot::Status;
use netdiag_tests::{
    facts::Facts,
    netdiag::Netdiag,
    network::Pair,
    outcome::{count, flow_of},
    require,
    requirement::{Feature, alone},
    source,
    traffic::{
        Connection, FAMILIES,
        request::{Exchange, exchange},
    },
};

const ECHO: Exchange = Exchange { sends: 1000, bytes: 10, echo: true };

#[test]
fn runs_degraded_not_refused() -> Result<()> {
    require!(Feature::Lockdown);
    let _alone = alone();
    let mut facts = Facts::new();
    let doctor = source::doctor(&[])?;
    facts.note(format_args!("{doctor:#?}"));
    facts.equal("lockdown", doctor.lockdown.as_deref(), Some("confidentiality"));
    for signal in &doctor.signals {
        // Resets are joined by the packet they answer, and messages are read from packets: by address.
        let reads_packets = ["reset", "dns"].contains(&signal.signal.as_str());
        let is_off = signal.status == Status::Off;
        facts.equal(format_args!("{} is off", signal.signal), is_off, reads_packets);
        let why = signal.refused.iter().any(|refusal| refusal.reason.contains("bpf_probe_read"));
        facts.holds(format_args!("why {} is", signal.signal), !is_off || why);
    }
    let pair = Pair::new()?;
    let netdiag = Netdiag::live(&[])?;
    let connections = FAMILIES
        .map(|family| Connection::open(&pair.left, &pair.right, family))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    exchange(connections.iter().map(|connection| (connection, ECHO)))?;
    let mut ends = Vec::new();
    for connection in &connections {
        ends.extend([connection.client_end()?, connection.server_end()?]);
    }
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;
    for end in &ends {
        let sends = count(flow_of(total, end)?, "sends");
        facts.equal(format_args!("{end:?}: sends"), sends, Some(ECHO.sends as u64));
    }
    facts.equal("exit status", outcome.code(), Some(0));
    facts.at_rest(total);
    facts.finish();
    Ok(())
}
