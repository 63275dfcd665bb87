//! Listeners that throw connection requests away, asked beside the loop: with a thousand namespaces that
//! takes its time.

use std::{
    future::pending,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use tokio::task::{JoinHandle, spawn_blocking};

use super::node::Overflows;
use crate::{
    node::{netns::Known, tcp_counters},
    snapshot::Listener,
};

/// Asks one time after the other.
pub(super) struct Listening {
    host_root: PathBuf,
    idle: Option<(Known, Overflows)>,
    busy: Option<JoinHandle<(Known, Overflows, Vec<Listener>)>>,
}

impl Listening {
    /// Begins to read what was counted before.
    pub(super) fn start(host_root: &Path) -> Self {
        let host_root = host_root.to_owned();
        let root = host_root.clone();
        let begin = move || {
            let mut namespaces = Known::new(&root);
            let found = namespaces.look();
            let overflows = Overflows::begin(tcp_counters::read_all(&found), &found, &root);
            (namespaces, overflows, Vec::new())
        };
        Self { host_root, idle: None, busy: Some(spawn_blocking(begin)) }
    }

    /// Asks, unless it is at that.
    pub(super) fn ask(&mut self) {
        if let Some((mut namespaces, mut overflows)) = self.idle.take() {
            let root = self.host_root.clone();
            self.busy = Some(spawn_blocking(move || {
                let found = namespaces.look();
                let tcp = tcp_counters::read_all(&found);
                let (_counters, listeners) = overflows.advance(tcp, &found, &root);
                (namespaces, overflows, listeners)
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
        let (namespaces, overflows, listeners) =
            busy.await.context("the thread that asks listeners ended")?;
        (self.busy, self.idle) = (None, Some((namespaces, overflows)));
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
