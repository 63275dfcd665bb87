//! Two namespaces and the link between them.

pub mod link;
pub mod relay;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use rustix::thread::{CpuSet, sched_setaffinity};

use self::{link::Way, relay::Relay};
use crate::{
    machine,
    namespace::Namespace,
    processor,
    random::Random,
    tool,
    traffic::{Connection, Family},
};

/// Address of the left end. The right one has the next.
pub const LEFT_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// Address of the right end.
pub const RIGHT_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// IPv6 address of the left end.
pub const LEFT_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);
/// IPv6 address of the right end.
pub const RIGHT_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2);

/// Two namespaces joined by a link, with IPv4 and IPv6 addresses. Both call their end `wire`.
/// Every pair uses the same addresses: only the namespace tells their flows apart.
#[derive(Debug)]
pub struct Pair {
    /// Where clients live.
    pub left: Namespace,
    /// Where servers live.
    pub right: Namespace,
    /// What joins them, where it is no veth link.
    _relay: Option<Relay>,
}

impl Pair {
    /// Makes one with a veth link and waits until both protocols pass, so that no later connection waits for
    /// neighbour discovery.
    ///
    /// # Errors
    /// When `ip` fails or nothing passes.
    pub fn new() -> Result<Self> {
        let link = "link add wire netns {0} type veth peer name wire netns {1}";
        let [left, right] = Namespace::all(["left", "right"], &[link])?;
        Self::with(left, right, None)
    }

    /// Makes one whose ends are so far apart that a packet takes `one_way`.
    ///
    /// # Errors
    /// When there are no tun devices, `ip` fails or nothing passes.
    pub fn distant(one_way: Duration) -> Result<Self> {
        let [left, right] = Namespace::all(["left", "right"], &[])?;
        let ways = [Way::delayed(one_way); 2];
        let relay = Relay::between([&left, &right], "wire", ways, &mut Random::of(1))?;
        Self::with(left, right, Some(relay))
    }

    fn with(left: Namespace, right: Namespace, relay: Option<Relay>) -> Result<Self> {
        for (end, v4, v6) in [(&left, LEFT_V4, LEFT_V6), (&right, RIGHT_V4, RIGHT_V6)] {
            let addresses =
                [format!("addr add {v4}/24 dev wire"), format!("addr add {v6}/64 dev wire nodad")];
            let [v4, v6] = addresses.each_ref().map(String::as_str);
            tool::ip_batch(Some(end.name()), &["link set lo up", v4, v6, "link set wire up"])?;
        }
        let pair = Self { left, right, _relay: relay };
        for family in [Family::V4, Family::V6] {
            // A machine that stands still may look up its neighbour in vain.
            let passed =
                machine::wait_until(|| Connection::open(&pair.left, &pair.right, family).is_ok());
            ensure!(passed, "nothing passes by {family:?}");
        }
        Ok(pair)
    }

    /// Waits until the right end has dealt with every packet that the left end has sent so far: it has
    /// taken it, or dropped it and counted that. Sends a last packet from each processor, which no rule
    /// may drop: a processor hands on what it sent over such a link in order (`enqueue_to_backlog`,
    /// net/core/dev.c).
    ///
    /// # Errors
    /// When a socket call fails or a last packet does not arrive.
    pub fn wait_until_received(&self) -> Result<()> {
        let last = self.left.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
        let arrived = self.right.run(|| UdpSocket::bind((RIGHT_V4, 0)))?;
        last.connect(arrived.local_addr()?)?;
        arrived.set_read_timeout(Some(Duration::from_millis(100)))?;
        let follow = |number: u16, processor: CpuSet| -> Result<()> {
            sched_setaffinity(None, &processor)?;
            let number = number.to_be_bytes();
            let done = machine::wait_until(|| {
                // Where there was no room for it, it is sent again.
                let sent = last.send(&number).is_ok();
                let mut found = [0; 2];
                sent && std::iter::repeat_with(|| arrived.recv(&mut found).map(|_| found))
                    .map_while(Result::ok)
                    .any(|found| found == number)
            });
            ensure!(done, "a last packet does not arrive");
            Ok(())
        };
        thread::scope(|scope| {
            let follow = &follow;
            (0..).zip(processor::each()?).try_for_each(|(number, processor)| {
                let thread = scope.spawn(move || follow(number, processor));
                thread.join().expect("the sender of a last packet panicked")
            })
        })
    }

    /// Makes the link carry one segment per packet in both directions, as a real wire does.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn without_offload(&self) -> Result<()> {
        for end in [&self.left, &self.right] {
            end.ip("link set wire gso_max_segs 1")?;
        }
        Ok(())
    }
}

/// Address of the right end in that family; a v4-mapped one is reached by its IPv4 address.
#[must_use]
pub fn right_address(family: Family) -> IpAddr {
    match family {
        Family::V4 | Family::Mapped => RIGHT_V4.into(),
        Family::V6 => RIGHT_V6.into(),
    }
}
