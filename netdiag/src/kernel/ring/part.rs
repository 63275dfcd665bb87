//! A part of a ring, as a mapping.

use std::{
    ffi::c_void,
    os::fd::AsFd,
    ptr,
    sync::atomic::{AtomicU32, AtomicUsize},
};

use bytes::BytesMut;
use rustix::{
    io::Errno,
    mm::{MapFlags, ProtFlags, mmap, munmap},
};

/// Whole pages of what the kernel gives to map of a ring (`ringbuf_map_mmap_kern`, kernel/bpf/ringbuf.c).
pub(super) struct Part {
    begin: *mut c_void,
    bytes: usize,
}

// SAFETY: a mapping is the process's, and what is in it is reached by atomics or copied.
unsafe impl Send for Part {}

impl Part {
    /// So many bytes from there on.
    ///
    /// # Errors
    /// They cannot be mapped.
    pub(super) fn map(
        ring: impl AsFd,
        from: usize,
        bytes: usize,
        protection: ProtFlags,
    ) -> Result<Self, Errno> {
        let (anywhere, from) = (ptr::null_mut(), from as u64);
        // SAFETY: a new mapping.
        let begin = unsafe { mmap(anywhere, bytes, protection, MapFlags::SHARED, ring, from) }?;
        Ok(Self { begin, bytes })
    }

    /// The position at its beginning.
    pub(super) fn position(&self) -> &AtomicUsize {
        // SAFETY: a mapping has a page at least, which begins at a multiple of its size, and is there as long as this.
        unsafe { &*self.begin.cast() }
    }

    /// The word there, which is one of 32 bits at a multiple of its size; none outside.
    pub(super) fn word(&self, at: usize) -> Option<&AtomicU32> {
        if !at.is_multiple_of(4) || at.checked_add(4)? > self.bytes {
            return None;
        }
        // SAFETY: inside, and aligned, since a page begins at a multiple of its size.
        Some(unsafe { &*self.begin.byte_add(at).cast() })
    }

    /// Copies so many bytes from there on behind what is there; false, and none, where not all of them are inside.
    /// Nobody may write to them.
    pub(super) fn copy(&self, at: usize, bytes: usize, to: &mut BytesMut) -> bool {
        if at.checked_add(bytes).is_none_or(|end| end > self.bytes) {
            return false;
        }
        to.reserve(bytes);
        let (from, room) = (self.begin.cast::<u8>(), to.spare_capacity_mut().as_mut_ptr());
        // SAFETY: that much lies inside of the mapping, and that much room was made, which is initialised by it.
        unsafe {
            ptr::copy_nonoverlapping(from.byte_add(at), room.cast(), bytes);
            to.set_len(to.len() + bytes);
        }
        true
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`, and no reference into it is left.
        let _unmapped = unsafe { munmap(self.begin, self.bytes) };
    }
}
