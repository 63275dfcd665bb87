//! Reading what the kernel copied out of packets for programs that cannot read it.

use anyhow::{Context as _, Result};
use aya::{
    maps::{
        Map, MapData, PerfEventArray,
        perf::{PerfEvent, PerfEventArrayBuffer},
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

/// A ring for each CPU. A CPU that comes online later has none, and its records count as lost for want of room.
pub(super) struct Packets {
    rings: Vec<PerfEventArrayBuffer<MapData>>,
    record: Vec<u8>,
}

impl Packets {
    pub(super) fn new(map: Map) -> Result<Self> {
        let mut map = PerfEventArray::try_from(map).context("map PACKETS")?;
        let cpus = online_cpus().map_err(|(what, error)| {
            anyhow::Error::new(error).context(format!("which processors are online: {what}"))
        })?;
        let pages = (PAGES / cpus.len().max(1)).clamp(LEAST, MOST);
        let pages = 1 << pages.ilog2();
        let open =
            |cpu| map.open(cpu, Some(pages)).with_context(|| format!("a ring for CPU {cpu}"));
        let rings = cpus.into_iter().map(open).collect::<Result<_>>()?;
        Ok(Self { rings, record: Vec::new() })
    }

    /// Copies out what is there. The program counted what found no room.
    pub(super) fn take(&mut self, into: &mut Records) {
        let Self { rings, record } = self;
        for ring in rings {
            ring.for_each(|event| {
                if let PerfEvent::Sample { head, tail } = event {
                    record.clear();
                    record.extend_from_slice(head);
                    record.extend_from_slice(tail);
                    into.put(record);
                }
            });
        }
    }
}
