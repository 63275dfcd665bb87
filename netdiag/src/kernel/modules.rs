//! Signals whose functions are a module's: attached when it is loaded, let go when it is gone.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use aya::Ebpf;
use netdiag_common::signal::Signal;

use super::{
    attach::Attached,
    hooks::{attach_kprobe, check_symbol, detach_kprobe},
    symbols::Symbols,
};
use crate::{
    coverage::{Refusal, SignalStatus, Status},
    signal::{Attachment, Hook, Source},
};

/// Whether a module's functions are in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// No.
    Absent,
    /// For ever.
    BuiltIn,
    /// Until it is removed. Each time that it is loaded sysfs gives it another inode.
    Loaded(u64),
}

impl Presence {
    /// Of a module of the running kernel.
    pub(super) fn of(module: &str) -> Self {
        Self::at(&Path::new("/sys/module").join(module))
    }

    fn at(directory: &PathBuf) -> Self {
        let Ok(metadata) = fs::metadata(directory) else { return Self::Absent };
        match fs::read_to_string(directory.join("initstate")) {
            Ok(state) if state.trim() == "live" => Self::Loaded(metadata.ino()),
            Ok(_coming_or_going) => Self::Absent,
            // What is built in has parameters, and no state.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::BuiltIn,
            Err(_unreadable) => Self::Absent,
        }
    }
}

/// A signal that follows a module.
#[derive(Debug)]
pub(super) struct Follow {
    signal: Signal,
    source: &'static Source,
    module: &'static str,
    presence: Presence,
}

impl Follow {
    /// None where the source needs no module, or one that is never gone.
    pub(super) fn new(
        signal: Signal,
        source: &'static Source,
        presence: Option<Presence>,
    ) -> Option<Self> {
        let (module, presence) = source.module.zip(presence)?;
        (presence != Presence::BuiltIn).then_some(Self { signal, source, module, presence })
    }

    /// Attaches or lets go if the module came or went since the last time. Returns what there is to
    /// say of it.
    pub(super) fn follow(
        &mut self,
        ebpf: &mut Ebpf,
        attached: &mut Vec<Attached>,
        statuses: &mut [SignalStatus],
    ) -> Option<String> {
        let presence = Presence::of(self.module);
        if presence == std::mem::replace(&mut self.presence, presence) {
            return None;
        }
        let Self { signal, source, module, .. } = *self;
        detach(signal, ebpf, attached);
        let name = signal.name();
        if presence == Presence::Absent {
            return Some(format!(
                "{module} was removed, so {name} has nothing to see until it is back"
            ));
        }
        let attach = self.attach(ebpf, attached);
        let status = statuses.iter_mut().find(|status| status.signal == name)?;
        status.refused.retain(|refusal| refusal.source != source.name);
        match attach {
            Ok(()) => {
                status.status = Status::Degraded;
                status.source = Some(source.name.to_owned());
                let late = format!("what happened before {module} was noticed");
                // What filters leave unseen stays; what waited for the module is over.
                status.missing.retain(|line| !line.contains(module) && *line != late);
                status.missing.push(late);
                Some(format!("{module} was loaded: {name} is observed from now on"))
            }
            Err(error) => {
                detach(signal, ebpf, attached);
                let reason = format!("{error:#}").replace('\n', " ");
                let line = format!("{module} was loaded, but {name} cannot be observed: {reason}");
                status.status = Status::Off;
                status.source = None;
                status.refused.push(Refusal { source: source.name.to_owned(), reason });
                Some(line)
            }
        }
    }

    fn attach(&self, ebpf: &mut Ebpf, attached: &mut Vec<Attached>) -> Result<()> {
        let functions: Vec<_> = self.source.attachments.iter().filter_map(function).collect();
        let symbols = Symbols::load(&functions).map_err(|error| error.to_string());
        functions.iter().try_for_each(|name| check_symbol(&symbols, name))?;
        // Ends go first, as everywhere.
        for attachment in self.source.attachments.iter().rev() {
            let Some(function) = function(attachment) else {
                bail!("{} is no kprobe", attachment.program);
            };
            let link = attach_kprobe(ebpf, attachment.program, function);
            let link = link.map(Some).context(function)?;
            let known = attached.iter_mut().find(|known| known.program == attachment.program);
            match known {
                Some(known) => known.link = link,
                None => attached.push(Attached {
                    signal: self.signal,
                    program: attachment.program.to_owned(),
                    attachment: *attachment,
                    link,
                }),
            }
        }
        Ok(())
    }
}

/// Takes a signal's programs out of their functions.
fn detach(signal: Signal, ebpf: &mut Ebpf, attached: &mut [Attached]) {
    for attached in attached.iter_mut().filter(|attached| attached.signal == signal) {
        if let Some(link) = attached.link.take() {
            detach_kprobe(ebpf, &attached.program, link);
        }
    }
}

/// The function that a kprobe is on.
fn function(attachment: &Attachment) -> Option<&'static str> {
    match attachment.hook {
        Hook::Kprobe(name) | Hook::Kretprobe(name) => Some(name),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_that_comes_or_goes_is_not_there() {
        let directory = tempfile::tempdir().expect("a directory");
        let module = directory.path().join("nf_conntrack");
        assert_eq!(Presence::at(&module), Presence::Absent);
        fs::create_dir(&module).expect("a directory");
        assert_eq!(Presence::at(&module), Presence::BuiltIn);
        for (state, loaded) in [("coming\n", false), ("live\n", true), ("going\n", false)] {
            fs::write(module.join("initstate"), state).expect("a file");
            assert_eq!(matches!(Presence::at(&module), Presence::Loaded(_)), loaded, "{state}");
        }
    }
}
