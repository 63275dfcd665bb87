//! Reading what the kernel copied out of packets for programs that cannot read it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    mem,
};

use anyhow::{Context as _, Result};
use aya::{
    maps::{
        Map, MapData, PerfEventArray,
        perf::{PerfBufferError, PerfEvent, PerfEventArrayBuffer},
    },
    util::online_cpus,
};

use super::ring::Records;

/// Pages of all rings together.
const PAGES: usize = 1_024;
/// Pages of a CPU's at most.
const MOST: usize = 64;
/// And at least.
const LEAST: usize = 16;

/// A ring for each CPU that is on. One that is switched off takes its own with it for good (`perf_event_exit_cpu`,
/// kernel/events/core.c), so it gets another one when it is back; what it had none for counts as lost for want of room.
pub(super) struct Packets {
    map: PerfEventArray<MapData>,
    pages: usize,
    rings: BTreeMap<u32, Ring>,
    /// Those that get no more, to be read once.
    past: Vec<PerfEventArrayBuffer<MapData>>,
    refused: Refused,
    record: Vec<u8>,
}

/// What one CPU writes to.
struct Ring {
    buffer: PerfEventArrayBuffer<MapData>,
    heard: Heard,
}

impl Packets {
    pub(super) fn new(map: Map) -> Result<Self> {
        let mut map = PerfEventArray::try_from(map).context("map PACKETS")?;
        let cpus = online_cpus().map_err(|(what, error)| {
            anyhow::Error::new(error).context(format!("which processors are online: {what}"))
        })?;
        let pages = (PAGES / cpus.len().max(1)).clamp(LEAST, MOST);
        let pages = 1 << pages.ilog2();
        let open = |cpu| -> Result<_> {
            let buffer = map.open(cpu, Some(pages));
            let buffer = buffer.with_context(|| format!("a ring for CPU {cpu}"))?;
            Ok((cpu, Ring { buffer, heard: Heard::default() }))
        };
        let rings = cpus.into_iter().map(open).collect::<Result<_>>()?;
        let (past, refused, record) = (Vec::new(), Refused::default(), Vec::new());
        Ok(Self { map, pages, rings, past, refused, record })
    }

    /// Copies out what is there. The program counted what found no room.
    pub(super) fn take(&mut self, into: &mut Records) {
        let Self { rings, past, record, .. } = self;
        for ring in rings.values_mut() {
            ring.heard.anything |= copy(&mut ring.buffer, record, into);
        }
        for mut buffer in past.drain(..) {
            copy(&mut buffer, record, into);
        }
    }

    /// Follows CPUs that are switched off and on; to be called about once a second. `without_room` are the records of
    /// each CPU so far that found no room, here or in the rings of all. Returns what there is to say of it.
    pub(super) fn follow(&mut self, without_room: &[u64]) -> Vec<String> {
        let mut lines = Vec::new();
        // Where that cannot be told, all stays as it is.
        let Ok(online) = online_cpus() else { return lines };
        let off: Vec<u32> =
            self.rings.keys().filter(|cpu| !online.contains(cpu)).copied().collect();
        for cpu in off {
            self.past.extend(self.rings.remove(&cpu).map(|ring| ring.buffer));
        }
        for cpu in online {
            let lost = without_room.get(cpu as usize).copied().unwrap_or(0);
            let ring = self.rings.get_mut(&cpu);
            if ring.is_some_and(|ring| !ring.heard.is_deaf(lost)) {
                continue;
            }
            match self.map.open(cpu, Some(self.pages)) {
                Ok(buffer) => {
                    self.refused.has_one(cpu);
                    let heard = Heard { lost, anything: false };
                    let before = self.rings.insert(cpu, Ring { buffer, heard });
                    self.past.extend(before.map(|ring| ring.buffer));
                }
                // It may be off again by now, or not all the way up.
                Err(error) if is_absent(&error) || !is_online(cpu) => {}
                Err(error) => lines.extend(self.refused.is(cpu, &error)),
            }
        }
        lines
    }
}

/// Whether it says that its CPU takes no events (`perf_event_open`, kernel/events/core.c).
fn is_absent(error: &PerfBufferError) -> bool {
    matches!(
        error,
        PerfBufferError::OpenError { io_error } if io_error.raw_os_error() == Some(libc::ENODEV)
    )
}

fn is_online(cpu: u32) -> bool {
    online_cpus().is_ok_and(|online| online.contains(&cpu))
}

/// CPUs that are on and get no ring.
#[derive(Debug, Default)]
struct Refused(BTreeSet<u32>);

impl Refused {
    /// One of them, and why; what there is to say of it, once until it has one.
    fn is(&mut self, cpu: u32, why: &impl Display) -> Option<String> {
        self.0.insert(cpu).then(|| {
            format!(
                "CPU {cpu} was switched on and gets no ring ({why}), so messages of dns whose bytes lie in pages, over \
                 TCP nearly all, are lost there until it has one (counted as ring_full); it takes CAP_PERFMON or \
                 CAP_SYS_ADMIN and room below the limits of `ulimit -n -l`"
            )
        })
    }

    fn has_one(&mut self, cpu: u32) {
        self.0.remove(&cpu);
    }
}

/// Copies a ring out; whether there was anything in it.
fn copy(
    buffer: &mut PerfEventArrayBuffer<MapData>,
    record: &mut Vec<u8>,
    into: &mut Records,
) -> bool {
    let mut anything = false;
    buffer.for_each(|event| {
        if let PerfEvent::Sample { head, tail } = event {
            record.clear();
            record.extend_from_slice(head);
            record.extend_from_slice(tail);
            into.put(record);
            anything = true;
        }
    });
    anything
}

/// What came out of a ring since it was last asked whether it gets anything.
#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    /// Records of its CPU without room until then.
    lost: u64,
    /// Something came.
    anything: bool,
}

impl Heard {
    /// Whether its CPU was switched off and on again between two looks: one that is full has something in it. Where
    /// the rings of all are full it may seem so, and then another one does no harm.
    fn is_deaf(&mut self, lost: u64) -> bool {
        let is_losing = lost > mem::replace(&mut self.lost, lost);
        let is_silent = !mem::take(&mut self.anything);
        is_losing && is_silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_without_a_ring_is_told_of_once() {
        let mut refused = Refused::default();
        let line = refused.is(3, &"Permission denied").expect("a line");
        assert!(line.starts_with("CPU 3 was switched on and gets no ring (Permission denied)"));
        assert_eq!(refused.is(3, &"Permission denied"), None);
        assert!(refused.is(4, &"Permission denied").is_some(), "another one");
        refused.has_one(3);
        assert!(refused.is(3, &"Permission denied").is_some(), "again");
    }

    #[test]
    fn a_ring_is_deaf_that_loses_and_tells_nothing() {
        let mut heard = Heard::default();
        for (lost, anything, is_deaf) in [
            (0, false, false),
            (0, true, false),
            // It is full.
            (7, true, false),
            (7, false, false),
            (9, false, true),
            (9, false, false),
        ] {
            heard.anything |= anything;
            assert_eq!(heard.is_deaf(lost), is_deaf, "{lost} lost, {anything}");
        }
    }
}
