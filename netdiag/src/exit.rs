//! How a run ends: the exit statuses that scripts may rely on, errors that carry one, and the one
//! line that is said about them.

use std::{error, fmt, io, process::ExitCode};

/// Exit statuses, as scripts see them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Status {
    /// It ran; also when the reader of its output went away (EPIPE).
    #[default]
    Ran = 0,
    /// It failed while running: input or output, or the kernel refused late.
    Failed = 1,
    /// Wrong usage: flags, filters, an `--out`, `--pcap`, `--html` or `--listen` that cannot be used.
    Usage = 2,
    /// Nothing can be observed: no privilege, no BTF and no `--btf`, or not one signal attaches.
    CannotObserve = 3,
    /// `--strict` was given and samples were lost or missed.
    Incomplete = 4,
    /// `--fail-on` was given and there is a finding of that severity or above; wins over
    /// [`Status::Incomplete`].
    Finding = 10,
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(status as u8)
    }
}

/// An error that decides the exit status.
///
/// The message is one line: cause, consequence, next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    status: Status,
    message: String,
}

impl Error {
    /// An error with any status.
    #[must_use]
    pub fn new(status: Status, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// Wrong usage.
    #[must_use]
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Status::Usage, message)
    }

    /// Nothing can be observed.
    #[must_use]
    pub fn cannot_observe(message: impl Into<String>) -> Self {
        Self::new(Status::CannotObserve, message)
    }

    /// The status it ends the run with.
    #[must_use]
    pub const fn status(&self) -> Status {
        self.status
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl error::Error for Error {}

/// The status that an error ends the run with, and the line to be said about it on standard error.
///
/// The line is `None` when there is nothing to say: the reader of the output went away. Without an
/// [`Error`] in the chain the status is [`Status::Failed`]. Control characters are removed, so the
/// message stays one line whatever a file name in it contains.
#[must_use]
pub fn explain(error: &anyhow::Error) -> (Status, Option<String>) {
    if error.chain().any(is_broken_pipe) {
        return (Status::Ran, None);
    }
    let status = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<Error>())
        .map_or(Status::Failed, Error::status);
    let mut line = String::from("netdiag: ");
    for (at, cause) in error.chain().enumerate() {
        if at > 0 {
            line.push_str(": ");
        }
        line.push_str(cause.to_string().trim());
    }
    (status, Some(one_line(&line)))
}

/// Whether the reader of our output went away.
fn is_broken_pipe(cause: &(dyn error::Error + 'static)) -> bool {
    if let Some(error) = cause.downcast_ref::<io::Error>() {
        return error.kind() == io::ErrorKind::BrokenPipe;
    }
    if let Some(error) = cause.downcast_ref::<serde_json::Error>() {
        return error.io_error_kind() == Some(io::ErrorKind::BrokenPipe);
    }
    cause.downcast_ref::<rustix::io::Errno>() == Some(&rustix::io::Errno::PIPE)
}

/// What clap says, in our form: `Ok` is text for standard output that was asked for (help,
/// version), `Err` a usage error of one line.
pub fn from_clap(error: &clap::Error, shows_colours: bool) -> Result<String, Error> {
    use clap::error::ErrorKind;
    let text = error.render();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion if shows_colours => {
            Ok(text.ansi().to_string())
        }
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ok(text.to_string()),
        _ => Err(Error::usage(usage_line(&text.to_string()))),
    }
}

/// Folds clap's paragraphs into one line and leaves out its usage block.
fn usage_line(text: &str) -> String {
    let parts: Vec<&str> = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .filter(|line| !line.is_empty())
        .collect();
    let message = parts.join("; ");
    let message = message.strip_prefix("error: ").unwrap_or(&message).replace(":; ", ": ");
    format!("{message}; nothing was started, see `netdiag --help`")
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn statuses_are_the_documented_numbers() {
        let numbers = [
            (Status::Ran, 0),
            (Status::Failed, 1),
            (Status::Usage, 2),
            (Status::CannotObserve, 3),
            (Status::Incomplete, 4),
            (Status::Finding, 10),
        ];
        for (status, number) in numbers {
            assert_eq!(status as u8, number, "{status:?}");
        }
    }

    #[test]
    fn status_survives_context() {
        let error = anyhow::Error::new(Error::cannot_observe("no BTF; give --btf FILE"))
            .context("loading the programs");
        assert_eq!(
            explain(&error),
            (
                Status::CannotObserve,
                Some("netdiag: loading the programs: no BTF; give --btf FILE".to_owned())
            )
        );
    }

    #[test]
    fn other_errors_fail_the_run_in_one_line() {
        let error = anyhow::anyhow!("two\nlines");
        assert_eq!(explain(&error), (Status::Failed, Some("netdiag: two lines".to_owned())));
    }

    #[test]
    fn a_closed_pipe_is_no_error_however_deep() {
        let io = || io::Error::from(io::ErrorKind::BrokenPipe);
        let plain = Err::<(), _>(io()).context("writing the table").unwrap_err();
        let json = anyhow::Error::new(serde_json::Error::io(io())).context("writing");
        let raw = anyhow::Error::new(rustix::io::Errno::PIPE);
        for error in [plain, json, raw] {
            assert_eq!(explain(&error), (Status::Ran, None), "{error:?}");
        }
    }
}
