//! Listeners that throw connection requests away, asked beside the loop: with a thousand namespaces that
//! takes its time.

use std::{future::pending, path::PathBuf};

use anyhow::{Context as _, Result};
use tokio::task::{JoinHandle, spawn_blocking};

use super::node::Readings;
use crate::snapshot::Listener;

/// Asks one time after the other.
pub(super) struct Listening {
    idle: Option<Readings>,
    busy: Option<JoinHandle<(Readings, Vec<Listener>)>>,
}

impl Listening {
    /// Begins to read what was counted before.
    pub(super) fn start(host_root: PathBuf) -> Self {
        let begin = move || (Readings::begin(&host_root), Vec::new());
        Self { idle: None, busy: Some(spawn_blocking(begin)) }
    }

    /// Asks, unless it is at that.
    pub(super) fn ask(&mut self) {
        if let Some(mut readings) = self.idle.take() {
            self.busy = Some(spawn_blocking(move || {
                let listeners = readings.advance().listeners;
                (readings, listeners)
            }));
        }
    }

    /// Waits for what it finds, for ever where it is not at that. Nothing is lost when this is dropped
    /// before.
    ///
    /// # Errors
    /// The thread is gone.
    pub(super) async fn found(&mut self) -> Result<Vec<Listener>> {
        let Some(busy) = &mut self.busy else { return pending().await };
        let (readings, listeners) = busy.await.context("the thread that asks listeners ended")?;
        (self.busy, self.idle) = (None, Some(readings));
        Ok(listeners)
    }

    /// Asks for the last time.
    ///
    /// # Errors
    /// As for [`Self::found`].
    pub(super) async fn last(mut self) -> Result<Vec<Listener>> {
        let mut listeners = if self.busy.is_some() { self.found().await? } else { Vec::new() };
        self.ask();
        listeners.extend(self.found().await?);
        Ok(listeners)
    }
}
