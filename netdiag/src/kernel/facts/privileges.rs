//! What this process may do.

use std::fs;

use rustix::thread::CapabilitySet;

use crate::sandbox;

/// Inode of the initial user namespace, `PROC_USER_INIT_INO` in include/linux/proc_ns.h.
const INITIAL_USER_NAMESPACE: &str = "user:[4026531837]";

/// Whether programs can be loaded, and what is missing for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Privileges {
    /// Capabilities that loading and attaching need and this process lacks.
    pub missing: Vec<&'static str>,
    /// Whether this is a user namespace below the initial one, where capabilities do not count for
    /// BPF; false where it cannot be told.
    pub confined: bool,
}

impl Privileges {
    /// Asks the kernel about the calling thread.
    pub(super) fn read() -> Self {
        let namespace = fs::read_link("/proc/self/ns/user").ok();
        let confined = namespace.is_some_and(|link| link.as_os_str() != INITIAL_USER_NAMESPACE);
        Self { missing: missing(sandbox::has()), confined }
    }

    /// One line for who lacks them: cause, consequence, next step; `None` where they suffice.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        if !self.missing.is_empty() {
            let names = self.missing.join(" and ");
            return Some(format!(
                "no privilege: {names} missing, so no program can be loaded: type `sudo netdiag` and the \
                 same arguments, or run it with {names}"
            ));
        }
        self.confined.then(|| {
            "no privilege: in a user namespace capabilities do not count for BPF, so no program \
             can be loaded: run in the host's user namespace"
                .to_owned()
        })
    }
}

/// `CAP_SYS_ADMIN` alone is enough; from Linux 5.8 on so are the two that were split off it.
fn missing(effective: CapabilitySet) -> Vec<&'static str> {
    if effective.contains(CapabilitySet::SYS_ADMIN) {
        return Vec::new();
    }
    [(CapabilitySet::BPF, "CAP_BPF"), (CapabilitySet::PERFMON, "CAP_PERFMON")]
        .into_iter()
        .filter(|(set, _)| !effective.contains(*set))
        .map(|(_, name)| name)
        .collect()
}

#[cfg(test)]
mod tests {
    use rustix::thread::CapabilitySet;

    use super::{Privileges, missing};

    #[test]
    fn what_is_missing_is_named() {
        let two = CapabilitySet::BPF | CapabilitySet::PERFMON;
        assert!(missing(CapabilitySet::SYS_ADMIN).is_empty());
        assert!(missing(two).is_empty());
        assert_eq!(missing(CapabilitySet::BPF), ["CAP_PERFMON"]);
        assert_eq!(missing(CapabilitySet::NET_ADMIN), ["CAP_BPF", "CAP_PERFMON"]);
    }

    #[test]
    fn refusals_are_one_line() {
        let none = Privileges::default();
        assert!(none.refusal().is_none());
        let lacking = Privileges { missing: vec!["CAP_BPF", "CAP_PERFMON"], confined: true };
        let confined = Privileges { confined: true, ..Privileges::default() };
        for privileges in [lacking, confined] {
            let line = privileges.refusal().unwrap();
            assert!(line.starts_with("no privilege: ") && !line.contains('\n'), "{line}");
        }
    }
}
