//! Connections that are opened, accepted and closed at both ends, as those of a client that has one for each request.

use std::{
    fs,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
};

use anyhow::{Context as _, Result, ensure};
use netdiag::snapshot::Snapshot;

use super::{Load, told};
use crate::{
    counters::TcpCounters,
    namespace::Namespace,
    outcome,
    traffic::{Family, address, listen},
};

/// How many sockets may be in TIME_WAIT. They keep their ports, of which there are not enough, and the more there are
/// the longer it takes to find another one.
const WAITING: &str = "/proc/sys/net/ipv4/tcp_max_tw_buckets";

pub(super) struct Connections<'a> {
    listener: TcpListener,
    to: SocketAddr,
    here: &'a Namespace,
}

impl<'a> Connections<'a> {
    pub(super) fn new(here: &'a Namespace) -> Result<Self> {
        here.run(|| fs::write(WAITING, "0")).context(WAITING)?;
        let (listener, port) = listen(here, Family::V4)?;
        Ok(Self { listener, to: address(Family::V4, true, port), here })
    }
}

impl Load for Connections<'_> {
    fn run(&mut self, times: u32) -> Result<()> {
        for _ in 0..times {
            let client = TcpStream::connect(self.to).context("connect")?;
            let (server, _) = self.listener.accept().context("accept")?;
            // A client that is closed already would be in TIME_WAIT before the server has closed (`tcp_close`,
            // net/ipv4/tcp.c), which without room for that is answered by a reset.
            client.shutdown(Shutdown::Write).context("close")?;
            drop(server);
        }
        Ok(())
    }

    fn happened(&self) -> Result<Option<u64>> {
        let counters = TcpCounters::read(self.here)?;
        let (opened, accepted) = (counters["ActiveOpens"], counters["PassiveOpens"]);
        let in_order = opened == accepted && counters["OutRsts"] == 0;
        ensure!(in_order, "connections did not end as they should: {}", counters.moved());
        Ok(Some(opened.try_into()?))
    }

    fn told(&self, total: &Snapshot) -> Result<Option<u64>> {
        Ok(told(total, "socket", |flow| outcome::metric(flow, "connect").count))
    }
}
