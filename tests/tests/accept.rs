//! Connections that an application accepts late: how long each waited, by the clock of who accepts.

use std::{
    collections::BTreeSet,
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use netdiag::snapshot::Snapshot;
use netdiag_tests::{
    attempt::skipped,
    facts::Facts,
    machine,
    netdiag::Netdiag,
    network::Pair,
    outcome::{flow_of, flows_of, in_namespaces, metric},
    random::Random,
    requirement::alone,
    source,
    traffic::{End, Family, address, canonical, end_by_reset, listen},
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

/// Arguments of a netdiag: none, or a filter that lets pass what is watched or something else.
const VARIANTS: usize = 4;

const WAYS: [By; 3] = [By::Accept, By::Accept4, By::Epoll];

/// A connection that may wait for accept.
struct Connected {
    client: TcpStream,
    /// The end that is to be accepted.
    end: End,
    /// The client's clock before connect, and when the server's end had the last of the handshake.
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
    /// It waited no less than that and no more.
    fn bounds(&self) -> [Duration; 2] {
        let Self { connected, between, .. } = self;
        [between[0] - connected.between[1], between[1] - connected.between[0]]
    }
}

fn connect(pair: &Pair, server: SocketAddr) -> Result<Connected> {
    let (client, began) = pair.left.run(|| {
        let began = Instant::now();
        io::Result::Ok((TcpStream::connect(server)?, began))
    })?;
    pair.wait_until_received()?;
    let between = [began, Instant::now()];
    let peer = canonical(client.local_addr()?);
    let end = End { netns: pair.right.inode(), local: canonical(server), peer };
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

/// Each source with the number of each of these many variants of arguments; where all takes a multiple, only the
/// first source has others than the first.
fn combinations(variants: usize) -> Result<BTreeSet<(String, usize)>> {
    let sources = source::loading("socket")?.into_iter().enumerate();
    let each = sources.flat_map(|(nth, forced)| {
        let most = if nth == 0 { variants } else { machine::amount(variants, 1) };
        (0..most).map(move |variant| (forced.clone(), variant))
    });
    Ok(each.collect())
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
        // A histogram has two significant digits.
        let inside = found <= most.mul_f64(1.01) && found >= least.mul_f64(0.99);
        facts.holds(format_args!("{found:?} is in {least:?} to {most:?}"), inside);
    }
    Ok(())
}

/// Samples of all flows.
fn samples(total: &Snapshot) -> u64 {
    total.flows.iter().map(|flow| metric(flow, "accept_wait").count).sum::<u64>()
        + metric(&total.other, "accept_wait").count
}

/// Every way to accept by every source, with and without filters that decide late: one sample for each
/// connection. A call of accept that is older than the programs returns one that is not, and it has its
/// sample, too. Neither a connection that nobody accepts nor one that a filter leaves out has one, and
/// nothing is wrong or pending for it.
#[test]
fn a_connection_waits_as_long_as_its_server_lets_it() -> Result<()> {
    let _alone = alone();
    // Of those that watch the same traffic each needs one run in which the kernel skips none of its programs: the more
    // there are, the likelier it is that one of them is skipped.
    let mut unseen = combinations(VARIANTS)?;
    source::until_unskipped(|| {
        let pair = Pair::new()?;
        let (calling, calling_port) = listen(&pair.right, Family::V4)?;
        let server = thread::spawn(move || {
            let accepted = calling.accept();
            (accepted, Instant::now())
        });
        let (idle, idle_port) = listen(&pair.right, Family::V4)?;
        thread::sleep(Duration::from_millis(100));
        let (own, right) = (std::process::id().to_string(), pair.right.inode().to_string());
        let filters = [["--pid", &own], ["--netns", &right], ["--pid", "1"]];
        let [of_own, of_right, of_another] = filters.each_ref().map(<[_; 2]>::as_slice);
        let variants: [&[&str]; VARIANTS] = [&[], of_own, of_right, of_another];
        let watch = |(forced, variant): &(String, usize)| {
            let netdiag = Netdiag::live_by(forced, variants[*variant])?;
            Ok((forced.clone(), *variant, netdiag))
        };
        let watching = unseen.iter().map(watch).collect::<Result<Vec<_>>>()?;

        let at_once = connect(&pair, address(Family::V4, false, calling_port))?;
        let (accepted, returned) = server.join().expect("the server panicked");
        let took = returned - at_once.between[0];
        let (socket, _) = accepted?;
        end_by_reset([&at_once.client, &socket])?;
        drop(socket);

        let to = address(Family::V4, false, idle_port);
        let left =
            (0..machine::amount(10, 3)).map(|_| connect(&pair, to)).collect::<Result<Vec<_>>>()?;

        let mut random = Random::default();
        let mut all = Vec::new();
        for (family, way) in WAYS.into_iter().flat_map(|way| [(Family::V4, way), (Family::V6, way)])
        {
            let (listener, port) = listen(&pair.right, family)?;
            let to = address(family, false, port);
            let waiting =
                (0..machine::amount(5, 2)).map(|_| connect(&pair, to)).collect::<Result<_>>()?;
            all.extend(accept_late(way, &listener, waiting, || random.pause())?);
        }
        drop(idle);

        for (forced, variant, netdiag) in watching {
            let arguments = variants[variant];
            let mut facts = Facts::new();
            facts.note(format_args!("{forced} {arguments:?}"));
            let outcome = netdiag.stop()?;
            let total = outcome.total()?;
            if skipped(total, &["socket"]).is_some() {
                Facts::only_at_rest(total);
                continue;
            }
            let of_pair: u64 = in_namespaces(total, &[pair.left.inode(), pair.right.inode()])
                .map(|flow| metric(flow, "accept_wait").count)
                .sum();
            if arguments == of_another {
                facts.equal("samples", of_pair, 0);
            } else {
                check(&mut facts, total, &all)?;
                let wait = metric(flow_of(total, &at_once.end)?, "accept_wait");
                facts.equal("samples of who was waiting already", wait.count, 1);
                let found = Duration::from_nanos(wait.max_ns.unwrap_or_default());
                facts.holds(
                    format_args!("{found:?} of at most {took:?}"),
                    found <= took.mul_f64(1.02),
                );
                // Without a filter others of the node may accept, too.
                let found = if arguments.is_empty() { of_pair } else { samples(total) };
                facts.equal("samples of all flows", found, all.len() as u64 + 1);
            }
            // Whose it will be is not known under a filter by owner.
            for connected in left.iter().filter(|_| arguments != of_own) {
                let found = flows_of(total, &connected.end);
                let is_shown = arguments != of_another;
                facts.equal("one that waits is shown", found.len(), usize::from(is_shown));
            }
            facts.at_rest(total);
            facts.lossless(total);
            facts.finish();
            unseen.remove(&(forced, variant));
        }
        Ok(unseen.is_empty())
    })
}

/// A full accept queue: the last one waits for all before it.
#[test]
fn many_wait_at_once() -> Result<()> {
    let _alone = alone();
    source::until_unskipped(|| {
        let mut facts = Facts::new();
        let pair = Pair::new()?;
        let (listener, port) = listen(&pair.right, Family::V4)?;
        let filter = port.to_string();
        let netdiag = Netdiag::live(&["--signals", "socket", "--local-port", &filter])?;
        let to = address(Family::V4, false, port);
        let waiting =
            (0..machine::amount(64, 12)).map(|_| connect(&pair, to)).collect::<Result<Vec<_>>>()?;
        let mut random = Random::default();
        let accepted = accept_late(By::Accept4, &listener, waiting, || random.pause())?;
        let outcome = netdiag.stop()?;
        let total = outcome.total()?;
        if skipped(total, &["socket"]).is_some() {
            Facts::only_at_rest(total);
            return Ok(false);
        }
        check(&mut facts, total, &accepted)?;
        facts.equal("samples of all flows", samples(total), accepted.len() as u64);
        facts.at_rest(total);
        facts.lossless(total);
        facts.finish();
        Ok(true)
    })
}
