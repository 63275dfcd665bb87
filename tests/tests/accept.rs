//! Connections that an application accepts late: how long each waited, by the clock of who accepts.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use netdiag::snapshot::Snapshot;
use netdiag_tests::{
    facts::Facts,
    machine,
    namespace::Namespace,
    netdiag::Netdiag,
    network::Pair,
    outcome::{flow_of, flows_of, in_namespaces, metric},
    requirement::alone,
    source,
    traffic::{End, Family, address, end_by_reset, listen},
};
use rustix::{
    event::epoll,
    net::{SocketFlags, accept, accept_with},
};

/// How an application accepts.
#[derive(Clone, Copy, Debug)]
enum By {
    Accept,
    Accept4,
    /// A listener that does not block, when epoll says so.
    Epoll,
}

const WAYS: [By; 3] = [By::Accept, By::Accept4, By::Epoll];

/// A connection that may wait for accept.
struct Connected {
    client: TcpStream,
    /// The end that is to be accepted.
    end: End,
    /// The client's clock before and after connect.
    between: [Instant; 2],
}

/// And that did.
struct Accepted {
    connected: Connected,
    server: TcpStream,
    /// The server's clock before and after accept.
    between: [Instant; 2],
}

impl Accepted {
    /// It waited no less than that, but for how late the last segment of its handshake came, and no more.
    fn bounds(&self) -> [Duration; 2] {
        let Self { connected, between, .. } = self;
        [between[0] - connected.between[1], between[1] - connected.between[0]]
    }
}

fn connect(from: &Namespace, to: &Namespace, server: SocketAddr) -> Result<Connected> {
    let canonical = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
    let (client, between) = from.run(|| {
        let began = Instant::now();
        let client = TcpStream::connect(server)?;
        io::Result::Ok((client, [began, Instant::now()]))
    })?;
    let peer = canonical(client.local_addr()?);
    let end = End { netns: to.inode(), local: canonical(server), peer };
    Ok(Connected { client, end, between })
}

fn accept_by(by: By, listener: &TcpListener) -> Result<OwnedFd> {
    Ok(match by {
        By::Accept => accept(listener)?,
        By::Accept4 => accept_with(listener, SocketFlags::CLOEXEC)?,
        By::Epoll => {
            let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            let data = epoll::EventData::new_u64(1);
            epoll::add(&poll, listener, data, epoll::EventFlags::IN)?;
            let mut events = Vec::with_capacity(1);
            epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None)?;
            accept_with(listener, SocketFlags::NONBLOCK)?
        }
    })
}

/// Accepts connections one by one, each some time after the one before.
fn accept_late(
    by: By,
    listener: &TcpListener,
    waiting: Vec<Connected>,
    mut pause: impl FnMut() -> Duration,
) -> Result<Vec<Accepted>> {
    listener.set_nonblocking(matches!(by, By::Epoll))?;
    let one = |connected: Connected| {
        thread::sleep(pause());
        let called = Instant::now();
        let server = TcpStream::from(accept_by(by, listener)?);
        let between = [called, Instant::now()];
        end_by_reset([&connected.client, &server])?;
        Ok(Accepted { connected, server, between })
    };
    waiting.into_iter().map(one).collect()
}

/// Pauses over a tenfold range, by a seed that is said.
fn pauses(facts: &mut Facts) -> impl FnMut() -> Duration + use<> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let mut state = now.map_or(1, |now| now.as_nanos() as u64) | 1;
    facts.note(format_args!("seed of the pauses: {state}"));
    move || {
        // xorshift64 (Marsaglia, 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        Duration::from_millis(5).mul_f64(10_f64.powf((state >> 11) as f64 / (1_u64 << 53) as f64))
    }
}

/// One sample each, as long as the server's clock says.
fn check(facts: &mut Facts, total: &Snapshot, accepted: &[Accepted]) -> Result<()> {
    for one in accepted {
        let Accepted { connected: Connected { end, .. }, server, .. } = one;
        let wait = metric(flow_of(total, end)?, "accept_wait");
        facts.equal(format_args!("{end:?}: samples"), wait.count, 1);
        facts.equal("it is the end that was accepted", server.peer_addr()?.port(), end.peer.port());
        let found = Duration::from_nanos(wait.max_ns.unwrap_or_default());
        let [least, most] = one.bounds();
        let inside = if machine::emulated() {
            // A segment may be late by many milliseconds.
            found <= most.mul_f64(1.02) && found + Duration::from_millis(50) >= least.mul_f64(0.98)
        } else {
            let bound = most.mul_f64(0.05).max(Duration::from_millis(1));
            found <= most + bound && found + bound >= least
        };
        facts.holds(format_args!("{found:?} is in {least:?} to {most:?}"), inside);
    }
    let samples: u64 =
        total.flows.iter().map(|flow| metric(flow, "accept_wait").count).sum::<u64>()
            + metric(&total.other, "accept_wait").count;
    facts.equal("samples of all flows", samples, accepted.len() as u64);
    Ok(())
}

/// Every way to accept by every source, with and without filters that decide late.
#[test]
fn a_connection_waits_as_long_as_its_server_lets_it() -> Result<()> {
    let _alone = alone();
    let own = std::process::id().to_string();
    for forced in source::loading("socket")? {
        for filter in ["--netns", "--pid"] {
            let mut facts = Facts::new();
            facts.note(format_args!("{forced} {filter}"));
            let pair = Pair::new()?;
            let right = pair.right.inode().to_string();
            let by = if filter == "--pid" { &own } else { &right };
            let netdiag = Netdiag::live(&["--source", &forced, filter, by])?;
            let mut pause = pauses(&mut facts);
            let mut all = Vec::new();
            for (family, way) in
                WAYS.into_iter().flat_map(|way| [(Family::V4, way), (Family::V6, way)])
            {
                let (listener, port) = listen(&pair.right, family)?;
                let to = address(family, false, port);
                let waiting = (0..machine::amount(5, 2))
                    .map(|_| connect(&pair.left, &pair.right, to))
                    .collect::<Result<_>>()?;
                all.extend(accept_late(way, &listener, waiting, &mut pause)?);
            }
            let outcome = netdiag.stop()?;
            let total = outcome.total()?;
            check(&mut facts, total, &all)?;
            facts.at_rest(total);
            facts.lossless(total);
            facts.finish();
        }
    }
    Ok(())
}

/// A full accept queue: the last one waits for all before it.
#[test]
fn many_wait_at_once() -> Result<()> {
    let _alone = alone();
    let mut facts = Facts::new();
    let pair = Pair::new()?;
    let (listener, port) = listen(&pair.right, Family::V4)?;
    let filter = port.to_string();
    let netdiag = Netdiag::live(&["--local-port", &filter])?;
    let to = address(Family::V4, false, port);
    let waiting =
        (0..64).map(|_| connect(&pair.left, &pair.right, to)).collect::<Result<Vec<_>>>()?;
    let pause = pauses(&mut facts);
    let accepted = accept_late(By::Accept4, &listener, waiting, pause)?;
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;
    check(&mut facts, total, &accepted)?;
    facts.at_rest(total);
    facts.lossless(total);
    facts.finish();
    Ok(())
}

/// A call of accept that is older than the programs returns a connection that is not: where the hook is
/// inside the call or at its end, it has its sample.
#[test]
fn a_server_that_was_waiting_already() -> Result<()> {
    let _alone = alone();
    for forced in source::loading("socket")? {
        let mut facts = Facts::new();
        facts.note(&forced);
        let pair = Pair::new()?;
        let (listener, port) = listen(&pair.right, Family::V4)?;
        let server = thread::spawn(move || listener.accept());
        thread::sleep(Duration::from_millis(100));
        let netdiag = Netdiag::live(&["--source", &forced])?;
        let connected = connect(&pair.left, &pair.right, address(Family::V4, false, port))?;
        let (socket, _) = server.join().expect("the server panicked")?;
        let took = connected.between[0].elapsed();
        end_by_reset([&connected.client, &socket])?;
        drop(socket);
        let outcome = netdiag.stop()?;
        let total = outcome.total()?;
        let wait = metric(flow_of(total, &connected.end)?, "accept_wait");
        facts.equal("samples", wait.count, 1);
        let found = Duration::from_nanos(wait.max_ns.unwrap_or_default());
        facts.holds(format_args!("{found:?} of at most {took:?}"), found <= took.mul_f64(1.02));
        facts.at_rest(total);
        facts.finish();
    }
    Ok(())
}

/// Neither a connection that nobody accepts nor one that a filter leaves out has a sample, and nothing is
/// wrong or pending for it.
#[test]
fn what_is_never_accepted_has_no_sample() -> Result<()> {
    let _alone = alone();
    for forced in source::loading("socket")? {
        for filter in [vec![], vec!["--pid", "1"]] {
            let mut facts = Facts::new();
            facts.note(format_args!("{forced} {filter:?}"));
            let pair = Pair::new()?;
            let (idle, idle_port) = listen(&pair.right, Family::V4)?;
            let (busy, busy_port) = listen(&pair.right, Family::V6)?;
            let mut arguments = vec!["--source", &forced];
            arguments.extend(&filter);
            let netdiag = Netdiag::live(&arguments)?;
            let mut left = Vec::new();
            for _ in 0..10 {
                let to = address(Family::V4, false, idle_port);
                left.push(connect(&pair.left, &pair.right, to)?);
            }
            let to = address(Family::V6, false, busy_port);
            let waiting = vec![connect(&pair.left, &pair.right, to)?];
            let accepted = accept_late(By::Accept4, &busy, waiting, || Duration::ZERO)?;
            drop(idle);
            let outcome = netdiag.stop()?;
            let total = outcome.total()?;
            let of_pair: u64 = in_namespaces(total, &[pair.left.inode(), pair.right.inode()])
                .map(|flow| metric(flow, "accept_wait").count)
                .sum();
            facts.equal("samples", of_pair, u64::from(filter.is_empty()));
            for connected in &left {
                let found = flows_of(total, &connected.end);
                facts.equal("its flow is shown", found.len(), usize::from(filter.is_empty()));
            }
            facts.equal("accepted", accepted.len(), 1);
            facts.at_rest(total);
            facts.lossless(total);
            facts.finish();
        }
    }
    Ok(())
}
