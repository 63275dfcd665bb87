//! How far a ring was written and read, without the ring.

use std::{os::fd::AsFd, sync::atomic::Ordering};

use rustix::{io::Errno, mm::ProtFlags, param::page_size};

use super::part::Part;

/// The first two pages of a ring (`struct bpf_ringbuf`, kernel/bpf/ringbuf.c): each begins with a position, the
/// reader's and the writers'.
pub(super) struct Positions {
    reader: Part,
    writers: Part,
}

impl Positions {
    /// Of the ring behind this descriptor.
    ///
    /// # Errors
    /// It cannot be mapped.
    pub(super) fn of(ring: impl AsFd) -> Result<Self, Errno> {
        let page = page_size();
        Ok(Self {
            reader: Part::map(&ring, 0, page, ProtFlags::READ.union(ProtFlags::WRITE))?,
            writers: Part::map(&ring, page, page, ProtFlags::READ)?,
        })
    }

    /// The reader's, and how many bytes were written beyond it.
    pub(super) fn read(&self) -> (usize, usize) {
        // Nobody else moves it.
        let reader = self.reader.position().load(Ordering::Relaxed);
        // What was written before it is there.
        let writers = self.writers.position().load(Ordering::Acquire);
        (reader, writers.wrapping_sub(reader))
    }

    /// Moves the reader's: what lies before it was read, and may be written over.
    pub(super) fn advance(&self, reader: usize) {
        self.reader.position().store(reader, Ordering::Release);
    }
}
