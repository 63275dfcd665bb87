//! Routes that set an MTU, of the calling thread's network namespace (`net/ipv4/fib_semantics.c`,
//! `fib_dump_info`; `net/ipv6/route.c`, `rt6_fill_node`).

use std::{io, net::IpAddr};

use netlink_packet_core::NlasIterator;
use netlink_sys::protocols::NETLINK_ROUTE;

use super::netlink;
use crate::snapshot::node::RouteMtu;

/// `struct rtmsg` (`include/uapi/linux/rtnetlink.h`).
const HEADER_BYTES: usize = 12;

/// `RTAX_MTU`.
const MTU: u16 = 2;

/// `RTM_F_CLONED`: what was learned of one destination, no route of its own.
const CLONED: u32 = 0x200;

/// Those of one namespace.
const LISTED: usize = 100;

/// Reads them, sorted.
///
/// # Errors
/// Those of netlink, and `Interrupted` when they changed all the time.
pub fn read() -> io::Result<Vec<RouteMtu>> {
    let mut routes = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut body = [0; HEADER_BYTES];
        body[0] = family as u8;
        let room = LISTED - routes.len();
        let take = |routes: &mut Vec<RouteMtu>, kind, payload: &[u8]| {
            if routes.len() < room {
                routes.extend(parse(payload));
            }
            kind == libc::RTM_NEWROUTE
        };
        routes.extend(netlink::whole(NETLINK_ROUTE, libc::RTM_GETROUTE, &body, Vec::new, take)?);
    }
    routes.sort_unstable();
    Ok(routes)
}

/// A route with an MTU.
fn parse(payload: &[u8]) -> Option<RouteMtu> {
    let (header, attributes) = payload.split_first_chunk::<HEADER_BYTES>()?;
    let [family, prefix, _, _, _, _, _, _, a, b, c, d] = *header;
    if u32::from_ne_bytes([a, b, c, d]) & CLONED != 0 {
        return None;
    }
    let (mut destination, mut index, mut mtu) = (None, None, None);
    let number = |value: &[u8]| value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute.ok()?;
        let value = attribute.value();
        match attribute.kind() {
            libc::RTA_DST => destination = Some(address(value)?),
            libc::RTA_OIF => index = number(value),
            libc::RTA_METRICS => {
                let mut metrics = NlasIterator::new(value).map_while(Result::ok);
                mtu =
                    metrics.find(|metric| metric.kind() == MTU).and_then(|one| number(one.value()));
            }
            _ => {}
        }
    }
    let any = if i32::from(family) == libc::AF_INET { [0; 4].into() } else { [0; 16].into() };
    let destination = format!("{}/{prefix}", destination.unwrap_or(any));
    Some(RouteMtu { netns: 0, destination, index, mtu: mtu? })
}

fn address(value: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(value).ok().map(IpAddr::from);
    v4().or_else(|| <[u8; 16]>::try_from(value).ok().map(IpAddr::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(family: i32, prefix: u8, metrics: &[u8]) -> Vec<u8> {
        [
            &[family as u8, prefix, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0][..],
            &[8, 0, 1, 0, 10, 1, 0, 0],
            &[8, 0, 4, 0, 7, 0, 0, 0],
            metrics,
        ]
        .concat()
    }

    #[test]
    fn an_mtu_is_found() {
        let metrics = [20, 0, 8, 0, 8, 0, 7, 0, 1, 0, 0, 0, 8, 0, 2, 0, 0x78, 5, 0, 0];
        let whole = message(libc::AF_INET, 16, &metrics);
        let expected =
            RouteMtu { netns: 0, destination: "10.1.0.0/16".to_owned(), index: Some(7), mtu: 1400 };
        assert_eq!(parse(&whole), Some(expected));
        assert_eq!(parse(&message(libc::AF_INET, 16, &[])), None);
        for end in 0..whole.len() {
            let _cut = parse(&whole[..end]);
            let mut hostile = whole.clone();
            hostile[end] = 0xff;
            let _changed = parse(&hostile);
        }
    }

    #[test]
    fn hostile_messages_are_survived() {
        let metrics = [20, 0, 8, 0, 8, 0, 7, 0, 1, 0, 0, 0, 8, 0, 2, 0, 0x78, 5, 0, 0];
        let sound = [libc::AF_INET, libc::AF_INET6].map(|family| message(family, 16, &metrics));
        crate::hostile::survived(&sound, |bytes| drop(parse(bytes)));
    }
}
