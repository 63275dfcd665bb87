//! Reading the rings: records are copied out whole and handed on as bytes.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use anyhow::{Context as _, Result};
use aya::maps::{Map, MapData, RingBuf};
use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::io::unix::AsyncFd;

/// Bytes copied out at a time, so that a flood cannot make the copy grow without bound.
const CHUNK: usize = 1 << 20;

/// A ring with its file descriptor in the reactor.
pub(super) struct Ring {
    ring: AsyncFd<Readable>,
}

struct Readable(RingBuf<MapData>);

impl AsRawFd for Readable {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for Readable {
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
        let ring = RingBuf::try_from(map).with_context(|| format!("map {name}"))?;
        // SAFETY: `Readable` owns the map's descriptor and gives no other as long as it lives.
        let ring = unsafe { AsyncFd::register(Readable(ring)) }
            .with_context(|| format!("cannot wait for ring {name}"))?;
        Ok(Self { ring })
    }

    /// Waits until the kernel asks for the ring to be read, which it does only when it fills up.
    pub(super) async fn wanted(&self) -> Result<()> {
        self.ring.readable().await.context("waiting for a ring")?.clear_ready();
        Ok(())
    }

    /// Copies out what is there, at most about [`CHUNK`] bytes; false when there may be more.
    pub(super) fn take(&mut self, into: &mut Records) -> bool {
        let ring = &mut self.ring.get_mut().0;
        while into.bytes.len() < CHUNK {
            let Some(record) = ring.next() else { return true };
            into.put(&record);
        }
        false
    }
}
