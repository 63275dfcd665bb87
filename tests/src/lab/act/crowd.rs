//! Many connections that do nothing, or are opened and ended one after the other.

use std::{
    io::Read as _,
    mem,
    net::{Shutdown, SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{Pace, count, failed, listen};

/// What a listener does with each connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Each {
    /// Closes it when the client has.
    Closes,
    /// Keeps it, whatever the client does.
    Keeps,
    /// Does not accept it.
    Leaves,
}

/// Accepts many connections.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Accept {
    /// Where it listens.
    pub at: Vec<SocketAddr>,
    /// What it does with each.
    pub each: Each,
    /// Connections that may wait.
    pub backlog: i32,
    /// How long it waits before it accepts the next.
    pub pause: Duration,
}

impl Accept {
    /// One that is quick.
    #[must_use]
    pub const fn at(at: Vec<SocketAddr>, each: Each) -> Self {
        Self { at, each, backlog: 4096, pause: Duration::ZERO }
    }

    pub(super) fn begin(&self) -> Result<()> {
        for &at in &self.at {
            let listener = listen(at, self.backlog, None)?;
            let this = self.clone();
            if this.each == Each::Leaves {
                mem::forget(listener);
                continue;
            }
            thread::spawn(move || {
                for stream in listener.incoming() {
                    thread::sleep(this.pause);
                    let Ok(mut stream) = stream else { continue };
                    count("accepted");
                    match this.each {
                        Each::Closes => {
                            // One after the other: its client closes at once.
                            let _ended = stream.read(&mut [0; 64]);
                        }
                        Each::Keeps | Each::Leaves => mem::forget(stream),
                    }
                }
            });
        }
        Ok(())
    }
}

/// What is done with a connection that was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Then {
    /// It is kept.
    Keeps,
    /// It is closed.
    Closes,
    /// Its own way is ended (`shutdown`), and the rest kept.
    HalfCloses,
}

/// Opens connections.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Open {
    /// To whom, by turns.
    pub to: Vec<SocketAddr>,
    /// How many in all.
    pub count: u64,
    /// How many a second; 0: as fast as it goes, all before it is ready.
    pub per_second: f64,
    /// What is done with each.
    pub then: Then,
    /// How long it waits for each.
    pub patience: Duration,
}

impl Open {
    /// So many at once.
    #[must_use]
    pub const fn at_once(to: Vec<SocketAddr>, count: u64, then: Then) -> Self {
        Self { to, count, per_second: 0.0, then, patience: Duration::from_secs(5) }
    }

    pub(super) fn begin(&self) {
        if self.per_second == 0.0 {
            self.go_on();
        } else {
            let this = self.clone();
            thread::spawn(move || this.go_on());
        }
    }

    fn go_on(&self) {
        let mut pace = Pace::new(self.per_second);
        for number in 0..self.count {
            if self.per_second > 0.0 {
                pace.wait();
            }
            let to = self.to[number as usize % self.to.len()];
            if self.per_second > 0.0 {
                // Nobody may answer: others must not wait for that.
                let (patience, then) = (self.patience, self.then);
                thread::spawn(move || opened(to, patience, then));
            } else {
                opened(to, self.patience, self.then);
            }
        }
    }
}

fn opened(to: SocketAddr, patience: Duration, then: Then) {
    let stream = match TcpStream::connect_timeout(&to, patience) {
        Ok(stream) => stream,
        Err(error) => return failed(&error),
    };
    count("opened");
    match then {
        Then::Keeps => mem::forget(stream),
        Then::Closes => drop(stream),
        Then::HalfCloses => {
            let _gone = stream.shutdown(Shutdown::Write);
            mem::forget(stream);
        }
    }
}
