//! What the running kernel is and what it lets this process do.

mod preemption;
mod privileges;

use std::{fmt, path::Path};

use serde::Serialize;

pub use self::{preemption::Preemption, privileges::Privileges};
use super::pseudo::SECURITYFS;

/// Facts read once at start; none of them can fail, what cannot be read is unknown.
#[derive(Clone, Debug)]
pub struct Facts {
    /// `uname -r`.
    pub release: String,
    /// Lockdown mode; `None` where it cannot be told (kernel without the lockdown module, or no
    /// securityfs and no right to mount one).
    pub lockdown: Option<Lockdown>,
    /// Whether the kernel can set kprobes: it offers their PMU.
    pub kprobes: bool,
    /// Whether a task can be preempted inside a program, which then may miss runs.
    pub preemption: Preemption,
    /// What this process may do.
    pub privileges: Privileges,
}

impl Facts {
    /// Asks the running kernel.
    #[must_use]
    pub fn read() -> Self {
        let name = rustix::system::uname();
        Self {
            release: name.release().to_string_lossy().into_owned(),
            lockdown: SECURITYFS.read("lockdown").ok().as_deref().and_then(Lockdown::parse),
            kprobes: Path::new("/sys/bus/event_source/devices/kprobe/type").exists(),
            preemption: Preemption::read(&name.version().to_string_lossy()),
            privileges: Privileges::read(),
        }
    }
}

/// Modes of the lockdown security module, `man 7 kernel_lockdown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Lockdown {
    /// Off.
    None,
    /// Changing the running kernel is refused.
    Integrity,
    /// So is reading its memory: no kprobes, no `bpf_probe_read_kernel`, no tracefs.
    Confidentiality,
}

impl Lockdown {
    /// Reads /sys/kernel/security/lockdown, where the mode stands in brackets.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once('[')?.1.split_once(']')?.0 {
            "none" => Some(Self::None),
            "integrity" => Some(Self::Integrity),
            "confidentiality" => Some(Self::Confidentiality),
            _ => None,
        }
    }
}

impl fmt::Display for Lockdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Integrity => "integrity",
            Self::Confidentiality => "confidentiality",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Facts, Lockdown};

    #[test]
    fn lockdown_is_what_stands_in_brackets() {
        for (text, mode) in [
            ("[none] integrity confidentiality\n", Some(Lockdown::None)),
            ("none [integrity] confidentiality\n", Some(Lockdown::Integrity)),
            ("none integrity [confidentiality]\n", Some(Lockdown::Confidentiality)),
            ("none integrity confidentiality\n", None),
            ("", None),
        ] {
            assert_eq!(Lockdown::parse(text), mode, "{text:?}");
        }
    }

    #[test]
    fn the_running_kernel_answers() {
        let facts = Facts::read();
        assert!(!facts.release.is_empty());
        eprintln!("{facts:?}");
    }

    #[test]
    fn hostile_modes_are_survived() {
        crate::hostile::survived_text(&["none [integrity] confidentiality\n"], |text| {
            let _mode = Lockdown::parse(text);
        });
    }
}
