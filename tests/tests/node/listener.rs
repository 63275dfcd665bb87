//! Connections as they come and go, against `conntrack -E`.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    net::{IpAddr, Ipv6Addr},
    process::{Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
};

use netdiag::node::conntrack::listener::{Losses, Message, Subscriptions, Tuple, What};
use netdiag_tests::{child::Own, requirement::alone};

use super::{
    Asked as _, Made, NONE,
    conntrack::{send, tracking},
    until,
};

/// What both tell of an event, as text, to be sorted and shown.
fn event(what: What, protocol: u8, original: Tuple, reply: Tuple) -> String {
    let end = |address, port: u16| (Ipv6Addr::from_octets(address).to_canonical(), port);
    let tuple = |tuple: Tuple| {
        let Tuple { source, destination, source_port, destination_port } = tuple;
        (end(source, source_port), end(destination, destination_port))
    };
    format!("{what:?} {protocol} {:?} {:?}", tuple(original), tuple(reply))
}

/// `conntrack -E`, ended with the value.
struct Events {
    _child: Own,
    lines: Receiver<String>,
}

impl Events {
    fn begin(made: &Made) -> Self {
        let child = Command::new("ip")
            .args(["netns", "exec", made.name(), "conntrack", "-E", "-e", "NEW,DESTROY"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut child = Own::from(child);
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || {
            let _ = stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line));
        });
        Self { _child: child, lines }
    }
}

/// The event of a line.
fn said(line: &str) -> String {
    let what = if line.contains("[NEW]") { What::New } else { What::Destroyed };
    let words = || line.split_ascii_whitespace();
    let protocol = words().find_map(|word| word.parse().ok()).unwrap();
    let value = |name: &str, place| {
        let mut values = words().filter_map(|word| word.split_once('='));
        values.by_ref().filter(|(key, _)| *key == name).nth(place).unwrap().1
    };
    let address = |name: &str, place| match value(name, place).parse().unwrap() {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    let port = |name: &str, place| value(name, place).parse().unwrap();
    let tuple = |place| Tuple {
        source: address("src", place),
        destination: address("dst", place),
        source_port: port("sport", place),
        destination_port: port("dport", place),
    };
    event(what, protocol, tuple(0), tuple(1))
}

/// A connection to this port means only that somebody listens.
const PROBE: u16 = 1999;

#[test]
fn what_comes_and_goes_is_told() {
    let _alone = alone();
    let (made, other) = (tracking("listened"), tracking("other"));
    let mut subscriptions = Subscriptions::default();
    assert_eq!(subscriptions.follow(&[made.found(), other.found()], &BTreeSet::new()), NONE);
    let events = Events::begin(&made);
    let mut lines = Vec::new();
    until("`conntrack -E` listens", || {
        assert_eq!(send(&made, PROBE..PROBE + 1), 0);
        lines.extend(events.lines.try_iter());
        (!lines.is_empty()).then_some(())
    });
    assert_eq!(send(&made, 2000..2030), 0);
    assert_eq!(send(&other, 2000..2003), 0);
    made.exec("conntrack -D -p udp");
    let is_probe = |line: &String| line.contains(&format!("port={PROBE}"));
    until("`conntrack -E` tells all", || {
        lines.extend(events.lines.try_iter().filter(|line| !is_probe(line)));
        lines.retain(|line| !is_probe(line));
        (lines.len() >= 60).then_some(())
    });
    let (mut told, mut elsewhere): (Vec<Message>, Vec<Message>) = Default::default();
    until("the listener tells all", || {
        let overruns = subscriptions.take(|message| match message.original.destination_port {
            PROBE => {}
            _ if message.netns == made.inode() => told.push(message),
            _ => elsewhere.push(message),
        });
        assert_eq!(overruns, Losses::default());
        (told.len() >= 60).then_some(())
    });

    let text = |one: &Message| event(one.what, one.protocol, one.original, one.reply);
    let ours: BTreeSet<String> = told.iter().map(text).collect();
    let theirs: BTreeSet<String> = lines.iter().map(|line| said(line)).collect();
    assert_eq!(ours, theirs);
    assert_eq!((ours.len(), told.len()), (60, 60));
    let is_ours = |one: &Message| one.netns == other.inode() && one.what == What::New;
    assert!(elsewhere.len() == 3 && elsewhere.iter().all(is_ours), "{elsewhere:?}");

    // Nobody else is told of, and nothing is kept, once a namespace is let go.
    for _ in 0..2 {
        assert_eq!(subscriptions.follow(&[other.found()], &BTreeSet::new()), NONE);
    }
    assert_eq!((send(&made, 2100..2103), send(&other, 2100..2104)), (0, 0));
    let mut later = Vec::new();
    subscriptions.take(|message| later.push(message.netns));
    assert_eq!(later, [other.inode(); 4]);
}

#[test]
fn what_found_no_room_is_counted() {
    let _alone = alone();
    let made = tracking("overrun");
    let mut subscriptions = Subscriptions::default();
    assert_eq!(subscriptions.follow(&[made.found()], &BTreeSet::new()), NONE);
    // Some 13,000 messages find room.
    for _ in 0..4 {
        assert_eq!(send(&made, 10_000..17_000), 0);
        made.exec("conntrack -F");
    }
    let (mut overruns, mut told) = (Losses::default(), 0);
    loop {
        let before = told;
        let more = subscriptions.take(|_| told += 1);
        overruns.overruns += more.overruns;
        overruns.malformed += more.malformed;
        if told == before {
            break;
        }
    }
    assert!(overruns.overruns > 0 && told > 7000 && told < 56_000, "{overruns:?}, {told} told");
    assert_eq!(overruns.malformed, 0);
    assert_eq!(send(&made, 2000..2003), 0);
    let mut later = 0;
    assert_eq!(subscriptions.take(|_| later += 1), Losses::default());
    assert_eq!(later, 3);
}
