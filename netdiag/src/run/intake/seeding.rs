//! From what the node said of older sockets to their rows.

use netdiag_common::globals::Filters;

use super::Intake;
use crate::{
    flow::{Role, table::Seed},
    node::{SeededSocket, Seeds, conntrack::listener::Message},
    signal::conntrack::Entry,
};

impl Intake {
    /// Whether the filters by owner let pass what a dump of sockets says of one.
    pub(in crate::run) fn wants_owner(&mut self, socket: &SeededSocket, filters: &Filters) -> bool {
        match &mut self.sieve {
            Some(sieve) => sieve.wants(socket),
            None => filters.pid.accept(socket.pid.unwrap_or(0)),
        }
    }

    /// Fills in what the kernel knows of what is older than the programs: its sockets, and where connection tracking
    /// sends their packets; once.
    pub(in crate::run) fn seed(&mut self, seeds: &Seeds, now_ns: u64) {
        /// Whatever is told by an event is newer.
        const BEFORE_ALL: u64 = 0;
        let ended = self.ended.take().unwrap_or_default();
        for socket in seeds.sockets.iter().filter(|socket| !ended.has_socket(socket)) {
            // Sockets beyond --max-flows come back with their first event.
            let _no_room = self.table.seed(&seed(socket), now_ns);
        }
        for message in &seeds.translated {
            let Message { netns, zone, protocol, original, .. } = *message;
            let entry = Entry { netns, zone, protocol: protocol.into(), original };
            if !ended.has_entry(&entry) {
                self.table.translated(&entry, &message.reply, BEFORE_ALL);
            }
        }
    }
}

/// What the flow table is to know of it.
pub(in crate::run) fn seed(socket: &SeededSocket) -> Seed {
    Seed {
        key: socket.key,
        cookie: socket.cookie,
        pid: socket.pid,
        comm: socket.comm.clone(),
        place: socket.place.clone(),
        tcp: socket.tcp,
        detail: socket.detail,
        role: socket.asks.map(|asks| if asks { Role::Client } else { Role::Server }),
    }
}
