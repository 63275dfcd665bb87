//! The signals: what each family of hooks tells.
//!
//! One file each, of the same name in all three crates, and one line in the list below.

macro_rules! signals {
    ($($(#[$doc:meta])* $module:ident $name:ident,)+) => {
        $(pub mod $module;)+

        /// A family of hooks that tells one thing.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum Signal {
            $($(#[$doc])* $name,)+
        }

        impl Signal {
            /// Every signal, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// Its name in outputs and flags.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($module),)+
                }
            }
        }
    };
}

signals! {
    /// Sockets as they open, connect, change hands and are destroyed.
    socket Socket,
    /// Calls of tcp_sendmsg, entry to return.
    send Send,
    /// Segments that TCP sent again.
    retransmit Retransmit,
    /// Packets that the kernel threw away.
    drop Drop,
    /// Entries of the connection tracking table as they come and go.
    conntrack Conntrack,
    /// Round trips as the kernel measures them.
    rtt Rtt,
    /// Turns of a conversation: who waits for whom.
    turn Turn,
    /// Connections that were reset, by this end or by the other.
    reset Reset,
    /// Queries of the domain name system and their answers.
    dns Dns,
}

impl Signal {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Its bit in a set of them.
    #[must_use]
    pub const fn bit(self) -> u32 {
        1 << self as u32
    }
}
