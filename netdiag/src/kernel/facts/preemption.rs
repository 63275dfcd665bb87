//! Whether tasks can be preempted inside the kernel.

use std::{fmt, fs};

use procfs::ConfigSetting;

use crate::kernel::pseudo::DEBUGFS;

/// The kernel's preemption model, as exactly as it can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preemption {
    /// Tasks leave the kernel of their own accord.
    None,
    /// So they do, at more places.
    Voluntary,
    /// One of the two above.
    Cooperative,
    /// Preempted at the next tick.
    Lazy,
    /// Preempted at once.
    Full,
    /// One of the two above.
    Preemptible,
    /// `PREEMPT_RT`.
    Realtime,
    /// Chosen at boot, and where that stands cannot be read.
    Unknown,
}

impl Preemption {
    /// Asks debugfs (lockdown refuses it), then the command line, then the build: `version` is
    /// that of `uname -v`, its configuration the last resort.
    pub(super) fn read(version: &str) -> Self {
        let switch = DEBUGFS.read("sched/preempt").ok();
        let boot = fs::read_to_string("/proc/cmdline").ok();
        match Self::tell(switch.as_deref(), boot.as_deref(), version) {
            Self::Unknown => procfs::kernel_config().map_or(Self::Unknown, |config| {
                Self::default_of(|option| config.get(option) == Some(&ConfigSetting::Yes))
            }),
            known => known,
        }
    }

    /// Whether one task may preempt another inside a program; an unknown model may.
    #[must_use]
    pub fn may_preempt(self) -> bool {
        !matches!(self, Self::None | Self::Voluntary | Self::Cooperative)
    }

    /// The model that a kernel built with `PREEMPT_DYNAMIC` starts with.
    fn default_of(is_set: impl Fn(&str) -> bool) -> Self {
        [
            ("CONFIG_PREEMPT_NONE", Self::None),
            ("CONFIG_PREEMPT_VOLUNTARY", Self::Voluntary),
            ("CONFIG_PREEMPT_LAZY", Self::Lazy),
            ("CONFIG_PREEMPT", Self::Full),
        ]
        .into_iter()
        .find(|(option, _)| is_set(option))
        .map_or(Self::Unknown, |(_, model)| model)
    }

    /// Puts the sources together that say what is in force.
    fn tell(switch: Option<&str>, boot: Option<&str>, version: &str) -> Self {
        let built = |flag| version.split_ascii_whitespace().any(|word| word == flag);
        if built("PREEMPT_RT") {
            return Self::Realtime;
        }
        let active = || Self::word(switch?.split_once('(')?.1.split_once(')')?.0);
        if let Some(model) = active() {
            return model;
        }
        if built("PREEMPT_DYNAMIC") {
            let chosen =
                || boot?.split_ascii_whitespace().rev().find_map(|w| w.strip_prefix("preempt="));
            return chosen().and_then(Self::word).unwrap_or(Self::Unknown);
        }
        if built("PREEMPT") { Self::Preemptible } else { Self::Cooperative }
    }

    /// The kernel's words for the models (`preempt_modes`, kernel/sched/core.c).
    fn word(word: &str) -> Option<Self> {
        match word {
            "none" => Some(Self::None),
            "voluntary" => Some(Self::Voluntary),
            "lazy" => Some(Self::Lazy),
            "full" => Some(Self::Full),
            _ => None,
        }
    }
}

impl fmt::Display for Preemption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Voluntary => "voluntary",
            Self::Cooperative => "none or voluntary",
            Self::Lazy => "lazy",
            Self::Full => "full",
            Self::Preemptible => "full or lazy",
            Self::Realtime => "rt",
            Self::Unknown => "unknown",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Preemption;

    #[test]
    fn the_configured_default() {
        let of = |set: &'static str| Preemption::default_of(move |option| option == set);
        assert_eq!(of("CONFIG_PREEMPT_NONE"), Preemption::None);
        assert_eq!(of("CONFIG_PREEMPT"), Preemption::Full);
        assert_eq!(of("CONFIG_PREEMPT_DYNAMIC"), Preemption::Unknown);
    }

    /// debugfs, command line, `uname -v`, and the model.
    #[test]
    fn sources_in_their_order() {
        let dynamic = "#1 SMP PREEMPT_DYNAMIC Debian 6.12.111-1";
        for (switch, boot, version, model) in [
            (
                Some("none (voluntary) full \n"),
                Some("preempt=full"),
                dynamic,
                Preemption::Voluntary,
            ),
            (Some("none voluntary (full) lazy \n"), None, dynamic, Preemption::Full),
            (Some("full (lazy)\n"), None, "#1 SMP PREEMPT 7.2.13", Preemption::Lazy),
            (None, Some("quiet preempt=none preempt=full\n"), dynamic, Preemption::Full),
            (None, Some("quiet preempt=odd\n"), dynamic, Preemption::Unknown),
            (None, Some("quiet\n"), dynamic, Preemption::Unknown),
            (None, Some("preempt=full"), "#1 SMP Debian 5.10.223-1", Preemption::Cooperative),
            (None, None, "#1 SMP PREEMPT Debian", Preemption::Preemptible),
            (Some("none (full)"), None, "#1 SMP PREEMPT_RT Debian", Preemption::Realtime),
            (Some("(undefined)"), None, "#1 SMP", Preemption::Cooperative),
        ] {
            let told = Preemption::tell(switch, boot, version);
            assert_eq!(told, model, "{switch:?} {boot:?} {version}");
        }
    }

    #[test]
    fn hostile_words_are_survived() {
        let sound = ["none (voluntary) full \n", "quiet preempt=none\n", "#1 SMP PREEMPT_DYNAMIC"];
        crate::hostile::survived_text(&sound, |text| {
            let _model = Preemption::tell(Some(text), Some(text), text);
        });
    }
}
