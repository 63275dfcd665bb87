//! What is traced in a measurement: the name by which benches/ knows its cost, what makes its events, and netdiag's
//! arguments for it.

use crate::version;

/// Sources of the signal `send`, each with the first series that has what it hooks (tests/src/requirement.rs).
const SOURCES: [(&str, (u32, u32)); 3] =
    [("fexit", (5, 10)), ("kprobe", (6, 3)), ("tracepoints", (6, 16))];
/// The other signals, and all of them.
const SIGNALS: [&str; 9] =
    ["socket", "retransmit", "drop", "conntrack", "rtt", "turn", "reset", "dns", "all"];
/// Signals whose events a send does not make: each has a load of its name (tests/src/load).
const RARE: [&str; 5] = ["retransmit", "drop", "conntrack", "reset", "socket"];
/// The load of all others.
const SEND: &str = "send";
/// What is traced beside a source of `send`: what tells whether a flow's data gets through at all. A send that loses
/// nothing is no event of the second.
const SENDS: &str = "send,retransmit";

pub(super) struct Traced {
    /// A source of the signal `send`, other signals, or `all`.
    pub(super) name: String,
    /// What is done while netdiag watches.
    pub(super) load: &'static str,
    pub(super) arguments: Vec<String>,
    /// Whether it is sends, of which other tracers know what they take.
    pub(super) is_sends: bool,
}

impl Traced {
    /// Sends by each source that a kernel has, and each other signal.
    pub(super) fn every(series: &str) -> Vec<Self> {
        let series = version::major_minor(series);
        let sources = SOURCES.iter().filter(|(_, since)| series >= Some(*since));
        let sends = sources.map(|(source, _)| Self::sends(source, &[]));
        sends.chain(SIGNALS.map(|signals| Self::signals(signals, &[]))).collect()
    }

    /// Sends by a source, with more arguments.
    pub(super) fn sends(source: &str, more: &[String]) -> Self {
        let mut arguments = vec!["--source".to_owned(), format!("send={source}")];
        if !more.iter().any(|argument| argument.starts_with("--signals")) {
            // Other signals see the load's segments, too: that is their cost, not a send's.
            arguments.extend(["--signals", SENDS].map(str::to_owned));
        }
        arguments.extend_from_slice(more);
        Self { name: source.to_owned(), load: SEND, arguments, is_sends: true }
    }

    /// Signals, with more arguments: what one costs the event that it tells of, others the send.
    pub(super) fn signals(signals: &str, more: &[String]) -> Self {
        let load = RARE.into_iter().find(|rare| *rare == signals).unwrap_or(SEND);
        let mut arguments = Vec::new();
        if signals != "all" {
            arguments.extend(["--signals", signals].map(str::to_owned));
        }
        arguments.extend_from_slice(more);
        Self { name: signals.to_owned(), load, arguments, is_sends: false }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs};

    use super::*;
    use crate::workspace;

    #[test]
    fn every_signal_is_measured_by_each_source_that_a_kernel_has() {
        let names = |series: &str| -> Vec<String> {
            Traced::every(series).into_iter().map(|traced| traced.name).collect()
        };
        assert_eq!(names("5.10")[..2], ["fexit", "socket"]);
        assert_eq!(names("6.12")[..3], ["fexit", "kprobe", "socket"]);
        assert_eq!(names("7.2")[..4], ["fexit", "kprobe", "tracepoints", "socket"]);
        let signals = fs::read_dir(workspace::root().join("netdiag-common/src/signal")).unwrap();
        let mut expected: BTreeSet<String> = signals
            .map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        expected.remove(SEND);
        expected.insert("all".to_owned());
        let all: BTreeSet<_> = SIGNALS.into_iter().map(str::to_owned).collect();
        assert_eq!(all, expected);
    }

    #[test]
    fn rare_signals_have_loads_and_others_are_measured_by_sends() {
        let more = ["--port".to_owned(), "80".to_owned()];
        let sends = Traced::sends("fexit", &more);
        let expected = "--source send=fexit --signals send,retransmit --port 80";
        assert_eq!(sends.arguments.join(" "), expected);
        assert_eq!((sends.load, sends.is_sends), ("send", true));
        let all = ["--signals=rtt,turn".to_owned()];
        assert_eq!(Traced::sends("kprobe", &all).arguments[2], "--signals=rtt,turn");
        for (signals, load, arguments) in [
            ("rtt", "send", "--signals rtt"),
            ("drop", "drop", "--signals drop"),
            ("drop,reset", "send", "--signals drop,reset"),
            ("all", "send", ""),
        ] {
            let traced = Traced::signals(signals, &[]);
            assert_eq!((traced.load, traced.arguments.join(" ").as_str()), (load, arguments));
            assert_eq!((traced.name.as_str(), traced.is_sends), (signals, false));
        }
    }
}
