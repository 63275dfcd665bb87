//! Streams of bytes and datagrams, at a pace or as fast as it goes.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    thread,
    time::Duration,
};

use anyhow::Result;
use rustix::net::sockopt;
use serde::{Deserialize, Serialize};

use super::{Pace, count, failed, listen};

/// Sends a stream over each of its connections.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Send {
    /// To whom, each a connection.
    pub to: Vec<SocketAddr>,
    /// Sends a second, each of `chunk` bytes; 0: as fast as it goes.
    pub per_second: f64,
    /// Bytes of a send.
    pub chunk: usize,
    /// Bytes of its send buffer, where it sets one.
    pub send_buffer: Option<usize>,
    /// Bytes a second that the kernel lets out at most, where it sets that.
    pub pacing: Option<u32>,
}

impl Send {
    /// As fast as it goes.
    #[must_use]
    pub const fn to(to: Vec<SocketAddr>) -> Self {
        Self { to, per_second: 0.0, chunk: 64 << 10, send_buffer: None, pacing: None }
    }

    /// So many bytes a second.
    #[must_use]
    pub fn paced(to: Vec<SocketAddr>, bytes_per_second: u64) -> Self {
        const CHUNK: usize = 10_000;
        let per_second = bytes_per_second as f64 / CHUNK as f64;
        Self { per_second, chunk: CHUNK, ..Self::to(to) }
    }

    pub(super) fn begin(&self) {
        for &to in &self.to {
            let this = self.clone();
            thread::spawn(move || {
                if let Err(error) = this.go_on(to) {
                    failed(&error);
                }
            });
        }
    }

    fn go_on(&self, to: SocketAddr) -> io::Result<()> {
        let mut stream = TcpStream::connect(to)?;
        if let Some(bytes) = self.send_buffer {
            sockopt::set_socket_send_buffer_size(&stream, bytes)?;
        }
        if let Some(bytes) = self.pacing {
            pace_by_kernel(&stream, bytes)?;
        }
        let chunk = vec![b'z'; self.chunk];
        let mut pace = Pace::new(self.per_second);
        loop {
            if self.per_second > 0.0 {
                pace.wait();
            }
            stream.write_all(&chunk)?;
            count("sends");
        }
    }
}

/// Sets `SO_MAX_PACING_RATE` (socket(7)).
pub(super) fn pace_by_kernel(socket: &TcpStream, bytes_per_second: u32) -> io::Result<()> {
    let length = size_of_val(&bytes_per_second) as libc::socklen_t;
    let value = (&raw const bytes_per_second).cast();
    let (level, name) = (libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE);
    // SAFETY: `value` points to as many bytes as `length` says.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value, length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes streams.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Receive {
    /// Where it listens.
    pub at: SocketAddr,
    /// Reads a second, each of up to `chunk` bytes; `None`: as they come, 0: none.
    pub per_second: Option<f64>,
    /// Bytes of a read.
    pub chunk: usize,
    /// Bytes of its receive buffer, where it sets one.
    pub receive_buffer: Option<usize>,
}

impl Receive {
    /// Reads all as it comes.
    #[must_use]
    pub const fn at(at: SocketAddr) -> Self {
        Self { at, per_second: None, chunk: 64 << 10, receive_buffer: None }
    }

    pub(super) fn begin(&self) -> Result<()> {
        let listener = listen(self.at, 128, self.receive_buffer)?;
        let this = self.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let this = this.clone();
                thread::spawn(move || this.take(&stream));
            }
        });
        Ok(())
    }

    fn take(&self, mut stream: &TcpStream) {
        let mut room = vec![0; self.chunk];
        let mut pace = Pace::new(self.per_second.unwrap_or_default());
        if self.per_second == Some(0.0) {
            // It holds the connection and reads nothing.
            loop {
                thread::park();
            }
        }
        loop {
            if self.per_second.is_some() {
                pace.wait();
            }
            match stream.read(&mut room) {
                Ok(0) | Err(_) => return,
                Ok(_) => count("reads"),
            }
        }
    }
}

/// Sends datagrams, and takes those that come.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Datagrams {
    /// From where; port 0: from any.
    pub from: SocketAddr,
    /// Where to, if it sends.
    pub to: Option<SocketAddr>,
    /// Datagrams a second.
    pub per_second: f64,
    /// Bytes of each.
    pub bytes: usize,
    /// Each from another port.
    pub from_many: bool,
    /// How many at once each time.
    pub burst: u64,
    /// Their type of service.
    pub tos: u8,
    /// What is in them, if not so many bytes of no meaning.
    pub payload: Vec<u8>,
}

impl Datagrams {
    /// Small ones at a pace.
    #[must_use]
    pub fn to(to: SocketAddr, per_second: f64) -> Self {
        let any = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);
        Self { to: Some(to), per_second, ..Self::taker(any) }
    }

    /// Takes them, and sends none.
    #[must_use]
    pub const fn taker(from: SocketAddr) -> Self {
        Self {
            from,
            to: None,
            per_second: 0.0,
            bytes: 100,
            from_many: false,
            burst: 1,
            tos: 0,
            payload: Vec::new(),
        }
    }

    pub(super) fn begin(&self) -> Result<()> {
        let socket = UdpSocket::bind(self.from)?;
        sockopt::set_ip_tos(&socket, self.tos)?;
        let taking = socket.try_clone()?;
        thread::spawn(move || {
            let mut room = vec![0; 1 << 16];
            loop {
                match taking.recv(&mut room) {
                    Ok(_) => count("taken"),
                    Err(error) => {
                        failed(&error);
                        thread::sleep(Duration::from_millis(1));
                    }
                }
            }
        });
        let Some(to) = self.to else { return Ok(()) };
        let this = self.clone();
        thread::spawn(move || {
            let mut pace = Pace::new(this.per_second);
            let datagram =
                if this.payload.is_empty() { vec![b'd'; this.bytes] } else { this.payload };
            for number in 0_u64.. {
                if number.is_multiple_of(this.burst) {
                    pace.wait();
                }
                let sent = if this.from_many {
                    UdpSocket::bind((this.from.ip(), 0)).and_then(|one| one.send_to(&datagram, to))
                } else {
                    socket.send_to(&datagram, to)
                };
                match sent {
                    Ok(_) => count("sent"),
                    Err(_) => count("unsent"),
                }
            }
        });
        Ok(())
    }
}
