//! The programs and the kernel in small: calls whose programs run or are skipped, and the account of
//! what that leaves behind.

use std::collections::HashMap;

use netdiag_common::{
    counters::Counters,
    signal::send::lane::{BEGIN, END, FLUSH, SENDPAGE_BEGIN, SENDPAGE_END},
};
use proptest::{prelude::*, sample::Index};

use super::{Phase, account};
use crate::{
    coverage::Account,
    kernel::account::{Skipped, Sums},
};

const AT_REST: Phase = Phase::Detached { batched: 0 };

/// What becomes of one end of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    Done,
    Skipped,
    /// Given up: no room, or memory that cannot be read. An end knows no such thing.
    GivenUp,
}

/// A step of a thread: its call on its socket begins, or returns.
#[derive(Clone, Copy, Debug)]
struct Step {
    thread: usize,
    run: Run,
    page: bool,
}

/// What the threads do and what is counted of it.
#[derive(Default)]
struct World {
    lanes: Sums,
    skipped: Skipped,
    /// Beginnings remembered, by thread.
    starts: HashMap<usize, ()>,
    /// Calls under way, by thread.
    under_way: HashMap<usize, bool>,
    batched: u64,
    calls: u64,
    measured: u64,
    given_up: u64,
    /// Calls are left out and counted.
    is_shedding: bool,
    shed: u64,
}

impl World {
    fn step(&mut self, step: Step) {
        if let Some(page) = self.under_way.remove(&step.thread) {
            self.end(step, if page { SENDPAGE_END } else { END });
        } else {
            self.calls += 1;
            self.under_way.insert(step.thread, step.page);
            self.begin(step, if step.page { SENDPAGE_BEGIN } else { BEGIN });
        }
    }

    fn begin(&mut self, step: Step, lane: usize) {
        if self.is_shedding {
            let skipped = u64::from(step.run == Run::Skipped);
            self.skipped.begins += skipped;
            self.skipped.begins_shed += skipped;
            return;
        }
        let lane = &mut self.lanes[lane];
        match step.run {
            Run::Skipped => self.skipped.begins += 1,
            Run::GivenUp => {
                self.given_up += 1;
                lane.seen += 1;
                lane.map_full += 1;
            }
            Run::Done => {
                lane.seen += 1;
                lane.begun += 1;
                if self.starts.insert(step.thread, ()).is_some() {
                    lane.unmatched += 1;
                    lane.ended += 1;
                }
            }
        }
    }

    fn end(&mut self, step: Step, lane: usize) {
        if step.run == Run::Skipped {
            self.skipped.ends += 1;
            self.skipped.ends_shed += u64::from(self.is_shedding);
        } else if self.is_shedding {
            self.shed += 1;
            self.lanes[lane].seen += 1;
            self.lanes[lane].shed += 1;
        } else if self.starts.remove(&step.thread).is_some() {
            self.measured += 1;
            self.batched += 1;
        } else {
            self.lanes[lane].seen += 1;
            self.lanes[lane].unmatched += 1;
        }
    }

    fn flush(&mut self) {
        self.lanes[FLUSH].ended += self.batched;
        self.lanes[FLUSH].submitted += self.batched;
        self.batched = 0;
    }

    fn account(&self, phase: Phase) -> Account {
        account(&self.lanes, self.skipped, phase)
    }

    /// Lets every call return.
    fn rest(&mut self) {
        for thread in self.under_way.keys().copied().collect::<Vec<_>>() {
            self.step(Step { thread, run: Run::Done, page: false });
        }
        self.flush();
    }
}

fn run() -> impl Strategy<Value = Run> {
    prop_oneof![4 => Just(Run::Done), 1 => Just(Run::Skipped)]
}

fn steps(run: impl Strategy<Value = Run>) -> impl Strategy<Value = Vec<Step>> {
    let step = (0..6_usize, run, any::<bool>());
    let step = step.prop_map(|(thread, run, page)| Step { thread, run, page });
    prop::collection::vec(step, 0..300)
}

proptest! {
    /// Every call is seen or missed, at any time.
    #[test]
    fn each_call_is_in_one_counter(steps in steps(run()), flush: Index) {
        let mut world = World::default();
        let flush = flush.index(steps.len() + 1);
        let mut missed = 0;
        for (at, &step) in steps.iter().enumerate() {
            if at == flush {
                world.flush();
            }
            world.step(step);
            let now = world.account(Phase::Attached);
            prop_assert!(now.balances(), "{now:?}");
            prop_assert_eq!(now.seen + now.missed, world.calls, "{:?}", now);
            prop_assert!(now.missed >= missed, "{now:?} after {missed} missed");
            missed = now.missed;
        }
        world.rest();
        let total = world.account(AT_REST);
        let expected = Account {
            seen: world.measured,
            submitted: world.measured,
            missed: world.calls - world.measured,
            ..Account::default()
        };
        prop_assert_eq!(total, expected);
    }

    /// So is every call that was shed and has returned, whatever comes after it; one whose beginning was skipped
    /// is in two.
    #[test]
    fn what_is_shed_is_counted_at_its_end(shed in steps(run()), told in steps(run())) {
        let mut world = World { is_shedding: true, ..World::default() };
        for &step in &shed {
            world.step(step);
            let now = world.account(Phase::Attached);
            prop_assert!(now.balances(), "{now:?}");
            let skipped = world.skipped.begins + world.skipped.ends;
            prop_assert_eq!((now.shed, now.missed), (world.shed, skipped));
        }
        world.rest();
        world.is_shedding = false;
        let twice = world.skipped.begins;
        let mut missed = world.account(Phase::Attached).missed;
        for &step in &told {
            world.step(step);
            let now = world.account(Phase::Attached);
            prop_assert!(now.balances(), "{now:?}");
            prop_assert_eq!(now.seen + now.missed, world.calls + twice, "{:?}", now);
            prop_assert!(now.missed >= missed, "{now:?} after {missed} missed");
            missed = now.missed;
        }
        world.rest();
        let total = world.account(AT_REST);
        let expected = Account {
            seen: world.measured + world.shed,
            submitted: world.measured,
            shed: world.shed,
            missed: world.calls + twice - world.measured - world.shed,
            ..Account::default()
        };
        prop_assert_eq!(total, expected);
    }

    /// A call given up at its beginning is lost once, however it ends.
    #[test]
    fn given_up_once(steps in steps(prop_oneof![
        4 => Just(Run::Done), 1 => Just(Run::Skipped), 1 => Just(Run::GivenUp),
    ])) {
        let mut world = World::default();
        for &step in &steps {
            world.step(step);
            prop_assert!(world.account(Phase::Attached).balances());
        }
        world.rest();
        let total = world.account(AT_REST);
        prop_assert!(total.balances());
        prop_assert_eq!(total.submitted, world.measured);
        prop_assert_eq!(total.map_full, world.given_up);
        prop_assert_eq!(total.unmatched, 0);
        prop_assert_eq!(total.seen + total.missed, world.calls);
    }

    /// Whatever the programs count, at the attach, at the detach and with CPUs read one after the
    /// other: it balances, nothing is pending at the end, and what was skipped is said.
    #[test]
    fn never_out_of_balance(numbers: [[u8; 7]; 5], begins: u8, ends: u8, batched: u8) {
        let mut lanes = Sums::default();
        for (lane, numbers) in lanes.iter_mut().zip(numbers) {
            let [filtered, submitted, map_full, read_failed, unmatched, begun, ended] =
                numbers.map(u64::from);
            *lane = Counters {
                filtered, submitted, map_full, read_failed, unmatched, begun, ended,
                ..Counters::default()
            };
        }
        let all = lanes.iter().fold(Counters::default(), |sum, lane| sum.plus(lane));
        lanes[BEGIN].seen = all.filtered + all.submitted + all.map_full + all.read_failed
            + all.unmatched + all.pending();
        let skipped = Skipped { begins: begins.into(), ends: ends.into(), ..Skipped::default() };
        let at_end = Phase::Detached { batched: batched.into() };
        for phase in [Phase::Attached, at_end] {
            let account = account(&lanes, skipped, phase);
            prop_assert!(account.balances(), "{account:?}");
            prop_assert!(account.missed >= skipped.begins);
            prop_assert_eq!(account.submitted, all.submitted);
            if skipped != Skipped::default() {
                prop_assert!(account.lost() > 0);
            }
            if phase == at_end {
                prop_assert_eq!(account.pending, 0);
            }
        }
    }
}

/// Steps of one thread by letter: b and e run, B and E are skipped.
fn of(steps: &str) -> World {
    let mut world = World::default();
    for letter in steps.chars() {
        let run = if letter.is_uppercase() { Run::Skipped } else { Run::Done };
        world.step(Step { thread: 0, run, page: false });
    }
    world.flush();
    world
}

#[test]
fn each_way_to_miss_a_call() {
    for (steps, measured, missed) in [
        ("be", 1, 0),
        ("Be", 0, 1),
        ("bE", 0, 1),
        ("BE", 0, 1),
        ("bEbe", 1, 1),
        ("bEBe", 1, 1),
        ("bEBEBEbe", 1, 3),
    ] {
        let account = of(steps).account(AT_REST);
        assert_eq!(account.submitted, measured, "{steps}: {account:?}");
        assert_eq!(account.missed, missed, "{steps}: {account:?}");
        assert_eq!(account.seen, measured, "{steps}: {account:?}");
    }
}

#[test]
fn a_call_still_blocked_at_the_end_is_unmatched() {
    let world = of("beb");
    let live = world.account(Phase::Attached);
    assert_eq!((live.seen, live.pending, live.unmatched), (2, 1, 0));
    let total = world.account(AT_REST);
    assert_eq!((total.seen, total.pending, total.unmatched, total.lost()), (2, 0, 1, 0));
}

#[test]
fn a_batch_that_never_came_is_missed() {
    let mut world = World::default();
    for run in [Run::Done; 3] {
        world.step(Step { thread: 0, run, page: false });
    }
    let total = world.account(Phase::Detached { batched: world.batched });
    assert_eq!((total.seen, total.unmatched, total.missed), (1, 1, 1));
}

#[test]
fn a_call_begun_before_the_attach_is_unmatched() {
    let mut world = World::default();
    world.under_way.insert(0, false);
    world.step(Step { thread: 0, run: Run::Done, page: false });
    let total = world.account(AT_REST);
    assert_eq!((total.seen, total.unmatched, total.missed), (1, 1, 0));
    world.under_way.insert(0, false);
    world.step(Step { thread: 0, run: Run::Skipped, page: false });
    assert_eq!(world.account(AT_REST).missed, 1);
}
