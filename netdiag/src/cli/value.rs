//! Values of flags: each from its text, with a message that says what would have been right.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netdiag_common::{flow::mapped, signal::Signal};

use crate::{
    event::Kind,
    flow::Grouping,
    signal,
    snapshot::{build::Sort, told::kinds},
};

pub use self::{
    collector::{Collector, collector},
    owner::{NetnsName, cgroup, container, name, netns},
    quantity::{
        When, duration, idle, interval, max_cpu, max_disk, ring_size, rotate_every, rotate_size,
        when,
    },
    threshold::{Given, threshold},
};

mod collector;
mod owner;
mod quantity;
mod threshold;

/// A source forced by `--source`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceChoice {
    /// Of which signal.
    pub signal: Signal,
    /// Name of the source.
    pub source: &'static str,
}

/// An address prefix; the address is IPv6, IPv4 as v4-mapped (RFC 4291 section 2.5.5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// Network; the bits behind the prefix are zero.
    pub network: Ipv6Addr,
    /// Length of the prefix in bits, 0 to 128 (96 more than written for IPv4).
    pub length: u8,
}

type Parsed<T> = Result<T, String>;

/// `--node`: it becomes part of a file name.
pub fn node(text: &str) -> Parsed<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if text.is_empty() || text.len() > 128 || text.starts_with('.') || !text.chars().all(allowed) {
        return Err(
            "it becomes part of a file name; use up to 128 letters, digits, `-`, `_` and `.`"
                .to_owned(),
        );
    }
    Ok(text.to_owned())
}

/// `--listen`: a port alone is on the loopback, any other address must be written.
pub fn listen(text: &str) -> Parsed<SocketAddr> {
    if let Ok(port) = text.strip_prefix(':').unwrap_or(text).parse() {
        return Ok((Ipv4Addr::LOCALHOST, port).into());
    }
    text.parse().map_err(|_| {
        "write a port, such as :9464, which is on the loopback, or an address with one: 10.0.0.7:9464, \
         [2001:db8::1]:9464, 0.0.0.0:9464 for all"
            .to_owned()
    })
}

/// `--peer`.
pub fn prefix(text: &str) -> Parsed<Prefix> {
    let hint = "write an address or a prefix: 10.0.0.0/8, 192.0.2.7, 2001:db8::/32";
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let address: IpAddr =
        address.parse().map_err(|_| format!("`{address}` is no address; {hint}"))?;
    let (bits, before) = match address {
        IpAddr::V4(_) => (32, 96),
        IpAddr::V6(_) => (128, 0),
    };
    let length: u8 = match length {
        None => bits,
        Some(length) => length
            .parse()
            .ok()
            .filter(|&length| length <= bits)
            .ok_or_else(|| format!("`/{length}` is no length from 0 to {bits}; {hint}"))?,
    };
    let length = length + before;
    let network = Ipv6Addr::from(u128::from_be_bytes(mapped(address)) & mask(length));
    Ok(Prefix { network, length })
}

/// The upper `length` bits of an address, 0 to 128.
#[must_use]
pub const fn mask(length: u8) -> u128 {
    match length {
        0 => 0,
        _ => u128::MAX << (128 - length as u32),
    }
}

/// `--signals`.
pub fn signal(text: &str) -> Parsed<Signal> {
    Signal::ALL
        .iter()
        .copied()
        .find(|signal| signal.name() == text)
        .ok_or_else(|| unknown("signal", text, signal::DEFINITIONS.iter().map(|d| d.signal.name())))
}

/// `--kind`: learnt from the definitions of the signals.
pub fn kind(text: &str) -> Parsed<&'static Kind> {
    kinds()
        .find(|kind| kind.name == text)
        .ok_or_else(|| unknown("kind", text, kinds().map(|kind| kind.name)))
}

/// `--source`.
pub fn source(text: &str) -> Parsed<SourceChoice> {
    let (of, name) = text.split_once('=').ok_or_else(|| {
        format!("`{text}` names no source; write SIGNAL=SOURCE, such as send=kprobe")
    })?;
    let of = signal(of)?;
    let sources = signal::DEFINITIONS[of as usize].sources;
    match sources.iter().find(|source| source.name == name) {
        Some(source) => Ok(SourceChoice { signal: of, source: source.name }),
        None => {
            let what = format!("source of `{}`", of.name());
            Err(unknown(&what, name, sources.iter().map(|source| source.name)))
        }
    }
}

/// `--metric`: learnt from the definitions of the signals.
pub fn metric(text: &str) -> Parsed<&'static str> {
    let names = || signal::metrics().map(|(_, _, metric)| metric.name);
    names().find(|name| *name == text).ok_or_else(|| unknown("metric", text, names()))
}

/// `--by` where it changes nothing.
pub fn by_is_no_matter(_text: &str) -> Parsed<Grouping> {
    Err("findings are concluded from single flows, whatever they have in common; leave --by out"
        .to_owned())
}

/// `--sort`: learnt from the definitions, like the columns that it sorts by.
pub fn sort(text: &str) -> Parsed<Sort> {
    let orders = Sort::all();
    orders
        .iter()
        .find(|(name, _)| name == text)
        .map(|(_, order)| *order)
        .ok_or_else(|| unknown("order", text, orders.iter().map(|(name, _)| name.as_str())))
}

/// `unknown WHAT`, the nearest name, and all of them.
pub(super) fn unknown<'a>(what: &str, text: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.collect();
    let near = nearest(text, known.iter().copied());
    let near = near.first().map_or_else(String::new, |near| format!("did you mean `{near}`? "));
    format!("unknown {what} `{text}`; {near}there are: {}", known.join(", "))
}

/// The names that `text` may have meant, nearest first, at most five.
#[must_use]
pub fn nearest<'a>(text: &str, known: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut near: Vec<(usize, &str)> = known
        .filter_map(|name| {
            let distance = strsim::damerau_levenshtein(text, name);
            let begins = !text.is_empty() && (name.starts_with(text) || text.starts_with(name));
            (begins || distance <= 1.max(text.chars().count() / 3)).then_some((distance, name))
        })
        .collect();
    near.sort_unstable();
    near.dedup();
    near.into_iter().map(|(_, name)| name).take(5).collect()
}
