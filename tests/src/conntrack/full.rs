//! A table that has no room.

use std::{
    fs,
    io::{self, ErrorKind},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
};

use anyhow::{Result, ensure};

use super::{MAX, Rules, connect, table};
use crate::{
    fault,
    network::{Pair, RIGHT_V4},
    setting::Setting,
    tool,
    traffic::{Connection, process},
};

/// The table of a pair's left end, full of entries that do not give way, as long as it lives.
#[derive(Debug)]
pub struct Full {
    _limit: Setting,
    _connections: Vec<Connection>,
}

impl Full {
    /// Fills the table of an end that tracks ([`super::track`]) and lowers the limit to what is in it.
    ///
    /// # Errors
    /// When a socket call or `conntrack` fails, or the limit cannot be set.
    pub fn new(pair: &Pair) -> Result<Self> {
        let connections = connect(pair, Rules::Plain, 8)?;
        ensure!(table::all_assured(&pair.left)?, "entries that would give way");
        let limit = Setting::new(MAX, &table::count(&pair.left)?)?;
        Ok(Self { _limit: limit, _connections: connections })
    }
}

/// Who wanted to send where when there was no room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Process.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// Where to.
    pub destination: SocketAddr,
    /// Datagrams that it could not send.
    pub datagrams: u64,
}

/// A process of its own that sends each datagram from another port, to one port of the right end.
///
/// # Errors
/// When it cannot be run.
pub fn by_shell(pair: &Pair, port: u16, datagrams: u64) -> Result<Refused> {
    let script = format!(
        "refused=0; for ((i = 0; i < {datagrams}; i++)); do \
         printf x > /dev/udp/{RIGHT_V4}/{port} || ((++refused)); done 2> /dev/null; echo $refused"
    );
    let mut command = pair.left.command(process::COMM)?;
    let child = command.args(["-c", &script]).stdout(Stdio::piped()).spawn()?;
    let pid = child.id();
    let said = tool::finish("the shell", &child.wait_with_output()?)?;
    Ok(Refused {
        pid,
        comm: process::COMM.to_owned(),
        destination: (RIGHT_V4, port).into(),
        datagrams: said.trim().parse()?,
    })
}

/// This process sends datagrams from one socket to one port of the right end.
///
/// # Errors
/// When a socket call fails for another reason than a firewall has.
pub fn by_socket(pair: &Pair, port: u16, datagrams: u64) -> Result<Refused> {
    let destination = SocketAddr::new(RIGHT_V4.into(), port);
    let socket = pair.left.run(any_port)?;
    let mut refused = 0;
    for _ in 0..datagrams {
        refused += u64::from(is_refused(&socket, destination)?);
    }
    let comm = fs::read_to_string("/proc/self/comm")?.trim().to_owned();
    Ok(Refused { pid: std::process::id(), comm, destination, datagrams: refused })
}

fn any_port() -> io::Result<UdpSocket> {
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
}

/// Sends one datagram; whether the own firewall did not let it out.
pub(super) fn is_refused(socket: &UdpSocket, to: SocketAddr) -> io::Result<bool> {
    match socket.send_to(b"netdiag", to) {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(true),
        Err(error) => Err(error),
    }
}

/// Sends until `end`: one thread from ever other ports to one port of the right end, another from one
/// port to ever other ports. Returns how many datagrams were refused.
///
/// # Errors
/// When a socket call fails for another reason than a firewall has.
///
/// # Panics
/// When a thread does.
pub fn flood(pair: &Pair, end: &AtomicBool) -> Result<u64> {
    let from_many = || {
        pair.left.run(|| -> Result<u64> {
            let mut refused = 0;
            while !end.load(Relaxed) {
                refused += u64::from(is_refused(&any_port()?, (RIGHT_V4, 83).into())?);
            }
            Ok(refused)
        })
    };
    let to_many = || -> Result<u64> {
        let socket = pair.left.run(any_port)?;
        let mut refused = 0;
        for port in (1024..=u16::MAX).cycle().take_while(|_| !end.load(Relaxed)) {
            refused += u64::from(is_refused(&socket, (RIGHT_V4, port).into())?);
        }
        Ok(refused)
    };
    thread::scope(|scope| {
        let threads = [scope.spawn(from_many), scope.spawn(to_many)];
        let refused = threads.map(|thread| thread.join().expect("a flooding thread panicked"));
        refused.into_iter().sum()
    })
}

/// What came of a table whose entries may give way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crowd {
    /// Conversations that were begun.
    pub begun: u64,
    /// Those that found no room all the same: they only look nearby for an entry that gives way.
    pub refused: u64,
}

/// Begins conversations that nobody answers, more than there is room for, at an end that tracks. The
/// newer ones take the place of older ones.
///
/// # Errors
/// When a setting cannot be set, or a socket call fails for another reason than a firewall has.
pub fn crowd(pair: &Pair) -> Result<Crowd> {
    /// The fewest lists that the kernel makes (a page of them), so that each is well filled: a search
    /// for an entry that gives way looks at eight.
    const LISTS: u64 = 512;
    const ROOM: u64 = 600;
    const BEGUN: u16 = 700;
    let _limit = Setting::new(MAX, &ROOM)?;
    let _dense = Setting::new("net/netfilter/nf_conntrack_buckets", &LISTS)?;
    let silent = fault::drop_incoming(&pair.right, "meta l4proto udp drop")?;
    // Entries end only because they give way, however long a slow machine takes.
    pair.left.run(|| fs::write("/proc/sys/net/netfilter/nf_conntrack_udp_timeout", "600"))?;
    let socket = pair.left.run(any_port)?;
    let mut refused = 0;
    for port in 20_000..20_000 + BEGUN {
        refused += u64::from(is_refused(&socket, (RIGHT_V4, port).into())?);
    }
    silent.end()?;
    Ok(Crowd { begun: BEGUN.into(), refused })
}
