//! Runs one virtual machine under qemu until its command is done.
//!
//! Four virtio ports lead to socket pairs held here: stdout, stderr, status lines and a tar stream
//! of files. A guest's write to a port returns when qemu has passed it on, so that the last status
//! line comes after all output; the machine is ended then, not shut down.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Write},
    os::{fd::AsRawFd as _, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{emulator::Emulator, share};

/// How to run the machine.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) emulator: Emulator,
    pub(crate) cpus: u32,
    pub(crate) memory_mib: u32,
    /// Added to the kernel's command line.
    pub(crate) append: String,
    /// One instruction per nanosecond of guest time, on one CPU: repeatable to the instruction.
    pub(crate) icount: bool,
    pub(crate) kvm: bool,
    pub(crate) timeout: Duration,
    /// The socket of a server of directories.
    pub(crate) share: Option<PathBuf>,
}

/// An emulated processor without the features that cost an emulator most: a fifth level of page
/// tables, and copies told to be fast byte by byte, which it makes byte by byte.
const CPU: &str = "max,la57=off,erms=off,fsrm=off";

/// How the command ended.
#[derive(Debug)]
pub(crate) enum End {
    /// With an exit status as the shell gives it (128 + signal).
    Exit(u8),
    /// Not in time.
    Timeout,
    /// The machine went away; the last of its console says why.
    Died(String),
}

/// What a run took, and what could not be taken out.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) end: End,
    /// Start of qemu to start of the command.
    pub(crate) boot: Option<Duration>,
    /// Why files could not be brought out.
    pub(crate) not_taken: Option<String>,
}

/// Boots `kernel` with `image`; `files` receives the tar stream, `console` names a scratch file.
pub(crate) fn run(
    settings: &Settings,
    kernel: &Path,
    image: &Path,
    console: &Path,
    files: File,
) -> Result<Outcome> {
    let start = Instant::now();
    let ports = [pair()?, pair()?, pair()?, pair()?];
    let mut machine = Machine(
        command(
            settings,
            kernel,
            image,
            console,
            &ports.each_ref().map(|(_, guest)| guest.as_raw_fd()),
        )
        .spawn()
        .context("qemu-system-x86_64 does not start")?,
    );
    let [(out, _), (err, _), (status, _), (tar, _)] =
        ports.map(|(host, guest)| (host, drop(guest)));
    let copies = [
        thread::spawn(move || copy(out, io::stdout())),
        thread::spawn(move || copy(err, io::stderr())),
        thread::spawn(move || copy(tar, files)),
    ];
    let lines = lines(status);
    let mut outcome = Outcome { end: End::Timeout, boot: None, not_taken: None };
    loop {
        let left = settings.timeout.saturating_sub(start.elapsed());
        match lines.recv_timeout(left) {
            Ok(line) => match line.split_once(' ') {
                Some(("exit", code)) => {
                    outcome.end = End::Exit(
                        code.parse()
                            .with_context(|| format!("the guest's exit status is {code:?}"))?,
                    );
                    break;
                }
                Some(("take", reason)) => outcome.not_taken = Some(reason.to_owned()),
                _ => outcome.boot = Some(start.elapsed()),
            },
            Err(RecvTimeoutError::Timeout) => break,
            Err(RecvTimeoutError::Disconnected) => {
                outcome.end = End::Died(cause(&String::from_utf8_lossy(&std::fs::read(console)?)));
                break;
            }
        }
    }
    machine.end()?;
    for copy in copies {
        match copy.join() {
            // Our reader may have gone (`| head`); the guest's command ran all the same.
            Ok(Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => {
                return Err(error).context("cannot pass the guest's output on");
            }
            Ok(_) => {}
            Err(_) => bail!("a thread that passes output on panicked"),
        }
    }
    Ok(outcome)
}

/// A running qemu, ended when it goes out of scope.
struct Machine(Child);

impl Machine {
    fn end(&mut self) -> Result<()> {
        self.0.kill().context("qemu cannot be ended")?;
        self.0.wait().context("qemu cannot be waited for")?;
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// A socket pair: our end, and the end that qemu inherits.
fn pair() -> Result<(UnixStream, UnixStream)> {
    let (host, guest) = UnixStream::pair().context("no socket pair")?;
    rustix::io::fcntl_setfd(&guest, rustix::io::FdFlags::empty())?;
    Ok((host, guest))
}

fn command(
    settings: &Settings,
    kernel: &Path,
    image: &Path,
    console: &Path,
    ports: &[i32; 4],
) -> Command {
    // setpriv ends qemu when we are killed.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(settings.emulator.program());
    settings.emulator.prepare(&mut command);
    command.args(settings.emulator.firmware());
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    command.args(["-M", if settings.share.is_some() { "pc,memory-backend=memory" } else { "pc" }]);
    if settings.kvm {
        command.args(["-accel", "kvm", "-cpu", "host"]);
    } else if settings.icount {
        command.args(["-accel", "tcg,thread=single", "-icount", "shift=0", "-cpu", "max"]);
    } else {
        command.args(["-accel", "tcg,thread=multi", "-cpu", CPU]);
    }
    command.args(["-smp", &settings.cpus.to_string(), "-m", &settings.memory_mib.to_string()]);
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(image);
    // Silent but for a dying kernel, which raises its own log level; an oops is as good as a panic.
    // The self-tests of ciphers take a fifth of the boot.
    let line = format!(
        "console=ttyS0 loglevel=1 panic=-1 oops=panic random.trust_cpu=on \
         cryptomgr.notests {}",
        settings.append
    );
    command.args(["-append", line.trim()]);
    command.arg("-chardev").arg(format!("file,id=console,path={}", console.display()));
    command.args(["-serial", "chardev:console", "-device", "virtio-serial-pci"]);
    for (number, fd) in (1..).zip(ports) {
        command.args(["-chardev", &format!("socket,id=port{number},fd={fd}")]);
        command.args(["-device", &format!("virtserialport,chardev=port{number},nr={number}")]);
    }
    if let Some(socket) = &settings.share {
        // The server reads the guest's requests out of its memory. After the ports, whose names count devices.
        command
            .arg("-object")
            .arg(format!("memory-backend-memfd,id=memory,share=on,size={}M", settings.memory_mib));
        command.arg("-chardev").arg(format!("socket,id=share,path={}", socket.display()));
        command.args(["-device", &format!("vhost-user-fs-pci,chardev=share,tag={}", share::TAG)]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// Passes everything on as it comes; goes on reading when nobody listens any more, for the guest
/// would wait.
fn copy(mut from: UnixStream, mut to: impl Write) -> io::Result<()> {
    let result = io::copy(&mut from, &mut to).and_then(|_| to.flush());
    if result.is_err() {
        io::copy(&mut from, &mut io::sink())?;
    }
    result
}

fn lines(status: UnixStream) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(status).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

/// The line of a console log that says why the kernel died, or its last one.
fn cause(console: &str) -> String {
    let text = |line: &str| line.split_once("] ").map_or(line, |(_, text)| text).trim().to_owned();
    let telling = ["BUG: ", "Oops", "general protection fault", "Kernel panic"];
    let found = telling.iter().find_map(|word| console.lines().find(|line| line.contains(word)));
    found.or_else(|| console.lines().last()).map_or_else(|| "its console is empty".to_owned(), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cause_is_the_first_telling_line() {
        let console = "[ 1.0] hello\n[ 2.0] BUG: kernel NULL pointer dereference\n[ 2.1] Kernel panic - not \
                       syncing: Fatal exception\n[ 2.2] Rebooting\n";
        assert_eq!(cause(console), "BUG: kernel NULL pointer dereference");
        assert_eq!(
            cause("[ 2.1] Kernel panic - not syncing: x\n[ 3] y"),
            "Kernel panic - not syncing: x"
        );
        assert_eq!(cause("early\nlate\n"), "late");
        assert_eq!(cause(""), "its console is empty");
    }

    #[test]
    fn a_dead_listener_does_not_stop_the_guest() {
        let (host, mut guest) = UnixStream::pair().unwrap();
        let (reader, writer) = UnixStream::pair().unwrap();
        drop(reader);
        let copying = thread::spawn(move || copy(host, writer));
        let chunk = vec![7; 1 << 20];
        for _ in 0..4 {
            guest.write_all(&chunk).unwrap();
        }
        drop(guest);
        assert_eq!(copying.join().unwrap().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
