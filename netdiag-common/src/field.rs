//! The struct fields that the programs read, by name.
//!
//! rustc emits no CO-RE relocations and every release moves fields, so no offset is compiled in:
//! userspace resolves each [`Field`] in the running kernel's BTF and hands the programs a
//! [`Location`] in a frozen global.

/// Where a field lies in its struct.
///
/// Packed into 32 bits: byte offset in the low 16, bit offset within that byte in the next 8, width
/// in bits in the high 8 (0: a whole field of its natural size).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location(pub u32);

impl Location {
    /// Marks a field that this kernel does not have.
    pub const MISSING: Self = Self(u32::MAX);

    /// A field that starts at a byte.
    #[must_use]
    pub const fn bytes(offset: u16) -> Self {
        Self(offset as u32)
    }

    /// A bit-field, `bit` counted from the lowest bit of the byte at `offset`.
    #[must_use]
    pub const fn bits(offset: u16, bit: u8, width: u8) -> Self {
        Self(offset as u32 | (bit as u32) << 16 | (width as u32) << 24)
    }

    /// Byte offset.
    #[must_use]
    #[inline(always)]
    pub const fn offset(self) -> usize {
        (self.0 & 0xffff) as usize
    }

    /// Bits to shift the loaded byte right by.
    #[must_use]
    #[inline(always)]
    pub const fn shift(self) -> u32 {
        (self.0 >> 16) & 0xff
    }

    /// Mask to apply after the shift; all ones where the field is no bit-field.
    #[must_use]
    #[inline(always)]
    pub const fn mask(self) -> u8 {
        let width = self.0 >> 24;
        if width == 0 { u8::MAX } else { ((1u32 << width) - 1) as u8 }
    }

    /// Whether this kernel has the field.
    #[must_use]
    #[inline(always)]
    pub const fn exists(self) -> bool {
        self.0 != Self::MISSING.0
    }
}

macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident = $structure:literal $path:literal $size:literal,)+) => {
        /// A struct field that some program reads.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(usize)]
        pub enum Field {
            $($(#[$doc])* #[doc = concat!("`", $structure, ".", $path, "`")] $name,)+
        }

        impl Field {
            /// Every field, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// Name of the struct, path inside it (`.` descends, `[0]` is the first of an array), bytes to be read
            /// from it.
            #[must_use]
            pub const fn path(self) -> (&'static str, &'static str, usize) {
                match self {
                    $(Self::$name => ($structure, $path, $size),)+
                }
            }
        }
    };
}

fields! {
    SkDaddr = "sock_common" "skc_daddr" 4,
    SkRcvSaddr = "sock_common" "skc_rcv_saddr" 4,
    SkDport = "sock_common" "skc_dport" 2,
    SkNum = "sock_common" "skc_num" 2,
    SkFamily = "sock_common" "skc_family" 2,
    SkState = "sock_common" "skc_state" 1,
    SkListener = "sock_common" "skc_listener" 8,
    SkNet = "sock_common" "skc_net.net" 8,
    SkV6Daddr = "sock_common" "skc_v6_daddr" 16,
    SkV6RcvSaddr = "sock_common" "skc_v6_rcv_saddr" 16,
    SkProtocol = "sock" "sk_protocol" 2,
    SkDrops = "sock" "sk_drops.counter" 4,
    TcpMss = "tcp_sock" "mss_cache" 4,
    SkErr = "sock" "sk_err" 4,
    SkSocket = "sock" "sk_socket" 8,
    /// Whether a task owns it.
    SkLockOwned = "sock" "sk_lock.owned" 4,
    NetInum = "net" "ns.inum" 4,
    InetSport = "inet_sock" "inet_sport" 2,
    CaState = "inet_connection_sock" "icsk_ca_state" 1,
    Pending = "inet_connection_sock" "icsk_pending" 1,
    Retransmits = "inet_connection_sock" "icsk_retransmits" 1,
    TcpBytesSent = "tcp_sock" "bytes_sent" 8,
    TcpBytesReceived = "tcp_sock" "bytes_received" 8,
    TcpBytesAcked = "tcp_sock" "bytes_acked" 8,
    TcpBytesRetrans = "tcp_sock" "bytes_retrans" 8,
    TcpSegsOut = "tcp_sock" "segs_out" 4,
    TcpSegsIn = "tcp_sock" "segs_in" 4,
    TcpTotalRetrans = "tcp_sock" "total_retrans" 4,
    TcpSrtt = "tcp_sock" "srtt_us" 4,
    TcpCwnd = "tcp_sock" "snd_cwnd" 4,
    TcpMdev = "tcp_sock" "mdev_us" 4,
    TcpRttMin = "tcp_sock" "rtt_min.s" 24,
    MinmaxValue = "minmax_sample" "v" 4,
    TcpSndUna = "tcp_sock" "snd_una" 4,
    TcpMstamp = "tcp_sock" "tcp_mstamp" 8,
    TcpDataSegsOut = "tcp_sock" "data_segs_out" 4,
    TcpDataSegsIn = "tcp_sock" "data_segs_in" 4,
    TcpDelivered = "tcp_sock" "delivered" 4,
    TcpDeliveredCe = "tcp_sock" "delivered_ce" 4,
    TcpDsackDups = "tcp_sock" "dsack_dups" 4,
    TcpReordSeen = "tcp_sock" "reord_seen" 4,
    TcpRcvOooPack = "tcp_sock" "rcv_ooopack" 4,
    TcpTotalRto = "tcp_sock" "total_rto" 2,
    TcpChronoStat = "tcp_sock" "chrono_stat" 12,
    TcpChronoStart = "tcp_sock" "chrono_start" 4,
    TcpChronoType = "tcp_sock" "chrono_type" 1,
    TcpSndSsthresh = "tcp_sock" "snd_ssthresh" 4,
    TcpSndWnd = "tcp_sock" "snd_wnd" 4,
    TcpRcvWnd = "tcp_sock" "rcv_wnd" 4,
    TcpPacketsOut = "tcp_sock" "packets_out" 4,
    TcpRcvNxt = "tcp_sock" "rcv_nxt" 4,
    TcpCopiedSeq = "tcp_sock" "copied_seq" 4,
    TcpWriteSeq = "tcp_sock" "write_seq" 4,
    TcpSndNxt = "tcp_sock" "snd_nxt" 4,
    SkRcvBuf = "sock" "sk_rcvbuf" 4,
    SkSndBuf = "sock" "sk_sndbuf" 4,
    SkWmemQueued = "sock" "sk_wmem_queued" 4,
    RateRtt = "rate_sample" "rtt_us" 8,
    TcpRequestSntIsn = "tcp_request_sock" "snt_isn" 4,
    SkbLen = "sk_buff" "len" 4,
    SkbSk = "sk_buff" "sk" 8,
    SkbDev = "sk_buff" "dev" 8,
    SkbDataLen = "sk_buff" "data_len" 4,
    SkbHead = "sk_buff" "head" 8,
    SkbData = "sk_buff" "data" 8,
    SkbNetworkHeader = "sk_buff" "network_header" 2,
    SkbProtocol = "sk_buff" "protocol" 2,
    SkbNfct = "sk_buff" "_nfct" 8,
    DevNet = "net_device" "nd_net.net" 8,
    DevIfindex = "net_device" "ifindex" 4,
    SkbCb = "sk_buff" "cb" 48,
    CbSeq = "tcp_skb_cb" "seq" 4,
    CbGsoSegs = "tcp_skb_cb" "tcp_gso_segs" 2,
    TpSendSk = "trace_event_raw_sock_msg_length" "sk" 8,
    TpSendFamily = "trace_event_raw_sock_msg_length" "family" 2,
    TpSendProtocol = "trace_event_raw_sock_msg_length" "protocol" 2,
    TpSendRet = "trace_event_raw_sock_msg_length" "ret" 4,
    TpExitRet = "syscall_trace_exit" "ret" 8,
    CtTuples = "nf_conn" "tuplehash" 112,
    CtTuple = "nf_conntrack_tuple_hash" "tuple" 40,
    CtStatus = "nf_conn" "status" 8,
    CtNet = "nf_conn" "ct_net.net" 8,
    CtZone = "nf_conn" "zone.id" 2,
    ZoneId = "nf_conntrack_zone" "id" 2,
    TupleSource = "nf_conntrack_tuple" "src.u3" 16,
    TupleSourcePort = "nf_conntrack_tuple" "src.u.all" 2,
    TupleFamily = "nf_conntrack_tuple" "src.l3num" 2,
    TupleDestination = "nf_conntrack_tuple" "dst.u3" 16,
    TupleDestinationPort = "nf_conntrack_tuple" "dst.u.all" 2,
    TupleProtocol = "nf_conntrack_tuple" "dst.protonum" 1,
    RegsSp = "pt_regs" "sp" 8,
    TaskStack = "task_struct" "stack" 8,
    TaskFlags = "task_struct" "flags" 4,
    TaskLeader = "task_struct" "group_leader" 8,
    TaskComm = "task_struct" "comm" 16,
    TaskFiles = "task_struct" "files" 8,
    TaskCgroups = "task_struct" "cgroups" 8,
    /// The first of an array by subsystem.
    CgroupsSubsys = "css_set" "subsys[0]" 8,
    SubsysCgroup = "cgroup_subsys_state" "cgroup" 8,
    CgroupNode = "cgroup" "kn" 8,
    NodeId = "kernfs_node" "id" 8,
    FilesTable = "files_struct" "fdt" 8,
    TableSize = "fdtable" "max_fds" 4,
    TableFiles = "fdtable" "fd" 8,
    FileInode = "file" "f_inode" 8,
    FilePrivate = "file" "private_data" 8,
    InodeMode = "inode" "i_mode" 2,
    SocketSk = "socket" "sk" 8,
}
