//! The only reads of kernel memory, by offsets that userspace found in the kernel's BTF.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::{
    helpers::{
        bpf_probe_read_kernel,
        generated::{
            self, bpf_get_socket_cookie, bpf_skc_to_tcp_request_sock, bpf_skc_to_tcp_sock,
        },
    },
    programs::TracePointContext,
};
use netdiag_common::{
    field::Field,
    flow::{FlowKey, TcpCounters, V4_MAPPED_PREFIX},
};

use crate::{
    globals::{location, settings},
    netns,
    numbers::{AF_INET, AF_INET6, IPPROTO_TCP, state::NEW_SYN_RECV},
};

/// A pointer into the kernel: `struct sock *`, `struct request_sock *`, `struct sk_buff *`.
pub(crate) type Pointer = *const c_void;

/// Whether family and protocol are those of TCP over IPv4 or IPv6.
#[inline(always)]
const fn means_tcp(family: u16, protocol: u16) -> bool {
    (family == AF_INET || family == AF_INET6) && protocol == IPPROTO_TCP
}

/// Why nothing came back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Not a socket that netdiag speaks of.
    NotOurs,
    /// The read failed.
    Fault,
}

/// How a program type reads kernel memory.
pub(crate) trait Access {
    /// Whether pointers carry their type, so that socket storage and cookies can be had.
    const TYPED: bool;

    /// Loads a `T` at an offset.
    ///
    /// # Safety
    /// `base` points to a kernel object, and `offset` lies inside it by its BTF.
    unsafe fn load<T: Copy>(base: Pointer, offset: usize) -> Result<T, Refused>;

    /// The `tcp_sock` around a `sock`, null when it is not one.
    fn tcp_sock(sk: Pointer) -> Pointer;

    /// The `tcp_request_sock` around a `request_sock`, null when it is not one.
    fn tcp_request_sock(request: Pointer) -> Pointer;
}

/// fentry, fexit and tp_btf: the verifier knows the pointers' types and allows plain loads. They
/// keep working under lockdown=confidentiality.
pub(crate) struct Typed;

impl Access for Typed {
    const TYPED: bool = true;

    #[inline(always)]
    unsafe fn load<T: Copy>(base: Pointer, offset: usize) -> Result<T, Refused> {
        // SAFETY: see the trait; a faulting load gives 0 (the kernel's exception table). Volatile
        // so that each field is loaded once, in its own width.
        Ok(unsafe { core::ptr::read_volatile(base.byte_add(offset).cast::<T>()) })
    }

    #[inline(always)]
    fn tcp_sock(sk: Pointer) -> Pointer {
        // SAFETY: the helper checks that `sk` is a full TCP socket.
        unsafe { bpf_skc_to_tcp_sock(sk.cast_mut()) }.cast_const().cast()
    }

    #[inline(always)]
    fn tcp_request_sock(request: Pointer) -> Pointer {
        // SAFETY: the helper checks that it is a TCP request.
        unsafe { bpf_skc_to_tcp_request_sock(request.cast_mut()) }.cast_const().cast()
    }
}

/// kprobe, raw_tp and classic tracepoints: plain addresses, read by the probe-read helper.
pub(crate) struct Probed;

impl Access for Probed {
    const TYPED: bool = false;

    #[inline(always)]
    unsafe fn load<T: Copy>(base: Pointer, offset: usize) -> Result<T, Refused> {
        // SAFETY: the helper survives any address.
        unsafe { bpf_probe_read_kernel(base.byte_add(offset).cast::<T>()) }
            .map_err(|_| Refused::Fault)
    }

    #[inline(always)]
    fn tcp_sock(sk: Pointer) -> Pointer {
        sk
    }

    #[inline(always)]
    fn tcp_request_sock(request: Pointer) -> Pointer {
        request
    }
}

/// Loads a named field.
///
/// # Safety
/// `base` points to the struct that the field belongs to.
#[inline(always)]
pub(crate) unsafe fn field<A: Access, T: Copy>(base: Pointer, field: Field) -> Result<T, Refused> {
    // SAFETY: the location comes from the BTF of that struct.
    unsafe { A::load(base, location(field).offset()) }
}

/// Loads a field that may be a bit-field within one byte.
///
/// # Safety
/// As for [`field`].
#[inline(always)]
pub(crate) unsafe fn bits<A: Access>(base: Pointer, field: Field) -> Result<u8, Refused> {
    let location = location(field);
    // SAFETY: the location comes from the BTF of that struct.
    let byte: u8 = unsafe { A::load(base, location.offset()) }?;
    Ok((byte >> location.shift()) & location.mask())
}

/// Whether a `struct sock` is TCP over IPv4 or IPv6.
///
/// # Safety
/// `sk` points to a full socket.
#[inline(always)]
pub(crate) unsafe fn is_tcp<A: Access>(sk: Pointer) -> Result<bool, Refused> {
    // SAFETY: passed on.
    let (family, protocol): (u16, u16) =
        unsafe { (field::<A, _>(sk, Field::SkFamily)?, field::<A, _>(sk, Field::SkProtocol)?) };
    Ok(means_tcp(family, protocol))
}

/// What the classic tracepoint `sock:sock_send_length` says of a TCP socket: the socket and what
/// its send call returned.
#[inline(always)]
pub(crate) fn tcp_send_length(ctx: &TracePointContext) -> Option<(Pointer, i32)> {
    let family = record::half(ctx, Field::TpSendFamily)?;
    let protocol = record::half(ctx, Field::TpSendProtocol)?;
    if !means_tcp(family as u16, protocol as u16) {
        return None;
    }
    let sk = record::double(ctx, Field::TpSendSk)?;
    Some((sk as Pointer, record::word(ctx, Field::TpSendRet)? as i32))
}

/// Plain loads from the record of a classic tracepoint, which cost a fraction of the helper's.
///
/// Verifiers want the offset of such a load in the instruction. So there is one load for each offset that is likely,
/// and the helper for any other; of these the verifier leaves the one that is: to it the field's location is a constant.
mod record {
    use core::arch::asm;

    use aya_ebpf::{EbpfContext as _, programs::TracePointContext};
    use netdiag_common::field::Field;

    use crate::globals::location;

    macro_rules! load_at {
        ($ctx:ident $offset:ident $instruction:literal $($at:literal)+) => {$(
            if $offset == $at {
                let value: u64;
                // SAFETY: the caller has it from the BTF of the record that the field lies there.
                unsafe {
                    asm!(
                        concat!("{value} = *(", $instruction, " *)({ctx} + ", $at, ")"),
                        value = out(reg) value,
                        ctx = in(reg) $ctx.as_ptr(),
                        options(pure, readonly, nostack),
                    );
                }
                return Some(value);
            }
        )+};
    }

    macro_rules! loads {
        ($name:ident $type:ty, $instruction:literal $($at:literal)+) => {
            /// Loads a field of that width.
            #[inline(always)]
            pub(super) fn $name(ctx: &TracePointContext, field: Field) -> Option<u64> {
                let offset = location(field).offset();
                load_at!(ctx offset $instruction $($at)+);
                // SAFETY: as above.
                unsafe { ctx.read_at::<$type>(offset) }.ok().map(u64::from)
            }
        };
    }

    loads!(half u16, "u16" 8 10 12 14 16 18 20 22 24 26 28 30);
    loads!(word u32, "u32" 8 12 16 20 24 28 32 36);
    loads!(double u64, "u64" 8 16 24 32);
}

/// Loads `skc_state`.
///
/// # Safety
/// `sk` starts with a `sock_common`.
#[inline(always)]
pub(crate) unsafe fn state<A: Access>(sk: Pointer) -> Result<i32, Refused> {
    // SAFETY: passed on.
    unsafe { field::<A, u8>(sk, Field::SkState) }.map(i32::from)
}

/// The address of the listener of a connection request; `None` for what is no request, or where the
/// kernel does not tell.
///
/// # Safety
/// `sk` starts with a `sock_common`.
#[inline(always)]
pub(crate) unsafe fn listener<A: Access>(sk: Pointer) -> Result<Option<u64>, Refused> {
    if !location(Field::SkListener).exists() {
        return Ok(None);
    }
    // SAFETY: passed on; the field shares its place with others in other states.
    unsafe {
        if state::<A>(sk)? != NEW_SYN_RECV {
            return Ok(None);
        }
        field::<A, u64>(sk, Field::SkListener).map(Some)
    }
}

/// Reads the conversation of anything that starts with a `sock_common`: a TCP socket or a request.
///
/// # Safety
/// `sk` starts with a `sock_common`.
#[inline(always)]
pub(crate) unsafe fn flow_key<A: Access>(sk: Pointer, key: &mut FlowKey) -> Result<(), Refused> {
    // SAFETY: passed on.
    unsafe { flow_key_in::<A>(sk, key, &mut 0) }
}

/// The same for who keeps the number of the network namespace, which is read where that is 0.
///
/// # Safety
/// As for [`flow_key`].
#[inline(always)]
pub(crate) unsafe fn flow_key_in<A: Access>(
    sk: Pointer,
    key: &mut FlowKey,
    netns: &mut u32,
) -> Result<(), Refused> {
    // SAFETY: passed on for all loads below.
    unsafe {
        let family: u16 = field::<A, _>(sk, Field::SkFamily)?;
        if family == AF_INET {
            mapped(&mut key.local_addr, field::<A, _>(sk, Field::SkRcvSaddr)?);
            mapped(&mut key.peer_addr, field::<A, _>(sk, Field::SkDaddr)?);
        } else if family == AF_INET6 {
            words::<A>(sk, Field::SkV6RcvSaddr, &mut key.local_addr)?;
            words::<A>(sk, Field::SkV6Daddr, &mut key.peer_addr)?;
        } else {
            return Err(Refused::NotOurs);
        }
        key.local_port = field::<A, _>(sk, Field::SkNum)?;
        key.peer_port = u16::from_be(field::<A, _>(sk, Field::SkDport)?);
        if *netns == 0 {
            *netns = netns::of::<A>(sk, Field::SkNet)?;
        }
        key.netns = *netns;
    }
    key.protocol = IPPROTO_TCP;
    key.reserved = 0;
    Ok(())
}

/// Reads by address, and has 0 where a typed load that faults has it. Without a branch, which verifiers would walk
/// both ways.
///
/// # Safety
/// The helper survives any address.
#[inline(always)]
pub(crate) unsafe fn read_or_zero<T: Copy + Default>(base: Pointer, offset: usize) -> T {
    let mut value = T::default();
    // SAFETY: `value` has room for what is read; the helper fills it with zeros where it reads nothing.
    let _zeros = unsafe {
        generated::bpf_probe_read_kernel(
            (&raw mut value).cast(),
            size_of::<T>() as u32,
            base.byte_add(offset),
        )
    };
    value
}

/// Reads words by their address, where they are to be. Each is loaded as it is looked at, not copied bit by bit.
#[inline(always)]
pub(crate) fn read_words<const N: usize>(
    from: Pointer,
    to: &mut MaybeUninit<[u32; N]>,
) -> Result<&[u32; N], Refused> {
    // SAFETY: the helper survives any address, and fills all that it is given: with zeros where it reads nothing.
    unsafe {
        if generated::bpf_probe_read_kernel(to.as_mut_ptr().cast(), 4 * N as u32, from) != 0 {
            return Err(Refused::Fault);
        }
        Ok(to.assume_init_ref())
    }
}

#[inline(always)]
pub(crate) fn mapped(to: &mut [u8; 16], address: u32) {
    let p = V4_MAPPED_PREFIX;
    let word = |at: usize| u32::from_ne_bytes([p[at], p[at + 1], p[at + 2], p[at + 3]]);
    write_address(to, word(0), word(4), word(8), address);
}

/// Makes an address of four words as they lie in memory.
#[inline(always)]
pub(crate) fn write_address(to: &mut [u8; 16], a: u32, b: u32, c: u32, d: u32) {
    let to = to.as_mut_ptr().cast::<u32>();
    // SAFETY: `to` has four words, and is 4-byte aligned inside its `FlowKey`. Volatile: zeros may become a memset,
    // see `words`.
    unsafe {
        to.write_volatile(a);
        to.add(1).write_volatile(b);
        to.add(2).write_volatile(c);
        to.add(3).write_volatile(d);
    }
}

/// Reads an IPv6 address word by word: typed loads must stay inside one member.
#[inline(always)]
unsafe fn words<A: Access>(sk: Pointer, field: Field, to: &mut [u8; 16]) -> Result<(), Refused> {
    let offset = location(field).offset();
    let to = to.as_mut_ptr().cast::<u32>();
    let mut at = 0;
    while at < 4 {
        // SAFETY: an in6_addr has four words, and so has `to`, which is 4-byte aligned inside its
        // `FlowKey`.
        unsafe { to.add(at).write(A::load(sk, offset + 4 * at)?) };
        at += 1;
    }
    Ok(())
}

/// Reads the kernel's counters of a TCP socket.
///
/// # Safety
/// `sk` points to a socket, and `tp` is the `tcp_sock` around it.
#[inline(always)]
pub(crate) unsafe fn tcp_counters<A: Access>(
    sk: Pointer,
    tp: Pointer,
    to: &mut TcpCounters,
) -> Result<(), Refused> {
    // SAFETY: passed on.
    unsafe {
        to.bytes_sent = field::<A, _>(tp, Field::TcpBytesSent)?;
        to.bytes_received = field::<A, _>(tp, Field::TcpBytesReceived)?;
        to.bytes_acked = field::<A, _>(tp, Field::TcpBytesAcked)?;
        to.bytes_retrans = field::<A, _>(tp, Field::TcpBytesRetrans)?;
        to.segs_out = field::<A, _>(tp, Field::TcpSegsOut)?;
        to.segs_in = field::<A, _>(tp, Field::TcpSegsIn)?;
        to.retrans = field::<A, _>(tp, Field::TcpTotalRetrans)?;
        to.srtt_us = field::<A, u32>(tp, Field::TcpSrtt)? >> 3;
        to.cwnd = field::<A, _>(tp, Field::TcpCwnd)?;
        to.drops = field::<A, _>(sk, Field::SkDrops)?;
        to.rtt_min_us = rtt_min::<A>(tp)?;
    }
    to.retrans_unseen = 0;
    Ok(())
}

/// Reads the smallest round-trip time of late in microseconds, 0 where there is none yet: the first of
/// the three that the kernel keeps (`minmax_get`, include/linux/win_minmax.h).
///
/// # Safety
/// `tp` points to a `tcp_sock`.
#[inline(always)]
pub(crate) unsafe fn rtt_min<A: Access>(tp: Pointer) -> Result<u32, Refused> {
    let (samples, value) = (location(Field::TcpRttMin), location(Field::MinmaxValue));
    if !samples.exists() || !value.exists() {
        return Ok(0);
    }
    // SAFETY: passed on; both locations come from BTF.
    let rtt_min: u32 = unsafe { A::load(tp, samples.offset() + value.offset()) }?;
    // `tcp_init_sock` begins with the largest number.
    Ok(if rtt_min == u32::MAX { 0 } else { rtt_min })
}

/// Reads the errno that a socket holds for its owner (`sk_err`), 0 for none.
///
/// # Safety
/// `sk` points to a full socket.
#[inline(always)]
pub(crate) unsafe fn error<A: Access>(sk: Pointer) -> Result<i32, Refused> {
    if !location(Field::SkErr).exists() {
        return Ok(0);
    }
    // SAFETY: passed on.
    unsafe { field::<A, _>(sk, Field::SkErr) }
}

/// Whether a process has the socket: accept has returned it, or it was made by socket(2).
///
/// # Safety
/// `sk` points to a full socket.
#[inline(always)]
pub(crate) unsafe fn is_grafted<A: Access>(sk: Pointer) -> Result<bool, Refused> {
    if !location(Field::SkSocket).exists() {
        return Ok(false);
    }
    // SAFETY: passed on.
    unsafe { field::<A, u64>(sk, Field::SkSocket) }.map(|socket| socket != 0)
}

/// What the classic tracepoint of a system call's exit says that it returned.
#[inline(always)]
pub(crate) fn returned_by_call(ctx: &TracePointContext) -> Result<i64, Refused> {
    // SAFETY: the offset comes from the BTF of the tracepoint's record.
    unsafe { ctx.read_at(location(Field::TpExitRet).offset()) }.map_err(|_| Refused::Fault)
}

/// Whether a task owns a socket, and so works on it: a softirq leaves it alone then (`sk_lock.owned`).
///
/// # Safety
/// `sk` points to a full socket.
#[inline(always)]
pub(crate) unsafe fn is_owned<A: Access>(sk: Pointer) -> Result<bool, Refused> {
    if !location(Field::SkLockOwned).exists() {
        return Ok(true);
    }
    // SAFETY: passed on.
    Ok(unsafe { field::<A, u32>(sk, Field::SkLockOwned) }? != 0)
}

/// Reads the port that a TCP socket had last; the one in its key is 0 as soon as it gives it back.
///
/// # Safety
/// `sk` points to a socket.
#[inline(always)]
pub(crate) unsafe fn last_port<A: Access>(sk: Pointer) -> Result<u16, Refused> {
    let tp = A::tcp_sock(sk);
    if tp.is_null() || !location(Field::InetSport).exists() {
        return Ok(0);
    }
    // SAFETY: a tcp_sock begins with an inet_sock.
    Ok(u16::from_be(unsafe { field::<A, _>(tp, Field::InetSport) }?))
}

/// Reads `total_retrans`, the segments that a TCP socket sent again; `None` when `sk` is no full TCP
/// socket.
///
/// # Safety
/// `sk` points to a socket.
#[inline(always)]
pub(crate) unsafe fn total_retrans<A: Access>(sk: Pointer) -> Option<u32> {
    let tp = A::tcp_sock(sk);
    if tp.is_null() {
        return None;
    }
    // SAFETY: `tp` is a tcp_sock.
    unsafe { field::<A, _>(tp, Field::TcpTotalRetrans) }.ok()
}

/// The socket cookie, 0 where this kernel or program type has none to give.
#[inline(always)]
pub(crate) fn cookie<A: Access>(sk: Pointer) -> u64 {
    if A::TYPED && settings::has_cookie() {
        // SAFETY: the verifier checks that `sk` is a socket.
        unsafe { bpf_get_socket_cookie(sk.cast_mut()) }
    } else {
        0
    }
}
