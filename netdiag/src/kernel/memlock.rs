//! The limit that old kernels charge maps to.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Lifts `RLIMIT_MEMLOCK` of this process, to which Linux before 5.11 charges maps and programs
/// (5.11 went over to memory cgroups). Elsewhere it changes nothing that netdiag does. Call it
/// before anything is loaded.
///
/// # Errors
/// Without `CAP_SYS_RESOURCE` the limit ends at its hard value: the error says what that is, and
/// matters only if loading is refused later.
pub fn raise() -> io::Result<()> {
    if setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None }).is_ok() {
        return Ok(());
    }
    let Rlimit { maximum, .. } = getrlimit(Resource::Memlock);
    setrlimit(Resource::Memlock, Rlimit { current: maximum, maximum })?;
    let Some(bytes) = maximum else { return Ok(()) };
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!(
            "locked memory stays limited to {bytes} bytes: Linux before 5.11 then refuses maps; \
             raise `ulimit -l` or add CAP_SYS_RESOURCE"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use rustix::process::{Resource, getrlimit};

    /// With or without `CAP_SYS_RESOURCE` the limit ends as high as it can go.
    #[test]
    fn the_limit_is_as_high_as_it_can_be() {
        let outcome = super::raise();
        let limit = getrlimit(Resource::Memlock);
        assert_eq!(limit.current, limit.maximum, "{outcome:?}");
        assert_eq!(outcome.is_ok(), limit.current.is_none(), "{outcome:?} {limit:?}");
    }
}
