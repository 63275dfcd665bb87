use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    time::{Duration, SystemTime},
};

use netdiag_common::flow::FlowKey;
use proptest::prelude::*;
use ratatui::style::Color;

use super::*;
use crate::{
    finding::{Finding, Scope, Severity, Unit},
    flow::{Frozen, Grouping, Interval, Role, latency::Latency},
    labels::Labels,
    signal::{CountId, DEFINITIONS, Label, MetricId, counts, metrics},
    snapshot::{
        Node, Own, OwnProgram, SignalStatus, Status,
        build::{Frame, Scope as Extent, Sort},
        node::{Cpu, CpuShare, Interface, Sockets, States},
    },
    view::sample,
    watched::kit,
};

mod panes;

const SMALL: Size = Size { width: 80, height: 24 };
const MIDDLE: Size = Size { width: 120, height: 40 };
const LARGE: Size = Size { width: 200, height: 60 };

fn count(name: &str) -> CountId {
    counts().find(|(_, _, count)| count.name == name).expect(name).0
}

fn metric(name: &str) -> MetricId {
    metrics().find(|(_, _, metric)| metric.name == name).expect(name).0
}

/// A TCP flow from 10.0.0.1 with these latencies, each of 50 samples around a value in microseconds.
fn flow(id: u64, peer: u8, ports: [u16; 2], comm: &str, latencies: &[(&str, u64)]) -> Frozen {
    let address = |last| Ipv4Addr::new(10, 0, 0, last).to_ipv6_mapped().octets();
    let key = FlowKey {
        local_addr: address(1),
        peer_addr: address(peer),
        local_port: ports[0],
        peer_port: ports[1],
        netns: 4_026_531_840,
        protocol: 6,
        ..FlowKey::default()
    };
    let mut latencies: Vec<_> = latencies
        .iter()
        .map(|&(name, us)| {
            let mut latency = Latency::default();
            (1..=50).for_each(|nth| latency.record(us * 1_000 * (40 + nth * nth) / 100));
            (metric(name), latency)
        })
        .collect();
    latencies.sort_by_key(|(id, _)| *id);
    Frozen {
        id,
        key,
        role: Some(if ports[1] < 1024 { Role::Client } else { Role::Server }),
        pid: Some(800 + id as u32),
        comm: Some(comm.to_owned()),
        latencies,
        ..Frozen::default()
    }
}

fn counting(flow: Frozen, values: &[(&str, u64)]) -> Frozen {
    let mut counts: Vec<_> = values.iter().map(|&(name, n)| (count(name), n)).collect();
    counts.sort_by_key(|(id, _)| *id);
    Frozen { counts, ..flow }
}

fn flows(nth: u64) -> Vec<Frozen> {
    let client =
        flow(1, 2, [40_000, 443], "curl", &[("send", 12), ("rtt", 800), ("response", 9_000)]);
    let client = counting(
        client,
        &[
            ("sends", 500),
            ("bytes_sent", 1 << 20),
            ("retransmits.fast", 3 * nth),
            ("retransmits.rto", nth / 2),
            ("spent_ns.network_path", 40_000_000),
            ("spent_ns.network_stalls", 300_000_000),
            ("spent_ns.peer_application", 110_000_000),
        ],
    );
    let client = Frozen {
        labelled: vec![((count("drops"), Label::Reason(2)), 7 + nth)],
        srtt_ns: Some(900_000),
        rtt_min_ns: Some(700_000),
        cwnd: Some(10),
        ..client
    };
    let server = counting(flow(2, 9, [8_080, 51_000], "nginx", &[("send", 30)]), &[("sends", 90)]);
    let name = flow(3, 53, [5_353, 53], "evil\u{1b}[2J\u{202e}", &[("dns", 2_000)]);
    let name = counting(name, &[("sends", 2), ("dns.queries", 50), ("dns.unanswered", 2)]);
    let name = Frozen { labelled: vec![((count("dns_answers"), Label::Rcode(3)), 48)], ..name };
    let mut far = flow(4, 1, [443, 61_000], "a-very-long-name", &[("send", 5)]);
    far.key.peer_addr = "2001:db8:1234:5678:9abc:def0:1234:5678"
        .parse::<std::net::Ipv6Addr>()
        .expect("an address")
        .octets();
    vec![client, server, name, counting(far, &[("sends", 1)])]
}

fn node() -> Node {
    let share =
        |cpu, busy_ratio| CpuShare { cpu, busy_ratio, softirq_ratio: 0.05, ..CpuShare::default() };
    let lossy: Snapshot = sample::read("lossy");
    Node {
        cpu: Some(Cpu {
            cpus: 4,
            mean: share(None, 0.312),
            busiest: share(Some(2), 0.87),
            most_softirq: share(Some(1), 0.4),
            runnable: Some(3),
            pressure: None,
        }),
        sockets: vec![Sockets {
            states: States { established: 12, time_wait: 340, listen: 5, ..States::default() },
            ..Sockets::default()
        }],
        interfaces: vec![Interface {
            netns: 4_026_531_840,
            name: "eth0".to_owned(),
            up: true,
            rx_bytes: Some(5 << 20),
            tx_bytes: Some(1 << 20),
            rx_dropped: Some(12),
            ..Interface::default()
        }],
        ..lossy.node
    }
}

fn own() -> Own {
    Own {
        cpu_ns: Some(12_000_000),
        cpu_ratio: Some(0.012),
        resident_bytes: Some(15 << 20),
        samples: Some(12_000),
        samples_per_s: Some(12_000.0),
        programs_cpu_ratio: Some(0.004),
        programs: vec![OwnProgram {
            program: "send_fexit".to_owned(),
            signal: "send".to_owned(),
            runs: 10,
            run_ns: 312,
        }],
        ..Own::default()
    }
}

fn labels() -> Labels {
    Labels { reasons: BTreeMap::from([(2, "NO_SOCKET".to_owned())]), ..Labels::default() }
}

fn found(nth: u64) -> Vec<Finding> {
    let watched = kit::watched(&[kit::flow("f1")]);
    let scope = Scope::backend(Some(7), Ipv4Addr::new(10, 0, 0, 2).into(), 443);
    let loss = Finding::new(&watched, Severity::Critical, scope, "every tenth segment is lost")
        .because("segments are sent again")
        .with(&watched, "retransmit ratio", 0.05 * nth as f64, Unit::Ratio)
        .advise("look at the path")
        .confirm_by("mtr 10.0.0.2");
    let slow = Finding::new(&watched, Severity::Warning, Scope::node("node-1"), "names are slow");
    let now = |finding: Finding, id: &str| Finding { id: id.to_owned(), end: end(nth), ..finding };
    vec![now(loss, "packet-loss"), now(slow, "dns-slow")]
}

fn time(nth: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000 + nth)
}

fn end(nth: u64) -> String {
    crate::snapshot::build::rfc3339(time(nth))
}

fn shot(nth: u64, signals: &[SignalStatus], lost: u64) -> Shot {
    let quiet: Snapshot = sample::read("quiet");
    let mut accounting = quiet.accounting;
    if let Some(account) = accounting.get_mut("send") {
        account.ring_full = lost;
    }
    let interval = Interval { flows: flows(nth), ..Interval::default() };
    let frame = Frame {
        scope: Extent::Interval,
        by: Grouping::Flow,
        start: time(nth - 1),
        end: time(nth),
        host: "node-1",
        kernel: "6.12.48+deb13-amd64",
        labels: &labels(),
        signals,
        filtered: false,
        node: node(),
        own: own(),
        accounting,
        stream: quiet.stream,
    };
    let snapshot = frame.build(&interval);
    let (labels, findings) = (labels(), Some(found(nth)));
    Shot { snapshot, interval, labels, redactor: None, findings, withheld: 0 }
}

fn statuses() -> Vec<SignalStatus> {
    let quiet: Snapshot = sample::read("quiet");
    let of = |definition: &&crate::signal::Definition| SignalStatus {
        signal: definition.signal.name().to_owned(),
        source: Some(definition.sources[0].name.to_owned()),
        status: Status::Full,
        ..quiet.signals[0].clone()
    };
    DEFINITIONS.iter().map(of).collect()
}

fn begin(colours: bool) -> State {
    State::new(Beginning {
        node: "node-1".to_owned(),
        kernel: "6.12.48+deb13-amd64".to_owned(),
        interval: Duration::from_secs(1),
        by: Grouping::Flow,
        sort: Sort::default(),
        colours,
    })
}

/// After some intervals.
fn watching() -> State {
    let mut state = begin(true);
    (1..=8).for_each(|nth| state.take(shot(nth, &statuses(), 0)));
    state
}

fn press(state: &mut State, keys: &str) {
    for key in keys.chars() {
        let key = match key {
            '\n' => Key::Enter,
            '\x1b' => Key::Escape,
            '↓' => Key::Down,
            '↑' => Key::Up,
            key => Key::Char(key),
        };
        assert_eq!(state.press(key, SMALL), None);
    }
}

/// The text of the cells.
fn text(buffer: &Buffer) -> String {
    let rows = buffer.content.chunks(buffer.area.width.into());
    let line = |row: &[ratatui::buffer::Cell]| {
        let mut text = String::new();
        let mut skip = 0;
        for cell in row {
            if skip == 0 {
                text.push_str(cell.symbol());
                skip = format::width(cell.symbol());
            }
            skip = skip.saturating_sub(1);
        }
        text.trim_end().to_owned()
    };
    rows.map(line).collect::<Vec<_>>().join("\n")
}

fn shown(state: &State, size: Size) -> String {
    text(&draw(state, size))
}

#[test]
fn screens_look_as_agreed() {
    insta::assert_snapshot!("beginning", shown(&begin(true), SMALL));
    let mut state = watching();
    insta::assert_snapshot!("flows-80x24", shown(&state, SMALL));
    insta::assert_snapshot!("flows-120x40", shown(&state, MIDDLE));
    insta::assert_snapshot!("flows-200x60", shown(&state, LARGE));
    for (pane, name) in
        [(2, "findings"), (3, "conntrack"), (4, "drops"), (5, "dns"), (6, "node"), (7, "signals")]
    {
        press(&mut state, &pane.to_string());
        insta::assert_snapshot!(name, shown(&state, SMALL));
    }
    press(&mut state, "2\n");
    insta::assert_snapshot!("finding", shown(&state, SMALL));
    press(&mut state, "?");
    insta::assert_snapshot!("help", shown(&state, MIDDLE));
    press(&mut state, "\x1b1\n");
    state.take(shot(9, &statuses(), 0));
    insta::assert_snapshot!("flow", shown(&state, LARGE));
    insta::assert_snapshot!("flow-80x24", shown(&state, SMALL));
    press(&mut state, "\x1bgg/443\n");
    insta::assert_snapshot!("grouped", shown(&state, SMALL));
    press(&mut state, "/nothing");
    insta::assert_snapshot!("typing", shown(&state, SMALL));
    press(&mut state, "\n");
    insta::assert_snapshot!("nothing-found", shown(&state, SMALL));
}

/// The words of a style: where they stand, without their places.
fn styled_as(buffer: &Buffer, is_it: impl Fn(&ratatui::buffer::Cell) -> bool) -> String {
    let cells = buffer.content.iter().filter(|cell| is_it(cell));
    cells.map(ratatui::buffer::Cell::symbol).collect()
}

#[test]
fn loss_is_red_and_said_without_colour() {
    for colours in [true, false] {
        let mut state = begin(colours);
        state.take(shot(1, &statuses(), 7));
        let buffer = draw(&state, SMALL);
        assert!(text(&buffer).contains("LOST since the start: 7 send samples"));
        let red = styled_as(&buffer, |cell| cell.fg == Color::Red);
        assert_eq!(red.contains("LOST since the start"), colours, "{red}");
        let coloured =
            styled_as(&buffer, |cell| cell.fg != Color::Reset || cell.bg != Color::Reset);
        assert_eq!(coloured.is_empty(), !colours, "{coloured}");
    }
}

#[test]
fn a_source_that_is_off_stands_first_and_out() {
    let mut all = statuses();
    let last = all.last_mut().expect("a signal");
    (last.status, last.source) = (Status::Off, None);
    let mut state = begin(true);
    state.take(shot(1, &all, 0));
    let buffer = draw(&state, SMALL);
    assert!(text(&buffer).contains("sources dns:off"), "{}", text(&buffer));
    press(&mut state, "5");
    assert!(shown(&state, SMALL).contains("not known: no source sees"), "{}", shown(&state, SMALL));
}

#[test]
fn a_paused_screen_stands_still_and_then_catches_up() {
    let mut state = watching();
    press(&mut state, "\np");
    let before = shown(&state, SMALL);
    assert!(before.contains("PAUSED"));
    for nth in 9..12 {
        state.take(shot(nth, &statuses(), 0));
    }
    assert_eq!(shown(&state, SMALL), before);
    press(&mut state, "p");
    assert!(shown(&state, SMALL).contains("opened for 4 intervals"), "{}", shown(&state, SMALL));
}

#[test]
fn the_choice_follows_its_flow() {
    let mut state = watching();
    press(&mut state, "↓↓↑");
    assert_eq!(state.cursor(), 1);
    let chosen = |state: &State| {
        let buffer = draw(state, SMALL);
        let is_chosen = |cell: &ratatui::buffer::Cell| {
            cell.modifier.contains(ratatui::style::Modifier::REVERSED)
        };
        styled_as(&buffer, is_chosen)
    };
    assert!(chosen(&state).contains("nginx"), "{}", chosen(&state));
    // By the samples of the metric, by the 99th percentile: the order is another one.
    press(&mut state, "ss");
    assert!(chosen(&state).contains("nginx"), "{}", chosen(&state));
    press(&mut state, "\n");
    assert!(shown(&state, SMALL).contains("f2 10.0.0.1:8080 to 10.0.0.9:51000, server"));
}

#[test]
fn a_filter_is_typed_kept_and_taken_away() {
    let mut state = watching();
    press(&mut state, "/CURL\n");
    assert_eq!(state.rows.as_ref().map(rows::Rows::len), Some(1));
    state.take(shot(9, &statuses(), 0));
    assert_eq!(state.rows.as_ref().map(rows::Rows::len), Some(1));
    press(&mut state, "/x\x1b");
    assert_eq!(state.rows.as_ref().map(rows::Rows::len), Some(1), "as before");
    press(&mut state, "\x1b");
    assert_eq!(state.rows.as_ref().map(rows::Rows::len), Some(4));
}

#[test]
fn keys_ask_for_what_the_edge_does() {
    let mut state = begin(true);
    assert_eq!(state.press(Key::Char('w'), SMALL), None, "there is nothing yet");
    state.take(shot(1, &statuses(), 0));
    assert_eq!(state.press(Key::Char('w'), SMALL), Some(Request::Dump));
    assert_eq!(state.press(Key::Char('q'), SMALL), Some(Request::Quit));
    press(&mut state, "/q");
    assert_eq!(state.press(Key::Interrupt, SMALL), Some(Request::Quit), "also while typing");
}

#[test]
fn what_scrolls_ends_where_it_ends() {
    let mut state = watching();
    press(&mut state, "\n");
    state.press(Key::End, SMALL);
    let last = shown(&state, SMALL);
    assert!(!last.contains("more lines"), "{last}");
    press(&mut state, "↑");
    assert_ne!(shown(&state, SMALL), last);
}

#[test]
fn every_grouping_and_order_can_be_reached() {
    let mut state = watching();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..7 {
        press(&mut state, "g");
        seen.insert(state.order.by.name());
    }
    assert_eq!(seen.len(), 7);
    let first = state.order.sort;
    let mut turns = 0;
    loop {
        press(&mut state, "s");
        turns += 1;
        if state.order.sort == first {
            break;
        }
    }
    assert!((8..20).contains(&turns), "{turns}");
}

/// A key.
fn any_key() -> impl Strategy<Value = Key> {
    prop_oneof![
        proptest::sample::select(
            "123456789sSgGmMpw?/ jkxé\u{202e}\u{1b}".chars().collect::<Vec<_>>()
        )
        .prop_map(Key::Char),
        Just(Key::Enter),
        Just(Key::Escape),
        Just(Key::Up),
        Just(Key::Down),
        Just(Key::PageDown),
        Just(Key::End),
        Just(Key::Home),
        Just(Key::Tab),
        Just(Key::Backspace),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn nothing_that_others_chose_reaches_the_terminal(
        keys in proptest::collection::vec(any_key(), 0..30),
        comm in "\\PC*|.*|[\u{202a}-\u{202e}\u{2066}-\u{2069}\u{200b}-\u{200f}a\u{0}-\u{1f}]*",
        width in 1_u16..220,
        height in 1_u16..70,
    ) {
        let size = Size { width, height };
        let mut state = begin(true);
        for nth in 1..4 {
            let mut shot = shot(nth, &statuses(), nth);
            for flow in &mut shot.interval.flows {
                flow.comm = Some(comm.clone());
            }
            for finding in shot.findings.iter_mut().flatten() {
                finding.title.clone_from(&comm);
                finding.scope.name.clone_from(&comm);
            }
            shot.snapshot.host.clone_from(&comm);
            shot.snapshot.node.interfaces[0].name.clone_from(&comm);
            state.take(shot);
        }
        state.say(comm.clone());
        for key in keys {
            state.press(key, size);
            for cell in &draw(&state, size).content {
                let symbol = cell.symbol();
                prop_assert_eq!(format::sanitised(symbol), symbol);
            }
        }
    }
}
