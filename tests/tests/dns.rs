//! Queries of the domain name system: each counted once with its result, wherever it is seen and however it is
//! addressed, with the time that the client's own clock says.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Result, ensure};
use netdiag::snapshot::{CountValue, Flow, Snapshot};
use netdiag_tests::{
    attempt::{Spoilt, Watched, skipped, until_whole},
    dns::{
        self, CLIENT, Deed, PORT, Query, Routed, SERVER, SERVICE, Server, ask, ask_by_tcp, client,
        connect, receive_answer,
    },
    facts::Facts,
    machine,
    namespace::Namespace,
    netdiag::Netdiag,
    network::{LEFT_V4, LEFT_V6, Pair, RIGHT_V4, RIGHT_V6},
    outcome::{count, in_namespaces, metric, status, sum},
    require,
    requirement::{Feature, alone},
    source,
    stream::{self, Stream},
};

/// Result codes as dig names them, and some that have no name.
const RCODES: [(u8, &str); 9] = [
    (0, "NOERROR"),
    (1, "FORMERR"),
    (2, "SERVFAIL"),
    (3, "NXDOMAIN"),
    (4, "NOTIMP"),
    (5, "REFUSED"),
    (9, "NOTAUTH"),
    (11, "DSOTYPENI"),
    (14, "RCODE14"),
];

/// From when on an answer is told for how long it took (`SLOW_NS`, netdiag/src/signal/dns.rs).
const SLOW: Duration = Duration::from_secs(1);

/// What a few answers take.
const DELAY: Duration = Duration::from_millis(20);

/// What was asked of one server by one client.
#[derive(Debug, Default)]
struct Asked {
    queries: u64,
    answers: BTreeMap<String, Option<u64>>,
    /// What each took at least, by the server's clock, and at most, by the client's.
    took: Vec<[Duration; 2]>,
}

impl Asked {
    fn answered(&mut self, rcode: u8, server: &Server, took: Duration) {
        let name = RCODES.iter().find(|(number, _)| *number == rcode);
        let name = name.map_or_else(|| format!("RCODE{rcode}"), |(_, name)| (*name).to_owned());
        self.queries += 1;
        let sum = self.answers.entry(name).or_insert(Some(0));
        *sum = sum.map(|sum| sum + 1);
        self.took.push([server.took(), took]);
    }
}

/// The row of what a client asks a server.
fn row<'a>(
    snapshot: &'a Snapshot,
    netns: u32,
    protocol: &str,
    [asker, server]: [IpAddr; 2],
) -> Result<&'a Flow> {
    let is_it = |flow: &&Flow| {
        flow.netns == Some(netns)
            && flow.protocol.as_deref() == Some(protocol)
            && flow.local.ip == Some(asker)
            && flow.local.port.is_none()
            && flow.peer.ip == Some(server)
            && flow.peer.port == Some(PORT)
    };
    let rows: Vec<_> = snapshot.flows.iter().filter(is_it).collect();
    let askers = snapshot.flows.iter().filter(|flow| flow.local.port.is_none());
    let near: Vec<_> = askers.collect();
    ensure!(rows.len() == 1, "{} rows are of {asker} and {server}: {near:#?}", rows.len());
    Ok(rows[0])
}

/// Queries of all rows, those of nobody among them: all of a netdiag that is narrowed to a test's namespaces.
fn queries(snapshot: &Snapshot) -> u64 {
    sum(snapshot.flows.iter().chain([&snapshot.other]), "dns.queries")
}

/// netdiag by this source, narrowed to namespaces of a test's own: the machine may look names up at any time.
fn watch<const N: usize>(forced: &str, namespaces: [&Namespace; N]) -> Result<Netdiag> {
    Netdiag::live_by(forced, &["--netns", &namespaces.map(Namespace::name).join(",")])
}

fn judge(facts: &mut Facts, what: &str, flow: &Flow, asked: &Asked) {
    facts.note(format_args!("{what}: {flow:?} {:?}", asked.answers));
    for (name, expected) in
        [("queries", asked.queries), ("unanswered", 0), ("retried", 0), ("late", 0)]
    {
        let found = count(flow, &format!("dns.{name}"));
        facts.equal(format_args!("{what}: {name}"), found, Some(expected));
    }
    let answers = Some(&CountValue::Group(asked.answers.clone()));
    facts.equal(format_args!("{what}: answers"), flow.counts.get("dns_answers"), answers);
    let latency = metric(flow, "dns");
    facts.equal(format_args!("{what}: latencies"), latency.count, asked.queries);
    // The query passes before the server has it, and the answer after the server sends it; the client begins
    // before that and ends after. What holds for each holds for the shortest, the median and the longest.
    let [at_least, at_most] = [0, 1].map(|clock| {
        let mut all: Vec<_> = asked.took.iter().map(|took| took[clock]).collect();
        all.sort_unstable();
        // Either of two may be the one in the middle.
        let middle = (all.len() - 1 + clock) / 2;
        [0, middle, all.len() - 1].map(|at| all[at])
    });
    let found = [latency.min_ns, latency.p50_ns, latency.max_ns];
    for ((found, least), most) in found.into_iter().zip(at_least).zip(at_most) {
        let found = Duration::from_nanos(found.unwrap_or(0));
        let holds = found >= least.mul_f64(0.99) && found <= most.mul_f64(1.01);
        facts.holds(format_args!("{what}: {found:?} is from {least:?} to {most:?}"), holds);
    }
}

/// Connected sockets and others, both families, each result code, and loopback.
#[test]
fn every_query_is_counted_once() -> Result<()> {
    let _alone = alone();
    for forced in source::loading("dns")? {
        until_whole(|| each_once(&forced))?;
    }
    Ok(())
}

fn each_once(forced: &str) -> Result<Option<Spoilt>> {
    let pair = Pair::new()?;
    let servers: Vec<_> = [RIGHT_V4.into(), RIGHT_V6.into()]
        .into_iter()
        .map(|address| Server::start(&pair.right, address))
        .collect::<Result<_>>()?;
    let local = Server::start(&pair.left, [127, 0, 0, 53].into())?;
    let netdiag = watch(forced, [&pair.left, &pair.right])?;
    let mut all = Vec::new();
    let loopback: IpAddr = [127, 0, 0, 1].into();
    for (server, asker) in
        [(&servers[0], IpAddr::from(LEFT_V4)), (&servers[1], LEFT_V6.into()), (&local, loopback)]
    {
        let mut asked = Asked::default();
        for at in 0..machine::amount(1_200, 40_u16) {
            // A resolver has a port for each query.
            let socket = client(&pair.left, server.address)?;
            if at % 2 == 0 {
                socket.connect(server.address)?;
            }
            let (rcode, _) = RCODES[usize::from(at) % RCODES.len()];
            let delay = if at % 100 == 7 { DELAY.as_millis() as u8 } else { 0 };
            let query = Query::new(at.wrapping_mul(2_579), rcode).with(Deed::Answer(delay));
            asked.answered(rcode, server, ask(&socket, server.address, &query)?);
        }
        all.push((asker, server, asked));
    }
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;
    if let Some(spoilt) = spoilt(total, None)? {
        return Ok(Some(spoilt));
    }
    let mut facts = Facts::new();
    facts.note(format_args!("{:?}", status(total, "dns")?));
    let mut asked_in_all = 0;
    for (asker, server, asked) in &all {
        let flow = row(total, pair.left.inode(), "udp", [*asker, server.address.ip()])?;
        judge(&mut facts, &format!("{forced}: {}", server.address), flow, asked);
        let longest = metric(flow, "dns").max_ns.map(Duration::from_nanos);
        facts.holds(format_args!("{longest:?} holds the delay"), longest >= Some(DELAY));
        let answered: u64 = server.answered().values().sum();
        facts.equal("as the server counts", answered, asked.queries);
        asked_in_all += asked.queries;
    }
    facts.equal(format_args!("{forced}: queries in all"), queries(total), asked_in_all);
    facts.equal("nothing is of no query", total.accounting["dns"].unmatched, 0);
    facts.lossless(total);
    facts.at_rest(total);
    facts.finish();
    Ok(None)
}

/// Why queries or segments are not as planned, if so: only what holds of any run is judged then.
fn spoilt(total: &Snapshot, sending: Option<&Watched<'_>>) -> Result<Option<Spoilt>> {
    let again = sending.map_or(Ok(None), Watched::sent_again)?;
    let spoilt = again.or_else(|| skipped(total, &["dns", "socket"]));
    if spoilt.is_some() {
        Facts::only_at_rest(total);
    }
    Ok(spoilt)
}

/// Whether a source sees what is asked over TCP.
fn sees_tcp(forced: &str) -> bool {
    forced != "dns=raw_tp"
}

/// Several queries on one connection, answers of many segments, and lengths in segments of their own.
#[test]
fn queries_over_tcp() -> Result<()> {
    let _alone = alone();
    for forced in source::loading("dns")? {
        until_whole(|| over_tcp(&forced))?;
    }
    Ok(())
}

fn over_tcp(forced: &str) -> Result<Option<Spoilt>> {
    let pair = Pair::new()?;
    let addresses: [(IpAddr, IpAddr); 2] =
        [(LEFT_V4.into(), RIGHT_V4.into()), (LEFT_V6.into(), RIGHT_V6.into())];
    let servers: Vec<_> = addresses
        .iter()
        .map(|(_, address)| Server::start(&pair.right, *address))
        .collect::<Result<_>>()?;
    let sending = Watched::new([&pair.left])?;
    let netdiag = watch(forced, [&pair.left, &pair.right])?;
    let mut all = Vec::new();
    for ((asker, _), server) in addresses.iter().zip(&servers) {
        let mut asked = Asked::default();
        for number in 0..machine::amount(25, 2_u16) {
            let mut connection = connect(&pair.left, server.address)?;
            for at in 0..8_u16 {
                let deed = if at == 3 { Deed::Long } else { Deed::Answer(0) };
                let (rcode, _) = RCODES[usize::from(at)];
                let query = Query::new(number * 8 + at, rcode).with(deed);
                let took = ask_by_tcp(&mut connection, &query, at == 5)?;
                asked.answered(rcode, server, took);
            }
        }
        all.push((*asker, server, asked));
    }
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;
    // The query is told to be sent again, then, or not to be answered in time.
    if let Some(spoilt) = spoilt(total, Some(&sending))? {
        return Ok(Some(spoilt));
    }
    let mut facts = Facts::new();
    let status = status(total, "dns")?;
    facts.note(format_args!("{status:?} {:?}", total.accounting["dns"]));
    for (asker, server, asked) in &all {
        if sees_tcp(forced) {
            let flow = row(total, pair.left.inode(), "tcp", [*asker, server.address.ip()])?;
            judge(&mut facts, &format!("{forced}: {}", server.address), flow, asked);
        }
    }
    let sum: u64 = all.iter().map(|(.., asked)| asked.queries).sum();
    if sees_tcp(forced) {
        facts.equal(format_args!("{forced}: queries in all"), queries(total), sum);
    } else {
        facts.holds("it says what it does not see", !status.missing.is_empty());
    }
    facts.lossless(total);
    facts.at_rest(total);
    facts.finish();
    Ok(None)
}

/// Each packet crosses four devices in three namespaces.
#[test]
fn a_forwarded_query_is_one() -> Result<()> {
    let _alone = alone();
    for forced in source::loading("dns")? {
        until_whole(|| through(&forced, &Routed::new()?, SERVER.map(|server| (server, server))))?;
    }
    Ok(())
}

/// The router translates both ends' addresses, the client's ports too.
#[test]
fn a_translated_query_is_one() -> Result<()> {
    require!(Feature::Nft);
    let _alone = alone();
    for forced in source::loading("dns")? {
        until_whole(|| {
            let routed = Routed::new()?;
            routed.translate()?;
            through(&forced, &routed, [(SERVICE.into(), SERVER[0])])
        })?;
    }
    Ok(())
}

/// Asks servers, each by one address at another, and expects the rows of what was asked, nothing else.
fn through<const N: usize>(
    forced: &str,
    routed: &Routed,
    servers: [(IpAddr, IpAddr); N],
) -> Result<Option<Spoilt>> {
    let sending = Watched::new([&routed.client])?;
    let netdiag = watch(forced, [&routed.client, &routed.router, &routed.server])?;
    let mut all = Vec::new();
    let mut running = Vec::new();
    for (asked_at, address) in servers {
        let server = Server::start(&routed.server, address)?;
        let to = SocketAddr::new(asked_at, PORT);
        let (mut udp, mut tcp) = (Asked::default(), Asked::default());
        let socket = client(&routed.client, to)?;
        for id in 0..machine::amount(500, 20) {
            let (rcode, _) = RCODES[usize::from(id) % RCODES.len()];
            udp.answered(rcode, &server, ask(&socket, to, &Query::new(id, rcode))?);
        }
        let mut connection = connect(&routed.client, to)?;
        for id in 0..machine::amount(20, 5) {
            let took = ask_by_tcp(&mut connection, &Query::new(id, 0), false)?;
            tcp.answered(0, &server, took);
        }
        let asker = if to.is_ipv4() { CLIENT[0] } else { CLIENT[1] };
        all.push((asker, asked_at, "udp", udp));
        if sees_tcp(forced) {
            all.push((asker, asked_at, "tcp", tcp));
        }
        running.push(server);
    }
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;
    if let Some(spoilt) = spoilt(total, Some(&sending))? {
        return Ok(Some(spoilt));
    }
    let mut facts = Facts::new();
    for (asker, server, protocol, asked) in &all {
        let flow = row(total, routed.client.inode(), protocol, [*asker, *server])?;
        judge(&mut facts, &format!("{forced}: {server} by {protocol}"), flow, asked);
    }
    let sum: u64 = all.iter().map(|(.., asked)| asked.queries).sum();
    facts.equal(format_args!("{forced}: queries in all"), queries(total), sum);
    facts.holds("each was seen at each place", total.accounting["dns"].seen >= 8 * sum);
    facts.lossless(total);
    facts.at_rest(total);
    facts.finish();
    Ok(None)
}

/// A query that is sent again is the same one; one that nobody answers is said to be so; an answer that
/// comes later than that is late; and one to a query that nobody saw is counted as such.
#[test]
fn queries_that_go_wrong() -> Result<()> {
    let _alone = alone();
    for forced in source::loading("dns")? {
        until_whole(|| each_goes_wrong(&forced))?;
    }
    Ok(())
}

fn each_goes_wrong(forced: &str) -> Result<Option<Spoilt>> {
    let pair = Pair::new()?;
    let server = Server::start(&pair.right, RIGHT_V4.into())?;
    let (older, socket) =
        (client(&pair.left, server.address)?, client(&pair.left, server.address)?);
    let early = Query::new(1, 0).with(Deed::Hold);
    dns::send(&older, server.address, &early.message())?;
    let mut netdiag = watch(forced, [&pair.left, &pair.right])?;
    let late = Query::new(2, 2).with(Deed::Hold);
    let lost = Query::new(3, 0).with(Deed::Drop);
    for query in [late, lost] {
        dns::send(&socket, server.address, &query.message())?;
    }
    let again = client(&pair.left, server.address)?;
    let query = Query::new(4, 5).with(Deed::DropFirst);
    let pause = Duration::from_millis(300);
    dns::send(&again, server.address, &query.message())?;
    std::thread::sleep(pause);
    ask(&again, server.address, &query)?;
    // The same id again, now that it was answered, is another question.
    ask(&again, server.address, &query)?;
    let inode = pair.left.inode();
    let ends = [LEFT_V4.into(), RIGHT_V4.into()];
    netdiag.wait_outcome("queries that are not answered", |outcome| {
        let rows = outcome.snapshots.iter().filter_map(|s| row(s, inode, "udp", ends).ok());
        rows.filter_map(|flow| count(flow, "dns.unanswered")).sum::<u64>() == 2
    })?;
    server.release();
    receive_answer(&socket, &late)?;
    receive_answer(&older, &early)?;
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;
    if let Some(spoilt) = spoilt(total, None)? {
        return Ok(Some(spoilt));
    }
    let mut facts = Facts::new();
    let flow = row(total, inode, "udp", ends)?;
    facts.note(format_args!("{flow:?} {:?}", total.accounting["dns"]));
    for (name, expected) in [("queries", 4), ("unanswered", 2), ("retried", 1), ("late", 1)] {
        let found = count(flow, &format!("dns.{name}"));
        facts.equal(format_args!("{forced}: {name}"), found, Some(expected));
    }
    for (name, expected) in [("SERVFAIL", Some(1)), ("REFUSED", Some(2)), ("NOERROR", None)] {
        let found = count(flow, &format!("dns_answers.{name}"));
        facts.equal(format_args!("{forced}: {name}"), found, expected);
    }
    let latency = metric(flow, "dns");
    let longest = Duration::from_nanos(latency.max_ns.unwrap_or(0));
    facts.holds(format_args!("{longest:?} is late"), longest >= Duration::from_millis(4_950));
    let median = Duration::from_nanos(latency.p50_ns.unwrap_or(0));
    facts.holds(format_args!("{median:?} is from the first"), median >= pause.mul_f64(0.99));
    // At each of two places.
    facts.equal("answers to what was not seen", total.accounting["dns"].unmatched, 2);
    facts.lossless(total);
    facts.at_rest(total);
    facts.finish();
    Ok(None)
}

/// By port, namespace and server; what is left out counts as filtered.
#[test]
fn filters_narrow_queries() -> Result<()> {
    let _alone = alone();
    // Sources have the filters in common.
    let sources = source::loading("dns")?.into_iter().take(machine::amount(usize::MAX, 1));
    for forced in sources {
        let pair = Pair::new()?;
        let servers: Vec<_> = [RIGHT_V4.into(), RIGHT_V6.into()]
            .into_iter()
            .map(|address| Server::start(&pair.right, address))
            .collect::<Result<_>>()?;
        let pid = std::process::id().to_string();
        for (filters, netns, wanted) in [
            (["--peer-port", "53"], pair.left.inode(), 2),
            (["--netns", pair.left.name()], pair.left.inode(), 2),
            (["--netns", pair.right.name()], pair.right.inode(), 2),
            (["--peer", "10.0.0.0/8"], pair.left.inode(), 1),
            (["--port", "54"], pair.left.inode(), 0),
            (["--pid", &pid], pair.left.inode(), 0),
        ] {
            let netdiag = Netdiag::live_by(&forced, &filters)?;
            for (server, id) in servers.iter().zip(1..) {
                let socket = client(&pair.left, server.address)?;
                for at in 0..10 {
                    ask(&socket, server.address, &Query::new(id * 100 + at, 0))?;
                }
            }
            let outcome = netdiag.stop()?;
            let total = outcome.total()?;
            let mut facts = Facts::new();
            // Others of the machine pass some of these filters, too.
            let ours = [pair.left.inode(), pair.right.inode()];
            let rows: Vec<_> =
                in_namespaces(total, &ours).filter(|flow| flow.local.port.is_none()).collect();
            facts.note(format_args!("{forced} {filters:?}: {rows:?}"));
            facts.equal("rows", rows.len(), wanted);
            facts.equal("of the namespace", rows.iter().all(|r| r.netns == Some(netns)), true);
            let found = sum(rows.iter().copied(), "dns.queries");
            facts.equal("queries", found, 10 * wanted as u64);
            let account = total.accounting["dns"];
            facts.equal("left out or not", account.filtered + account.submitted, account.seen);
            facts.at_rest(total);
            facts.finish();
        }
    }
    Ok(())
}

/// What failed, was not answered or took long, and nothing else.
#[test]
fn failures_are_told() -> Result<()> {
    let _alone = alone();
    let pair = Pair::new()?;
    let server = Server::start(&pair.right, RIGHT_V4.into())?;
    let netns = ["--netns", pair.left.name()];
    let mut events = stream::start(&[&["--signals", "dns", "--kind", "dns"][..], &netns].concat())?;
    let socket = client(&pair.left, server.address)?;
    dns::send(&socket, server.address, &Query::new(1, 0).with(Deed::Drop).message())?;
    let mut slow = Vec::new();
    for (id, rcode) in (2..).zip([0, 2, 3, 5]) {
        let took = ask(&socket, server.address, &Query::new(id, rcode))?;
        // No failure; where the machine held it up it is told for that.
        if [0, 3].contains(&rcode) && took >= SLOW {
            slow.extend(RCODES.iter().filter(|it| it.0 == rcode).map(|(_, name)| *name));
        }
    }
    events.wait_printed("unanswered")?;
    let told = Stream::stop(events)?;
    let mut facts = Facts::new();
    facts.note(format_args!("slow by the client's clock: {slow:?}"));
    let results = told.of("dns").filter_map(|event| event["result"].as_str());
    let results: Vec<_> = results.filter(|result| !slow.contains(result)).collect();
    facts.equal("what is told", results, vec!["SERVFAIL", "REFUSED", "unanswered"]);
    for event in told.of("dns") {
        facts.note(event);
        let of_the_client = event["flow"]["netns"] == pair.left.inode()
            && event["flow"]["peer"]["ip"] == RIGHT_V4.to_string()
            && event["flow"]["peer"]["port"] == PORT;
        facts.holds("its flow is the client's", of_the_client);
    }
    facts.finish();
    Ok(())
}
