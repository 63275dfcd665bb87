//! The kernel's table of connections and its counters, by the program conntrack.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
    ops::Index,
    process::{Child, Stdio},
};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::NamedTempFile;

use crate::{machine, namespace::Namespace, tool};

/// One direction of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tuple {
    /// Where its packets come from.
    pub source: SocketAddr,
    /// Where they go.
    pub destination: SocketAddr,
}

/// A conversation in the table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Inode of the namespace that tracks it.
    pub netns: u32,
    /// Zone, 0 unless a rule says otherwise.
    pub zone: u16,
    /// As the kernel's tools write it.
    pub protocol: String,
    /// As it was opened.
    pub original: Tuple,
    /// As it is answered.
    pub reply: Tuple,
}

impl Entry {
    /// A line of `conntrack -L` or, without its `[EVENT]`, of `conntrack -E`.
    fn parse(netns: u32, line: &str) -> Result<Self> {
        let all = |key: &str| -> Vec<&str> {
            let words = line.split_whitespace().filter_map(|word| word.split_once('='));
            words.filter_map(|(name, value)| (name == key).then_some(value)).collect()
        };
        let [sources, destinations] = ["src", "dst"].map(all);
        let [source_ports, destination_ports] = ["sport", "dport"].map(all);
        let end = |ips: &[&str], ports: &[&str], at: usize| -> Result<SocketAddr> {
            let ip: IpAddr = ips.get(at).with_context(|| line.to_owned())?.parse()?;
            // ICMP has none.
            let port = ports.get(at).map_or(Ok(0), |port| port.parse())?;
            Ok(SocketAddr::new(ip, port))
        };
        let tuple = |at| -> Result<Tuple> {
            let source = end(&sources, &source_ports, at)?;
            Ok(Tuple { source, destination: end(&destinations, &destination_ports, at)? })
        };
        Ok(Self {
            netns,
            zone: all("zone").first().map_or(Ok(0), |zone| zone.parse())?,
            protocol: line.split_whitespace().next().with_context(|| line.to_owned())?.to_owned(),
            original: tuple(0)?,
            reply: tuple(1)?,
        })
    }
}

const FAMILIES: [&str; 2] = ["ipv4", "ipv6"];

/// All entries of a namespace, in order (`conntrack -L`).
///
/// # Errors
/// When `conntrack` fails or says something else.
pub fn list(namespace: &Namespace) -> Result<Vec<Entry>> {
    let lines = lines(namespace)?;
    let mut entries: Vec<_> =
        lines.iter().map(|line| Entry::parse(namespace.inode(), line)).collect::<Result<_>>()?;
    entries.sort();
    Ok(entries)
}

/// Whether no entry gives way to a newer one when the table is full.
///
/// # Errors
/// As for [`list`].
pub fn all_assured(namespace: &Namespace) -> Result<bool> {
    Ok(lines(namespace)?.iter().all(|line| line.contains("[ASSURED]")))
}

fn lines(namespace: &Namespace) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for family in FAMILIES {
        let text = conntrack(namespace, &["-L", "-f", family])?;
        lines.extend(text.lines().map(str::to_owned));
    }
    Ok(lines)
}

/// Lets the kernel stamp the entries that a namespace makes from now on.
///
/// # Errors
/// When the kernel has no stamps.
pub fn stamp(namespace: &Namespace) -> Result<()> {
    const SETTING: &str = "/proc/sys/net/netfilter/nf_conntrack_timestamp";
    namespace.run(|| fs::write(SETTING, "1")).context(SETTING)
}

/// When an entry was put into the table and, if it was, taken out, in nanoseconds of `CLOCK_REALTIME`.
pub type Stamps = (u64, Option<u64>);

/// The stamps of a namespace's entries, by the port of the client.
///
/// # Errors
/// As for [`list`].
pub fn stamps(namespace: &Namespace) -> Result<BTreeMap<u16, Stamps>> {
    stamps_of(&conntrack(namespace, &["-L", "-o", "xml,ktimestamp"])?)
}

/// Entries without one are left out.
fn stamps_of(text: &str) -> Result<BTreeMap<u16, Stamps>> {
    let mut stamps = BTreeMap::new();
    for entry in text.split("<flow").filter(|entry| entry.contains("</flow>")) {
        let value = |name: &str| {
            let (_, rest) = entry.split_once(&format!("<{name}>"))?;
            rest.split_once('<').map(|(value, _)| value)
        };
        if let Some(start) = value("start") {
            let port = value("sport").with_context(|| entry.to_owned())?.parse()?;
            let stop = value("stop").map(str::parse).transpose()?;
            stamps.insert(port, (start.parse()?, stop));
        }
    }
    Ok(stamps)
}

/// Removes the entries of one port of the client.
///
/// # Errors
/// When there is none.
pub fn remove(namespace: &Namespace, port: u16) -> Result<()> {
    conntrack(namespace, &["-D", "-p", "tcp", "--sport", &port.to_string()]).map(drop)
}

/// How many entries a namespace has (`conntrack -C`), those included that are being made or removed.
///
/// # Errors
/// As for [`list`].
pub fn count(namespace: &Namespace) -> Result<u64> {
    Ok(conntrack(namespace, &["-C"])?.trim().parse()?)
}

/// Removes all entries of a namespace, and says how many that were (`conntrack -D`).
///
/// # Errors
/// When `conntrack` cannot be run or says something else.
pub fn remove_all(namespace: &Namespace) -> Result<u64> {
    let mut removed = 0;
    for family in FAMILIES {
        // Having found none is a failure to it.
        let output = namespace.command("conntrack")?.args(["-D", "-f", family]).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        let words: Vec<_> = said.split_whitespace().collect();
        let at = words.windows(2).position(|pair| pair == ["flow", "entries"]);
        let number = at.and_then(|at| words.get(at.checked_sub(1)?));
        removed += number.with_context(|| said.clone().into_owned())?.parse::<u64>()?;
    }
    Ok(removed)
}

fn conntrack(namespace: &Namespace, arguments: &[&str]) -> Result<String> {
    let output = namespace.command("conntrack")?.args(arguments).output()?;
    tool::finish(&format!("conntrack {}", arguments.join(" ")), &output)
}

/// The counters of a namespace, of all CPUs (`conntrack -S`; `struct ip_conntrack_stat`,
/// include/linux/netfilter/nf_conntrack_common.h). Packets, but for `early_drop`, which are entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics(BTreeMap<String, u64>);

impl Statistics {
    /// Reads those of a namespace.
    ///
    /// # Errors
    /// When `conntrack` fails or says something else.
    pub fn read(namespace: &Namespace) -> Result<Self> {
        let text = conntrack(namespace, &["-S"])?;
        ensure!(text.contains("insert_failed="), "conntrack -S says {text:?}");
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self> {
        let mut all = BTreeMap::new();
        for (name, value) in text.split_whitespace().filter_map(|word| word.split_once('=')) {
            if name != "cpu" {
                *all.entry(name.to_owned()).or_default() += value.parse::<u64>()?;
            }
        }
        Ok(Self(all))
    }

    /// What was added since an earlier reading of the same namespace.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self(self.0.iter().map(|(name, value)| (name.clone(), value - earlier[name])).collect())
    }

    /// A counter; `None` when this kernel does not have it.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied()
    }

    /// Packets dropped because the table was full: `drop` holds those that lost a race, too.
    #[must_use]
    pub fn table_full(&self) -> u64 {
        self["drop"] - self["insert_failed"]
    }
}

impl Index<&str> for Statistics {
    type Output = u64;

    /// A counter; 0 when this kernel does not have it.
    fn index(&self, name: &str) -> &u64 {
        self.0.get(name).unwrap_or(&0)
    }
}

impl Index<&String> for Statistics {
    type Output = u64;

    fn index(&self, name: &String) -> &u64 {
        &self[name.as_str()]
    }
}

/// What the kernel tells of a namespace's entries as it happens (`conntrack -E`).
#[derive(Debug)]
pub struct Events {
    listener: Child,
    said: NamedTempFile,
    netns: u32,
}

impl Events {
    /// Starts to listen, and returns when the kernel knows of it.
    ///
    /// # Errors
    /// When `conntrack` cannot be run, or ends.
    pub fn listen(namespace: &Namespace) -> Result<Self> {
        Self::listen_as(namespace, &[])
    }

    /// The same with the kernel's stamps, for [`Events::stamps`].
    ///
    /// # Errors
    /// As for [`Events::listen`].
    pub fn listen_to_stamps(namespace: &Namespace) -> Result<Self> {
        Self::listen_as(namespace, &["-e", "DESTROY", "-o", "xml,ktimestamp"])
    }

    fn listen_as(namespace: &Namespace, arguments: &[&str]) -> Result<Self> {
        /// `NETLINK_NETFILTER` (include/uapi/linux/netlink.h).
        const NETFILTER: &str = "12";
        let said = NamedTempFile::new()?;
        let (out, error) = (said.reopen()?, Stdio::null());
        let mut listener = namespace.command("conntrack")?;
        let listener = listener.arg("-E").args(arguments).stdout(out).stderr(error).spawn()?;
        let events = Self { listener, said, netns: namespace.inode() };
        // Nobody else listens in a namespace of ours.
        let listens = |line: &str| {
            let words: Vec<_> = line.split_whitespace().collect();
            matches!(words[..], [_, NETFILTER, _, groups, ..]
                if groups.bytes().any(|digit| digit != b'0'))
        };
        let known = machine::wait_until(|| {
            let sockets = namespace.run(|| fs::read_to_string("/proc/thread-self/net/netlink"));
            sockets.is_ok_and(|sockets| sockets.lines().skip(1).any(listens))
        });
        ensure!(known, "conntrack -E does not listen");
        Ok(events)
    }

    /// Entries of which it told so: `NEW` when they were confirmed, `DESTROY` when they were removed.
    /// In order.
    ///
    /// # Errors
    /// When it said something else.
    pub fn told(&self, what: &str) -> Result<Vec<Entry>> {
        let text = fs::read_to_string(self.said.path())?;
        let mut found = Vec::new();
        // The last line may not be whole.
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let (kind, rest) = line.trim().split_once(']').with_context(|| line.to_owned())?;
            if kind.trim_start_matches('[') == what {
                found.push(Entry::parse(self.netns, rest)?);
            }
        }
        found.sort();
        Ok(found)
    }
}

impl Events {
    /// The stamps of the entries that were removed, as [`stamps`].
    ///
    /// # Errors
    /// When it said something else.
    pub fn stamps(&self) -> Result<BTreeMap<u16, Stamps>> {
        stamps_of(&fs::read_to_string(self.said.path())?)
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.listener), Signal::TERM);
        let _ = self.listener.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_as_they_are_printed() -> Result<()> {
        let cases = [
            (
                "tcp      6 431999 ESTABLISHED src=10.77.0.1 dst=10.77.0.9 sport=40000 dport=80 \
                 src=10.77.0.2 dst=10.77.0.1 sport=8080 dport=40000 [ASSURED] mark=0 zone=7 use=1",
                (
                    "tcp",
                    7,
                    ["10.77.0.1:40000", "10.77.0.9:80", "10.77.0.2:8080", "10.77.0.1:40000"],
                ),
            ),
            (
                "udp      17 29 src=fd77::1 dst=fd77::2 sport=5 dport=53 [UNREPLIED] src=fd77::2 \
                 dst=fd77::1 sport=53 dport=5 mark=0 use=1",
                ("udp", 0, ["[fd77::1]:5", "[fd77::2]:53", "[fd77::2]:53", "[fd77::1]:5"]),
            ),
            (
                "icmp     1 29 src=10.77.0.1 dst=10.77.0.2 type=8 code=0 id=7 src=10.77.0.2 \
                 dst=10.77.0.1 type=0 code=0 id=7 mark=0 use=1",
                ("icmp", 0, ["10.77.0.1:0", "10.77.0.2:0", "10.77.0.2:0", "10.77.0.1:0"]),
            ),
        ];
        for (line, (protocol, zone, ends)) in cases {
            let [source, destination, answering, answered] = ends.map(str::parse);
            let expected = Entry {
                netns: 3,
                zone,
                protocol: protocol.to_owned(),
                original: Tuple { source: source?, destination: destination? },
                reply: Tuple { source: answering?, destination: answered? },
            };
            assert_eq!(Entry::parse(3, line)?, expected);
        }
        Ok(())
    }

    #[test]
    fn stamps_are_read_as_they_are_printed() -> Result<()> {
        let text = "<conntrack>\n<flow><meta><sport>37061</sport></meta><meta><sport>999</sport></meta>\
                    <timestamp><start>17953155570856</start></timestamp></flow>\n\
                    <flow type=\"destroy\"><meta><sport>5</sport></meta><timestamp><start>17</start>\
                    <stop>19</stop></timestamp></flow>\n<flow><sport>7</sport></flow>";
        let expected = [(37061, (17_953_155_570_856, None)), (5, (17, Some(19)))];
        assert_eq!(stamps_of(text)?, BTreeMap::from(expected));
        Ok(())
    }

    #[test]
    fn statistics_are_summed_over_processors() -> Result<()> {
        let text =
            "cpu=0   \tfound=1 insert_failed=2 drop=5\ncpu=1   \tfound=0 insert_failed=1 drop=3";
        let statistics = Statistics::parse(text)?;
        assert_eq!((statistics["insert_failed"], statistics.table_full()), (3, 5));
        Ok(())
    }
}
