//! A client that asks at a pace, over connections that it keeps or over one for each request.

use std::{
    io::{self, Read as _, Write as _},
    mem,
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use rustix::net::sockopt;
use serde::{Deserialize, Serialize};

use super::{Pace, count, failed, serve::HEADER, stream::pace_by_kernel, took};

/// How a client ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// It never does: each connection carries many requests.
    Keeps,
    /// It closes after each answer.
    Closes,
    /// It closes after each answer, without waiting for what is under way.
    Resets,
    /// It forgets it after each answer.
    Leaks,
}

/// Asks at a pace.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ask {
    /// Whom, by turns.
    pub to: Vec<SocketAddr>,
    /// Requests under way at most.
    pub connections: u32,
    /// Requests a second of all.
    pub per_second: f64,
    /// Bytes of a request.
    pub request: u32,
    /// Bytes of an answer.
    pub reply: u32,
    /// Bytes of its send buffers, where it sets that.
    pub send_buffer: Option<usize>,
    /// Bytes a second that the kernel lets out of each at most, where it sets that.
    pub pacing: Option<u32>,
    /// What becomes of a connection.
    pub end: End,
    /// How long it waits for a connection or an answer.
    pub patience: Duration,
    /// Requests in all, by each connection; 0: without end.
    pub times: u64,
    /// Whom it asks when a connection has failed, if somebody else.
    pub then: Option<SocketAddr>,
}

impl Ask {
    /// Short requests over kept connections, one to each.
    #[must_use]
    pub fn to(to: Vec<SocketAddr>, per_second: f64) -> Self {
        Self {
            connections: to.len() as u32,
            to,
            per_second,
            request: 200,
            reply: 1000,
            send_buffer: None,
            pacing: None,
            end: End::Keeps,
            patience: Duration::from_secs(60),
            times: 0,
            then: None,
        }
    }

    pub(super) fn begin(&self) {
        for number in 0..self.connections {
            let this = self.clone();
            thread::spawn(move || this.go_on(number as usize));
        }
    }

    fn go_on(&self, number: usize) {
        let mut to = self.to[number % self.to.len()];
        let each = self.per_second / f64::from(self.connections);
        // Not all at once.
        let offset =
            Duration::from_secs_f64(1.0 / self.per_second.max(0.1)).min(Duration::from_secs(1));
        thread::sleep(offset * number as u32);
        let mut pace = Pace::new(each);
        let mut kept = None;
        let mut left = if self.times == 0 { u64::MAX } else { self.times };
        while left > 0 {
            left -= 1;
            pace.wait();
            count("requests");
            let begun = Instant::now();
            match self.ask(&mut kept, to) {
                Ok(()) => {
                    count("answers");
                    took(begun);
                }
                Err(error) => {
                    failed(&error);
                    kept = None;
                    to = self.then.unwrap_or(to);
                    thread::sleep(Duration::from_millis(20));
                }
            }
        }
        // It has no more to ask, and stays as it is.
        loop {
            thread::park();
        }
    }

    fn ask(&self, kept: &mut Option<TcpStream>, to: SocketAddr) -> io::Result<()> {
        let mut stream = match kept.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect_timeout(&to, self.patience)?;
                count("connections");
                sockopt::set_tcp_nodelay(&stream, true)?;
                if let Some(bytes) = self.send_buffer {
                    sockopt::set_socket_send_buffer_size(&stream, bytes)?;
                }
                if let Some(bytes) = self.pacing {
                    pace_by_kernel(&stream, bytes)?;
                }
                stream.set_read_timeout(Some(self.patience))?;
                stream
            }
        };
        let length = self.request.max(HEADER as u32);
        let mut request = [length, self.reply].map(u32::to_be_bytes).concat();
        request.resize(length as usize, b'x');
        stream.write_all(&request)?;
        stream.read_exact(&mut vec![0; self.reply as usize])?;
        match self.end {
            End::Keeps => *kept = Some(stream),
            End::Closes => drop(stream),
            End::Resets => sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?,
            End::Leaks => mem::forget(stream),
        }
        Ok(())
    }
}
