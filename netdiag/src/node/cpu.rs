//! How busy the CPUs are (`/proc/stat`, `fs/proc/stat.c`; `/proc/pressure/cpu`), and what they take
//! from network cards (`/proc/net/softnet_stat`, `net/core/net-procfs.c`).

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::files::Kept;
use crate::snapshot::node::{Cpu, CpuShare, Part, Pressure, Softnet, Unread};

/// What CPUs said at one time; nothing where it could not be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Clock ticks by CPU and kind, in the order of the file.
    times: BTreeMap<u32, [u64; KINDS]>,
    runnable: Option<u64>,
    /// Microseconds.
    waited: Option<u64>,
    pub(super) softnet: BTreeMap<u32, Softnet>,
    /// What could not be read.
    pub(super) unread: Vec<Unread>,
}

/// user, nice, system, idle, iowait, irq, softirq, steal. Time of guests is in the first two as well.
const KINDS: usize = 8;
const IDLE: usize = 3;
const IOWAIT: usize = 4;
const IRQ: usize = 5;
const SOFTIRQ: usize = 6;
const STEAL: usize = 7;

/// Reads them from the procfs below a root.
#[must_use]
pub fn read(host_root: &Path, files: &mut Kept) -> Load {
    // The latter is the same in every namespace.
    let [stat_path, softnet_path] =
        [host_root.join("proc/stat"), PathBuf::from("/proc/self/net/softnet_stat")];
    let (stat, packets) = (files.text(&stat_path), files.text(&softnet_path));
    let text = stat.as_deref().unwrap_or_default();
    let times = times(text);
    let runnable = text.lines().find_map(|line| line.strip_prefix("procs_running ")?.parse().ok());
    let softnet = softnet(packets.as_deref().unwrap_or_default());
    let unread = [
        Unread::of_file(Part::Cpu, &stat_path, &stat, !times.is_empty()),
        Unread::of_file(Part::Softnet, &softnet_path, &packets, !softnet.is_empty()),
    ];
    // A kernel may have none.
    let pressure = files.text(host_root.join("proc/pressure/cpu")).unwrap_or_default();
    let unread = unread.into_iter().flatten().collect();
    Load { times, runnable, waited: some(&pressure), softnet, unread }
}

fn times(stat: &str) -> BTreeMap<u32, [u64; KINDS]> {
    let one = |line: &str| {
        let mut words = line.strip_prefix("cpu")?.split(' ');
        let cpu = words.next()?.parse().ok()?;
        let mut times = [0; KINDS];
        for time in &mut times {
            *time = words.next()?.parse().ok()?;
        }
        Some((cpu, times))
    };
    stat.lines().filter_map(one).collect()
}

/// The total of the line `some`, in microseconds.
fn some(pressure: &str) -> Option<u64> {
    let line = pressure.lines().find_map(|line| line.strip_prefix("some "))?;
    line.split(' ').find_map(|word| word.strip_prefix("total=")?.parse().ok())
}

/// Hexadecimal words, 32 bits each: processed, dropped, time_squeeze, six that are zero or gone,
/// received_rps, flow_limit_count, and from Linux 5.14 on the length of the backlog and the CPU. Before
/// that lines are those of the CPUs that are on, which then are all as a rule.
fn softnet(text: &str) -> BTreeMap<u32, Softnet> {
    let one = |(line, text): (usize, &str)| {
        let words: Option<Vec<u64>> =
            text.split_ascii_whitespace().map(|word| u64::from_str_radix(word, 16).ok()).collect();
        let words = words?;
        let cpu = words.get(12).map_or(line as u32, |cpu| *cpu as u32);
        let told = Softnet {
            cpu,
            processed: *words.first()?,
            dropped: *words.get(1)?,
            time_squeeze: *words.get(2)?,
            flow_limit: words.get(10).copied(),
            backlog: words.get(11).copied(),
        };
        Some((cpu, told))
    };
    text.lines().enumerate().filter_map(one).collect()
}

/// What CPUs took between two readings an interval apart, the earlier first. The counters have 32 bits and
/// wrap. What a CPU counted that was off before, or was not read, may be of long ago: it is left out.
#[must_use]
pub fn taken(then: &Load, now: &Load) -> BTreeMap<u32, Softnet> {
    let rise = |now: u64, then: u64| u64::from((now as u32).wrapping_sub(then as u32));
    let taken = |(cpu, now): (&u32, &Softnet)| {
        let then = then.softnet.get(cpu)?;
        let taken = Softnet {
            processed: rise(now.processed, then.processed),
            dropped: rise(now.dropped, then.dropped),
            time_squeeze: rise(now.time_squeeze, then.time_squeeze),
            flow_limit: now.flow_limit.zip(then.flow_limit).map(|(now, then)| rise(now, then)),
            ..*now
        };
        Some((*cpu, taken))
    };
    now.softnet.iter().filter_map(taken).collect()
}

/// Those that took anything.
pub fn listed(taken: &BTreeMap<u32, Softnet>) -> Vec<Softnet> {
    let took = |one: &&Softnet| {
        one.processed | one.dropped | one.time_squeeze | one.flow_limit.unwrap_or(0) != 0
            || one.backlog.unwrap_or(0) != 0
    };
    taken.values().filter(took).copied().collect()
}

/// How busy CPUs were between two readings, the earlier first; none where nothing is known.
#[must_use]
pub fn busy(then: &Load, now: &Load) -> Option<Cpu> {
    let spent = |(cpu, now): (&u32, &[u64; KINDS])| {
        let then = then.times.get(cpu)?;
        // The kernel may take idle time back.
        let mut spent = [0; KINDS];
        for (spent, (now, then)) in spent.iter_mut().zip(now.iter().zip(then)) {
            *spent = now.saturating_sub(*then);
        }
        Some((*cpu, spent))
    };
    let all: Vec<(u32, [u64; KINDS])> = now.times.iter().filter_map(spent).collect();
    let shares: Vec<_> = all.iter().filter_map(|(cpu, spent)| share(Some(*cpu), spent)).collect();
    let mut sum = [0; KINDS];
    for (_, spent) in &all {
        sum.iter_mut().zip(spent).for_each(|(sum, spent)| *sum += spent);
    }
    let most = |of: fn(&CpuShare) -> f64| {
        shares.iter().copied().reduce(|most, one| if of(&one) > of(&most) { one } else { most })
    };
    Some(Cpu {
        cpus: now.times.len() as u32,
        mean: share(None, &sum)?,
        busiest: most(|one| one.busy_ratio)?,
        most_softirq: most(|one| one.softirq_ratio)?,
        runnable: now.runnable,
        pressure: now
            .waited
            .zip(then.waited)
            .map(|(now, then)| Pressure { some_us: now.saturating_sub(then) }),
    })
}

/// None of no time.
fn share(cpu: Option<u32>, spent: &[u64; KINDS]) -> Option<CpuShare> {
    let all: u64 = spent.iter().sum();
    let ratio = |time: u64| time as f64 / all as f64;
    (all > 0).then(|| CpuShare {
        cpu,
        busy_ratio: ratio(all - spent[IDLE] - spent[IOWAIT]),
        softirq_ratio: ratio(spent[SOFTIRQ]),
        irq_ratio: ratio(spent[IRQ]),
        steal_ratio: ratio(spent[STEAL]),
        iowait_ratio: ratio(spent[IOWAIT]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "\
cpu  3295601 632524 453755 1396193 8025 0 29522 6022 0 0
cpu0 100 20 30 500 10 1 40 2 0 0
cpu1 100 20 30 500 10 1 40 2 0 0
intr 47954197 0 0
procs_running 3
procs_blocked 0
";
    const SOFTNET: &str = "\
032a67aa 00000000 00000012 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000
ffffffff 00000001 00000014 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000005 00000003 00000000 00000000
";

    fn load(stat: &str, net: &str, waited: u64) -> Load {
        let runnable = Some(3);
        let (waited, unread) = (Some(waited), Vec::new());
        Load { times: times(stat), runnable, waited, softnet: softnet(net), unread }
    }

    #[test]
    fn shares_are_of_the_time_between() {
        let later = STAT
            .replace("cpu1 100 20 30 500 10 1 40 2", "cpu1 110 20 30 510 10 2 69 42")
            .replace("cpu0 100 20 30 500", "cpu0 110 20 30 599");
        let cpu = busy(&load(STAT, "", 5), &load(&later, "", 12)).unwrap();
        assert_eq!(
            (cpu.cpus, cpu.runnable, cpu.pressure),
            (2, Some(3), Some(Pressure { some_us: 7 }))
        );
        let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-3, "{found}");
        assert_eq!((cpu.busiest.cpu, cpu.most_softirq.cpu, cpu.mean.cpu), (Some(1), Some(1), None));
        close(cpu.busiest.busy_ratio, 80.0 / 90.0);
        close(cpu.busiest.softirq_ratio, 29.0 / 90.0);
        close(cpu.busiest.steal_ratio, 40.0 / 90.0);
        close(cpu.mean.busy_ratio, 90.0 / 199.0);
        assert_eq!(busy(&load(STAT, "", 0), &load(STAT, "", 0)), None, "no time passed");
        assert_eq!(busy(&Load::default(), &load(STAT, "", 0)), None);
    }

    #[test]
    fn packets_wrap_and_idle_cpus_are_left_out() {
        let later = SOFTNET.replace("ffffffff 00000001", "00000004 00000003");
        let taken = taken(&load("", SOFTNET, 0), &load("", &later, 0));
        assert_eq!(taken.len(), 2);
        let expected = Softnet {
            cpu: 3,
            processed: 5,
            dropped: 2,
            time_squeeze: 0,
            flow_limit: Some(0),
            backlog: Some(5),
        };
        assert_eq!(listed(&taken), [expected]);
        let new = super::taken(&Load::default(), &load("", SOFTNET, 0));
        assert_eq!(new, BTreeMap::new(), "nobody knows what was counted before");
        // Linux 5.10 ends with flow_limit_count.
        let old = softnet("00000001 00000002 00000003 0 0 0 0 0 0 00000000 00000007\n");
        let expected = Softnet {
            cpu: 0,
            processed: 1,
            dropped: 2,
            time_squeeze: 3,
            flow_limit: Some(7),
            backlog: None,
        };
        assert_eq!(old, BTreeMap::from([(0, expected)]));
    }

    #[test]
    fn what_makes_no_sense_is_unknown() {
        assert_eq!(
            some("some avg10=2.26 avg60=17.55 avg300=8.60 total=15848335672\n"),
            Some(15_848_335_672)
        );
        assert_eq!((some(""), some("some total=x")), (None, None));
        for text in ["", "cpu0", "cpu0 1 2", "cpux 1 2 3 4 5 6 7 8", "cpu0 1 2 3 4 5 6 7 -8"] {
            assert!(times(text).is_empty(), "{text}");
        }
        for text in ["", "zz 1 2", "1 2"] {
            assert!(softnet(text).is_empty(), "{text}");
        }
    }

    #[test]
    fn what_is_not_there_is_said() {
        let mut files = Kept::default();
        let nowhere = read(Path::new("/nonexistent"), &mut files);
        let parts: Vec<_> = nowhere.unread.iter().map(|one| one.part).collect();
        assert_eq!(parts, [Part::Cpu], "{:?}", nowhere.unread);
        let reason = &nowhere.unread[0].reason;
        assert!(reason.starts_with("cannot read /nonexistent/proc/stat: No such file"), "{reason}");
        assert_eq!(read(Path::new("/"), &mut files).unread, []);
    }

    #[test]
    fn hostile_files_are_survived() {
        crate::hostile::survived_text(
            &[STAT, SOFTNET, "some avg10=0.00 avg60=0.00 total=12\n"],
            |text| {
                let (sound, other) = (load(STAT, SOFTNET, 5), load(text, text, 12));
                for (then, now) in [(&sound, &other), (&other, &sound), (&other, &other)] {
                    let _told = (busy(then, now), listed(&taken(then, now)));
                }
                let _pressure = some(text);
            },
        );
    }
}
