//! How many rules the packet filter has, per network namespace.
//!
//! Asking loads no module: nftables is asked where its module is there, and a kernel without modules
//! has none to load. Of the older iptables only the tables are known: counting its rules takes a system
//! call that has no safe form.

use std::{collections::BTreeMap, io};

use netlink_packet_core::NlasIterator;
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::{
    files,
    netlink::{self, text},
};
use crate::snapshot::node::RuleTable;

/// `NFNL_SUBSYS_NFTABLES` (`include/uapi/linux/netfilter/nfnetlink.h`), `NFT_MSG_NEWTABLE`,
/// `NFT_MSG_GETTABLE`, `NFT_MSG_NEWRULE` and `NFT_MSG_GETRULE`
/// (`include/uapi/linux/netfilter/nf_tables.h`).
const NEW_TABLE: u16 = 10 << 8;
const GET_TABLE: u16 = 10 << 8 | 1;
const NEW_RULE: u16 = 10 << 8 | 6;
const GET_RULE: u16 = 10 << 8 | 7;

/// `NFTA_TABLE_NAME` and `NFTA_RULE_TABLE`.
const TABLE: u16 = 1;

/// Family of what stands for all tables.
const ANY_FAMILY: &str = "any";

/// `struct nfgenmsg`: any family.
const ANY: [u8; 4] = [0; 4];

/// Whether nftables can be asked without loading it.
#[must_use]
pub fn may_ask() -> bool {
    match files::text("/proc/modules") {
        Ok(modules) => modules.lines().any(|line| line.split(' ').next() == Some("nf_tables")),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// The tables of the calling thread's namespace, and whether all could be read: an error of netlink
/// (`Interrupted` when they changed all the time) or of a file. Where nftables could not be asked, a table of any
/// family without a name stands for all of its. A kernel without nftables has no tables of it.
pub fn read(may_ask: bool) -> (Vec<RuleTable>, io::Result<()>) {
    let mut read = Ok(());
    let tables = match may_ask.then(ask) {
        Some(Ok(tables)) => tables,
        Some(Err(error)) if !is_absent(&error) => {
            read = Err(error);
            Tables::new()
        }
        _ => Tables::new(),
    };
    let table = |family: &str, table: String, legacy, rules| RuleTable {
        netns: 0,
        family: family.to_owned(),
        table,
        legacy,
        rules,
    };
    let mut all: Vec<_> = tables
        .into_iter()
        .map(|((family, name), rules)| table(self::family(family), name, false, Some(rules)))
        .collect();
    if read.is_err() {
        all.push(table(ANY_FAMILY, String::new(), false, None));
    }
    for (family, file) in [("ip", "ip_tables_names"), ("ip6", "ip6_tables_names")] {
        match files::text(format!("/proc/thread-self/net/{file}")) {
            Ok(names) => {
                all.extend(names.lines().map(|name| table(family, name.to_owned(), true, None)));
            }
            // Without such tables there is no such file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => read = read.and(Err(error)),
        }
    }
    (all, read)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT))
}

/// Rules by family and table.
type Tables = BTreeMap<(u8, String), u64>;

fn ask() -> io::Result<Tables> {
    let mut all = Tables::new();
    for (get, new, rules) in [(GET_TABLE, NEW_TABLE, 0), (GET_RULE, NEW_RULE, 1)] {
        let take = |tables: &mut Tables, kind, payload: &[u8]| {
            let table = (kind == new).then(|| parse(payload)).flatten();
            let makes_sense = table.is_some();
            if let Some(table) = table {
                *tables.entry(table).or_default() += rules;
            }
            makes_sense
        };
        for (table, rules) in netlink::whole(NETLINK_NETFILTER, get, &ANY, Tables::new, take)? {
            *all.entry(table).or_default() += rules;
        }
    }
    Ok(all)
}

/// Family and table of a message, which both kinds have at the same place.
fn parse(payload: &[u8]) -> Option<(u8, String)> {
    let (header, attributes) = payload.split_first_chunk::<4>()?;
    let mut attributes = NlasIterator::new(attributes).map_while(Result::ok);
    let table = attributes.find(|attribute| attribute.kind() == TABLE)?;
    Some((header[0], text(table.value())))
}

/// `NFPROTO_*` (`include/uapi/linux/netfilter.h`).
const fn family(number: u8) -> &'static str {
    match number {
        1 => "inet",
        2 => "ip",
        3 => "arp",
        5 => "netdev",
        7 => "bridge",
        10 => "ip6",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn family_and_table() {
        let message =
            [&[2, 0, 0, 9][..], &[8, 0, 1, 0], b"nat\0", &[6, 0, 2, 0, 7, 7, 0, 0]].concat();
        assert_eq!(parse(&message), Some((2, "nat".to_owned())));
        for end in 0..message.len() {
            let _cut = parse(&message[..end]);
        }
        assert_eq!(parse(&[2, 0, 0, 9]), None);
        assert_eq!(parse(&[2, 0, 0, 9, 0xff, 0xff, 1, 0, 1]), None);
    }

    #[test]
    fn hostile_messages_are_survived() {
        let sound =
            [&[2, 0, 0, 9][..], &[8, 0, 1, 0], b"nat\0", &[6, 0, 2, 0, 7, 7, 0, 0]].concat();
        crate::hostile::survived(&[sound], |bytes| drop(parse(bytes)));
    }
}
