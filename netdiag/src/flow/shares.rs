//! What rows counted since the last freeze: apart from them, since most rows have nothing of it most of the time, and in
//! one piece of memory, which goes back when many of them were frozen.

use std::mem;

use slab::Slab;

use super::sums::Sums;

/// Room for so many is kept from one interval to the next.
const KEPT: usize = 4_096;

/// Leads to what a row counted, where it counted anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share(u32);

impl Default for Share {
    fn default() -> Self {
        Self(u32::MAX)
    }
}

/// The shares of all rows.
#[derive(Debug, Default)]
pub(super) struct Shares(Slab<Sums>);

impl Shares {
    /// What a row counted.
    pub(super) fn get(&self, share: Share) -> Option<&Sums> {
        self.0.get(share.0 as usize)
    }

    /// The same, to be added to.
    #[inline]
    pub(super) fn of(&mut self, share: &mut Share) -> &mut Sums {
        if *share == Share::default() {
            *share = Share(self.0.insert(Sums::default()) as u32);
        }
        &mut self.0[share.0 as usize]
    }

    /// Takes out what a row counted.
    pub(super) fn take(&mut self, share: &mut Share) -> Sums {
        let share = mem::take(share);
        self.0.try_remove(share.0 as usize).unwrap_or_default()
    }

    /// Whether there is room for many.
    pub(super) fn is_large(&self) -> bool {
        self.0.capacity() > KEPT
    }

    /// Moves what a row counted, where it counted anything.
    pub(super) fn hand_over(&mut self, share: &mut Share, to: &mut Self) {
        if let Some(sums) = self.0.try_remove(share.0 as usize) {
            *share = Share(to.0.insert(sums) as u32);
        }
    }

    /// Whether no row counted anything.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
