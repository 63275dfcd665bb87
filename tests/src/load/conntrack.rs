//! Conversations that are tracked and forgotten: each packet of a socket finds the entry of the one before too old,
//! which the kernel then frees in its stead, and makes another.

use std::{
    fs,
    net::{Ipv4Addr, UdpSocket},
};

use anyhow::{Context as _, Result};
use netdiag::snapshot::Snapshot;

use super::Load;
use crate::{conntrack::said, dropping, fault, namespace::Namespace};

/// How long an entry lives that nobody has answered, in seconds.
const LIFETIME: &str = "/proc/sys/net/netfilter/nf_conntrack_udp_timeout";

pub(super) struct Entries<'a> {
    client: UdpSocket,
    server: UdpSocket,
    here: &'a Namespace,
}

impl<'a> Entries<'a> {
    pub(super) fn new(here: &'a Namespace) -> Result<Self> {
        // It counts the packets whose entry is new: one that was there would have the mark.
        fault::load(
            here,
            "table inet tracked {\n chain new {\n type filter hook output priority 0;\n \
             ct mark 0 counter ct mark set 1\n }\n}\n",
        )?;
        let [client, server] = here.run(|| -> Result<_> {
            fs::write(LIFETIME, "0").context(LIFETIME)?;
            let bind = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0));
            Ok([bind()?, bind()?])
        })?;
        client.connect(server.local_addr()?)?;
        Ok(Self { client, server, here })
    }
}

impl Load for Entries<'_> {
    fn run(&mut self, times: u32) -> Result<()> {
        for _ in 0..times {
            self.client.send(b"x").context("send")?;
            self.server.recv(&mut [0]).context("receive")?;
        }
        Ok(())
    }

    fn happened(&self) -> Result<Option<u64>> {
        dropping::counted(self.here).map(Some)
    }

    fn told(&self, total: &Snapshot) -> Result<Option<u64>> {
        let Some(said) = &total.conntrack else { return Ok(None) };
        said::sum_in(said, &[self.here.inode()], "confirmed")
    }
}
