//! Network interfaces, per network namespace, from the kernel's dump (`rtnetlink(7)`,
//! `net/core/rtnetlink.c`, `rtnl_fill_ifinfo`).

use std::{collections::BTreeMap, io};

use netlink_packet_core::NlasIterator;
use netlink_sys::protocols::NETLINK_ROUTE;

use super::{
    netlink::{Asker, text},
    reading::Reading,
};
use crate::snapshot::node::{Interface, PeerInterface};

/// Interfaces that a snapshot lists.
const LISTED: usize = 1_000;

/// `struct ifinfomsg` (`include/uapi/linux/rtnetlink.h`).
const HEADER_BYTES: usize = 16;

/// An interface at one time; its counts are since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    interface: Interface,
    /// Index of the one that it leads to.
    other: Option<u32>,
    /// Whether that one is in another namespace.
    elsewhere: bool,
}

/// Interfaces by index.
pub type Links = BTreeMap<u32, Link>;

/// Reads those of the calling thread's namespace, in which the asker asks.
///
/// # Errors
/// Those of netlink, and `Interrupted` when they came and went all the time.
pub(super) fn read(asker: &mut Asker) -> io::Result<Links> {
    let body = [0; HEADER_BYTES];
    let take = |links: &mut Links, kind, payload: &[u8]| {
        let link = (kind == libc::RTM_NEWLINK).then(|| parse(payload)).flatten();
        let makes_sense = link.is_some();
        links.extend(link.map(|link| (link.interface.index, link)));
        makes_sense
    };
    asker.whole(NETLINK_ROUTE, libc::RTM_GETLINK, &body, Links::new, take)
}

/// One message; none when it makes no sense.
fn parse(payload: &[u8]) -> Option<Link> {
    let (header, attributes) = payload.split_first_chunk::<HEADER_BYTES>()?;
    let word = |at: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|byte| header[at + byte]));
    let flags = word(8);
    let mut link = Link::default();
    let interface = &mut link.interface;
    interface.index = word(4);
    interface.up = flags & libc::IFF_UP as u32 != 0;
    interface.loopback = flags & libc::IFF_LOOPBACK as u32 != 0;
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute.ok()?;
        let value = attribute.value();
        let number = || value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
        match attribute.kind() {
            libc::IFLA_IFNAME => interface.name = text(value),
            libc::IFLA_MTU => interface.mtu = number()?,
            libc::IFLA_LINK => link.other = number().filter(|index| *index != 0),
            libc::IFLA_MASTER => interface.master = number(),
            libc::IFLA_LINK_NETNSID => link.elsewhere = true,
            libc::IFLA_CARRIER => interface.carrier = value.first().map(|carrier| *carrier != 0),
            libc::IFLA_CARRIER_CHANGES => interface.carrier_changes = number().map(u64::from),
            libc::IFLA_STATS64 => count(interface, value),
            libc::IFLA_LINKINFO => {
                let mut inner = NlasIterator::new(value).flatten();
                let kind = inner.find(|one| one.kind() == libc::IFLA_INFO_KIND);
                interface.kind = kind.map(|kind| text(kind.value()));
            }
            _ => {}
        }
    }
    // One that lies on itself leads nowhere.
    link.other = link.other.filter(|other| link.elsewhere || *other != interface.index);
    (interface.index != 0 && !interface.name.is_empty()).then_some(link)
}

/// `struct rtnl_link_stats64` (`include/uapi/linux/if_link.h`), which only ever grows at its end.
fn count(interface: &mut Interface, stats: &[u8]) {
    let word = |at: usize| {
        stats.get(at * 8..).and_then(<[u8]>::first_chunk).map(|bytes| u64::from_ne_bytes(*bytes))
    };
    interface.rx_packets = word(0);
    interface.tx_packets = word(1);
    interface.rx_bytes = word(2);
    interface.tx_bytes = word(3);
    interface.rx_errors = word(4);
    interface.tx_errors = word(5);
    interface.rx_dropped = word(6);
    interface.tx_dropped = word(7);
    interface.rx_crc_errors = word(12);
    interface.rx_overruns = word(11).zip(word(14)).map(|(over, fifo)| over.saturating_add(fifo));
    interface.rx_missed = word(15);
    interface.tx_carrier_errors = word(17);
    interface.rx_nohandler = word(23);
}

/// What was counted since. What fell is not known: a driver added up other queues, or it is another
/// interface with the same index.
fn since(now: &Interface, then: Option<&Interface>) -> Interface {
    let Some(mut then) = then.cloned() else { return now.clone() };
    let mut rose = now.clone();
    for (value, then) in rose.counts_mut().into_iter().zip(then.counts_mut()) {
        let Some((is, was)) = value.zip(*then) else { continue };
        *value = is.checked_sub(was);
    }
    rose
}

/// Interfaces that lead to another one in some namespace, by their own index and that one's.
type Ends = BTreeMap<(u32, u32), Vec<u32>>;

fn ends(reading: &Reading<Links>) -> Ends {
    let mut ends = Ends::new();
    for (netns, links) in &reading.namespaces {
        for (index, link) in links {
            if let Some(other) = link.other.filter(|_| link.elsewhere) {
                ends.entry((*index, other)).or_default().push(*netns);
            }
        }
    }
    ends
}

impl Link {
    /// Whether it may tell a speed that something carries: hardware, what stands above it, or a tun that was
    /// told one.
    #[must_use]
    pub fn may_have_speed(&self) -> bool {
        let kind = self.interface.kind.as_deref();
        !self.interface.loopback && matches!(kind, None | Some("bond" | "team" | "vlan" | "tun"))
    }

    /// Where it leads to. In another namespace that is the one interface that leads back; where there are
    /// several it is not known which.
    fn peer(&self, netns: u32, ends: &Ends) -> Option<PeerInterface> {
        let index = self.other?;
        if !self.elsewhere {
            return Some(PeerInterface { index, netns: Some(netns) });
        }
        let back = ends.get(&(index, self.interface.index));
        let mut back = back.into_iter().flatten().filter(|there| **there != netns);
        let netns = back.next().copied().filter(|_| back.next().is_none());
        Some(PeerInterface { index, netns })
    }
}

/// Interfaces by namespace and index.
pub type Interfaces = BTreeMap<(u32, u32), Interface>;

/// What all interfaces counted between two readings, the earlier first.
#[must_use]
pub fn increase(before: &Reading<Links>, after: &Reading<Links>) -> Interfaces {
    let ends = &ends(after);
    let rose = after.since(before, |then, now| {
        let then = |index| then?.get(index).map(|link: &Link| &link.interface);
        now.iter()
            .map(|(index, link)| (link, since(&link.interface, then(index))))
            .collect::<Vec<_>>()
    });
    let named = |netns| {
        move |(link, one): (&Link, Interface)| {
            let peer = link.peer(netns, ends);
            ((netns, one.index), Interface { netns, peer, ..one })
        }
    };
    rose.into_iter().flat_map(|(netns, links)| links.into_iter().map(named(netns))).collect()
}

/// Those that a snapshot lists, and how many are left out.
#[must_use]
pub fn listed(all: &Interfaces) -> (Vec<Interface>, u64) {
    let left_out = all.len().saturating_sub(LISTED);
    (all.values().take(LISTED).cloned().collect(), left_out as u64)
}

#[cfg(test)]
#[path = "links_tests.rs"]
mod tests;
