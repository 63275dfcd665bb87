//! What netdiag said of connection tracking: `conntrack` of a line in JSON.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::table::{Entry, Tuple};
use crate::{netdiag::Netdiag, outcome::Outcome};

/// Every count, as it is named.
pub const COUNTS: [&str; 7] =
    ["new", "confirmed", "insert_failed", "clash", "table_full", "early_drop", "destroyed"];

/// `conntrack` of one line.
#[derive(Clone, Debug)]
pub struct Said {
    /// Its entries, which may stand for several each: parts of their tuples are null then.
    pub entries: Vec<Row>,
    /// What belongs to no entry.
    pub other: Row,
    /// Who began conversations.
    pub creators: Vec<Creator>,
}

/// One of `entries`, or `other`.
#[derive(Clone, Debug)]
pub struct Row(pub Value);

/// One of `creators`.
#[derive(Clone, Debug)]
pub struct Creator(pub Value);

impl Said {
    /// Reads a line.
    ///
    /// # Errors
    /// When it says nothing of connection tracking, or in another form.
    pub fn parse(line: &str) -> Result<Self> {
        let line: Value = serde_json::from_str(line)?;
        let conntrack = line.get("conntrack").filter(|conntrack| !conntrack.is_null());
        let conntrack = conntrack.context("netdiag says nothing of conntrack")?;
        let list = |name: &str| -> Result<&Vec<Value>> {
            let list = conntrack.get(name).and_then(Value::as_array);
            list.with_context(|| format!("no list {name} in {conntrack}"))
        };
        let said = Self {
            entries: list("entries")?.iter().cloned().map(Row).collect(),
            other: Row(conntrack.get("other").context("no other")?.clone()),
            creators: list("creators")?.iter().cloned().map(Creator).collect(),
        };
        for row in said.entries.iter().chain([&said.other]) {
            for name in COUNTS {
                ensure!(row.0["counts"].get(name).is_some(), "no count {name} in {}", row.0);
            }
        }
        Ok(said)
    }

    /// A count over entries and `other`; `None` when the source cannot see it. Known and unknown ones
    /// do not stand side by side.
    ///
    /// # Errors
    /// When they do.
    pub fn sum(&self, name: &str) -> Result<Option<u64>> {
        let rows = self.entries.iter().chain([&self.other]);
        let (known, unknown): (Vec<_>, Vec<_>) =
            rows.map(|row| row.count(name)).partition(Option::is_some);
        ensure!(known.is_empty() || unknown.is_empty(), "{name} is known of some: {self:#?}");
        Ok((!known.is_empty()).then(|| known.into_iter().flatten().sum()))
    }

    /// Rows of exactly this entry.
    #[must_use]
    pub fn of(&self, entry: &Entry) -> Vec<&Row> {
        self.entries.iter().filter(|row| row.entry().as_ref() == Some(entry)).collect()
    }
}

fn number<T: TryFrom<u64>>(value: &Value) -> Option<T> {
    T::try_from(value.as_u64()?).ok()
}

fn end(value: &Value) -> Option<std::net::SocketAddr> {
    let ip: std::net::IpAddr = value["ip"].as_str()?.parse().ok()?;
    Some((ip, number(&value["port"])?).into())
}

fn tuple(value: &Value) -> Option<Tuple> {
    Some(Tuple { source: end(&value["source"])?, destination: end(&value["destination"])? })
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

impl Row {
    /// The one entry that it stands for.
    #[must_use]
    pub fn entry(&self) -> Option<Entry> {
        Some(Entry {
            netns: self.netns()?,
            zone: number(&self.0["zone"])?,
            protocol: text(&self.0["protocol"])?,
            original: self.original()?,
            reply: tuple(&self.0["reply"])?,
        })
    }

    /// Inode of the namespace.
    #[must_use]
    pub fn netns(&self) -> Option<u32> {
        number(&self.0["netns"])
    }

    /// The original tuple, where all of it is known.
    #[must_use]
    pub fn original(&self) -> Option<Tuple> {
        tuple(&self.0["original"])
    }

    /// Where to, where that is known.
    #[must_use]
    pub fn destination(&self) -> Option<std::net::SocketAddr> {
        end(&self.0["original"]["destination"])
    }

    /// Process that began it.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        number(&self.0["creator"]["pid"])
    }

    /// Ids of the flows that it carries.
    #[must_use]
    pub fn flows(&self) -> Vec<String> {
        self.0["flows"].as_array().into_iter().flatten().filter_map(text).collect()
    }

    /// A count; `None` when the source cannot see it.
    #[must_use]
    pub fn count(&self, name: &str) -> Option<u64> {
        self.0["counts"][name].as_u64()
    }

    /// Every count, in the order of [`COUNTS`].
    #[must_use]
    pub fn counts(&self) -> [Option<u64>; 7] {
        COUNTS.map(|name| self.count(name))
    }
}

impl Creator {
    /// Inode of the namespace.
    #[must_use]
    pub fn netns(&self) -> Option<u32> {
        number(&self.0["netns"])
    }

    /// Process.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        number(&self.0["creator"]["pid"])
    }

    /// Name of the process.
    #[must_use]
    pub fn comm(&self) -> Option<String> {
        text(&self.0["creator"]["comm"])
    }

    /// Where to.
    #[must_use]
    pub fn destination(&self) -> Option<std::net::SocketAddr> {
        end(&self.0["destination"])
    }

    /// Packets for which there was no room.
    #[must_use]
    pub fn table_full(&self) -> Option<u64> {
        self.0["table_full"].as_u64()
    }
}

/// Interrupts netdiag and returns what it said in its life, and of connection tracking in its last line.
///
/// # Errors
/// When it does not end, or its lines have another form.
pub fn stop(netdiag: Netdiag) -> Result<(Outcome, Said)> {
    let (status, out, err) = netdiag.stop_text()?;
    let outcome = Outcome::parse(Some(status), &out, &err)?;
    let said = Said::parse(out.last().context("no line at all")?)?;
    Ok((outcome, said))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"conntrack": {
        "entries": [
            {"netns": 4026532000, "zone": 7, "protocol": "tcp",
             "original": {"source": {"ip": "10.77.0.1", "port": 40000},
                          "destination": {"ip": "10.77.0.9", "port": 80}},
             "reply": {"source": {"ip": "10.77.0.2", "port": 80},
                       "destination": {"ip": "10.77.0.1", "port": 40000}},
             "creator": {"pid": 12, "comm": "curl"}, "flows": ["f12"],
             "counts": {"new": 1, "confirmed": 1, "insert_failed": 0, "clash": 0, "table_full": 0,
                        "early_drop": 0, "destroyed": 0}},
            {"netns": 4026532000, "zone": 0, "protocol": "udp",
             "original": {"source": {"ip": null, "port": null},
                          "destination": {"ip": "10.77.0.2", "port": 83}},
             "reply": null, "creator": null, "flows": [],
             "counts": {"new": 5, "confirmed": 5, "insert_failed": null, "clash": 0, "table_full": 7,
                        "early_drop": 0, "destroyed": 0}}],
        "other": {"counts": {"new": 2, "confirmed": 2, "insert_failed": 0, "clash": 0,
                             "table_full": 1, "early_drop": 0, "destroyed": 0}},
        "creators": [{"netns": 4026532000, "protocol": "udp",
                      "destination": {"ip": "10.77.0.2", "port": 83},
                      "creator": {"pid": 13, "comm": "bash"}, "new": 5, "table_full": 7}]}}"#;

    #[test]
    fn a_line_is_read_as_it_stands() -> Result<()> {
        let said = Said::parse(LINE)?;
        let entry = Entry {
            netns: 4_026_532_000,
            zone: 7,
            protocol: "tcp".to_owned(),
            original: Tuple {
                source: "10.77.0.1:40000".parse()?,
                destination: "10.77.0.9:80".parse()?,
            },
            reply: Tuple {
                source: "10.77.0.2:80".parse()?,
                destination: "10.77.0.1:40000".parse()?,
            },
        };
        let [row] = said.of(&entry)[..] else { anyhow::bail!("{said:#?}") };
        assert_eq!((row.pid(), row.flows()), (Some(12), vec!["f12".to_owned()]));
        assert_eq!(row.counts(), [1, 1, 0, 0, 0, 0, 0].map(Some));
        let summed_up = &said.entries[1];
        assert_eq!((summed_up.entry(), summed_up.original()), (None, None));
        assert_eq!(summed_up.destination(), Some("10.77.0.2:83".parse()?));
        assert_eq!((said.sum("new")?, said.sum("table_full")?), (Some(8), Some(8)));
        assert!(said.sum("insert_failed").is_err());
        let creator = &said.creators[0];
        assert_eq!((creator.pid(), creator.comm().as_deref()), (Some(13), Some("bash")));
        assert_eq!(creator.table_full(), Some(7));
        Ok(())
    }

    #[test]
    fn silence_is_no_answer() {
        for line in ["{}", r#"{"conntrack": null}"#, r#"{"conntrack": {"entries": []}}"#] {
            assert!(Said::parse(line).is_err(), "{line}");
        }
    }
}
