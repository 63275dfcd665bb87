//! netdiag in a container, by its manifest: it sees of the node what it should, says what it does not, and
//! names containers that are started after it.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    process::Command,
    thread,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use netdiag::snapshot::Doctor;
use netdiag_tests::{
    container::Container,
    facts::Facts,
    machine,
    netdiag::{Netdiag, run_command},
    network::{Pair, RIGHT_V4},
    outcome::{count, flow_of},
    require,
    requirement::{Feature, alone},
    tool::{self, finish},
    traffic::{
        Connection, Family,
        process::Shell,
        request::{Exchange, exchange},
    },
    workshop::Workshop,
};

const SENDS: usize = 20;

/// What a run of `doctor` says.
fn doctor(command: Command) -> Result<Doctor> {
    let said = finish("doctor", &run_command(command)?)?;
    serde_json::from_str(&said).context(said)
}

const DOCTOR: [&str; 4] = ["netdiag", "doctor", "-o", "json"];

#[test]
fn flows_of_the_node_are_seen_and_have_their_owners() -> Result<()> {
    require!(Feature::Runc);
    let _alone = alone();
    for (host_pid, host_network) in [(false, true), (true, true), (false, false)] {
        let pair = Pair::new()?;
        let older = Connection::open(&pair.left, &pair.right, Family::V4)?;
        let mut pod =
            Container::of_daemonset()?.with_host_pid(host_pid).with_host_network(host_network);
        let namespace = pair.left.inode().to_string();
        let netdiag = Netdiag::start_by(pod.command(&[
            "netdiag",
            "live",
            "-o",
            "json",
            "-d",
            "10h",
            "--signals",
            "send",
            "--netns",
            &namespace,
        ])?)?;
        let younger = Connection::open(&pair.left, &pair.right, Family::V4)?;
        let shell = Shell::connect(&pair.left, &pair.right, SENDS)?;
        let once = Exchange { sends: SENDS, bytes: 1, echo: false };
        exchange([(&older, once), (&younger, once)])?;
        shell.send()?;
        let own = std::process::id();
        let ends = [
            ("older than netdiag", older.client_end()?, own),
            ("younger than netdiag", younger.client_end()?, own),
            ("of another process", shell.end, shell.pid()),
        ];
        let outcome = netdiag.stop()?;
        let total = outcome.total()?;
        let mut facts = Facts::new();
        facts.note(format_args!("hostPID {host_pid} hostNetwork {host_network}"));
        facts.note(format_args!("said {:?}", outcome.stderr));
        facts.at_rest(total);
        for (what, end, pid) in ends {
            let flow = flow_of(total, &end)?;
            facts.equal(format_args!("sends {what}"), count(flow, "sends"), Some(SENDS as u64));
            facts.equal(format_args!("process {what}"), flow.owner.pid, Some(pid));
        }
        facts.equal("status", outcome.code(), Some(0));
        facts.finish();
    }
    Ok(())
}

#[test]
fn doctor_finds_the_node_and_misses_nothing() -> Result<()> {
    require!(Feature::Runc);
    let outside = doctor(netdiag_tests::netdiag::command(&DOCTOR[1..])?)?;
    for host_pid in [false, true] {
        let mut pod = Container::of_daemonset()?.with_host_pid(host_pid);
        let inside = doctor(pod.command(&DOCTOR)?)?;
        let mut facts = Facts::new();
        facts.equal("root of the node", inside.host_root.as_str(), "/host");
        facts.equal("what is not seen of it", inside.unseen.clone(), vec![]);
        facts.equal("signals", &inside.signals, &outside.signals);
        facts.finish();
    }
    Ok(())
}

#[test]
fn what_a_container_does_not_see_is_said() -> Result<()> {
    require!(Feature::Runc);
    let mut facts = Facts::new();
    let mut pod = Container::of_daemonset()?.without_mounts("/host");
    let said = doctor(pod.command(&DOCTOR)?)?;
    facts.equal("root of the node", said.host_root.as_str(), "/");
    facts.note(format_args!("{:#?}", said.unseen));
    let says = |words: &str| said.unseen.iter().any(|line| line.contains(words));
    facts.holds("processes are missed", says("hostPID"));
    facts.holds("control groups are missed", says("control groups"));
    let refused = run_command(pod.command(&["netdiag", "--pid", "1", "-d", "1s"])?)?;
    facts.equal("status of --pid", refused.status.code(), Some(2));
    for name in ["CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH", "CAP_NET_ADMIN", "CAP_SYSLOG"] {
        let said = doctor(Container::of_daemonset()?.without_capability(name).command(&DOCTOR)?)?;
        let found: Vec<_> = said.unseen.iter().map(|line| line.contains(name)).collect();
        facts.equal(format_args!("{name} is missed alone: {:?}", said.unseen), found, vec![true]);
    }
    facts.finish();
    Ok(())
}

#[test]
fn recordings_are_on_the_node_or_it_is_said_that_they_are_not() -> Result<()> {
    require!(Feature::Runc);
    let mut facts = Facts::new();
    const WARNING: &str = "the files are gone with this container";
    for (out, lasts) in [("/var/lib/netdiag", true), ("/tmp/recordings", false)] {
        let mut pod = Container::of_daemonset()?.with_env("NODE_NAME", "worker-7");
        let lasts = lasts && !pod.is_in_memory()?;
        let record =
            ["netdiag", "record", "--out", out, "-i", "1s", "-d", "2s", "--signals", "send"];
        let output = run_command(pod.command(&record)?)?;
        let said = String::from_utf8_lossy(&output.stderr);
        facts.note(&said);
        facts.equal("status", output.status.code(), Some(0));
        facts.equal(format_args!("a warning for {out}"), said.contains(WARNING), !lasts);
        let kept = fs::read_dir(pod.node("/var/lib/netdiag"))?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with("netdiag-worker-7-"))
            .count();
        facts.equal("files on the node", kept, if out.starts_with("/var") { 2 } else { 0 });
    }
    facts.finish();
    Ok(())
}

/// Everything is built and run from a container as from a shell: the machine's root with its tools is
/// read-only, but for the work tree's target.
#[test]
fn cargo_xtask_run_works_in_a_container() -> Result<()> {
    require!(Feature::Cargo);
    let workshop = Workshop::find().context("nothing is built here")?;
    let _alone = alone();
    for host_pid in [false, true] {
        let begun = Instant::now();
        let mut room = workshop.furnish(Container::of_daemonset()?.with_host_pid(host_pid))?;
        let output = run_command(
            room.container.command(&["cargo", "xtask", "run", "--", "doctor", "-o", "json"])?,
        )?;
        let said = finish("cargo xtask run", &output)?;
        let inside: Doctor = serde_json::from_str(&said).context(said)?;
        println!("hostPID {host_pid}: {:.0?}", begun.elapsed());
        let mut facts = Facts::new();
        facts.note(String::from_utf8_lossy(&output.stderr));
        facts.equal("kernel", inside.kernel.as_str(), machine::release().as_str());
        facts.equal("root of the node", inside.host_root.as_str(), "/host");
        facts.equal("what is not seen of it", inside.unseen, vec![]);
        facts.finish();
    }
    Ok(())
}

/// A container's control group as the kubelet makes it without systemd.
struct Workload {
    id: &'static str,
    pod: &'static str,
}

const WORKLOAD: Workload = Workload {
    id: "3f1c9a7be0d24586a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718",
    pod: "5d8f0c2e-7b1a-4c3d-9e6f-0a1b2c3d4e5f",
};

impl Workload {
    fn cgroup(&self) -> String {
        format!("/kubepods/burstable/pod{}/{}", self.pod, self.id)
    }
}

impl Drop for Workload {
    /// runc removes its own group alone.
    fn drop(&mut self) {
        let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        let all = hierarchies.map(|entry| entry.path()).chain(["/sys/fs/cgroup".into()]);
        for hierarchy in all {
            for group in [
                format!("kubepods/burstable/pod{}", self.pod),
                "kubepods/burstable".into(),
                "kubepods".into(),
            ] {
                let _ = fs::remove_dir(hierarchy.join(group));
            }
        }
    }
}

#[test]
fn a_container_is_named_in_its_first_flow() -> Result<()> {
    require!(Feature::Runc);
    let _alone = alone();
    let pair = Pair::new()?;
    let listener = pair.right.run(|| TcpListener::bind((RIGHT_V4, 0)))?;
    let port = listener.local_addr()?.port();
    let mut observer = Container::of_daemonset()?;
    let namespace = pair.left.inode().to_string();
    let mut netdiag = Netdiag::start_by(observer.command(&[
        "netdiag", "live", "-o", "json", "-i", "1s", "-d", "10h", "--netns", &namespace,
    ])?)?;
    // As the kubelet does before it starts the container.
    let logs = format!("shop_cart-6d4f_{}/web", WORKLOAD.pod);
    fs::create_dir_all(observer.node("/var/log/pods").join(&logs))?;
    let log = format!("cart-6d4f_shop_web-{}.log", WORKLOAD.id);
    std::os::unix::fs::symlink(
        format!("/var/log/pods/{logs}/0.log"),
        observer.node("/var/log/containers").join(log),
    )?;
    let _group = Workload { ..WORKLOAD };
    let mut workload = Container::workload(WORKLOAD.id, &WORKLOAD.cgroup(), &pair.left)?;
    let script = format!("echo hello | busybox nc {RIGHT_V4} {port}");
    let mut command = workload.command(&["busybox", "sh", "-c", &script])?;
    let client = thread::spawn(move || command.output());
    let (mut socket, peer) = listener.accept()?;
    let mut heard = [0; 6];
    socket.read_exact(&mut heard)?;
    netdiag.wait_outcome("the container's flow", |outcome| {
        outcome
            .snapshots
            .iter()
            .any(|one| one.flows.iter().any(|f| f.local.port == Some(peer.port())))
    })?;
    socket.write_all(b"bye\n")?;
    drop(socket);
    let output = client.join().map_err(|_| anyhow::anyhow!("the client panicked"))??;
    ensure!(output.status.success(), "{output:?}");
    let outcome = netdiag.stop()?;
    let mut facts = Facts::new();
    facts.note(format_args!("said {:?}", outcome.stderr));
    let seen = outcome.snapshots.iter().chain(outcome.total.as_ref());
    let of_client = seen.flat_map(|one| &one.flows).filter(|f| f.local.port == Some(peer.port()));
    let mut flows = 0;
    for flow in of_client {
        flows += 1;
        let owner = &flow.owner;
        let name = |name: &Option<String>| name.clone().unwrap_or_default();
        facts.note(format_args!("{owner:?}"));
        facts.equal("process", name(&owner.comm).as_str(), "busybox");
        facts.equal("container", name(&owner.container).as_str(), WORKLOAD.id);
        facts.equal("container's name", name(&owner.container_name).as_str(), "web");
        facts.equal("pod", name(&owner.pod).as_str(), "cart-6d4f");
        facts.equal("namespace", name(&owner.namespace).as_str(), "shop");
        facts.equal("pod's uid", name(&owner.pod_uid).as_str(), WORKLOAD.pod);
        let group = name(&owner.cgroup);
        facts.holds(format_args!("{group} is its group"), group.ends_with(&WORKLOAD.cgroup()));
    }
    facts.holds("it was shown, and is in the total", flows >= 2);
    facts.finish();
    Ok(())
}

/// The image needs nothing but the kernel's own file systems.
#[test]
fn doctor_works_in_a_root_with_nothing_else() -> Result<()> {
    let root = tempfile::tempdir()?;
    let binary = netdiag_tests::netdiag::binary()?;
    fs::create_dir_all(root.path().join("usr/bin"))?;
    fs::create_dir(root.path().join("proc"))?;
    fs::create_dir(root.path().join("sys"))?;
    fs::copy(binary, root.path().join("usr/bin/netdiag"))?;
    let script = "mount -t proc proc $0/proc && mount -t sysfs sysfs $0/sys && \
                  exec chroot $0 /usr/bin/netdiag doctor -o json";
    let mut command = tool::command("unshare")?;
    command.args(["--mount", "sh", "-c", script]).arg(root.path());
    let inside = doctor(command)?;
    let outside = doctor(netdiag_tests::netdiag::command(&DOCTOR[1..])?)?;
    let mut facts = Facts::new();
    facts.note(machine::release());
    facts.holds("BTF is found", inside.btf);
    facts.equal("signals", &inside.signals, &outside.signals);
    facts.finish();
    Ok(())
}
