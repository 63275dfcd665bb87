//! Where a scenario plays: two namespaces, the link between them, and the actors in them.

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::{BufRead as _, BufReader},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::{ChildStdout, Command, Stdio},
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{
    Side,
    act::{Act, MARK, Part, READY, VARIABLE},
};
use crate::{
    child::Own,
    fault,
    namespace::Namespace,
    network::{link::Way, relay::Relay},
    random::Random,
    tool,
};

/// Something to do in the time that netdiag watches.
type Deed = Box<dyn FnOnce() -> Result<()> + Send>;

/// Two namespaces of a scenario, and all that is in them; gone when dropped.
pub struct Stage {
    /// By which its addresses, its device and its processes are known; from 1 on.
    number: u8,
    /// Ended before the namespaces are.
    actors: Vec<Actor>,
    deeds: Vec<(Duration, Deed)>,
    doing: Vec<JoinHandle<Result<()>>>,
    /// Whatever must live as long.
    kept: Vec<Box<dyn Any + Send>>,
    relay: Option<Relay>,
    /// Where clients live.
    pub client: Arc<Namespace>,
    /// Where servers live.
    pub server: Arc<Namespace>,
    /// For what differs from run to run without being a parameter.
    pub random: Random,
}

impl Stage {
    /// Makes the namespaces; the link is the scenario's.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn new(number: u8, random: Random) -> Result<Self> {
        let [client, server] = Namespace::all(["client", "server"], &[])?;
        for side in [&client, &server] {
            side.ip("link set lo up")?;
            side.run(|| {
                // What fills queues, as on most nodes; a namespace may not always have the first.
                let path = "/proc/sys/net/ipv4/tcp_congestion_control";
                fs::write(path, "cubic").or_else(|_| fs::write(path, "reno")).context(path)
            })?;
        }
        Ok(Self {
            number,
            actors: Vec::new(),
            deeds: Vec::new(),
            doing: Vec::new(),
            kept: Vec::new(),
            relay: None,
            client: client.into(),
            server: server.into(),
            random,
        })
    }

    /// The namespace of a side.
    #[must_use]
    pub fn side(&self, side: Side) -> &Arc<Namespace> {
        match side {
            Side::Client => &self.client,
            Side::Server => &self.server,
        }
    }

    /// Name of the device on both sides.
    #[must_use]
    pub fn device(&self) -> String {
        format!("wire{}", self.number)
    }

    /// An address in the stage's own network: the client has the 1st, the server the 2nd.
    #[must_use]
    pub const fn address(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.number, host)
    }

    /// The same in its IPv6 network.
    #[must_use]
    pub const fn address_v6(&self, host: u8) -> Ipv6Addr {
        Ipv6Addr::new(0xfd77, self.number as u16, 0, 0, 0, 0, 0, host as u16)
    }

    /// A port of the server.
    #[must_use]
    pub const fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.address(2)), port)
    }

    /// The same by IPv6.
    #[must_use]
    pub const fn at_v6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V6(self.address_v6(2)), port)
    }

    /// Lays a link of tun devices: what the client sends takes the first way.
    ///
    /// # Errors
    /// When there are no tun devices, or `ip` fails.
    pub fn link(&mut self, ways: [Way; 2]) -> Result<()> {
        let ends = [&*self.client, &*self.server];
        self.relay = Some(Relay::between(ends, &self.device(), ways, &mut self.random)?);
        self.addresses()
    }

    /// [`Self::link`] with the same both ways.
    ///
    /// # Errors
    /// As for it.
    pub fn link_alike(&mut self, way: Way) -> Result<()> {
        self.link([way; 2])
    }

    /// Lays a link of veth devices, whose ends have such MTUs.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn veth(&mut self, mtu: [u32; 2]) -> Result<()> {
        let (device, client, server) = (self.device(), self.client.name(), self.server.name());
        // Numbers of their own: where many devices have the same, nobody can tell which is whose other end.
        let [one, other] = [0, 1].map(|end| 1_000 + 2 * u32::from(self.number) + end);
        tool::line(&format!(
            "ip link add {device} index {one} mtu {} netns {client} type veth \
             peer name {device} index {other} mtu {} netns {server}",
            mtu[0], mtu[1]
        ))?;
        self.addresses()
    }

    /// Has netem keep what the client sends for `time`. What came together goes together: from one softirq, up to 64
    /// packets (`__qdisc_run`, net/sched/sch_generic.c).
    ///
    /// # Errors
    /// When this kernel has no netem.
    pub fn hold_back(&self, time: Duration) -> Result<()> {
        let (client, device, us) = (self.client.name(), self.device(), time.as_micros());
        tool::line(&format!(
            "tc -n {client} qdisc replace dev {device} root netem limit 10000 delay {us}us"
        ))?;
        Ok(())
    }

    fn addresses(&self) -> Result<()> {
        let device = self.device();
        for (side, host) in [(&self.client, 1), (&self.server, 2)] {
            let v4 = format!("addr add {}/24 dev {device}", self.address(host));
            let v6 = format!("addr add {}/64 dev {device} nodad", self.address_v6(host));
            let up = format!("link set {device} up");
            tool::ip_batch(Some(side.name()), &[&v4, &v6, &up])?;
        }
        Ok(())
    }

    /// The link, where it is of tun devices.
    #[must_use]
    pub const fn relay(&self) -> Option<&Relay> {
        self.relay.as_ref()
    }

    /// Gives the server one more address.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn server_has(&self, host: u8) -> Result<SocketAddr> {
        let address = self.address(host);
        self.server.ip(&format!("addr add {address}/24 dev {}", self.device()))?;
        Ok(SocketAddr::new(address.into(), 80))
    }

    /// Sets `net.NAME` of a side, with `/` in the name.
    ///
    /// # Errors
    /// When there is no such setting.
    pub fn sysctl(&self, side: Side, name: &str, value: &impl ToString) -> Result<()> {
        let path = format!("/proc/sys/net/{name}");
        let value = value.to_string();
        self.side(side).run(|| fs::write(&path, &value)).context(path)
    }

    /// Adds rules for `nft -f` to a side.
    ///
    /// # Errors
    /// When `nft` fails.
    pub fn nft(&self, side: Side, script: &str) -> Result<()> {
        fault::load(self.side(side), script)
    }

    /// Something that lives as long as the stage.
    pub fn keep(&mut self, it: impl Any + Send) {
        self.kept.push(Box::new(it));
    }

    /// Does something when netdiag has watched for so long.
    pub fn after(&mut self, time: Duration, deed: impl FnOnce() -> Result<()> + Send + 'static) {
        self.deeds.push((time, Box::new(deed)));
    }

    /// The time that netdiag watches begins now.
    pub fn watched(&mut self) {
        for (time, deed) in self.deeds.drain(..) {
            self.doing.push(thread::spawn(move || {
                thread::sleep(time);
                deed()
            }));
        }
    }

    /// The name of an actor's process: `role`, made the stage's own.
    #[must_use]
    pub fn comm(&self, role: &str) -> String {
        format!("{role}-{}", self.number)
    }

    /// Starts an actor on a side, and waits until it is ready. Returns its process id.
    ///
    /// # Errors
    /// When it fails before that.
    pub fn start(&mut self, side: Side, role: &str, act: Act) -> Result<u32> {
        let part = Part { comm: self.comm(role), act };
        let actor = Actor::start(self.side(side), side, role, &part)?;
        let pid = actor.child.id();
        self.actors.push(actor);
        Ok(pid)
    }

    /// Roles of the actors that live where clients do.
    #[must_use]
    pub fn clients(&self) -> BTreeSet<String> {
        let clients = self.actors.iter().filter(|actor| actor.side == Side::Client);
        clients.map(|actor| actor.role.clone()).collect()
    }

    /// Ends the actors; what each said that it counted, by role.
    ///
    /// # Errors
    /// When one failed, or something that was to be done after a time.
    pub fn end(&mut self) -> Result<BTreeMap<String, BTreeMap<String, u64>>> {
        for deed in self.doing.drain(..) {
            match deed.join() {
                Ok(done) => done.context("a deed of a scenario")?,
                Err(_) => bail!("a deed of a scenario panicked"),
            }
        }
        let ended: Result<_> = self.actors.iter_mut().map(Actor::end).collect();
        self.actors.clear();
        ended
    }

    /// What of a finding's scope tells that it is this stage's.
    #[must_use]
    pub fn marks(&self) -> Vec<String> {
        let mut marks = vec![
            format!("10.77.{}.", self.number),
            format!("fd77:{:x}:", self.number),
            self.device(),
        ];
        for side in [&self.client, &self.server] {
            marks.extend([side.name().to_owned(), side.inode().to_string()]);
        }
        marks.extend(
            self.actors.iter().flat_map(|actor| [actor.comm.clone(), actor.child.id().to_string()]),
        );
        marks
    }

    /// A scope of [`super::Expect::Fault`] with names for what stands in braces.
    #[must_use]
    pub fn scope(&self, pattern: &str) -> (String, Vec<String>) {
        let (kind, name) = pattern.split_once(':').unwrap_or((pattern, ""));
        let Some(name) = name.strip_prefix('{').and_then(|name| name.strip_suffix('}')) else {
            let literal = (!name.is_empty()).then(|| name.to_owned());
            return (kind.to_owned(), literal.into_iter().collect());
        };
        let names = match name {
            "client" => vec![self.address(1).to_string(), self.address_v6(1).to_string()],
            "server" => vec![self.address(2).to_string(), self.address_v6(2).to_string()],
            "client-netns" => vec![self.client.name().to_owned(), self.client.inode().to_string()],
            "server-netns" => vec![self.server.name().to_owned(), self.server.inode().to_string()],
            "link" => vec![self.device()],
            host if host.parse::<u8>().is_ok() => {
                vec![self.address(host.parse().unwrap_or_default()).to_string()]
            }
            role => {
                let actor = self.actors.iter().find(|actor| actor.role == role);
                let pid = actor.map(|actor| actor.child.id().to_string());
                std::iter::once(self.comm(role)).chain(pid).collect()
            }
        };
        (kind.to_owned(), names)
    }
}

/// A process that acts; killed when dropped.
struct Actor {
    side: Side,
    role: String,
    comm: String,
    child: Own,
    lines: BufReader<ChildStdout>,
}

impl Actor {
    fn start(namespace: &Namespace, side: Side, role: &str, part: &Part) -> Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        // To a binary of tests: run one alone, which is [`super::act::perform`].
        command.args(["--exact", "act", "--nocapture", "--test-threads=1"]);
        command.env(VARIABLE, serde_json::to_string(part)?);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = Own::from(namespace.run(|| command.spawn())?);
        let lines = BufReader::new(child.stdout.take().context("standard output")?);
        let (role, comm) = (role.to_owned(), part.comm.clone());
        let mut actor = Self { side, role, comm, child, lines };
        actor.wait_for(|line| line == READY)?;
        Ok(actor)
    }

    /// The next line for the lab that is wanted.
    fn wait_for(&mut self, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.lines.read_line(&mut line)? == 0 {
                bail!("{} ended: {}", self.comm, self.child.wait()?);
            }
            if let Some(said) = line.trim_end().strip_prefix(MARK).filter(|said| wanted(said)) {
                return Ok(said.to_owned());
            }
        }
    }

    fn end(&mut self) -> Result<(String, BTreeMap<String, u64>)> {
        drop(self.child.stdin.take());
        let said = self.wait_for(|line| line.starts_with('{'))?;
        Ok((self.role.clone(), serde_json::from_str(&said)?))
    }
}
