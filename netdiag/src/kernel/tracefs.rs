//! Classic tracepoints without a mounted tracefs.
//!
//! aya reads a tracepoint's number from a mounted tracefs; containers and minimal systems have
//! none.

use std::{
    fmt, io,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
};

use perf_event::{Builder, Counter, events::Tracepoint};

use super::pseudo::{TRACEFS, read};

/// The running kernel's list of trace events.
#[derive(Debug)]
pub struct Tracefs {
    root: OwnedFd,
}

impl Tracefs {
    /// Opens it: where it is mounted, else through a private mount that ends with this value.
    ///
    /// # Errors
    /// The kernel has no tracefs, or it is not mounted and this process has no `CAP_SYS_ADMIN`.
    pub fn open() -> io::Result<Self> {
        Ok(Self { root: TRACEFS.root()? })
    }

    /// Number of the tracepoint `category:name` for `perf_event_open`; `None` where the kernel has
    /// no such tracepoint. Numbers differ from boot to boot.
    ///
    /// # Errors
    /// Reading is refused (lockdown=confidentiality does) or gives no number.
    pub fn id(&self, category: &str, name: &str) -> io::Result<Option<u64>> {
        let text = match read(&self.root, &format!("events/{category}/{name}/id")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text?,
        };
        let id = text.trim().parse();
        id.map(Some).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

/// A program attached to a tracepoint; detached when dropped, or when the process ends in any way.
pub struct Attachment {
    /// Only its descriptor matters.
    _event: Counter,
}

impl fmt::Debug for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attachment").finish_non_exhaustive()
    }
}

/// Attaches a loaded program of type `BPF_PROG_TYPE_TRACEPOINT` to the tracepoint of that number.
///
/// It runs on every CPU: the kernel keeps a tracepoint's programs in one list
/// (`perf_event_attach_bpf_prog`, kernel/trace/bpf_trace.c), whatever CPU the event is opened for.
///
/// # Errors
/// `perf_event_open` or attaching is refused: no such number, no privilege, another program type.
pub fn attach_tracepoint(program: BorrowedFd<'_>, id: u64) -> io::Result<Attachment> {
    let mut event =
        Builder::new(Tracepoint::with_id(id)).any_pid().one_cpu(0).include_kernel().build()?;
    event.set_bpf(program.as_raw_fd())?;
    event.enable()?;
    Ok(Attachment { _event: event })
}

#[cfg(test)]
mod tests {
    use super::Tracefs;

    /// Every kernel that netdiag supports has this one; the tests run as root.
    #[test]
    fn numbers_without_a_mounted_tracefs() {
        let tracefs = Tracefs::open().unwrap();
        assert!(tracefs.id("sock", "inet_sock_set_state").unwrap().is_some_and(|id| id > 0));
        assert_eq!(tracefs.id("sock", "no_such_tracepoint").unwrap(), None);
    }
}
