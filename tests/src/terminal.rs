//! A terminal with a shell in it, by tmux: what stands on its screen, and keys for whoever reads them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    machine::{self, patience},
    tool,
};

/// A terminal; all that runs in it ends when it is dropped.
#[derive(Debug)]
pub struct Terminal {
    server: String,
    directory: tempfile::TempDir,
}

impl Terminal {
    /// One of that size, with a shell in an empty directory, and with these variables.
    ///
    /// # Errors
    /// tmux is not installed, or does not start.
    pub fn new(columns: u32, lines: u32, variables: &[(&str, &str)]) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let server = format!("netdiag-tests-{}-{number}", process::id());
        let terminal = Self { server, directory: tempfile::tempdir()? };
        let mut tmux = terminal.tmux()?;
        tmux.args(["-f", "/dev/null", "new-session", "-d"]);
        tmux.args(["-x", &columns.to_string(), "-y", &lines.to_string(), "-c"]);
        tmux.arg(terminal.directory()).env("LC_ALL", "C.UTF-8").env("PS1", "$ ");
        // A panic is told in a line or two.
        for (name, value) in [("RUST_BACKTRACE", "0")].iter().chain(variables) {
            tmux.args(["-e", &format!("{name}={value}")]);
        }
        tmux.arg("sh");
        tool::finish("tmux new-session", &tmux.output()?)?;
        // A line below the screen would take one of it.
        terminal.command(&["set-option", "-g", "status", "off"])?;
        terminal.command(&[
            "resize-window",
            "-x",
            &columns.to_string(),
            "-y",
            &lines.to_string(),
        ])?;
        Ok(terminal)
    }

    fn tmux(&self) -> Result<Command> {
        let mut tmux = tool::command("tmux")?;
        tmux.args(["-u", "-L", &self.server]);
        // Not a client of the one that we may run in.
        tmux.env_remove("TMUX");
        Ok(tmux)
    }

    /// A command of tmux, and what it says.
    ///
    /// # Errors
    /// It failed.
    pub fn command(&self, arguments: &[&str]) -> Result<String> {
        let output = self.tmux()?.args(arguments).output()?;
        tool::finish(&format!("tmux {}", arguments.join(" ")), &output)
    }

    /// The shell's working directory, which is the terminal's own.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Types text as it is.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn text(&self, text: &str) -> Result<()> {
        self.command(&["send-keys", "-l", "--", text]).map(drop)
    }

    /// Presses keys by tmux's names: `Enter`, `Escape`, `Down`, `C-c`.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn press(&self, keys: &[&str]) -> Result<()> {
        self.command(&[&["send-keys"], keys].concat()).map(drop)
    }

    /// Has the shell run a line.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn run(&self, line: &str) -> Result<()> {
        self.text(line)?;
        self.press(&["Enter"])
    }

    /// Has the shell run a command line in its place; the process it is then.
    ///
    /// # Errors
    /// It does not begin.
    pub fn start(&self, line: &str) -> Result<u32> {
        let file = self.file("pid");
        let _none = fs::remove_file(&file);
        self.run(&format!("sh -c 'echo $$ > pid; exec {line}'; echo ended with $?"))?;
        let pid = || fs::read_to_string(&file).ok()?.trim().parse().ok();
        machine::wait_until(|| pid().is_some());
        pid().with_context(|| format!("{line} does not begin"))
    }

    /// A file in the shell's working directory.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory().join(name)
    }

    /// What stands on the screen, line by line.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn screen(&self) -> Result<String> {
        self.command(&["capture-pane", "-p"])
    }

    /// The same, and the lines above that have left it.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn all(&self) -> Result<String> {
        self.command(&["capture-pane", "-p", "-S", "-"])
    }

    /// What stands on it with the escapes that colour it.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn coloured(&self) -> Result<String> {
        self.command(&["capture-pane", "-p", "-e"])
    }

    /// Waits until the screen shows it; the screen then.
    ///
    /// # Errors
    /// It does not.
    pub fn wait_for(&self, what: &str, shows: impl Fn(&str) -> bool) -> Result<String> {
        let began = Instant::now();
        loop {
            let screen = self.screen()?;
            if shows(&screen) {
                return Ok(screen);
            }
            if began.elapsed() > patience() {
                bail!("no {what} on the screen:\n{screen}");
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether the usual screen is shown, and the cursor.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn is_usual(&self) -> Result<bool> {
        let said = self.command(&["display-message", "-p", "#{alternate_on}#{cursor_flag}"])?;
        Ok(said.trim() == "01")
    }

    /// The settings of the terminal (stty(1)), by the shell.
    ///
    /// # Errors
    /// It does not tell.
    pub fn settings(&self) -> Result<String> {
        let file = self.file("settings");
        let _none = fs::remove_file(&file);
        self.run("stty -g > settings.new && mv settings.new settings")?;
        machine::wait_until(|| file.exists());
        fs::read_to_string(&file).context("the terminal does not tell its settings")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _gone = self.command(&["kill-server"]);
    }
}
