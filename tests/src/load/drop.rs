//! Packets that a firewall drops as they are delivered, all of one conversation.

use std::net::{Ipv4Addr, UdpSocket};

use anyhow::{Context as _, Result};
use netdiag::snapshot::Snapshot;

use super::{Load, told};
use crate::{
    dropping,
    fault::{self, Fault},
    namespace::Namespace,
    outcome,
};

/// Nobody is there, and none of the ports that the kernel gives out.
const PORT: u16 = 83;

pub(super) struct Drops<'a> {
    socket: UdpSocket,
    here: &'a Namespace,
    _firewall: Fault<'a>,
}

impl<'a> Drops<'a> {
    pub(super) fn new(here: &'a Namespace) -> Result<Self> {
        let socket = here.run(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)))?;
        socket.connect((Ipv4Addr::LOCALHOST, PORT))?;
        let firewall = fault::drop_delivered(here, &format!("udp dport {PORT} counter drop"))?;
        Ok(Self { socket, here, _firewall: firewall })
    }
}

impl Load for Drops<'_> {
    fn run(&mut self, times: u32) -> Result<()> {
        for _ in 0..times {
            self.socket.send(b"x").context("send")?;
        }
        Ok(())
    }

    fn happened(&self) -> Result<Option<u64>> {
        dropping::counted(self.here).map(Some)
    }

    fn told(&self, total: &Snapshot) -> Result<Option<u64>> {
        // Other namespaces drop packets of their own as they begin.
        let here = Some(self.here.inode());
        Ok(told(total, "drop", |flow| match flow.netns == here {
            true => outcome::group(flow, "drops").values().sum(),
            false => 0,
        }))
    }
}
