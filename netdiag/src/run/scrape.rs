//! Metrics over HTTP (`--listen`): what the reporter tells of each interval, for whoever asks for it.
//!
//! They meet at the *board*: the reporter puts up the families as they stand, the server takes what is there. Neither
//! waits for the other: the server has a thread of its own, on which formats are written and slow scrapers are waited
//! for, and the reporter only exchanges a pointer.

mod server;

use std::{
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use anyhow::{Context as _, Result};
use bytes::Bytes;

use super::voice::say;
use crate::{
    exit, sandbox,
    view::metrics::{self, Family, Format},
};

/// The families at a time, and each format of them as soon as somebody has asked for it.
#[derive(Debug, Default)]
struct Page {
    families: Arc<[Family]>,
    written: [OnceLock<Bytes>; Format::ALL.len()],
}

impl Page {
    fn body(&self, format: Format) -> Bytes {
        let write = || Bytes::from(metrics::encoded(&self.families, format));
        self.written[format as usize].get_or_init(write).clone()
    }
}

/// Where the newest page is.
#[derive(Clone, Debug, Default)]
struct Board(Arc<Mutex<Arc<Page>>>);

impl Board {
    fn put_up(&self, families: Arc<[Family]>) {
        let page = Arc::new(Page { families, ..Page::default() });
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = page;
    }

    fn page(&self) -> Arc<Page> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// An address that is listened at.
pub(super) struct Scrape {
    listener: TcpListener,
    address: SocketAddr,
    board: Board,
}

impl Scrape {
    /// Takes the address. Nobody is answered yet.
    ///
    /// # Errors
    /// Wrong usage where it cannot be had.
    pub(super) fn listen(wanted: SocketAddr) -> Result<Self, exit::Error> {
        let refused = |error: std::io::Error| {
            exit::Error::usage(format!(
                "--listen {wanted}: {error}; nothing was started, choose an address of this node and a port that \
                 nobody listens at"
            ))
        };
        let listener = TcpListener::bind(wanted).map_err(refused)?;
        listener.set_nonblocking(true).map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        Ok(Self { listener, address, board: Board::default() })
    }

    /// Answers from now on, until the process ends; gives what is to be fed.
    ///
    /// # Errors
    /// There can be no thread.
    pub(super) fn serve(self) -> Result<Publisher> {
        let board = self.board.clone();
        std::thread::Builder::new()
            .name("metrics".to_owned())
            .spawn(move || {
                sandbox::on_thread();
                if let Err(error) = server::run(self.listener, &self.board) {
                    say(&format!("{error:#}; no metrics are served any more, all else goes on"));
                }
            })
            .context("the thread that serves metrics cannot be started")?;
        say(&format!("metrics are at http://{}/metrics", self.address));
        Ok(Publisher(board))
    }
}

/// Where families are put up for scrapers.
pub(super) struct Publisher(Board);

impl Publisher {
    /// They are there from now on, instead of the ones before.
    pub(super) fn put_up(&self, families: Arc<[Family]>) {
        self.0.put_up(families);
    }
}
