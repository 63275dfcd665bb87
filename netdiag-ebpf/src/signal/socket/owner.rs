//! Whose a socket is that its owner did not connect: who accepts it, or first receives on it.

use aya_ebpf::{
    macros::{btf_tracepoint, fentry, fexit, kprobe, tracepoint},
    programs::{
        BtfTracePointContext, FEntryContext, FExitContext, ProbeContext, TracePointContext,
    },
};
use netdiag_common::{
    globals::duty,
    signal::{Signal, socket::what},
};

use super::{
    Context, current_process, descriptor,
    handshake::{self, Handshake},
    introduction,
    report::report_accepted,
};
use crate::{
    account::{Lane, socket_counters},
    filter::{self, Answer, User},
    globals::{has_duty, settings},
    kernel::{self, Access, Pointer, Probed, Typed},
    slot::{self, ANNOUNCED, SERVER, Slot},
    task,
};

const ACCEPT: Lane = Lane::new(Signal::Socket, 2);
const RECEIVE: Lane = Lane::new(Signal::Socket, 3);

/// How a task came to use a socket whose owner is unknown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// accept returns it.
    Accepted,
    /// It received on it.
    Received,
}

/// accept returns a socket to the current task.
#[inline(always)]
fn accepted<A: Access>(sk: Pointer) {
    // SAFETY: all hooks give a full socket, of any family.
    if unsafe { kernel::is_tcp::<A>(sk) } != Ok(true) {
        return;
    }
    let handshake = handshake::take(sk);
    if slot::is_in_reach::<A>() {
        used::<A>(sk, Use::Accepted, handshake, ACCEPT);
    } else {
        accepted_out_of_reach::<A>(sk, handshake);
    }
}

/// The same where the program does not reach the socket's slot: userspace joins it by number or key, and
/// the slot has its owner from the next program that sees the task use it.
#[inline(always)]
fn accepted_out_of_reach<A: Access>(sk: Pointer, handshake: Handshake) {
    let owner = current_process();
    // SAFETY: see `accepted`.
    if unsafe { filter::passes::<A>(sk, User::Current) } != Answer::Wanted {
        return; // it was counted as it opened
    }
    let handshake = handshake.behind_filters();
    let flow = handshake.flow;
    let what = if handshake.is_known() { what::ACCEPT } else { what::TAKEN };
    slot::with_unknown(flow, ACCEPT, |slot| {
        slot.used_by(owner, true);
        // SAFETY: as above.
        unsafe {
            let waited_ns = handshake::waited_ns::<A>(sk, &handshake);
            report_accepted::<A>(sk, slot, what, Context::Owner, waited_ns, ACCEPT);
        }
    });
}

/// The current task uses a TCP socket in its own context: if no owner is known, it is the owner.
#[inline(always)]
fn used<A: Access>(sk: Pointer, how: Use, handshake: Handshake, lane: Lane) {
    let known = slot::find::<A>(sk);
    match &known {
        Some(slot) if slot.owner != 0 => return,
        Some(_) => {}
        // Older than the programs, or filtered out. Of these an owner is wanted only by a filter.
        None if how == Use::Received && !filter::by_owner() => return,
        None => {}
    }
    let owner = current_process();
    // SAFETY: the caller has seen that it is a TCP socket.
    let answer = unsafe { filter::passes::<A>(sk, User::Current) };
    // As in `Handshake::behind_filters`.
    let known = if filter::active() { slot::find::<A>(sk) } else { known };
    if answer != Answer::Wanted {
        // It was counted as it opened.
        if let Some(slot) = known {
            slot.used_by(owner, filter::is_current_wanted());
        }
        return;
    }
    let handshake = handshake.behind_filters();
    // Not by one condition: the optimiser would join pointer and number in a word, which verifiers refuse.
    let (slot, older) = match known {
        Some(slot) => (Some(slot), false),
        None => (slot::or_create::<A>(None, sk, lane), !handshake.is_known()),
    };
    let Some(slot) = slot else {
        if let Some(counters) = socket_counters(lane) {
            counters.seen += 1;
            counters.map_full += 1;
        }
        return;
    };
    let what = match (how, slot.flags & ANNOUNCED == 0) {
        (Use::Accepted, true) if older => what::TAKEN,
        (Use::Accepted, true) => what::ACCEPT,
        (Use::Received, true) => introduction(slot),
        (_, false) => what::OWNER,
    };
    let mut waited_ns = 0;
    if how == Use::Accepted {
        slot.flags |= SERVER;
        // SAFETY: as above.
        waited_ns = unsafe { handshake::waited_ns::<A>(sk, &handshake) };
    }
    slot.used_by(owner, true);
    // SAFETY: as above.
    if !unsafe { report_accepted::<A>(sk, slot, what, Context::Owner, waited_ns, lane) } {
        slot.owner = 0; // said again at the next use
    }
}

/// Data was read on a TCP socket: who reads is the owner if none is known, where that is the duty of the programs that
/// see it, in place of [`socket_recv_tp_btf`].
///
/// # Safety
/// `sk` points to a full TCP socket whose lock is held, and `slot` is its slot.
#[inline(always)]
pub(crate) unsafe fn reads<A: Access>(sk: Pointer, slot: &mut Slot, lane: Lane) {
    if !settings::tells_readers() || slot.owner != 0 || !has_duty(Signal::Turn, duty::READERS) {
        return;
    }
    // The kernel's own users of a socket read in softirqs, which no task has to do with, and in threads of the kernel.
    // SAFETY: passed on.
    if unsafe { kernel::is_owned::<A>(sk) } != Ok(true) || !task::is_of_process() {
        return;
    }
    let owner = current_process();
    // SAFETY: passed on.
    if unsafe { filter::passes::<A>(sk, User::Current) } != Answer::Wanted {
        slot.used_by(owner, filter::is_current_wanted());
        return;
    }
    let what = if slot.flags & ANNOUNCED == 0 { introduction(slot) } else { what::OWNER };
    slot.used_by(owner, true);
    // SAFETY: passed on.
    if !unsafe { report_accepted::<A>(sk, slot, what, Context::Owner, 0, lane) } {
        slot.owner = 0; // said again at the next use
    }
}

/// accept(2) hands a connection over. It has waited by then, so that this sees calls that are older than the
/// programs, too; in the kernel's own words `sock_graft` (include/net/sock.h).
#[fentry]
fn socket_accept_fentry(ctx: FEntryContext) -> i32 {
    accepted::<Typed>(ctx.arg(0));
    0
}

#[kprobe]
fn socket_accept_kprobe(ctx: ProbeContext) -> u32 {
    if let Some(sk) = ctx.arg::<Pointer>(0) {
        accepted::<Probed>(sk);
    }
    0
}

/// accept(2) returns; `$child` is the index behind the function's last argument. The function
/// waits, hence no kretprobe: the kernel has only a few instances of one.
macro_rules! accepts {
    ($name:ident $child:literal) => {
        #[fexit]
        fn $name(ctx: FExitContext) -> i32 {
            let sk: Pointer = ctx.arg($child);
            if !sk.is_null() {
                accepted::<Typed>(sk);
            }
            0
        }
    };
}

// (sk, arg) from 6.10 on, (sk, flags, err, kern) before.
accepts!(socket_accept_fexit 2);
accepts!(socket_accept_fexit_4 4);

/// accept returns a file descriptor to the current task.
#[inline(always)]
fn accepted_descriptor(ctx: &TracePointContext) {
    let sk = match kernel::returned_by_call(ctx) {
        Ok(descriptor @ 0..) => descriptor::sock(descriptor as u32),
        Ok(_) => return,
        Err(error) => Err(error),
    };
    match sk {
        Ok(Some(sk)) => accepted::<Probed>(sk),
        Ok(None) => {}
        Err(_) => {
            if let Some(counters) = socket_counters(ACCEPT) {
                counters.seen += 1;
                counters.read_failed += 1;
            }
        }
    }
}

/// accept(2) or accept4(2) returns. One program is on both, and does not run inside itself: a task returns from one call at a
/// time, and is not preempted there.
#[tracepoint]
fn socket_accept_tp(ctx: TracePointContext) -> u32 {
    accepted_descriptor(&ctx);
    0
}

/// recv(2) and its like return; never in a softirq.
#[btf_tracepoint(function = "sock_recv_length")]
fn socket_recv_tp_btf(ctx: BtfTracePointContext) -> i32 {
    let sk: Pointer = ctx.arg(0);
    // SAFETY: the hook gives a full socket, of any family.
    if unsafe { kernel::is_tcp::<Typed>(sk) } == Ok(true) {
        used::<Typed>(sk, Use::Received, Handshake::NONE, RECEIVE);
    }
    0
}
