//! Network namespaces that go away with their value.

use std::{
    fs::{self, File},
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use anyhow::{Context, Result, anyhow};
use rustix::{
    mount::{UnmountFlags, unmount},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::tool;

/// A network namespace under `/run/netns`.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    file: File,
    inode: u32,
}

impl Namespace {
    /// Makes one with its loopback up. `label` becomes part of its name.
    ///
    /// # Errors
    /// When `ip` fails, as without privilege.
    pub fn new(label: &str) -> Result<Self> {
        let [namespace] = Self::all([label], &[])?;
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Makes several at once, with nothing in them up; then runs more commands of `ip`, in which `{0}`,
    /// `{1}` stand for their names.
    ///
    /// # Errors
    /// When `ip` fails, as without privilege.
    pub fn all<const N: usize>(labels: [&str; N], then: &[&str]) -> Result<[Self; N]> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let names = labels.map(|label| {
            format!("nd{}-{}-{label}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
        });
        let mut commands = names.each_ref().map(|name| format!("netns add {name}")).to_vec();
        for command in then {
            let named = |text: String, (at, name): (usize, &String)| {
                text.replace(&format!("{{{at}}}"), name)
            };
            commands.push(names.iter().enumerate().fold((*command).to_owned(), named));
        }
        let commands: Vec<_> = commands.iter().map(String::as_str).collect();
        tool::ip_batch(None, &commands)?;
        let opened: Vec<_> = names.into_iter().map(Self::open).collect::<Result<_>>()?;
        opened.try_into().map_err(|_| anyhow!("fewer namespaces than names"))
    }

    /// One that was made under this name.
    fn open(name: String) -> Result<Self> {
        let path = PathBuf::from("/run/netns").join(&name);
        let file = File::open(&path).with_context(|| path.display().to_string())?;
        let inode = u32::try_from(file.metadata()?.ino()).context("inode of a namespace")?;
        Ok(Self { name, file, inode })
    }

    /// Name under `/run/netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Inode number, by which netdiag names it.
    #[must_use]
    pub fn inode(&self) -> u32 {
        self.inode
    }

    /// Runs `work` on a thread inside. A socket made there stays there; its descriptor may be used
    /// from any thread.
    ///
    /// # Panics
    /// When the thread cannot enter, or `work` panics.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter().expect("enter a network namespace");
                work()
            });
            match inside.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Moves the calling thread inside, for good.
    ///
    /// # Errors
    /// When setns(2) is refused.
    pub fn enter(&self) -> io::Result<()> {
        move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(())
    }

    /// `ip -n NAME ARGUMENTS`.
    ///
    /// # Errors
    /// When it fails.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        tool::line(&format!("ip -n {} {arguments}", self.name))
    }

    /// A command that runs inside.
    ///
    /// # Errors
    /// When `ip` is not installed.
    pub fn command(&self, program: &str) -> Result<Command> {
        let mut command = tool::command("ip")?;
        command.args(["netns", "exec", &self.name, program]);
        Ok(command)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // As `ip netns del` does.
        let path = Path::new("/run/netns").join(&self.name);
        let gone = unmount(&path, UnmountFlags::DETACH).map_err(io::Error::from);
        if let Err(error) = gone.and_then(|()| fs::remove_file(&path)) {
            eprintln!("namespace {} stays behind: {error:#}", self.name);
        }
    }
}
