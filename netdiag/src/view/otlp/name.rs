//! What metrics and labels of Prometheus are called by OpenTelemetry: pure rules on their names, so that a new one has
//! its own without more.
//!
//! A name has dots behind what it stands in, and neither what kind of number it is nor a unit that OTLP says beside it.
//! From these a collector's exporter for Prometheus makes the very name that `/metrics` has.

use std::{net::SocketAddr, sync::Arc};

use super::message::{AnyValue, KeyValue};
use crate::view::metrics::{Definition, Kind, Unit};

/// Metrics that the semantic conventions have, by the names that these give them (registry of process metrics).
const CONVENTIONAL: [(&str, &str); 2] =
    [("process_cpu_seconds_total", "process.cpu.time"), (RESIDENT, "process.memory.usage")];
const RESIDENT: &str = "process_resident_memory_bytes";

/// What names stand in, the longest first.
const WITHIN: [(&str, &str); 3] =
    [("netdiag_node_", "netdiag.node."), ("netdiag_", "netdiag."), ("process_", "process.")];

/// Labels that the semantic conventions have an attribute for; others are netdiag's own.
const ATTRIBUTES: [(&str, &str); 7] = [
    ("namespace", "k8s.namespace.name"),
    ("pod", "k8s.pod.name"),
    ("container", "k8s.container.name"),
    ("comm", "process.executable.name"),
    ("error", "error.type"),
    ("direction", "network.io.direction"),
    ("protocol", "network.transport"),
];

/// Name of a metric: `netdiag_rtt_seconds` is `netdiag.rtt`, `netdiag_node_tcp_total` is `netdiag.node.tcp`.
#[must_use]
pub fn name(definition: &Definition) -> String {
    let whole = definition.name.as_str();
    if let Some((_, name)) = CONVENTIONAL.iter().find(|(known, _)| *known == whole) {
        return (*name).to_owned();
    }
    let stem = match definition.kind {
        Kind::Counter => definition.family(),
        // What an info tells are its labels, which no kind says.
        Kind::Gauge | Kind::Histogram | Kind::Info => whole,
    };
    let unit = match definition.unit {
        Some(Unit::Seconds) => "_seconds",
        Some(Unit::Ratio) => "_ratio",
        // That is what is counted, too.
        Some(Unit::Bytes) | None => "",
    };
    let stem = stem.strip_suffix(unit).unwrap_or(stem);
    let dotted = |(prefix, dotted): &(&str, &str)| {
        stem.strip_prefix(prefix).map(|rest| format!("{dotted}{rest}"))
    };
    WITHIN.iter().find_map(dotted).unwrap_or_else(|| stem.to_owned())
}

/// Unit of a metric, by UCUM; what is counted stands in braces, empty where that is not said.
#[must_use]
pub fn unit(definition: &Definition) -> String {
    match definition.unit {
        Some(Unit::Seconds) => "s".to_owned(),
        Some(Unit::Bytes) => "By".to_owned(),
        Some(Unit::Ratio) => "1".to_owned(),
        None => counted(&definition.help).map(|one| format!("{{{one}}}")).unwrap_or_default(),
    }
}

/// One of what is counted, by the first word of the help, which says it: `segments sent` are counted by the `segment`.
fn counted(help: &str) -> Option<String> {
    // Each key of a group has its help behind its name.
    let help = match help.split_once(": ") {
        Some((key, rest)) if !key.contains(' ') => rest,
        _ => help,
    };
    let word = help.split(|c: char| !c.is_ascii_lowercase()).next()?;
    let one = match word.strip_suffix("ies") {
        Some(stem) => format!("{stem}y"),
        None => word.strip_suffix('s')?.to_owned(),
    };
    // Shorter ones are no names of things: `this`, `as`.
    (one.len() > 3).then_some(one)
}

/// Whether it is a gauge for Prometheus and an up-down-counter by the semantic conventions, since it adds up.
pub(super) fn adds_up(definition: &Definition) -> bool {
    definition.name == RESIDENT
}

/// Key of a label that is an attribute as it is.
fn key(label: &str) -> String {
    let known = ATTRIBUTES.iter().find(|(known, _)| *known == label);
    known.map_or_else(|| format!("netdiag.{label}"), |(_, key)| (*key).to_owned())
}

/// Attributes of a data point, by its labels and their values. An empty value is one that is not known, or that there
/// is none: it is no attribute.
pub(super) fn attributes(labels: &[&str], values: &[Arc<str>]) -> Vec<KeyValue> {
    let known = || {
        let all = labels.iter().copied().zip(values.iter().map(|value| &**value));
        all.filter(|(_, value)| !value.is_empty())
    };
    let is_of_pod = known().any(|(label, _)| label == "pod");
    let mut attributes = Vec::new();
    for (label, value) in known() {
        match label {
            "service" => attributes.extend(server(value)),
            // Where no pod gives it a name it has an id.
            "container" if !is_of_pod => attributes.push(text("container.id".to_owned(), value)),
            label => attributes.push(text(key(label), value)),
        }
    }
    attributes
}

/// Address and port of who is asked, as far as they are told.
fn server(service: &str) -> Vec<KeyValue> {
    let address = |address: &str| text("server.address".to_owned(), address);
    let port = |port: u16| KeyValue {
        key: "server.port".to_owned(),
        value: Some(AnyValue { int_value: Some(port.into()), ..AnyValue::default() }),
    };
    if let Ok(whole) = service.parse::<SocketAddr>() {
        return vec![address(&whole.ip().to_string()), port(whole.port())];
    }
    match service.strip_prefix(':').map(str::parse) {
        Some(Ok(alone)) => vec![port(alone)],
        _ => vec![address(service)],
    }
}

/// An attribute that is text.
pub(super) fn text(key: String, value: &str) -> KeyValue {
    let value = AnyValue { string_value: Some(value.to_owned()), ..AnyValue::default() };
    KeyValue { key, value: Some(value) }
}
