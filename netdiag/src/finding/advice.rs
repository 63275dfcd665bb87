//! Commands and words that several findings share.

use std::net::{IpAddr, SocketAddr};

use super::Finding;
use crate::{
    format,
    snapshot::Endpoint,
    watched::{Group, Seen, Sums, Watched},
};

/// What is said where [`sent_again`] tells nothing.
pub(super) const LOSS_UNTOLD: &str =
    "loss: nobody tells what was sent again (the signal `retransmit`)";

/// Segments that were sent again after loss; none where nobody tells.
pub(super) fn sent_again(sums: &Sums) -> Option<u64> {
    Some(sums.count("retransmits.rto")?.saturating_add(sums.count("retransmits.fast")?))
}

/// A name that others chose, as a word of a shell's command line.
pub(super) fn quoted(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_.@/-".contains(c);
    if !name.is_empty() && !name.starts_with('-') && name.chars().all(is_plain) {
        return name.to_owned();
    }
    format!("'{}'", name.replace('\'', "'\\''"))
}

/// What `ss` tells of the connections to an address.
pub(super) fn ss_of(ip: IpAddr) -> String {
    format!("ss -tinm dst {}", host(ip))
}

/// A command in the network namespace of these flows, where a process in it is known.
pub(super) fn inside(group: &Group<'_>, command: &str) -> String {
    let netns = group.flows.first().and_then(|flow| flow.netns);
    format!("{}{command}", within(group.pid(), netns))
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

/// Says that connections may have got through that are not told apart, where any did: fewer of those that fail
/// are left out.
pub(super) fn beside_others(finding: Finding, watched: &Watched) -> Finding {
    if !watched.others_connected() {
        return finding;
    }
    finding.not_seeing(format!(
        "who else got through: up to {} flows of an interval are not told apart, and some of them connected; \
         narrow it by filters",
        watched.folded
    ))
}

/// Clears the listeners of this node, where nothing says that it is they who are asked: one that has no room explains
/// nothing of what a server elsewhere does, whatever the port.
pub(super) fn by_no_listener_here(finding: Finding, asked: &Group<'_>) -> Finding {
    if asked.is_remote() {
        finding.clearing(&["listen-overflow", "syn-backlog-overflow"])
    } else {
        finding
    }
}

/// So many of something, `1 connection`, `2 connections`.
pub(super) fn many(n: usize, one: &str) -> String {
    format!("{n} {one}{}", if n == 1 { "" } else { "s" })
}

/// What `ss` tells of the sockets in a process's network namespace that `filter` lets through.
pub(super) fn ss_by(pid: Option<u32>, filter: &str) -> String {
    format!("{}ss -tinmp {filter}", within(pid, None))
}

/// Before a command that is to run in the network namespace of this process, or of any that is in it when it runs;
/// nothing where neither is known.
pub(super) fn within(pid: Option<u32>, netns: Option<u32>) -> String {
    let pid = match (pid, netns) {
        (Some(pid), _) => pid.to_string(),
        (None, Some(netns)) => format!("$(lsns -nt net -o NS,PID | awk '$1=={netns}{{print $2}}')"),
        (None, None) => return String::new(),
    };
    format!("nsenter --net=/proc/{pid}/ns/net ")
}

/// An address as `ss` takes it in a filter.
pub(super) fn host(ip: IpAddr) -> String {
    if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() }
}

/// What the threads of a process do, and what those that sleep wait for.
pub(super) fn threads_of(pid: u32) -> String {
    format!("ps -L -o tid,stat,wchan:32,pcpu,comm -p {pid}")
}

/// An address with its port, as far as they are known.
pub(super) fn end(end: &Endpoint) -> String {
    match (end.ip, end.port) {
        (Some(ip), Some(port)) => SocketAddr::new(ip, port).to_string(),
        (Some(ip), None) => ip.to_string(),
        (None, Some(port)) => format!("{}:{port}", format::MISSING),
        (None, None) => format::MISSING.to_owned(),
    }
}

/// Asks a server of names for a name that it should know, from that namespace.
pub(super) fn dig(watched: &Watched, netns: Option<u32>, ip: IpAddr) -> String {
    let lives = |flow: &&Seen| flow.netns == netns && !flow.closed;
    let pid = watched.flows.values().filter(lives).find_map(|flow| flow.owner.pid);
    format!("{}dig @{ip} +tries=1 +time=5 . NS", within(pid, netns))
}

/// Findings of servers of names without those of a stub, where there is one, no less bad, of a server that it asks
/// itself from there.
pub(super) fn without_stubs(found: Vec<Finding>) -> Vec<Finding> {
    let is_stub = |one: &Finding| one.scope.peer.is_some_and(|ip| ip.is_loopback());
    let (stubs, mut servers): (Vec<_>, Vec<_>) = found.into_iter().partition(is_stub);
    let is_said = |stub: &Finding| {
        let says =
            |one: &Finding| one.scope.netns == stub.scope.netns && one.severity >= stub.severity;
        servers.iter().any(says)
    };
    let unsaid: Vec<_> = stubs.into_iter().filter(|stub| !is_said(stub)).collect();
    servers.extend(unsaid);
    servers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_words_of_a_shell() {
        for (name, word) in [
            ("eth0.100", "eth0.100"),
            ("/kubepods/pod1", "/kubepods/pod1"),
            (";reboot", "';reboot'"),
            ("$(id)", "'$(id)'"),
            ("a'b", "'a'\\''b'"),
            ("-h", "'-h'"),
            ("", "''"),
        ] {
            assert_eq!(quoted(name), word);
        }
    }

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

    #[test]
    fn ends() {
        let told = |ip: Option<&str>, port| {
            let ip = ip.map(|ip| ip.parse().expect("an address"));
            end(&Endpoint { ip, port })
        };
        assert_eq!(told(Some("10.0.0.2"), Some(80)), "10.0.0.2:80");
        assert_eq!(told(Some("::1"), Some(80)), "[::1]:80");
        assert_eq!(told(Some("::1"), None), "::1");
        assert_eq!(told(None, Some(80)), "-:80");
        assert_eq!(told(None, None), "-");
    }

    #[test]
    fn a_stub_is_told_of_where_nothing_says_it() {
        use crate::{
            finding::{Scope, Severity},
            watched::kit,
        };
        let watched = kit::watched(&[]);
        let of = |netns, ip: &str, severity| {
            let ip = ip.parse().expect("an address");
            Finding::new(&watched, severity, Scope::peer(Some(netns), ip), "")
        };
        let (stub, server) = ("127.0.0.53", "10.0.0.2");
        let kept = |netns, severity| {
            let found = vec![of(1, stub, Severity::Warning), of(netns, server, severity)];
            let kept = without_stubs(found).into_iter();
            kept.map(|one| one.scope.name).collect::<Vec<_>>()
        };
        assert_eq!(kept(1, Severity::Warning), [server]);
        assert_eq!(kept(2, Severity::Critical), [server, stub], "of another namespace");
        assert_eq!(kept(1, Severity::Info), [server, stub], "less bad");
    }
}
