//! Connection tracking on purpose: rules that turn it on, conversations that it follows, and a table
//! that is full.
//!
//! The left end of a pair tracks and the right one does not, so that each conversation has one entry.

pub mod full;
pub mod module;
pub mod race;
pub mod said;
pub mod service;
pub mod table;

use std::{
    fs,
    io::ErrorKind,
    net::{Ipv4Addr, UdpSocket},
};

use anyhow::{Context, Result};

use self::table::{Entry, Tuple};
use crate::{
    counters::wait_until_quiet,
    fault,
    namespace::Namespace,
    network::{Pair, RIGHT_V4},
    traffic::{Connection, FAMILIES, Family},
};

/// An address that no end has: [`Rules::Dnat`] leads from there to the right end.
pub const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);

/// The setting that says how many entries there may be, in each namespace; see
/// [`crate::setting::Setting`]. It can be changed in the first namespace alone.
pub const MAX: &str = "net/netfilter/nf_conntrack_max";

/// Zone of [`Rules::Zone`].
pub const ZONE: u16 = 7;

/// How the left end tracks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// In the zone that everything is in.
    Plain,
    /// In a zone of its own.
    Zone,
    /// What goes to a service is sent to its server, so that the answers come from elsewhere.
    Dnat,
}

/// All of them.
pub const RULES: [Rules; 3] = [Rules::Plain, Rules::Zone, Rules::Dnat];

impl Rules {
    /// Zone of the entries.
    #[must_use]
    pub const fn zone(self) -> u16 {
        match self {
            Self::Zone => ZONE,
            Self::Plain | Self::Dnat => 0,
        }
    }

    fn chains(self) -> String {
        match self {
            Self::Plain => String::new(),
            // Before the table is asked, which is at -200.
            Self::Zone => ["output", "prerouting"]
                .map(|hook| {
                    format!(
                        " chain zone_{hook} {{\n type filter hook {hook} priority -300;\n \
                         ct zone set {ZONE}\n }}\n"
                    )
                })
                .concat(),
            Self::Dnat => format!(
                " chain service {{\n type nat hook output priority -100;\n \
                 ip daddr {SERVICE} dnat ip to {RIGHT_V4}\n }}\n"
            ),
        }
    }
}

/// Whether no connection of the namespace that the machine starts with is tracked, nor any that comes.
#[must_use]
pub fn none_tracked() -> bool {
    let entries = || fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count");
    // Rules that track have no entry where nobody speaks.
    let spoken = || {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.send_to(b"netdiag", socket.local_addr()?)
    };
    spoken().is_ok()
        && match entries() {
            Ok(number) => number.trim() == "0",
            // Nobody has asked for the module.
            Err(error) => error.kind() == ErrorKind::NotFound,
        }
}

/// Lets the left end track from now on. A counter counts the packets that begin a conversation from
/// there (`dropping::counted`).
///
/// # Errors
/// When `nft` fails, or older conversations do not end: the rest of one would be taken for a new one.
pub fn track(pair: &Pair, rules: Rules) -> Result<()> {
    wait_until_quiet(&pair.left)?;
    wait_until_quiet(&pair.right)?;
    track_at(&pair.left, rules)
}

/// Lets a namespace track whose conversations are over.
///
/// # Errors
/// When `nft` fails.
pub fn track_at(namespace: &Namespace, rules: Rules) -> Result<()> {
    let script = format!(
        "table inet tracked {{\n chain new {{\n type filter hook output priority 0;\n \
         ct state new counter\n }}\n{} }}\n",
        rules.chains()
    );
    fault::load(namespace, &script)?;
    // Entries stay until they are removed; else one has ten seconds after a reset, and half a minute
    // where nobody answers.
    namespace.run(|| {
        ["tcp_timeout_close", "udp_timeout"].iter().try_for_each(|name| {
            let lifetime = format!("/proc/sys/net/netfilter/nf_conntrack_{name}");
            fs::write(&lifetime, "3600").context(lifetime)
        })
    })
}

/// Opens that many connections over TCP from the left end to the right, of all families in turn; to
/// the service where there is one.
///
/// # Errors
/// When a socket call fails.
pub fn connect(pair: &Pair, rules: Rules, number: usize) -> Result<Vec<Connection>> {
    let open = |family| match rules {
        Rules::Dnat => Connection::open_at(&pair.left, &pair.right, Family::V4, SERVICE.into()),
        Rules::Plain | Rules::Zone => Connection::open(&pair.left, &pair.right, family),
    };
    FAMILIES.into_iter().cycle().take(number).map(open).collect()
}

/// The entry that a connection of [`connect`] must have, as its two sockets say.
///
/// # Errors
/// When a socket is no longer connected.
pub fn entry(connection: &Connection, rules: Rules) -> Result<Entry> {
    let (client, server) = (connection.client_end()?, connection.server_end()?);
    Ok(Entry {
        netns: client.netns,
        zone: rules.zone(),
        protocol: "tcp".to_owned(),
        original: Tuple { source: client.local, destination: client.peer },
        reply: Tuple { source: server.local, destination: server.peer },
    })
}
