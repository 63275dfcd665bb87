//! Single events as they leave the process: `netdiag.event/1`.

use std::{collections::BTreeMap, time::SystemTime};

use netdiag_common::flow::FlowKey;
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    Account, CountValue, Endpoint, Listener, Own, Owner, Role, SignalStatus, Stream, Tuple,
    build::{conntrack, endpoints, flow_name, owner, protocol_name, rfc3339, translated, values},
};
use crate::{
    event::{Field, Form, Kind, Shown, Told, Value},
    flow::Frozen,
    labels::Labels,
    signal,
};

mod count;

/// Value of `schema` in every object.
pub const SCHEMA: &str = "netdiag.event/1";

/// A listener threw connection requests away: told by the kernel's counters, not by a signal.
pub const LISTEN_OVERFLOW: Kind = Kind {
    name: "listen_overflow",
    help: "a listener threw connection requests away, mostly since its accept queue was full",
    fields: &[
        Field::new("listener", "where it listens", Form::Endpoint, Shown::No),
        Field::new("drops", "requests since it was asked last", Form::Number, Shown::Named),
        Field::new("accept_queue", "connections that wait", Form::Number, Shown::Named),
        Field::new("accept_queue_limit", "how many may wait", Form::Number, Shown::Named),
    ],
    has_stack: false,
    has_packet: false,
    counted: &[],
};

/// All kinds of events, in the order of the signals.
pub fn kinds() -> impl Iterator<Item = &'static Kind> {
    let of_signals = signal::DEFINITIONS.iter().flat_map(|definition| definition.kinds);
    of_signals.copied().chain([&LISTEN_OVERFLOW])
}

/// The flow of an event as it was known then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct EventFlow {
    /// Unique in a run, never reused in it; null where the flow has no row of its own.
    pub id: Option<String>,
    /// This end.
    pub local: Endpoint,
    /// The other end.
    pub peer: Endpoint,
    /// Inode number of the network namespace.
    pub netns: Option<u32>,
    /// `tcp` or `udp`.
    pub protocol: Option<String>,
    /// Client or server, null where the opening was not seen.
    pub role: Option<Role>,
    /// Whom it belongs to.
    pub owner: Owner,
    /// As in a flow of the snapshot.
    pub service: Option<Endpoint>,
    /// Likewise.
    pub backend: Option<Endpoint>,
}

/// What an event says in a field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Said {
    /// Not known: null.
    Unknown,
    /// A number.
    Number(u64),
    /// A name.
    Text(String),
    /// Yes or no.
    Flag(bool),
    /// A process.
    Owner(Owner),
    /// An address and a port.
    Endpoint(Endpoint),
    /// One direction of a conversation.
    Tuple(Tuple),
    /// Counts of the flow by name.
    Counts(BTreeMap<String, CountValue>),
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// Name of its kind.
    pub kind: &'static str,
    /// When it happened, RFC 3339 UTC.
    pub time: String,
    /// Whose it is.
    pub flow: EventFlow,
    /// By the names of the kind's fields.
    #[serde(flatten)]
    pub fields: BTreeMap<&'static str, Said>,
    /// Functions of the kernel from the innermost on, null where one has no name; absent where no stack
    /// was asked for, null where it could not be taken or named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stack: Option<Option<Vec<Option<String>>>>,
}

/// Events that were left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Suppressed {
    /// `netdiag.event/1`.
    pub schema: &'static str,
    /// `suppressed`.
    pub kind: &'static str,
    /// When this was said, RFC 3339 UTC.
    pub time: String,
    /// How many by kind since this was last said; of what stands for many, how many.
    pub suppressed: BTreeMap<&'static str, u64>,
}

impl Suppressed {
    /// Of these kinds so many.
    #[must_use]
    pub fn new(time: SystemTime, suppressed: BTreeMap<&'static str, u64>) -> Self {
        Self { schema: SCHEMA, kind: "suppressed", time: rfc3339(time), suppressed }
    }
}

/// The end of the stream.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct End {
    /// `netdiag.event/1`.
    pub schema: &'static str,
    /// `end`.
    pub kind: &'static str,
    /// When the programs were gone, RFC 3339 UTC.
    pub time: String,
    /// Events that were told, by kind; of what stands for many, how many.
    pub told: BTreeMap<&'static str, u64>,
    /// Events that were left out in the whole run, by kind; of what stands for many, how many.
    pub suppressed: BTreeMap<&'static str, u64>,
    /// Events whose stack could not be taken; null where none was asked for.
    pub stacks_not_taken: Option<u64>,
    /// How each signal was observed.
    pub signals: Vec<SignalStatus>,
    /// What netdiag itself took.
    pub own: Own,
    /// Fates of samples by signal.
    pub accounting: BTreeMap<String, Account>,
    /// What userspace received.
    pub stream: Stream,
    /// True when nothing was lost or missed.
    pub complete: bool,
}

/// An event with all that it takes to name what it says.
#[derive(Clone, Debug)]
pub struct Telling {
    /// When it happened.
    pub time: SystemTime,
    /// What is told.
    pub told: Told,
    /// Whose it is, with counts where they are told.
    pub flow: Frozen,
    /// Addresses in the kernel's code, from the innermost on; as in [`Event::stack`].
    pub stack: Option<Option<Vec<u64>>>,
}

impl Telling {
    /// Addresses in the kernel's code that have to be named.
    pub fn places(&self) -> impl Iterator<Item = u64> + '_ {
        let located = self.told.values.iter().filter_map(|value| match value {
            Value::Place(address) => Some(*address),
            _ => None,
        });
        located.chain(self.stack.iter().flatten().flatten().copied())
    }
}

/// What the kernel calls what it numbers.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    /// Reasons of drops.
    pub labels: &'a Labels,
    /// Functions and offsets by addresses in them, none where nobody knows.
    pub places: &'a BTreeMap<u64, Option<String>>,
    /// How each signal is observed: what counts are known.
    pub signals: &'a [SignalStatus],
}

impl Names<'_> {
    fn place(&self, address: u64) -> Option<String> {
        self.places.get(&address).cloned().flatten()
    }

    fn said(&self, value: &Value, flow: &Frozen) -> Said {
        match value {
            Value::Unknown => Said::Unknown,
            Value::Number(number) => Said::Number(*number),
            Value::Text(text) => Said::Text(text.clone().into_owned()),
            Value::Reason(reason) => Said::Text(self.labels.name(signal::Label::Reason(*reason))),
            Value::ResetReason(reason) => {
                Said::Text(self.labels.name(signal::Label::Reset(Some(*reason))))
            }
            Value::Place(address) => self.place(*address).map_or(Said::Unknown, Said::Text),
            Value::Protocol(number) => {
                conntrack::protocol(*number).map_or(Said::Unknown, Said::Text)
            }
            Value::Flag(flag) => Said::Flag(*flag),
            Value::Owner { pid, comm, place } => {
                Said::Owner(owner::of_process(*pid, comm, place.as_deref(), self.labels))
            }
            Value::Tuple(tuple) => Said::Tuple(conntrack::shown(tuple)),
            Value::Counts => Said::Counts(values(flow, self.signals, self.labels)),
        }
    }

    /// The event in its last form.
    #[must_use]
    pub fn event(&self, telling: &Telling) -> Event {
        let Telling { time, told, flow, stack } = telling;
        let fields = told.kind.fields.iter().zip(&told.values);
        Event {
            schema: SCHEMA,
            kind: told.kind.name,
            time: rfc3339(*time),
            flow: named(flow, self.labels),
            fields: fields.map(|(field, value)| (field.name, self.said(value, flow))).collect(),
            stack: stack.as_ref().map(|stack| self.stack(stack.as_deref()?)),
        }
    }

    /// The functions of a stack, without those of the tracing itself; none where no address has a name.
    fn stack(&self, addresses: &[u64]) -> Option<Vec<Option<String>>> {
        let frames: Vec<_> = addresses.iter().map(|address| self.place(*address)).collect();
        frames.iter().any(Option::is_some).then(|| {
            let own = frames.iter().take_while(|frame| is_of_tracing(frame.as_deref())).count();
            frames[own..].to_vec()
        })
    }
}

/// What lies between a hook and its program: the program, which may have no name, its trampoline, and
/// the tracepoint.
fn is_of_tracing(frame: Option<&str>) -> bool {
    const TRACING: &[&str] = &["bpf_", "__bpf_", "__traceiter_", "trace_call_bpf"];
    frame.is_none_or(|name| TRACING.iter().any(|start| name.starts_with(start)))
}

fn named(flow: &Frozen, labels: &Labels) -> EventFlow {
    let (local, peer) = endpoints(&flow.key);
    let (service, backend) = translated(flow);
    EventFlow {
        id: (flow.id != 0).then(|| flow_name(flow.id)),
        local,
        peer,
        netns: (flow.key.netns != 0).then_some(flow.key.netns),
        protocol: protocol_name(&flow.key),
        role: flow.role,
        owner: owner::of_flow(flow, labels),
        service,
        backend,
    }
}

/// A listener's event; its flow has no other end.
#[must_use]
pub fn of_listener(time: SystemTime, listener: &Listener) -> Event {
    let number = |number: u64| Said::Number(number);
    let values = [
        Said::Endpoint(listener.local.clone()),
        number(listener.drops),
        number(listener.accept_queue.into()),
        number(listener.accept_queue_limit.into()),
    ];
    let names = LISTEN_OVERFLOW.fields.iter().map(|field| field.name);
    Event {
        schema: SCHEMA,
        kind: LISTEN_OVERFLOW.name,
        time: rfc3339(time),
        flow: EventFlow {
            id: None,
            local: listener.local.clone(),
            peer: Endpoint { ip: None, port: None },
            netns: Some(listener.netns),
            protocol: Some("tcp".to_owned()),
            role: Some(Role::Server),
            owner: listener.owner.clone(),
            service: None,
            backend: None,
        },
        fields: names.zip(values).collect(),
        stack: None,
    }
}

/// A flow of which only its key is known.
#[must_use]
pub fn stranger(key: FlowKey) -> Frozen {
    Frozen { key, ..Frozen::default() }
}

#[cfg(test)]
mod tests;
