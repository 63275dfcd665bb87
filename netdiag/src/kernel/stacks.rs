//! Stacks that the programs took, by number.

use std::collections::HashMap;

use anyhow::{Context as _, Result};
use aya::maps::{Map, MapData, StackTraceMap};

/// Stacks that the programs can remember.
pub(super) const MOST: u32 = 4_096;

/// Reader of the programs' stacks.
pub struct Stacks {
    map: StackTraceMap<MapData>,
    /// Those that were read: a number stands for the same stack until it is taken out of the map.
    known: HashMap<u32, Vec<u64>>,
}

impl Stacks {
    pub(super) fn new(map: Map) -> Result<Self> {
        let map = StackTraceMap::try_from(map).context("map STACKS")?;
        Ok(Self { map, known: HashMap::new() })
    }

    /// The addresses of a stack from the innermost on, none where it is gone.
    pub fn get(&mut self, id: u32) -> Option<&[u64]> {
        if !self.known.contains_key(&id) {
            let stack = self.map.get(&id, 0).ok()?;
            self.known.insert(id, stack.frames().iter().map(|frame| frame.ip).collect());
        }
        self.known.get(&id).map(Vec::as_slice)
    }

    /// Makes room for others: takes those out of the map that were read. Records on their way that
    /// name one of them have none then.
    pub fn forget(&mut self) {
        for (id, _) in self.known.drain() {
            // Gone already, at worst.
            let _gone = self.map.remove(&id);
        }
    }
}
