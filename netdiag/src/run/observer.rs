//! The loop: rings into the flow table, and an interval cut off it whenever one is due and the
//! reporter can take it.
//!
//! Whatever may take its time runs beside it: seeding, reading the node's counters, writing. So
//! the rings are read and signals are heard all the while.

use std::{
    collections::BTreeMap,
    future::Future,
    mem,
    pin::pin,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use netdiag_common::{flow::FlowKey, globals::Filters};
use tokio::{
    task::JoinHandle,
    time::{self, Instant, MissedTickBehavior, sleep, sleep_until},
};

use super::{
    diagnostics::Diagnostics,
    intake::Intake,
    output::Ended,
    pace::Pace,
    reporter::{Cut, Worker},
    sieve::Verdicts,
    stop::{End, Stop},
    trouble::Trouble,
    voice::say,
    wall::Wall,
};
use crate::{
    clock::monotonic_ns,
    config::Watch,
    flow::Interval,
    kernel::tracer::{Detached, Tracer},
    node::{self, SeededSocket, Seeds},
    sandbox,
    snapshot::{Account, Own, SignalStatus, Stream, build::Listing},
};

mod asking;
mod cost;
mod tell;

use self::cost::Spending;

pub(super) use asking::Asking;

/// How long the last samples may take to arrive after the programs were detached, and how often it is looked for
/// them at least: netdiag may have stood still itself for that long.
const SETTLE: Duration = Duration::from_millis(200);
const LOOKS: u32 = 20;

/// Between two looks at the kernel's modules.
const MODULES: Duration = Duration::from_secs(1);

const UNREAD: &str =
    "the programs' counts cannot be read at present, so the interval goes on until they can";
const UNFLUSHED: &str =
    "what the programs have gathered cannot be had at present, so it comes later";

/// Attached programs, and what was taken in from them.
pub(super) struct Observer {
    tracer: Tracer,
    intake: Intake,
    diagnostics: Diagnostics,
    /// Nobody asks where only events are told.
    asking: Option<Asking>,
    began: Wall,
    interval_began: Wall,
    /// The programs had no room for verdicts, and that was said.
    is_full: bool,
    trouble: Trouble,
    spending: Spending,
    /// Which flows are told.
    listing: Listing,
}

impl Observer {
    /// Begins to take in what the programs submit.
    pub(super) fn new(
        tracer: Tracer,
        intake: Intake,
        diagnostics: Diagnostics,
        asking: Option<Asking>,
        watch: &Watch,
        listing: Listing,
    ) -> Self {
        let now = Wall::now();
        let spending = Spending::new(&tracer, watch.max_cpu, watch.interval);
        let (began, interval_began, is_full) = (now, now, false);
        let trouble = Trouble::default();
        Self {
            tracer,
            intake,
            diagnostics,
            asking,
            began,
            interval_began,
            is_full,
            trouble,
            spending,
            listing,
        }
    }

    /// Takes in and puts out until it is time to end; then detaches, and puts out the rest and the
    /// sum.
    pub(super) async fn run(
        mut self,
        watch: &Watch,
        filters: &Filters,
        seeding: JoinHandle<Seeds>,
        mut worker: Worker,
        stop: &mut Stop,
    ) -> Result<Ended> {
        let end = match self.seed(filters, seeding, worker.idle(), stop).await? {
            Some(end) => end,
            None => self.watch(watch, &mut worker, stop).await?,
        };
        self.finish(end, watch.interval, worker, stop).await
    }

    /// Seeds the table with what was there before, and says that everything is seen from now on.
    async fn seed(
        &mut self,
        filters: &Filters,
        seeding: JoinHandle<Seeds>,
        ready: impl Future<Output = Result<()>>,
        stop: &mut Stop,
    ) -> Result<Option<End>> {
        self.confine();
        self.decide_on_cgroups()?;
        let Some(seeds) = self.beside(stop, seeding).await? else { return Ok(Some(End::Asked)) };
        let mut seeds = seeds.context("the thread that reads the node's sockets ended")?;
        seeds.problems.iter().for_each(|problem| say(problem));
        seeds.sockets.retain(|socket| filters.accept(&socket.key));
        if filters.by_owner() {
            let mut is_wanted = |one: &SeededSocket| self.intake.wants_owner(one, filters);
            seeds.sockets.retain(&mut is_wanted);
            seeds.listeners.retain(is_wanted);
            self.tell_owners(seeds.owners())?;
        }
        // Whatever ended up to now is known to have ended.
        self.drain();
        self.intake.seed(&seeds, monotonic_ns());
        drop(seeds);
        node::own::release_freed();
        node::own::release_code();
        let listens = self.tracer.ready();
        let Some((ready, ())) = self.beside(stop, async { (ready.await, listens.await) }).await?
        else {
            return Ok(Some(End::Asked));
        };
        ready?;
        self.begin_to_look();
        say("ready");
        Ok(None)
    }

    /// Gives up what was needed to attach.
    fn confine(&self) {
        let reached = sandbox::confine(sandbox::Later {
            programs: self.tracer.attaches_late(),
            rings: self.tracer.opens_rings(),
        });
        reached.iter().flat_map(|reached| &reached.lacking).for_each(|line| say(line));
    }

    /// Waits for `work`, taking in what comes meanwhile; `None` when asked to end before.
    async fn beside<T>(
        &mut self,
        stop: &mut Stop,
        work: impl Future<Output = T>,
    ) -> Result<Option<T>> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                () = stop.asked() => return Ok(None),
                done = &mut work => return Ok(Some(done)),
                wanted = self.tracer.wanted() => {
                    wanted?;
                    self.drain_wanted();
                }
            }
        }
    }

    async fn watch(&mut self, watch: &Watch, worker: &mut Worker, stop: &mut Stop) -> Result<End> {
        let began = Instant::now();
        let deadline = watch.duration.map(|duration| began + duration);
        let mut pace = Pace::new(began, watch.interval);
        let mut modules = Self::modules();
        loop {
            let until = deadline.map_or(pace.next(), |deadline| deadline.min(pace.next()));
            tokio::select! {
                biased;
                () = stop.asked() => return Ok(End::Asked),
                () = sleep_until(until) => {
                    if deadline == Some(until) {
                        return Ok(End::Time);
                    }
                    pace.tick(Instant::now());
                    self.collect()?;
                }
                idle = worker.idle(), if !worker.is_idle() => {
                    idle?;
                    if pace.is_due() {
                        self.collect()?;
                    }
                }
                _ = modules.tick() => self.follow_changes()?,
                wanted = self.tracer.wanted() => {
                    wanted?;
                    self.drain_wanted();
                }
            }
            if pace.is_due() && worker.is_idle() {
                if self.refresh(watch.interval, stop).await?.is_none() {
                    return Ok(End::Asked);
                }
                let read = self.tracer.accounting();
                let Some(accounting) = self.trouble.past(UNREAD, read) else {
                    pace.go_on();
                    continue;
                };
                let flows = self.listing.interval(&mut self.intake.table, monotonic_ns(), false);
                let accounting = self.intake.amend(accounting, self.tracer.signals());
                worker.interval(self.cut(flows, accounting));
                pace.cut(Instant::now());
            }
        }
    }

    async fn finish(
        mut self,
        end: End,
        interval: Duration,
        worker: Worker,
        stop: &mut Stop,
    ) -> Result<Ended> {
        self.refresh_last(interval).await;
        let listing = self.listing;
        let (mut intake, mut run) = self.detach().await?;
        let last = run.last(listing.interval(&mut intake.table, monotonic_ns(), true));
        let total = move || run.total(intake.table.into_total());
        let progress = worker.progress().clone();
        stop.last(end, worker.end(last, total), &progress).await
    }

    /// Takes the programs out, and takes in the last of what they submitted.
    async fn detach(self) -> Result<(Intake, Run)> {
        let Self { tracer, mut intake, mut diagnostics, began, interval_began, spending, .. } =
            self;
        let statuses = tracer.signals().to_vec();
        spending.release();
        let mut detached = tracer.detach();
        let accounting = settle(&mut detached, &mut intake).await?;
        detached.problems().iter().for_each(|line| say(line));
        intake.end(monotonic_ns());
        let accounting = intake.amend(accounting, &statuses);
        diagnostics.say();
        // Nothing of us stays in the kernel while the outputs are waited for.
        drop((detached, diagnostics));
        let (now, stream, received) = (Wall::now(), intake.stream(), intake.received());
        tell_set(interval_began, now);
        // The run ends where its last interval does, to the nanosecond.
        let (_, end) = interval_began.until(now);
        let run =
            Run { began, interval_began, end, statuses, accounting, stream, spending, received };
        Ok((intake, run))
    }

    /// When to look at the kernel's modules.
    fn modules() -> time::Interval {
        let mut modules = time::interval(MODULES);
        modules.set_missed_tick_behavior(MissedTickBehavior::Delay);
        modules
    }

    /// Signals whose functions are a module's come and go with it; what is listened to may change as well, and so
    /// do cgroups.
    fn follow_changes(&mut self) -> Result<()> {
        let said = self.tracer.follow();
        said.iter().for_each(|line| say(line));
        if !said.is_empty() {
            self.spending.changed(&self.tracer);
        }
        self.keep_cost_down();
        self.intake.look_for_cgroups();
        self.decide_on_cgroups()
    }

    /// Takes in all that was submitted, and what is left in the programs' batches.
    fn collect(&mut self) -> Result<()> {
        let flushed = self.tracer.flush();
        self.trouble.past(UNFLUSHED, flushed);
        self.diagnostics.say();
        self.drain();
        self.intake.forget_processes();
        self.decide_on_cgroups()
    }

    /// Tells the programs of cgroups that became known.
    fn decide_on_cgroups(&mut self) -> Result<()> {
        let Verdicts { new, gone, owners } = self.intake.verdicts(monotonic_ns());
        self.intake.take_problems().iter().for_each(|line| say(line));
        if !owners.is_empty() {
            self.tell_owners(owners.into_iter())?;
        }
        if new.is_empty() && gone.is_empty() {
            return Ok(());
        }
        let no_room = self.tracer.tell_cgroups(&new, &gone)?;
        if no_room > 0 && !mem::replace(&mut self.is_full, true) {
            say(&format!(
                "the programs have no room for {no_room} more cgroups: what these do is filtered after it was handed \
                 on, which costs more, and retransmits of SYN-ACKs of listeners in them may be left out"
            ));
        }
        Ok(())
    }

    /// Tells the programs whose older sockets are.
    fn tell_owners(&mut self, owners: impl Iterator<Item = (FlowKey, u32)>) -> Result<()> {
        let no_room = self.tracer.seed_owners(owners)?;
        if no_room > 0 {
            say(&format!(
                "{no_room} sockets of wanted owners do not fit, so retransmits of these may be left out; raise \
                 --max-flows"
            ));
        }
        Ok(())
    }

    fn drain(&mut self) {
        let now_ns = monotonic_ns();
        let untold = self.tracer.untold(Intake::PAIRED);
        let all = self.intake.drain(now_ns, untold, |taken| self.tracer.take(taken));
        if !all && self.tracer.is_behind() {
            self.spending.fall_behind();
        }
    }

    /// The same because a ring fills up.
    fn drain_wanted(&mut self) {
        self.drain();
        self.keep_cost_down();
    }

    /// An interval that ends now, and the next one begins.
    fn cut(&mut self, flows: Interval, accounting: BTreeMap<String, Account>) -> Cut {
        let now = Wall::now();
        tell_set(self.interval_began, now);
        let (start, end) = self.interval_began.until(now);
        self.interval_began = end;
        let (end, stream) = (end.time(), self.intake.stream());
        let own = self.spending.interval(self.intake.received(), (start, end));
        let signals = self.spending.amend(self.tracer.signals().to_vec());
        Cut { start, end, flows, own, signals, accounting, stream }
    }
}

/// Says it where the node's clock was set between two instants.
fn tell_set(start: Wall, end: Wall) {
    if let Some(set) = start.set_before(end) {
        say(&format!(
            "the node's clock was set {set}, or the node slept: this interval, what follows, and when the run began \
             are told by the clock as it is now; times that were told before are those of the clock as it was"
        ));
    }
}

/// A run that has ended.
struct Run {
    began: Wall,
    interval_began: Wall,
    end: Wall,
    /// As the tracer has them.
    statuses: Vec<SignalStatus>,
    accounting: BTreeMap<String, Account>,
    stream: Stream,
    spending: Spending,
    /// Samples that were read.
    received: u64,
}

impl Run {
    /// What was taken in in the last interval.
    fn last(&mut self, flows: Interval) -> Cut {
        let (start, end) = self.interval_began.until(self.end);
        let own = self.spending.interval(self.received, (start, end.time()));
        let signals = self.spending.amend(self.statuses.clone());
        self.cut((start, end.time()), flows, own, signals)
    }

    /// What was taken in in the run.
    fn total<F>(&self, flows: F) -> Cut<F> {
        let (start, end) = self.began.until(self.end);
        let own = self.spending.total(self.received, (start, end.time()));
        let signals = self.spending.amend_all(self.statuses.clone());
        self.cut((start, end.time()), flows, own, signals)
    }

    fn cut<F>(
        &self,
        (start, end): (SystemTime, SystemTime),
        flows: F,
        own: Own,
        signals: Vec<SignalStatus>,
    ) -> Cut<F> {
        let (accounting, stream) = (self.accounting.clone(), self.stream);
        Cut { start, end, flows, own, signals, accounting, stream }
    }
}

/// Waits until every sample that was submitted has arrived: programs that were running when they
/// were detached need a moment to end.
async fn settle(detached: &mut Detached, intake: &mut Intake) -> Result<BTreeMap<String, Account>> {
    let (mut until, mut looks) = (Instant::now() + SETTLE, 0);
    loop {
        looks += 1;
        // What cannot be flushed now may be the next time; what is left then is counted as missed.
        let flushed = detached.flush().unwrap_or(false);
        let received = intake.received();
        let now_ns = monotonic_ns();
        let untold = detached.untold(Intake::PAIRED);
        intake.drain(now_ns, untold, |taken| detached.take(taken));
        if received != intake.received() {
            until = Instant::now() + SETTLE; // as long as something arrives
        }
        let accounting = match detached.accounting() {
            Err(_) if Instant::now() < until => {
                sleep(Duration::from_millis(2)).await;
                continue;
            }
            read => read.context(
                "the programs' counts cannot be read at the end, so there is no total; see limits of memory",
            )?,
        };
        let submitted: u64 = accounting.values().map(|account| account.submitted).sum();
        let arrived = flushed && submitted == intake.received();
        let waited = Instant::now() >= until && looks >= LOOKS;
        if waited || (arrived && accounting.values().all(Account::balances)) {
            return Ok(accounting);
        }
        sleep(Duration::from_millis(2)).await;
    }
}
