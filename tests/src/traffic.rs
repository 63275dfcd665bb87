//! Traffic whose every call is known, over sockets made inside namespaces.

pub mod blocked;
pub mod calls;
pub mod lossy;
pub mod process;
pub mod request;
pub mod storm;

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
};

use anyhow::{Context, Result, ensure};
use rustix::net::sockopt;

use crate::{
    namespace::Namespace,
    network::{RIGHT_V4, right_address},
};

/// How a connection is addressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4 sockets.
    V4,
    /// IPv6 sockets.
    V6,
    /// IPv6 sockets that speak IPv4 (RFC 4291 section 2.5.5.2).
    Mapped,
}

/// All of them.
pub const FAMILIES: [Family; 3] = [Family::V4, Family::V6, Family::Mapped];

/// One end of a connection as netdiag should name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Inode of the namespace.
    pub netns: u32,
    /// This end.
    pub local: SocketAddr,
    /// The other end.
    pub peer: SocketAddr,
}

/// A connection with both its sockets in this process.
#[derive(Debug)]
pub struct Connection {
    /// How it is addressed.
    pub family: Family,
    /// Socket that connected.
    pub client: TcpStream,
    /// Socket that was accepted.
    pub server: TcpStream,
    client_netns: u32,
    server_netns: u32,
}

impl Connection {
    /// Connects a socket in `from` to a listener in `to`, the right end of a pair (or the same
    /// namespace, by loopback). Nagle's algorithm is off, so that every send leaves at once.
    ///
    /// # Errors
    /// When a socket call fails.
    pub fn open(from: &Namespace, to: &Namespace, family: Family) -> Result<Self> {
        let loopback = from.inode() == to.inode();
        Self::open_at(from, to, family, address(family, loopback, 0).ip())
    }

    /// [`Self::open`] by another address that leads there, as that of a service does.
    ///
    /// # Errors
    /// When a socket call fails.
    pub fn open_at(from: &Namespace, to: &Namespace, family: Family, ip: IpAddr) -> Result<Self> {
        let (listener, port) = listen(to, family)?;
        Self::open_to(from, to, family, &listener, SocketAddr::new(ip, port))
    }

    /// [`Self::open`] to a listener in `to` that is there already.
    ///
    /// # Errors
    /// When a socket call fails.
    pub fn open_to(
        from: &Namespace,
        to: &Namespace,
        family: Family,
        listener: &TcpListener,
        address: SocketAddr,
    ) -> Result<Self> {
        let client = from
            .run(|| TcpStream::connect(address))
            .with_context(|| format!("connect to {address}"))?;
        let (server, _) = listener.accept()?;
        for socket in [&client, &server] {
            socket.set_nodelay(true)?;
        }
        let (client_netns, server_netns) = (from.inode(), to.inode());
        Ok(Self { family, client, server, client_netns, server_netns })
    }

    /// The end that connected.
    ///
    /// # Errors
    /// When the socket is no longer connected.
    pub fn client_end(&self) -> Result<End> {
        end(&self.client, self.client_netns)
    }

    /// The end that was accepted.
    ///
    /// # Errors
    /// When the socket is no longer connected.
    pub fn server_end(&self) -> Result<End> {
        end(&self.server, self.server_netns)
    }

    /// Closes both ends at once by reset, which leaves nothing to be sent or waited for.
    ///
    /// # Errors
    /// When a socket option cannot be set.
    pub fn reset(self) -> Result<()> {
        end_by_reset([&self.client, &self.server])
    }
}

/// Makes sockets end by reset when they are closed, which leaves nothing to be sent or waited for.
///
/// # Errors
/// When a socket option cannot be set.
pub fn end_by_reset<'a>(sockets: impl IntoIterator<Item = &'a TcpStream>) -> Result<()> {
    for socket in sockets {
        sockopt::set_socket_linger(socket.as_fd(), Some(std::time::Duration::ZERO))?;
    }
    Ok(())
}

/// As netdiag names it: a v4-mapped address is the same as its IPv4 form (RFC 4291 section 2.5.5.2).
#[must_use]
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn end(socket: &TcpStream, netns: u32) -> Result<End> {
    Ok(End { netns, local: canonical(socket.local_addr()?), peer: canonical(socket.peer_addr()?) })
}

/// A listener on all addresses of a namespace, and its port.
///
/// # Errors
/// When a socket call fails.
pub fn listen(namespace: &Namespace, family: Family) -> Result<(TcpListener, u16)> {
    let any: IpAddr = match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 | Family::Mapped => Ipv6Addr::UNSPECIFIED.into(),
    };
    let listener = namespace.run(|| TcpListener::bind((any, 0)))?;
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}

/// Where to connect to for a listener of [`listen`]: on the right end of a pair, or on loopback.
#[must_use]
pub fn address(family: Family, loopback: bool, port: u16) -> SocketAddr {
    let ip = match (family, loopback) {
        (Family::Mapped, true) => Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(),
        (Family::Mapped, false) => RIGHT_V4.to_ipv6_mapped().into(),
        (Family::V4, true) => Ipv4Addr::LOCALHOST.into(),
        (Family::V6, true) => Ipv6Addr::LOCALHOST.into(),
        (Family::V4 | Family::V6, false) => right_address(family),
    };
    SocketAddr::new(ip, port)
}

/// Exactly one send call, which must take all of `bytes`.
///
/// # Errors
/// When it fails or takes less.
pub fn send_once(mut socket: &TcpStream, bytes: &[u8]) -> Result<()> {
    let sent = loop {
        match socket.write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => break result?,
        }
    };
    ensure!(sent == bytes.len(), "a send of {} bytes took {sent}", bytes.len());
    Ok(())
}

/// Reads exactly that many bytes and drops them.
///
/// # Errors
/// When the connection ends before.
pub fn read_bytes(mut socket: &TcpStream, mut bytes: usize) -> Result<()> {
    let mut buffer = vec![0; bytes.min(1 << 16)];
    while bytes > 0 {
        let wanted = bytes.min(buffer.len());
        let got = socket.read(&mut buffer[..wanted])?;
        ensure!(got > 0, "connection ended {bytes} bytes early");
        bytes -= got;
    }
    Ok(())
}

/// Gives the whole process the name that the calling thread has, so that "name of the process" and
/// "name of the thread" are one; threads made from here inherit it.
///
/// # Errors
/// When procfs refuses.
pub fn name_process(name: &str) -> Result<()> {
    std::fs::write("/proc/self/comm", name)?;
    std::fs::write("/proc/thread-self/comm", name)?;
    Ok(())
}
