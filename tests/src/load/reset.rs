//! Connections that are refused: nobody listens, so that one end sends a reset and the other one receives it.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, TcpStream},
};

use anyhow::{Result, ensure};
use netdiag::snapshot::Snapshot;

use super::{Load, told};
use crate::{counters::TcpCounters, namespace::Namespace, outcome};

/// Nobody listens there, and no client has it by chance: it would connect to itself.
const PORT: u16 = 81;

pub(super) struct Resets<'a>(&'a Namespace);

impl<'a> Resets<'a> {
    pub(super) const fn new(here: &'a Namespace) -> Self {
        Self(here)
    }
}

impl Load for Resets<'_> {
    fn run(&mut self, times: u32) -> Result<()> {
        for _ in 0..times {
            let refused = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)).map_err(|e| e.kind());
            ensure!(matches!(refused, Err(ErrorKind::ConnectionRefused)), "{refused:?}");
        }
        Ok(())
    }

    fn happened(&self) -> Result<Option<u64>> {
        Ok(Some(TcpCounters::read(self.0)?["OutRsts"].try_into()?))
    }

    fn told(&self, total: &Snapshot) -> Result<Option<u64>> {
        Ok(told(total, "reset", |flow| outcome::group(flow, "resets_sent").values().sum()))
    }
}
