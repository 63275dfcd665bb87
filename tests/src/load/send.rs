//! Sends of one byte, over a connection of which the thread holds both ends.

use std::io::{Read as _, Write as _};

use anyhow::{Context as _, Result};
use netdiag::snapshot::Snapshot;

use super::Load;
use crate::{
    namespace::Namespace,
    outcome,
    traffic::{Connection, Family},
};

pub(super) struct Sends(Connection);

impl Sends {
    pub(super) fn new(here: &Namespace) -> Result<Self> {
        Ok(Self(Connection::open(here, here, Family::V4)?))
    }
}

impl Load for Sends {
    fn run(&mut self, times: u32) -> Result<()> {
        let mut byte = [b'x'];
        for _ in 0..times {
            self.0.client.write_all(&byte).context("send")?;
            self.0.server.read_exact(&mut byte).context("receive")?;
        }
        Ok(())
    }

    fn happened(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    fn told(&self, total: &Snapshot) -> Result<Option<u64>> {
        let flow = outcome::flow_of(total, &self.0.client_end()?)?;
        Ok(outcome::count(flow, "sends"))
    }
}
