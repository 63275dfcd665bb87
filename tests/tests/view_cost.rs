//! What the full screen takes of a processor with many flows: the thread that draws, by the kernel's word.

use std::{
    env,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use netdiag_tests::{
    facts::Facts,
    namespace::Namespace,
    netdiag::binary,
    network::Pair,
    require,
    requirement::{Feature, alone},
    terminal::Terminal,
    traffic::{Connection, Family, read_bytes, send_once},
    usage,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Of the connections so many have a request and an answer each second.
const ACTIVE_OF_TEN: usize = 4;

/// Requests and answers in turn, a tenth of a second's at a time, until it is to end.
fn talk(connections: &[Connection], end: &AtomicBool) -> Result<()> {
    let each = (connections.len() * ACTIVE_OF_TEN).div_ceil(100);
    let mut turn = connections.iter().cycle();
    while !end.load(Ordering::Relaxed) {
        let next = Instant::now() + Duration::from_millis(100);
        for Connection { client, server, .. } in turn.by_ref().take(each) {
            send_once(client, b"question")?;
            read_bytes(server, 8)?;
            send_once(server, b"answer")?;
            read_bytes(client, 6)?;
        }
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

/// `NETDIAG_FLOWS=10000` gives the figure of the documents, and holds it to its bound; fewer flows only show that it is
/// measured.
#[test]
fn many_flows_cost_little() -> Result<()> {
    const MOST: f64 = 0.03;
    require!(Feature::Tmux);
    let _alone = alone();
    let wanted = env::var("NETDIAG_FLOWS").ok().and_then(|flows| flows.parse::<usize>().ok());
    let flows = wanted.unwrap_or(400);
    let limit = getrlimit(Resource::Nofile);
    let sockets = flows as u64 + 500;
    // None is no limit.
    let maximum = limit.maximum.map(|most| most.max(sockets));
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .with_context(|| format!("{sockets} sockets"))?;
    let pair = Pair::new()?;
    let open = |_| Connection::open(&pair.left, &pair.right, Family::V4);
    let connections = (0..flows / 2).map(open).collect::<Result<Vec<_>>>()?;
    let end = AtomicBool::new(false);
    let (share, screen) = thread::scope(|scope| -> Result<_> {
        let talking = scope.spawn(|| talk(&connections, &end));
        let measured = measured(&pair);
        end.store(true, Ordering::Relaxed);
        talking.join().map_err(|_| anyhow::anyhow!("the traffic panicked"))??;
        measured
    })?;
    eprintln!("{flows} flows: drawing takes {:.2} % of a processor", share * 100.0);
    let mut facts = Facts::new();
    facts.holds(format_args!("flows are shown:\n{screen}"), screen.contains("10.77.0.2"));
    facts.holds(format_args!("{share} of a processor"), share > 0.0);
    if wanted.is_some() {
        facts.holds(format_args!("{share} is at most {MOST}"), share <= MOST);
    }
    facts.finish();
    connections.into_iter().try_for_each(Connection::reset)
}

/// Part of the time that the thread took which draws, and what it had drawn at the end.
fn measured(pair: &Pair) -> Result<(f64, String)> {
    /// Until courses are as long as they become on the screen.
    const SETTLE: Duration = Duration::from_secs(10);
    const TIME: Duration = Duration::from_secs(20);
    let [left, right] = [&pair.left, &pair.right].map(Namespace::inode);
    let terminal = Terminal::new(120, 40, &[])?;
    let binary = binary()?.canonicalize()?;
    let pid = terminal.start(&format!("{} live --netns {left},{right}", binary.display()))?;
    terminal.wait_for("flows", |screen| screen.contains("10.77.0.2"))?;
    let (settle, time) = if env::var_os("NETDIAG_FLOWS").is_some() {
        (SETTLE, TIME)
    } else {
        (Duration::ZERO, TIME / 10)
    };
    thread::sleep(settle);
    let (began, before) = (Instant::now(), usage::thread_time(pid, "screen")?);
    thread::sleep(time);
    let took = usage::thread_time(pid, "screen")? - before;
    let share = took.as_secs_f64() / began.elapsed().as_secs_f64();
    let screen = terminal.screen()?;
    terminal.press(&["q"])?;
    terminal.wait_for("end", |screen| screen.contains("ended with 0"))?;
    Ok((share, screen))
}
