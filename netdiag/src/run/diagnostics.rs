//! The eBPF programs' own diagnostics (`--log`), on standard error.

use anyhow::Result;

use super::voice::say;
use crate::kernel::tracer::{Logger, Tracer};

/// Reads the programs' log, or does nothing where it was not asked for.
pub(super) struct Diagnostics(Option<Logger<ToStderr>>);

impl Diagnostics {
    pub(super) fn new(tracer: &mut Tracer, level: u32) -> Result<Self> {
        if level == 0 {
            return Ok(Self(None));
        }
        tracer.log(ToStderr).map(Some).map(Self)
    }

    /// Says what has been logged since the last time.
    pub(super) fn say(&mut self) {
        if let Some(logger) = &mut self.0 {
            logger.flush();
        }
    }
}

struct ToStderr;

impl log::Log for ToStderr {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true // the programs know the level
    }

    fn log(&self, record: &log::Record<'_>) {
        say(&format!("program: {}: {}", record.level().as_str().to_lowercase(), record.args()));
    }

    fn flush(&self) {}
}
