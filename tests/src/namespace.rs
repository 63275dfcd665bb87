//! Network namespaces that go away with their value.

use std::{
    fs::File,
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::PathBuf,
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

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
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("nd{}-{}-{label}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        tool::run("ip", &["netns", "add", &name])?;
        let path = PathBuf::from("/run/netns").join(&name);
        let file = File::open(&path).with_context(|| path.display().to_string())?;
        let inode = u32::try_from(file.metadata()?.ino()).context("inode of a namespace")?;
        let namespace = Self { name, file, inode };
        namespace.ip("link set lo up")?;
        Ok(namespace)
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
        if let Err(error) = tool::run("ip", &["netns", "del", &self.name]) {
            eprintln!("namespace {} stays behind: {error:#}", self.name);
        }
    }
}
