//! A reader that can be made to stand still, as `less` or a stopped terminal does.

use std::{
    io::{self, Read},
    sync::{Arc, Condvar, Mutex, PoisonError},
};

/// Open at first.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// From now on nothing is read, but for a read that is under way.
    pub fn close(&self) {
        self.set(true);
    }

    /// What waits may be read.
    pub fn open(&self) {
        self.set(false);
    }

    /// A reader that stands still while the gate is closed.
    pub fn reader<R: Read>(&self, from: R) -> impl Read + use<R> {
        Gated { from, gate: self.clone() }
    }

    fn set(&self, closed: bool) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = closed;
        self.0.1.notify_all();
    }
}

struct Gated<R> {
    from: R,
    gate: Gate,
}

impl<R: Read> Read for Gated<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (closed, changed) = &*self.gate.0;
        let closed = closed.lock().unwrap_or_else(PoisonError::into_inner);
        drop(changed.wait_while(closed, |closed| *closed).unwrap_or_else(PoisonError::into_inner));
        self.from.read(buffer)
    }
}
