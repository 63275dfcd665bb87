//! Metrics to an OpenTelemetry collector (`--otlp`): what the reporter tells of each interval, sent to whoever is there.
//!
//! The reporter hands over the families as they stand and goes on. A thread of its own makes the message of them, and
//! waits for the collector. While it does, the newest interval waits, and nothing else: those before it are left out and
//! counted. All sums are cumulative, so what a collector has not got is in the next interval that it gets.

mod client;
mod resolve;
mod said;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use tokio::{
    sync::{oneshot, watch},
    time::timeout,
};

use self::{
    client::{Client, WHOLE},
    said::Said,
};
use super::{stop::Stop, voice::say};
use crate::{
    cli::value::Collector,
    format::sanitised,
    sandbox,
    view::{metrics::Family, otlp},
};

/// The families at the end of an interval.
#[derive(Clone)]
struct Page {
    /// Which interval it is, from 1 on.
    nth: u64,
    families: Arc<[Family]>,
    end: SystemTime,
}

/// Where families are handed over to be sent.
pub(super) struct Pusher(watch::Sender<Page>);

impl Pusher {
    /// Has them sent as soon as the collector has answered to the ones before. If others wait still, these go instead.
    pub(super) fn push(&self, families: Arc<[Family]>, end: SystemTime) {
        self.0.send_modify(|page| *page = Page { nth: page.nth + 1, families, end });
    }
}

/// The thread that sends. It ends when the pusher is gone and the last interval was sent.
pub(super) struct Pushing {
    ended: oneshot::Receiver<()>,
    pages: watch::Receiver<Page>,
    said: Arc<Mutex<Said>>,
}

/// Sends from now on, in the name of a node, whatever is handed over.
///
/// # Errors
/// There can be no thread.
pub(super) fn start(collector: &Collector, node: &str) -> Result<(Pusher, Pushing)> {
    let client = Client::new(collector)?;
    let node = sanitised(node);
    let none = Page { nth: 0, families: Arc::default(), end: UNIX_EPOCH };
    let (pusher, pages) = watch::channel(none);
    // Dropped with the thread, however that ends.
    let (running, ended) = oneshot::channel();
    let said = Arc::new(Mutex::new(Said::new(collector.to_string())));
    let pushing = Pushing { ended, pages: pages.clone(), said: Arc::clone(&said) };
    thread::Builder::new()
        .name("otlp".to_owned())
        .spawn(move || {
            sandbox::on_thread();
            let _running: oneshot::Sender<()> = running;
            if let Err(error) = run(client, pages, &node, &said) {
                say(&format!("{error:#}; no metrics are sent any more, all else goes on"));
            }
        })
        .context("the thread that sends metrics cannot be started")?;
    say(&format!("metrics go to {collector} at the end of each interval"));
    Ok((Pusher(pusher), pushing))
}

/// Sends until the pusher is gone.
fn run(
    mut client: Client,
    mut pages: watch::Receiver<Page>,
    node: &str,
    said: &Mutex<Said>,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("metrics cannot be sent")?;
    runtime.block_on(async {
        // The last one is there still when the pusher is gone.
        while pages.changed().await.is_ok() {
            let Page { nth, families, end } = pages.borrow_and_update().clone();
            let result = client.push(Bytes::from(otlp::request(&families, node, end))).await;
            let lines = lock(said).pushed(nth, &result, Instant::now());
            lines.iter().for_each(|line| say(line));
        }
    });
    Ok(())
}

impl Pushing {
    /// Waits for the last interval to be sent, as long as any other one may take, and unless somebody asks to end once
    /// more. Says what the collector lacks.
    pub(super) async fn last(self, stop: &mut Stop) {
        let _ended = stop.unless_asked_again(timeout(WHOLE, self.ended)).await;
        let handed = self.pages.borrow().nth;
        let line = lock(&self.said).end(handed);
        line.iter().for_each(|line| say(line));
    }
}

fn lock(said: &Mutex<Said>) -> MutexGuard<'_, Said> {
    said.lock().unwrap_or_else(PoisonError::into_inner)
}
