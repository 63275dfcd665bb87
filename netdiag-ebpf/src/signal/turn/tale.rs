//! What the programs of the signal `turn` know of a socket, and what they tell of it.

use netdiag_common::{
    batch::Batch,
    counters::Counters,
    field::Field,
    signal::{
        Signal,
        turn::{MOST, Sample, WINDOW_NS, flag, kind, lane},
    },
    turn::Look,
};

use crate::{
    account::{Lane, sheds},
    batch,
    calls::Seen,
    filter::{self, Answer, User},
    globals,
    kernel::{self, Access, Pointer, Refused, field},
    numbers::state::{CLOSE, CLOSE_WAIT, CLOSING, LAST_ACK, TIME_WAIT},
    signal::socket,
    slot::{self, Slot},
};

impl batch::Sample for Sample {
    const SIGNAL: Signal = Signal::Turn;
}

/// What a program tells, none of it where it is 0.
pub(super) struct Tale {
    pub(super) kind: u32,
    pub(super) latency_ns: u64,
    pub(super) other_ns: u64,
}

impl Tale {
    /// What it adds up to with others that are left out.
    #[inline(always)]
    const fn sum(&self) -> u64 {
        match self.kind {
            kind::RESPONSE => self.latency_ns,
            kind::SERVICE | kind::READ_WAIT => self.other_ns,
            _ => 1,
        }
    }
}

/// A TCP socket of which something is to be remembered.
pub(super) struct Socket {
    pub(super) sk: Pointer,
    pub(super) slot: &'static mut Slot,
    pub(super) look: Look,
    pub(super) now_ns: u64,
}

/// Whether the peer's FIN is among what came.
#[inline(always)]
const fn has_fin(state: i32) -> bool {
    matches!(state, CLOSE_WAIT | LAST_ACK | CLOSING | TIME_WAIT | CLOSE)
}

impl Socket {
    /// The socket in a state of which `is_wanted` holds; `None` where nothing of it is, or cannot be. `seen` is what
    /// was found out about it before.
    ///
    /// # Safety
    /// `sk` is a full TCP socket.
    #[inline(always)]
    pub(super) unsafe fn find<A: Access>(
        sk: Pointer,
        seen: Seen,
        is_wanted: impl Fn(i32) -> bool,
        lane: Lane,
        counters: &mut Counters,
    ) -> Option<Self> {
        let now_ns = seen.now_ns();
        // SAFETY: passed on.
        let state = unsafe { kernel::state::<A>(sk) };
        let Ok(state) = state else {
            counters.seen += 1;
            counters.read_failed += 1;
            return None;
        };
        if !is_wanted(state) {
            return None;
        }
        let known = seen.slot.or_else(|| slot::find::<A>(sk));
        if known.is_none() {
            // Older than the programs, or left out by a filter: then nobody can tell whether a turn ends.
            // SAFETY: passed on.
            match unsafe { filter::passes::<A>(sk, User::Unknown) } {
                Answer::Wanted => {}
                Answer::Unwanted => return None,
                Answer::Unread => {
                    counters.seen += 1;
                    counters.read_failed += 1;
                    return None;
                }
            }
        }
        let Some(slot) = slot::or_create::<A>(known, sk, lane) else {
            counters.seen += 1;
            counters.map_full += 1;
            return None;
        };
        // SAFETY: passed on.
        match unsafe { look::<A>(sk, state) } {
            Ok(look) => Some(Self { sk, slot, look, now_ns }),
            Err(_) => {
                counters.seen += 1;
                counters.read_failed += 1;
                None
            }
        }
    }

    /// Tells of what it was asked to.
    ///
    /// # Safety
    /// As for [`Self::find`].
    #[inline(always)]
    pub(super) unsafe fn tell<A: Access>(self, tale: &Tale, lane: Lane, counters: &mut Counters) {
        // Nothing of it comes with a later sample: that interval would hold the time of hours.
        if sheds(Signal::Turn, counters) {
            return;
        }
        let Self { sk, slot, now_ns, .. } = self;
        // SAFETY: passed on.
        let Some(slot) = (unsafe { socket::admit_to::<A>(sk, Some(slot), lane, counters) }) else {
            return;
        };
        let sum = &mut slot.told.left_out[tale.kind as usize % kind::COUNT];
        let left_out = *sum;
        *sum = left_out + tale.sum();
        if !slot.told.window.admits(now_ns, WINDOW_NS, MOST) {
            counters.rate_limited += 1;
            return;
        }
        slot.told.left_out[tale.kind as usize % kind::COUNT] = 0;
        let sample = Sample {
            flow: slot.flow,
            latency_ns: tale.latency_ns,
            other_ns: tale.other_ns,
            left_out,
            kind: tale.kind,
            stalled_us: stalled_us(slot, tale, now_ns),
            // SAFETY: passed on.
            prompt_us: unsafe { prompt_us::<A>(sk, slot, tale, now_ns) },
            flags: if globals::sheds(Signal::Rtt) { flag::NO_TRIPS } else { 0 },
        };
        counters.begun += 1;
        match batch_of(lane) {
            Some(batch) => batch::append(sample, batch, counters),
            None => batch::alone(sample, counters),
        }
    }
}

/// Where the samples of a lane gather on this CPU: programs share no batch, and only the first of each
/// hook comes often.
#[inline(always)]
fn batch_of(lane: Lane) -> Option<*mut Batch<Sample>> {
    let batches = batch::of_this_cpu()?;
    // SAFETY: just got; makes no reference.
    unsafe {
        match lane.nth() {
            lane::SEND => Some(&raw mut (*batches).services),
            lane::ARRIVAL => Some(&raw mut (*batches).responses),
            lane::READ => Some(&raw mut (*batches).reads),
            _ => None,
        }
    }
}

/// Whether it is the other end that answers, for who has asked the filters since: see [`filter::behind`].
#[inline(always)]
fn is_response(tale: &Tale) -> bool {
    filter::behind(u64::from(tale.kind == kind::RESPONSE)) != 0
}

/// For how long what the other end answers now did not reach it whole, as far as retransmissions tell.
#[inline(always)]
fn stalled_us(slot: &Slot, tale: &Tale, now_ns: u64) -> u32 {
    let asked_ns = now_ns.wrapping_sub(tale.latency_ns);
    if !is_response(tale) || slot.sent_again_ns <= asked_ns || slot.sent_again_ns > now_ns {
        return 0;
    }
    ((slot.sent_again_ns - asked_ns) / 1_000) as u32
}

/// What a round trip took since this end asked. That of the segment which brings the answer is none of
/// them: it contains what the peer thought.
///
/// # Safety
/// `sk` is a full TCP socket.
#[inline(always)]
unsafe fn prompt_us<A: Access>(sk: Pointer, slot: &Slot, tale: &Tale, now_ns: u64) -> u32 {
    let asked_us = now_ns.wrapping_sub(tale.latency_ns) / 1_000;
    let at_us = slot.rtt.prompt_at_us;
    if !is_response(tale) || at_us <= asked_us {
        return 0;
    }
    let tp = A::tcp_sock(sk);
    if tp.is_null() {
        return 0;
    }
    // SAFETY: passed on.
    match unsafe { field::<A, u64>(tp, Field::TcpMstamp) } {
        Ok(segment_us) if segment_us != at_us => slot.rtt.prompt_us,
        _ => 0,
    }
}

/// # Safety
/// `sk` is a full TCP socket in that state.
#[inline(always)]
unsafe fn look<A: Access>(sk: Pointer, state: i32) -> Result<Look, Refused> {
    let tp = A::tcp_sock(sk);
    if tp.is_null() {
        return Err(Refused::NotOurs);
    }
    // SAFETY: passed on.
    unsafe {
        Ok(Look {
            written: field::<A, _>(tp, Field::TcpWriteSeq)?,
            acknowledged: field::<A, _>(tp, Field::TcpSndUna)?,
            read: field::<A, _>(tp, Field::TcpCopiedSeq)?,
            // A FIN is a byte to sequence numbers.
            received: field::<A, u32>(tp, Field::TcpRcvNxt)?
                .wrapping_sub(u32::from(has_fin(state))),
        })
    }
}
