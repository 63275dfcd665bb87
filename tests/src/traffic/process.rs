//! A sender that is another process: the shell, which every machine has.

use std::{
    net::TcpStream,
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use super::{End, Family, listen, read_bytes, send_once};
use crate::{child::Own, namespace::Namespace, network::RIGHT_V4, tool};

/// Name of the process.
pub const COMM: &str = "bash";

/// A script that makes so many sends each time it is told to.
fn when_told(sends: usize) -> String {
    format!(
        "while read -r -u 3 word && [ $word = go ]; do \
         for ((i = 0; i < {sends}; i++)); do printf x >&3; done; done"
    )
}

/// A shell that has connected to the right end of a pair and made single-byte sends.
#[derive(Debug)]
pub struct Shell {
    child: Own,
    server: TcpStream,
    sends: usize,
    /// Its end of the connection.
    pub end: End,
}

impl Shell {
    /// Starts one in `from` and returns when it is connected. Each time it is told to, it makes
    /// `sends` sends.
    ///
    /// # Errors
    /// When the shell cannot be started or does not connect.
    pub fn connect(from: &Namespace, to: &Namespace, sends: usize) -> Result<Self> {
        Self::run(tool::command(COMM)?, from, to, sends, &when_told(sends))
    }

    /// The same in a group of processes, which it enters by itself through this file before it connects.
    ///
    /// # Errors
    /// As for [`Self::connect`].
    pub fn connect_inside(
        procs: &Path,
        from: &Namespace,
        to: &Namespace,
        sends: usize,
    ) -> Result<Self> {
        let before = format!("echo $$ >{} || exit;", procs.display());
        Self::run_after(tool::command(COMM)?, &before, from, to, sends, &when_told(sends))
    }

    /// The same by another name, of any characters that a file's name can have.
    ///
    /// # Errors
    /// As for [`Self::connect`].
    pub fn connect_named(
        name: &str,
        from: &Namespace,
        to: &Namespace,
        sends: usize,
    ) -> Result<Self> {
        // A program is named like the file that was executed.
        let directory = tempfile::tempdir()?;
        let link = directory.path().join(name);
        let shell = tool::find(COMM).with_context(|| format!("{COMM} is not installed"))?;
        symlink(shell, &link)?;
        Self::run(Command::new(link), from, to, sends, &when_told(sends))
    }

    /// Starts one that makes `sends` sends at once, so that this process need not send at all.
    ///
    /// # Errors
    /// As for [`Self::connect`].
    pub fn connect_unasked(from: &Namespace, to: &Namespace, sends: usize) -> Result<Self> {
        let script =
            format!("for ((i = 0; i < {sends}; i++)); do printf x >&3; done; read -r -u 3 word");
        Self::run(tool::command(COMM)?, from, to, sends, &script)
    }

    fn run(
        shell: Command,
        from: &Namespace,
        to: &Namespace,
        sends: usize,
        script: &str,
    ) -> Result<Self> {
        Self::run_after(shell, "", from, to, sends, script)
    }

    fn run_after(
        mut shell: Command,
        before: &str,
        from: &Namespace,
        to: &Namespace,
        sends: usize,
        script: &str,
    ) -> Result<Self> {
        let (listener, port) = listen(to, Family::V4)?;
        let script = format!("{before} exec 3<>/dev/tcp/{RIGHT_V4}/{port}; {script}");
        // Not by `ip netns exec`, which mounts another /sys: groups of processes are not in it.
        shell.args(["-c", &script]).stdin(Stdio::null());
        let child = Own::from(from.run(|| shell.spawn())?);
        let (server, peer) = listener.accept()?;
        let end = End { netns: from.inode(), local: peer, peer: server.local_addr()? };
        Ok(Self { child, server, sends, end })
    }

    /// The other end, in this process; it sends once each time the shell is told to.
    #[must_use]
    pub fn server_end(&self, netns: u32) -> End {
        End { netns, local: self.end.peer, peer: self.end.local }
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it send, and waits until all has arrived. Keeps the process and its socket.
    ///
    /// # Errors
    /// When the connection ends before.
    pub fn send(&self) -> Result<()> {
        send_once(&self.server, b"go\n")?;
        self.receive()
    }

    /// Waits until all sends of one time have arrived.
    ///
    /// # Errors
    /// When the connection ends before.
    pub fn receive(&self) -> Result<()> {
        read_bytes(&self.server, self.sends)
    }

    /// Lets it end.
    ///
    /// # Errors
    /// When it fails.
    pub fn end(mut self) -> Result<()> {
        send_once(&self.server, b"end\n")?;
        let status = self.child.wait()?;
        ensure!(status.success(), "the shell: {status}");
        Ok(())
    }
}
