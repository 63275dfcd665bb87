//! Addresses of a collector by its name: of `/etc/hosts`, else by the servers of `/etc/resolv.conf` (RFC 1035).
//!
//! netdiag is linked statically. The C library would load parts of the node's then, which must be of the very version
//! that netdiag was built with, or it breaks down (NSS, `getaddrinfo`).

use std::{
    fs,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::{net::UdpSocket, time::timeout};

/// How long a server may take to answer.
const ANSWER: Duration = Duration::from_secs(2);
const PORT: u16 = 53;
/// Servers that are asked, as in resolv.conf(5).
const SERVERS: usize = 3;
/// Bytes of an answer, more than one without extensions has.
const BYTES: usize = 4_096;

/// Types of records that hold addresses (RFC 1035, section 3.2.2, and RFC 3596).
const A: u16 = 1;
const AAAA: u16 = 28;
/// `IN`.
const CLASS: u16 = 1;
/// Recursion is desired.
const RECURSIVE: u16 = 0x0100;
const IS_ANSWER: u16 = 0x8000;
/// The answer is cut short, since it was too long for a datagram.
const IS_CUT: u16 = 0x0200;
/// Result codes: it is known, or known that there is none.
const KNOWN: [u16; 2] = [0, 3];

/// Addresses of a host, of which there is at least one.
///
/// # Errors
/// Why there is none.
pub(super) async fn addresses(host: &str) -> Result<Vec<IpAddr>, String> {
    if let Ok(address) = host.parse() {
        return Ok(vec![address]);
    }
    let text =
        |path: &str| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    let listed = listed(&text("/etc/hosts"), host);
    if !listed.is_empty() {
        return Ok(listed);
    }
    if host.eq_ignore_ascii_case("localhost") {
        return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    let settings = Settings::of(&text("/etc/resolv.conf"));
    let mut answered = false;
    for name in settings.names(host) {
        for kind in [A, AAAA] {
            match settings.ask(&name, kind).await {
                Some(found) if !found.is_empty() => return Ok(found),
                Some(_) => answered = true,
                None => {}
            }
        }
    }
    let servers = settings.servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    Err(if answered {
        format!("no address in /etc/hosts, nor by {servers}")
    } else {
        format!("not in /etc/hosts, and no answer of {servers} that fits into a datagram")
    })
}

/// Addresses of a name in `/etc/hosts`: hosts(5).
fn listed(hosts: &str, name: &str) -> Vec<IpAddr> {
    let address = |line: &str| {
        let line = line.split('#').next()?;
        let mut words = line.split_ascii_whitespace();
        let address = words.next()?.parse::<IpAddr>().ok()?;
        words.any(|word| word.eq_ignore_ascii_case(name)).then_some(address)
    };
    hosts.lines().filter_map(address).collect()
}

/// What `/etc/resolv.conf` says: resolv.conf(5).
#[derive(Debug, PartialEq, Eq)]
struct Settings {
    servers: Vec<IpAddr>,
    /// Domains in which names are looked for.
    search: Vec<String>,
    /// A name with so many dots is looked for as it is at first.
    dots: usize,
}

impl Settings {
    fn of(text: &str) -> Self {
        let mut settings = Self { servers: Vec::new(), search: Vec::new(), dots: 1 };
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let address = words.next().and_then(|word| word.parse::<IpAddr>().ok());
                    settings.servers.extend(address);
                }
                Some("search" | "domain") => {
                    settings.search = words.map(str::to_owned).collect();
                }
                Some("options") => {
                    let dots = |word: &str| word.strip_prefix("ndots:")?.parse::<usize>().ok();
                    settings.dots = words.filter_map(dots).next_back().unwrap_or(settings.dots);
                }
                _ => {}
            }
        }
        settings.servers.truncate(SERVERS);
        if settings.servers.is_empty() {
            settings.servers.push(Ipv4Addr::LOCALHOST.into());
        }
        settings
    }

    /// Names to ask for, in order.
    fn names(&self, host: &str) -> Vec<String> {
        if host.ends_with('.') {
            return vec![host.to_owned()];
        }
        let searched = self.search.iter().map(|domain| format!("{host}.{domain}"));
        let mut names: Vec<_> = searched.collect();
        let is_first = host.matches('.').count() >= self.dots;
        names.insert(if is_first { 0 } else { names.len() }, host.to_owned());
        names
    }

    /// What the first server says that answers; none of them may.
    async fn ask(&self, name: &str, kind: u16) -> Option<Vec<IpAddr>> {
        for server in &self.servers {
            let asked = timeout(ANSWER, ask(SocketAddr::new(*server, PORT), name, kind));
            if let Ok(Some(found)) = asked.await {
                return Some(found);
            }
        }
        None
    }
}

/// Asks a server for addresses of a name; `None` where it does not say.
async fn ask(server: SocketAddr, name: &str, kind: u16) -> Option<Vec<IpAddr>> {
    let any = match server {
        SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await.ok()?;
    // Others are not heard.
    socket.connect(server).await.ok()?;
    // Not to be guessed, like the port.
    let id = RandomState::new().build_hasher().finish() as u16;
    socket.send(&query(id, name, kind)?).await.ok()?;
    let mut buffer = vec![0; BYTES];
    loop {
        let n = socket.recv(&mut buffer).await.ok()?;
        let message = &buffer[..n];
        if message.starts_with(&id.to_be_bytes()) {
            return found(message);
        }
    }
}

/// A query; none for what is no name.
fn query(id: u16, name: &str, kind: u16) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    // One question, and nothing else.
    for word in [id, RECURSIVE, 1, 0, 0, 0] {
        message.extend(word.to_be_bytes());
    }
    for label in name.strip_suffix('.').unwrap_or(name).split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length))?;
        message.push(length);
        message.extend(label.as_bytes());
    }
    message.push(0);
    for word in [kind, CLASS] {
        message.extend(word.to_be_bytes());
    }
    Some(message)
}

/// Addresses in an answer, whosesoever they are: an alias comes with what it stands for. `None` where the server fails,
/// or what it says is no answer: one that was cut short before its first address is none.
fn found(message: &[u8]) -> Option<Vec<IpAddr>> {
    const HEADER: usize = 12;
    let word = |at: usize| Some(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]));
    let (flags, questions, answers) = (word(2)?, word(4)?, word(6)?);
    if flags & IS_ANSWER == 0 || !KNOWN.contains(&(flags & 0xf)) {
        return None;
    }
    let mut at = HEADER;
    for _ in 0..questions {
        // Type and class.
        at = behind_name(message, at)? + 4;
    }
    let mut found = Vec::new();
    for _ in 0..answers {
        at = behind_name(message, at)?;
        // Type, class, time to live, length.
        let (kind, length) = (word(at)?, usize::from(word(at + 8)?));
        at += 10;
        let data = message.get(at..at + length)?;
        match kind {
            A => found.push(<[u8; 4]>::try_from(data).ok()?.into()),
            AAAA => found.push(<[u8; 16]>::try_from(data).ok()?.into()),
            _ => {}
        }
        at += length;
    }
    (flags & IS_CUT == 0 || !found.is_empty()).then_some(found)
}

/// Where a name ends: at its last label, or at a pointer to the rest of it (RFC 1035, section 4.1.4).
fn behind_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length @ 1..=63 => at += usize::from(length) + 1,
            0xc0.. => return Some(at + 2),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket as Socket;

    use super::*;
    use crate::hostile::survived;

    fn address(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    #[test]
    fn hosts_are_read() {
        let hosts = "127.0.0.1 localhost\n# 10.0.0.1 c\n10.0.0.2\tother C.example c # c2\nfe80::1%lo c\n::2 c\nx c\n";
        assert_eq!(listed(hosts, "c"), [address("10.0.0.2"), address("::2")]);
        assert_eq!(listed(hosts, "c.EXAMPLE"), [address("10.0.0.2")]);
        assert_eq!(listed(hosts, "c2"), [IpAddr::V4(Ipv4Addr::UNSPECIFIED); 0]);
    }

    #[test]
    fn settings_are_read_and_names_searched() {
        let text = "nameserver 10.96.0.10\nsearch a.svc.cluster.local svc.cluster.local\noptions timeout:1 ndots:5\n";
        let settings = Settings::of(text);
        assert_eq!(settings.servers, [address("10.96.0.10")]);
        assert_eq!(
            settings.names("otel.obs"),
            ["otel.obs.a.svc.cluster.local", "otel.obs.svc.cluster.local", "otel.obs"]
        );
        assert_eq!(settings.names("otel.obs."), ["otel.obs."]);
        let none = Settings::of("; nothing\nnameserver x\nnameserver\nsearch\n");
        assert_eq!(none.servers, [address("127.0.0.1")]);
        assert_eq!(none.names("a.b"), ["a.b"]);
        let many = Settings::of(&"nameserver ::1\n".repeat(9));
        assert_eq!(many.servers.len(), SERVERS);
        let plain = Settings::of("search d.example");
        assert_eq!(plain.names("a.b"), ["a.b", "a.b.d.example"]);
        assert_eq!(plain.names("a"), ["a.d.example", "a"]);
    }

    /// An answer to a query for `c.example`, which is an alias, with one address of each kind.
    fn answer(id: u16) -> Vec<u8> {
        let mut message = query(id, "c.example", A).expect("a query");
        message[2] = 0x81;
        message[3] = 0x80;
        message[7] = 3;
        let records: [(u16, &[u8]); 3] =
            [(5, &[1, b'd', 0xc0, 14]), (A, &[10, 0, 0, 7]), (AAAA, &[0; 16])];
        for (kind, data) in records {
            message.extend([0xc0, 12]);
            message.extend([kind.to_be_bytes(), CLASS.to_be_bytes()].concat());
            message.extend([0, 0, 0, 60]);
            message.extend((data.len() as u16).to_be_bytes());
            message.extend(data);
        }
        message
    }

    #[test]
    fn queries_are_written_and_answers_read() {
        let expected =
            b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01c\x07example\x00\x00\x1c\x00\x01";
        assert_eq!(query(0x1234, "c.example.", AAAA).expect("a query"), expected);
        for name in ["", ".", "a..b", &"x".repeat(64)] {
            assert_eq!(query(1, name, A), None, "{name}");
        }
        assert_eq!(found(&answer(1)), Some(vec![address("10.0.0.7"), address("::")]));
        let mut failed = answer(1);
        failed[3] |= 2;
        assert_eq!(found(&failed), None);
        let mut unknown = query(1, "c", A).expect("a query");
        unknown[2..4].copy_from_slice(&[0x81, 0x83]);
        assert_eq!(found(&unknown), Some(Vec::new()));
        assert_eq!(found(&query(1, "c", A).expect("a query")), None, "no answer");
    }

    #[test]
    fn an_answer_that_was_cut_short_is_one_where_it_has_an_address() {
        let mut cut = answer(1);
        cut[2] |= 0x02;
        assert_eq!(found(&cut), Some(vec![address("10.0.0.7"), address("::")]));
        let mut empty = query(1, "c", A).expect("a query");
        empty[2..4].copy_from_slice(&[0x81, 0x80]);
        assert_eq!(found(&empty), Some(Vec::new()));
        empty[2] |= 0x02;
        assert_eq!(found(&empty), None);
    }

    #[test]
    fn hostile_answers() {
        survived(&[answer(1)], |bytes| {
            let _read = found(bytes);
        });
    }

    #[tokio::test]
    async fn a_server_is_asked() {
        let server = Socket::bind("127.0.0.1:0").expect("a port");
        let at = server.local_addr().expect("an address");
        let serve = std::thread::spawn(move || {
            let mut query = [0; 512];
            let (_, client) = server.recv_from(&mut query).expect("a query");
            let id = u16::from_be_bytes([query[0], query[1]]);
            // What is no answer to it is not listened to.
            for message in [answer(id.wrapping_add(1)), answer(id)] {
                server.send_to(&message, client).expect("an answer");
            }
        });
        let expected = Some(vec![address("10.0.0.7"), address("::")]);
        assert_eq!(ask(at, "c.example", A).await, expected);
        serve.join().expect("the server ends");
        assert_eq!(addresses("::1").await, Ok(vec![address("::1")]));
    }
}
