//! Who asks for the metrics of the netdiag that is watched, wherever that serves them.

use std::{
    net::SocketAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use crate::prometheus;

/// Between two times that it asks.
const EVERY: Duration = Duration::from_secs(1);

/// A metric that is always there.
const WANTED: &[u8] = b"netdiag_complete";

/// Where it asks.
#[derive(Debug, Default)]
pub(super) struct Scraped(Mutex<Option<SocketAddr>>);

/// How often there was an answer, and how often not, as while one ends and another one begins.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Answers {
    pub(super) told: u64,
    pub(super) none: u64,
}

impl Scraped {
    /// From now on it is there.
    pub(super) fn moves_to(&self, address: SocketAddr) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(address);
    }

    /// Asks until it is over.
    pub(super) fn ask(&self, over: &AtomicBool) -> Answers {
        let mut answers = Answers::default();
        while !over.load(Ordering::Relaxed) {
            thread::sleep(EVERY);
            let at = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if at.is_some_and(is_told) {
                answers.told += 1;
            } else {
                answers.none += 1;
            }
        }
        answers
    }
}

/// Whether metrics are told there.
pub(super) fn is_told(at: SocketAddr) -> bool {
    let Ok((head, body)) = prometheus::get(at, "/metrics", "") else { return false };
    head.starts_with("HTTP/1.1 200") && body.windows(WANTED.len()).any(|part| part == WANTED)
}
