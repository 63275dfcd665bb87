//! Connections one after the other, over few ports.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    time::Instant,
};

use anyhow::{Context as _, Result};

use super::end_by_reset;
use crate::namespace::Namespace;

/// Lets a namespace have no more ports for its clients than these, which are used again and again.
///
/// # Errors
/// When there is no such setting.
pub fn few_ports(namespace: &Namespace, first: u16, last: u16) -> Result<()> {
    // It is the namespace's own.
    let path = "/proc/sys/net/ipv4/ip_local_port_range";
    namespace.run(|| fs::write(path, format!("{first} {last}"))).context(path)
}

/// Connections, each with one send either way and ended by reset. Gives how many there were until then, at most so many.
///
/// # Errors
/// When a socket call fails.
pub fn storm(namespace: &Namespace, most: usize, until: Instant) -> Result<usize> {
    namespace.run(|| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        for at in 0..most {
            if Instant::now() > until {
                return Ok(at);
            }
            let mut client = TcpStream::connect(address).context("connect")?;
            let (mut server, _) = listener.accept()?;
            client.write_all(b"q")?;
            server.read_exact(&mut [0])?;
            server.write_all(b"a")?;
            client.read_exact(&mut [0])?;
            end_by_reset([&client, &server])?;
        }
        Ok(most)
    })
}
