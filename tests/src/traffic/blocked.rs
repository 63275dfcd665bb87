//! Senders that wait for room in the send buffer, with a clock of their own around every call.

use std::{
    io::{self, Write},
    net::Shutdown,
    os::fd::AsFd,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use rustix::{net::sockopt, process::setpriority_process, thread::gettid};

use super::{Connection, read_bytes, send_once};
use crate::processor::awake_for;

/// Bytes of the send and receive buffers of a full connection, before the kernel doubles them.
pub const BUFFER_BYTES: usize = 16 << 10;

/// Fills the client's send buffer and the server's receive buffer. Returns the bytes in flight.
///
/// # Errors
/// When a socket call fails.
pub fn fill(connection: &Connection) -> Result<usize> {
    sockopt::set_socket_send_buffer_size(connection.client.as_fd(), BUFFER_BYTES)?;
    sockopt::set_socket_recv_buffer_size(connection.server.as_fd(), BUFFER_BYTES)?;
    let mut socket = &connection.client;
    socket.set_nonblocking(true)?;
    let mut filled = 0;
    let mut rounds_without_room = 0;
    while rounds_without_room < 5 {
        match socket.write(&[0; 1024]) {
            Ok(sent) => {
                filled += sent;
                rounds_without_room = 0;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // What was acknowledged meanwhile makes room again.
                rounds_without_room += 1;
                thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(error.into()),
        }
    }
    socket.set_nonblocking(false)?;
    Ok(filled)
}

/// When a reader takes how much.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Wait before the first bytes.
    pub start: Duration,
    /// Wait before each further step.
    pub step: Duration,
    /// Bytes read in one step.
    pub step_bytes: usize,
}

/// One call, by the caller's own clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// How long it took by CLOCK_MONOTONIC around it.
    pub took: Duration,
    /// How much of that the caller did not sleep, as it does in the call alone: it ran, or was ready to run and
    /// had no processor, before, in or after the call.
    pub awake: Duration,
    /// When it returned.
    pub returned: Instant,
}

/// Several senders on one full connection, each making `sends` blocking calls of `bytes`, while the
/// server reads at a pace, which begins when all senders do.
///
/// # Errors
/// When a socket call fails or takes less than all.
pub fn send_blocked(
    connection: &Connection,
    filled: usize,
    senders: usize,
    sends: usize,
    bytes: usize,
    pace: Pace,
) -> Result<Vec<Call>> {
    let message = vec![b'b'; bytes];
    let (message, together) = (&message, &Barrier::new(senders + 1));
    thread::scope(|scope| {
        let threads: Vec<_> = (0..senders)
            .map(|_| {
                scope.spawn(move || -> Result<Vec<Call>> {
                    hurry();
                    together.wait();
                    let mut calls = Vec::with_capacity(sends);
                    for _ in 0..sends {
                        let before = awake_for()?;
                        let start = Instant::now();
                        send_once(&connection.client, message)?;
                        let returned = Instant::now();
                        let awake = awake_for()?.saturating_sub(before);
                        calls.push(Call { took: returned - start, awake, returned });
                    }
                    Ok(calls)
                })
            })
            .collect();
        together.wait();
        let total = filled + senders * sends * bytes;
        let read = read_paced(connection, total, pace);
        if read.is_err() {
            // Let go of the senders, or this scope never ends.
            connection.server.shutdown(Shutdown::Both)?;
        }
        let mut calls = Vec::with_capacity(senders * sends);
        for thread in threads {
            match thread.join() {
                Ok(of_one) => calls.extend(of_one?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        read?;
        ensure!(calls.len() == senders * sends, "a sender lost count");
        Ok(calls)
    })
}

/// Lets this thread go before others, so that its clock does not count its wait for a processor
/// between the return of a call and the look at the clock; and, where real time is permitted, keep
/// its processor until it blocks, so that it is not preempted inside netdiag's programs.
fn hurry() {
    let first_in_first_out = libc::sched_param { sched_priority: 1 };
    // SAFETY: the kernel copies the struct, and changes nothing but this thread's scheduling.
    let result =
        unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const first_in_first_out) };
    if result != 0 {
        // Without that privilege either the clock is less exact.
        let _not_permitted = setpriority_process(Some(gettid()), -20);
    }
}

fn read_paced(connection: &Connection, mut left: usize, pace: Pace) -> Result<()> {
    thread::sleep(pace.start);
    while left > 0 {
        let step = pace.step_bytes.min(left);
        read_bytes(&connection.server, step)?;
        left -= step;
        thread::sleep(pace.step);
    }
    Ok(())
}
