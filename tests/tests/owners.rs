//! Filters by whom a socket belongs to: the name of its process, and the cgroup, container, pod and namespace that this
//! lives in, in control groups shaped like kubelet's.

use std::{
    fs, panic, thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use netdiag::snapshot::{Flow, Snapshot};
use netdiag_tests::{
    facts::Facts,
    machine::patience,
    netdiag::{Netdiag, run},
    network::Pair,
    outcome::{count, flows_of, in_namespaces},
    pods::{Container, Driver, Node},
    requirement::alone,
    traffic::{
        End,
        process::{COMM, Shell},
    },
};

const SENDS: usize = 40;

/// A process with one connection, whose other end is this process's.
struct Client {
    shell: Shell,
    container: Option<Container>,
}

impl Client {
    fn inside(pair: &Pair, container: &Container) -> Result<Self> {
        let shell = Shell::connect_inside(&container.procs, &pair.left, &pair.right, SENDS)?;
        Ok(Self { shell, container: Some(container.clone()) })
    }

    fn outside(pair: &Pair) -> Result<Self> {
        let shell = Shell::connect(&pair.left, &pair.right, SENDS)?;
        Ok(Self { shell, container: None })
    }

    fn is_in(&self, container: &Container) -> bool {
        self.container.as_ref().is_some_and(|own| own.id == container.id)
    }
}

/// Numbers of containers in pods of their own, the last one in the namespace of the first.
const FIRST: u32 = 0;
const SECOND: u32 = 2;
const LATER: u32 = 14;
const LATER_ELSEWHERE: u32 = 4;
const LATER_NAMELESS: u32 = 28;

fn named(node: &Node, driver: Driver, nth: u32) -> Result<Container> {
    let container = node.container(driver, nth)?;
    node.name(&container)?;
    Ok(container)
}

type Wanted<'a> = Box<dyn Fn(&Client) -> bool + 'a>;

fn cases<'a>(one: &'a Container, two: &'a Container, first_pid: u32) -> Vec<(String, Wanted<'a>)> {
    let case = |line: String, wanted: Wanted<'a>| (line, wanted);
    let (_, all) = one.cgroup.split_once("/kubepods").expect("a pod's cgroup");
    let top = one.cgroup.trim_end_matches(all).trim_end_matches("/kubepods");
    let digits = |container: &Container| container.id[..32].to_owned();
    vec![
        case(format!("--comm {COMM}"), Box::new(|_| true)),
        case(format!("--cgroup {}", one.cgroup), Box::new(|client| client.is_in(one))),
        case(
            format!("--cgroup /sys/fs/cgroup{top}"),
            Box::new(|client| client.container.is_some()),
        ),
        case(format!("--container {}", digits(one)), Box::new(|client| client.is_in(one))),
        case(
            format!("--container {},{}", digits(one), digits(two)),
            Box::new(|client| client.container.is_some()),
        ),
        case(format!("--pod {}", two.pod), Box::new(|client| client.is_in(two))),
        case(format!("--namespace {}", one.namespace), Box::new(|client| client.is_in(one))),
        case(
            format!("--namespace {} --namespace {}", one.namespace, two.namespace),
            Box::new(|client| client.container.is_some()),
        ),
        case(format!("--pod {} --comm {COMM}", two.pod), Box::new(|client| client.is_in(two))),
        case(format!("--pod {} --pid {first_pid}", two.pod), Box::new(|_| false)),
    ]
}

/// Each filter: what it names is seen whole, all else is left out and counted.
#[test]
fn only_wanted_owners_pass() -> Result<()> {
    let _alone = alone();
    let pair = Pair::new()?;
    let node = Node::new()?;
    let one = named(&node, Driver::Cgroupfs, FIRST)?;
    let two = named(&node, Driver::Systemd, SECOND)?;
    let older =
        [Client::inside(&pair, &one)?, Client::inside(&pair, &two)?, Client::outside(&pair)?];
    for (line, wanted) in cases(&one, &two, older[0].shell.pid()) {
        let mut arguments = vec!["--host-root", node.root()];
        arguments.extend(line.split(' '));
        let netdiag = Netdiag::live(&arguments)?;
        let younger =
            [Client::inside(&pair, &one)?, Client::inside(&pair, &two)?, Client::outside(&pair)?];
        let clients: Vec<&Client> = older.iter().chain(&younger).collect();
        for client in &clients {
            client.shell.send()?;
        }
        let outcome = netdiag.stop()?;
        judge(&pair, outcome.total()?, &line, &clients, &wanted);
    }
    Ok(())
}

fn judge(pair: &Pair, total: &Snapshot, line: &str, clients: &[&Client], wanted: &Wanted<'_>) {
    let mut facts = Facts::new();
    let (mut expected, mut rejected) = (0, 0);
    for client in clients {
        let found = flows_of(total, &client.shell.end);
        let sends: Vec<_> = found.iter().map(|flow| count(flow, "sends")).collect();
        let is_wanted = wanted(client);
        let all = if is_wanted { vec![Some(SENDS as u64)] } else { vec![] };
        expected += usize::from(is_wanted);
        rejected += if is_wanted { 0 } else { SENDS as u64 };
        facts.equal(format_args!("{line}: sends of {:?}", client.shell.end), sends, all);
    }
    let ours = [pair.left.inode(), pair.right.inode()];
    let sent = |flow: &&Flow| count(flow, "sends").is_some_and(|sends| sends > 0);
    let listed = in_namespaces(total, &ours).filter(sent).count();
    facts.equal(format_args!("{line}: flows that sent"), listed, expected);
    facts.equal(format_args!("{line}: said to be filtered"), total.filtered, true);
    let filtered = total.accounting["send"].filtered;
    facts.holds(
        format_args!("{line}: {filtered} sends filtered, {rejected} of ours among them"),
        filtered >= rejected,
    );
    facts.at_rest(total);
    facts.finish();
}

/// This process is found by its own name, whatever its threads are called.
#[test]
fn threads_have_the_name_of_their_process() -> Result<()> {
    let _alone = alone();
    // Where there is one processor a test runs on the first thread, whose name is that of the process.
    let thread = thread::Builder::new().name("nd-thread".to_owned()).spawn(found_by_its_process)?;
    thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
}

fn found_by_its_process() -> Result<()> {
    let own = fs::read_to_string("/proc/self/comm")?;
    let thread = fs::read_to_string("/proc/thread-self/comm")?;
    let mut facts = Facts::new();
    facts.holds("this thread has a name of its own", own != thread);
    let pair = Pair::new()?;
    let netdiag = Netdiag::live(&["--comm", own.trim_end()])?;
    let client = Client::outside(&pair)?;
    client.shell.send()?;
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;
    let server = client.shell.server_end(pair.right.inode());
    let comms = |end: &End| -> Vec<_> {
        flows_of(total, end).iter().map(|flow| flow.owner.comm.clone()).collect()
    };
    facts.equal("the owner of this end", comms(&server), vec![Some(own.trim_end().to_owned())]);
    facts.equal("the other end", comms(&client.shell.end), vec![]);
    facts.at_rest(total);
    facts.finish();
    Ok(())
}

/// A container that starts later is followed from its first connection on, and one elsewhere left out; one whose name
/// comes late is seen from then on.
#[test]
fn pods_that_start_later_are_followed() -> Result<()> {
    let _alone = alone();
    let pair = Pair::new()?;
    let node = Node::new()?;
    let first = named(&node, Driver::Systemd, FIRST)?;
    let mut netdiag =
        Netdiag::live(&["--host-root", node.root(), "--namespace", &first.namespace])?;
    let mut clients = Vec::new();
    for (nth, driver) in [(LATER, Driver::Systemd), (LATER_ELSEWHERE, Driver::Cgroupfs)] {
        let client = Client::inside(&pair, &named(&node, driver, nth)?)?;
        client.shell.send()?;
        clients.push(client);
    }
    let nameless = node.container(Driver::Cgroupfs, LATER_NAMELESS)?;
    let late = Client::inside(&pair, &nameless)?;
    late.shell.send()?;
    thread::sleep(Duration::from_millis(1_500));
    node.name(&nameless)?;
    let end = late.shell.end;
    let is_seen = wait_until_result(|| {
        late.shell.send()?;
        netdiag.wait_lines(1)?;
        let so_far = netdiag.outcome(None)?;
        Ok(so_far.snapshots.iter().any(|snapshot| !flows_of(snapshot, &end).is_empty()))
    })?;
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;
    let mut facts = Facts::new();
    facts.holds("one whose name comes late is seen in the end", is_seen);
    let found = flows_of(total, &clients[0].shell.end);
    let sends: Vec<_> = found.iter().map(|flow| count(flow, "sends")).collect();
    facts.equal("all of a later pod", sends, vec![Some(SENDS as u64)]);
    let connects: Vec<_> = found.iter().map(|flow| flow.metrics.contains_key("connect")).collect();
    facts.equal("its connection as well", connects, vec![true]);
    facts.equal("nothing of one elsewhere", flows_of(total, &clients[1].shell.end).len(), 0);
    let filtered = total.accounting["send"].filtered;
    facts.holds(
        format_args!("{filtered} sends filtered, those elsewhere among them"),
        filtered >= SENDS as u64,
    );
    facts.at_rest(total);
    facts.finish();
    Ok(())
}

/// Tries until it is so, for as long as anybody waits.
fn wait_until_result(mut is_so: impl FnMut() -> Result<bool>) -> Result<bool> {
    let until = Instant::now() + patience();
    while Instant::now() < until {
        if is_so()? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What nobody is, is refused with the names there are; `--wait` waits for it.
#[test]
fn nobody_is_refused_with_near_names() -> Result<()> {
    let _alone = alone();
    let node = Node::new()?;
    let container = named(&node, Driver::Cgroupfs, FIRST)?;
    let mut facts = Facts::new();
    let mistyped = format!("{}x", container.pod);
    for (arguments, says) in [
        (vec!["--pod", &mistyped], container.pod.as_str()),
        (vec!["--namespace", "shop"], &container.namespace),
        (vec!["--container", "abcdef0123"], &container.id[..12]),
        (vec!["--cgroup", "/no/such"], "no such cgroup"),
        (vec!["--comm", "bashh-no-such"], "no process has this name"),
    ] {
        let mut all = vec!["live", "--host-root", node.root()];
        all.extend(&arguments);
        let output = run(&all)?;
        let said = String::from_utf8_lossy(&output.stderr);
        facts.equal(format_args!("{arguments:?}: exit status"), output.status.code(), Some(2));
        facts.equal(format_args!("{arguments:?}: lines of {said:?}"), said.lines().count(), 1);
        facts.holds(format_args!("{arguments:?}: {said:?} names {says:?}"), said.contains(says));
    }
    let later = node.container(Driver::Systemd, SECOND)?;
    let arguments =
        ["live", "-o", "json", "-d", "10h", "--wait", "--host-root", node.root(), "--pod"];
    let mut netdiag = Netdiag::begin(&[&arguments[..], &[later.pod.as_str()]].concat())?;
    netdiag.wait_said("waiting")?;
    node.name(&later)?;
    netdiag.wait_said("netdiag: ready")?;
    netdiag.stop()?;
    facts.finish();
    Ok(())
}
