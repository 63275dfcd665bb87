//! Whom flows belong to: processes in control groups as kubelet makes them, each with its container, pod and
//! Kubernetes namespace; those that ended, whose sockets changed hands, and whose process id is another's now.

use std::{
    net::{TcpListener, TcpStream},
    os::unix::fs::symlink,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use netdiag::snapshot::{Flow, Snapshot};
use netdiag_tests::{
    child::Own,
    facts::Facts,
    netdiag::Netdiag,
    network::{Pair, RIGHT_V4},
    outcome::{flow_of, flows_of},
    pods::{Container, Driver, Node},
    requirement::alone,
    tool,
    traffic::{End, Family, listen, read_bytes, send_once},
};
use tempfile::TempDir;

#[path = "owner/bystander.rs"]
mod bystander;
#[path = "owner/reused.rs"]
mod reused;

/// Processes in containers, half of them of either driver.
const PROCESSES: u32 = 200;

/// Where programs have the names that processes are to have.
struct Programs(TempDir);

impl Programs {
    fn new() -> Result<Self> {
        Ok(Self(tempfile::tempdir()?))
    }

    /// The shell under this name.
    fn shell(&self, name: &str) -> Result<PathBuf> {
        let path = self.0.path().join(name);
        if !path.exists() {
            symlink(tool::find("bash").context("bash")?, &path)?;
        }
        Ok(path)
    }
}

/// A process in a container that has a connection with this one; killed when dropped.
struct Process {
    child: Own,
    comm: String,
    container: Container,
    server: TcpStream,
    end: End,
}

/// What one does: it goes into its container, connects, and sends a byte each time it is told to.
fn script(container: &Container, port: u16) -> String {
    let group = container.procs.display();
    format!(
        "echo $$ > {group}; exec 3<>/dev/tcp/{RIGHT_V4}/{port}; \
         while read -r -u 3 word && [ $word = go ]; do printf x >&3; done"
    )
}

impl Process {
    fn start(
        pair: &Pair,
        listener: &(TcpListener, u16),
        programs: &Programs,
        comm: String,
        container: Container,
    ) -> Result<Self> {
        let mut command = Command::new(programs.shell(&comm)?);
        command.args(["-c", &script(&container, listener.1)]).stdin(Stdio::null());
        let child = pair.left.run(|| command.spawn())?.into();
        let (server, end) = accept(pair, &listener.0)?;
        Ok(Self { child, comm, container, server, end })
    }

    fn send(&self) -> Result<()> {
        send_once(&self.server, b"go\n")?;
        read_bytes(&self.server, 1)
    }

    /// Lets it end, and its container with it.
    fn end(&mut self) -> Result<()> {
        send_once(&self.server, b"end\n")?;
        let status = self.child.wait()?;
        // The last command was to read what it was told.
        ensure!(status.code().is_some(), "the shell: {status}");
        self.container.remove()
    }
}

/// Accepts a connection from the left end of a pair.
fn accept(pair: &Pair, listener: &TcpListener) -> Result<(TcpStream, End)> {
    let (server, peer) = listener.accept()?;
    let end = End { netns: pair.left.inode(), local: peer, peer: server.local_addr()? };
    Ok((server, end))
}

/// What is said of a flow's owner, with names where there are some.
fn said(flow: &Flow) -> [Option<&str>; 6] {
    let owner = &flow.owner;
    [
        owner.cgroup.as_deref(),
        owner.container.as_deref(),
        owner.pod_uid.as_deref(),
        owner.container_name.as_deref(),
        owner.pod.as_deref(),
        owner.namespace.as_deref(),
    ]
}

/// What is right.
fn of(container: &Container) -> [Option<&str>; 6] {
    let Container { cgroup, id, name, pod_uid, pod, namespace, .. } = container;
    [cgroup, id, pod_uid, name, pod, namespace].map(|text| Some(text.as_str()))
}

#[derive(Debug, Default)]
struct Counted {
    right: usize,
    unknown: usize,
    wrong: Vec<String>,
}

/// How many of the processes are named right, not at all, and wrong, by the flows of a snapshot.
fn judge<'a>(snapshot: &Snapshot, processes: impl Iterator<Item = &'a Process>) -> Result<Counted> {
    let mut counted = Counted::default();
    for process in processes {
        let flow = flow_of(snapshot, &process.end)?;
        let who = (flow.owner.pid, flow.owner.comm.as_deref());
        let right = (Some(process.child.id()), Some(process.comm.as_str()));
        match said(flow) {
            found if found == of(&process.container) && who == right => counted.right += 1,
            found if found == [None; 6] && who == right => counted.unknown += 1,
            found => counted.wrong.push(format!(
                "{who:?} {found:?} instead of {right:?} {:?}",
                of(&process.container)
            )),
        }
    }
    Ok(counted)
}

/// A quarter is older than netdiag. A quarter ends as soon as it has sent, with its container: such is unknown where the
/// kernel does not tell its cgroup. The last ones are named late.
#[test]
fn each_process_is_in_its_pod() -> Result<()> {
    let _alone = alone();
    let (node, pair, programs) = (Node::new()?, Pair::new()?, Programs::new()?);
    let listener = listen(&pair.right, Family::V4)?;
    let late = PROCESSES - 20;
    let start = |nth: u32| -> Result<Process> {
        let driver = if (nth / 2).is_multiple_of(2) { Driver::Cgroupfs } else { Driver::Systemd };
        let container = node.container(driver, nth)?;
        if nth < late {
            node.name(&container)?;
        }
        Process::start(&pair, &listener, &programs, format!("app-{nth}"), container)
    };
    let older: Vec<Process> = (0..PROCESSES / 4).map(start).collect::<Result<_>>()?;
    let mut netdiag = Netdiag::live(&["--host-root", node.root()])?;
    let mut brief = Vec::new();
    for nth in PROCESSES / 4..PROCESSES / 2 {
        let mut process = start(nth)?;
        process.send()?;
        process.end()?;
        brief.push(process);
    }
    let mut younger: Vec<Process> = (PROCESSES / 2..PROCESSES).map(start).collect::<Result<_>>()?;
    for process in older.iter().chain(&younger) {
        process.send()?;
    }
    netdiag.wait_lines(2)?;
    for process in younger.iter().skip((late - PROCESSES / 2) as usize) {
        node.name(&process.container)?;
    }
    // Each is heard of once more, so that one that could not be looked up in time is now.
    for process in older.iter().chain(&younger) {
        process.send()?;
    }
    netdiag.wait_lines(3)?;
    // One that has ended keeps its name.
    younger.iter_mut().take(40).try_for_each(Process::end)?;
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;
    let mut facts = Facts::new();
    facts.note(format_args!("{:#?}", outcome.stderr));
    for (what, processes, may_be_unknown) in
        [("older", &older, false), ("younger", &younger, false), ("brief", &brief, true)]
    {
        let Counted { right, unknown, wrong } = judge(total, processes.iter())?;
        let all = processes.len();
        let line =
            format!("{what}: {right} of {all} right, {unknown} unknown, {} wrong", wrong.len());
        println!("{line}");
        facts.note(&line);
        facts.equal(format_args!("{what}: wrong"), wrong, Vec::new());
        let known = if may_be_unknown { right + unknown } else { right };
        facts.equal(format_args!("{what}: right"), known, all);
    }
    // Peers on the same node are named, too.
    for process in older.iter().chain(&younger) {
        let flow = flow_of(total, &process.end)?;
        let other = total.flows.iter().find(|other| Some(&other.id) == flow.pair.as_ref());
        let other = other.with_context(|| format!("no other end of {flow:#?}"))?;
        facts.equal("pid of the other end", other.owner.pid, Some(std::process::id()));
        facts.holds("the other end has a cgroup", other.owner.cgroup.is_some());
    }
    facts.at_rest(total);
    facts.finish();
    Ok(())
}

/// A process inherits a socket and goes into another container: it is the current user when it sends.
#[test]
fn a_socket_that_changes_hands() -> Result<()> {
    let _alone = alone();
    let (node, pair, programs) = (Node::new()?, Pair::new()?, Programs::new()?);
    let (listener, port) = listen(&pair.right, Family::V4)?;
    let [first, second] = [0, 2].map(|nth| node.container(Driver::Systemd, nth));
    let (first, second) = (first?, second?);
    node.name(&first)?;
    node.name(&second)?;
    let mut netdiag = Netdiag::live(&["--host-root", node.root()])?;
    let script = format!(
        "echo $$ > {}; exec 3<>/dev/tcp/{RIGHT_V4}/{port}; printf x >&3; read -r -u 3 word; \
         (echo $BASHPID > {}; printf $BASHPID/ >&3; read -r -u 3 word)",
        first.procs.display(),
        second.procs.display()
    );
    let mut command = Command::new(programs.shell("giver")?);
    command.args(["-c", &script]).stdin(Stdio::null());
    let mut giver = pair.left.run(|| command.spawn())?;
    let (server, end) = accept(&pair, &listener)?;
    read_bytes(&server, 1)?;
    netdiag.wait_lines(2)?;
    let outcome = netdiag.outcome(None)?;
    let before = outcome.snapshots.iter().find_map(|snapshot| flows_of(snapshot, &end).pop());
    let before = before.context("the flow is not listed")?;
    send_once(&server, b"go\n")?;
    let taker = read_number(&server)?;
    netdiag.wait_lines(2)?;
    send_once(&server, b"end\n")?;
    giver.wait()?;
    let outcome = netdiag.stop()?;
    let after = flow_of(outcome.total()?, &end)?;
    let mut facts = Facts::new();
    facts.equal("pid of the giver", before.owner.pid, Some(giver.id()));
    facts.equal("place of the giver", said(before), of(&first));
    facts.equal("pid of the taker", after.owner.pid, Some(taker));
    facts.equal("place of the taker", said(after), of(&second));
    facts.finish();
    Ok(())
}

/// Reads digits up to a slash.
fn read_number(mut from: &TcpStream) -> Result<u32> {
    use std::io::Read as _;
    let mut text = String::new();
    let mut byte = [0];
    while from.read(&mut byte)? == 1 && byte[0] != b'/' {
        text.push(char::from(byte[0]));
    }
    text.parse().with_context(|| text.clone())
}
