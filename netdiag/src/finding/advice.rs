//! Commands and words that several findings share.

use std::net::IpAddr;

use crate::watched::Group;

/// What `ss` tells of the connections to an address.
pub(super) fn ss_of(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => format!("ss -tinm dst {ip}"),
        IpAddr::V6(ip) => format!("ss -tinm dst [{ip}]"),
    }
}

/// A command in the network namespace of these flows, where a process in it is known.
pub(super) fn inside(group: &Group<'_>, command: &str) -> String {
    match group.pid() {
        Some(pid) => format!("nsenter --net=/proc/{pid}/ns/net {command}"),
        None => command.to_owned(),
    }
}

/// Netdiag's own events of a kind with an address.
pub(super) fn events(kind: &str, netns: Option<u32>, ip: IpAddr) -> String {
    let netns = netns.map(|netns| format!(" --netns {netns}")).unwrap_or_default();
    format!("netdiag events --kind {kind} --peer {ip}{netns}")
}

/// Whether an address is one that no router of the Internet carries on: private, of this link or this node.
pub(super) fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [first, second, ..] = ip.octets();
            // 100.64.0.0/10 is for carriers' own networks (RFC 6598), and many clusters'.
            let is_shared = first == 100 && second & 0xc0 == 64;
            ip.is_private() || ip.is_loopback() || ip.is_link_local() || is_shared
        }
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

/// So many of something, `1 connection`, `2 connections`.
pub(super) fn many(n: usize, one: &str) -> String {
    format!("{n} {one}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for ip in ["10.1.2.3", "192.168.0.1", "127.0.0.1", "100.100.0.1", "fd00::1", "fe80::1"] {
            assert!(is_private(ip.parse().expect("an address")), "{ip}");
        }
        for ip in ["8.8.8.8", "100.128.0.1", "172.32.0.1", "2001:db8::1"] {
            assert!(!is_private(ip.parse().expect("an address")), "{ip}");
        }
        assert_eq!(ss_of("::1".parse().expect("an address")), "ss -tinm dst [::1]");
    }
}
