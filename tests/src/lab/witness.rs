//! Whether a fault is really there: what the kernel, `ss` and the actors themselves say of it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use super::{Side, stage::Stage};
use crate::{
    conntrack::table::{self, Statistics},
    counters::TcpCounters,
    namespace::Namespace,
    network::link::Carried,
    tool,
};

/// Readings of one side.
#[derive(Clone, Debug, Default)]
struct Reading {
    counters: TcpCounters,
    /// Sockets by the names of `ss`.
    states: BTreeMap<String, u64>,
    /// Each line of `ss -tinmO` of connections.
    sockets: Vec<String>,
    /// Drops of the queueing discipline, and what devices count (`ip -s -s link`).
    queue: u64,
    errors: u64,
    /// Entries of connection tracking.
    tracked: u64,
    /// What connection tracking counts of itself, where it can be asked.
    tracking: Option<Statistics>,
}

impl Reading {
    fn take(side: &Namespace, device: &str) -> Result<Self> {
        let ss = |flags: &str| -> Result<String> {
            tool::finish("ss", &side.command("ss")?.args([flags]).output()?)
        };
        let mut states = BTreeMap::new();
        for line in ss("-tanH")?.lines() {
            if let Some(state) = line.split_whitespace().next() {
                *states.entry(state.to_owned()).or_default() += 1;
            }
        }
        let sockets = ss("-tinmOH")?.lines().take(2000).map(str::to_owned).collect();
        let queue = tool::line(&format!("tc -n {} -s qdisc show dev {device}", side.name()));
        let queue = queue
            .ok()
            .and_then(|text| text.split_once("dropped ")?.1.split(',').next()?.trim().parse().ok());
        let errors = side.run(|| {
            let text = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
            let errors = text.lines().filter_map(|line| {
                let (_, numbers) = line.split_once(':')?;
                let numbers: Vec<u64> =
                    numbers.split_whitespace().map_while(|word| word.parse().ok()).collect();
                // Received: errors, frame; sent: errors, carrier (net/core/net-procfs.c).
                Some([2, 5, 10, 14].iter().filter_map(|&at| numbers.get(at)).sum::<u64>())
            });
            errors.sum()
        });
        Ok(Self {
            counters: TcpCounters::read(side)?,
            states,
            sockets,
            queue: queue.unwrap_or_default(),
            errors,
            tracked: table::count(side).unwrap_or_default(),
            tracking: Statistics::read(side).ok(),
        })
    }
}

/// Readings of both sides at one time.
#[derive(Clone, Debug, Default)]
pub struct Readings {
    sides: [Reading; 2],
    carried: [Carried; 2],
    /// Packets for which no processor's backlog had room.
    softnet: u64,
}

impl Readings {
    /// Takes them.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn take(stage: &Stage) -> Result<Self> {
        let device = stage.device();
        let sides =
            [Reading::take(&stage.client, &device)?, Reading::take(&stage.server, &device)?];
        let carried = stage.relay().map(crate::network::relay::Relay::carried).unwrap_or_default();
        // Its second column, in hexadecimal (net/core/net-procfs.c).
        let softnet = std::fs::read_to_string("/proc/net/softnet_stat")?;
        let dropped = softnet
            .lines()
            .filter_map(|line| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok());
        Ok(Self { sides, carried, softnet: dropped.sum() })
    }
}

/// What happened in the time that was watched.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// At its beginning.
    pub before: Readings,
    /// At its end.
    pub after: Readings,
    /// What each actor counted, by role.
    pub said: BTreeMap<String, BTreeMap<String, u64>>,
}

impl Seen {
    /// Rise of a counter of TCP or UDP.
    #[must_use]
    pub fn counter(&self, side: Side, name: &str) -> u64 {
        let at = side as usize;
        let rise = self.after.sides[at].counters[name] - self.before.sides[at].counters[name];
        u64::try_from(rise).unwrap_or_default()
    }

    /// A counter at the end, since the namespace was made.
    #[must_use]
    pub fn total(&self, side: Side, name: &str) -> u64 {
        u64::try_from(self.after.sides[side as usize].counters[name]).unwrap_or_default()
    }

    /// Packets of the machine that found no room in a processor's backlog.
    #[must_use]
    pub const fn softnet_drops(&self) -> u64 {
        self.after.softnet - self.before.softnet
    }

    /// Sockets in a state at the end, as `CLOSE-WAIT`.
    #[must_use]
    pub fn sockets(&self, side: Side, state: &str) -> u64 {
        self.after.sides[side as usize].states.get(state).copied().unwrap_or_default()
    }

    /// The most that `ss` says of any connection under a name, as `rwnd_limited`, in its own unit
    /// (milliseconds for times).
    #[must_use]
    pub fn most(&self, side: Side, name: &str) -> f64 {
        let values = self.after.sides[side as usize].sockets.iter().filter_map(|line| {
            let word = line.split_whitespace().find_map(|word| word.strip_prefix(name))?;
            let value = word.strip_prefix(':')?;
            let end = value.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(value.len());
            value[..end].parse::<f64>().ok()
        });
        values.fold(0.0, f64::max)
    }

    /// The most bytes that wait in a connection's queue: to be read, or to be sent.
    #[must_use]
    pub fn queued(&self, side: Side, to_send: bool) -> u64 {
        let values = self.after.sides[side as usize]
            .sockets
            .iter()
            .filter_map(|line| line.split_whitespace().nth(1 + usize::from(to_send))?.parse().ok());
        values.max().unwrap_or_default()
    }

    /// Packets that the queueing discipline dropped.
    #[must_use]
    pub fn queue_drops(&self, side: Side) -> u64 {
        let at = side as usize;
        self.after.sides[at].queue.saturating_sub(self.before.sides[at].queue)
    }

    /// Errors that devices counted.
    #[must_use]
    pub fn errors(&self, side: Side) -> u64 {
        let at = side as usize;
        self.after.sides[at].errors.saturating_sub(self.before.sides[at].errors)
    }

    /// Entries of connection tracking at the end.
    #[must_use]
    pub fn tracked(&self, side: Side) -> u64 {
        self.after.sides[side as usize].tracked
    }

    /// Rise of a counter of connection tracking, as `insert_failed`.
    #[must_use]
    pub fn tracking(&self, side: Side, name: &str) -> u64 {
        let [before, after] = [&self.before, &self.after]
            .map(|readings| readings.sides[side as usize].tracking.as_ref());
        let (Some(before), Some(after)) = (before, after) else { return 0 };
        after.since(before)[name]
    }

    /// What the link made of the packets that a side sent, in all its life.
    #[must_use]
    pub const fn carried(&self, side: Side) -> Carried {
        self.after.carried[side as usize]
    }

    /// Bytes that the link took from a side.
    #[must_use]
    pub fn bytes(&self, side: Side) -> u64 {
        let at = side as usize;
        self.after.carried[at].bytes - self.before.carried[at].bytes
    }

    /// What an actor counted, in all its life; 0 when nothing.
    #[must_use]
    pub fn said(&self, role: &str, what: &str) -> u64 {
        self.said.get(role).and_then(|said| said.get(what)).copied().unwrap_or_default()
    }

    /// All that an actor counted, in all its life; not how long it took.
    fn counted(&self, role: &str) -> u64 {
        let said = self.said.get(role).into_iter().flatten();
        said.filter(|(what, _)| !what.ends_with("_us")).map(|(_, count)| count).sum()
    }

    /// What an actor got done, in all its life: what it sent, connections that it only opens, and answers, of which a
    /// refusal is one, too; not what it tried.
    fn done(&self, role: &str) -> u64 {
        const DONE: [&str; 7] =
            ["answers", "answered", "answered_badly", "opened", "sends", "sent", "refused"];
        DONE.iter().map(|what| self.said(role, what)).sum()
    }

    /// What moved, for people.
    #[must_use]
    pub fn summary(&self) -> String {
        const NAMES: [&str; 8] = [
            "OutSegs",
            "RetransSegs",
            "ActiveOpens",
            "AttemptFails",
            "EstabResets",
            "OutRsts",
            "ListenOverflows",
            "TCPTimeouts",
        ];
        let mut text = String::new();
        for side in [Side::Client, Side::Server] {
            let moved = NAMES.map(|name| (name, self.counter(side, name)));
            let moved = moved.iter().filter(|(_, value)| *value > 0);
            let moved: Vec<_> = moved.map(|(name, value)| format!("{name}={value}")).collect();
            let states = &self.after.sides[side as usize].states;
            text.push_str(&format!("{side:?} {} {states:?}; ", moved.join(" ")));
        }
        format!("{text}{:?}", self.said)
    }
}

/// What must hold for a fault to be there.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    /// Each with the numbers.
    pub held: Vec<String>,
    /// Those that do not hold.
    pub broken: Vec<String>,
}

impl Claims {
    /// A number that is not below another.
    pub fn least(&mut self, what: &str, found: u64, least: u64) {
        let text = format!("{what}: {found} >= {least}");
        if found >= least { &mut self.held } else { &mut self.broken }.push(text);
    }
}

/// Claims of a run in which nothing must be found: each client did something, and all together got so much done.
pub fn at_work(seen: &Seen, clients: &BTreeSet<String>, least: u64, claims: &mut Claims) {
    for role in clients {
        claims.least(&format!("what {role} counted"), seen.counted(role), 1);
    }
    let done = clients.iter().map(|role| seen.done(role)).sum();
    claims.least("done by all clients", done, least);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_nothing_is_not_healthy() {
        let broken = |web: &[(&str, u64)], poll: &[(&str, u64)]| {
            let said = [("web", web), ("poll", poll)].map(|(role, counts)| {
                let counts = counts.iter().map(|&(what, count)| (what.to_owned(), count));
                (role.to_owned(), counts.collect::<BTreeMap<_, _>>())
            });
            let seen = Seen { said: said.into(), ..Seen::default() };
            let mut claims = Claims::default();
            let clients = BTreeSet::from(["web", "poll"].map(str::to_owned));
            at_work(&seen, &clients, 10, &mut claims);
            claims.broken
        };
        assert_eq!(broken(&[("answers", 10), ("max_us", 7)], &[("requests", 3)]), [""; 0]);
        let idle = broken(&[("answers", 10)], &[("max_us", 7)]);
        assert_eq!(idle, ["what poll counted: 0 >= 1"]);
        let failing = broken(&[("requests", 30), ("timed_out", 30)], &[("requests", 30)]);
        assert_eq!(failing, ["done by all clients: 0 >= 10"]);
        assert_eq!(broken(&[], &[]).len(), 3);
    }
}
