//! A server of names leaves queries without an answer.

use netdiag_common::signal::Signal;

use super::{Definition, Finding, Limits, Scope, Severity, Threshold, Unit, advice};
use crate::{
    format,
    watched::{Group, Peer, Watched},
};

const UNANSWERED: Threshold = Threshold {
    name: "unanswered",
    value: 0.02,
    unit: Unit::Ratio,
    help: "queries without an answer for 5 s, of all",
    source: "each costs its asker 5 s; one in fifty is what users notice",
};
const NOTICED: Threshold = Threshold {
    name: "noticed",
    value: 0.005,
    unit: Unit::Ratio,
    help: "the same, for an info",
    source: "datagrams are lost now and then",
};
const CRITICAL: Threshold = Threshold {
    name: "critical",
    value: 0.5,
    unit: Unit::Ratio,
    help: "the same, from which on little works",
    source: "most lookups fail",
};
const LEAST: Threshold = Threshold {
    name: "least",
    value: 3.0,
    unit: Unit::Count,
    help: "queries without an answer in a window, fewer say nothing",
    source: "one accident loses one or two",
};

/// What the rest of netdiag knows of it. That an answer may have been lost on its way to netdiag is counted
/// apart (`dns.unknown`), so nothing that is lost could falsify it.
pub const DEFINITION: Definition = Definition {
    id: "dns-unanswered",
    help: "a server of names does not answer",
    thresholds: &[&UNANSWERED, &NOTICED, &CRITICAL, &LEAST],
    needs: &[Signal::Dns],
    parts: &[],
    node: &[],
    // An answer that was not seen would count as none.
    exact: &[Signal::Dns],
    packets: &[],
    causes: &[
        "peer-unreachable",
        "firewall-drop",
        "conntrack-full",
        "conntrack-insert-failed",
        "packet-loss",
        "interface-errors",
        "qdisc-drop",
        "softnet-drop",
    ],
    rule,
};

fn rule(watched: &Watched, limits: &Limits) -> Vec<Finding> {
    let servers = watched.by_resolver();
    let found: Vec<_> =
        servers.iter().filter_map(|(at, group)| of_server(watched, limits, *at, group)).collect();
    advice::without_stubs(found)
}

fn of_server(
    watched: &Watched,
    limits: &Limits,
    (netns, ip): Peer,
    group: &Group<'_>,
) -> Option<Finding> {
    let sums = &group.sums;
    let unanswered = sums.count("dns.unanswered")?;
    let answers = sums.at_least("dns_answers").saturating_sub(sums.at_least("dns.late"));
    // They were asked 5 s before that is known, maybe in the window before this one.
    let all = sums.at_least("dns.queries").max(unanswered + answers);
    let settled = (unanswered + answers).max(1);
    let ratio = unanswered as f64 / settled as f64;
    if (unanswered as f64) < limits.of(&LEAST) || ratio < limits.of(&NOTICED) {
        return None;
    }
    let (severity, threshold) = match ratio {
        ratio if ratio >= limits.of(&CRITICAL) => (Severity::Critical, &CRITICAL),
        ratio if ratio >= limits.of(&UNANSWERED) => (Severity::Warning, &UNANSWERED),
        _ => (Severity::Info, &NOTICED),
    };
    let title = if answers == 0 {
        format!("{ip} does not answer for names at all")
    } else {
        format!("{} of the queries to {ip} stay without an answer", format::percent(ratio))
    };
    let unknown = sums.at_least("dns.unknown");
    let finding = Finding::new(watched, severity, Scope::backend(netns, ip, 53), title)
        .confidence(if unknown > unanswered { 0.6 } else { 0.9 })
        .because(
            "Whoever asked waits 5 s, then asks again or another server. Programs that look up names hang for \
             that long, again and again.",
        )
        .beyond(watched, "unanswered for 5 s / settled", ratio, threshold, limits)
        .with(watched, "unanswered", unanswered as f64, Unit::Count)
        .with(watched, "queries", all as f64, Unit::Count)
        .with(watched, "sent again", sums.at_least("dns.retried") as f64, Unit::Count)
        .with(watched, "answered after 5 s", sums.at_least("dns.late") as f64, Unit::Count);
    let finding = if answers > 0 {
        finding.ruling_out(format!("a server that is down: {answers} queries were answered"))
    } else {
        finding
    };
    let finding = match unknown {
        0 => finding,
        _ => finding.not_seeing(format!("what became of {unknown} queries: samples were lost")),
    };
    Some(finding
        .not_seeing("whether the query or its answer is lost, or the server says nothing")
        .advise("ask it yourself from the same network namespace, also over TCP (dig +tcp): that tells a drop of datagrams from a server that is stuck")
        .advise("look for drops on the way: firewall rules, a full connection tracking table, two queries at once from one port (conntrack-insert-failed)")
        .advise("look at the server: limits of queries per client, its queue, its CPU")
        .confirm_by(advice::dig(watched, netns, ip))
        .confirm_by(format!("netdiag events --kind drop,dns --peer {ip}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{finding::tests::check, snapshot::Flow, watched::kit};

    fn flow(unanswered: u64, answers: u64) -> Flow {
        kit::asker("10.0.0.53")
            .count("dns.queries", unanswered + answers)
            .count("dns.unanswered", unanswered)
            .count("dns.retried", 0)
            .count("dns.late", 0)
            .count("dns.unknown", 0)
            .count("dns_answers.NOERROR", answers)
    }

    fn of(unanswered: u64, answers: u64) -> Watched {
        kit::watched(&[flow(unanswered, answers)])
    }

    #[test]
    fn thresholds() {
        check(&DEFINITION, &of(20, 980), Some(Severity::Warning));
        check(&DEFINITION, &of(19, 981), Some(Severity::Info));
        check(&DEFINITION, &of(5, 995), Some(Severity::Info));
        check(&DEFINITION, &of(4, 996), None);
        check(&DEFINITION, &of(50, 50), Some(Severity::Critical));
        check(&DEFINITION, &of(49, 51), Some(Severity::Warning));
        let once = |unanswered| {
            let mut watched = Watched::default();
            watched.take(&kit::snapshot(0, vec![flow(unanswered, 10)]));
            watched
        };
        check(&DEFINITION, &once(3), Some(Severity::Warning));
        check(&DEFINITION, &once(2), None);
    }

    #[test]
    fn failures_are_answers() {
        let flow = flow(0, 10).count("dns_answers.SERVFAIL", 500);
        check(&DEFINITION, &kit::watched(&[flow]), None);
    }

    #[test]
    fn wording() {
        insta::assert_snapshot!("some", crate::finding::tests::wording(&DEFINITION, &of(20, 80)));
        insta::assert_snapshot!("all", crate::finding::tests::wording(&DEFINITION, &of(20, 0)));
    }
}
