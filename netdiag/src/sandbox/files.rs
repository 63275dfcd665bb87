//! Files that may be opened, by Landlock. It is the calling thread's, and that of threads which begin later.

use std::path::{Path, PathBuf};

use anyhow::Result;
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, LandlockStatus, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, Scope, path_beneath_rules,
};

use super::directory_of;

/// What is asked for; a kernel with an older one gives what it has.
const ASKED: ABI = ABI::V6;

/// What the kernel has of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Landlock {
    /// Its ABI.
    There(u32),
    /// It is older, or was built without.
    NotBuilt,
    /// It was started without.
    NotEnabled,
}

impl Landlock {
    pub(super) const fn abi(self) -> Option<u32> {
        match self {
            Self::There(abi) => Some(abi),
            Self::NotBuilt | Self::NotEnabled => None,
        }
    }

    /// Why there is none.
    pub(super) const fn missing(self) -> Option<&'static str> {
        match self {
            Self::There(_) => None,
            Self::NotBuilt => Some("this kernel is older than 5.13, or was built without"),
            Self::NotEnabled => Some("this kernel was started without: lsm= in /proc/cmdline"),
        }
    }
}

/// Allows reading below directories, those that files are in, too, and replacing a file, and nothing else: no TCP, no
/// signals to others. Where the kernel has no Landlock, all is as before.
///
/// # Errors
/// The kernel's.
pub(super) fn only(read: &[&Path], replaced: Option<&Path>) -> Result<Landlock> {
    let reading: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
    let writing = AccessFs::ReadDir
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::RemoveFile;
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(ASKED))?
        .handle_access(AccessNet::from_all(ASKED))?
        .scope(Scope::from_all(ASKED))?
        .create()?
        .add_rules(path_beneath_rules(read.iter().flat_map(|path| directories(path)), reading))?
        .add_rules(path_beneath_rules(replaced.map(directory_of), writing))?
        .restrict_self()?;
    Ok(match status.landlock {
        LandlockStatus::Available { effective_abi, kernel_abi } => {
            Landlock::There(kernel_abi.map_or(effective_abi as u32, i32::cast_unsigned))
        }
        LandlockStatus::NotEnabled => Landlock::NotEnabled,
        LandlockStatus::NotImplemented => Landlock::NotBuilt,
    })
}

/// Where it is, and where it leads to. What lies beside a file belongs to it: a recording has two.
fn directories(path: &Path) -> [PathBuf; 2] {
    let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    [path, &whole].map(|path| if path.is_dir() { path } else { directory_of(path) }.to_owned())
}

#[cfg(test)]
mod tests {
    use std::{fs, io, thread};

    use super::only;

    #[test]
    fn one_directory_is_read_and_nothing_written() {
        let (here, there) = (tempfile::tempdir().expect("one"), tempfile::tempdir().expect("two"));
        for directory in [&here, &there] {
            fs::write(directory.path().join("file"), "content").expect("a file");
        }
        let (ours, theirs) = (here.path().to_owned(), there.path().to_owned());
        let run = move || {
            let landlock = only(&[&ours], None).expect("rules");
            if let Some(why) = landlock.missing() {
                return eprintln!("SKIPPED: Landlock is missing: {why}");
            }
            assert_eq!(fs::read_to_string(ours.join("file")).expect("read"), "content");
            for refused in [
                fs::read(theirs.join("file")).map(drop),
                fs::write(ours.join("file"), "other"),
                fs::write(ours.join("new"), "other"),
                fs::remove_file(ours.join("file")),
            ] {
                let error = refused.expect_err("it is refused");
                assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{landlock:?}");
            }
        };
        thread::spawn(run).join().expect("a thread");
    }

    #[test]
    fn one_file_is_replaced() {
        let (here, there) = (tempfile::tempdir().expect("one"), tempfile::tempdir().expect("two"));
        fs::write(here.path().join("a.jsonl"), "content").expect("a file");
        fs::write(there.path().join("page"), "old").expect("a file");
        let (ours, theirs) = (here.path().to_owned(), there.path().to_owned());
        let run = move || {
            let (one, page) = (ours.join("a.jsonl"), theirs.join("page"));
            let landlock = only(&[&one], Some(&page)).expect("rules");
            if let Some(why) = landlock.missing() {
                return eprintln!("SKIPPED: Landlock is missing: {why}");
            }
            fs::write(ours.join("b.hlog"), "").expect_err("it is refused");
            assert_eq!(fs::read_to_string(one).expect("read"), "content");
            fs::write(theirs.join(".page.1"), "new").expect("beside its place");
            fs::rename(theirs.join(".page.1"), &page).expect("put there");
            fs::read(&page).map(drop).expect_err("it is not read");
        };
        thread::spawn(run).join().expect("a thread");
        let page = fs::read_to_string(there.path().join("page")).expect("read");
        assert!(["new", "old"].contains(&page.as_str()), "{page}");
    }
}
