//! A server of names answers that it cannot or will not.

use netdiag_common::signal::Signal;

use super::{Definition, Finding, Limits, Scope, Severity, Threshold, Unit, advice};
use crate::{
    format,
    watched::{Group, Peer, Watched},
};

const FAILED: Threshold = Threshold {
    name: "failed",
    value: 0.05,
    unit: Unit::Ratio,
    help: "part of its answers that are failures",
    source: "some domains are always broken; one in twenty is more than those",
};
const NOTICED: Threshold = Threshold {
    name: "noticed",
    value: 0.01,
    unit: Unit::Ratio,
    help: "the same, for an info",
    source: "one in a hundred is worth a look",
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
    value: 5.0,
    unit: Unit::Count,
    help: "failures in a window, fewer say nothing",
    source: "one broken name is asked for a few times",
};

/// Result codes that are answers: also that there is no such name, which search lists are told all day.
const ANSWERS: [&str; 2] = ["NOERROR", "NXDOMAIN"];

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    id: "dns-failing",
    help: "a server of names answers with failures (SERVFAIL, REFUSED)",
    thresholds: &[&FAILED, &NOTICED, &CRITICAL, &LEAST],
    needs: &[Signal::Dns],
    parts: &[],
    node: &[],
    exact: &[],
    packets: &[],
    causes: &[],
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
    let all = sums.count("dns_answers")?;
    let codes = sums.keys("dns_answers");
    let failures: Vec<_> = codes.iter().filter(|(code, _)| !ANSWERS.contains(code)).collect();
    let failed: u64 = failures.iter().map(|(_, n)| n).sum();
    let ratio = failed as f64 / all.max(1) as f64;
    if (failed as f64) < limits.of(&LEAST) || ratio < limits.of(&NOTICED) {
        return None;
    }
    let (severity, threshold) = match ratio {
        ratio if ratio >= limits.of(&CRITICAL) => (Severity::Critical, &CRITICAL),
        ratio if ratio >= limits.of(&FAILED) => (Severity::Warning, &FAILED),
        _ => (Severity::Info, &NOTICED),
    };
    let most = failures.first()?.0;
    let title =
        format!("{} of the answers of {ip} are failures, most {most}", format::percent(ratio));
    let mut finding = Finding::new(watched, severity, Scope::backend(netns, ip, 53), title)
        .because(why(most))
        .beyond(watched, "failures / answers", ratio, threshold, limits)
        .with(watched, "answers", all as f64, Unit::Count);
    for (code, n) in &failures {
        finding = finding.with(watched, &format!("answers {code}"), *n as f64, Unit::Count);
    }
    let unknown = sums.at_least("dns_answers.NXDOMAIN");
    Some(finding
        .ruling_out(format!("names that do not exist: {unknown} answers said so, they do not count"))
        .ruling_out("the network: the answers came")
        .not_seeing("which names fail")
        .advise(advise(most))
        .advise("see whether all names fail or those of one domain: then that domain's servers are the cause")
        .advise("name a second server in resolv.conf that does not depend on the same ones")
        .confirm_by(advice::dig(watched, netns, ip))
        .confirm_by(format!("netdiag events --kind dns --peer {ip}")))
}

fn why(code: &str) -> String {
    let says = match code {
        "SERVFAIL" => {
            "The server tried and failed: a server that it asks does not answer, or what that says does not \
             validate (DNSSEC)."
        }
        "REFUSED" => {
            "The server does not answer this client, or not for these names: a rule of its own."
        }
        _ => "The server does not do what it is asked for.",
    };
    format!(
        "{says} Programs see a name that cannot be resolved, often after they tried every server."
    )
}

const fn advise(code: &str) -> &'static str {
    match code.as_bytes() {
        b"REFUSED" => {
            "look at the server's access lists: does it serve this node's addresses, and recurse for them?"
        }
        _ => "look at the server's log and forwarders: which of the servers that it asks fails?",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{finding::tests::check, snapshot::Flow, watched::kit};

    /// Answers an interval, in ten of them.
    fn flow(ip: &str, code: &str, failed: u64, good: u64) -> Flow {
        kit::asker(ip)
            .count("dns.queries", failed + good)
            .count("dns_answers.NOERROR", good)
            .count(&format!("dns_answers.{code}"), failed)
    }

    fn of(code: &str, failed: u64, good: u64) -> Watched {
        kit::watched(&[flow("10.0.0.53", code, failed, good)])
    }

    #[test]
    fn thresholds() {
        check(&DEFINITION, &of("SERVFAIL", 50, 950), Some(Severity::Warning));
        check(&DEFINITION, &of("SERVFAIL", 49, 951), Some(Severity::Info));
        check(&DEFINITION, &of("SERVFAIL", 10, 990), Some(Severity::Info));
        check(&DEFINITION, &of("SERVFAIL", 9, 991), None);
        check(&DEFINITION, &of("REFUSED", 50, 50), Some(Severity::Critical));
        check(&DEFINITION, &of("REFUSED", 49, 51), Some(Severity::Warning));
        let once = |failed| {
            let mut watched = Watched::default();
            watched.take(&kit::snapshot(0, vec![flow("10.0.0.53", "SERVFAIL", failed, 1)]));
            watched
        };
        check(&DEFINITION, &once(5), Some(Severity::Critical));
        check(&DEFINITION, &once(4), None);
    }

    #[test]
    fn names_that_do_not_exist_are_no_failure() {
        check(&DEFINITION, &of("NXDOMAIN", 900, 100), None);
    }

    #[test]
    fn wording() {
        insta::assert_snapshot!(crate::finding::tests::wording(
            &DEFINITION,
            &of("SERVFAIL", 20, 80)
        ));
    }
}
