//! Commands and words that several findings share.

use std::net::IpAddr;

use super::Finding;
use crate::{
    format,
    snapshot::Endpoint,
    watched::{Seen, Watched},
};

/// What `ss` tells of the connections to an address.
pub(super) fn ss_of(ip: IpAddr) -> String {
    format!("ss -tinm dst {}", host(ip))
}

/// The same, of the sockets in a process's network namespace that `filter` lets through.
pub(super) fn ss_by(pid: Option<u32>, filter: &str) -> String {
    format!("{}ss -tinmp {filter}", inside(pid))
}

/// Before a command that is to run in a process's network namespace.
fn inside(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!("nsenter --net=/proc/{pid}/ns/net "))
}

/// An address as `ss` takes it in a filter.
pub(super) fn host(ip: IpAddr) -> String {
    if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() }
}

/// What the threads of a process do, and what those that sleep wait for.
pub(super) fn threads_of(pid: u32) -> String {
    format!("ps -L -o tid,stat,wchan:32,pcpu,comm -p {pid}")
}

/// An address with its port.
pub(super) fn end(end: &Endpoint) -> String {
    let ip = end.ip.map_or_else(|| format::MISSING.to_owned(), host);
    end.port.map_or_else(|| ip.clone(), |port| format!("{ip}:{port}"))
}

/// Asks a server of names for a name that it should know, from that namespace.
pub(super) fn dig(watched: &Watched, netns: Option<u32>, ip: IpAddr) -> String {
    let lives = |flow: &&Seen| flow.netns == netns && !flow.closed;
    let pid = watched.flows.values().filter(lives).find_map(|flow| flow.owner.pid);
    format!("{}dig @{ip} +tries=1 +time=5 . NS", inside(pid))
}

/// Findings of servers of names without those of a stub on this node, where there is one of a server that
/// it asks itself.
pub(super) fn without_stubs(mut found: Vec<Finding>) -> Vec<Finding> {
    let is_stub = |one: &Finding| one.scope.peer.is_some_and(|ip| ip.is_loopback());
    if !found.iter().all(is_stub) {
        found.retain(|one| !is_stub(one));
    }
    found
}
