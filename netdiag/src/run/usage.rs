//! What netdiag itself takes: its process at each cut, its programs in short windows.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use netdiag_common::signal::Signal;
use tokio::{
    task::{AbortHandle, spawn},
    time::sleep,
};

use crate::{
    kernel::cost::{Meter, Program, Taken, Window},
    node::own::{cpu_time, resident_bytes},
    snapshot::{Own, OwnProgram},
};

/// How long programs are measured at a time. The statistics cost every program of the node two more looks at the
/// clock in each run.
const WINDOW: Duration = Duration::from_millis(20);
/// Between two measurements, where nothing depends on them and where a limit does.
const EVERY: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(1)];
/// Before the first.
const FIRST: Duration = Duration::from_millis(300);
/// Windows that tell of late.
const LATE: usize = 4;

/// What was measured of the programs.
#[derive(Default)]
struct Programs {
    /// None once they are to go.
    meter: Option<Meter>,
    /// What takes its place before the next window.
    next: Option<Meter>,
    late: VecDeque<Taken>,
    /// The window that is open, if one is, began before the programs did what they do now.
    is_outdated: bool,
    /// All windows together, by program.
    all: BTreeMap<String, Program>,
    /// Why nothing was measured the last time.
    refusal: Option<String>,
}

impl Programs {
    /// None where there is nothing to measure, or the kernel refuses.
    fn begin(&mut self) -> Option<Window> {
        if let Some(next) = self.next.take() {
            self.meter = Some(next);
        }
        self.is_outdated = false;
        let window = self.meter.as_ref()?.begin();
        self.unless_refused(window)
    }

    fn end(&mut self, window: Window) {
        let Some(meter) = &self.meter else { return };
        let taken = meter.end(window);
        if let Some(taken) = self.unless_refused(taken) {
            self.take(taken);
        }
    }

    /// What came of it. Where nothing did, nothing is known of late.
    fn unless_refused<T>(&mut self, result: io::Result<T>) -> Option<T> {
        match result {
            Ok(value) => {
                self.refusal = None;
                Some(value)
            }
            Err(error) => {
                self.late.clear();
                self.refusal = Some(error.to_string());
                None
            }
        }
    }

    fn take(&mut self, taken: Taken) {
        for program in &taken.programs {
            let known = self.all.entry(program.name.clone());
            let sum = known.or_insert_with(|| Program { runs: 0, time_ns: 0, ..program.clone() });
            sum.runs += program.runs;
            sum.time_ns += program.time_ns;
        }
        if !self.is_outdated {
            self.late.truncate(LATE - 1);
            self.late.push_front(taken);
        }
    }

    fn begin_anew(&mut self) {
        self.late.clear();
        self.is_outdated = true;
    }

    /// What they took of one core in the windows of late.
    fn cpu_ratio(&self) -> Option<f64> {
        let window_ns: u64 = self.late.iter().map(|taken| taken.window_ns).sum();
        let programs = self.late.iter().flat_map(|taken| &taken.programs);
        let time_ns: u64 = programs.map(|program| program.time_ns).sum();
        (window_ns > 0).then(|| time_ns as f64 / window_ns as f64)
    }

    fn each(&self) -> Vec<OwnProgram> {
        let of = |program: &Program| OwnProgram {
            program: program.name.clone(),
            signal: program.signal.name().to_owned(),
            runs: program.runs,
            run_ns: program.time_ns / program.runs.max(1),
        };
        self.all.values().map(of).collect()
    }
}

/// Measures programs beside the loop, on its thread: nearly all of the time it sleeps.
pub(super) struct Measuring {
    programs: Arc<Mutex<Programs>>,
    task: AbortHandle,
}

impl Measuring {
    /// Begins; more often where something depends on it.
    pub(super) fn start(meter: Meter, has_limit: bool) -> Self {
        let programs = Programs { meter: Some(meter), ..Programs::default() };
        let programs = Arc::new(Mutex::new(programs));
        let task = spawn(measure(Arc::clone(&programs), EVERY[usize::from(has_limit)]));
        Self { programs, task: task.abort_handle() }
    }

    /// Other programs are to be measured.
    pub(super) fn of(&self, meter: Meter) {
        self.lock(|programs| programs.next = Some(meter));
    }

    /// What they took of one core of late; none as long as that is not known.
    pub(super) fn cpu_ratio(&self) -> Option<f64> {
        self.lock(|programs| programs.cpu_ratio())
    }

    /// What was measured before says nothing of what they take from now on: they leave more out, or less.
    pub(super) fn begin_anew(&self) {
        self.lock(Programs::begin_anew);
    }

    /// Whether the first window since then is still to come.
    pub(super) fn awaits_window(&self) -> bool {
        self.lock(|programs| programs.late.is_empty() && programs.refusal.is_none())
    }

    /// Why nothing could be measured the last time.
    pub(super) fn refusal(&self) -> Option<String> {
        self.lock(|programs| programs.refusal.clone())
    }

    /// Measures no more, and keeps no program; what was measured stays.
    pub(super) fn release(&self) {
        self.task.abort();
        self.lock(|programs| (programs.meter, programs.next) = (None, None));
    }

    fn lock<T>(&self, with: impl FnOnce(&mut Programs) -> T) -> T {
        with(&mut self.programs.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Measuring {
    fn drop(&mut self) {
        self.release();
    }
}

/// Measures for ever. A node in trouble may refuse what it gives again later, so nothing is given up for a refusal.
async fn measure(programs: Arc<Mutex<Programs>>, every: Duration) {
    let lock = || programs.lock().unwrap_or_else(PoisonError::into_inner);
    let mut pause = FIRST;
    loop {
        sleep(pause).await;
        pause = every;
        let window = lock().begin();
        let Some(window) = window else { continue };
        sleep(WINDOW).await;
        lock().end(window);
    }
}

/// What was used up to a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Used {
    cpu: Duration,
    samples: u64,
}

impl Used {
    /// Up to now, with so many samples.
    pub(super) fn now(samples: u64) -> Self {
        Self { cpu: cpu_time(), samples }
    }

    /// CPU time since then, as a part of one core.
    pub(super) fn cpu_ratio_since(&self, then: &Self, elapsed: Duration) -> f64 {
        self.cpu.saturating_sub(then.cpu).as_secs_f64() / elapsed.as_secs_f64().max(1e-9)
    }

    /// What was used from `then` to now.
    pub(super) fn since(
        &self,
        then: &Self,
        (start, end): (SystemTime, SystemTime),
        measuring: Option<&Measuring>,
        limit: Option<f64>,
        shed: impl Iterator<Item = Signal>,
    ) -> Own {
        let elapsed = end.duration_since(start).unwrap_or_default();
        let cpu = self.cpu.saturating_sub(then.cpu);
        let samples = self.samples.saturating_sub(then.samples);
        let whole = !elapsed.is_zero();
        Own {
            cpu_ns: u64::try_from(cpu.as_nanos()).ok(),
            cpu_ratio: whole.then(|| rounded(self.cpu_ratio_since(then, elapsed))),
            resident_bytes: resident_bytes(),
            samples: Some(samples),
            samples_per_s: whole.then(|| rounded(samples as f64 / elapsed.as_secs_f64())),
            programs_cpu_ratio: measuring.and_then(Measuring::cpu_ratio).map(rounded),
            programs: measuring.map(|it| it.lock(|programs| programs.each())).unwrap_or_default(),
            max_cpu_ratio: limit,
            shed: shed.map(|signal| signal.name().to_owned()).collect(),
        }
    }
}

/// Of what is measured no more is known.
fn rounded(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_is_not_known_of_late() {
        let mut programs = Programs::default();
        programs.take(Taken { window_ns: 1_000, programs: Vec::new() });
        assert_eq!(programs.cpu_ratio(), Some(0.0));
        let refused = programs.unless_refused::<()>(Err(io::ErrorKind::PermissionDenied.into()));
        assert_eq!(refused, None);
        assert_eq!((programs.cpu_ratio(), programs.refusal.is_some()), (None, true));
        assert_eq!(programs.unless_refused(Ok(7)), Some(7));
        assert_eq!(programs.refusal, None);
    }

    #[test]
    fn windows_of_late_tell_the_rate_and_all_of_them_what_a_run_takes() {
        let mut programs = Programs::default();
        assert_eq!(programs.cpu_ratio(), None);
        let taken = |runs, time_ns| Taken {
            window_ns: 1_000,
            programs: vec![Program { signal: Signal::Rtt, name: "rtt".to_owned(), runs, time_ns }],
        };
        programs.take(taken(1, 900));
        for _ in 0..LATE {
            programs.take(taken(10, 100));
        }
        assert_eq!(programs.cpu_ratio(), Some(0.1));
        let each = programs.each();
        assert_eq!((each[0].runs, each[0].run_ns), (41, 1_300 / 41));
        // In a window that is open by then something ran that does so no more.
        programs.begin_anew();
        programs.take(taken(9, 0));
        assert_eq!((programs.cpu_ratio(), programs.each()[0].runs), (None, 50));
        assert!(programs.begin().is_none(), "nothing is there to measure");
        programs.take(taken(1, 200));
        assert_eq!(programs.cpu_ratio(), Some(0.2));
    }
}
