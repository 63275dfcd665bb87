//! From folded events to lines for the writer: what is told, in which order, and what is left out.
//!
//! This runs on the thread that reads the rings. It waits for nobody: a line that finds no room in the
//! writer's queue is left out and counted.

use std::{
    sync::mpsc::{SyncSender, TrySendError},
    time::{Duration, SystemTime},
};

use netdiag_common::{
    flow::{FlowKey, mapped},
    globals::Filters,
};

use super::{
    limit::{ByKind, Limiter},
    writer::QUEUE,
};
use crate::{
    clock::monotonic_ns,
    config::{self, Tell},
    event::{Kind, Stack, Told, Value},
    flow::{
        Frozen,
        table::{FlowTable, Handle, Whose},
    },
    kernel::stacks::Stacks,
    signal::{Event, Subject},
    snapshot::{
        Listener,
        told::{LISTEN_OVERFLOW, Telling, stranger},
    },
};

/// What the writer gets.
pub(super) enum Line {
    Event(Box<Telling>),
    Listener(SystemTime, Box<Listener>),
    Suppressed(SystemTime, ByKind),
}

/// What there is to say at the end.
pub(super) struct Rest {
    pub(super) told: ByKind,
    /// Not said yet.
    pub(super) suppressed: ByKind,
    pub(super) suppressed_in_all: ByKind,
    /// Where stacks are asked for.
    pub(super) stacks_not_taken: Option<u64>,
}

/// Tells of events.
pub(super) struct Teller {
    kinds: Vec<&'static Kind>,
    filters: Filters,
    owners: config::Owners,
    limiter: Limiter,
    stacks: Option<Stacks>,
    stacks_not_taken: u64,
    told: ByKind,
    /// Of this reading.
    fresh: Vec<Fresh>,
    lines: SyncSender<Line>,
}

/// An event of this reading. Others of it may tell more of its flow.
struct Fresh {
    told: Told,
    handle: Option<Handle>,
    /// The flow as it was known when the event was folded.
    flow: Frozen,
}

impl Teller {
    /// Tells of what `tell` asks for and `filters` let pass; `stacks` where those are asked for.
    pub(super) fn new(
        tell: &Tell,
        filters: &Filters,
        owners: config::Owners,
        stacks: Option<Stacks>,
        lines: SyncSender<Line>,
    ) -> Self {
        Self {
            kinds: tell.kinds.clone(),
            filters: *filters,
            owners,
            limiter: Limiter::new(tell.limit, tell.kinds.len()),
            stacks,
            stacks_not_taken: 0,
            told: ByKind::new(),
            fresh: Vec::new(),
            lines,
        }
    }

    /// An event was folded.
    pub(super) fn note(&mut self, event: &Event, whose: Whose, table: &FlowTable, now_ns: u64) {
        let handle = match whose {
            Whose::LeftOut => return,
            Whose::Nobodys => None,
            Whose::Flows(handle) => Some(handle),
        };
        let past = table.past(event, handle);
        let Self { kinds, limiter, fresh, .. } = self;
        event.tell(&past, &mut |told| {
            if !kinds.contains(&told.kind) {
                return;
            }
            // No more than the writer's queue has room for, however much is read at once.
            if fresh.len() >= QUEUE || !limiter.admits(told.kind.name, now_ns) {
                limiter.leave_out(told.kind.name, told.events);
                return;
            }
            let flow = handle.and_then(|handle| table.who(handle));
            let flow = flow.unwrap_or_else(|| stranger(key_of(event)));
            fresh.push(Fresh { told, handle, flow });
        });
    }

    /// Listeners dropped connection requests.
    pub(super) fn listeners(&mut self, listeners: Vec<Listener>) {
        let (now, kind) = (SystemTime::now(), LISTEN_OVERFLOW.name);
        for listener in listeners {
            if !is_wanted(&listener, &self.filters, &self.owners) {
                continue;
            }
            if !self.limiter.admits(kind, monotonic_ns()) {
                self.limiter.leave_out(kind, 1);
                continue;
            }
            self.send(Line::Listener(now, Box::new(listener)), kind, 1);
        }
    }

    /// The reading is folded: hands its events over, by their time.
    pub(super) fn pass_on(&mut self, table: &FlowTable) {
        let (now, now_ns) = (SystemTime::now(), monotonic_ns());
        let mut fresh = std::mem::take(&mut self.fresh);
        fresh.sort_by_key(|fresh| fresh.told.time_ns);
        for Fresh { told, handle, flow } in fresh.drain(..) {
            let known = handle.and_then(|handle| match told.values.contains(&Value::Counts) {
                true => table.whole(handle),
                false => table.who(handle),
            });
            let age = Duration::from_nanos(now_ns.saturating_sub(told.time_ns));
            let (kind, events) = (told.kind.name, told.events);
            let telling = Telling {
                time: now.checked_sub(age).unwrap_or(now),
                stack: self.stack(&told),
                flow: known.unwrap_or(flow),
                told,
            };
            self.send(Line::Event(Box::new(telling)), kind, events);
        }
        self.fresh = fresh;
        if let Some(suppressed) = self.limiter.due(now_ns)
            && self.lines.try_send(Line::Suppressed(now, suppressed.clone())).is_ok()
        {
            self.limiter.said(now_ns);
        }
    }

    /// The addresses of an event's stack, as in [`Telling::stack`].
    fn stack(&mut self, told: &Told) -> Option<Option<Vec<u64>>> {
        let stacks = self.stacks.as_mut().filter(|_| told.kind.has_stack)?;
        let stack = match told.stack {
            Stack::Id(id) => stacks.get(id).map(<[u64]>::to_vec),
            Stack::NotTaken => None,
            // It happened on none that a program was on.
            Stack::None => return Some(None),
        };
        self.stacks_not_taken += u64::from(stack.is_none());
        Some(stack)
    }

    fn send(&mut self, line: Line, kind: &'static str, events: u64) {
        match self.lines.try_send(line) {
            Ok(()) => *self.told.entry(kind).or_default() += events,
            // The loop hears of a writer that is gone from itself.
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.limiter.leave_out(kind, events);
            }
        }
    }

    /// No more comes: lets the writer come to its end, and says what is left.
    pub(super) fn end(self) -> Rest {
        let (suppressed, suppressed_in_all) = self.limiter.end();
        Rest {
            told: self.told,
            suppressed,
            suppressed_in_all,
            stacks_not_taken: self.stacks.is_some().then_some(self.stacks_not_taken),
        }
    }
}

/// What an event itself says of its flow.
fn key_of(event: &Event) -> FlowKey {
    match event.subject() {
        Subject::Flow(_) => FlowKey::default(),
        Subject::Socket(socket) => socket.key,
        Subject::Packet { key, .. } | Subject::Asker(key) => *key,
        Subject::Entry(entry) => entry.key(&entry.original),
    }
}

/// A listener has no other end, so that a filter for one leaves it out.
fn is_wanted(listener: &Listener, filters: &Filters, owners: &config::Owners) -> bool {
    let key = FlowKey {
        local_addr: listener.local.ip.map_or([0; 16], mapped),
        local_port: listener.local.port.unwrap_or(0),
        netns: listener.netns,
        ..FlowKey::default()
    };
    filters.accept(&key)
        && filters.pid.accept(listener.owner.pid.unwrap_or(0))
        && owners.accepts_owner(&listener.owner) == Some(true)
}
