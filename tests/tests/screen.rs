//! The full screen of `live`, in a terminal: what it shows of real traffic with a fault, what keys do, what `w`
//! writes, and that the terminal comes back however it ends.

use std::{
    fs,
    path::PathBuf,
    process,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use netdiag::snapshot::Snapshot;
use netdiag_tests::{
    facts::Facts,
    fault, hlog, machine,
    namespace::Namespace,
    netdiag::binary,
    network::Pair,
    require,
    requirement::{Feature, alone},
    terminal::Terminal,
    traffic::{
        Connection, Family,
        request::{Exchange, exchange},
    },
};
use rustix::process::{Pid, Signal, kill_process};

const ROUND: Exchange = Exchange { sends: 20, bytes: 20 << 10, echo: true };

/// Requests over four connections, of whose packets one in twelve is lost, for as long as `work` takes.
fn under_loss<T>(pair: &Pair, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let loss = fault::loss(&pair.left, &pair.right, 12)?;
    let end = AtomicBool::new(false);
    let done = thread::scope(|scope| {
        let traffic = scope.spawn(|| -> Result<()> {
            let open = |_| Connection::open(&pair.left, &pair.right, Family::V4);
            let connections = (0..4).map(open).collect::<Result<Vec<_>>>()?;
            while !end.load(Ordering::Relaxed) {
                exchange(connections.iter().map(|connection| (connection, ROUND)))?;
                thread::sleep(Duration::from_millis(50));
            }
            connections.into_iter().try_for_each(Connection::reset)
        });
        let done = work();
        end.store(true, Ordering::Relaxed);
        traffic.join().map_err(|_| anyhow::anyhow!("the traffic panicked"))??;
        done
    });
    loss.end()?;
    done
}

/// The command line of a full screen of a pair.
fn line(namespaces: &[&Namespace], more: &str) -> Result<String> {
    let binary = binary()?.canonicalize()?;
    let names: Vec<_> = namespaces.iter().map(|one| one.inode().to_string()).collect();
    Ok(format!("{} live --netns {} {more}", binary.display(), names.join(",")))
}

fn has(word: &str) -> impl Fn(&str) -> bool + '_ {
    move |screen: &str| screen.contains(word)
}

/// Whether any escape sets a colour (ECMA-48, SGR; 39 and 49 are the terminal's own).
fn has_colours(text: &str) -> bool {
    let sets = |code: &str| {
        let code: u32 = code.parse().unwrap_or(0);
        matches!(code, 30..=38 | 40..=48 | 90..=97 | 100..=107)
    };
    let codes = text.split("\u{1b}[").skip(1).filter_map(|rest| Some(rest.split_once('m')?.0));
    codes.flat_map(|codes| codes.split(';')).any(sets)
}

/// Where captures of the panes go, for the documents.
fn captures() -> Option<PathBuf> {
    std::env::var_os("NETDIAG_CAPTURES").map(PathBuf::from)
}

fn keep(name: &str, screen: &str) -> Result<()> {
    if let Some(directory) = captures() {
        fs::create_dir_all(&directory)?;
        fs::write(directory.join(format!("{name}.txt")), screen)?;
    }
    Ok(())
}

/// Goes through all panes of a screen of that size.
fn look_around(terminal: &Terminal, size: &str, facts: &mut Facts) -> Result<()> {
    // What drops the packets is a firewall, which may be told in place of the loss.
    let is_found =
        |screen: &str| ["packet-loss", "firewall-drop"].iter().any(|id| screen.contains(id));
    let screen = terminal.wait_for("finding", is_found)?;
    keep(&format!("flows-{size}"), &screen)?;
    let kernel = machine::release();
    facts.holds(format_args!("{size}: node, kernel and cost:\n{screen}"), {
        screen.contains(&kernel) && screen.contains("own ") && screen.contains("sources")
    });
    facts.holds(format_args!("{size}: flows with their ends"), screen.contains("10.77.0.2"));
    let widest = screen.lines().map(netdiag::format::width).max();
    facts.note(format_args!("{size}: widest line {widest:?}"));
    let panes = [
        ("2", "findings", "SEVERITY"),
        ("3", "conntrack", "netns"),
        ("4", "drops", "REASON"),
        ("5", "dns", "name was asked"),
        ("6", "node", "TCP sockets"),
        ("7", "signals", "samples since the start"),
    ];
    for (key, name, word) in panes {
        terminal.press(&[key])?;
        // Connection tracking may be off, or of others.
        let shows = |screen: &str| {
            screen.contains(word) || (name == "conntrack" && screen.contains("entries"))
        };
        keep(&format!("{name}-{size}"), &terminal.wait_for(name, shows)?)?;
    }
    terminal.press(&["2", "Enter"])?;
    keep(&format!("finding-{size}"), &terminal.wait_for("all of a finding", has("why: "))?)?;
    terminal.press(&["Escape", "1", "Enter"])?;
    terminal.wait_for("an open flow", has("opened for"))?;
    terminal.wait_for("some intervals of it", |screen| !screen.contains("opened for 1 "))?;
    keep(
        &format!("flow-{size}"),
        &terminal.wait_for("whose time it was", has("whose time it was"))?,
    )?;
    terminal.press(&["Escape", "?"])?;
    keep(&format!("help-{size}"), &terminal.wait_for("help", has("let the screen stand still"))?)?;
    terminal.press(&["Escape", "g"])?;
    terminal.wait_for("groups", has("by peer"))?;
    terminal.press(&["s", "s"])?;
    terminal.wait_for("another order", has("FLOWS"))?;
    terminal.press(&["G", "/"])?;
    terminal.text("nothing of the kind")?;
    terminal.press(&["Enter"])?;
    terminal.wait_for("an empty list", has("none of"))?;
    terminal.press(&["Escape", "p"])?;
    terminal.wait_for("a pause", has("PAUSED"))?;
    terminal.press(&["p"])?;
    terminal.wait_for("no pause", |screen| !screen.contains("PAUSED"))?;
    Ok(())
}

#[test]
fn a_fault_is_seen_at_every_size_and_keys_work() -> Result<()> {
    require!(Feature::Tmux);
    let _alone = alone();
    let pair = Pair::new()?;
    let mut facts = Facts::new();
    under_loss(&pair, || {
        for (columns, lines) in [(80, 24), (120, 40), (200, 60)] {
            let terminal = Terminal::new(columns, lines, &[])?;
            let began = Instant::now();
            terminal.run(&line(&[&pair.left, &pair.right], "")?)?;
            let first = terminal.wait_for("screen", has("watching…"))?;
            keep(&format!("beginning-{columns}x{lines}"), &first)?;
            eprintln!("{columns}x{lines}: there after {:?}", began.elapsed());
            look_around(&terminal, &format!("{columns}x{lines}"), &mut facts)?;
            terminal.press(&["q"])?;
            terminal.wait_for("end", has("complete:"))?;
            let all = terminal.all()?;
            facts.holds(format_args!("the accounting is told:\n{all}"), all.contains("submitted"));
            facts.holds("the usual screen is back", terminal.is_usual()?);
        }
        Ok(())
    })?;
    facts.finish();
    Ok(())
}

#[test]
fn what_is_shown_is_written_on_demand() -> Result<()> {
    require!(Feature::Tmux);
    let _alone = alone();
    let pair = Pair::new()?;
    let terminal = Terminal::new(100, 30, &[("NO_COLOR", "1")])?;
    let mut facts = Facts::new();
    under_loss(&pair, || {
        terminal.run(&line(&[&pair.left], "--out dumps")?)?;
        terminal.wait_for("flows", has("10.77.0.2"))?;
        let coloured = terminal.coloured()?;
        facts.holds(format_args!("NO_COLOR is kept to: {coloured:?}"), !has_colours(&coloured));
        terminal.press(&["p", "w"])?;
        terminal.wait_for("word of it", has("written: dumps/netdiag-"))?;
        terminal.press(&["q"])?;
        terminal.wait_for("end", has("complete:"))?;
        Ok(())
    })?;
    let files = fs::read_dir(terminal.file("dumps"))?;
    let files = files.map(|file| Ok(file?.path())).collect::<Result<Vec<_>>>()?;
    let log = files.iter().find(|file| file.extension().is_some_and(|it| it == "hlog"));
    let log = log.context("no log")?;
    let sidecar = fs::read_to_string(log.with_extension("jsonl"))?;
    let snapshot: Snapshot = serde_json::from_str(sidecar.trim())?;
    let histograms = hlog::read(log)?;
    for flow in &snapshot.flows {
        for (metric, told) in &flow.metrics {
            let tag = format!("{}.{metric}", flow.id);
            let read = histograms.get(&tag).map(|read| (read.len(), read.value_at_quantile(0.99)));
            facts.equal(format_args!("{tag}"), read, Some((told.count, told.p99_ns.unwrap_or(0))));
        }
    }
    facts.holds("there are flows in it", !snapshot.flows.is_empty());
    facts.finish();
    Ok(())
}

/// Neither panes, all of a finding and all of a flow, nor files tell an address, an interface or a process then.
#[test]
fn pseudonyms_stand_on_the_screen_and_in_what_is_written() -> Result<()> {
    const CLEAR: [&str; 3] = ["10.77.0.1", "10.77.0.2", "wire"];
    require!(Feature::Tmux);
    let _alone = alone();
    let pair = Pair::new()?;
    let terminal = Terminal::new(200, 60, &[])?;
    let mut shown = String::new();
    under_loss(&pair, || {
        terminal.run(&line(&[&pair.left, &pair.right], "--redact --out dumps")?)?;
        shown += &terminal.wait_for("flows", has("proc-"))?;
        for (keys, word) in [
            (&["2"][..], "SEVERITY"),
            (&["Enter"], "why: "),
            (&["Escape", "4"], "REASON"),
            (&["6"], "TCP sockets"),
            (&["1", "Enter"], "opened for"),
        ] {
            terminal.press(keys)?;
            shown += &terminal.wait_for(word, has(word))?;
        }
        terminal.press(&["Escape", "p", "w"])?;
        terminal.wait_for("word of it", has("written: dumps/netdiag-"))?;
        terminal.press(&["q"])?;
        terminal.wait_for("end", has("complete:"))?;
        Ok(())
    })?;
    let mut written = String::new();
    for file in fs::read_dir(terminal.file("dumps"))? {
        written += &String::from_utf8_lossy(&fs::read(file?.path())?);
    }
    let comm = fs::read_to_string("/proc/self/comm")?;
    // As text and as JSON have it.
    let own = [format!("{}/{}", comm.trim(), process::id()), format!("\"{}\"", comm.trim())];
    let mut facts = Facts::new();
    for (what, text, kinds) in
        [("shown", shown, &["proc-", "interface-"][..]), ("written", written, &["proc-"])]
    {
        // An address may be the beginning of another one.
        let words: Vec<_> = text.split(|c: char| !(c.is_alphanumeric() || c == '.')).collect();
        let mut told: Vec<&str> = CLEAR.into_iter().filter(|clear| words.contains(clear)).collect();
        told.extend(own.iter().map(String::as_str).filter(|name| text.contains(name)));
        facts.equal(format_args!("{what}: told"), told, vec![]);
        let are_there = kinds.iter().all(|kind| text.contains(kind));
        facts.holds(format_args!("{what}: pseudonyms\n{text}"), are_there);
    }
    facts.finish();
    Ok(())
}

/// How a run ends.
type End = (&'static str, fn(&Terminal, u32) -> Result<()>);

fn signalled(pid: u32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(pid.cast_signed()).context("no process")?;
    Ok(kill_process(pid, signal)?)
}

#[test]
fn the_terminal_comes_back_however_it_ends() -> Result<()> {
    require!(Feature::Tmux);
    let _alone = alone();
    let own = Namespace::new("screen")?;
    let line = line(&[&own], "")?;
    let ends: [End; 6] = [
        ("q", |terminal, _| terminal.press(&["q"])),
        ("^C", |terminal, _| terminal.press(&["C-c"])),
        ("SIGTERM", |_, pid| signalled(pid, Signal::TERM)),
        ("SIGINT", |_, pid| signalled(pid, Signal::INT)),
        ("SIGHUP", |_, pid| signalled(pid, Signal::HUP)),
        ("SIGTERM, twice", |_, pid| {
            signalled(pid, Signal::TERM)?;
            thread::sleep(Duration::from_millis(5));
            // It may have ended.
            let _gone = signalled(pid, Signal::TERM);
            Ok(())
        }),
    ];
    let mut facts = Facts::new();
    for (name, end) in ends {
        let terminal = Terminal::new(80, 24, &[])?;
        let before = terminal.settings()?;
        let pid = terminal.start(&line)?;
        terminal.wait_for("an interval", has("sources"))?;
        facts.holds(format_args!("{name}: it is another screen"), !terminal.is_usual()?);
        end(&terminal, pid)?;
        let screen = terminal.wait_for(&format!("its end by {name}"), has("ended with 0"))?;
        facts.holds(format_args!("{name}: the accounting\n{screen}"), screen.contains("complete:"));
        facts.holds(format_args!("{name}: the usual screen and cursor"), terminal.is_usual()?);
        facts.equal(format_args!("{name}: settings"), terminal.settings()?, before);
    }
    facts.finish();
    Ok(())
}

#[test]
fn the_terminal_comes_back_before_a_panic_is_told() -> Result<()> {
    require!(Feature::Tmux);
    let terminal = Terminal::new(80, 24, &[])?;
    let before = terminal.settings()?;
    terminal.start(env!("CARGO_BIN_EXE_panic_on_screen"))?;
    terminal.wait_for("screen", has("half a scr"))?;
    let screen = terminal.wait_for("end", has("ended with 1"))?;
    ensure!(screen.contains("as it is drawn") && !screen.contains("half a scr"), "{screen}");
    ensure!(terminal.is_usual()?, "another screen is left, or no cursor");
    ensure!(terminal.settings()? == before, "settings are left");
    Ok(())
}

/// What is wrong before anything is watched is said where it can be read; others have the plain table.
#[test]
fn a_plain_table_is_had_by_a_flag_and_without_a_terminal() -> Result<()> {
    require!(Feature::Tmux);
    let _alone = alone();
    let own = Namespace::new("screen")?;
    let mut facts = Facts::new();
    let runs = [
        ("--plain", "--plain -d 1s"),
        ("a pipe", "-d 1s | cat"),
        ("no input", "-d 1s < /dev/null"),
        ("TERM=dumb", "-d 1s"),
    ];
    for (nth, (name, more)) in runs.into_iter().enumerate() {
        let before = if name.starts_with("TERM") { "TERM=dumb " } else { "" };
        let line = line(&[&own], more)?;
        let terminal = Terminal::new(80, 24, &[])?;
        terminal.run(&format!("{before}{line}; echo run {nth} ended with $?"))?;
        terminal.wait_for("end", has(&format!("run {nth} ended with 0")))?;
        let all = terminal.all()?;
        facts.holds(format_args!("{name}:\n{all}"), all.contains("no flow was active"));
    }
    let binary = binary()?.canonicalize()?;
    let terminal = Terminal::new(80, 24, &[])?;
    let refused = format!("{} live --netns nosuch", binary.display());
    terminal.run(&format!("clear; {refused}; echo refused with $?"))?;
    let screen = terminal.wait_for("refusal", has("refused with 2"))?;
    facts.holds(format_args!("a refusal:\n{screen}"), {
        screen.contains("nosuch") && terminal.is_usual()?
    });
    facts.finish();
    Ok(())
}
