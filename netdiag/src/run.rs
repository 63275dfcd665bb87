//! The one loop that sees all parts: clocks, signals of the system and output live here.

use std::{
    io::{self, Write as _},
    mem,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result};

use self::output::Wanted;
use crate::{
    cli::{self, Asked},
    config::{CaptureTo, Command, Config, Watch},
    exit::{self, Status},
    node::{own, vantage},
    sandbox::{self, Purpose},
    snapshot::redact::Redactor,
};

mod budget;
mod capture;
mod diagnose;
mod diagnostics;
mod doctor;
mod events;
mod feed;
pub mod full_screen;
mod intake;
mod keep;
mod limit;
mod listening;
mod node;
mod observer;
mod otlp;
mod output;
mod pace;
mod recordings;
mod refresh;
mod report;
mod reporter;
mod scrape;
mod screen;
mod sieve;
mod stop;
mod teller;
mod terminal;
mod trouble;
mod unwound;
mod usage;
mod voice;
mod wall;
mod watch;
mod writer;

/// Longer than any run.
const FOR_EVER: Duration = Duration::from_secs(1 << 32);

/// Entry of the binary: parses, runs, and says in one line what went wrong.
#[must_use]
pub fn main() -> ExitCode {
    own::keep_memory_small();
    let ended = unwound::caught(run);
    // Whatever is said now is to be read.
    full_screen::end();
    let status = match ended {
        Ok(status) => status.into(),
        Err(error) => {
            let (status, line) = exit::explain(&error);
            if let Some(line) = line {
                voice::say_whole(&line);
            }
            status.into()
        }
    };
    voice::finish();
    status
}

fn run() -> Result<Status> {
    let cli = match cli::parse_for(std::env::args_os(), terminal::shows_colours())? {
        Asked::Run(cli) => cli,
        Asked::Print(text) => {
            io::stdout().write_all(text.as_bytes())?;
            return Ok(Status::Ran);
        }
    };
    let found = vantage::host_root(Path::new(vantage::USUAL));
    let config = Config::new(&cli, &found)?;
    // Before the first line is said, which takes a thread.
    let mut lacking = Vec::new();
    if config.kernel.sandbox {
        lacking = sandbox::begin(purpose(&config.command));
    }
    let watches = config.command.watches();
    if watches {
        lacking.iter().for_each(|line| voice::say(line));
    }
    if watches && config.kernel.finds_host_root {
        vantage::taken(&found).iter().for_each(|line| voice::say(line));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // What is there once need not be had again: a node in trouble may have no more threads to give.
        .thread_keep_alive(FOR_EVER)
        .on_thread_start(sandbox::on_thread)
        .build()
        .context("the runtime cannot be started")?;
    let run = async {
        match &config.command {
            // It shows them itself.
            Command::Doctor(form) => doctor::run(&config.kernel, *form, mem::take(&mut lacking)),
            Command::Events(watch, tell) => events::run(&config.kernel, watch, tell).await,
            Command::Live(watch, live) => {
                watch::run(&config.kernel, watch, screen::wanted(watch, live)).await
            }
            Command::Record(watch, dump) => {
                watch::run(&config.kernel, watch, Wanted::Record(dump.clone())).await
            }
            Command::Diagnose(watch, diagnose) => {
                watch::run(&config.kernel, watch, Wanted::Diagnose(diagnose.clone())).await
            }
            Command::Report(report) => report::run(report),
            Command::DiagnoseFrom(from, form, diagnose) => {
                let redactor = config.kernel.redact.then(Redactor::default);
                diagnose::from(from, *form, diagnose, redactor.as_ref())
            }
        }
    };
    let status = panic::catch_unwind(AssertUnwindSafe(|| runtime.block_on(run)));
    // A refusal is one line; and `report` wants to be alone until its memory is set up.
    if !watches && matches!(status, Ok(Ok(_))) {
        lacking.iter().for_each(|line| voice::say(line));
    }
    // A thread that waits for an output that stands still must not keep the process.
    runtime.shutdown_background();
    status.unwrap_or_else(|payload| panic::resume_unwind(payload))
}

/// What a command needs of its privileges.
fn purpose(command: &Command) -> Purpose<'_> {
    let watches = |watch: &Watch, writes| Purpose::Watches {
        writes,
        listens: watch.metrics.as_ref().is_some_and(|metrics| metrics.listen.is_some()),
    };
    match command {
        Command::Live(watch, live) => {
            watches(watch, screen::is_wanted(watch, live).then_some(live.out.as_path()))
        }
        Command::Diagnose(watch, _) => watches(watch, None),
        Command::Events(watch, tell) => {
            watches(watch, tell.pcap.as_ref().and_then(CaptureTo::file))
        }
        Command::Record(watch, dump) => watches(watch, Some(&dump.out)),
        Command::Doctor(_) => Purpose::Watches { writes: None, listens: false },
        Command::DiagnoseFrom(from, ..) => {
            Purpose::Reads { from: vec![from.as_path()], writes: None }
        }
        Command::Report(report) => Purpose::Reads {
            from: report.paths.iter().map(PathBuf::as_path).collect(),
            writes: report.html.as_deref(),
        },
    }
}
