//! What happens on the node meanwhile: scenarios of the lab, random flows, ports that are used again, namespaces that
//! come and go, packets that are lost, names that are asked for, interfaces that get other names.

use std::{
    collections::BTreeMap,
    iter,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{
    dns::{self, Query},
    lab::{Needs, Scenario, Values, scenario::SCENARIOS, stage::Stage},
    namespace::Namespace,
    network::{Pair, RIGHT_V4},
    random::Random,
    traffic::{
        Connection, FAMILIES, lossy,
        request::{Exchange, exchange},
        storm::{few_ports, storm},
    },
};

/// A kind of load.
type Load = fn(&mut Ground<'_>) -> Result<()>;

const LOADS: [(&str, Load); 7] = [
    ("scenario", scenario),
    ("flows", flows),
    ("ports again", ports),
    ("namespaces", namespaces),
    ("loss", losses),
    ("names", names),
    ("renamed", renamed),
];

/// Between two looks at whether it is over, and behind a failure.
const PAUSE: Duration = Duration::from_millis(50);

/// How often each kind ran, and how often it failed.
#[derive(Debug, Default)]
pub(super) struct Driven {
    pub(super) runs: BTreeMap<&'static str, u64>,
    pub(super) failed: u64,
}

impl Driven {
    pub(super) fn add(&mut self, more: &Self) {
        for (&name, runs) in &more.runs {
            *self.runs.entry(name).or_default() += runs;
        }
        self.failed += more.failed;
    }
}

/// Where loads follow one another.
struct Ground<'a> {
    /// By which its stages are known; from 1 on.
    number: u8,
    random: Random,
    over: &'a AtomicBool,
    until: Instant,
}

/// Lets one load follow another, each for so long at most, until it is over.
pub(super) fn drive(number: u8, random: Random, longest: Duration, over: &AtomicBool) -> Driven {
    let mut ground = Ground { number, random, over, until: Instant::now() };
    let mut driven = Driven::default();
    let mut waiting: Vec<(&'static str, Load)> = Vec::new();
    while !over.load(Ordering::Relaxed) {
        // Each of them before any comes again.
        if waiting.is_empty() {
            waiting.extend(LOADS);
        }
        let (name, load) = waiting.swap_remove(ground.random.index(waiting.len()));
        let least = longest / 4;
        ground.until = Instant::now() + least + ground.random.up_to(longest - least);
        *driven.runs.entry(name).or_default() += 1;
        if let Err(error) = load(&mut ground) {
            eprintln!("load {name}: {error:#}");
            driven.failed += 1;
            thread::sleep(PAUSE);
        }
    }
    driven
}

impl Ground<'_> {
    /// Whether the time of the load has come.
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed) || Instant::now() > self.until
    }

    fn stay(&self) {
        while !self.is_over() {
            thread::sleep(PAUSE);
        }
    }

    /// Some sends of some bytes, answered or not.
    fn some(&mut self) -> Exchange {
        let echo = self.random.below(4) > 0;
        let bytes = [1, 100, 1_000, 20_000][self.random.index(4)];
        Exchange { sends: 1 + self.random.index(30), bytes, echo }
    }
}

/// A scenario of the lab, or its twin, that any machine can have. What only one can have at a time is the first
/// ground's.
fn scenario(ground: &mut Ground<'_>) -> Result<()> {
    let can =
        |it: &&Scenario| it.needs == Needs::Nothing && (it.takes.is_none() || ground.number == 1);
    let all: Vec<&Scenario> = SCENARIOS.iter().copied().filter(can).collect();
    let scenario = all[ground.random.index(all.len())];
    let twin = scenario.has_twin() && ground.random.below(2) == 0;
    let values = Values::draw(scenario.parameters, twin, &mut ground.random);
    let name = format!("{} {values}", scenario.name);
    let random = Random::of(ground.random.below(u64::MAX));
    let mut stage = Stage::new(ground.number, random)?;
    (scenario.set)(&mut stage, &values).with_context(|| name.clone())?;
    stage.watched();
    ground.stay();
    stage.end().context(name)?;
    Ok(())
}

/// Connections of all families, with exchanges of any size, ended by close or by reset.
fn flows(ground: &mut Ground<'_>) -> Result<()> {
    let pair = Pair::new()?;
    while !ground.is_over() {
        let number = 1 + ground.random.index(12);
        let families = FAMILIES.into_iter().cycle().take(number);
        let open = |family| Connection::open(&pair.left, &pair.right, family);
        let connections: Vec<_> = families.map(open).collect::<Result<_>>()?;
        let plans: Vec<_> = iter::repeat_with(|| ground.some()).take(number).collect();
        exchange(connections.iter().zip(plans))?;
        for connection in connections {
            if ground.random.below(2) == 0 {
                connection.reset()?;
            }
        }
    }
    Ok(())
}

/// Hundreds of connections a second, over a handful of ports.
fn ports(ground: &mut Ground<'_>) -> Result<()> {
    const PORTS: u16 = 63;
    let namespace = Namespace::new("ports")?;
    few_ports(&namespace, 40_000, 40_000 + PORTS)?;
    while !ground.is_over() {
        storm(&namespace, 500, ground.until)?;
    }
    Ok(())
}

/// Namespaces that go while connections are in them.
fn namespaces(ground: &mut Ground<'_>) -> Result<()> {
    let mut kept = Vec::new();
    while !ground.is_over() {
        let pair = Pair::new()?;
        let family = FAMILIES[ground.random.index(FAMILIES.len())];
        let connection = Connection::open(&pair.left, &pair.right, family)?;
        exchange([(&connection, ground.some())])?;
        kept.push(connection);
        drop(pair);
        if kept.len() > 4 {
            kept.remove(0);
        }
        thread::sleep(ground.random.up_to(Duration::from_millis(500)));
    }
    Ok(())
}

fn losses(ground: &mut Ground<'_>) -> Result<()> {
    let pair = Pair::new()?;
    while !ground.is_over() {
        lossy::data(&pair)?;
    }
    Ok(())
}

fn names(ground: &mut Ground<'_>) -> Result<()> {
    let pair = Pair::new()?;
    let server = dns::Server::start(&pair.right, RIGHT_V4.into())?;
    while !ground.is_over() {
        // Over TCP now and then, each time from another port.
        let query = Query::new(ground.random.below(1 << 16) as u16, ground.random.below(6) as u8);
        if ground.random.below(8) == 0 {
            let mut connection = dns::connect(&pair.left, server.address)?;
            dns::ask_by_tcp(&mut connection, &query, false)?;
        } else {
            let socket = dns::client(&pair.left, server.address)?;
            dns::ask(&socket, server.address, &query)?;
        }
        thread::sleep(ground.random.up_to(Duration::from_millis(20)));
    }
    Ok(())
}

/// An interface that gets another name, and the old one back, with connections over it.
fn renamed(ground: &mut Ground<'_>) -> Result<()> {
    let pair = Pair::new()?;
    let connection = Connection::open(&pair.left, &pair.right, FAMILIES[0])?;
    while !ground.is_over() {
        for [from, to] in [["wire", "renamed"], ["renamed", "wire"]] {
            // A name is given to what is down; IPv4 addresses stay.
            pair.left.ip(&format!("link set {from} down"))?;
            pair.left.ip(&format!("link set {from} name {to}"))?;
            pair.left.ip(&format!("link set {to} up"))?;
            exchange([(&connection, ground.some())])?;
        }
    }
    Ok(())
}
