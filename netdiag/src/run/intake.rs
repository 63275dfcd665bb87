//! From the rings into the flow table.

use std::{collections::HashMap, fs, path::PathBuf};

use crate::{
    flow::table::{FlowTable, Seed},
    kernel::tracer::Taken,
    node::SeededSocket,
    signal::{self, Event, socket},
    snapshot::Stream,
};

/// Rounds of one draining: more than the rings hold, so that a flood cannot keep the loop here.
const ROUNDS: usize = 32;

/// What events are folded into.
pub(super) struct Intake {
    pub(super) table: FlowTable,
    pub(super) stream: Stream,
    taken: Taken,
    proc: PathBuf,
    /// Names of processes that were looked up since the last interval.
    names: HashMap<u32, Option<String>>,
}

impl Intake {
    pub(super) fn new(table: FlowTable, proc: PathBuf) -> Self {
        let (stream, taken, names) = (Stream::default(), Taken::default(), HashMap::new());
        Self { table, stream, taken, proc, names }
    }

    /// Takes in what the rings hold; `take` copies a part of it out and says whether it was all.
    pub(super) fn drain(&mut self, now_ns: u64, mut take: impl FnMut(&mut Taken) -> bool) {
        for _ in 0..ROUNDS {
            let all = take(&mut self.taken);
            let Self { table, stream, taken, proc, names } = self;
            let records = taken.sockets.drain().chain(taken.events.drain());
            for record in records.chain(taken.samples.drain()) {
                let samples = signal::samples(&record);
                stream.received += samples;
                let decoded = signal::decode(&record, &mut |mut event| {
                    if let Event::Socket(event) = &mut event {
                        name_process(event, |pid| {
                            let look_up = || {
                                fs::read_to_string(proc.join(format!("{pid}/comm")))
                                    .ok()
                                    .map(|name| name.trim_end().to_owned())
                            };
                            names.entry(pid).or_insert_with(look_up).clone()
                        });
                    }
                    table.apply(&event, now_ns);
                });
                match decoded {
                    Ok(_) => stream.decoded += samples,
                    Err(_) => stream.malformed += samples,
                }
            }
            if all {
                return;
            }
        }
    }

    /// Forgets looked-up names: process ids are used again.
    pub(super) fn forget_names(&mut self) {
        self.names.clear();
    }

    /// Fills in what the kernel's socket dump knows of sockets older than the programs.
    pub(super) fn seed<'a>(
        &mut self,
        sockets: impl Iterator<Item = &'a SeededSocket>,
        now_ns: u64,
    ) {
        for socket in sockets {
            let seed = Seed {
                key: socket.key,
                cookie: socket.cookie,
                pid: socket.pid,
                comm: socket.comm.clone(),
                tcp: socket.tcp,
                ..Seed::default()
            };
            // Sockets beyond --max-flows come back with their first event.
            let _no_room = self.table.seed(&seed, now_ns);
        }
    }
}

/// The record carries the name of the thread; the owner is the process.
fn name_process(event: &mut socket::Event, name: impl FnOnce(u32) -> Option<String>) {
    let Some(pid) = event.pid else { return };
    if event.tid != Some(pid)
        && let Some(name) = name(pid)
    {
        event.comm = Some(name);
    }
}
