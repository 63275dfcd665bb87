//! Commands and words that several findings share.

use std::net::IpAddr;

use super::Finding;
use crate::{format, snapshot::Endpoint};

/// What `ss` tells of the connections to an address.
pub(super) fn ss_of(ip: IpAddr) -> String {
    format!("ss -tinm dst {ip}")
}

/// The same, of the sockets in a process's network namespace.
pub(super) fn ss_by(pid: Option<u32>, what: &str) -> String {
    match pid {
        Some(pid) => format!("nsenter --net=/proc/{pid}/ns/net ss -tinmp {what}"),
        None => format!("ss -tinmp {what}"),
    }
}

/// What the threads of a process do, and what those that sleep wait for.
pub(super) fn threads_of(pid: u32) -> String {
    format!("ps -L -o tid,stat,wchan:32,pcpu,comm -p {pid}")
}

/// An address with its port.
pub(super) fn end(end: &Endpoint) -> String {
    let ip = end.ip.map(|ip| if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() });
    let ip = ip.unwrap_or_else(|| format::MISSING.to_owned());
    end.port.map_or_else(|| ip.clone(), |port| format!("{ip}:{port}"))
}

/// Asks a server of names for a name that it should know.
pub(super) fn dig(ip: IpAddr) -> String {
    format!("dig @{ip} +tries=1 +time=5 . NS")
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
