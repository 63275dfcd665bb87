//! bpftrace that tells what it has counted while it runs, as netdiag does, and so shows when it began to.

use anyhow::{Context as _, Result, ensure};

use super::{Other, Script, counted};
use crate::tool;

/// Says again and again how long sends of a process take, which it knows by its name; killed when dropped.
#[derive(Debug)]
pub struct Telling(Other);

impl Telling {
    /// Starts it with a script of sends, where tracefs is mounted, and returns when it has said something.
    ///
    /// # Errors
    /// When it ends instead.
    pub fn begin(script: Script, comm: &str) -> Result<Self> {
        let text = script.text(&format!("/comm == \"{comm}\"/"));
        let text = text + " interval:ms:100 { print(@ns); }";
        let mut other = Other::spawn(tool::command("bpftrace")?.args(["-e", &text]))?;
        // What comes before is no data.
        loop {
            let line = other.line()?;
            ensure!(!line.is_empty(), "bpftrace has ended");
            if line.starts_with('@') {
                return Ok(Self(other));
            }
        }
    }

    /// Ends it and gives the calls that it has counted.
    ///
    /// # Errors
    /// When it does not end well.
    pub fn stop(mut self) -> Result<u64> {
        self.0.interrupt()?;
        last(&self.0.end()?)
    }
}

/// The sum of the histogram that was printed last: each holds those before it.
fn last(said: &str) -> Result<u64> {
    let (_, last) = said.rsplit_once("@ns:").with_context(|| said.to_owned())?;
    counted(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_histograms_the_last_counts() {
        let said = "[1K, 2K)  7 |@|\n\n@ns: \n[1K, 2K)  40 |@|\n\n\n@ns: \n[512, 1K) 2 |@|\n[1K, 2K) 41 |@|\n\
                    \n@start[17]: 5\n";
        assert_eq!(last(said).unwrap(), 43);
        assert!(last("[1K, 2K)  7 |@|\n").is_err());
    }
}
