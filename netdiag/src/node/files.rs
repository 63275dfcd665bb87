//! Files in which the kernel tells how things stand: small, of a length that nobody knows before, and read again and again.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use super::netns::Namespace;

/// Room for nearly all of them.
const ROOM: usize = 8 << 10;

/// The text of a file, in one piece where that has room: of what says that it has no length `fs::read_to_string` takes
/// pieces that grow from 32 bytes on, which are a dozen calls.
///
/// # Errors
/// Those of opening and reading it, and `InvalidData` where it is no text.
pub fn text(path: impl AsRef<Path>) -> io::Result<String> {
    let mut bytes = Vec::with_capacity(ROOM);
    // Not the file's own, which asks it for its length first.
    File::open(path)?.take(u64::MAX).read_to_end(&mut bytes)?;
    as_text(bytes)
}

/// Files that stay open between two readings: to find one is most of what it takes to read it. What is read is what the
/// path led to at first, for as long as that can be read; so a path that leads each thread elsewhere is to be read in one
/// place alone.
#[derive(Debug, Default)]
pub struct Kept {
    files: HashMap<PathBuf, File>,
}

impl Kept {
    /// The text of a file.
    ///
    /// # Errors
    /// Those of opening and reading it, and `InvalidData` where it is no text.
    pub fn text(&mut self, path: impl AsRef<Path>) -> io::Result<String> {
        let path = path.as_ref();
        if let Some(file) = self.files.get(path) {
            if let Ok(text) = again(file) {
                return Ok(text);
            }
            // It is gone, as with a module, and another one may be there.
            self.files.remove(path);
        }
        let file = File::open(path)?;
        let text = again(&file)?;
        self.files.insert(path.to_owned(), file);
        Ok(text)
    }

    /// The files of the network namespace that the calling thread is in, by paths that lead each thread to its own. Only
    /// those of the process's own are kept: an open file would keep another one alive after its pod is gone.
    pub fn within(&mut self, namespace: &Namespace) -> Files<'_> {
        Files { kept: namespace.own.then_some(self) }
    }
}

/// Files of one network namespace, for a thread that is in it.
#[derive(Debug)]
pub struct Files<'a> {
    kept: Option<&'a mut Kept>,
}

impl Files<'_> {
    /// Of which none is kept.
    #[must_use]
    pub const fn once() -> Self {
        Self { kept: None }
    }

    /// The text of a file.
    ///
    /// # Errors
    /// Those of opening and reading it, and `InvalidData` where it is no text.
    pub fn text(&mut self, path: impl AsRef<Path>) -> io::Result<String> {
        match &mut self.kept {
            Some(kept) => kept.text(path),
            None => text(path),
        }
    }
}

/// All of an open file, from its beginning.
fn again(file: &File) -> io::Result<String> {
    let (mut bytes, mut length) = (vec![0; ROOM], 0);
    loop {
        if length == bytes.len() {
            bytes.resize(2 * length, 0);
        }
        match file.read_at(&mut bytes[length..], length as u64) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(length);
    as_text(bytes)
}

fn as_text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_is_read_whole_and_anew() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        let mut kept = Kept::default();
        let long = "0123456789".repeat(ROOM / 5 + 1);
        for content in ["", "short\n", long.as_str(), "again\n"] {
            fs::write(&path, content).expect("a file");
            assert_eq!(text(&path).expect("text"), content);
            assert_eq!(kept.text(&path).expect("text"), content);
        }
        fs::write(&path, [b'a', 0xff]).expect("a file");
        for read in [text(&path), kept.text(&path), Files::once().text(&path)] {
            assert_eq!(read.expect_err("no text").kind(), io::ErrorKind::InvalidData);
        }
        fs::remove_file(&path).expect("removed");
        assert_eq!(kept.text(&path).expect_err("gone").kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn what_the_kernel_tells_is_told_anew() {
        let mut kept = Kept::default();
        let mut uptime = || kept.text("/proc/uptime").expect("a procfs");
        let first = uptime();
        // It tells hundredths of a second.
        std::thread::sleep(std::time::Duration::from_millis(30));
        let later = uptime();
        assert!(later != first && later.ends_with('\n'), "{first} {later}");
    }

    #[test]
    fn only_files_of_the_own_namespace_stay_open() {
        const PATH: &str = "/proc/thread-self/net/snmp";
        let (mut kept, mut other) = (Kept::default(), Namespace::default());
        kept.within(&other).text(PATH).expect("text");
        assert_eq!(kept.files.len(), 0);
        other.own = true;
        kept.within(&other).text(PATH).expect("text");
        assert_eq!(kept.files.len(), 1);
    }
}
