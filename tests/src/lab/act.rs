//! What a process of the lab does. Each actor is a process of its own, so that its sockets have an owner with
//! a name: this very program once more, told by the environment what to do ([`perform`]).

mod ask;
mod crowd;
mod flood;
mod names;
mod serve;
mod stream;

use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, Read as _, Write as _},
    net::SocketAddr,
    process,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

pub use self::{
    ask::{Ask, End},
    crowd::{Accept, Each, Open, Then},
    flood::{Races, Syns},
    names::{Bad, Dns, Resolve},
    serve::Serve,
    stream::{Datagrams, Receive, Send},
};

/// Holds a [`Part`] as JSON.
pub(super) const VARIABLE: &str = "NETDIAG_LAB_PART";
/// Before each line that an actor prints for the lab.
pub(super) const MARK: &str = "netdiag-lab: ";
/// Line by which it says that it listens, or has begun.
pub(super) const READY: &str = "ready";

/// An actor: what it is called, and what it does.
#[derive(Debug, Serialize, Deserialize)]
pub struct Part {
    /// Name of the process, 15 bytes at most.
    pub comm: String,
    /// What it does.
    pub act: Act,
}

/// What an actor does until its standard input ends.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Act {
    /// Answers requests.
    Serve(Serve),
    /// Asks, and waits for answers.
    Ask(Ask),
    /// Sends a stream.
    Send(Send),
    /// Takes streams.
    Receive(Receive),
    /// Accepts many connections.
    Accept(Accept),
    /// Opens many connections.
    Open(Open),
    /// Answers queries for names.
    Dns(Dns),
    /// Asks for names.
    Resolve(Resolve),
    /// Sends datagrams.
    Datagrams(Datagrams),
    /// Floods a listener.
    Syns(Syns),
    /// Lets datagrams race for a place in a table.
    Races(Races),
}

/// Does what the environment says and never returns, if it says anything. For the first lines of a program
/// that uses the lab, or for a test of its own in a binary of tests.
///
/// # Panics
/// When the environment's part is none.
pub fn perform() {
    let Ok(part) = env::var(VARIABLE) else { return };
    let part: Part = serde_json::from_str(&part).expect("a part");
    if let Err(error) = play(&part) {
        eprintln!("{}: {error:#}", part.comm);
        process::exit(1);
    }
    process::exit(0);
}

/// Plays it until standard input ends, then says what came of it.
fn play(part: &Part) -> Result<()> {
    for thread in [process::id().to_string(), "thread-self".to_owned()] {
        let path = match thread.as_str() {
            "thread-self" => "/proc/thread-self/comm".to_owned(),
            leader => format!("/proc/self/task/{leader}/comm"),
        };
        fs::write(&path, &part.comm).context(path)?;
    }
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    match &part.act {
        Act::Serve(act) => act.begin()?,
        Act::Ask(act) => act.begin(),
        Act::Send(act) => act.begin(),
        Act::Receive(act) => act.begin()?,
        Act::Accept(act) => act.begin()?,
        Act::Open(act) => act.begin(),
        Act::Dns(act) => act.begin()?,
        Act::Resolve(act) => act.begin()?,
        Act::Datagrams(act) => act.begin()?,
        Act::Syns(act) => act.begin()?,
        Act::Races(act) => act.begin()?,
    }
    tell(READY);
    io::stdin().read_to_end(&mut Vec::new())?;
    tell(&serde_json::to_string(&said())?);
    Ok(())
}

fn tell(line: &str) {
    let mut out = io::stdout().lock();
    // Whoever does not read it any more has gone.
    let _ = writeln!(out, "\n{MARK}{line}").and_then(|()| out.flush());
}

/// What an actor counted, and how long what it did took.
static COUNTS: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());
static MICROSECONDS: Mutex<Vec<u64>> = Mutex::new(Vec::new());

/// Counts one more.
fn count(what: &str) {
    let mut counts = COUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    *counts.entry(what.to_owned()).or_default() += 1;
}

/// Notes how long it took.
fn took(since: Instant) {
    let microseconds = since.elapsed().as_micros() as u64;
    MICROSECONDS.lock().unwrap_or_else(PoisonError::into_inner).push(microseconds);
}

/// Counts a failure by its kind, as `refused`.
fn failed(error: &io::Error) {
    count(match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => "refused",
        Some(libc::ECONNRESET | libc::EPIPE) => "reset",
        Some(libc::EADDRNOTAVAIL) => "no_port",
        Some(libc::ETIMEDOUT | libc::EAGAIN | libc::EINPROGRESS) => "timed_out",
        Some(libc::EHOSTUNREACH | libc::ENETUNREACH) => "unreachable",
        _ if error.kind() == io::ErrorKind::TimedOut => "timed_out",
        _ if error.kind() == io::ErrorKind::UnexpectedEof => "ended",
        _ => "failed",
    });
}

fn said() -> BTreeMap<String, u64> {
    let mut said = COUNTS.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut took = MICROSECONDS.lock().unwrap_or_else(PoisonError::into_inner);
    took.sort_unstable();
    let at = |permille: usize| took.get((took.len() * permille / 1000).min(took.len() - 1));
    if !took.is_empty() {
        for (name, permille) in
            [("p50_us", 500), ("p90_us", 900), ("p99_us", 990), ("max_us", 1000)]
        {
            said.extend(at(permille).map(|value| (name.to_owned(), *value)));
        }
    }
    said
}

/// The times of things that happen so many times a second, from now on. What could not be done in time is
/// done at once, but what is a second late is left out.
struct Pace {
    next: Instant,
    period: Duration,
}

impl Pace {
    fn new(per_second: f64) -> Self {
        Self { next: Instant::now(), period: Duration::from_secs_f64(1.0 / per_second.max(1e-4)) }
    }

    /// Waits for the next.
    fn wait(&mut self) {
        const LATE: Duration = Duration::from_secs(1);
        let now = Instant::now();
        if now > self.next + LATE {
            self.next = now;
        }
        thread::sleep(self.next.saturating_duration_since(now));
        self.next += self.period;
    }
}

/// A listener with such a backlog, and a receive buffer of so many bytes where any are named.
fn listen(
    at: SocketAddr,
    backlog: i32,
    receive_buffer: Option<usize>,
) -> Result<std::net::TcpListener> {
    use rustix::net::{AddressFamily, SocketType, bind, listen, socket, sockopt};
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket(family, SocketType::STREAM, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if let Some(bytes) = receive_buffer {
        sockopt::set_socket_recv_buffer_size(&socket, bytes)?;
    }
    bind(&socket, &at)?;
    listen(&socket, backlog)?;
    Ok(socket.into())
}
