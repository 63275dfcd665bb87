//! What the key `w` asks for: an interval in files, written beside the screen.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::SyncSender,
    },
    thread,
};

use super::Told;
use crate::{
    run::{keep::keep, voice},
    view::screen::Shot,
};

/// Where dumps go.
pub(super) struct Dumping {
    out: PathBuf,
    node: String,
    told: SyncSender<Told>,
    /// One is being written.
    is_busy: Arc<AtomicBool>,
}

impl Dumping {
    /// Into the directory `out`, in the name of `node`.
    pub(super) fn new(out: PathBuf, node: String, told: SyncSender<Told>) -> Self {
        Self { out, node, told, is_busy: Arc::default() }
    }

    /// Writes an interval beside the screen, since a disk may take its time; says so far what becomes of it.
    pub(super) fn dump(&self, shot: &Shot) -> String {
        if self.is_busy.swap(true, Ordering::SeqCst) {
            return "not written: the one before is still being written".to_owned();
        }
        let is_busy = self.is_busy.clone();
        let (out, node, told) = (self.out.clone(), self.node.clone(), self.told.clone());
        let (snapshot, interval) = (shot.snapshot.clone(), shot.interval.clone());
        let (labels, redactor) = (shot.labels.clone(), shot.redactor.clone());
        let work = move || {
            let redactor = redactor.as_ref();
            let line = keep(&out, &node, snapshot, interval, &labels, redactor, voice::say)
                .unwrap_or_else(|error| format!("not written: {error:#}"));
            is_busy.store(false, Ordering::SeqCst);
            // A screen that is gone tells nobody.
            let _ended = told.send(Told::Said(line));
        };
        match thread::Builder::new().name("dump".to_owned()).spawn(work) {
            Ok(_) => "writing…".to_owned(),
            Err(error) => {
                self.is_busy.store(false, Ordering::SeqCst);
                format!("not written: {error}")
            }
        }
    }
}
