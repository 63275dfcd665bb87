//! A service as a cluster has it: a pod asks an address that nobody has, its node sends that to one of three
//! backends by turns, each in a network of its own behind the node.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{fault, namespace::Namespace, tool, traffic::End};

/// Where clients send to.
pub const SERVICE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)), 80);

/// How many answer.
pub const BACKENDS: u8 = 3;

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);
const PORT: u16 = 8080;

/// The service with all that it takes.
#[derive(Debug)]
pub struct Service {
    /// Where clients are.
    pub pod: Namespace,
    /// What translates.
    pub node: Namespace,
    /// Where the backends are.
    pub servers: Namespace,
}

/// A connection to it, with both its sockets in this process.
#[derive(Debug)]
pub struct Asked {
    /// As the client has it.
    pub client: End,
    /// As the backend has it.
    pub server: End,
    stream: TcpStream,
}

/// The backend of that number, from 0.
#[must_use]
pub fn backend(number: u8) -> SocketAddr {
    (Ipv4Addr::new(10, 79, 0, 1 + number), PORT).into()
}

impl Service {
    /// Makes it; the last backend takes `slow` for each answer, the others answer at once.
    ///
    /// # Errors
    /// When `ip` or `nft` fails.
    pub fn new(slow: Duration) -> Result<Self> {
        let [pod, node, servers] = Namespace::all(
            ["pod", "node", "servers"],
            &[
                "link add wire netns {0} type veth peer name pod netns {1}",
                "link add wire netns {2} type veth peer name servers netns {1}",
            ],
        )?;
        let up = |namespace: &Namespace, commands: &[&str]| {
            tool::ip_batch(Some(namespace.name()), commands)
        };
        let client = format!("addr add {CLIENT}/24 dev wire");
        up(
            &pod,
            &["link set lo up", &client, "link set wire up", "route add default via 10.78.0.254"],
        )?;
        up(
            &node,
            &[
                "addr add 10.78.0.254/24 dev pod",
                "link set pod up",
                "addr add 10.79.0.254/24 dev servers",
                "link set servers up",
            ],
        )?;
        let mut commands = vec!["link set lo up".to_owned()];
        let all =
            (0..BACKENDS).map(|number| format!("addr add {}/24 dev wire", backend(number).ip()));
        commands.extend(all);
        commands
            .extend(["link set wire up", "route add default via 10.79.0.254"].map(str::to_owned));
        up(&servers, &commands.iter().map(String::as_str).collect::<Vec<_>>())?;
        const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
        node.run(|| fs::write(FORWARD, "1")).context(FORWARD)?;
        let service = Self { pod, node, servers };
        service.translate()?;
        for number in 0..BACKENDS {
            let delay = if number + 1 == BACKENDS { slow } else { Duration::ZERO };
            service.serve(backend(number), delay)?;
        }
        Ok(service)
    }

    /// By turns, as kube-proxy writes it: a chain for each backend.
    fn translate(&self) -> Result<()> {
        let jumps: Vec<_> =
            (0..BACKENDS).map(|number| format!("{number} : jump b{number}")).collect();
        let chains: String = (0..BACKENDS)
            .map(|number| {
                format!(" chain b{number} {{\n meta l4proto tcp dnat to {}\n }}\n", backend(number))
            })
            .collect();
        let script = format!(
            "table ip services {{\n{chains} chain services {{\n type nat hook prerouting priority -100;\n \
             ip daddr {} tcp dport {} numgen inc mod {BACKENDS} vmap {{ {} }}\n }}\n}}\n",
            SERVICE.ip(),
            SERVICE.port(),
            jumps.join(", ")
        );
        fault::load(&self.node, &script)
    }

    /// Answers each byte with one, on threads that end with their connections.
    fn serve(&self, at: SocketAddr, delay: Duration) -> Result<()> {
        let listener = self.servers.run(|| TcpListener::bind(at))?;
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                thread::spawn(move || answer(stream, delay));
            }
        });
        Ok(())
    }

    /// Connects to the service, and learns from the answer of which backend it is.
    ///
    /// # Errors
    /// When a socket call fails.
    pub fn connect(&self) -> Result<Asked> {
        self.connect_to(SERVICE)
    }

    /// The same by another address that leads there.
    ///
    /// # Errors
    /// When a socket call fails.
    pub fn connect_to(&self, address: SocketAddr) -> Result<Asked> {
        let mut stream = self.pod.run(|| TcpStream::connect(address))?;
        stream.set_nodelay(true)?;
        let mut number = [0];
        stream.read_exact(&mut number)?;
        let (local, peer) = (stream.local_addr()?, stream.peer_addr()?);
        let client = End { netns: self.pod.inode(), local, peer };
        let at = (Ipv4Addr::new(10, 79, 0, number[0]), PORT).into();
        let server = End { netns: self.servers.inode(), local: at, peer: local };
        Ok(Asked { client, server, stream })
    }
}

impl Asked {
    /// So many requests, each answered before the next.
    ///
    /// # Errors
    /// When a socket call fails.
    pub fn ask(&mut self, requests: u64) -> Result<()> {
        for _ in 0..requests {
            self.stream.write_all(b"q")?;
            self.stream.read_exact(&mut [0])?;
        }
        Ok(())
    }
}

fn answer(mut stream: TcpStream, delay: Duration) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    // Who it is that answers: the last part of its address.
    let IpAddr::V4(own) = stream.local_addr()?.ip() else { return Ok(()) };
    stream.write_all(&own.octets()[3..])?;
    loop {
        stream.read_exact(&mut [0])?;
        thread::sleep(delay);
        stream.write_all(b"a")?;
    }
}
