//! The bytes of a socket dump. Nothing in them is trusted, as in all of netlink.

use std::mem::offset_of;

use netdiag_common::flow::{Detail, FlowKey, TcpCounters, TcpDetail, mapped};
use netlink_packet_core::{Emitable, NlasIterator, Parseable};
use netlink_packet_sock_diag::{
    constants::{
        INET_DIAG_INFO, INET_DIAG_SKMEMINFO, IPPROTO_TCP, SOCK_DIAG_BY_FAMILY, TCP_LISTEN,
    },
    inet::InetResponseHeader,
};
use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::{Listening, Socket};

/// One `struct inet_diag_msg` and its attributes; none when the message is no such thing or makes no
/// sense.
pub(super) fn socket(kind: u16, payload: &[u8], netns: u32) -> Option<Socket> {
    if kind != SOCK_DIAG_BY_FAMILY {
        return None;
    }
    let header = InetResponseHeader::parse(payload).ok()?;
    let (mut info, mut memory) = (None, None);
    for attribute in NlasIterator::new(payload.get(header.buffer_len()..)?) {
        let attribute = attribute.ok()?;
        let value = attribute.value();
        match attribute.kind() {
            INET_DIAG_INFO => info = counters(value).map(|tcp| (tcp, detail(value))),
            INET_DIAG_SKMEMINFO => {
                memory = SkMemory::read_from_prefix(value).ok().map(|(memory, _)| memory);
            }
            _ => {}
        }
    }
    // A listener's `tcp_info` holds its backlog in fields of other meaning and no traffic.
    let info = info.filter(|_| header.state != TCP_LISTEN);
    // Where one is not told, the other would not be all that there is.
    let told = info.zip(memory.as_ref()).map(|((tcp, detail), memory)| {
        (TcpCounters { drops: memory.drops, ..tcp }, memory.fill(header.recv_queue, detail))
    });
    let drops = memory.as_ref().map(|memory| memory.drops);
    let id = &header.socket_id;
    let connected = header.state != TCP_LISTEN && id.destination_port != 0;
    Some(Socket {
        key: FlowKey {
            local_addr: mapped(id.source_address),
            peer_addr: if connected { mapped(id.destination_address) } else { [0; 16] },
            local_port: id.source_port,
            peer_port: id.destination_port,
            netns,
            protocol: IPPROTO_TCP.into(),
            reserved: 0,
        },
        cookie: cookie(id.cookie),
        state: header.state,
        inode: header.inode.into(),
        uid: header.uid,
        tcp: told.map(|(tcp, _)| tcp),
        detail: told.map(|(_, detail)| detail),
        listening: drops.filter(|_| header.state == TCP_LISTEN).map(|drops| Listening {
            drops,
            queue: header.recv_queue,
            queue_limit: header.send_queue,
        }),
    })
}

/// The kernel splits the 64-bit cookie into two words, the low one first (`net/core/sock_diag.c`,
/// `sock_diag_save_cookie`).
fn cookie(words: [u8; 8]) -> u64 {
    let [a, b, c, d, e, f, g, h] = words;
    u64::from(u32::from_ne_bytes([a, b, c, d])) | u64::from(u32::from_ne_bytes([e, f, g, h])) << 32
}

/// The first bytes of `struct tcp_info` (`include/uapi/linux/tcp.h`) as far as they are used. The
/// struct only ever grows at its end; it has all of these since 4.19.
#[derive(FromBytes, KnownLayout, Immutable)]
#[repr(C)]
struct TcpInfo {
    state_to_rcv_ssthresh: [u8; 68],
    rtt: u32,
    rttvar: u32,
    snd_ssthresh: u32,
    snd_cwnd: u32,
    advmss_to_rcv_space: [u32; 4],
    total_retrans: u32,
    pacing_rates: [u64; 2],
    bytes_acked: u64,
    bytes_received: u64,
    segs_out: u32,
    segs_in: u32,
    notsent_bytes: u32,
    min_rtt: u32,
    data_segs_in_to_delivered_ce: [u8; 48],
    bytes_sent: u64,
    bytes_retrans: u64,
}

const _: () = assert!(
    offset_of!(TcpInfo, rtt) == offset_of!(libc::tcp_info, tcpi_rtt)
        && offset_of!(TcpInfo, snd_cwnd) == offset_of!(libc::tcp_info, tcpi_snd_cwnd)
        && offset_of!(TcpInfo, total_retrans) == offset_of!(libc::tcp_info, tcpi_total_retrans)
        && offset_of!(TcpInfo, segs_out) == 136
        && offset_of!(TcpInfo, min_rtt) == 148
        && offset_of!(TcpInfo, bytes_sent) == 200
        && size_of::<TcpInfo>() == 216
);

/// The first of `SK_MEMINFO_*` (`include/uapi/linux/sock_diag.h`).
#[derive(FromBytes, KnownLayout, Immutable)]
#[repr(C)]
struct SkMemory {
    rmem_alloc: [u8; 4],
    rcvbuf: u32,
    wmem_alloc: [u8; 4],
    sndbuf: u32,
    fwd_alloc: [u8; 4],
    wmem_queued: u32,
    optmem_to_backlog: [u32; 2],
    drops: u32,
}

impl SkMemory {
    /// Adds its share; `unread` is the receive queue of `inet_diag_msg`, which for a connection are its
    /// bytes.
    fn fill(&self, unread: u32, mut detail: TcpDetail) -> TcpDetail {
        detail.set(Detail::Unread, unread);
        detail.set(Detail::RcvBuf, self.rcvbuf);
        detail.set(Detail::SndBuf, self.sndbuf);
        detail.set(Detail::SndBufUsed, self.wmem_queued);
        detail
    }
}

/// None from a kernel whose `tcp_info` ends before the last of them: a part would pass for zeros.
fn counters(attribute: &[u8]) -> Option<TcpCounters> {
    let (info, _) = TcpInfo::read_from_prefix(attribute).ok()?;
    Some(TcpCounters {
        bytes_sent: info.bytes_sent,
        bytes_received: info.bytes_received,
        bytes_acked: info.bytes_acked,
        bytes_retrans: info.bytes_retrans,
        segs_out: info.segs_out,
        segs_in: info.segs_in,
        retrans: info.total_retrans,
        srtt_us: info.rtt,
        cwnd: info.snd_cwnd,
        drops: 0,
        retrans_unseen: 0,
        rtt_min_us: if info.min_rtt == u32::MAX { 0 } else { info.min_rtt },
    })
}

/// What else `tcp_info` tells, as far as the kernel's goes.
fn detail(info: &[u8]) -> TcpDetail {
    let mut detail = TcpDetail::default();
    for (of, at) in [(Detail::Busy, 168), (Detail::RwndLimited, 176), (Detail::SndbufLimited, 184)]
    {
        if let Some(us) = info.get(at..).and_then(<[u8]>::first_chunk) {
            detail.set_time(of, u64::from_ne_bytes(*us));
        }
    }
    for (of, at) in [
        (Detail::Unacknowledged, 24),
        (Detail::Ssthresh, 76),
        (Detail::Unsent, 144),
        (Detail::DataSegmentsReceived, 152),
        (Detail::DataSegmentsSent, 156),
        (Detail::Delivered, 192),
        (Detail::DeliveredCe, 196),
        (Detail::Dsacks, 216),
        (Detail::Reorderings, 220),
        (Detail::OutOfOrder, 224),
        (Detail::SndWnd, 228),
        (Detail::RcvWnd, 232),
    ] {
        if let Some(word) = info.get(at..).and_then(<[u8]>::first_chunk) {
            detail.set(of, u32::from_ne_bytes(*word));
        }
    }
    if let Some(word) = info.get(240..).and_then(<[u8]>::first_chunk) {
        detail.set(Detail::Timeouts, u16::from_ne_bytes(*word).into());
    }
    detail
}

#[cfg(test)]
#[path = "reply_tests.rs"]
mod tests;
