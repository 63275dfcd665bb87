//! Control groups that their CPU limit holds back (`cpu.stat`, `kernel/sched/core.c`), of either version
//! of control groups, with their processes (`cgroup.procs`).

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    files,
    pace::Pace,
    places::{Version, mounted},
    proc,
};
use crate::{
    owner::Place,
    snapshot::{
        Owner,
        node::{Part, Throttled, Unread},
    },
};

/// Groups that are looked at for a limit.
const WALKED: usize = 10_000;

/// How deep they lie at most.
const DEPTH: usize = 12;

/// Groups with a limit that are followed.
const FOLLOWED: usize = 512;

/// Those of a snapshot.
const LISTED: usize = 20;

/// Processes of a group that are told; of one that has more, none is.
const PROCESSES: usize = 256;

/// New limits are looked for so rarely at most.
const SEARCHED_EVERY: Duration = Duration::from_secs(15);

/// What a group counted since it has its limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stat {
    periods: u64,
    throttled: u64,
    throttled_us: u64,
}

impl Stat {
    /// What was counted since; where it fell the group is another one with the same name, and new.
    fn since(self, then: Self) -> Self {
        let rise = || {
            Some(Self {
                periods: self.periods.checked_sub(then.periods)?,
                throttled: self.throttled.checked_sub(then.throttled)?,
                throttled_us: self.throttled_us.checked_sub(then.throttled_us)?,
            })
        };
        rise().unwrap_or(self)
    }

    fn plus(self, more: Self) -> Self {
        Self {
            periods: self.periods + more.periods,
            throttled: self.throttled + more.throttled,
            throttled_us: self.throttled_us + more.throttled_us,
        }
    }
}

/// Groups with a limit, followed from interval to interval.
#[derive(Debug, Default)]
pub struct Cgroups {
    hierarchy: Option<(PathBuf, Version)>,
    pace: Pace,
    limited: Vec<String>,
    /// Groups with a limit that are not followed, and those that were not looked at.
    left_out: u64,
    last: BTreeMap<String, Stat>,
    /// Those that were ever held back in the run, of the ones that are there.
    held: BTreeSet<String>,
    total: BTreeMap<String, Stat>,
}

impl Cgroups {
    /// What was counted before the run does not count.
    pub fn begin(&mut self, host_root: &Path) {
        self.hierarchy = hierarchy(&host_root.join("sys/fs/cgroup"));
        self.follow();
    }

    fn follow(&mut self) {
        self.search();
        self.last = self.read();
    }

    /// Those that were held back in the run: what happened since they were read last.
    pub fn advance(&mut self) -> Vec<Throttled> {
        if self.pace.is_due() {
            self.search();
        }
        let now = self.read();
        self.held.retain(|path| now.contains_key(path));
        let mut rose = BTreeMap::new();
        for (path, stat) in &now {
            // What one that was not read before has counted may be of long ago.
            let Some(last) = self.last.get(path) else { continue };
            let rise = stat.since(*last);
            // Of one that was ever held back, the periods in which it was not count, too.
            if rise.throttled > 0 || self.held.contains(path) {
                self.held.insert(path.clone());
                self.add(path, rise, &now);
                rose.insert(path.clone(), rise);
            }
        }
        self.last = now;
        self.told(&rose)
    }

    /// Adds to what a group counted in the run. Of those that are gone the one makes room that was held back the least:
    /// pods come and go as long as a run lasts.
    fn add(&mut self, path: &str, rise: Stat, there: &BTreeMap<String, Stat>) {
        if self.total.len() >= FOLLOWED && !self.total.contains_key(path) {
            let gone = self.total.iter().filter(|(path, _)| !there.contains_key(*path));
            let least = gone.min_by_key(|(_, stat)| stat.throttled_us);
            let Some(least) = least.map(|(path, _)| path.clone()) else { return };
            self.total.remove(&least);
        }
        let total = self.total.entry(path.to_owned()).or_default();
        *total = total.plus(rise);
    }

    /// Those that were held back in the run.
    #[must_use]
    pub fn total(&self) -> Vec<Throttled> {
        self.told(&self.total)
    }

    /// Groups with a limit that are not followed, and groups that were not looked at, of which there may be
    /// more; none where there are no groups to look at.
    #[must_use]
    pub fn left_out(&self) -> Option<u64> {
        self.hierarchy.as_ref().map(|_| self.left_out)
    }

    /// Why nothing is known of CPU limits, where that is so.
    #[must_use]
    pub fn unread(&self) -> Option<Unread> {
        let reason = "no control groups with CPU limits are mounted at /sys/fs/cgroup, or they cannot be read";
        self.hierarchy.is_none().then(|| Unread::of_node(Part::Cgroups, reason.to_owned()))
    }

    fn search(&mut self) {
        let Some((root, version)) = &self.hierarchy else { return };
        let (root, version) = (root.clone(), *version);
        let look = || limited(&root, version, FOLLOWED, WALKED);
        (self.limited, self.left_out) = self.pace.run(SEARCHED_EVERY, look);
    }

    fn read(&self) -> BTreeMap<String, Stat> {
        let Some((root, version)) = &self.hierarchy else { return BTreeMap::new() };
        let read = |path: &String| {
            let text = files::text(root.join(path).join("cpu.stat")).ok()?;
            Some((path.clone(), parse(&text, *version)?))
        };
        self.limited.iter().filter_map(read).collect()
    }

    fn told(&self, rose: &BTreeMap<String, Stat>) -> Vec<Throttled> {
        let mut rose: Vec<_> = rose.iter().collect();
        rose.sort_by_key(|(path, stat)| (Reverse(stat.throttled_us), (*path).clone()));
        let told = |(path, stat): (&String, &Stat)| {
            let limit = self
                .hierarchy
                .as_ref()
                .and_then(|(root, version)| limit(&root.join(path), *version));
            let cgroup = format!("/{path}");
            let mut owner = Owner::default();
            owner.locate(&Place::of(&cgroup));
            Throttled {
                cgroup,
                unified: self
                    .hierarchy
                    .as_ref()
                    .is_some_and(|(_, version)| *version == Version::V2),
                owner,
                pids: self.hierarchy.as_ref().and_then(|(root, _)| processes(&root.join(path))),
                periods: stat.periods,
                throttled_periods: stat.throttled,
                throttled_us: stat.throttled_us,
                quota_us: limit.map(|(quota, _)| quota),
                period_us: limit.map(|(_, period)| period),
            }
        };
        rose.into_iter().take(LISTED).map(told).collect()
    }
}

/// Where the groups with CPU limits are.
fn hierarchy(root: &Path) -> Option<(PathBuf, Version)> {
    if mounted(root) == Some(Version::V2) {
        return Some((root.to_owned(), Version::V2));
    }
    let v1 = ["cpu", "cpu,cpuacct"].map(|name| root.join(name));
    let found = v1.into_iter().find(|path| mounted(path) == Some(Version::V1));
    found.map(|path| (path, Version::V1))
}

/// Paths of the groups with a limit, below the root, at most `most` of `walked` groups; and how many there
/// are beyond, as far as that is known.
fn limited(root: &Path, version: Version, most: usize, walked: usize) -> (Vec<String>, u64) {
    let (mut found, mut left_out) = (Vec::new(), 0);
    let mut next = vec![(root.to_owned(), 0)];
    for _ in 0..walked {
        let Some((path, depth)) = next.pop() else { break };
        if depth > 0 && limit(&path, version).is_some() {
            let name = path.strip_prefix(root).ok().and_then(Path::to_str);
            match name.filter(|_| found.len() < most) {
                Some(name) => found.push(name.to_owned()),
                None => left_out += 1,
            }
        }
        if is_leaf(&path) {
            continue;
        }
        let entries = fs::read_dir(&path).into_iter().flatten().flatten();
        let groups = entries.filter(|one| one.file_type().is_ok_and(|kind| kind.is_dir()));
        if depth < DEPTH {
            next.extend(groups.map(|group| (group.path(), depth + 1)));
        } else {
            left_out += groups.count() as u64;
        }
    }
    found.sort_unstable();
    (found, left_out + next.len() as u64)
}

/// Whether a group has none below it: a directory has a link by its name, one by itself, and one by each directory in it
/// (`kernfs_refresh_inode`, fs/kernfs/inode.c). So the dozens of files of most groups are not listed. File systems that
/// count no such links say less than two.
fn is_leaf(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.nlink() == 2)
}

/// Processes in a group itself; none where the kernel does not tell, or by numbers of another PID namespace.
fn processes(path: &Path) -> Option<Vec<u32>> {
    if !proc::is_told_numbers_of_node() {
        return None;
    }
    pids(&files::text(path.join("cgroup.procs")).ok()?)
}

/// `cgroup.procs`, which has them in no order, and maybe twice; none where there are too many.
fn pids(procs: &str) -> Option<Vec<u32>> {
    let mut pids: Vec<_> = procs.lines().filter_map(|line| line.parse().ok()).collect();
    pids.sort_unstable();
    pids.dedup();
    (pids.len() <= PROCESSES).then_some(pids)
}

/// CPU time that a group may take in a period, and the period, in microseconds; none where it has no
/// limit.
fn limit(path: &Path, version: Version) -> Option<(u64, u64)> {
    let text = |name: &str| files::text(path.join(name)).ok();
    match version {
        Version::V2 => quota(&text("cpu.max")?),
        Version::V1 => {
            let quota = text("cpu.cfs_quota_us")?.trim_end().parse().ok()?;
            Some((quota, text("cpu.cfs_period_us")?.trim_end().parse().ok()?))
        }
    }
}

/// `cpu.max`: `max 100000` is no limit. That of version 1 is -1 then.
fn quota(max: &str) -> Option<(u64, u64)> {
    let (quota, period) = max.trim_end().split_once(' ')?;
    Some((quota.parse().ok()?, period.parse().ok()?))
}

fn parse(stat: &str, version: Version) -> Option<Stat> {
    let value = |name: &str| {
        let mut words = stat.lines().filter_map(|line| line.split_once(' '));
        let (_, value) = words.find(|(one, _)| *one == name)?;
        value.parse::<u64>().ok()
    };
    Some(Stat {
        periods: value("nr_periods")?,
        throttled: value("nr_throttled")?,
        throttled_us: match version {
            Version::V2 => value("throttled_usec")?,
            // In nanoseconds.
            Version::V1 => value("throttled_time")? / 1_000,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str = "usage_usec 500\nuser_usec 1\nsystem_usec 2\nnr_periods 10\nnr_throttled 4\n\
                      throttled_usec 25000\nnr_bursts 0\nburst_usec 0\n";
    const V1: &str = "nr_periods 10\nnr_throttled 4\nthrottled_time 25000999\n";

    #[test]
    fn both_versions() {
        let expected = Stat { periods: 10, throttled: 4, throttled_us: 25_000 };
        assert_eq!(parse(V2, Version::V2), Some(expected));
        assert_eq!(parse(V1, Version::V1), Some(expected));
        assert_eq!(parse("usage_usec 5\n", Version::V2), None, "no limit");
        for text in ["", "nr_periods\n", "nr_periods x\nnr_throttled 1\nthrottled_usec 1\n"] {
            assert_eq!(parse(text, Version::V2), None);
        }
        assert_eq!(quota("max 100000\n"), None);
        assert_eq!(quota("50000 100000\n"), Some((50_000, 100_000)));
        assert_eq!((quota(""), quota("5"), quota("5 x")), (None, None, None));
    }

    #[test]
    fn groups_are_followed() {
        let root = tempfile::tempdir().unwrap();
        let base = root.path().join("sys/fs/cgroup");
        let group = |name: &str, max: &str, stat: &str| {
            let path = base.join(name);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("cpu.max"), max).unwrap();
            fs::write(path.join("cpu.stat"), stat).unwrap();
        };
        group("pods/one", "20000 100000\n", V2);
        group("pods/free", "max 100000\n", V2);
        let hierarchy = Some((base.clone(), Version::V2));
        let mut cgroups = Cgroups { hierarchy, ..Cgroups::default() };
        cgroups.follow();
        assert_eq!(cgroups.limited, ["pods/one"]);
        assert_eq!(cgroups.advance(), []);
        group("pods/one", "20000 100000\n", &V2.replace("nr_throttled 4", "nr_throttled 6"));
        group("pods/new", "20000 100000\n", V2);
        let told = cgroups.advance();
        let [one] = &told[..] else { panic!("{told:?}") };
        assert_eq!((one.cgroup.as_str(), one.throttled_periods), ("/pods/one", 2));
        assert_eq!((one.quota_us, one.period_us), (Some(20_000), Some(100_000)));
        cgroups.search();
        let told = cgroups.advance();
        let [one] = &told[..] else { panic!("{told:?}") };
        assert_eq!((one.cgroup.as_str(), one.throttled_periods), ("/pods/one", 0), "still told");
        group("pods/new", "20000 100000\n", &V2.replace("nr_throttled 4", "nr_throttled 9"));
        let told = cgroups.advance();
        let new = told.iter().find(|one| one.cgroup == "/pods/new").expect("it");
        assert_eq!(new.throttled_periods, 5, "from where it was met");
        assert_eq!(cgroups.total().len(), 2);
    }

    #[test]
    fn those_that_are_gone_make_room() {
        let root = tempfile::tempdir().unwrap();
        let base = root.path().join("sys/fs/cgroup");
        fs::create_dir_all(base.join("new")).unwrap();
        fs::write(base.join("new/cpu.max"), "20000 100000\n").unwrap();
        let count = |stat: &str| fs::write(base.join("new/cpu.stat"), stat).unwrap();
        count(V2);
        let hierarchy = Some((base.clone(), Version::V2));
        let mut cgroups = Cgroups { hierarchy, ..Cgroups::default() };
        cgroups.follow();
        let gone = |us: u64| (format!("gone/{us}"), Stat { throttled_us: us, ..Stat::default() });
        cgroups.total = (1..=FOLLOWED as u64).map(gone).collect();
        let held = V2.replace("nr_throttled 4", "nr_throttled 6");
        count(&held);
        assert_eq!(cgroups.advance().len(), 1);
        assert_eq!(cgroups.total.len(), FOLLOWED);
        assert!(cgroups.total.contains_key("new") && !cgroups.total.contains_key("gone/1"));
        count(&held.replace("nr_periods 10", "nr_periods 15"));
        let told = cgroups.advance();
        let [one] = &told[..] else { panic!("{told:?}") };
        assert_eq!((one.periods, one.throttled_periods), (5, 0), "it was held back before");
    }

    #[test]
    fn processes_are_told_unless_they_are_many() {
        assert_eq!(pids("7\n3\n7\nx\n"), Some(vec![3, 7]));
        assert_eq!(pids(""), Some(vec![]));
        let many = |most| (1..=most).map(|pid| format!("{pid}\n")).collect::<String>();
        assert_eq!(pids(&many(PROCESSES)).map(|pids| pids.len()), Some(PROCESSES));
        assert_eq!(pids(&many(PROCESSES + 1)), None);
    }

    #[test]
    fn what_is_left_out_is_counted() {
        let root = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c", "c/d"] {
            fs::create_dir(root.path().join(name)).unwrap();
            fs::write(root.path().join(name).join("cpu.max"), "20000 100000\n").unwrap();
        }
        for (most, walked, followed, left_out) in [(9, 9, 4, 0), (1, 9, 1, 3), (9, 1, 0, 3)] {
            let (found, beyond) = limited(root.path(), Version::V2, most, walked);
            assert_eq!((found.len(), beyond), (followed, left_out), "{most} {walked}");
        }
        let deep = (0..=DEPTH).fold(root.path().to_owned(), |path, _| path.join("deep"));
        fs::create_dir_all(deep).unwrap();
        assert_eq!(limited(root.path(), Version::V2, 9, 99).1, 1);
    }

    #[test]
    fn without_groups_nothing_is_told() {
        let root = tempfile::tempdir().unwrap();
        let mut cgroups = Cgroups::default();
        cgroups.begin(root.path());
        assert_eq!((cgroups.advance(), cgroups.total()), (vec![], vec![]));
        assert_eq!(cgroups.left_out(), None);
    }

    #[test]
    fn hostile_files_are_survived() {
        crate::hostile::survived_text(&[V1, V2, "50000 100000\n"], |text| {
            let _told = (parse(text, Version::V1), parse(text, Version::V2), quota(text));
        });
    }
}
