//! Files in which the kernel tells how things stand: small, of a length that nobody knows before, and read again and again.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

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

fn as_text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_is_read_whole() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        let long = "0123456789".repeat(ROOM / 5 + 1);
        for content in ["", "short\n", long.as_str(), "again\n"] {
            fs::write(&path, content).expect("a file");
            assert_eq!(text(&path).expect("text"), content);
        }
        fs::write(&path, [b'a', 0xff]).expect("a file");
        assert_eq!(text(&path).expect_err("no text").kind(), io::ErrorKind::InvalidData);
        fs::remove_file(&path).expect("removed");
        assert_eq!(text(&path).expect_err("gone").kind(), io::ErrorKind::NotFound);
    }
}
