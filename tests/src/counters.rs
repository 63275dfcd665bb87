//! The kernel's own counters of a namespace: what netdiag's sums are held against.

use std::{collections::BTreeMap, fs, ops::Index};

use anyhow::{Context, Result};

use crate::{machine, namespace::Namespace};

/// `Tcp:` of `/proc/net/snmp` and `TcpExt:` of `/proc/net/netstat` (names as in
/// `net/ipv4/proc.c`), in the kernel's units: mostly segments. `Udp:` of the former with that before
/// the name, in datagrams.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TcpCounters(pub BTreeMap<String, i64>);

impl TcpCounters {
    /// Reads those of a namespace.
    ///
    /// # Errors
    /// When a file cannot be read or has another form.
    pub fn read(namespace: &Namespace) -> Result<Self> {
        namespace.run(|| {
            let mut all = BTreeMap::new();
            for (file, prefix, before) in
                [("snmp", "Tcp:", ""), ("snmp", "Udp:", "Udp"), ("netstat", "TcpExt:", "")]
            {
                // /proc/net is that of the process's first thread, which is elsewhere.
                let path = format!("/proc/thread-self/net/{file}");
                let text = fs::read_to_string(&path).with_context(|| path.clone())?;
                let mut lines = text.lines().filter_map(|line| line.strip_prefix(prefix));
                let names = lines.next().with_context(|| format!("no {prefix} in {path}"))?;
                let values = lines.next().with_context(|| format!("no {prefix} in {path}"))?;
                for (name, value) in names.split_whitespace().zip(values.split_whitespace()) {
                    all.insert(format!("{before}{name}"), value.parse()?);
                }
            }
            Ok(Self(all))
        })
    }

    /// What was added since an earlier reading of the same namespace.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self(self.0.iter().map(|(name, value)| (name.clone(), value - earlier[name])).collect())
    }

    /// Sum, name by name, as of two namespaces.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self(self.0.iter().map(|(name, value)| (name.clone(), value + other[name])).collect())
    }

    /// Those that are not zero, for messages.
    #[must_use]
    pub fn moved(&self) -> String {
        let moved = self.0.iter().filter(|(_, value)| **value != 0);
        moved.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    }
}

impl Index<&str> for TcpCounters {
    type Output = i64;

    /// A counter; 0 when this kernel does not have it.
    fn index(&self, name: &str) -> &i64 {
        self.0.get(name).unwrap_or(&0)
    }
}

impl Index<&String> for TcpCounters {
    type Output = i64;

    fn index(&self, name: &String) -> &i64 {
        &self[name.as_str()]
    }
}

/// Waits until no socket of the namespace has anything to send or to wait for: only listeners and
/// TIME-WAIT are left. After that its counters stand still.
///
/// # Errors
/// When that does not happen.
pub fn wait_until_quiet(namespace: &Namespace) -> Result<()> {
    const TIME_WAIT: &str = "06";
    const LISTEN: &str = "0A";
    let mut open = Vec::new();
    let quiet = machine::wait_until(|| {
        open = namespace.run(|| {
            ["tcp", "tcp6"]
                .iter()
                .filter_map(|file| fs::read_to_string(format!("/proc/thread-self/net/{file}")).ok())
                .flat_map(|text| text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>())
                .filter(|line| {
                    let state = line.split_whitespace().nth(3);
                    state.is_some_and(|state| state != TIME_WAIT && state != LISTEN)
                })
                .collect()
        });
        open.is_empty()
    });
    anyhow::ensure!(quiet, "sockets are still busy in {}: {open:#?}", namespace.name());
    Ok(())
}
