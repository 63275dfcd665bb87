//! A disk of a test's own, as large as it is told to be.

use std::path::Path;

use anyhow::Result;
use rustix::fs::statvfs;

use crate::tool;

/// A file system in memory; its size is what it says, and nothing of it is taken before it is written. Unmounted when
/// dropped.
#[derive(Debug)]
#[must_use = "it is unmounted when it is dropped"]
pub struct Disk<'a>(&'a Path);

impl<'a> Disk<'a> {
    /// Mounts it, with options as `size=16m`.
    ///
    /// # Errors
    /// When `mount` fails.
    pub fn mount(at: &'a Path, options: &str) -> Result<Self> {
        let path = at.display().to_string();
        tool::run("mount", &["-t", "tmpfs", "-o", options, "netdiag-tests", &path])?;
        Ok(Self(at))
    }

    /// Gives it other options.
    ///
    /// # Errors
    /// When `mount` fails, as for a size that is less than what is in it.
    pub fn remount(&self, options: &str) -> Result<()> {
        let path = self.0.display().to_string();
        tool::run("mount", &["-o", &format!("remount,{options}"), &path])?;
        Ok(())
    }

    /// Makes it so small that so many bytes are free, whatever lies on it.
    ///
    /// # Errors
    /// When `mount` fails, or the kernel does not tell what lies on it.
    pub fn leave(&self, free: u64) -> Result<()> {
        let holds = statvfs(self.0)?;
        let used = (holds.f_blocks - holds.f_bfree) * holds.f_frsize;
        self.remount(&format!("size={}", used + free))
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        if let Err(error) = tool::run("umount", &["-l", &self.0.display().to_string()]) {
            eprintln!("{} stays mounted: {error:#}", self.0.display());
        }
    }
}
