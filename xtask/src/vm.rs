//! `cargo xtask vm`: one command as root on a stock Debian kernel, under qemu.

mod apt;
mod archive;
mod emulator;
mod image;
mod kernel;
mod library;
mod machine;
mod modules;
pub(crate) mod share;
mod sources;

use std::{
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context, Result, bail};

pub(crate) use self::emulator::{Emulator, Wanted};
use self::{
    kernel::Kernel,
    machine::{End, Settings},
    share::Server,
};
use crate::{build, process, setup, workspace};

/// Exit statuses that are not the command's, as `timeout` and `env` have them.
const TIMED_OUT: u8 = 124;
const VM_FAILED: u8 = 125;

/// Run a command as root on a stock Debian kernel, in a virtual machine
#[derive(clap::Args, Debug)]
#[command(
    after_help = "The guest has netdiag, bash, busybox, ip, tc, ss, nft, conntrack, ping, runc, sysctl, bpftool and the
kernel's network modules; no network beyond lo. The command runs in /root. Exit status: the
command's, 124 when it took too long, 125 when the machine failed.

Examples:
  cargo xtask vm --kernel 6.12 -- netdiag doctor
  cargo xtask vm --kernel newest -- uname -r
  cargo xtask vm --kernel 6.12 --append preempt=full --smp 4 -- bash -c 'ip netns add a && ip netns'
  cargo xtask vm --kernel 5.10 --bring ./probe --take /root/out.json=out.json -- ./probe"
)]
pub(crate) struct Args {
    /// Series of the kernel: 5.10, 6.1, 6.12, or the newest that Debian has
    #[arg(long, value_name = "SERIES")]
    kernel: String,

    /// Add to the kernel's command line
    #[arg(long, value_name = "PARAMETERS", default_value = "")]
    append: String,

    /// Number of CPUs
    #[arg(long, value_name = "N", default_value_t = 2)]
    smp: u32,

    /// Memory in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    memory: u32,

    /// Count instructions: one CPU, one nanosecond of guest time for each; runs are repeatable
    #[arg(long, conflicts_with_all = ["kvm", "smp"])]
    icount: bool,

    /// Use the host's virtualization instead of emulation: faster, but not on every host that
    /// offers it
    #[arg(long)]
    kvm: bool,

    /// End the machine after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout: u64,

    /// Put a host file or directory into the guest, at /root/NAME unless told
    #[arg(long, value_name = "PATH[=GUESTPATH]")]
    bring: Vec<String>,

    /// Bring a guest file or directory out when the command has ended
    #[arg(long, value_name = "GUESTPATH=PATH")]
    take: Vec<String>,

    /// Put a program of this machine into the guest, with its libraries
    #[arg(long, value_name = "PROGRAM")]
    with: Vec<String>,

    /// Show a directory of this machine in the guest, read-only, below /machine (from kernel 6.1 on)
    #[arg(long, value_name = "DIR")]
    share: Vec<String>,

    /// Set an environment variable for the command
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,

    /// Take netdiag as it was built last instead of building it
    #[arg(long)]
    no_build: bool,

    /// Say how long the boot took
    #[arg(long)]
    time: bool,

    /// The command and its arguments
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    setup::vm_tools()?;
    let netdiag = match args.no_build {
        true => workspace::netdiag("release"),
        false => build::netdiag(true)?,
    };
    Ok(ExitCode::from(run(args, &netdiag)?))
}

/// The series of a kernel that is asked for as [`Args::kernel`] is.
pub(crate) fn series(kernel: &str) -> Result<String> {
    Ok(Kernel::get(kernel)?.series)
}

/// What commands printed in a machine that counts instructions.
pub(crate) struct Counted {
    pub(crate) series: String,
    pub(crate) build: String,
    pub(crate) output: String,
}

/// Runs commands one after the other in a machine that counts instructions, with these host files in their directory
/// there and these programs of the host, as the options `--bring` and `--with` have them.
pub(crate) fn count(
    series: &str,
    netdiag: &Path,
    bring: Vec<String>,
    with: Vec<String>,
    commands: &[Vec<String>],
) -> Result<Counted> {
    const OUTPUT: &str = "/root/output";
    const TIMEOUT_S: u64 = 3600;
    let script: String = commands.iter().map(|command| image::quote(command) + "\n").collect();
    let scratch = tempfile::tempdir().context("no temporary directory")?;
    let output = scratch.path().join("output");
    let args = Args {
        kernel: series.to_owned(),
        append: String::new(),
        smp: 1,
        // Another tracer's libraries are a quarter of a gigabyte.
        memory: 2048,
        icount: true,
        kvm: false,
        timeout: TIMEOUT_S * commands.len() as u64,
        bring,
        take: vec![format!("{OUTPUT}={}", output.display())],
        with,
        share: Vec::new(),
        env: Vec::new(),
        no_build: true,
        time: false,
        command: ["sh", "-ec", &format!("exec > {OUTPUT}\n{script}")].map(OsString::from).to_vec(),
    };
    let status = run(&args, netdiag)?;
    if status != 0 {
        bail!("one of these failed in the machine (status {status}), as it said:\n{script}");
    }
    let Kernel { series, build, .. } = Kernel::get(series)?;
    let output = fs::read_to_string(&output).context("cannot read what the command printed")?;
    Ok(Counted { series, build, output })
}

/// Runs the machine and gives the exit status that `main` ends with.
fn run(args: &Args, netdiag: &Path) -> Result<u8> {
    let kernel = Kernel::get(&args.kernel)?;
    let takes = args.take.iter().map(|take| parse_take(take)).collect::<Result<Vec<_>>>()?;
    let shares = args.share.iter().map(|share| share::parse(share)).collect::<Result<Vec<_>>>()?;
    let mut run = image::Run {
        with: args.with.clone(),
        command: share::mount(&shares) + &script(&args.env, &args.command)?,
        take: takes.iter().map(|(guest, _)| guest.clone()).collect(),
        ..image::Run::default()
    };
    if netdiag.exists() {
        run.bring.push((netdiag.to_owned(), "/usr/bin/netdiag".to_owned()));
    }
    for bring in &args.bring {
        run.bring.push(parse_bring(bring)?);
    }
    let scratch = tempfile::tempdir().context("no temporary directory")?;
    let path = |name: &str| scratch.path().join(name);
    image::write(&kernel, &run, &path("image.cpio"))?;
    room(fs::metadata(path("image.cpio"))?.len() >> 20, args.memory)?;
    let wanted = match shares.is_empty() && !args.icount {
        true => Wanted::Quickest,
        false => Wanted::OfRelease,
    };
    let emulator = Emulator::get(wanted)?;
    let server = Server::start(&emulator, &shares, scratch.path())?;
    let settings = Settings {
        emulator,
        share: server.as_ref().map(|server| server.socket().to_owned()),
        cpus: if args.icount { 1 } else { args.smp },
        memory_mib: args.memory,
        append: args.append.clone(),
        icount: args.icount,
        kvm: args.kvm,
        timeout: Duration::from_secs(args.timeout),
    };
    let files = File::create(path("files.tar"))?;
    let outcome =
        machine::run(&settings, &kernel.vmlinuz, &path("image.cpio"), &path("console"), files)?;
    if args.time
        && let Some(boot) = outcome.boot
    {
        eprintln!("vm: {} {} booted in {:.1} s", kernel.series, kernel.build, boot.as_secs_f64());
    }
    let status = match outcome.end {
        End::Exit(status) => status,
        End::Timeout => {
            eprintln!("vm: ended after {} s, the time given by --timeout", args.timeout);
            return Ok(TIMED_OUT);
        }
        End::Died(cause) => {
            eprintln!("vm: the guest died: {cause}");
            return Ok(VM_FAILED);
        }
    };
    if let Some(reason) = outcome.not_taken {
        bail!(
            "a file could not be taken out of the guest (the command's status was {status}): {reason}"
        );
    }
    if !takes.is_empty() {
        take(&path("files.tar"), &takes, scratch.path())?;
    }
    Ok(status)
}

/// Fails where a guest with so many MiB could not unpack an image of so many: its kernel says so and goes on without the
/// rest, of which the command or what reports its end may be part.
fn room(image_mib: u64, memory_mib: u32) -> Result<()> {
    /// What the kernel itself takes, and a command that is not greedy.
    const BESIDE: u64 = 160;
    let needed = 2 * image_mib + BESIDE;
    if u64::from(memory_mib) < needed {
        bail!(
            "the guest has {memory_mib} MiB, of which its image of {image_mib} would leave too little to be unpacked: \
             give --memory {needed}"
        );
    }
    Ok(())
}

/// The shell script that the guest runs: variables, then the command in the shell's place.
fn script(variables: &[String], command: &[OsString]) -> Result<String> {
    let mut script = String::from("export RUST_BACKTRACE=1 NETDIAG_BIN=/usr/bin/netdiag\n");
    for variable in variables {
        let (name, value) =
            variable.split_once('=').with_context(|| format!("--env {variable} has no ="))?;
        script += &format!("export {name}={}\n", image::quote(&[value]));
    }
    Ok(script + "exec " + &image::quote(command) + "\n")
}

fn parse_bring(bring: &str) -> Result<(PathBuf, String)> {
    let (host, guest) = bring.split_once('=').unwrap_or((bring, ""));
    let host = fs::canonicalize(host).with_context(|| format!("--bring {host} cannot be read"))?;
    let name = host.file_name().with_context(|| format!("--bring {bring} has no name"))?;
    let guest = match guest {
        "" => format!("/root/{}", name.to_string_lossy()),
        guest if guest.starts_with('/') => guest.to_owned(),
        guest => format!("/root/{guest}"),
    };
    Ok((host, guest))
}

fn parse_take(take: &str) -> Result<(String, PathBuf)> {
    match take.split_once('=') {
        Some((guest, host)) if guest.starts_with('/') && !host.is_empty() => {
            Ok((guest.to_owned(), host.into()))
        }
        _ => bail!("--take {take} is not GUESTPATH=PATH with an absolute guest path"),
    }
}

/// Unpacks the guest's files and gives them the names asked for.
fn take(tar: &Path, takes: &[(String, PathBuf)], scratch: &Path) -> Result<()> {
    let directory = scratch.join("files");
    fs::create_dir(&directory)?;
    process::run(Command::new("tar").arg("-xf").arg(tar).arg("-C").arg(&directory))?;
    for (guest, host) in takes {
        // Across file systems, directories too.
        process::run(
            Command::new("cp")
                .args(["-rT"])
                .arg(directory.join(guest.trim_start_matches('/')))
                .arg(host),
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn take_wants_an_absolute_guest_path_and_a_name() {
        assert_eq!(parse_take("/root/a=b").unwrap(), ("/root/a".to_owned(), "b".into()));
        for bad in ["/root/a", "a=b", "/root/a=", ""] {
            assert!(parse_take(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_image_that_finds_no_room_is_not_booted() {
        room(400, 960).unwrap();
        let said = room(417, 960).unwrap_err().to_string();
        assert!(said.ends_with("give --memory 994"), "{said}");
    }

    #[test]
    fn bring_goes_to_root_unless_told() {
        let to = |text: &str| parse_bring(text).unwrap().1;
        assert_eq!(to("/proc/self/../version"), "/root/version");
        assert_eq!(to("/proc/version=/etc/version"), "/etc/version");
        assert_eq!(to("/proc/version=a/b"), "/root/a/b");
        assert!(parse_bring("/no/such/file").is_err());
    }

    #[test]
    fn script_sets_variables_and_quotes() {
        let script = script(&["A=b c".to_owned()], &["echo".into(), "it's".into()]).unwrap();
        assert!(script.ends_with("export A='b c'\nexec 'echo' 'it'\\''s'\n"), "{script}");
    }
}
