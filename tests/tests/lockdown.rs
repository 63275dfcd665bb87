//! Lockdown: in mode integrity it takes nothing that netdiag needs; in mode confidentiality it forbids kprobes and reading
//! kernel memory by address, not tracing: netdiag runs with what is left and says what is not.

use anyhow::{Context as _, Result};
use netdiag::{
    signal::DEFINITIONS,
    snapshot::{Doctor, Status},
};
use netdiag_tests::{
    facts::Facts,
    machine,
    netdiag::Netdiag,
    network::Pair,
    outcome::{count, flow_of},
    require,
    requirement::{Expectation, Feature, alone, source_on},
    source,
    traffic::{
        Connection, FAMILIES,
        request::{Exchange, exchange},
    },
};

const ECHO: Exchange = Exchange { sends: 1000, bytes: 10, echo: true };

/// What doctor says in this mode, and that each send is seen.
fn runs(mode: &'static str, judge: impl FnOnce(&mut Facts, &Doctor) -> Result<()>) -> Result<()> {
    let _alone = alone();
    let mut facts = Facts::new();
    let doctor = source::doctor(&[])?;
    facts.note(format_args!("{doctor:#?}"));
    facts.equal("lockdown", doctor.lockdown.as_deref(), Some(mode));
    judge(&mut facts, &doctor)?;
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

#[test]
fn confidentiality_leaves_less_and_that_is_said() -> Result<()> {
    const MODE: &str = "confidentiality";
    require!(Feature::Lockdown(MODE));
    runs(MODE, |facts, doctor| {
        for signal in &doctor.signals {
            // Resets are joined by the packet they answer, and messages are read from packets: by address.
            let reads_packets = ["reset", "dns"].contains(&signal.signal.as_str());
            let is_off = signal.status == Status::Off;
            facts.equal(format_args!("{} is off", signal.signal), is_off, reads_packets);
            let why =
                signal.refused.iter().any(|refusal| refusal.reason.contains("bpf_probe_read"));
            facts.holds(format_args!("why {} is", signal.signal), !is_off || why);
        }
        Ok(())
    })
}

/// Every signal is there, and no source is refused that this kernel has without.
#[test]
fn integrity_takes_nothing() -> Result<()> {
    const MODE: &str = "integrity";
    require!(Feature::Lockdown(MODE));
    runs(MODE, |facts, doctor| {
        for definition in DEFINITIONS {
            let name = definition.signal.name();
            let mut all = doctor.signals.iter();
            let signal = all.find(|signal| signal.signal == name).context(name)?;
            facts.holds(format_args!("{name} is not off"), signal.status != Status::Off);
            for refusal in &signal.refused {
                let mut sources = definition.sources.iter();
                let source = sources.find(|it| it.name == refusal.source).context(name)?;
                let known = source_on(machine::series(), false, source);
                facts.holds(format_args!("{name}: {refusal:?}"), known != Expectation::Must);
            }
        }
        Ok(())
    })
}
