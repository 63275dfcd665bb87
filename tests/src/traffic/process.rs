//! A sender that is another process: the shell, which every machine has.

use std::{net::TcpStream, path::Path, process::Stdio};

use anyhow::{Result, ensure};

use super::{End, Family, listen, read_bytes, send_once};
use crate::{child::Own, namespace::Namespace, network::RIGHT_V4, tool};

/// Name of the process.
pub const COMM: &str = "bash";

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
        let script = format!(
            "while read -r -u 3 word && [ $word = go ]; do \
             for ((i = 0; i < {sends}; i++)); do printf x >&3; done; done"
        );
        Self::run(from, to, sends, &script)
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
        let script = format!(
            "while read -r -u 3 word && [ $word = go ]; do \
             for ((i = 0; i < {sends}; i++)); do printf x >&3; done; done"
        );
        Self::run_after(&format!("echo $$ >{} || exit;", procs.display()), from, to, sends, &script)
    }

    /// The same by another name, which may have any byte in it.
    ///
    /// # Errors
    /// As for [`Self::connect`].
    pub fn connect_named(
        name: &str,
        from: &Namespace,
        to: &Namespace,
        sends: usize,
    ) -> Result<Self> {
        let script = format!(
            "while read -r -u 3 word && [ $word = go ]; do \
             for ((i = 0; i < {sends}; i++)); do printf x >&3; done; done"
        );
        let octal: String = name.bytes().map(|byte| format!("\\{byte:03o}")).collect();
        // In one piece: what is written after a line's end would be a name of its own.
        let before = format!(
            "printf '{octal}' | dd bs=16 iflag=fullblock status=none of=/proc/$$/comm || exit;"
        );
        Self::run_after(&before, from, to, sends, &script)
    }

    /// Starts one that makes `sends` sends at once, so that this process need not send at all.
    ///
    /// # Errors
    /// As for [`Self::connect`].
    pub fn connect_unasked(from: &Namespace, to: &Namespace, sends: usize) -> Result<Self> {
        let script =
            format!("for ((i = 0; i < {sends}; i++)); do printf x >&3; done; read -r -u 3 word");
        Self::run(from, to, sends, &script)
    }

    fn run(from: &Namespace, to: &Namespace, sends: usize, script: &str) -> Result<Self> {
        Self::run_after("", from, to, sends, script)
    }

    fn run_after(
        before: &str,
        from: &Namespace,
        to: &Namespace,
        sends: usize,
        script: &str,
    ) -> Result<Self> {
        let (listener, port) = listen(to, Family::V4)?;
        let script = format!("{before} exec 3<>/dev/tcp/{RIGHT_V4}/{port}; {script}");
        // Not by `ip netns exec`, which mounts another /sys: groups of processes are not in it.
        let mut command = tool::command(COMM)?;
        command.args(["-c", &script]).stdin(Stdio::null());
        let child = Own::from(from.run(|| command.spawn())?);
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
