//! Listeners that dropped connection requests.

use std::cmp::Reverse;

use super::{INDENT, endpoint};
use crate::{
    format::{self, wrapped},
    snapshot::Listener,
    view::owner::process,
};

/// Those with most drops are shown.
const SHOWN: usize = 5;

pub(in crate::view) fn lines(listeners: &[Listener], columns: usize) -> Vec<String> {
    let mut all: Vec<&Listener> = listeners.iter().collect();
    all.sort_by_key(|listener| Reverse(listener.drops));
    let more = all.len().saturating_sub(SHOWN);
    let mut lines: Vec<_> = all.iter().take(SHOWN).flat_map(|one| line(one, columns)).collect();
    if more > 0 {
        lines.push(format!("{INDENT}and {more} more listeners (-o json has all)"));
    }
    lines
}

fn line(listener: &Listener, columns: usize) -> Vec<String> {
    let words = [
        format!("listener {}", endpoint(&listener.local)),
        process(&listener.owner),
        format!("requests dropped {}", format::count(listener.drops)),
        format!("accept queue {} of {}", listener.accept_queue, listener.accept_queue_limit),
    ];
    wrapped(&words, columns, INDENT)
}
