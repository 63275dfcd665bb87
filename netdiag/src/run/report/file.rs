//! A file that appears whole or not at all: it is written beside its place, for this user alone, and put there when
//! it is done.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context as _, Result};

use crate::{exit, view::dump::remove_left};

/// Files that runs which were killed have left behind, at most.
const LEFT: u32 = 100;

/// A file that is being written.
#[derive(Debug)]
pub(super) struct Replaced {
    file: File,
    path: PathBuf,
    /// Where it is until it is done.
    beside: PathBuf,
}

impl Replaced {
    /// Tries whether there can be a file of that name, and begins it (mode 0600).
    ///
    /// # Errors
    /// Wrong usage: there can be none. A symlink is not followed.
    pub(super) fn create(path: &Path) -> Result<Self, exit::Error> {
        Self::begin(path).map_err(|error| {
            exit::Error::usage(format!(
                "--html {}: {error}; nothing was started, name a file that this user may write",
                path.display()
            ))
        })
    }

    fn begin(path: &Path) -> io::Result<Self> {
        let name = path.file_name().ok_or_else(|| io::Error::other("no name of a file"))?;
        match fs::symlink_metadata(path) {
            Ok(there) if there.is_symlink() => {
                return Err(io::Error::other("a symlink is not followed, name the file itself"));
            }
            Ok(there) if !there.is_file() => return Err(io::Error::other("no plain file")),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = File::open(directory.unwrap_or_else(|| Path::new(".")));
        if let (Some(name), Ok(directory)) = (name.to_str(), directory) {
            remove_left(directory, &format!(".{name}."), 2);
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let mut nth = 0;
        loop {
            let mut hidden = OsString::from(".");
            hidden.push(name);
            hidden.push(format!(".{}.{nth}", process::id()));
            let beside = path.with_file_name(hidden);
            match options.open(&beside) {
                Ok(file) => {
                    // As long as it is written no other run takes it for one that was left.
                    let _unlocked = file.try_lock();
                    return Ok(Self { file, path: path.to_owned(), beside });
                }
                // Of a run that goes on: in containers all have the same process id.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && nth < LEFT => {
                    nth += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes it, and puts it in its place.
    ///
    /// # Errors
    /// Input and output: then there is what was there before.
    pub(super) fn write(
        self,
        write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
    ) -> Result<()> {
        let done = || -> io::Result<()> {
            let mut out = BufWriter::new(&self.file);
            write(&mut out)?;
            out.flush()?;
            drop(out);
            self.file.sync_all()?;
            fs::rename(&self.beside, &self.path)
        };
        done().with_context(|| {
            format!("{}: the page could not be written, and is not there", self.path.display())
        })
    }
}

impl Drop for Replaced {
    fn drop(&mut self) {
        // It is no longer there when all went well.
        drop(fs::remove_file(&self.beside));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let names = fs::read_dir(directory).expect("directory");
        let mut names: Vec<_> = names
            .map(|entry| entry.expect("entry").file_name().into_string().expect("UTF-8"))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn it_is_there_whole_or_not_at_all() {
        let root = tempfile::tempdir().expect("directory");
        let path = root.path().join("page.html");
        fs::write(&path, "before").expect("file");
        let failed = Replaced::create(&path).expect("begun").write(|out| {
            out.write_all(b"half")?;
            Err(io::Error::other("full"))
        });
        assert!(format!("{:#}", failed.expect_err("full")).contains("full"));
        assert_eq!(fs::read_to_string(&path).expect("file"), "before");
        Replaced::create(&path)
            .expect("begun")
            .write(|out| out.write_all(b"after"))
            .expect("written");
        assert_eq!(fs::read_to_string(&path).expect("file"), "after");
        assert_eq!(fs::metadata(&path).expect("file").permissions().mode() & 0o7777, 0o600);
        drop(Replaced::create(&root.path().join("other")).expect("begun"));
        assert_eq!(names(root.path()), ["page.html"]);
    }

    #[test]
    fn what_a_run_left_that_was_killed_is_in_nobodys_way() {
        let root = tempfile::tempdir().expect("directory");
        let path = root.path().join("page.html");
        std::mem::forget(Replaced::create(&path).expect("begun"));
        Replaced::create(&path).expect("begun").write(|out| out.write_all(b"it")).expect("written");
        assert_eq!(fs::read_to_string(&path).expect("file"), "it");
    }

    #[test]
    fn what_a_run_left_that_is_gone_is_removed() {
        let root = tempfile::tempdir().expect("directory");
        let gone = u32::MAX;
        for name in [format!(".page.html.{gone}.0"), format!(".other.html.{gone}.0")] {
            fs::write(root.path().join(name), "half").expect("file");
        }
        drop(Replaced::create(&root.path().join("page.html")).expect("begun"));
        assert_eq!(names(root.path()), [format!(".other.html.{gone}.0")]);
    }

    #[test]
    fn no_link_is_followed() {
        let root = tempfile::tempdir().expect("directory");
        let (victim, link) = (root.path().join("victim"), root.path().join("page.html"));
        fs::write(&victim, "precious").expect("file");
        symlink(&victim, &link).expect("link");
        for (path, expected) in [
            (link, "a symlink is not followed"),
            (root.path().to_owned(), "no plain file"),
            (victim.join("page.html"), "Not a directory"),
            (root.path().join("none/page.html"), "No such file"),
        ] {
            let error = Replaced::create(&path).expect_err("refused");
            assert_eq!(error.status(), exit::Status::Usage);
            assert!(error.to_string().contains(expected), "{error}");
        }
        assert_eq!(fs::read_to_string(&victim).expect("file"), "precious");
    }
}
