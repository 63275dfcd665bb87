//! Reading the rings: records are copied out whole and handed on as bytes.
//!
//! A ring is read by mappings of no more than there is to read. The kernel enters every page of a mapping as it is made,
//! and a whole ring twice: a millisecond for one of 8 MiB, for however few records, and what is mapped counts as
//! memory of this process.

mod part;
mod positions;

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    sync::atomic::Ordering,
};

use anyhow::{Context as _, Result, bail};
use aya::maps::Map;
use bytes::{BufMut as _, Bytes, BytesMut};
use rustix::{io::Errno, mm::ProtFlags, param::page_size};
use tokio::io::unix::AsyncFd;

use self::{part::Part, positions::Positions};

/// Bytes copied out at a time, so that a flood cannot make the copy grow without bound.
const CHUNK: usize = 1 << 20;

/// `struct bpf_ringbuf_hdr` (include/uapi/linux/bpf.h, `BPF_RINGBUF_HDR_SZ`): a length with two flags, and what is the
/// kernel's own. A record and its header together take multiples of 8 bytes.
const HEADER_BYTES: usize = 8;
/// It is being written.
const BUSY: u32 = 1 << 31;
/// It is none.
const DISCARDED: u32 = 1 << 30;

/// A ring with its file descriptor in the reactor.
pub(super) struct Ring {
    fd: AsyncFd<Waiting>,
    /// A power of two.
    bytes: usize,
    positions: Positions,
}

struct Waiting(OwnedFd);

impl AsRawFd for Waiting {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for Waiting {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Records in the order in which they were submitted.
#[derive(Debug)]
pub struct Records {
    bytes: BytesMut,
    lengths: Vec<usize>,
}

impl Default for Records {
    fn default() -> Self {
        Self { bytes: BytesMut::with_capacity(CHUNK), lengths: Vec::new() }
    }
}

impl Records {
    /// Takes the records out, one [`Bytes`] each.
    pub fn drain(&mut self) -> impl Iterator<Item = Bytes> + '_ {
        let mut whole = self.bytes.split().freeze();
        self.lengths.drain(..).map(move |length| whole.split_to(length))
    }

    /// Adds one behind the others.
    pub(super) fn put(&mut self, record: &[u8]) {
        self.bytes.put_slice(record);
        self.lengths.push(record.len());
    }

    /// Moves all of another here, behind the others.
    pub(super) fn append(&mut self, other: &mut Self) {
        self.bytes.put_slice(&other.bytes);
        other.bytes.clear();
        self.lengths.append(&mut other.lengths);
    }

    /// Bytes of all.
    pub(super) fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }
}

impl Ring {
    pub(super) fn new(map: Map, name: &str) -> Result<Self> {
        let Map::RingBuf(data) = map else { bail!("map {name} is no ring") };
        let context = || format!("ring {name}");
        let bytes = data.info().with_context(context)?.max_entries() as usize;
        let fd = data.fd().as_fd().try_clone_to_owned().with_context(context)?;
        let positions = Positions::of(&fd).with_context(context)?;
        // SAFETY: `Waiting` owns the descriptor and gives no other as long as it lives.
        let fd = unsafe { AsyncFd::register(Waiting(fd)) }
            .with_context(|| format!("cannot wait for ring {name}"))?;
        Ok(Self { fd, bytes, positions })
    }

    /// Whether what waits takes more than half of it.
    pub(super) fn is_half_full(&self) -> bool {
        let (_, waiting) = self.positions.read();
        waiting > self.bytes / 2
    }

    /// Waits until the kernel asks for the ring to be read, which it does only when it fills up.
    pub(super) async fn wanted(&self) -> Result<()> {
        self.fd.readable().await.context("waiting for a ring")?.clear_ready();
        Ok(())
    }

    /// Copies out what is there, at most [`CHUNK`] bytes; false when there may be more.
    pub(super) fn take(&mut self, into: &mut Records) -> bool {
        // Without memory to map it, it is read the next time; what finds no room until then is counted.
        take(self.fd.get_ref(), self.bytes, &self.positions, CHUNK, into).unwrap_or(false)
    }
}

/// Copies out what is in a ring of so many bytes, at most so many; false when there may be more.
fn take(
    ring: impl AsFd,
    bytes: usize,
    positions: &Positions,
    most: usize,
    into: &mut Records,
) -> Result<bool, Errno> {
    let (begin, waiting) = positions.read();
    if waiting == 0 {
        return Ok(true);
    }
    let (page, wanted) = (page_size(), waiting.min(most));
    let offset = begin & (bytes - 1);
    // What is read already of the first page.
    let past = offset % page;
    let length = (past + wanted).next_multiple_of(page);
    // The ring lies behind the pages of the positions, twice, so that what begins near its end goes on behind that.
    let part = Part::map(ring, 2 * page + offset - past, length, ProtFlags::READ)?;
    let mut at = 0;
    while at < wanted {
        let Some(header) = part.word(past + at) else { break };
        let header = header.load(Ordering::Acquire);
        if header & BUSY != 0 {
            // Whatever was written behind it comes after it.
            return Ok(true);
        }
        let record = (header & !DISCARDED) as usize;
        let next = at + (HEADER_BYTES + record).next_multiple_of(8);
        if next > wanted {
            // Not all of it is mapped.
            break;
        }
        if header & DISCARDED == 0 && part.copy(past + at + HEADER_BYTES, record, &mut into.bytes) {
            into.lengths.push(record);
        }
        at = next;
        positions.advance(begin.wrapping_add(at));
    }
    Ok(wanted == waiting)
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
