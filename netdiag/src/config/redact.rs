//! What cannot be asked for together with `--redact`.

use crate::{
    cli::{self, Output},
    exit::Error,
    flow::Grouping,
};

/// The full screen has findings, tables and JSON have none. Whether there is a terminal for one decides nothing here:
/// a command line means the same with and without.
pub(super) fn check_live(flags: &cli::Live) -> Result<(), Error> {
    check_metrics(flags.kernel.redact, &flags.watch)?;
    if flags.plain || flags.watch.output != Output::Text {
        return Ok(());
    }
    check_filters(
        flags.kernel.redact,
        &flags.watch.filters,
        "--plain, by which no findings are shown",
    )
}

/// What groups of metrics are called by is made of flows as they are.
fn check_metrics(redacts: bool, flags: &cli::Watch) -> Result<(), Error> {
    if redacts && (flags.listen.is_some() || flags.otlp.is_some()) {
        return Err(Error::usage(
            "--redact: metrics have addresses and names in their labels; leave --listen and --otlp out",
        ));
    }
    Ok(())
}

/// It tells of the kernel alone.
pub(super) fn check_doctor(flags: &cli::Doctor) -> Result<(), Error> {
    if flags.kernel.redact {
        return Err(Error::usage("--redact: doctor names nobody; leave it out"));
    }
    Ok(())
}

/// Headers of packets have addresses, and their comments the names of processes.
pub(super) fn check_events(flags: &cli::Events) -> Result<(), Error> {
    if flags.kernel.redact && flags.pcap.is_some() {
        return Err(Error::usage(
            "--redact: packets have addresses, and their comments names, which --pcap is for; leave one of the two out",
        ));
    }
    Ok(())
}

/// The tags of a histogram log are the names of its rows.
pub(super) fn check_record(flags: &cli::Record) -> Result<(), Error> {
    check_metrics(flags.kernel.redact, &flags.watch)?;
    if flags.kernel.redact && flags.watch.by != Grouping::Flow {
        return Err(Error::usage(
            "--redact: the rows of --by have names, which stand in the tags of the histogram log; leave --by out",
        ));
    }
    Ok(())
}

/// Which findings were asked for is decided by their scopes, which have pseudonyms.
pub(super) fn check_diagnose(flags: &cli::Diagnose) -> Result<(), Error> {
    check_filters(
        flags.kernel.redact,
        &flags.filters,
        "`netdiag record --redact` with that filter and then `netdiag diagnose --from`",
    )
}

/// `instead` is how such a filter can be had.
fn check_filters(redacts: bool, filters: &cli::Filters, instead: &str) -> Result<(), Error> {
    let cli::Filters { peer, comm, cgroup, container, pod, namespace, .. } = filters;
    let named = [comm, cgroup, container, pod, namespace];
    if redacts && !(peer.is_empty() && named.into_iter().all(Vec::is_empty)) {
        return Err(Error::usage(format!(
            "--redact: findings have pseudonyms, which filters by address or name cannot be held against; use --pid, \
             --port or --netns, or {instead}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{cli::Asked, config::Config};

    fn config(line: &str) -> Result<Config, Error> {
        let asked = cli::parse(line.split(' ').map(Into::into)).expect(line);
        let Asked::Run(cli) = asked else { panic!("{line}") };
        Config::new(&cli, Path::new("/node"))
    }

    #[test]
    fn what_would_tell_names_is_one_line() {
        for line in [
            "netdiag live --redact --pod web",
            "netdiag live --redact --listen :9464",
            "netdiag record --out DIR --redact --by peer",
            "netdiag record --out DIR --redact --otlp http://localhost",
            "netdiag diagnose --redact --peer 10.0.0.0/8",
            "netdiag events --redact --pcap FILE",
            "netdiag doctor --redact",
        ] {
            let error = config(line).expect_err(line).to_string();
            assert!(error.starts_with("--redact: "), "{line}: {error}");
            assert!(!error.contains("  ") && !error.contains('\n'), "{line}: {error}");
        }
    }

    #[test]
    fn what_tells_none_goes_with_it() {
        for line in [
            "netdiag live --redact --by process --port 443",
            "netdiag live --redact --plain --pod web",
            "netdiag live --redact -o json --peer 10.0.0.0/8",
            "netdiag record --out DIR --redact --comm nginx",
            "netdiag events --redact --peer 10.0.0.0/8",
            "netdiag diagnose --redact --netns 4026531840",
            "netdiag diagnose --from DIR --redact --no-sandbox",
        ] {
            assert!(config(line).expect(line).kernel.redact, "{line}");
        }
    }
}
