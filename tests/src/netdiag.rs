//! The netdiag binary as a user runs it: arguments in, lines out, signals to it.

use std::{
    env,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::PathBuf,
    process::{Command, ExitStatus, Output, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::{
    pipe::fcntl_setpipe_size,
    process::{Pid, Signal, kill_process},
};

use crate::{
    child::Own,
    gate::Gate,
    machine::{self, patience},
    outcome::Outcome,
    tool,
};

/// Line on standard error by which netdiag says that all its programs are attached.
pub const READY: &str = "netdiag: ready";

/// Where the binary is: `NETDIAG_BIN`, else what cargo built last, else `/usr/bin/netdiag`.
///
/// # Errors
/// When there is none.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("NETDIAG_BIN") {
        return Ok(path.into());
    }
    let executable = env::current_exe()?;
    ["release/netdiag", "debug/netdiag", "netdiag"]
        .iter()
        .flat_map(|place| executable.ancestors().skip(1).map(move |above| above.join(place)))
        .filter(|path| path.is_file())
        // A stale one beside it would be tested in silence.
        .max_by_key(|path| path.metadata().and_then(|metadata| metadata.modified()).ok())
        .or_else(|| Some(PathBuf::from("/usr/bin/netdiag")).filter(|path| path.is_file()))
        .context("no netdiag binary: build it or name it in NETDIAG_BIN")
}

/// A command for the binary, for runs that end by themselves.
///
/// # Errors
/// When there is none.
pub fn command(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(binary()?);
    command.args(arguments).stdin(Stdio::null());
    Ok(command)
}

/// A command for the binary without a capability, which setpriv(1) takes from it: `syslog` for
/// CAP_SYSLOG.
///
/// # Errors
/// When there is no binary, or no setpriv.
pub fn command_without(capability: &str, arguments: &[&str]) -> Result<Command> {
    let mut command = tool::command("setpriv")?;
    for set in ["bounding-set", "inh-caps"] {
        command.arg(format!("--{set}=-{capability}"));
    }
    command.arg(binary()?).args(arguments).stdin(Stdio::null());
    Ok(command)
}

/// Runs it to its end.
///
/// # Errors
/// When it cannot be started or goes on for longer than anyone waits.
pub fn run(arguments: &[&str]) -> Result<Output> {
    run_command(command(arguments)?)
}

/// Runs a command, such as one of [`command`] with another environment, to its end.
///
/// # Errors
/// As for [`run`].
pub fn run_command(mut command: Command) -> Result<Output> {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let pid = Pid::from_child(&child);
    let (done, finished) = channel();
    let waiter = thread::spawn(move || {
        let output = child.wait_with_output();
        let _ = done.send(());
        output
    });
    let in_time = finished.recv_timeout(patience()).is_ok();
    if !in_time {
        kill_process(pid, Signal::KILL)?;
    }
    let output =
        waiter.join().map_err(|_| anyhow::anyhow!("waiting for {command:?} panicked"))??;
    ensure!(in_time, "{command:?} did not end; it said {output:?}");
    Ok(output)
}

enum Line {
    Out(String),
    Err(String),
}

/// A running netdiag; killed when dropped.
#[derive(Debug)]
pub struct Netdiag {
    child: Own,
    lines: Receiver<Line>,
    out: Vec<String>,
    err: Vec<String>,
    ended: bool,
    output: Gate,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Out(text) | Self::Err(text) => f.write_str(text),
        }
    }
}

impl Netdiag {
    /// `netdiag live -o json -i 1s` with an end far away and more arguments, ready: every program
    /// is attached and every older socket known.
    ///
    /// # Errors
    /// When it ends or stays silent instead.
    pub fn live(arguments: &[&str]) -> Result<Self> {
        let mut all = vec!["live", "-o", "json", "-i", "1s", "-d", "10h"];
        all.extend(arguments);
        Self::start(&all)
    }

    /// [`Self::live`] of one signal alone, by the source that is forced by this `--source` argument:
    /// half as much to load.
    ///
    /// # Errors
    /// As for [`Self::live`].
    pub fn live_by(forced: &str, arguments: &[&str]) -> Result<Self> {
        let (signal, _) = forced.split_once('=').context("no --source argument")?;
        let mut all = vec!["--signals", signal, "--source", forced];
        all.extend(arguments);
        Self::live(&all)
    }

    /// netdiag with these arguments, ready.
    ///
    /// # Errors
    /// When it ends or stays silent instead.
    pub fn start(arguments: &[&str]) -> Result<Self> {
        Self::start_by(command(arguments)?)
    }

    /// netdiag with these arguments, as soon as the process is there.
    ///
    /// # Errors
    /// When there is none.
    pub fn begin(arguments: &[&str]) -> Result<Self> {
        Self::begin_by(command(arguments)?)
    }

    /// A command, such as one of [`command_without`], ready.
    ///
    /// # Errors
    /// When it ends or stays silent instead.
    pub fn start_by(command: Command) -> Result<Self> {
        let mut netdiag = Self::begin_by(command)?;
        netdiag.wait_said(READY)?;
        Ok(netdiag)
    }

    /// A command, as soon as the process is there.
    ///
    /// # Errors
    /// When there is none.
    pub fn begin_by(mut command: Command) -> Result<Self> {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map(Own::from)
            .with_context(|| format!("start {command:?}"))?;
        let (sender, lines) = channel();
        let stdout = child.stdout.take().context("standard output")?;
        let stderr = child.stderr.take().context("standard error")?;
        // As small as it gets (`pipe(7)`), so that little is in it when nobody reads.
        fcntl_setpipe_size(&stdout, 4096)?;
        let output = Gate::default();
        forward(output.reader(stdout), sender.clone(), Line::Out);
        forward(stderr, sender, Line::Err);
        Ok(Self { child, lines, out: Vec::new(), err: Vec::new(), ended: false, output })
    }

    /// The gate that its standard output is read through.
    #[must_use]
    pub const fn output(&self) -> &Gate {
        &self.output
    }

    /// Waits until it says something on standard error.
    ///
    /// # Errors
    /// When it ends or stays silent instead.
    pub fn wait_said(&mut self, words: &str) -> Result<()> {
        self.wait_for(&format!("{words:?}"), |this| this.err.iter().any(|l| l.contains(words)))
    }

    /// Waits until it is ready or has ended; whether it is ready.
    ///
    /// # Errors
    /// When it does neither.
    pub fn wait_ready_or_ended(&mut self) -> Result<bool> {
        let is_ready = |this: &Self| this.err.iter().any(|line| line == READY);
        self.wait_for("being ready, or its end", |this| is_ready(this) || this.ended)?;
        Ok(is_ready(self))
    }

    /// Waits until a line on standard output has these words.
    ///
    /// # Errors
    /// When it ends or stays silent instead.
    pub fn wait_printed(&mut self, words: &str) -> Result<()> {
        self.wait_for(&format!("{words:?}"), |this| this.out.iter().any(|l| l.contains(words)))
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(Pid::from_child(&self.child), signal)?;
        Ok(())
    }

    /// Waits for `count` more lines on standard output, one per interval.
    ///
    /// # Errors
    /// When it ends or stays silent instead.
    pub fn wait_lines(&mut self, count: usize) -> Result<()> {
        while let Ok(line) = self.lines.try_recv() {
            self.take(line);
        }
        let wanted = self.out.len() + count;
        self.wait_for("a line per interval", |this| this.out.len() >= wanted)
    }

    /// Waits until there are `count` lines on standard output in all.
    ///
    /// # Errors
    /// When it ends or stays silent instead.
    pub fn wait_lines_in_all(&mut self, count: usize) -> Result<()> {
        self.wait_for("its lines", |this| this.out.len() >= count)
    }

    /// Waits until what it said so far satisfies `satisfied`.
    ///
    /// # Errors
    /// When it ends or stays silent instead.
    pub fn wait_outcome(&mut self, what: &str, satisfied: impl Fn(&Outcome) -> bool) -> Result<()> {
        self.wait_for(what, |this| {
            Outcome::parse(None, &this.out, &this.err).is_ok_and(|outcome| satisfied(&outcome))
        })
    }

    /// Hands over the lines that are on standard output so far, which nobody finds here any more: of a long run there
    /// are more than there is room for.
    pub fn take_printed(&mut self) -> Vec<String> {
        while let Ok(line) = self.lines.try_recv() {
            self.take(line);
        }
        std::mem::take(&mut self.out)
    }

    /// Where it serves metrics, which it says before it is ready.
    ///
    /// # Errors
    /// When it does not.
    pub fn metrics_at(&self) -> Result<SocketAddr> {
        let told = self.err.iter().find_map(|line| line.split_once("metrics are at http://"));
        let (_, address) = told.with_context(|| format!("no address: {:?}", self.err))?;
        Ok(address.trim_end_matches("/metrics").parse()?)
    }

    /// Interrupts it as ^C does and returns what it said in its whole life.
    ///
    /// # Errors
    /// When it does not end, or a line is no JSON of its schema.
    pub fn stop(mut self) -> Result<Outcome> {
        self.signal(Signal::INT)?;
        self.wait_end()
    }

    /// Waits until it ends by itself and returns what it said.
    ///
    /// # Errors
    /// When it does not end, or a line is no JSON of its schema.
    pub fn wait(mut self) -> Result<Outcome> {
        self.wait_end()
    }

    /// Waits until the process ends, whoever reads its standard output; how, and standard error.
    ///
    /// # Errors
    /// When it does not end.
    pub fn wait_status(mut self) -> Result<(ExitStatus, Vec<String>)> {
        let mut status = None;
        machine::wait_until(|| {
            status = self.child.try_wait().ok().flatten();
            status.is_some()
        });
        let status = status.context("netdiag does not end")?;
        self.output.open();
        self.wait_for("its last words", |this| this.ended)?;
        Ok((status, std::mem::take(&mut self.err)))
    }

    fn wait_end(&mut self) -> Result<Outcome> {
        self.wait_for("its end", |this| this.ended)?;
        let status = self.child.wait()?;
        self.outcome(Some(status))
    }

    /// Interrupts it and returns its lines as they are: how it ended, standard output, standard
    /// error.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop_text(self) -> Result<(ExitStatus, Vec<String>, Vec<String>)> {
        self.signal(Signal::INT)?;
        self.wait_text()
    }

    /// Waits until it ends by itself and returns its lines as they are: how it ended, standard output,
    /// standard error.
    ///
    /// # Errors
    /// When it does not end.
    pub fn wait_text(mut self) -> Result<(ExitStatus, Vec<String>, Vec<String>)> {
        self.wait_for("its end", |this| this.ended)?;
        let status = self.child.wait()?;
        Ok((status, std::mem::take(&mut self.out), std::mem::take(&mut self.err)))
    }

    /// Stops its execution (SIGSTOP) and waits until it stands still.
    ///
    /// # Errors
    /// When it does not.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)?;
        let path = format!("/proc/{}/stat", self.pid());
        let stopped = machine::wait_until(|| {
            let stat = std::fs::read_to_string(&path).unwrap_or_default();
            stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
        });
        ensure!(stopped, "netdiag does not stop");
        Ok(())
    }

    /// What it said so far.
    ///
    /// # Errors
    /// When a line is no JSON of its schema.
    pub fn outcome(&mut self, status: Option<ExitStatus>) -> Result<Outcome> {
        while let Ok(line) = self.lines.try_recv() {
            self.take(line);
        }
        Outcome::parse(status, &self.out, &self.err)
    }

    fn take(&mut self, line: Line) {
        match line {
            Line::Out(text) => self.out.push(text),
            Line::Err(text) => self.err.push(text),
        }
    }

    fn wait_for(&mut self, what: &str, done: impl Fn(&Self) -> bool) -> Result<()> {
        let start = Instant::now();
        while !done(self) {
            let left = patience().saturating_sub(start.elapsed());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.take(line),
                Err(RecvTimeoutError::Disconnected) if !self.ended => self.ended = true,
                Err(_) => bail!(
                    "netdiag {} while waiting for {what}; it said on standard error:\n{}\n\
                     and {} lines on standard output",
                    if self.ended { "ended" } else { "went silent" },
                    self.err.join("\n"),
                    self.out.len()
                ),
            }
        }
        Ok(())
    }
}

fn forward(
    from: impl std::io::Read + Send + 'static,
    to: Sender<Line>,
    kind: impl Fn(String) -> Line + Send + 'static,
) {
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if to.send(kind(line)).is_err() {
                break;
            }
        }
    });
}
