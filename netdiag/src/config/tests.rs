use std::sync::{Arc, LazyLock};

use netdiag_common::{flow::FlowKey, globals::Numbers};
use proptest::prelude::*;

use super::{
    targets::{prefixes, words},
    *,
};
use crate::{
    cli::{
        Asked,
        value::{self, NetnsName},
    },
    exit::Status,
    owner::{Place, Pod},
};

fn config(line: &str) -> Result<Config, Error> {
    match cli::parse(line.split(' ').map(Into::into))? {
        Asked::Run(cli) => Config::new(&cli, Path::new("/node")),
        Asked::Print(text) => panic!("`{line}` prints {text}"),
    }
}

struct Node;

impl Lookup for Node {
    fn knows_processes(&self) -> bool {
        true
    }

    fn process(&self, pid: u32) -> Process {
        match pid {
            7 => Process::Exists,
            71 => Process::Thread(7),
            _ => Process::Absent,
        }
    }

    fn socket_holders(&self) -> &[String] {
        static HOLDERS: LazyLock<[String; 2]> =
            LazyLock::new(|| ["7 (nginx)".to_owned(), "9 (java)".to_owned()]);
        &*HOLDERS
    }

    fn netns(&self, name: &NetnsName) -> Result<u32, String> {
        match name {
            NetnsName::Name(name) if name == "blue" => Ok(4_026_532_281),
            _ => Err("no such name under /run/netns".to_owned()),
        }
    }

    fn netns_names(&self) -> Vec<String> {
        vec!["blue".to_owned(), "green".to_owned()]
    }

    fn process_names(&self) -> Vec<String> {
        vec!["java".to_owned(), "nginx".to_owned()]
    }

    fn places(&self) -> Result<Vec<Home>, String> {
        let pod = |namespace: &str, name: &str| {
            Some(Pod { namespace: namespace.to_owned(), name: name.to_owned() })
        };
        let place = |cgroup: &str, container: Option<&str>| {
            let (cgroup, container) = (cgroup.to_owned(), container.map(str::to_owned));
            Arc::new(Place { pod_uid: container.clone(), container, cgroup })
        };
        Ok(vec![
            (place("/", None), None),
            (place("/system.slice", None), None),
            (place("/kubepods/web", Some("3f0f4f1f5a3ec63d")), pod("shop", "web-0")),
            (place("/kubepods/db", Some("77a0b1c2d3e4f506")), pod("store", "db-0")),
        ])
    }
}

fn targets(line: &str) -> Targets {
    match config(line).map(|config| config.command) {
        Ok(Command::Live(watch, _)) => watch.targets,
        other => panic!("`{line}`: {other:?}"),
    }
}

#[test]
fn defaults_depend_on_the_command() {
    let top = |line: &str| match config(line).expect(line).command {
        Command::Live(watch, _) | Command::Record(watch, _) => watch.top,
        Command::Doctor(_)
        | Command::Events(..)
        | Command::Diagnose(..)
        | Command::DiagnoseFrom(..)
        | Command::Report(_) => None,
    };
    assert_eq!(top("netdiag"), Some(20));
    assert_eq!(top("netdiag -o json"), None);
    assert_eq!(top("netdiag record --out x"), Some(1_000));
    assert_eq!(top("netdiag record --out x --top 3"), Some(3));
    let Command::Record(_, dump) =
        config("netdiag record --out x --max-disk 8MiB").expect("").command
    else {
        panic!("no record")
    };
    assert_eq!((dump.max_disk, dump.rotate_size), (8 << 20, 2 << 20));
}

#[test]
fn metrics_go_where_they_are_asked_to() {
    let metrics = |line: &str| match config(line).expect(line).command {
        Command::Live(watch, _) | Command::Record(watch, _) => watch.metrics,
        other => panic!("`{line}`: {other:?}"),
    };
    assert_eq!(metrics("netdiag"), None);
    let served = metrics("netdiag --listen :9464").expect("metrics");
    assert_eq!((served.groups, served.listen.is_some(), served.otlp), (50, true, None));
    let sent = metrics("netdiag record --out x --otlp http://10.0.0.7 --listen-groups 5");
    let sent = sent.expect("metrics");
    assert_eq!((sent.groups, sent.listen), (5, None));
    assert_eq!(
        sent.otlp.map(|to| to.to_string()).as_deref(),
        Some("http://10.0.0.7:4318/v1/metrics")
    );
}

#[test]
fn socket_is_always_observed() {
    let kernel = config("netdiag --signals retransmit").expect("valid").kernel;
    assert_eq!(kernel.signals, [Signal::Socket, Signal::Retransmit]);
}

#[test]
fn contradictions_are_wrong_usage() {
    let cases = [
        ("netdiag --source send=kprobe,send=fexit", "two sources"),
        ("netdiag --signals retransmit --source send=kprobe", "--signals leaves out"),
        ("netdiag -i 10s -d 5s", "shorter than one --interval"),
        ("netdiag record --out x --max-disk 1MiB --rotate-size 1MiB", "a quarter"),
        ("netdiag events --kind dns --pcap x", "one of retransmit, drop, reset"),
        ("netdiag events --pcap - -o json", "--output"),
        ("netdiag events --pcap - --stack", "--stack"),
        ("netdiag --listen-groups 5", "--listen or --otlp"),
        ("netdiag --port 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17", "17 values"),
    ];
    for (line, expected) in cases {
        let error = config(line).expect_err(line);
        assert_eq!(error.status(), Status::Usage, "{line}");
        assert!(error.to_string().contains(expected), "`{line}` says: {error}");
    }
}

#[test]
fn filters_hold_what_was_named() {
    let filters = filters(
        &targets("netdiag --pid 7 --port 80,443 --netns blue --peer 10.0.0.0/8,2001:db8::/33"),
        &Node,
    )
    .expect("all exist");
    assert_eq!((filters.pid.len, filters.pid.values[0]), (1, 7));
    assert_eq!((filters.port.len, &filters.port.values[..2]), (2, &[80, 443][..]));
    assert_eq!((filters.netns.len, filters.netns.values[0]), (1, 4_026_532_281));
    assert_eq!(filters.peer.len, 2);
    assert_eq!(
        filters.peer.network[0],
        words("::ffff:10.0.0.0".parse::<std::net::Ipv6Addr>().expect("v6").octets())
    );
    assert_eq!(filters.local_port, Numbers::default());
    let key = |peer: &str, local_port, peer_port| FlowKey {
        peer_addr: peer.parse::<std::net::Ipv6Addr>().expect("v6").octets(),
        local_port,
        peer_port,
        netns: 4_026_532_281,
        ..FlowKey::default()
    };
    let inside = "::ffff:10.1.2.3";
    assert!(filters.accept(&key(inside, 80, 9)) && filters.accept(&key(inside, 9, 443)));
    assert!(!filters.accept(&key(inside, 9, 9)), "neither port");
    assert!(!filters.accept(&FlowKey { netns: 1, ..key(inside, 80, 9) }));
    assert!(!filters.accept(&key("::ffff:11.1.2.3", 80, 9)));
    assert!(filters.accept_process(7, b"any") && !filters.accept_process(0, b""), "owner unknown");
}

#[test]
fn owners_are_named_in_several_ways() {
    let targets =
        targets("netdiag --comm nginx --cgroup /sys/fs/cgroup/kubepods/ --container cri-o://3F0f");
    let owners = &targets.owners;
    assert_eq!((&owners.cgroups[0][..], &owners.containers[0][..]), ("/kubepods", "3F0f"));
    let filters = filters(&targets, &Node).expect("all exist");
    assert!(filters.by_owner() && filters.by_cgroup == 1 && !filters.is_empty());
    assert!(filters.accept_process(9, b"nginx"));
    assert!(!filters.accept_process(9, b"nginx2") && !filters.accept_process(9, b""));
    for line in [
        "netdiag --cgroup ../x",
        "netdiag --container we/b",
        "netdiag --container docker://",
        "netdiag --pod=",
    ] {
        assert!(config(line).is_err(), "{line}");
    }
}

#[test]
fn cgroups_and_containers_are_taken_as_tools_print_them() {
    for text in [
        "system.slice/nginx.service",
        "/system.slice/nginx.service/",
        "/sys/fs/cgroup/system.slice/nginx.service",
        "/host/sys/fs/cgroup/system.slice/nginx.service",
        "/sys/fs/cgroup/unified/system.slice/nginx.service",
        "/sys/fs/cgroup/cpu,cpuacct/system.slice/nginx.service",
        "0::/system.slice/nginx.service",
        "9:memory:/system.slice/nginx.service",
    ] {
        assert_eq!(value::cgroup(text), Ok("/system.slice/nginx.service".to_owned()), "{text}");
    }
    for (text, path) in [
        ("/sys/fs/cgroup", "/"),
        ("/sys/fs/cgroup/memory", "/"),
        ("memory/web", "/memory/web"),
        ("/kubepods-pod1.slice:cri-containerd:3f0f", "/kubepods-pod1.slice:cri-containerd:3f0f"),
    ] {
        assert_eq!(value::cgroup(text), Ok(path.to_owned()), "{text}");
    }
    for (text, id) in [
        ("docker://3f0f", "3f0f"),
        ("containerd://3F0F", "3F0F"),
        ("cri-o://3f0f", "3f0f"),
        ("web-1.blue", "web-1.blue"),
    ] {
        assert_eq!(value::container(text), Ok(id.to_owned()), "{text}");
    }
    let owners =
        |container: &str| Owners { containers: vec![container.to_owned()], ..Owners::default() };
    let place = Place { container: Some("3f0f4f1f5a3e".to_owned()), ..Place::default() };
    for (container, is_it) in
        [("3F0F", true), ("3f0f4f1f5a3e", true), ("3f0f4f1f5a3e0", false), ("f0f", false)]
    {
        assert_eq!(owners(container).accepts(&place, None), Some(is_it), "{container}");
    }
}

#[test]
fn what_can_match_nothing_is_refused_with_near_names() {
    let cases = [
        ("netdiag --pid 8", "--pid 8: no such process"),
        ("netdiag --pid 8", "most TCP sockets have 7 (nginx), 9 (java)"),
        ("netdiag --pid 71", "give its process, --pid 7"),
        ("netdiag --netns bleu", "did you mean blue?"),
        ("netdiag --netns elsewhere", "there are blue, green"),
        ("netdiag --comm ngin", "--comm ngin: no process has this name"),
        ("netdiag --comm nginx,ngin", "did you mean nginx?"),
        ("netdiag --cgroup system.slic", "did you mean /system.slice?"),
        ("netdiag --container 3f1", "there are 3f0f4f1f5a3e, 77a0b1c2d3e4"),
        ("netdiag --pod web-1", "did you mean web-0?"),
        ("netdiag --namespace sho", "did you mean shop?"),
        ("netdiag --pod web-0 --namespace store", "leave one out"),
    ];
    for (line, expected) in cases {
        let error = filters(&targets(line), &Node).expect_err(line);
        assert_eq!(error.status(), Status::Usage, "{line}");
        assert!(error.to_string().contains(expected), "`{line}` says: {error}");
    }
}

#[test]
fn what_filters_ask_for_in_vain_is_said() {
    assert_eq!(unknowable(&targets("netdiag --comm nginx"), &Node), None);
    assert_eq!(unknowable(&targets("netdiag --port 80"), &Elsewhere), None);
    let line = unknowable(&targets("netdiag --comm nginx"), &Elsewhere).expect("a line");
    assert!(line.contains("called nginx") && line.contains("hostPID"), "{line}");
    let line = unknowable(&targets("netdiag --pod web-0"), &Elsewhere).expect("a line");
    assert!(line.contains("left out") && !line.contains("called"), "{line}");
}

/// A container that is shown no process of the node.
struct Elsewhere;

impl Lookup for Elsewhere {
    fn knows_processes(&self) -> bool {
        false
    }

    fn process(&self, _: u32) -> Process {
        Process::Absent
    }

    fn socket_holders(&self) -> &[String] {
        &[]
    }

    fn netns(&self, _: &NetnsName) -> Result<u32, String> {
        Err(String::new())
    }

    fn netns_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn process_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn places(&self) -> Result<Vec<Home>, String> {
        Node.places()
    }
}

proptest! {
    /// The words match an address exactly when its first bits are those of the prefix.
    #[test]
    fn words_match_like_bits(
        network: u128, length in 0_u8..=128, flipped in 0_u32..128, address: u128, near: bool,
    ) {
        let address = if near { network ^ (1 << flipped) } else { address };
        let text = format!("{}/{length}", std::net::Ipv6Addr::from(network));
        let prefixes = prefixes(&[value::prefix(&text).expect("valid")]);
        let address_words = words(address.to_be_bytes());
        let matched = (0..4)
            .all(|at| address_words[at] & prefixes.mask[0][at] == prefixes.network[0][at]);
        let same = length == 0 || (address ^ network) >> (128 - u32::from(length)) == 0;
        prop_assert_eq!(matched, same);
        prop_assert_eq!(prefixes.accept(&address.to_be_bytes()), same);
    }
}

#[test]
fn thresholds_are_looked_up() {
    let line = "netdiag diagnose --threshold packet-loss.loss_ratio=0.02 --fail-on warning -d 1m";
    let Command::Diagnose(watch, diagnose) = config(line).expect(line).command else {
        panic!("{line}")
    };
    assert_eq!(watch.duration, Some(Duration::from_secs(60)));
    assert_eq!(diagnose.fail_on, Some(crate::finding::Severity::Warning));
    assert_eq!(diagnose.thresholds.keys().collect::<Vec<_>>(), [&"packet-loss"]);
    for (line, says) in [
        ("netdiag diagnose --threshold packet-loss=1", "write ID.NAME=VALUE"),
        ("netdiag diagnose --threshold loss.x=1", "no finding `loss`"),
        ("netdiag diagnose --threshold packet-loss.x=1", "it has loss_ratio (0.01)"),
        ("netdiag diagnose --threshold packet-loss.loss_ratio=much", "is no number"),
        ("netdiag diagnose --from dir --pid 1", "cannot be used with"),
        ("netdiag diagnose -i 1m -d 1s", "--duration is shorter"),
    ] {
        let error = config(line).expect_err(line).to_string();
        assert!(error.contains(says), "{line}: {error}");
    }
}

#[test]
fn recordings_are_not_watched() {
    let line = "netdiag diagnose --from dumps -o json";
    let Command::DiagnoseFrom(from, form, _) = config(line).expect(line).command else {
        panic!("{line}")
    };
    assert_eq!((from, form), (PathBuf::from("dumps"), Output::Json));
}
