//! Causes before symptoms, and of each the worse first.

use std::collections::BTreeSet;

use super::{WINDOW_S, links::Links};
use crate::{
    finding::{self, Finding, Scope, ScopeKind, Severity},
    watched::seconds,
};

/// Fills in what explains what, and puts the findings in the order in which to act on them.
pub(super) fn rank(mut findings: Vec<Finding>, links: &Links) -> Vec<Finding> {
    findings
        .sort_by(|one, other| one.rank(other).then_with(|| place(&one.id).cmp(&place(&other.id))));
    let causes: Vec<BTreeSet<usize>> =
        findings.iter().map(|one| causes(one, &findings, links)).collect();
    for (finding, causes) in std::iter::zip(0.., &causes) {
        let mut ids: Vec<String> = Vec::new();
        for &cause in causes {
            if !ids.contains(&findings[cause].id) {
                ids.push(findings[cause].id.clone());
            }
        }
        findings[finding].caused_by = ids;
    }
    let mut order = Vec::new();
    for finding in 0..findings.len() {
        visit(finding, &causes, &mut order, &mut BTreeSet::new());
    }
    let mut findings: Vec<_> = findings.into_iter().map(Some).collect();
    order.into_iter().filter_map(|at| findings[at].take()).collect()
}

/// Where a finding stands in the list of them: causes stand before what they cause.
fn place(id: &str) -> usize {
    finding::DEFINITIONS.iter().position(|definition| definition.id == id).unwrap_or(usize::MAX)
}

/// The findings that explain one. What is no more than an info explains nothing that is worse.
fn causes(one: &Finding, all: &[Finding], links: &Links) -> BTreeSet<usize> {
    let ids = finding::definition(&one.id).map_or(&[][..], |definition| definition.causes);
    let concerns = |other: &Finding| match &other.within[..] {
        [] => links.meet(&other.scope, &one.scope),
        owners => one.is_of(owners),
    };
    let explains = |other: &Finding| {
        ids.contains(&other.id.as_str())
            && other.id != one.id
            && concerns(other)
            && (other.severity > Severity::Info || one.severity == Severity::Info)
            && !is_at_another_time(other, one)
            && !is_too_narrow(&other.scope, &one.scope)
            && !is_elsewhere(&other.scope, &one.scope)
            && !is_unsent(other, &one.scope)
            && !one.cleared.contains(&other.id.as_str())
    };
    all.iter().enumerate().filter(|(_, other)| explains(other)).map(|(at, _)| at).collect()
}

/// Whether more than a window was between the two: what was over explains nothing, nor what came later.
fn is_at_another_time(cause: &Finding, symptom: &Finding) -> bool {
    let between = |end: &str, start: &str| seconds(end, start).unwrap_or(0.0);
    between(&cause.end, &symptom.start) > WINDOW_S || between(&symptom.end, &cause.start) > WINDOW_S
}

/// What is wrong with one peer does not explain what is wrong with the whole node.
fn is_too_narrow(cause: &Scope, symptom: &Scope) -> bool {
    symptom.kind == ScopeKind::Node && cause.peer.is_some()
}

/// What a service of this node does at its port does not explain what a server elsewhere does at a port of the
/// same number: one port is this end's, the other one the peer's.
fn is_elsewhere(cause: &Scope, symptom: &Scope) -> bool {
    let is_service = cause.kind == ScopeKind::Process && cause.peer.is_none();
    is_service
        && cause.port.is_some()
        && symptom.kind == ScopeKind::Backend
        && !symptom.peer.is_some_and(|ip| ip.is_loopback())
}

/// What a namespace has no route for was not sent, so that it explains nothing that was: not what is asked of a server,
/// nor what another namespace sends through it. Only who answers on this node itself may lack a route to ask on.
fn is_unsent(cause: &Finding, symptom: &Scope) -> bool {
    let is_unsent = cause.id == "peer-unreachable" && cause.scope.kind == ScopeKind::Namespace;
    is_unsent && !symptom.peer.is_some_and(|ip| ip.is_loopback())
}

/// Puts the causes of a finding before it, whatever their severity.
fn visit(
    at: usize,
    causes: &[BTreeSet<usize>],
    order: &mut Vec<usize>,
    under: &mut BTreeSet<usize>,
) {
    if order.contains(&at) || !under.insert(at) {
        return;
    }
    for &cause in &causes[at] {
        visit(cause, causes, order, under);
    }
    order.push(at);
}
