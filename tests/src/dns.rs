//! A DNS server of the tests' own, which does what each query tells it, and clients with a clock of their own.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::{fault, machine, namespace::Namespace, tool};

/// The port of servers.
pub const PORT: u16 = 53;

/// What a server is to do with a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Answer after so many milliseconds.
    Answer(u8),
    /// Nothing.
    Drop,
    /// Answer when it comes for the second time.
    DropFirst,
    /// Answer when [`Server::release`] is called.
    Hold,
    /// Answer with as much as fits.
    Long,
}

/// A query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// By which its answer is known.
    pub id: u16,
    /// The result code that its answer shall have.
    pub rcode: u8,
    /// What is to be done with it.
    pub deed: Deed,
}

const HEADER: usize = 12;
/// Bytes of a long answer over TCP.
const LONG: usize = 60_000;

impl Query {
    /// One that is answered at once.
    #[must_use]
    pub const fn new(id: u16, rcode: u8) -> Self {
        Self { id, rcode, deed: Deed::Answer(0) }
    }

    /// The same with another deed.
    #[must_use]
    pub const fn with(self, deed: Deed) -> Self {
        Self { deed, ..self }
    }

    /// The message: the name that is asked for has one label, which says what to do.
    #[must_use]
    pub fn message(&self) -> Vec<u8> {
        const RECURSION_DESIRED: u16 = 0x0100;
        let (deed, delay) = match self.deed {
            Deed::Answer(delay) => (0, delay),
            Deed::Drop => (1, 0),
            Deed::DropFirst => (2, 0),
            Deed::Hold => (3, 0),
            Deed::Long => (4, 0),
        };
        let mut message = Vec::new();
        for word in [self.id, RECURSION_DESIRED, 1, 0, 0, 0] {
            message.extend(word.to_be_bytes());
        }
        // A label of three bytes, the root, type A, class IN.
        message.extend([3, self.rcode, deed, delay, 0, 0, 1, 0, 1]);
        message
    }

    fn parse(message: &[u8]) -> Option<Self> {
        let id = u16::from_be_bytes([*message.first()?, *message.get(1)?]);
        let &[3, rcode, deed, delay, ..] = message.get(HEADER..)? else { return None };
        let deed = match deed {
            0 => Deed::Answer(delay),
            1 => Deed::Drop,
            2 => Deed::DropFirst,
            3 => Deed::Hold,
            _ => Deed::Long,
        };
        Some(Self { id, rcode, deed })
    }

    fn answer(&self, most: usize) -> Vec<u8> {
        const ANSWER: u8 = 0x80;
        const RECURSION_AVAILABLE: u8 = 0x80;
        let mut answer = self.message();
        answer[2] |= ANSWER;
        answer[3] = RECURSION_AVAILABLE | self.rcode;
        if self.deed == Deed::Long {
            // As a message would go on: what looks like one must not be taken for one.
            let more = answer.repeat(most / answer.len());
            answer.extend(more);
            answer.truncate(most);
        }
        answer
    }
}

#[derive(Debug, Default)]
struct Shared {
    ended: AtomicBool,
    released: AtomicBool,
    /// Ids of queries to be answered the second time.
    seen: Mutex<BTreeSet<u16>>,
    /// Answers sent, by result code.
    answered: Mutex<BTreeMap<u8, u64>>,
    /// From having the last query that was answered to answering it.
    took: Mutex<Duration>,
}

/// A server over UDP and TCP, on one address; gone when dropped.
#[derive(Debug)]
pub struct Server {
    /// Where it is asked.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    threads: Vec<thread::JoinHandle<()>>,
}

/// Between two looks at whether the server is to end.
const LOOK: Duration = Duration::from_millis(50);

impl Server {
    /// Serves in a namespace.
    ///
    /// # Errors
    /// When a socket call fails.
    pub fn start(namespace: &Namespace, address: IpAddr) -> Result<Self> {
        let address = SocketAddr::new(address, PORT);
        let bind =
            || -> io::Result<_> { Ok((UdpSocket::bind(address)?, TcpListener::bind(address)?)) };
        let (udp, tcp) = namespace.run(bind).with_context(|| format!("serve at {address}"))?;
        udp.set_read_timeout(Some(LOOK))?;
        tcp.set_nonblocking(true)?;
        let shared = Arc::new(Shared::default());
        let serve_udp = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || datagrams(&Arc::new(udp), &shared))
        };
        let serve_tcp = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || connections(&tcp, &shared))
        };
        Ok(Self { address, shared, threads: vec![serve_udp, serve_tcp] })
    }

    /// Lets go of what it holds.
    pub fn release(&self) {
        self.shared.released.store(true, Ordering::Relaxed);
    }

    /// Answers that it sent, by result code.
    #[must_use]
    pub fn answered(&self) -> BTreeMap<u8, u64> {
        self.shared.answered.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How long it had the query that it answered last, by its own clock.
    #[must_use]
    pub fn took(&self) -> Duration {
        *self.shared.took.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // What it panicked with it has said.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn is_over(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Whether a query, received then, is to be answered; waits until it is time to.
    fn decide(&self, query: &Query, received: Instant) -> bool {
        match query.deed {
            Deed::Answer(0) | Deed::Long => {}
            Deed::Answer(delay) => thread::sleep(Duration::from_millis(delay.into())),
            Deed::Drop => return false,
            Deed::DropFirst => {
                let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                if seen.insert(query.id) {
                    return false;
                }
            }
            Deed::Hold => {
                while !self.released.load(Ordering::Relaxed) && !self.is_over() {
                    thread::sleep(Duration::from_millis(1));
                }
            }
        }
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        *answered.entry(query.rcode).or_default() += 1;
        *self.took.lock().unwrap_or_else(PoisonError::into_inner) = received.elapsed();
        true
    }
}

fn datagrams(socket: &Arc<UdpSocket>, shared: &Arc<Shared>) {
    let mut message = [0; 512];
    while !shared.is_over() {
        let Ok((length, client)) = socket.recv_from(&mut message) else { continue };
        let received = Instant::now();
        let Some(query) = Query::parse(&message[..length]) else { continue };
        let (socket, shared) = (Arc::clone(socket), Arc::clone(shared));
        let respond = move || {
            if shared.decide(&query, received) {
                // A client that is gone misses it.
                let _ = socket.send_to(&query.answer(512), client);
            }
        };
        if matches!(query.deed, Deed::Hold | Deed::Answer(1..)) {
            thread::spawn(respond);
        } else {
            respond();
        }
    }
}

fn connections(listener: &TcpListener, shared: &Arc<Shared>) {
    while !shared.is_over() {
        match listener.accept() {
            Ok((connection, _)) => {
                let shared = Arc::clone(shared);
                thread::spawn(move || {
                    let _until_its_end = serve(connection, &shared);
                });
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(_) => return,
        }
    }
}

fn serve(mut connection: TcpStream, shared: &Shared) -> io::Result<()> {
    connection.set_nonblocking(false)?;
    connection.set_nodelay(true)?;
    loop {
        let message = receive(&mut connection)?;
        let received = Instant::now();
        if let Some(query) = Query::parse(&message)
            && shared.decide(&query, received)
        {
            connection.write_all(&framed(&query.answer(LONG)))?;
        }
    }
}

/// A message behind its length (RFC 1035 section 4.2.2).
fn framed(message: &[u8]) -> Vec<u8> {
    let length = message.len() as u16;
    [&length.to_be_bytes()[..], message].concat()
}

fn receive(connection: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    connection.read_exact(&mut length)?;
    let mut message = vec![0; u16::from_be_bytes(length).into()];
    connection.read_exact(&mut message)?;
    Ok(message)
}

/// A socket that asks over UDP, not connected.
///
/// # Errors
/// When a socket call fails.
pub fn client(namespace: &Namespace, server: SocketAddr) -> Result<UdpSocket> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = namespace.run(|| UdpSocket::bind((any, 0)))?;
    socket.set_read_timeout(Some(machine::patience()))?;
    Ok(socket)
}

/// Asks, connected or not, and waits for the answer; how long it took by this clock.
///
/// # Errors
/// When a socket call fails, or another answer comes.
pub fn ask(socket: &UdpSocket, server: SocketAddr, query: &Query) -> Result<Duration> {
    let message = query.message();
    let began = Instant::now();
    send(socket, server, &message)?;
    receive_answer(socket, query)?;
    Ok(began.elapsed())
}

/// Sends a query and does not wait.
///
/// # Errors
/// When a socket call fails.
pub fn send(socket: &UdpSocket, server: SocketAddr, message: &[u8]) -> Result<()> {
    match socket.peer_addr() {
        Ok(_) => socket.send(message)?,
        Err(_) => socket.send_to(message, server)?,
    };
    Ok(())
}

/// Waits for an answer.
///
/// # Errors
/// When a socket call fails, or another answer comes.
pub fn receive_answer(socket: &UdpSocket, query: &Query) -> Result<()> {
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer).with_context(|| format!("answer to {query:?}"))?;
    let expected = query.answer(512);
    ensure!(answer[..length] == expected, "{query:?} was answered with {:?}", &answer[..length]);
    Ok(())
}

/// Asks over a connection and waits for the answer; how long it took by this clock. The length may go ahead, in
/// a segment of its own.
///
/// # Errors
/// When a socket call fails, or another answer comes.
pub fn ask_by_tcp(connection: &mut TcpStream, query: &Query, ahead: bool) -> Result<Duration> {
    let message = framed(&query.message());
    if ahead {
        connection.write_all(&message[..2])?;
    }
    let began = Instant::now();
    connection.write_all(&message[if ahead { 2 } else { 0 }..])?;
    let answer = receive(connection)?;
    let took = began.elapsed();
    ensure!(answer == query.answer(LONG), "{query:?} was answered with {} bytes", answer.len());
    Ok(took)
}

/// A connection to a server.
///
/// # Errors
/// When a socket call fails.
pub fn connect(namespace: &Namespace, server: SocketAddr) -> Result<TcpStream> {
    let connection = namespace.run(|| TcpStream::connect(server))?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(machine::patience()))?;
    Ok(connection)
}

/// Three namespaces in a row: what the client asks goes through the router.
#[derive(Debug)]
pub struct Routed {
    /// Where clients live.
    pub client: Namespace,
    /// What lies between.
    pub router: Namespace,
    /// Where servers live.
    pub server: Namespace,
}

/// Addresses of the client.
pub const CLIENT: [IpAddr; 2] = addresses(78, 1);
/// Addresses of the server.
pub const SERVER: [IpAddr; 2] = addresses(79, 2);
/// Address that the router translates to the server's, as that of a service.
pub const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

const fn addresses(network: u16, host: u16) -> [IpAddr; 2] {
    [
        IpAddr::V4(Ipv4Addr::new(10, network as u8, 0, host as u8)),
        IpAddr::V6(Ipv6Addr::new(0xfd00 | network, 0, 0, 0, 0, 0, 0, host)),
    ]
}

impl Routed {
    /// Makes one and waits until packets pass.
    ///
    /// # Errors
    /// When `ip` fails or nothing passes.
    pub fn new() -> Result<Self> {
        let links = [
            "link add wire netns {0} type veth peer name near netns {1}",
            "link add wire netns {2} type veth peer name far netns {1}",
        ];
        let [client, router, server] = Namespace::all(["client", "router", "server"], &links)?;
        router.run(|| -> io::Result<()> {
            for switch in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                std::fs::write(format!("/proc/sys/net/{switch}"), "1")?;
            }
            Ok(())
        })?;
        let set_up = |namespace: &Namespace, device: &str, [v4, v6]: [IpAddr; 2]| {
            let commands = [
                "link set lo up".to_owned(),
                format!("addr add {v4}/24 dev {device}"),
                format!("addr add {v6}/64 dev {device} nodad"),
                format!("link set {device} up"),
            ];
            tool::ip_batch(Some(namespace.name()), &commands.each_ref().map(String::as_str))
        };
        set_up(&router, "near", addresses(78, 2))?;
        set_up(&router, "far", addresses(79, 1))?;
        set_up(&client, "wire", CLIENT)?;
        set_up(&server, "wire", SERVER)?;
        for (namespace, routers) in [(&client, addresses(78, 2)), (&server, addresses(79, 1))] {
            for router in routers {
                let family = if router.is_ipv4() { "-4" } else { "-6" };
                tool::line(&format!(
                    "ip -n {} {family} route add default via {router}",
                    namespace.name()
                ))?;
            }
        }
        let routed = Self { client, router, server };
        for address in SERVER {
            routed.wait_until_passed(address)?;
        }
        Ok(routed)
    }

    /// Neighbours are found and addresses usable.
    fn wait_until_passed(&self, address: IpAddr) -> Result<()> {
        let listener = self.server.run(|| TcpListener::bind((address, 0)))?;
        let to = listener.local_addr()?;
        let passed = machine::wait_until(|| self.client.run(|| TcpStream::connect(to)).is_ok());
        ensure!(passed, "nothing passes to {to}");
        Ok(())
    }

    /// Lets the router translate [`SERVICE`] to the server, and the client's address to its own.
    ///
    /// # Errors
    /// When `nft` fails.
    pub fn translate(&self) -> Result<()> {
        let to = SERVER[0];
        let script = format!(
            "table ip translate {{\n chain service {{\n type nat hook prerouting priority -100;\n \
             ip daddr {SERVICE} dnat to {to}\n }}\n chain leave {{\n \
             type nat hook postrouting priority 100;\n oifname far masquerade random\n }}\n }}\n"
        );
        fault::load(&self.router, &script)
    }
}
