//! Where the time of a conversation goes: each layer takes what it was made to take, and nothing of it is
//! charged to another one.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use netdiag::snapshot::Flow;
use netdiag_tests::{
    attempt::{Spoilt, Watched, skipped, until_whole},
    facts::Facts,
    fault, machine,
    netdiag::Netdiag,
    network::{Pair, RIGHT_V4},
    outcome::{count, flow_of, metric},
    random::Random,
    requirement::alone,
    source,
    traffic::{Connection, End, Family, read_bytes, send_once},
};
use rustix::event::{PollFd, PollFlags, poll};

/// Turns of a conversation.
const TURNS: u32 = 8;
/// Bytes of a request, and of a reply.
const BYTES: usize = 100;

/// What was set.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// From one end to the other.
    one_way: Duration,
    /// From the connection to its acceptance.
    accept: Duration,
    /// From a request to its being read.
    read: Duration,
    /// From there to the reply.
    think: Duration,
}

impl Plan {
    fn round_trip(self) -> Duration {
        2 * self.one_way
    }

    fn service(self) -> Duration {
        self.read + self.think
    }
}

/// What the client's own clock says.
#[derive(Debug)]
struct Said {
    connect: Duration,
    responses: Vec<Duration>,
}

fn wait_for_something(socket: &impl std::os::fd::AsFd) -> Result<()> {
    poll(&mut [PollFd::new(socket, PollFlags::IN)], None)?;
    Ok(())
}

/// Waits as planned before each step.
fn serve(listener: &TcpListener, plan: Plan) -> Result<TcpStream> {
    wait_for_something(listener)?;
    thread::sleep(plan.accept);
    let (mut socket, _) = listener.accept()?;
    socket.set_nodelay(true)?;
    let mut message = [0; BYTES];
    for _ in 0..TURNS {
        wait_for_something(&socket)?;
        thread::sleep(plan.read);
        socket.read_exact(&mut message)?;
        thread::sleep(plan.think);
        socket.write_all(&message)?;
    }
    Ok(socket)
}

fn ask(to: SocketAddr) -> Result<(TcpStream, Said)> {
    let began = Instant::now();
    let mut socket = TcpStream::connect(to)?;
    let connect = began.elapsed();
    socket.set_nodelay(true)?;
    let mut message = [0; BYTES];
    let mut responses = Vec::new();
    for _ in 0..TURNS {
        socket.write_all(&message)?;
        let sent = Instant::now();
        wait_for_something(&socket)?;
        responses.push(sent.elapsed());
        socket.read_exact(&mut message)?;
    }
    Ok((socket, Said { connect, responses }))
}

/// A share of a flow's time.
fn spent(flow: &Flow, key: &str) -> Option<Duration> {
    count(flow, &format!("spent_ns.{key}")).map(Duration::from_nanos)
}

/// That a response is the sum of its parts.
fn adds_up(facts: &mut Facts, client: &Flow) {
    const PARTS: [&str; 4] =
        ["network_path", "network_queueing", "network_stalls", "peer_application"];
    let sum: Option<Duration> = PARTS.into_iter().map(|key| spent(client, key)).sum();
    let all = count(client, "response_ns").map(Duration::from_nanos);
    facts.equal("the parts of all responses", sum, all);
}

/// That a time is what was set, within 5 % or 1 ms, or what clocks of our own say where the machine was busy:
/// at most so much.
fn holds(facts: &mut Facts, what: &str, found: Option<u64>, set: Duration, most: Duration) {
    let found = Duration::from_nanos(found.unwrap_or_default());
    let slack = set.mul_f64(0.05).max(Duration::from_millis(1));
    let most = most.mul_f64(1.01).max(set + slack);
    facts.holds(format_args!("{what}: {found:?} is {set:?}, at most {most:?}"), {
        found + slack >= set && found <= most
    });
}

/// What the numbers of a conversation are made of.
const SIGNALS: [&str; 4] = ["socket", "send", "rtt", "turn"];

fn conversation(plan: Plan, arguments: &[&str]) -> Result<Option<Spoilt>> {
    let pair = Pair::distant(plan.one_way)?;
    let watched = Watched::new([&pair.left, &pair.right])?;
    let netdiag = Netdiag::live(arguments)?;
    let listener = pair.right.run(|| TcpListener::bind((RIGHT_V4, 0)))?;
    let to = listener.local_addr()?;
    let (server, (client, said)) = thread::scope(|scope| -> Result<_> {
        let server = scope.spawn(|| serve(&listener, plan));
        let asked = pair.left.run(|| ask(to))?;
        Ok((server.join().map_err(|_| anyhow!("the server panicked"))??, asked))
    })?;
    let ends = [(&pair.left, &client), (&pair.right, &server)].map(|(namespace, socket)| {
        let (local, peer) = (socket.local_addr()?, socket.peer_addr()?);
        anyhow::Ok(End { netns: namespace.inode(), local, peer })
    });
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;
    if let Some(spoilt) = watched.sent_again()?.or(skipped(total, &SIGNALS)) {
        Facts::only_at_rest(total);
        return Ok(Some(spoilt));
    }
    let [client, server] = ends;
    let (client, server) = (flow_of(total, &client?)?, flow_of(total, &server?)?);
    let mut facts = Facts::new();
    facts.note(format_args!("{arguments:?} {plan:?} {said:?}\n{client:?}\n{server:?}"));

    let path = plan.round_trip();
    let longest = said.responses.iter().copied().max().unwrap_or_default();
    let unset = longest.saturating_sub(path + plan.service());
    holds(&mut facts, "rtt_min", client.rtt_min_ns, path, said.connect);
    let connect = metric(client, "connect").max_ns;
    holds(&mut facts, "connect", connect, path, said.connect);
    let response = metric(client, "response");
    facts.equal("responses", response.count, u64::from(TURNS));
    holds(&mut facts, "response", response.p50_ns, path + plan.service(), longest);
    let service = metric(server, "service");
    facts.equal("services", service.count, u64::from(TURNS));
    holds(&mut facts, "service", service.p50_ns, plan.service(), longest);
    let read_wait = metric(server, "read_wait");
    holds(&mut facts, "read_wait", read_wait.p50_ns, plan.read, plan.read + unset);
    let processing = metric(server, "processing").p50_ns;
    holds(&mut facts, "processing", processing, plan.think, plan.think + unset);
    let accept = metric(server, "accept_wait").p50_ns;
    holds(&mut facts, "accept_wait", accept, plan.accept, plan.accept + said.connect + unset);

    // Whose time it was, as either end sees it, in the mean of all turns.
    let mut share = |what: &str, flow: &Flow, key: &str, set: Duration, most: Duration| {
        let mean = spent(flow, key).map(|all| all / TURNS);
        let ns = mean.and_then(|mean| u64::try_from(mean.as_nanos()).ok());
        holds(&mut facts, &format!("{what}: {key}"), ns, set, most);
    };
    let mean = said.responses.iter().sum::<Duration>() / TURNS;
    // The first request waits to be accepted with its connection.
    let application = plan.service() + plan.accept / TURNS;
    share("client", client, "network_path", path, mean.saturating_sub(application));
    // Where the machine is busy a round trip takes longer than planned, and that is known for what it is.
    let queueing = spent(client, "network_queueing").unwrap_or_default() / TURNS;
    // So is a path that was never as short as planned: its smallest round trip is what each turn is held to take.
    let beyond =
        client.rtt_min_ns.map_or(Duration::ZERO, Duration::from_nanos).saturating_sub(path);
    let peer = application.saturating_sub(queueing + beyond);
    share("client", client, "peer_application", peer, mean.saturating_sub(path));
    let most = mean.saturating_sub(path + application);
    share("client", client, "network_queueing", Duration::ZERO, most);
    share("server", server, "local_application", application, mean.saturating_sub(path));
    adds_up(&mut facts, client);
    facts.equal("stalls", spent(client, "network_stalls"), Some(Duration::ZERO));
    facts.equal(
        "a server waits for nobody",
        spent(server, "peer_application"),
        Some(Duration::ZERO),
    );
    for (end, key) in
        [(client, "local_application"), (client, "local_send"), (server, "local_send")]
    {
        let (own, most) = (spent(end, key), mean.saturating_sub(path + application) * TURNS);
        let most = most + TURNS * Duration::from_millis(1);
        facts.holds(
            format_args!("{key}: {own:?}, at most {most:?}"),
            own.is_some_and(|own| own <= most),
        );
    }
    facts.at_rest(total);
    facts.finish();
    Ok(None)
}

#[test]
fn each_layer_takes_what_it_was_made_to_take() -> Result<()> {
    let _alone = alone();
    let mut random = Random::default();
    for forced in source::loading("turn")? {
        let [one_way, accept, read, think] = [(); 4].map(|()| random.pause());
        let plan = Plan { one_way, accept, read, think };
        until_whole(|| conversation(plan, &["--source", &forced]))?;
    }
    Ok(())
}

/// The path's share is that of the path, whoever is slow, and the application's that of the application.
#[test]
fn neither_a_slow_server_nor_a_slow_link_is_taken_for_the_other() -> Result<()> {
    let _alone = alone();
    let slow = Duration::from_millis(machine::amount(40, 400));
    let quick = slow / 20;
    for (one_way, think) in [(quick, slow), (slow, quick)] {
        let plan = Plan { one_way, accept: quick, read: Duration::ZERO, think };
        until_whole(|| conversation(plan, &[]))?;
    }
    Ok(())
}

/// A request that is lost on its way: neither application has anything to do with what that costs.
#[test]
fn what_is_lost_is_a_stall_of_the_network() -> Result<()> {
    let _alone = alone();
    for forced in source::loading("turn")? {
        until_whole(|| {
            let pair = Pair::new()?;
            let netdiag = Netdiag::live(&["--source", &forced])?;
            let connection = Connection::open(&pair.left, &pair.right, Family::V4)?;
            let lost = fault::drop_incoming(&pair.right, "meta l4proto tcp drop")?;
            let began = Instant::now();
            send_once(&connection.client, b"request")?;
            // Past two retransmissions at least; the third or a later one arrives.
            thread::sleep(Duration::from_millis(machine::amount(700, 1_500)));
            // Whatever was sent until now is lost.
            let held = began.elapsed();
            lost.end()?;
            read_bytes(&connection.server, 7)?;
            send_once(&connection.server, b"answer")?;
            read_bytes(&connection.client, 6)?;
            let all = began.elapsed();
            let end = connection.client_end()?;
            let outcome = netdiag.stop()?;
            let total = outcome.total()?;
            if let Some(spoilt) = skipped(total, &["send", "retransmit", "turn"]) {
                Facts::only_at_rest(total);
                return Ok(Some(spoilt));
            }
            let client = flow_of(total, &end)?;
            let mut facts = Facts::new();
            facts.note(format_args!("{forced}: {client:?}"));
            let stalled = spent(client, "network_stalls").unwrap_or_default();
            facts.holds(format_args!("{held:?} <= {stalled:?} <= {all:?}"), {
                held <= stalled && stalled <= all
            });
            let peer = spent(client, "peer_application").unwrap_or_default();
            facts.holds(format_args!("{peer:?} is the rest"), peer <= all - stalled);
            adds_up(&mut facts, client);
            facts.at_rest(total);
            facts.finish();
            Ok(None)
        })?;
    }
    Ok(())
}
