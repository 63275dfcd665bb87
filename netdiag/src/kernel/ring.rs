//! Reading the rings: records are copied out whole and handed on as bytes.

mod positions;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use anyhow::{Context as _, Result, bail};
use aya::maps::{Map, MapData, RingBuf};
use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::io::unix::AsyncFd;

use self::positions::Positions;

/// Bytes copied out at a time, so that a flood cannot make the copy grow without bound.
const CHUNK: usize = 1 << 20;

/// A ring with its file descriptor in the reactor.
pub(super) struct Ring {
    fd: AsyncFd<Waiting>,
    positions: Positions,
    /// In bytes.
    size: usize,
    /// None while there is nothing to read: what is mapped counts as memory of this process.
    mapped: Option<RingBuf<MapData>>,
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
        let size = data.info().with_context(context)?.max_entries() as usize;
        let fd = data.fd().as_fd().try_clone_to_owned().with_context(context)?;
        let positions = Positions::of(&fd).with_context(context)?;
        // SAFETY: `Waiting` owns the descriptor and gives no other as long as it lives.
        let fd = unsafe { AsyncFd::register(Waiting(fd)) }
            .with_context(|| format!("cannot wait for ring {name}"))?;
        let mapped = Some(whole(fd.get_ref().as_fd()).with_context(context)?);
        Ok(Self { fd, positions, size, mapped })
    }

    /// Whether what waits takes more than half of it.
    pub(super) fn is_half_full(&self) -> bool {
        self.positions.waiting() > self.size / 2
    }

    /// Waits until the kernel asks for the ring to be read, which it does only when it fills up.
    pub(super) async fn wanted(&self) -> Result<()> {
        self.fd.readable().await.context("waiting for a ring")?.clear_ready();
        Ok(())
    }

    /// Copies out what is there, at most about [`CHUNK`] bytes; false when there may be more.
    pub(super) fn take(&mut self, into: &mut Records) -> bool {
        if self.positions.waiting() == 0 {
            self.mapped = None;
            return true;
        }
        // Without memory to map it, it is read the next time; what finds no room until then is counted.
        if self.mapped.is_none() {
            self.mapped = whole(self.fd.get_ref().as_fd()).ok();
        }
        let Some(ring) = &mut self.mapped else { return false };
        while into.bytes.len() < CHUNK {
            let Some(record) = ring.next() else { return true };
            into.put(&record);
        }
        false
    }
}

/// The whole ring.
fn whole(fd: BorrowedFd<'_>) -> Result<RingBuf<MapData>> {
    Ok(Map::RingBuf(MapData::from_fd(fd.try_clone_to_owned()?)?).try_into()?)
}
