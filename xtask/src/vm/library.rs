//! Which shared libraries a host program needs, by `ldd`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

use crate::process;

/// The libraries and the loader of `program`; none for a static one.
pub(crate) fn of(program: &Path) -> Result<Vec<PathBuf>> {
    // ldd fails on a static program, and says so on stderr.
    let output = Command::new("ldd").arg(program).env("LC_ALL", "C").output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        if stderr.contains("not a dynamic executable") {
            return Ok(Vec::new());
        }
        bail!("ldd {} failed: {}", program.display(), stderr.trim());
    }
    parse(&String::from_utf8_lossy(&output.stdout))
}

/// Paths from `ldd`'s lines: `name => /path (0x…)`, `/path (0x…)`, `linux-vdso.so.1 (0x…)`.
fn parse(output: &str) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for line in output.lines() {
        let line = line.trim();
        if line.ends_with("=> not found") {
            bail!("a library is missing: {line}");
        }
        let target = line.split_once("=> ").map_or(line, |(_, target)| target);
        let path = target.split(" (").next().unwrap_or_default();
        if path.starts_with('/') {
            paths.push(PathBuf::from(path));
        }
    }
    Ok(paths)
}

/// The path of `program` on this machine, or which package has it.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    match process::which(name) {
        Some(path) => Ok(path),
        None => bail!(
            "there is no {name} on this machine to put in the guest: install it, then try again"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_from_every_form() {
        let output = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibmnl.so.0 => /lib/x86_64-linux-gnu/libmnl.so.0 \
                      (0x00007f)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let expected = ["/lib/x86_64-linux-gnu/libmnl.so.0", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(parse(output).unwrap(), expected.map(PathBuf::from));
        assert_eq!(parse("\tstatically linked\n").unwrap(), Vec::<PathBuf>::new());
        assert!(parse("\tlibx.so => not found\n").is_err());
    }
}
