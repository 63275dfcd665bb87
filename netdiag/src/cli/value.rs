//! Values of flags: each from its text, with a message that says what would have been right.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    path::PathBuf,
    time::Duration,
};

use netdiag_common::signal::Signal;

use crate::{
    event::Kind,
    finding::{self, Unit},
    flow::Grouping,
    signal,
    snapshot::{build::Sort, told::kinds},
};

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

/// How a network namespace was named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetnsName {
    /// Inode number.
    Inode(u32),
    /// Name under `/run/netns`.
    Name(String),
    /// Path of a file of the namespace.
    Path(PathBuf),
    /// The namespace of a process.
    Pid(u32),
}

impl fmt::Display for NetnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inode(inode) => write!(f, "{inode}"),
            Self::Name(name) => write!(f, "{name}"),
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Pid(pid) => write!(f, "pid:{pid}"),
        }
    }
}

type Parsed<T> = Result<T, String>;

/// A time with units, such as `1s`, `500ms`, `1m30s`.
fn time(text: &str) -> Parsed<Duration> {
    let hint = "write a number with a unit: 500ms, 1s, 2m, 1h";
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(format!("no time given; {hint}"));
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| !c.is_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let seconds = match unit {
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            "" => return Err(format!("no unit in `{text}`; {hint}")),
            _ => return Err(format!("unknown unit `{unit}`; {hint}")),
        };
        let number: f64 = number.parse().map_err(|_| format!("`{text}` is no time; {hint}"))?;
        total = Duration::try_from_secs_f64(number * seconds)
            .ok()
            .and_then(|part| total.checked_add(part))
            .ok_or_else(|| format!("`{text}` is too long; {hint}"))?;
        rest = tail;
    }
    Ok(total)
}

fn time_within(text: &str, low: &str, high: &str) -> Parsed<Duration> {
    let value = time(text)?;
    if value < time(low)? || value > time(high)? {
        return Err(format!("`{text}` is out of bounds; give {low} to {high}"));
    }
    Ok(value)
}

/// `--interval`.
pub fn interval(text: &str) -> Parsed<Duration> {
    time_within(text, "100ms", "1h")
}

/// `--duration`.
pub fn duration(text: &str) -> Parsed<Duration> {
    time_within(text, "100ms", "366d")
}

/// `--idle`.
pub fn idle(text: &str) -> Parsed<Duration> {
    time_within(text, "1s", "24h")
}

/// `--rotate-every`.
pub fn rotate_every(text: &str) -> Parsed<Duration> {
    time_within(text, "1s", "366d")
}

/// A number of bytes, such as `8MiB`, `64KiB`, `1GB`, `4096`.
fn bytes(text: &str) -> Parsed<u64> {
    let hint = "write a number of bytes, with a unit if you like: 4096, 64KiB, 8MiB, 1GiB";
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "K" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        "T" | "TiB" => 1 << 40,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        unit => return Err(format!("unknown unit `{unit}`; {hint}")),
    };
    let number: u64 = number.parse().map_err(|_| format!("`{text}` is no size; {hint}"))?;
    number.checked_mul(factor).ok_or_else(|| format!("`{text}` is too large; {hint}"))
}

fn bytes_from(text: &str, low: &str) -> Parsed<u64> {
    let value = bytes(text)?;
    if value < bytes(low)? {
        return Err(format!("`{text}` is too small; give at least {low}"));
    }
    Ok(value)
}

/// `--max-disk`.
pub fn max_disk(text: &str) -> Parsed<u64> {
    bytes_from(text, "1MiB")
}

/// `--rotate-size`.
pub fn rotate_size(text: &str) -> Parsed<u64> {
    bytes_from(text, "64KiB")
}

/// `--ring-size`: the kernel wants a power of two of whole pages (`ringbuf_map_alloc` in
/// `kernel/bpf/ringbuf.c`).
pub fn ring_size(text: &str) -> Parsed<u32> {
    let value = bytes(text)?;
    let page = rustix::param::page_size() as u64;
    let most = 1_u64 << 30;
    if !value.is_power_of_two() || value < page || value > most {
        let below = 1_u64 << (63 - value.clamp(page, most).leading_zeros());
        return Err(format!(
            "`{text}` cannot be a ring buffer: give a power of two from {page} to 1GiB, \
             such as {below}"
        ));
    }
    u32::try_from(value).map_err(|error| error.to_string())
}

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
    let address = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let network = Ipv6Addr::from(u128::from(address) & mask(length));
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

/// `--netns`.
pub fn netns(text: &str) -> Parsed<NetnsName> {
    if let Some(pid) = text.strip_prefix("pid:") {
        return pid
            .parse()
            .map(NetnsName::Pid)
            .map_err(|_| format!("`{pid}` is no process id; write pid:4711"));
    }
    if text.is_empty() || text == "." || text == ".." {
        return Err("write an inode number, a name under /run/netns, a path, or pid:N".to_owned());
    }
    if text.contains('/') {
        return Ok(NetnsName::Path(text.into()));
    }
    Ok(text.parse().map_or_else(|_| NetnsName::Name(text.to_owned()), NetnsName::Inode))
}

/// `--comm`, `--pod` and `--namespace`.
pub fn name(text: &str) -> Parsed<String> {
    if text.is_empty() {
        return Err("write a name".to_owned());
    }
    Ok(text.to_owned())
}

/// `--cgroup`: a path below the root of its hierarchy, or below where that is mounted.
pub fn cgroup(text: &str) -> Parsed<String> {
    let below = text.strip_prefix("/sys/fs/cgroup/").unwrap_or(text).trim_matches('/');
    if text.is_empty() || below.split('/').any(|name| name == ".." || name == ".") {
        return Err(
            "write a path below /sys/fs/cgroup, such as system.slice/nginx.service".to_owned()
        );
    }
    Ok(format!("/{below}"))
}

/// `--container`: what the runtime's tools print, too.
pub fn container(text: &str) -> Parsed<String> {
    let id = text.rsplit_once("://").map_or(text, |(_runtime, id)| id);
    if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err("write the beginning of a container id, hexadecimal digits".to_owned());
    }
    Ok(id.to_ascii_lowercase())
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
fn unknown<'a>(what: &str, text: &str, known: impl Iterator<Item = &'a str>) -> String {
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

/// A threshold set by `--threshold`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Given {
    /// Id of the finding.
    pub id: &'static str,
    /// Name of its threshold.
    pub name: &'static str,
    /// In the threshold's unit.
    pub value: f64,
}

/// A number of that unit: plain, or as outputs show it.
fn in_unit(text: &str, unit: Unit) -> Option<f64> {
    const BYTES: [(&str, f64); 5] = [
        ("KiB", 1_024.0),
        ("MiB", 1_048_576.0),
        ("GiB", 1_073_741_824.0),
        ("TiB", 1_099_511_627_776.0),
        ("B", 1.0),
    ];
    const COUNTS: [(&str, f64); 4] = [("k", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12)];
    let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    let scaled = |units: &[(&str, f64)]| {
        let text = text.strip_suffix("/s").unwrap_or(&text);
        let of = units.iter().find_map(|(unit, of)| Some((text.strip_suffix(unit)?, of)));
        let (number, of) = of.unwrap_or((text, &1.0));
        Some(number.parse::<f64>().ok()? * of)
    };
    match unit {
        Unit::Ns => Some(time(&text).ok()?.as_nanos() as f64),
        Unit::S => Some(time(&text).ok()?.as_secs_f64()),
        Unit::Ratio => Some(text.strip_suffix('%')?.parse::<f64>().ok()? / 100.0),
        Unit::Times => text.strip_suffix("times")?.parse().ok(),
        Unit::Bytes | Unit::BytesPerSecond => scaled(&BYTES),
        Unit::Count | Unit::PerSecond => scaled(&COUNTS),
    }
}

/// `--threshold`.
pub fn threshold(text: &str) -> Parsed<Given> {
    let form = "write ID.NAME=VALUE, such as packet-loss.loss_ratio=0.02";
    let (name, value) =
        text.split_once('=').ok_or_else(|| format!("`{text}` sets nothing; {form}"))?;
    let (id, name) =
        name.split_once('.').ok_or_else(|| format!("`{name}` is no threshold; {form}"))?;
    let definition = finding::definition(id).ok_or_else(|| {
        let ids: Vec<_> = finding::DEFINITIONS.iter().map(|definition| definition.id).collect();
        format!("no finding `{id}`; there are {}", ids.join(", "))
    })?;
    let known = definition.thresholds.iter().find(|known| known.name == name);
    let known = known.ok_or_else(|| {
        let of_it = definition.thresholds.iter();
        let names: Vec<_> =
            of_it.map(|known| format!("{} ({})", known.name, known.value)).collect();
        format!("{id} has no threshold `{name}`; it has {}", names.join(", "))
    })?;
    let number = in_unit(value, known.unit).filter(|number| number.is_finite());
    let value =
        number.ok_or_else(|| format!("`{value}` is no number; {}: {}", known.name, known.help))?;
    Ok(Given { id: definition.id, name: known.name, value })
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn thresholds_are_taken_as_they_are_shown() {
        for definition in finding::DEFINITIONS {
            for known in definition.thresholds {
                let shown = crate::view::diagnose::valued(known.value, known.unit);
                let given = threshold(&format!("{}.{}={shown}", definition.id, known.name));
                let value = given.unwrap_or_else(|error| panic!("{shown}: {error}")).value;
                assert!(
                    (value - known.value).abs() <= known.value.abs() / 100.0,
                    "{shown}: {value}"
                );
            }
        }
        assert!(threshold("packet-loss.loss_ratio=2s").is_err());
    }
}
