//! What a pair of files is called: `netdiag-NODE-TIME`, the time in UTC and to the second. Where that is taken,
//! by another run or by a pair of the same second, a number stands behind it: `netdiag-NODE-TIME-2`.

use std::fmt;

use jiff::{Timestamp, tz::TimeZone};

/// The name of a pair, without extension. The older one is less.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    node: String,
    time: String,
    number: u32,
}

impl Name {
    /// The first of a second.
    pub(super) fn new(node: &str, time: Timestamp) -> Self {
        let time = time.to_zoned(TimeZone::UTC).strftime("%Y%m%dT%H%M%SZ").to_string();
        Self { node: node.to_owned(), time, number: 1 }
    }

    /// The next one of the same second.
    pub(super) fn next(self) -> Self {
        Self { number: self.number + 1, ..self }
    }

    /// Reads one; none where it is no pair's.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let rest = name.strip_prefix("netdiag-")?;
        let (before, last) = rest.rsplit_once('-')?;
        let (node, time, number) = if is_time(last) {
            (before, last, 1)
        } else {
            let number = last.parse().ok().filter(|number| *number > 1)?;
            let (node, time) = before.rsplit_once('-').filter(|(_, time)| is_time(time))?;
            (node, time, number)
        };
        let parsed = Self { node: node.to_owned(), time: time.to_owned(), number };
        // Not `-02` or `-+2`.
        (parsed.to_string() == name).then_some(parsed)
    }

    /// Whose it is.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, time, number } = self;
        write!(f, "netdiag-{node}-{time}")?;
        if *number > 1 { write!(f, "-{number}") } else { Ok(()) }
    }
}

/// Whether it looks like `20261121T041800Z`.
fn is_time(text: &str) -> bool {
    text.len() == 16
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 => byte == b'T',
            15 => byte == b'Z',
            _ => byte.is_ascii_digit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let cases = [
            ("netdiag-node-1-20261121T041800Z", Some("node-1")),
            ("netdiag-node-1-20261121T041800Z-2", Some("node-1")),
            ("netdiag-a-20261121T041800Z-10", Some("a")),
            ("netdiag-a-20200101T000000Z-20261121T041800Z", Some("a-20200101T000000Z")),
            ("netdiag-a-20261121T041800Z-1", None),
            ("netdiag-a-20261121T041800Z-02", None),
            ("netdiag-a-20261121T041800Z-x", None),
            ("netdiag-a-20261121T0418000-2", None),
            ("netdiag-20261121T041800Z", None),
            ("other", None),
        ];
        for (name, node) in cases {
            let parsed = Name::parse(name);
            assert_eq!(parsed.as_ref().map(Name::node), node, "{name}");
            assert!(parsed.is_none_or(|parsed| parsed.to_string() == name), "{name}");
        }
    }

    #[test]
    fn the_older_one_is_less() {
        let time = "2026-11-21T04:18:00Z".parse().expect("time");
        let mut names = vec![Name::new("a", time)];
        for _ in 0..10 {
            names.extend(names.last().cloned().map(Name::next));
        }
        names.push(Name::new("a", "2026-11-21T04:18:01Z".parse().expect("time")));
        assert_eq!(names[10].to_string(), "netdiag-a-20261121T041800Z-11");
        assert!(names.is_sorted(), "{names:?}");
    }
}
