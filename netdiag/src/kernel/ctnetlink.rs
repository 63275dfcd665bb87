//! What ctnetlink tells of connection tracking where no program can: a thread listens, and makes the same
//! records of it that programs would.

use std::{
    future::{Future, pending},
    mem,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use netdiag_common::{
    globals::Filters,
    header::{Header, VERSION},
    signal::{
        Signal,
        conntrack::{Record, what},
    },
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{Notify, oneshot};
use zerocopy::IntoBytes as _;

use super::{
    ring::Records,
    symbols::{Symbol, Symbols},
};
use crate::{
    clock::monotonic_ns,
    coverage::Account,
    node::{
        conntrack::{
            self,
            listener::{self, Message, Subscriptions, Waited, What},
        },
        netns::{Known, Namespace},
    },
    sandbox,
    signal::conntrack::Entry,
};

/// The function that tells: it is in the kernel, or in a module that is loaded.
pub(super) const TELLS: &str = "ctnetlink_conntrack_event";

/// That module.
const MODULE: &str = "nf_conntrack_netlink";

/// Bytes that wait to be read at most, whatever `--ring-size` is.
const ROOM: usize = 4 << 20;

/// So much of them wakes the reader, as with a ring.
const WAKE_ABOVE: usize = ROOM / 4;

/// Between two looks at the sockets where there is something: a message wakes the thread, and a flood of them not for
/// each.
const PAUSE: Duration = Duration::from_millis(20);

/// Between two looks for namespaces. A socket keeps a namespace, and the interfaces in it, alive for some
/// of these after its pod is gone.
const FOLLOW: Duration = Duration::from_secs(1);

/// The thread that listens; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Ctnetlink {
    shared: Arc<Shared>,
    /// Closed to end the thread, and none once it has ended.
    running: Option<(UnixStream, JoinHandle<()>)>,
    ready: Option<oneshot::Receiver<()>>,
    waits: bool,
}

#[derive(Debug, Default)]
struct Shared {
    heard: Mutex<Heard>,
    wanted: Notify,
}

#[derive(Debug, Default)]
struct Heard {
    records: Records,
    account: Account,
    problems: Vec<String>,
}

impl Ctnetlink {
    /// Begins to listen in every namespace that the filters let pass. Loads no module.
    ///
    /// # Errors
    /// The kernel cannot tell as it is, or may not be asked.
    pub(super) fn listen(
        symbols: &Result<Symbols, String>,
        host_root: &Path,
        filters: &Filters,
    ) -> Result<Self> {
        if filters.by_owner() {
            bail!("ctnetlink names no process, which filters by owner ask for");
        }
        let symbols = symbols.as_ref().map_err(|error| {
            anyhow::anyhow!(
                "/proc/kallsyms cannot be read ({error}), so asking might load nf_conntrack_netlink"
            )
        })?;
        let (is_module, waits) = match symbols.get(TELLS) {
            // Nothing is told yet, and nothing tracked.
            Symbol::Absent if !conntrack::is_there() => (true, true),
            Symbol::Absent => bail!("{MODULE} is not loaded; load it and start netdiag again"),
            Symbol::Unique { module } => (module.is_some(), false),
            Symbol::Ambiguous(_) | Symbol::Split => (false, false),
        };
        if !waits {
            listener::probe().context("ctnetlink cannot be listened to")?;
        }
        allow_descriptors();
        let shared = Arc::<Shared>::default();
        let subscriber = Subscriber {
            subscriptions: Subscriptions::default(),
            shared: Arc::clone(&shared),
            known: Known::new(host_root),
            filters: *filters,
            module: is_module.then(|| Path::new("/sys/module").join(MODULE)),
            is_silent: false,
        };
        let (ours, theirs) = UnixStream::pair().context("no socket to end a thread by")?;
        let (is_ready, ready) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("ctnetlink".to_owned())
            .spawn(move || {
                sandbox::on_thread();
                subscriber.run(is_ready, &theirs);
            })
            .context("no thread to listen to ctnetlink")?;
        Ok(Self { shared, running: Some((ours, thread)), ready: Some(ready), waits })
    }

    /// Whether nothing was tracked when it began, so that the module that tells was not missed yet.
    pub(super) fn waits(&self) -> bool {
        self.waits
    }

    /// Waits until all namespaces are listened to that there are, or there is no thread to do so; once.
    pub(super) fn ready(&mut self) -> impl Future<Output = ()> + use<> {
        let ready = self.ready.take();
        async {
            if let Some(ready) = ready {
                let _no_thread = ready.await;
            }
        }
    }

    /// Waits until so much is there that it is to be read at once.
    pub(super) async fn wanted(listening: Option<&Self>) {
        match listening {
            Some(listening) => listening.shared.wanted.notified().await,
            None => pending().await,
        }
    }

    /// Copies out what is there.
    pub(super) fn take(&self, into: &mut Records) {
        into.append(&mut self.shared.lock().records);
    }

    /// Fates of what was told so far.
    pub(super) fn account(&self) -> Account {
        self.shared.lock().account
    }

    /// What there is to say since the last time, one line each.
    pub(super) fn problems(&mut self) -> Vec<String> {
        if self.running.as_ref().is_some_and(|(_, thread)| thread.is_finished()) {
            self.stop();
        }
        mem::take(&mut self.shared.lock().problems)
    }

    /// Takes in the last that was told, and listens no longer.
    pub(super) fn stop(&mut self) {
        let Some((socket, thread)) = self.running.take() else { return };
        let early = thread.is_finished();
        drop(socket);
        if thread.join().is_err() || early {
            let mut heard = self.shared.lock();
            heard.account.missed += 1;
            heard.problems.push(
                "ctnetlink is no longer listened to, so connections are not told of any more as they \
                 come and go; please report this, and start netdiag again"
                    .to_owned(),
            );
        }
    }
}

impl Drop for Ctnetlink {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A socket for each namespace: as many descriptors as there may be.
fn allow_descriptors() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Where it is refused the sockets that find no descriptor are told of.
    let _refused = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

impl Shared {
    /// A thread that panicked leaves counters that are true as far as they go.
    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, message: &Message, time_ns: u64, filters: &Filters) {
        let mut heard = self.lock();
        heard.account.seen += 1;
        if !passes(message, filters) {
            heard.account.filtered += 1;
        } else if heard.records.len_bytes() + size_of::<Record>() > ROOM {
            heard.account.ring_full += 1;
        } else {
            heard.account.submitted += 1;
            heard.records.put(record(message, time_ns).as_bytes());
            if heard.records.len_bytes() > WAKE_ABOVE {
                self.wanted.notify_one();
            }
        }
    }
}

/// What the thread works with.
struct Subscriber {
    subscriptions: Subscriptions,
    shared: Arc<Shared>,
    known: Known,
    filters: Filters,
    /// Where the kernel shows the module that tells, if it is one.
    module: Option<PathBuf>,
    /// It is not there while connections are tracked; that has been said.
    is_silent: bool,
}

impl Subscriber {
    fn run(mut self, is_ready: oneshot::Sender<()>, end: &UnixStream) {
        self.follow();
        // Nobody may wait for it.
        let _nobody = is_ready.send(());
        let mut followed = Instant::now();
        loop {
            let rest = FOLLOW.saturating_sub(followed.elapsed());
            let waited = self.subscriptions.wait(end, rest);
            if waited != Waited::InVain {
                self.hear();
            }
            if waited == Waited::ForTheEnd {
                return;
            }
            if followed.elapsed() >= FOLLOW {
                self.follow();
                followed = Instant::now();
            }
            if waited == Waited::ForMessages {
                thread::sleep(PAUSE);
            }
        }
    }

    fn hear(&mut self) {
        let Self { subscriptions, shared, filters, .. } = self;
        // By the time of reading, message by message, so that their order stays.
        let losses = subscriptions.take(|message| shared.note(&message, monotonic_ns(), filters));
        shared.lock().account.missed += losses.overruns + losses.malformed;
    }

    /// New namespaces are listened to, and those let go that are gone.
    fn follow(&mut self) {
        let namespaces = self.namespaces();
        // What was told while they were looked for, before a socket goes.
        self.hear();
        // Without it, to listen would be to load it.
        if self.module.as_ref().is_some_and(|module| !module.exists()) {
            self.subscriptions = Subscriptions::default();
            if conntrack::is_there() && !mem::replace(&mut self.is_silent, true) {
                let mut heard = self.shared.lock();
                heard.account.missed += 1;
                heard.problems.push(format!(
                    "{MODULE} is not loaded, so connections are not told of as they come and go until it is"
                ));
            }
            return;
        }
        self.is_silent = false;
        let problems = self.subscriptions.follow(&namespaces, self.known.sought());
        self.shared.lock().problems.extend(problems);
    }

    /// The namespaces that are wanted.
    fn namespaces(&mut self) -> Vec<Namespace> {
        let mut all = self.known.look();
        all.retain(|one| self.filters.netns.accept(one.inode));
        all
    }
}

/// Whether an entry passes by either end of it, as in the programs.
fn passes(message: &Message, filters: &Filters) -> bool {
    let entry =
        Entry { netns: message.netns, protocol: message.protocol.into(), ..Entry::default() };
    [&message.original, &message.reply].iter().any(|tuple| filters.accept(&entry.key(tuple)))
}

fn record(message: &Message, time_ns: u64) -> Record {
    Record {
        header: Header { version: VERSION, signal: Signal::Conntrack as u16, samples: 1, time_ns },
        original: message.original,
        reply: message.reply,
        netns: message.netns,
        zone: message.zone,
        protocol: message.protocol.into(),
        what: match message.what {
            What::New => what::CONFIRMED,
            What::Destroyed => what::DESTROYED,
        },
        ..Record::default()
    }
}
