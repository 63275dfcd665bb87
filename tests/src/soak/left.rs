//! What is on the machine before, to see that nothing is left behind: programs and maps in the kernel, interfaces,
//! namespaces.

use std::{
    collections::BTreeSet,
    fs, io, process,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, Result};

use crate::{bpf::Loaded, machine};

/// What there was, and what was loaded since.
#[derive(Debug)]
pub(super) struct Before {
    loaded: Loaded,
    links: BTreeSet<String>,
    since: Mutex<Loaded>,
}

impl Before {
    /// What there is now.
    ///
    /// # Errors
    /// When bpftool fails, or the kernel does not tell.
    pub(super) fn now() -> Result<Self> {
        let (loaded, links) = (Loaded::now()?, names(LINKS)?);
        Ok(Self { loaded, links, since: Mutex::default() })
    }

    /// Notes what is loaded now and was not before: none of it may stay.
    ///
    /// # Errors
    /// When bpftool fails.
    pub(super) fn note(&self) -> Result<()> {
        let mut now = None;
        // What goes as it looks makes it fail.
        machine::wait_until(|| {
            now = Loaded::now().ok();
            now.is_some()
        });
        let more = now.context("bpftool does not list what is loaded")?.since(&self.loaded);
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        *since = since.and(&more);
        Ok(())
    }

    /// Waits until nothing is left, and says what is, a line each.
    pub(super) fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        machine::wait_until(|| {
            left = self.look().unwrap_or_else(|error| vec![format!("{error:#}")]);
            left.is_empty()
        });
        left
    }

    fn look(&self) -> Result<Vec<String>> {
        let mut left = Vec::new();
        let since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = Loaded::now()?.of(&since);
        if !loaded.is_empty() {
            left.push(format!("in the kernel: {loaded:?}"));
        }
        let links = names(LINKS)?;
        left.extend(links.difference(&self.links).map(|name| format!("interface {name}")));
        // As `Namespace::all` names them.
        let ours = format!("nd{}-", process::id());
        let namespaces = names("/run/netns").unwrap_or_default();
        let ours = namespaces.iter().filter(|name| name.starts_with(&ours));
        left.extend(ours.map(|name| format!("namespace {name}")));
        Ok(left)
    }
}

const LINKS: &str = "/sys/class/net";

fn names(directory: &str) -> io::Result<BTreeSet<String>> {
    let name = |entry: io::Result<fs::DirEntry>| -> io::Result<String> {
        Ok(entry?.file_name().to_string_lossy().into_owned())
    };
    fs::read_dir(directory)?.map(name).collect()
}
