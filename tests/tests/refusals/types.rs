//! Where the kernel's types are not to be had: from a kernel that publishes none, and from a file that holds none.

use std::{
    fs,
    process::{Output, Stdio},
};

use anyhow::{Context as _, Result};
use netdiag::{
    signal::DEFINITIONS,
    snapshot::{Doctor, Status},
};
use netdiag_tests::{
    facts::Facts,
    netdiag::{binary, run, run_command},
    requirement::alone,
    tool,
};

use super::{CANNOT_OBSERVE, refused};

/// Where a kernel publishes them.
const PUBLISHED: &str = "/sys/kernel/btf";

#[test]
fn no_usable_btf() -> Result<()> {
    let _alone = alone();
    let mut facts = Facts::new();
    for (what, content) in [("empty", vec![]), ("garbage", vec![0x5a; 5000])] {
        let file = tempfile::NamedTempFile::new()?;
        fs::write(file.path(), content)?;
        let path = file.path().to_string_lossy().into_owned();
        let output = run(&["live", "-d", "1s", "--btf", &path])?;
        refused(&mut facts, what, &output, CANNOT_OBSERVE, &[&path, "BTF"]);
    }
    facts.finish();
    Ok(())
}

/// Runs netdiag as on a kernel that was built without: the directory is empty, for it alone.
fn without(arguments: &[&str]) -> Result<Output> {
    let script = format!("mount -t tmpfs tmpfs {PUBLISHED} && exec \"$@\"");
    let mut command = tool::command("unshare")?;
    command.args(["-m", "sh", "-c", &script, "sh"]).arg(binary()?).args(arguments);
    command.stdin(Stdio::null());
    run_command(command)
}

fn doctor(output: &Output) -> Result<Doctor> {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    serde_json::from_str(said.trim()).context(said)
}

/// It is said what is missing, what that means, and what can be done; and doing that helps.
#[test]
fn a_kernel_that_publishes_no_types() -> Result<()> {
    let _alone = alone();
    let directory = tempfile::tempdir()?;
    let copy = directory.path().join("types");
    fs::write(&copy, fs::read(format!("{PUBLISHED}/vmlinux"))?)?;
    let words = [
        "/sys/kernel/btf/vmlinux: No such file",
        "nothing can be observed",
        "CONFIG_DEBUG_INFO_BTF",
        "--btf FILE",
    ];
    let mut facts = Facts::new();
    for arguments in [&["live", "-d", "1s"][..], &["events", "-d", "1s"]] {
        let output = without(arguments)?;
        refused(&mut facts, &format!("{arguments:?}"), &output, CANNOT_OBSERVE, &words);
    }
    // What it knows all the same, doctor says.
    let output = without(&["doctor", "-o", "json"])?;
    let known = doctor(&output)?;
    let line = String::from_utf8_lossy(&output.stderr).into_owned();
    facts.equal("doctor: types", known.btf, false);
    let off = known.signals.iter().filter(|signal| signal.status == Status::Off).count();
    facts.equal("doctor: signals off", off, DEFINITIONS.len());
    facts.equal("doctor: status", output.status.code(), Some(CANNOT_OBSERVE));
    facts.holds(format_args!("doctor: why: {line}"), words.iter().all(|word| line.contains(word)));
    // Programs that need no types of the kernel's own read by those of the file.
    let given = copy.to_string_lossy().into_owned();
    let asked = ["doctor", "-o", "json", "--signals", "retransmit", "--btf", &given];
    let output = without(&asked)?;
    facts.note(String::from_utf8_lossy(&output.stderr));
    for signal in doctor(&output)?.signals {
        if ["socket", "retransmit"].contains(&signal.signal.as_str()) {
            facts.equal(
                format_args!("with --btf: {signal:?}"),
                signal.source.as_deref(),
                Some("raw_tp"),
            );
        }
    }
    facts.equal("with --btf: status", output.status.code(), Some(0));
    facts.finish();
    Ok(())
}
