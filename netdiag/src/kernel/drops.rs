//! What the running kernel says of drops: its reasons, and which of what it frees is no drop.

use std::collections::BTreeMap;

use netdiag_common::{
    globals::{NO_LOSSES, NoLoss, Settings, no_loss},
    signal::Signal,
};

use super::hooks::Kernel;
use crate::{
    coverage::{SignalStatus, Status},
    labels::Labels,
    signal::{conntrack::NETFILTER_HOOKS, drop, reset},
};

/// Names of the kernel's reasons, to drop and to reset.
pub(super) fn labels(kernel: &Kernel) -> Labels {
    let mut reasons = BTreeMap::new();
    for &(name, prefix) in drop::REASONS {
        for (reason, value) in kernel.btf.enumerators(name) {
            if let Ok(value) = u32::try_from(value) {
                let reason = reason.strip_prefix(prefix).unwrap_or(reason);
                // The first of two names of one number is the reason, a later one a bound.
                reasons.entry(value).or_insert_with(|| reason.to_owned());
            }
        }
    }
    let (name, prefix) = reset::REASONS;
    let mut resets = BTreeMap::new();
    for (reason, value) in kernel.btf.enumerators(name) {
        if let Ok(value) = u32::try_from(value) {
            let reason = reason.strip_prefix(prefix).unwrap_or(reason);
            resets.entry(value).or_insert_with(|| reason.to_owned());
        }
    }
    Labels { reasons, resets, ..Labels::default() }
}

/// Arguments of the tracepoint from which on it tells the reason (5.17).
const WITH_REASON: usize = 3;

fn arguments(kernel: &Kernel) -> usize {
    kernel.btf.tracepoint("kfree_skb").map_or(0, |arguments| arguments.len())
}

/// Tells the programs what is no drop on this kernel.
pub(super) fn configure(kernel: &Kernel, settings: &mut Settings) {
    settings.drop_arguments = arguments(kernel) as u32;
    if kernel.btf.tracepoint("qdisc_drop").is_some() {
        settings.qdisc_drop = number(kernel, "QDISC_DROP").unwrap_or(0);
    }
    if let Some(reason) = number(kernel, "NETFILTER_DROP")
        && let Some((from, to)) =
            kernel.symbols.as_ref().ok().and_then(|symbols| symbols.range(NETFILTER_HOOKS))
    {
        (settings.netfilter_drop, settings.hooks_from, settings.hooks_to) = (reason, from, to);
    }
    let entries = drop::NO_LOSSES.iter().filter_map(|&(place, reason)| {
        let (from, to) = match place {
            None => (0, 0),
            Some(place) => kernel.symbols.as_ref().ok()?.range(place)?,
        };
        let (reason, when) = match reason {
            None => (0, no_loss::ANY),
            Some(reason) => match number(kernel, reason) {
                Some(reason) => (reason, no_loss::REASON),
                None if place.is_some() => (0, no_loss::CLOSING),
                None => return None,
            },
        };
        Some(NoLoss { from, to, reason, when })
    });
    for (to, entry) in settings.no_losses.iter_mut().zip(entries) {
        *to = entry;
        settings.no_losses_len += 1;
    }
}

const _: () = assert!(drop::NO_LOSSES.len() <= NO_LOSSES);

/// Number of a reason; none on kernels that give none.
fn number(kernel: &Kernel, reason: &str) -> Option<u32> {
    let prefixed = format!("SKB_DROP_REASON_{reason}");
    let value = |name: &str| kernel.btf.enum_value("skb_drop_reason", name);
    u32::try_from(value(&prefixed).or_else(|| value(reason))?).ok()
}

/// Says what cannot be told without the addresses of functions.
pub(super) fn amend(kernel: &Kernel, statuses: &mut [SignalStatus]) {
    let places = drop::NO_LOSSES.iter().filter_map(|(place, _)| *place);
    let known = kernel
        .symbols
        .as_ref()
        .is_ok_and(|symbols| places.into_iter().any(|place| symbols.range(place).is_some()));
    let status = &mut statuses[Signal::Drop as usize];
    if status.status == Status::Off {
        return;
    }
    if arguments(kernel) < WITH_REASON {
        status.status = Status::Degraded;
        status.missing.extend(
            [
                "reasons: this kernel has none, so drops are told by their place in its code",
                "segments that TCP drops on receipt (socket_drops counts them per socket)",
            ]
            .map(str::to_owned),
        );
    }
    if !known {
        status.status = Status::Degraded;
        status.missing.push(
            "what a closing socket throws away counts as dropped, and places have no names: \
             /proc/kallsyms shows no addresses (CAP_SYSLOG, kernel.kptr_restrict)"
                .to_owned(),
        );
    }
}
