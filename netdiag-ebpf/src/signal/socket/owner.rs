//! Whose a socket is that its owner did not connect: who accepts it, or first receives on it.

use aya_ebpf::{
    macros::{btf_tracepoint, fexit},
    programs::{BtfTracePointContext, FExitContext},
};
use netdiag_common::signal::{Signal, socket::what};

use super::{Context, current_process, introduction, report};
use crate::{
    account::{Lane, socket_counters},
    filter,
    kernel::{self, Access, Pointer, Typed},
    slot::{self, ANNOUNCED, SERVER},
};

const ACCEPT: Lane = Lane::new(Signal::Socket, 2);

/// How a task came to use a socket whose owner is unknown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// accept returned it.
    Accepted,
    /// It received on it.
    Received,
}

/// The current task uses a socket in its own context: if no owner is known, it is the owner.
#[inline(always)]
fn used<A: Access>(sk: Pointer, how: Use) {
    // SAFETY: both hooks give a full socket, of any family.
    if unsafe { kernel::is_tcp::<A>(sk) } != Ok(true) {
        return;
    }
    let known = slot::find::<A>(sk);
    let older = known.is_none();
    match &known {
        Some(slot) if slot.owner != 0 => return,
        Some(_) => {}
        // Older than the programs, or filtered out. Of these an owner is wanted only by a filter.
        None if how == Use::Received && !filter::by_owner() => return,
        None => {}
    }
    let owner = current_process();
    // SAFETY: as above.
    if unsafe { filter::passes::<A>(sk, owner) } != Ok(true) {
        // It was counted as it opened.
        if let Some(slot) = known {
            slot.owner = owner;
        }
        return;
    }
    let Some(slot) = slot::find_or_create::<A>(sk, ACCEPT) else {
        if let Some(counters) = socket_counters(ACCEPT) {
            counters.seen += 1;
            counters.map_full += 1;
        }
        return;
    };
    let what = match (how, slot.flags & ANNOUNCED == 0) {
        (Use::Accepted, true) if older => what::TAKEN,
        (_, true) => introduction(slot),
        (_, false) => what::OWNER,
    };
    if how == Use::Accepted {
        slot.flags |= SERVER;
    }
    slot.owner = owner;
    // SAFETY: as above.
    if !unsafe { report::<A>(sk, slot, what, Context::Owner, ACCEPT) } {
        slot.owner = 0; // said again at the next use
    }
}

/// accept(2) returns; `$child` is the index behind the function's last argument. The function
/// waits, hence no kretprobe: the kernel has only a few instances of one.
macro_rules! accepts {
    ($name:ident $child:literal) => {
        #[fexit]
        fn $name(ctx: FExitContext) -> i32 {
            let sk: Pointer = ctx.arg($child);
            if !sk.is_null() {
                used::<Typed>(sk, Use::Accepted);
            }
            0
        }
    };
}

// (sk, arg) from 6.10 on, (sk, flags, err, kern) before.
accepts!(socket_accept_fexit 2);
accepts!(socket_accept_fexit_4 4);

/// recv(2) and its like return; never in a softirq.
#[btf_tracepoint(function = "sock_recv_length")]
fn socket_recv_tp_btf(ctx: BtfTracePointContext) -> i32 {
    used::<Typed>(ctx.arg(0), Use::Received);
    0
}
