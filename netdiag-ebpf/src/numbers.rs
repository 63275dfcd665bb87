//! Numbers that are part of a protocol or of the kernel's ABI, and so are the same in every kernel.

// include/linux/socket.h
pub(crate) const AF_INET: u16 = 2;
pub(crate) const AF_INET6: u16 = 10;

// include/uapi/linux/if_ether.h
pub(crate) const ETH_P_IP: u16 = 0x0800;
pub(crate) const ETH_P_IPV6: u16 = 0x86dd;

/// `S_IFMT` and `S_IFSOCK` (include/uapi/linux/stat.h).
pub(crate) const FILE_TYPE: u16 = 0o170_000;
pub(crate) const SOCKET_FILE: u16 = 0o140_000;
// include/uapi/linux/in.h
pub(crate) const IPPROTO_TCP: u16 = 6;

/// TCP states (include/net/tcp_states.h).
pub(crate) mod state {
    pub(crate) const ESTABLISHED: i32 = 1;
    pub(crate) const SYN_SENT: i32 = 2;
    pub(crate) const SYN_RECV: i32 = 3;
    pub(crate) const TIME_WAIT: i32 = 6;
    pub(crate) const CLOSE: i32 = 7;
    pub(crate) const CLOSE_WAIT: i32 = 8;
    pub(crate) const LAST_ACK: i32 = 9;
    pub(crate) const LISTEN: i32 = 10;
    pub(crate) const CLOSING: i32 = 11;
    pub(crate) const NEW_SYN_RECV: i32 = 12;
}
