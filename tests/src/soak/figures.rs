//! What came of it: a short table, and all that must hold.

use std::{fmt::Write as _, time::Duration};

use netdiag::{format, snapshot::Account};

use super::{
    Soak, Soaked,
    guest::Guests,
    life::{End, Lived},
    load::Driven,
    scraped::Answers,
    trend::{Growth, Reading, growth, quarters},
    weather::Log,
};

/// All that was counted.
pub(super) struct Figures {
    pub(super) log: Log,
    pub(super) driven: Driven,
    pub(super) guests: Guests,
    pub(super) answers: Answers,
    /// Before there was anything to see, and when all was over.
    pub(super) descriptors: [usize; 2],
    /// What was left behind.
    pub(super) left: Vec<String>,
}

/// Loads that may fail, of so many: they have their own troubles on a machine that stands still.
const FAILURES: u64 = 10;

impl Figures {
    /// Holds them against what is asked for.
    pub(super) fn judge(self, soak: &Soak) -> Soaked {
        let table = self.table(soak);
        let longest = self.longest().map(|lived| lived.resident.clone());
        let Self { log, driven, guests, answers, descriptors: [idle, settled], left } = self;
        let mut facts = log.facts;
        facts.note(&table);
        facts.adopt("beside it", guests.facts);
        let told: u64 = log.lives.iter().map(|(lived, _)| lived.told).sum();
        facts.holds(format_args!("{told} intervals were told"), told > 0);
        facts.holds(format_args!("{answers:?} to who scrapes"), answers.told > 0);
        facts.holds(format_args!("{settled} descriptors, {idle} before"), settled <= idle);
        facts.equal("left behind", left, vec![]);
        let runs: u64 = driven.runs.values().sum();
        let failed = driven.failed;
        facts.holds(format_args!("{failed} of {runs} loads failed"), failed * FAILURES <= runs);
        if let Some(most) = soak.growth_bytes {
            match longest.as_deref().and_then(growth) {
                Some(growth) => facts.holds(
                    format_args!("{growth:?} is no more than {most} bytes"),
                    growth.least() <= most,
                ),
                None => facts.holds("it lived for long enough to tell whether it grows", false),
            }
        }
        Soaked { table, facts }
    }

    /// The life of which most is known.
    fn longest(&self) -> Option<&Lived> {
        self.log.lives.iter().map(|(lived, _)| lived).max_by_key(|lived| lived.time)
    }

    fn table(&self, soak: &Soak) -> String {
        let mut text = format!("{} of bad weather, seed {}\n", time(soak.time), soak.seed);
        for (name, figure) in [
            ("intervals", self.intervals()),
            ("samples", self.samples()),
            ("lives", self.lives()),
            ("resident", self.resident()),
            ("growth", self.growth(soak)),
            ("descriptors", self.held()),
            ("troubles", listed(self.log.troubles.iter().map(|(it, n)| (it.name(), n)))),
            ("others", self.others()),
            ("loads", self.loads()),
            ("scrapes", format!("{} answered, {} not", self.answers.told, self.answers.none)),
            ("left behind", either(&self.left)),
        ] {
            // Whatever is written to memory.
            let _ = writeln!(text, "  {name:<12} {figure}");
        }
        text
    }

    fn sum(&self, of: fn(&Lived) -> u64) -> u64 {
        self.log.lives.iter().map(|(lived, _)| of(lived)).sum()
    }

    fn intervals(&self) -> String {
        let each: [fn(&Lived) -> u64; 3] = [|it| it.told, |it| it.written, |it| it.missing];
        let [told, written, missing] = each.map(|of| self.sum(of));
        format!("{told} told, {written} in files, {missing} said to be missing there")
    }

    fn samples(&self) -> String {
        let accounts = self.log.lives.iter().flat_map(|(lived, _)| lived.accounting.values());
        let all = accounts.fold(Account::default(), |sum, account| sum.plus(account));
        let lost = all.ring_full + all.map_full + all.read_failed;
        let count = format::count;
        format!(
            "{} seen, {} submitted, {} filtered or limited, {} lost, {} unmatched, {} missed",
            count(all.seen),
            count(all.submitted),
            count(all.filtered + all.rate_limited + all.shed),
            count(lost),
            count(all.unmatched),
            count(all.missed)
        )
    }

    fn lives(&self) -> String {
        let killed = self.log.lives.iter().filter(|(_, end)| *end == End::Killed).count();
        let longest = self.longest().map_or(Duration::ZERO, |lived| lived.time);
        format!("{}, {killed} of them killed, the longest {}", self.log.lives.len(), time(longest))
    }

    fn readings(&self) -> &[Reading] {
        self.longest().map(|lived| lived.resident.as_slice()).unwrap_or_default()
    }

    fn resident(&self) -> String {
        let Some(quarters) = quarters(self.readings()) else { return format::MISSING.to_owned() };
        let each = quarters.map(|value| format::bytes(value as u64));
        format!("{} at the quarters of that life", each.join(", "))
    }

    fn growth(&self, soak: &Soak) -> String {
        let Some(growth) = growth(self.readings()) else { return format::MISSING.to_owned() };
        let Growth { per_hour, error, hours } = growth;
        let most = soak.growth_bytes.map_or_else(
            || "the time is too short for a limit".to_owned(),
            |most| format!("at most {} is let pass", mebibytes(most)),
        );
        format!(
            "{} ± {} an hour, by {} of its last {}; {most}",
            mebibytes(per_hour),
            mebibytes(error),
            mebibytes(per_hour * hours),
            time(Duration::from_secs_f64(hours * 3_600.0))
        )
    }

    fn held(&self) -> String {
        let [idle, settled] = self.descriptors;
        let most = self.log.lives.iter().flat_map(|(lived, _)| &lived.descriptors).max();
        format!("{idle} before, {} at most, {settled} at the end", most.copied().unwrap_or(0))
    }

    fn others(&self) -> String {
        let visits = listed(self.guests.visits.iter().map(|(name, n)| (*name, n)));
        format!("{visits}; {} killed", self.guests.killed)
    }

    fn loads(&self) -> String {
        let runs = listed(self.driven.runs.iter().map(|(name, n)| (*name, n)));
        format!("{runs}; {} failed", self.driven.failed)
    }
}

/// `stopped 12, disk full 6`.
fn listed<'a>(all: impl Iterator<Item = (&'static str, &'a u64)>) -> String {
    let each: Vec<_> = all.map(|(name, n)| format!("{name} {n}")).collect();
    if each.is_empty() { "none".to_owned() } else { each.join(", ") }
}

fn either(left: &[String]) -> String {
    if left.is_empty() { "nothing".to_owned() } else { left.join("; ") }
}

/// Of bytes that may be fewer than before.
fn mebibytes(bytes: f64) -> String {
    format!("{:.2} MiB", bytes / f64::from(1 << 20))
}

/// In hours, minutes and seconds, the last two of them at most.
fn time(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds / 3_600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        for (seconds, text) in
            [(7, "7 s"), (60, "1 min 0 s"), (754, "12 min 34 s"), (7_265, "2 h 1 min")]
        {
            assert_eq!(time(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn of_nothing_there_is_a_table() {
        let figures = Figures {
            log: Log::default(),
            driven: Driven::default(),
            guests: Guests::default(),
            answers: Answers::default(),
            descriptors: [1, 1],
            left: Vec::new(),
        };
        let soak = Soak {
            time: Duration::from_secs(60),
            seed: 7,
            grounds: 1,
            guests: 1,
            interval: "1s",
            growth_bytes: Some(1.0),
        };
        let soaked = figures.judge(&soak);
        assert!(soaked.table.starts_with("1 min 0 s of bad weather, seed 7\n"), "{}", soaked.table);
        assert!(soaked.table.contains("  left behind  nothing\n"), "{}", soaked.table);
        assert!(soaked.facts.any_wrong(), "nothing was told");
    }
}
