//! Cutting what a killed run or a power failure left torn.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read as _, Seek as _, SeekFrom, Write as _},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use super::{
    block::{CLOSED, COMPLETE},
    directory::Directory,
    name::Name,
};

/// Read at a time.
const READ_BYTES: usize = 64 << 10;

/// Where complete intervals end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Bytes of the log to keep.
    pub log: usize,
    /// Bytes of the sidecar to keep.
    pub sidecar: usize,
    /// Intervals kept.
    pub intervals: usize,
}

/// Finds the intervals that both files hold whole. Without a sidecar, those of the log. Holds no line of either in
/// memory: a file may be as large as the disk allows.
///
/// # Errors
/// Those of reading.
pub fn cut(log: impl BufRead, sidecar: Option<impl BufRead>) -> io::Result<Cut> {
    let (header, logged) = log_ends(log)?;
    let Some(sidecar) = sidecar else {
        let kept = logged.last().copied().unwrap_or(header);
        return Ok(Cut { log: kept, sidecar: 0, intervals: logged.len() });
    };
    let noted = sidecar_ends(sidecar, logged.len())?;
    let intervals = logged.len().min(noted.len());
    let end = |ends: &[usize], none| intervals.checked_sub(1).map_or(none, |last| ends[last]);
    Ok(Cut { log: end(&logged, header), sidecar: end(&noted, 0), intervals })
}

/// Where the header of a log ends, and each of its complete intervals.
fn log_ends(mut log: impl BufRead) -> io::Result<(usize, Vec<usize>)> {
    let mut header = 0;
    let mut in_header = true;
    let mut ends = Vec::new();
    let mut at = 0;
    while let Some(line) = Line::next(&mut log)? {
        at += line.length;
        if !line.is_whole() || line.has_zero {
            break;
        }
        if in_header && line.begins_with("#[") && !line.begins_with("#[Gap") {
            header = at;
        } else {
            in_header = false;
        }
        if line.begins_with(COMPLETE) {
            ends.push(at);
        }
    }
    Ok((header, ends))
}

/// Where each whole line of a sidecar ends, of the first `most`.
fn sidecar_ends(mut sidecar: impl BufRead, most: usize) -> io::Result<Vec<usize>> {
    let mut ends = Vec::new();
    let mut at = 0;
    while ends.len() < most
        && let Some(line) = Line::next(&mut sidecar)?
        && line.begins_with("{")
        && line.last == *b"}\n"
    {
        at += line.length;
        ends.push(at);
    }
    Ok(ends)
}

/// What matters of a line, however long it is.
#[derive(Default)]
struct Line {
    /// Bytes, with the end of the line.
    length: usize,
    begin: [u8; COMPLETE.len()],
    last: [u8; 2],
    has_zero: bool,
}

impl Line {
    /// Reads the next one; none at the end.
    fn next(from: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut line = Self::default();
        loop {
            let part = match from.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                filled => filled?,
            };
            if part.is_empty() {
                return Ok((line.length > 0).then_some(line));
            }
            let end = part.iter().position(|&byte| byte == b'\n').map_or(part.len(), |at| at + 1);
            line.take(&part[..end]);
            from.consume(end);
            if line.is_whole() {
                return Ok(Some(line));
            }
        }
    }

    fn take(&mut self, part: &[u8]) {
        for (to, byte) in self.begin.iter_mut().skip(self.length).zip(part) {
            *to = *byte;
        }
        self.last = match *part {
            [.., one, two] => [one, two],
            [one] => [self.last[1], one],
            [] => self.last,
        };
        self.has_zero |= part.contains(&0);
        self.length += part.len();
    }

    fn is_whole(&self) -> bool {
        self.last[1] == b'\n'
    }

    /// Whether it begins with this, of which no more is known than of [`COMPLETE`].
    fn begins_with(&self, begin: &str) -> bool {
        self.length >= begin.len() && self.begin.starts_with(begin.as_bytes())
    }
}

/// Cuts the torn tails of all of the node's files that nobody is writing, and says a line about
/// each that was cut or could not be.
pub(super) fn all(directory: &Directory) -> Vec<String> {
    let names = match directory.pairs() {
        Ok(names) => names,
        Err(error) => {
            return vec![format!(
                "{}: {error}; what an earlier run left incomplete was not looked for, give a directory that \
                 this user may read",
                directory.path().display()
            )];
        }
    };
    names
        .iter()
        .filter_map(|name| {
            let said = match one(directory, name) {
                Ok(0) => return None,
                Ok(bytes) => format!("{bytes} bytes of an incomplete interval were cut"),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
                Err(error) => format!("{error}; left as it is, its last interval may be torn"),
            };
            Some(format!("{}/{name}: {said}", directory.path().display()))
        })
        .collect()
}

/// A file that nobody else writes meanwhile. Given back at once, also where a child that is just being started has a
/// copy of its descriptor: to who looks next it would seem to be written.
struct Locked(File);

impl Locked {
    /// None where somebody else has it.
    fn take(file: File) -> io::Result<Option<Self>> {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => Ok(None),
            locked => Ok(locked.map(|()| Some(Self(file)))?),
        }
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // It goes with the last descriptor otherwise.
        let _closing_will_do = flock(&self.0, FlockOperation::Unlock);
    }
}

/// Cuts one pair; returns how many bytes went.
fn one(directory: &Directory, name: &Name) -> io::Result<u64> {
    let Some(mut log) = Locked::take(directory.reopen(&format!("{name}.hlog"))?)? else {
        // another process is writing it
        return Ok(0);
    };
    let log = &mut log.0;
    if is_closed(log)? {
        return Ok(0);
    }
    let mut sidecar = match directory.reopen(&format!("{name}.jsonl")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        opened => Some(opened?),
    };
    let from_start = |file: &mut File| -> io::Result<_> {
        file.seek(SeekFrom::Start(0))?;
        Ok(BufReader::with_capacity(READ_BYTES, file.try_clone()?))
    };
    let lines = sidecar.as_mut().map(from_start).transpose()?;
    let cut = cut(from_start(log)?, lines)?;
    let mut gone = shorten(log, cut.log)?;
    if let Some(sidecar) = sidecar {
        gone += shorten(&sidecar, cut.sidecar)?;
    }
    // so that the next start need not read it again; a full disk changes nothing
    drop(log.write_all(CLOSED.as_bytes()));
    Ok(gone)
}

/// Keeps the first bytes of a file; returns how many went.
fn shorten(file: &File, kept: usize) -> io::Result<u64> {
    let kept = kept as u64;
    let gone = file.metadata()?.len().saturating_sub(kept);
    file.set_len(kept)?;
    Ok(gone)
}

fn is_closed(log: &mut File) -> io::Result<bool> {
    let length = log.metadata()?.len();
    let Some(start) = length.checked_sub(CLOSED.len() as u64) else { return Ok(false) };
    log.seek(SeekFrom::Start(start))?;
    let mut tail = String::new();
    Ok(log.read_to_string(&mut tail).is_ok() && tail == CLOSED)
}
