//! Programs where send calls begin and end, for all signals that have to do with it: a run for two costs little more than
//! one for either.
//!
//! Each signal counts in its own lanes, as if it had programs of its own.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use netdiag_common::{globals::duty, signal::Signal};

use crate::{
    globals::has_duty,
    kernel::{self, Pointer, Typed},
    signal::{send, turn},
    slot::Slot,
};

/// What was found out about a socket in this run, for whom else it concerns.
pub(crate) struct Seen {
    /// Its slot, if it was looked for and is there.
    pub(crate) slot: Option<&'static mut Slot>,
    /// The time, 0 where nobody looked at the clock.
    pub(crate) now_ns: u64,
}

impl Seen {
    pub(crate) const NOTHING: Self = Self { slot: None, now_ns: 0 };

    /// The time.
    #[inline(always)]
    pub(crate) fn now_ns(&self) -> u64 {
        if self.now_ns != 0 {
            return self.now_ns;
        }
        // SAFETY: no precondition.
        unsafe { bpf_ktime_get_ns() }
    }
}

#[btf_tracepoint(function = "tcp_sendmsg_locked")]
fn calls_begin_tp_btf(ctx: BtfTracePointContext) -> i32 {
    let sk: Pointer = ctx.arg(0);
    let thread = bpf_get_current_pid_tgid();
    let seen = if has_duty(Signal::Send, duty::SEND_BEGINS) {
        send::begins_locked(sk, thread)
    } else {
        Seen::NOTHING
    };
    if has_duty(Signal::Turn, duty::TURN_BEGINS) {
        turn::begins_locked(sk, thread, seen);
    }
    0
}

#[btf_tracepoint(function = "sock_send_length")]
fn calls_end_tp_btf(ctx: BtfTracePointContext) -> i32 {
    let sk: Pointer = ctx.arg(0);
    // SAFETY: the tracepoint gives a full socket, of any family.
    if unsafe { kernel::is_tcp::<Typed>(sk) } != Ok(true) {
        return 0;
    }
    // SAFETY: no precondition.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    if has_duty(Signal::Send, duty::SEND_ENDS) {
        send::ends_locked(sk, ctx.arg(1), now_ns);
    }
    if has_duty(Signal::Turn, duty::TURN_ENDS) {
        turn::ends_locked(sk, ctx.arg(1), now_ns);
    }
    0
}
