//! A browser without a screen, in a network namespace with nothing in it: what a page does when it is opened, what it
//! asks for, and what it says.
//!
//! It is spoken to by the Chrome DevTools Protocol over two pipes (`--remote-debugging-pipe`): JSON, each message
//! ended by a zero.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{ChildStdin, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{child::Own, machine::patience, namespace::Namespace, tool};

/// What it is called.
pub const PROGRAM: &str = "chromium";

/// A page in a browser; both end when this is dropped.
#[derive(Debug)]
pub struct Browser {
    to: ChildStdin,
    from: Receiver<Value>,
    last: u64,
    session: Option<String>,
    /// What the page said on the console, and what went wrong in it.
    pub said: Vec<String>,
    /// Addresses that were asked for.
    pub requests: Vec<String>,
    // Before the directory that it writes to, and the namespace that it is in.
    _child: Own,
    _profile: TempDir,
    _namespace: Namespace,
}

impl Browser {
    /// Opens a file in a window of that size, with `fragment` behind the `#`.
    ///
    /// # Errors
    /// When the browser cannot be started, or says so.
    pub fn open(page: &Path, fragment: &str, size: (u32, u32)) -> Result<Self> {
        let namespace = Namespace::new("browser")?;
        let profile = tempfile::tempdir()?;
        let browser = tool::find(PROGRAM).context("no browser")?;
        // The two pipes are its descriptors 3 and 4.
        let script = "exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1";
        let mut command = namespace.command("sh")?;
        command.args(["-c", script, "sh"]).arg(browser).args([
            "--headless",
            // It runs as root here, where it has no sandbox of its own.
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--no-first-run",
            "--remote-debugging-pipe",
        ]);
        command.arg(format!("--user-data-dir={}", profile.path().display()));
        command.arg(format!("--window-size={},{}", size.0, size.1));
        let mut child = Own::from(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?);
        let to = child.stdin.take().context("standard input")?;
        let mut reader = BufReader::new(child.stdout.take().context("standard output")?);
        let (sender, from) = channel();
        thread::spawn(move || {
            let mut message = Vec::new();
            while reader.read_until(0, &mut message).is_ok_and(|read| read > 0) {
                message.pop();
                let sent = serde_json::from_slice(&message).map(|value| sender.send(value));
                if !matches!(sent, Ok(Ok(()))) {
                    return;
                }
                message.clear();
            }
        });
        let mut browser = Self {
            to,
            from,
            last: 0,
            session: None,
            said: Vec::new(),
            requests: Vec::new(),
            _child: child,
            _profile: profile,
            _namespace: namespace,
        };
        let target = browser.call("Target.createTarget", &json!({"url": "about:blank"}))?;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", &attach)?;
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        ensure!(browser.session.is_some(), "no session: {attached}");
        for domain in ["Runtime", "Log", "Network", "Page"] {
            browser.call(&format!("{domain}.enable"), &json!({}))?;
        }
        let page: PathBuf = page.canonicalize()?;
        let url = format!("file://{}#{fragment}", page.display());
        browser.call("Page.navigate", &json!({"url": url}))?;
        browser.wait("document.readyState === 'complete'")?;
        Ok(browser)
    }

    /// Sends a command and returns its result; what happens meanwhile is kept.
    ///
    /// # Errors
    /// When it fails, or no answer comes.
    pub fn call(&mut self, method: &str, parameters: &Value) -> Result<Value> {
        self.last += 1;
        let id = self.last;
        let mut message = json!({"id": id, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let mut bytes = serde_json::to_vec(&message)?;
        bytes.push(0);
        self.to.write_all(&bytes)?;
        loop {
            let message = self.from.recv_timeout(patience()).with_context(|| method.to_owned())?;
            if message["id"] != id {
                self.note(&message);
                continue;
            }
            if !message["error"].is_null() {
                bail!("{method}: {}", message["error"]);
            }
            return Ok(message["result"].clone());
        }
    }

    fn note(&mut self, event: &Value) {
        let of = &event["params"];
        match event["method"].as_str().unwrap_or_default() {
            "Runtime.consoleAPICalled" => self.said.push(of["args"].to_string()),
            "Runtime.exceptionThrown" => self.said.push(of["exceptionDetails"].to_string()),
            "Log.entryAdded" => self.said.push(of["entry"].to_string()),
            "Network.requestWillBeSent" => {
                self.requests.push(of["request"]["url"].as_str().unwrap_or_default().to_owned());
            }
            _ => {}
        }
    }

    /// The value of an expression in the page.
    ///
    /// # Errors
    /// When it throws.
    pub fn evaluate(&mut self, expression: &str) -> Result<Value> {
        let asked = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let result = self.call("Runtime.evaluate", &asked)?;
        ensure!(
            result["exceptionDetails"].is_null(),
            "{expression}: {}",
            result["exceptionDetails"]
        );
        Ok(result["result"]["value"].clone())
    }

    /// Waits until an expression is true.
    ///
    /// # Errors
    /// When it does not become so.
    pub fn wait(&mut self, expression: &str) -> Result<()> {
        let start = std::time::Instant::now();
        while self.evaluate(expression)? != Value::Bool(true) {
            ensure!(start.elapsed() < patience(), "{expression} does not become true");
            thread::sleep(std::time::Duration::from_millis(20));
        }
        Ok(())
    }

    /// Presses a key: a character, or one of those that move and confirm by its name.
    ///
    /// # Errors
    /// When the browser is gone.
    pub fn press(&mut self, key: &str) -> Result<()> {
        let (code, text) = match key {
            "Enter" => (13, Some("\r")),
            "Escape" => (27, None),
            "ArrowLeft" => (37, None),
            "ArrowUp" => (38, None),
            "ArrowRight" => (39, None),
            "ArrowDown" => (40, None),
            _ => (0, Some(key)),
        };
        for kind in ["keyDown", "keyUp"] {
            let mut event = json!({"type": kind, "key": key, "windowsVirtualKeyCode": code});
            if let (Some(text), "keyDown") = (text, kind) {
                event["text"] = json!(text);
            }
            self.call("Input.dispatchKeyEvent", &event)?;
        }
        Ok(())
    }

    /// Types a text where the focus is.
    ///
    /// # Errors
    /// When the browser is gone.
    pub fn insert(&mut self, text: &str) -> Result<()> {
        self.call("Input.insertText", &json!({"text": text})).map(drop)
    }
}
