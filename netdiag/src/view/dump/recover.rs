//! Cutting what a killed run or a power failure left torn.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
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

/// Finds the intervals that both files hold whole. Without a sidecar, those of the log.
#[must_use]
pub fn cut(log: &[u8], sidecar: Option<&[u8]>) -> Cut {
    let (header, logged) = log_ends(log);
    let Some(sidecar) = sidecar else {
        let kept = logged.last().copied().unwrap_or(header);
        return Cut { log: kept, sidecar: 0, intervals: logged.len() };
    };
    let noted = sidecar_ends(sidecar);
    let intervals = logged.len().min(noted.len());
    let end = |ends: &[usize], none| intervals.checked_sub(1).map_or(none, |last| ends[last]);
    Cut { log: end(&logged, header), sidecar: end(&noted, 0), intervals }
}

/// Where the header of a log ends, and each of its complete intervals.
fn log_ends(log: &[u8]) -> (usize, Vec<usize>) {
    let mut header = 0;
    let mut in_header = true;
    let mut ends = Vec::new();
    let mut at = 0;
    for line in log.split_inclusive(|&byte| byte == b'\n') {
        at += line.len();
        if line.last() != Some(&b'\n') || line.contains(&0) {
            break;
        }
        if in_header && line.starts_with(b"#[") && !line.starts_with(b"#[Gap") {
            header = at;
        } else {
            in_header = false;
        }
        if line.starts_with(COMPLETE.as_bytes()) {
            ends.push(at);
        }
    }
    (header, ends)
}

/// Where each whole line of a sidecar ends.
fn sidecar_ends(sidecar: &[u8]) -> Vec<usize> {
    let mut at = 0;
    sidecar
        .split_inclusive(|&byte| byte == b'\n')
        .take_while(|line| line.starts_with(b"{") && line.ends_with(b"}\n"))
        .map(|line| {
            at += line.len();
            at
        })
        .collect()
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
    let log_bytes = read(log)?;
    let sidecar_bytes = sidecar.as_mut().map(read).transpose()?;
    let cut = cut(&log_bytes, sidecar_bytes.as_deref());
    log.set_len(cut.log as u64)?;
    let mut gone = log_bytes.len() - cut.log;
    if let (Some(sidecar), Some(bytes)) = (sidecar, sidecar_bytes) {
        sidecar.set_len(cut.sidecar as u64)?;
        gone += bytes.len() - cut.sidecar;
    }
    // so that the next start need not read it again; a full disk changes nothing
    drop(log.write_all(CLOSED.as_bytes()));
    Ok(gone as u64)
}

fn is_closed(log: &mut File) -> io::Result<bool> {
    let length = log.metadata()?.len();
    let Some(start) = length.checked_sub(CLOSED.len() as u64) else { return Ok(false) };
    log.seek(SeekFrom::Start(start))?;
    let mut tail = String::new();
    Ok(log.read_to_string(&mut tail).is_ok() && tail == CLOSED)
}

fn read(file: &mut File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}
