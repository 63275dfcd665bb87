//! Segments that are lost and sent again at once: of four in a row the first is lost, and what is said of the others
//! tells the sender so, before it has returned from its last call.

use std::io::{Read as _, Write as _};

use anyhow::{Context as _, Result, ensure};
use netdiag::snapshot::Snapshot;

use super::{Load, told};
use crate::{
    counters::TcpCounters,
    fault::{self, Fault},
    namespace::Namespace,
    outcome,
    traffic::{Connection, Family},
};

/// Segments in a row. Three that arrive without the one before them say that it is lost, whatever the clock does
/// (`tcp_rack_reo_wnd`, net/ipv4/tcp_recovery.c); one may, when it comes much later.
const ROW: usize = 4;

pub(super) struct Retransmits<'a> {
    connection: Connection,
    here: &'a Namespace,
    _loss: Fault<'a>,
}

impl<'a> Retransmits<'a> {
    pub(super) fn new(here: &'a Namespace) -> Result<Self> {
        let connection = Connection::open(here, here, Family::V4)?;
        // Only those with data go that way: the server answers by acknowledgements alone. The lost one comes once more.
        let port = connection.server_end()?.local.port();
        let rule = format!("tcp dport {port} numgen inc mod {} 0 drop", ROW + 1);
        let loss = fault::drop_incoming(here, &rule)?;
        Ok(Self { connection, here, _loss: loss })
    }
}

impl Load for Retransmits<'_> {
    fn run(&mut self, times: u32) -> Result<()> {
        let mut row = [b'x'; ROW];
        for _ in 0..times {
            for byte in row {
                self.connection.client.write_all(&[byte]).context("send")?;
            }
            self.connection.server.read_exact(&mut row).context("receive")?;
        }
        Ok(())
    }

    fn happened(&self) -> Result<Option<u64>> {
        let counters = TcpCounters::read(self.here)?;
        let (all, fast) = (counters["RetransSegs"], counters["TCPFastRetrans"]);
        ensure!(all == fast, "not only what was lost was sent again: {}", counters.moved());
        Ok(Some(all.try_into()?))
    }

    fn told(&self, total: &Snapshot) -> Result<Option<u64>> {
        Ok(told(total, "retransmit", |flow| outcome::group(flow, "retransmits").values().sum()))
    }
}
