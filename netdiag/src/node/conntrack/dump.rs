//! Connections that are tracked already, by a dump of ctnetlink (`ctnetlink_dump_table`,
//! `net/netfilter/nf_conntrack_netlink.c`).

use std::{collections::HashSet, io};

use netdiag_common::flow::{FlowKey, TCP};
use netlink_packet_core::NLM_F_DUMP;
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::{
    listener::{
        Message, Tuple,
        message::{self, NEW},
    },
    netlink::answers,
};
use crate::node::{
    netlink::{self, Flaws},
    netns::{self, Namespace},
};

/// `NFNL_SUBSYS_CTNETLINK` and `IPCTNL_MSG_CT_GET` (`include/uapi/linux/netfilter/nfnetlink_conntrack.h`).
const GET: u16 = 1 << 8 | 1;

/// `struct nfgenmsg`: all families, a version, a number that is not asked for.
const GENERIC: [u8; 4] = [0; 4];

/// The entries of TCP that translate the destination of a socket among `ends`, whose keys have no namespace.
/// Loads no module: where the one that answers is not there, none is known. Problems are one line each.
pub fn translated(
    namespaces: &[Namespace],
    ends: &HashSet<FlowKey>,
    problems: &mut Vec<String>,
) -> Vec<Message> {
    if ends.is_empty() || !super::is_there() || !answers() {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (namespace, dumped) in
        namespaces.iter().zip(netns::enter_all(namespaces, |one| dump(one.inode, ends)))
    {
        match dumped.and_then(|dumped| dumped.map_err(|error| error.to_string())) {
            Ok((mut entries, flaws)) => {
                found.append(&mut entries);
                problems.extend(flawed(&namespace.describe(), flaws));
            }
            Err(problem) => problems.push(format!(
                "conntrack of network namespace {} cannot be listed ({problem}), so the backends of older \
                 connections are unknown there; see whether `conntrack -L` lists it",
                namespace.describe()
            )),
        }
    }
    found
}

/// Those of the calling thread's namespace.
fn dump(netns: u32, ends: &HashSet<FlowKey>) -> io::Result<(Vec<Message>, Flaws)> {
    const SEQUENCE: u32 = 1;
    let mut found = Vec::new();
    // The kernel looks through the table of all namespaces for each that asks.
    if super::sysctl("count") == Some(0) {
        return Ok((found, Flaws::default()));
    }
    let request = netlink::request(GET, NLM_F_DUMP, SEQUENCE, &GENERIC);
    let flaws = netlink::dump(NETLINK_NETFILTER, &request, SEQUENCE, |kind, payload| {
        let message = (kind == NEW).then(|| message::parse(kind, payload, netns)).flatten();
        let made_sense = message.is_some();
        found.extend(message.filter(|message| is_wanted(message, ends)));
        made_sense
    })?;
    Ok((found, flaws))
}

/// What a list that was told misses, where it may.
fn flawed(namespace: &str, flaws: Flaws) -> Option<String> {
    let Flaws { malformed, interrupted } = flaws;
    let what = match (malformed, interrupted) {
        (0, false) => return None,
        (0, true) => "its table changed meanwhile".to_owned(),
        _ => format!("{malformed} messages of the kernel made no sense"),
    };
    Some(format!(
        "conntrack of network namespace {namespace} was listed in part ({what}), so the backends of some \
         older connections may be unknown there"
    ))
}

fn is_wanted(message: &Message, ends: &HashSet<FlowKey>) -> bool {
    let (original, reply) = (&message.original, &message.reply);
    u16::from(message.protocol) == TCP
        && (original.destination, original.destination_port) != (reply.source, reply.source_port)
        && [original, reply].iter().any(|tuple| ends.contains(&end(tuple)))
}

/// The socket that a tuple's packets come from.
const fn end(tuple: &Tuple) -> FlowKey {
    FlowKey {
        local_addr: tuple.source,
        peer_addr: tuple.destination,
        local_port: tuple.source_port,
        peer_port: tuple.destination_port,
        netns: 0,
        protocol: TCP,
        reserved: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::conntrack::listener::What;

    #[test]
    fn what_is_listed_in_part_is_said_to_be() {
        let said = |malformed, interrupted| flawed("7", Flaws { malformed, interrupted });
        assert_eq!(said(0, false), None);
        assert!(said(0, true).is_some_and(|line| line.contains("changed")));
        assert!(said(2, true).is_some_and(|line| line.contains("2 messages")));
    }

    #[test]
    fn only_translated_connections_of_known_sockets_are_wanted() {
        let tuple = |source: u8, destination: u8| Tuple {
            source: [source; 16],
            destination: [destination; 16],
            source_port: source.into(),
            destination_port: destination.into(),
        };
        let message = |protocol, reply| Message {
            netns: 7,
            zone: 0,
            what: What::New,
            status: 0,
            protocol,
            original: tuple(1, 96),
            reply,
        };
        let ends = |tuple| HashSet::from([end(&tuple)]);
        let translated = message(6, tuple(9, 1));
        assert!(is_wanted(&translated, &ends(tuple(1, 96))), "by the client");
        assert!(is_wanted(&translated, &ends(tuple(9, 1))), "by the server");
        assert!(!is_wanted(&translated, &ends(tuple(1, 9))));
        assert!(!is_wanted(&message(17, tuple(9, 1)), &ends(tuple(1, 96))));
        assert!(!is_wanted(&message(6, tuple(96, 1)), &ends(tuple(1, 96))), "not translated");
    }
}
