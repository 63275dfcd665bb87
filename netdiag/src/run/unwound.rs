//! Where something panics: the run ends, and that is said as any other failure.

use std::panic;

use anyhow::Result;

use crate::exit::{self, Status};

/// What `run` returns, or what is said where it panicked.
///
/// # Errors
/// Those of `run`, and [`Status::Failed`].
pub(super) fn caught(run: fn() -> Result<Status>) -> Result<Status> {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        // That is no bug, and a line about it follows.
        if !info.payload_as_str().is_some_and(lacks_thread) {
            usual(info);
        }
    }));
    panic::catch_unwind(run).unwrap_or_else(|payload| {
        let told = payload.downcast_ref::<String>().map(String::as_str);
        Err(error(told.or(payload.downcast_ref::<&str>().copied()).unwrap_or("no reason is told")))
    })
}

fn error(told: &str) -> anyhow::Error {
    let next = if lacks_thread(told) {
        "nothing is observed; raise the limit of processes and threads (`ulimit -u`, pids.max of the cgroup, kernel.threads-max)"
    } else {
        "netdiag broke down, so the run ends; report it with the lines above"
    };
    exit::Error::new(Status::Failed, format!("{told}: {next}")).into()
}

/// Whether that is what the standard library or tokio say where the kernel gives no thread.
fn lacks_thread(told: &str) -> bool {
    told.contains("can't spawn worker thread") || told.contains("failed to spawn thread")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_failure_that_is_told_in_one_line() {
        for (told, next) in [
            ("OS can't spawn worker thread: Resource temporarily unavailable", "pids.max"),
            ("failed to spawn thread: Os { code: 11 }", "pids.max"),
            ("index out of bounds", "report it"),
        ] {
            let (status, line) = exit::explain(&error(told));
            let line = line.unwrap_or_default();
            assert_eq!(status, Status::Failed, "{line}");
            assert!(line.contains(told) && line.contains(next) && line.contains("; "), "{line}");
        }
    }
}
