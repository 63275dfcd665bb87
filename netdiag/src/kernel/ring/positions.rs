//! How far a ring was written and read, without the ring.

use std::{
    os::fd::AsFd,
    ptr,
    sync::atomic::{AtomicUsize, Ordering},
};

use rustix::{
    io::Errno,
    mm::{MapFlags, ProtFlags, mmap, munmap},
    param::page_size,
};

/// The first two pages of a ring (`struct bpf_ringbuf`, kernel/bpf/ringbuf.c): each begins with a position, the
/// reader's and the writers'. The ring itself, which the kernel maps twice, counts as memory of this process
/// for as long as it is mapped.
pub(super) struct Positions(*mut AtomicUsize);

// SAFETY: what is there is only read, atomically.
unsafe impl Send for Positions {}

impl Positions {
    /// Of the ring behind this descriptor.
    ///
    /// # Errors
    /// It cannot be mapped.
    pub(super) fn of(ring: impl AsFd) -> Result<Self, Errno> {
        // SAFETY: a new mapping, anywhere.
        let pages = unsafe {
            mmap(ptr::null_mut(), 2 * page_size(), ProtFlags::READ, MapFlags::SHARED, ring, 0)
        }?;
        Ok(Self(pages.cast()))
    }

    /// Bytes that were written and not read.
    pub(super) fn waiting(&self) -> usize {
        let at = |bytes: usize| {
            // SAFETY: inside the mapping, and aligned, since a page begins there.
            unsafe { &*self.0.byte_add(bytes) }.load(Ordering::Acquire)
        };
        // The reader's first: it does not overtake the writers.
        let read = at(0);
        at(page_size()).wrapping_sub(read)
    }
}

impl Drop for Positions {
    fn drop(&mut self) {
        // SAFETY: mapped by `of`, and no reference into it is left.
        let _unmapped = unsafe { munmap(self.0.cast(), 2 * page_size()) };
    }
}
