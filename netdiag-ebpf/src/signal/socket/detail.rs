//! What the kernel tells of a TCP socket beside its counters, as far as this kernel has it: as
//! `tcp_get_info` (net/ipv4/tcp.c) has it for `ss`.

use aya_ebpf::helpers::generated::bpf_jiffies64;
use netdiag_common::{
    field::Field,
    flow::{Detail, TcpDetail},
};

use crate::{
    globals::{location, settings},
    kernel::{self, Access, Pointer, Refused, field},
};

/// Reads all that there is of a TCP socket.
///
/// # Safety
/// `sk` points to a socket, and `tp` is the `tcp_sock` around it.
#[inline(always)]
pub(super) unsafe fn read<A: Access>(
    sk: Pointer,
    tp: Pointer,
    to: &mut TcpDetail,
) -> Result<(), Refused> {
    // SAFETY: passed on.
    unsafe {
        times::<A>(tp, to)?;
        word::<A>(tp, Field::TcpDataSegsOut, Detail::DataSegmentsSent, to)?;
        word::<A>(tp, Field::TcpDataSegsIn, Detail::DataSegmentsReceived, to)?;
        word::<A>(tp, Field::TcpDelivered, Detail::Delivered, to)?;
        word::<A>(tp, Field::TcpDeliveredCe, Detail::DeliveredCe, to)?;
        word::<A>(tp, Field::TcpDsackDups, Detail::Dsacks, to)?;
        word::<A>(tp, Field::TcpReordSeen, Detail::Reorderings, to)?;
        word::<A>(tp, Field::TcpRcvOooPack, Detail::OutOfOrder, to)?;
        if location(Field::TcpTotalRto).exists() {
            let timeouts: u16 = field::<A, _>(tp, Field::TcpTotalRto)?;
            to.set(Detail::Timeouts, timeouts.into());
        }
        word::<A>(tp, Field::TcpSndSsthresh, Detail::Ssthresh, to)?;
        word::<A>(tp, Field::TcpSndWnd, Detail::SndWnd, to)?;
        word::<A>(tp, Field::TcpRcvWnd, Detail::RcvWnd, to)?;
        word::<A>(tp, Field::TcpPacketsOut, Detail::Unacknowledged, to)?;
        between::<A>(tp, Field::TcpCopiedSeq, Field::TcpRcvNxt, Detail::Unread, to)?;
        between::<A>(tp, Field::TcpSndNxt, Field::TcpWriteSeq, Detail::Unsent, to)?;
        word::<A>(sk, Field::SkRcvBuf, Detail::RcvBuf, to)?;
        word::<A>(sk, Field::SkSndBuf, Detail::SndBuf, to)?;
        word::<A>(sk, Field::SkWmemQueued, Detail::SndBufUsed, to)
    }
}

/// # Safety
/// `base` points to the struct of the field.
#[inline(always)]
unsafe fn word<A: Access>(
    base: Pointer,
    of: Field,
    detail: Detail,
    to: &mut TcpDetail,
) -> Result<(), Refused> {
    if location(of).exists() {
        // SAFETY: passed on.
        to.set(detail, unsafe { field::<A, _>(base, of) }?);
    }
    Ok(())
}

/// Bytes from one sequence number to another, 0 where that is before it: they may be read while they
/// change.
///
/// # Safety
/// As for [`word`].
#[inline(always)]
unsafe fn between<A: Access>(
    tp: Pointer,
    from: Field,
    to_field: Field,
    detail: Detail,
    to: &mut TcpDetail,
) -> Result<(), Refused> {
    if !location(from).exists() || !location(to_field).exists() {
        return Ok(());
    }
    // SAFETY: passed on.
    let bytes = unsafe {
        let first: u32 = field::<A, _>(tp, from)?;
        field::<A, u32>(tp, to_field)?.wrapping_sub(first)
    };
    to.set(detail, if bytes > i32::MAX as u32 { 0 } else { bytes });
    Ok(())
}

/// The stopwatch of a socket (`tcp_chrono_start`, net/ipv4/tcp_output.c): what it runs for, 0 for
/// nothing, and since which tick.
///
/// # Safety
/// `tp` points to a `tcp_sock`.
#[inline(always)]
unsafe fn running<A: Access>(tp: Pointer) -> Result<(u8, u32), Refused> {
    // SAFETY: passed on.
    unsafe {
        Ok((
            kernel::bits::<A>(tp, Field::TcpChronoType)?,
            field::<A, _>(tp, Field::TcpChronoStart)?,
        ))
    }
}

/// Reads how long the socket was busy and what held it back, up to now
/// (`tcp_get_info_chrono_stats`, net/ipv4/tcp.c).
///
/// `tcp_chrono_set` adds a span to its sum just before it begins the next one. A reading between these
/// two stores has the span twice, and the next one is lower: whoever takes growth from them has to
/// bear that.
///
/// # Safety
/// As for [`running`].
#[inline(always)]
unsafe fn times<A: Access>(tp: Pointer, to: &mut TcpDetail) -> Result<(), Refused> {
    let stat = location(Field::TcpChronoStat);
    let tick_us = settings::tick_us();
    if tick_us == 0
        || !stat.exists()
        || !location(Field::TcpChronoType).exists()
        || !location(Field::TcpChronoStart).exists()
    {
        return Ok(());
    }
    // SAFETY: passed on; the array has a word for each of the three.
    let (mut busy, mut rwnd, mut sndbuf, what, since) = unsafe {
        let (what, since) = running::<A>(tp)?;
        let ticks: (u32, u32, u32) = (
            A::load(tp, stat.offset())?,
            A::load(tp, stat.offset() + 4)?,
            A::load(tp, stat.offset() + 8)?,
        );
        if running::<A>(tp)? != (what, since) {
            // It changed hands meanwhile: a span would be in none of them, or in two.
            return Ok(());
        }
        (u64::from(ticks.0), u64::from(ticks.1), u64::from(ticks.2), what, since)
    };
    // SAFETY: no precondition. Read last, so that it is not before the start.
    let ticks = u64::from((unsafe { bpf_jiffies64() } as u32).wrapping_sub(since));
    match what {
        1 => busy += ticks,
        2 => rwnd += ticks,
        3 => sndbuf += ticks,
        _ => {}
    }
    to.set_time(Detail::Busy, (busy + rwnd + sndbuf) * tick_us);
    to.set_time(Detail::RwndLimited, rwnd * tick_us);
    to.set_time(Detail::SndbufLimited, sndbuf * tick_us);
    Ok(())
}
