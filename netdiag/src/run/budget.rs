//! Which signals are left out so that the cost stays within a limit, and when they are taken up again. Pure: what was
//! used is handed in.
//!
//! One signal goes at a time, and the last that went comes back first. It comes back only where what it took then, by
//! the number of its samples now, leaves room, and where it went for want of time, when fewer come of all that would be
//! told, or when it is long ago: that so many were too many may have been the node's fault at that time. Where it had to
//! go again soon after, it waits twice as long, until one has stayed for longer than that.

use std::mem;

use netdiag_common::signal::Signal;

/// Of the limit, what must be enough with a signal taken up again.
const ROOM: f64 = 0.8;
/// Looks in a row that must find room before that, at first.
const PATIENCE: u32 = 3;
/// And at most.
const MOST_PATIENCE: u32 = 300;
/// Looks in a row without trouble, for each of those, after which it is tried whether as many as were too many still are.
const TRIAL: u32 = 20;

/// What a look found. Looks are about a second apart.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Look {
    /// Process and programs, as a part of one core.
    pub(super) cpu_ratio: f64,
    /// Samples of each signal a second, those that were left out among them.
    pub(super) rates: [f64; Signal::COUNT],
    /// Samples came faster than they were read.
    pub(super) is_behind: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// From now on this one is left out.
    Shed(Signal),
    /// And this one is no more.
    Restore(Signal),
    /// Nothing is left that could go, and the limit does not hold.
    Exhausted,
}

/// One that was left out.
#[derive(Clone, Copy, Debug)]
struct Shed {
    signal: Signal,
    /// What was used before it went; and what it took, once that is known.
    before: f64,
    took: Option<f64>,
    /// Its samples a second then.
    rate: f64,
    /// Samples a second that were told then, of all signals together, where it went for want of time, not for the limit.
    too_many: Option<f64>,
}

/// The state.
#[derive(Debug)]
pub(super) struct Budget {
    /// Part of one core; none: no limit, and signals go only where samples are not read in time.
    limit: Option<f64>,
    /// Those that may go and do not yet, the last first.
    left: Vec<Signal>,
    shed: Vec<Shed>,
    /// Looks in a row that found room.
    calm: u32,
    /// Looks in a row since anything had to go, or came back.
    untroubled: u32,
    patience: u32,
    /// Looks since a signal came back.
    since_restored: Option<u32>,
    /// The last look found samples that were not read in time.
    was_behind: bool,
    exhausted: bool,
    /// Set of all that ever went.
    ever: u32,
}

impl Budget {
    /// With these signals to leave out, the first first.
    pub(super) fn new(limit: Option<f64>, order: impl DoubleEndedIterator<Item = Signal>) -> Self {
        Self {
            limit,
            left: order.rev().collect(),
            shed: Vec::new(),
            calm: 0,
            untroubled: 0,
            patience: PATIENCE,
            since_restored: None,
            was_behind: false,
            exhausted: false,
            ever: 0,
        }
    }

    /// Part of one core that may be used.
    pub(super) const fn limit(&self) -> Option<f64> {
        self.limit
    }

    /// Those that are left out, the first that went first.
    pub(super) fn shed(&self) -> impl Iterator<Item = Signal> {
        self.shed.iter().map(|shed| shed.signal)
    }

    /// The set of them.
    pub(super) fn set(&self) -> u32 {
        self.shed().fold(0, |set, signal| set | signal.bit())
    }

    /// Whether one is or was.
    pub(super) const fn ever_shed(&self, signal: Signal) -> bool {
        self.ever & signal.bit() != 0
    }

    /// Takes a look in, and says what is to be done.
    pub(super) fn look(&mut self, look: &Look) -> Option<Step> {
        if let Some(last) = self.shed.last_mut() {
            // It went a look ago. What else changed is taken for its as well; the rate tells better later.
            last.took.get_or_insert((last.before - look.cpu_ratio).max(0.0));
        }
        self.since_restored = self.since_restored.map(|looks| looks + 1);
        let was_behind = mem::replace(&mut self.was_behind, look.is_behind);
        let is_above = self.limit.is_some_and(|limit| look.cpu_ratio > limit);
        if is_above || look.is_behind {
            (self.calm, self.untroubled) = (0, 0);
            match self.since_restored.take() {
                Some(looks) if looks <= self.patience => {
                    self.patience = (self.patience * 2).min(MOST_PATIENCE);
                }
                // It is another time.
                Some(looks) if looks > 2 * self.patience => self.patience = PATIENCE,
                _ => {}
            }
            return self.leave_out(look, was_behind);
        }
        self.exhausted = false;
        self.untroubled = self.untroubled.saturating_add(1);
        if !self.has_room(look) {
            self.calm = 0;
            return None;
        }
        self.calm += 1;
        if self.calm < self.patience {
            return None;
        }
        (self.calm, self.untroubled) = (0, 0);
        let Shed { signal, .. } = self.shed.pop()?;
        self.left.push(signal);
        self.since_restored = Some(0);
        Some(Step::Restore(signal))
    }

    fn leave_out(&mut self, look: &Look, was_behind: bool) -> Option<Step> {
        let Some(signal) = self.left.pop() else {
            let is_new = !self.exhausted && !look.is_behind;
            self.exhausted |= is_new;
            return is_new.then_some(Step::Exhausted);
        };
        self.ever |= signal.bit();
        let too_many = look.is_behind.then(|| {
            // That it still is may be all by what waits in the ring since the one before went.
            let before = self.shed.last().and_then(|last| last.too_many).filter(|_| was_behind);
            self.told_with(signal, look).max(before.unwrap_or(0.0))
        });
        self.shed.push(Shed {
            signal,
            before: look.cpu_ratio,
            took: None,
            rate: look.rates[signal as usize],
            too_many,
        });
        Some(Step::Shed(signal))
    }

    /// Whether the last that went may come back, as far as this look tells.
    fn has_room(&self, look: &Look) -> bool {
        let Some(Shed { signal, took, rate, too_many, .. }) = self.shed.last() else {
            return false;
        };
        let now = look.rates[*signal as usize];
        let part = if *rate > 0.0 { now / rate } else { 1.0 };
        let fits = self
            .limit
            .is_none_or(|limit| look.cpu_ratio + took.unwrap_or(0.0) * part <= limit * ROOM);
        // Where they were too many to be read, fewer must come, of whichever signal: it may have gone for another's.
        let told = self.told_with(*signal, look);
        let is_trial = self.untroubled >= self.patience * TRIAL;
        let are_fewer = |too_many: f64| told <= too_many * ROOM || now == 0.0;
        fits && (is_trial || too_many.is_none_or(are_fewer))
    }

    /// Samples a second that are told together with those of a signal that is not.
    fn told_with(&self, signal: Signal, look: &Look) -> f64 {
        self.left.iter().chain([&signal]).map(|told| look.rates[*told as usize]).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDER: [Signal; 3] = [Signal::Rtt, Signal::Turn, Signal::Send];

    /// A machine on which each signal takes that at full load, and what is left out takes nothing.
    struct Machine {
        budget: Budget,
        idle: f64,
        takes: f64,
    }

    impl Machine {
        fn new(limit: Option<f64>, idle: f64, takes: f64) -> Self {
            Self { budget: Budget::new(limit, ORDER.into_iter()), idle, takes }
        }

        fn used(&self, load: f64) -> f64 {
            self.idle + self.takes * load * (ORDER.len() - self.budget.shed().count()) as f64
        }

        /// So many looks at that load; what was done in them.
        fn run(&mut self, looks: usize, load: f64, is_behind: bool) -> Vec<Step> {
            let steps = (0..looks).filter_map(|_| {
                let cpu_ratio = self.used(load);
                self.budget.look(&Look {
                    cpu_ratio,
                    rates: [load * 1_000.0; Signal::COUNT],
                    is_behind,
                })
            });
            steps.collect()
        }
    }

    #[test]
    fn as_many_go_as_must_in_their_order_and_no_more() {
        let mut machine = Machine::new(Some(0.05), 0.01, 0.03);
        assert_eq!(
            machine.run(20, 1.0, false),
            [Step::Shed(Signal::Rtt), Step::Shed(Signal::Turn)]
        );
        assert!(machine.used(1.0) <= 0.05);
        assert_eq!(machine.budget.set(), Signal::Rtt.bit() | Signal::Turn.bit());
    }

    #[test]
    fn they_come_back_when_there_is_room_the_last_first_and_stay() {
        let mut machine = Machine::new(Some(0.05), 0.01, 0.03);
        machine.run(20, 1.0, false);
        assert_eq!(machine.run(20, 0.9, false), [], "it would be too much again");
        assert_eq!(
            machine.run(20, 0.1, false),
            [Step::Restore(Signal::Turn), Step::Restore(Signal::Rtt)]
        );
        assert_eq!(machine.run(50, 0.1, false), []);
        assert!(machine.budget.ever_shed(Signal::Rtt) && !machine.budget.ever_shed(Signal::Send));
    }

    #[test]
    fn a_limit_below_all_is_told_once() {
        let mut machine = Machine::new(Some(0.005), 0.01, 0.03);
        let steps = machine.run(20, 1.0, false);
        assert_eq!(steps, [ORDER.map(Step::Shed).as_slice(), &[Step::Exhausted]].concat());
    }

    #[test]
    fn without_a_limit_only_those_go_that_are_not_read_in_time() {
        let mut machine = Machine::new(None, 0.01, 0.3);
        assert_eq!(machine.run(9, 1.0, false), []);
        assert_eq!(machine.run(1, 1.0, true), [Step::Shed(Signal::Rtt)]);
        assert_eq!(machine.run(9, 1.0, false), [], "as many come as before");
        assert_eq!(machine.run(9, 0.5, false), [Step::Restore(Signal::Rtt)]);
    }

    /// So many round trips and sends a second, and as few of all others as ever.
    fn flooded(rtts: f64, sends: f64, is_behind: bool) -> Look {
        let mut rates = [10.0; Signal::COUNT];
        rates[Signal::Rtt as usize] = rtts;
        rates[Signal::Send as usize] = sends;
        Look { cpu_ratio: 0.1, rates, is_behind }
    }

    #[test]
    fn who_went_for_another_comes_back_when_that_calms_down() {
        let mut budget = Budget::new(None, ORDER.into_iter());
        for signal in ORDER {
            let step = budget.look(&flooded(10.0, 1e6, true));
            assert_eq!(step, Some(Step::Shed(signal)));
        }
        assert!((0..9).all(|_| budget.look(&flooded(10.0, 1e6, false)).is_none()));
        let calm = flooded(10.0, 10.0, false);
        let back: Vec<_> = (0..9).filter_map(|_| budget.look(&calm)).collect();
        let [rtt, turn, send] = ORDER.map(Step::Restore);
        assert_eq!(back, [send, turn, rtt]);
    }

    #[test]
    fn what_a_flood_left_in_the_ring_keeps_nobody_away() {
        let mut budget = Budget::new(None, ORDER.into_iter());
        for signal in [Signal::Rtt, Signal::Turn] {
            let step = budget.look(&flooded(1e6, 10.0, true));
            assert_eq!(step, Some(Step::Shed(signal)));
        }
        let flood = flooded(1e6, 10.0, false);
        let back: Vec<_> = (0..20).filter_map(|_| budget.look(&flood)).collect();
        assert_eq!(back, [Step::Restore(Signal::Turn)]);
    }

    #[test]
    fn who_goes_again_soon_waits_longer_each_time() {
        let mut machine = Machine::new(None, 0.01, 0.3);
        let mut waits = Vec::new();
        for _ in 0..4 {
            machine.run(1, 1.0, true);
            let wait = (1..1_000).find(|_| !machine.run(1, 0.5, false).is_empty());
            waits.extend(wait);
        }
        assert_eq!(waits, [3, 6, 12, 24]);
        // It has stayed for more than twice as long.
        machine.run(48, 0.5, false);
        machine.run(1, 1.0, true);
        assert_eq!(machine.run(3, 0.5, false), [Step::Restore(Signal::Rtt)]);
    }

    /// It was netdiag that got no time to read them.
    #[test]
    fn whether_as_many_are_still_too_many_is_tried_ever_more_seldom() {
        let mut machine = Machine::new(None, 0.01, 0.3);
        let mut waits = Vec::new();
        for _ in 0..3 {
            machine.run(1, 1.0, true);
            let wait = (1..1_000).find(|_| !machine.run(1, 1.0, false).is_empty());
            waits.extend(wait);
        }
        assert_eq!(waits, [62, 125, 251]);
        assert_eq!(machine.run(1_000, 1.0, false), [], "it stays");
        assert_eq!(machine.budget.set(), 0);
    }
}
