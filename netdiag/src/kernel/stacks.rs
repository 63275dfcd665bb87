//! Stacks that the programs took, by number.

use std::collections::HashMap;

use anyhow::{Context as _, Result};
use aya::maps::{Map, MapData, StackTraceMap};

/// Stacks that the programs can remember, the whole run long: a number that was used again would give
/// a record on its way another one's stack. What finds no room has none, and is counted.
pub(super) const MOST: u32 = 16_384;

/// Reader of the programs' stacks.
pub struct Stacks {
    map: StackTraceMap<MapData>,
    /// Those that were read.
    known: HashMap<u32, Vec<u64>>,
}

impl Stacks {
    pub(super) fn new(map: Map) -> Result<Self> {
        let map = StackTraceMap::try_from(map).context("map STACKS")?;
        Ok(Self { map, known: HashMap::new() })
    }

    /// The addresses of a stack from the innermost on, none where the map has it not.
    pub fn get(&mut self, id: u32) -> Option<&[u64]> {
        if !self.known.contains_key(&id) {
            let stack = self.map.get(&id, 0).ok()?;
            self.known.insert(id, stack.frames().iter().map(|frame| frame.ip).collect());
        }
        self.known.get(&id).map(Vec::as_slice)
    }
}
