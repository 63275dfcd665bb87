//! The statistics as a file (`net/netfilter/nf_conntrack_standalone.c`, `ct_cpu_seq_show`): a line of
//! names, then a line of hexadecimal numbers per processor. Which names there are depends on the kernel,
//! so the place of a column says nothing.

use std::io;

use super::{Counter, Statistics, statistics::Row};

/// Where it is. Not below `/proc/net`: that is the namespace of the main thread.
pub const PATH: &str = "/proc/thread-self/net/stat/nf_conntrack";

/// The column in which a counter stands.
const fn column(counter: Counter) -> &'static str {
    match counter {
        Counter::Error => "icmp_error",
        Counter::ClashResolve => "clashres",
        Counter::ChainTooLong => "chainlength",
        other => other.name(),
    }
}

/// Entries in the table, and the statistics.
///
/// # Errors
/// `InvalidData` when the text makes no sense.
pub fn parse(text: &str) -> io::Result<(u64, Statistics)> {
    let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, format!("{PATH}: {what}"));
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap_or_default().split_ascii_whitespace().collect();
    let place = |name: &str| names.iter().position(|column| *column == name);
    let entries_at = place("entries").ok_or_else(|| invalid("no column `entries`"))?;
    let places = Counter::ALL.map(|counter| (counter, place(column(counter))));
    let known = || places.iter().filter_map(|(counter, place)| Some((*counter, (*place)?)));
    let (mut entries, mut rows) = (None, Vec::new());
    for line in lines {
        let numbers = line.split_ascii_whitespace().map(|number| u32::from_str_radix(number, 16));
        let numbers: Vec<u32> =
            numbers.collect::<Result<_, _>>().map_err(|_| invalid("a value is no number"))?;
        if numbers.len() != names.len() {
            return Err(invalid("names and values do not match in number"));
        }
        // The same in every line.
        entries = numbers.get(entries_at).copied();
        rows.push(known().map(|(counter, place)| (counter, numbers[place])).collect::<Row>());
    }
    let entries = entries.ok_or_else(|| invalid("no line of values"))?;
    Ok((entries.into(), Statistics::new(known().map(|(counter, _)| counter), rows)))
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
