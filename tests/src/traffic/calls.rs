//! Every system call that sends on a TCP socket.

use std::{
    io::{self, IoSlice, Seek, Write},
    net::TcpStream,
    os::fd::{AsFd, AsRawFd},
};

use anyhow::{Result, ensure};
use rustix::{
    fs::sendfile,
    net::{SendAncillaryBuffer, SendFlags, sendmsg},
    pipe::{SpliceFlags, pipe, splice},
};

use super::send_once;

/// What a system call hands to TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Name of the system call.
    pub call: &'static str,
    /// Bytes it took.
    pub bytes: usize,
    /// Calls of tcp_sendmsg that it makes; `None` where kernels differ (splice and sendfile hand
    /// over pages in runs).
    pub tcp_sends: Option<usize>,
}

/// Runs one system call after another on a socket and tells what each did.
///
/// # Errors
/// When one fails or takes less than all.
pub fn every_call(socket: &TcpStream) -> Result<Vec<Sent>> {
    const BYTES: usize = 5000;
    let message = [b'c'; BYTES];
    let slices = [IoSlice::new(&message[..1000]), IoSlice::new(&message[1000..])];
    let one = |call| Sent { call, bytes: BYTES, tcp_sends: Some(1) };
    let whole = |bytes: usize| -> Result<()> {
        ensure!(bytes == BYTES, "a call took {bytes} of {BYTES} bytes");
        Ok(())
    };

    send_once(socket, &message)?;
    whole(rustix::io::write(socket, &message)?)?;
    whole(rustix::io::writev(socket, &slices)?)?;
    let mut control = SendAncillaryBuffer::default();
    whole(sendmsg(socket, &slices, &mut control, SendFlags::empty())?)?;
    let messages = 3;
    send_many(socket, &message, messages)?;

    let mut file = tempfile::tempfile()?;
    file.write_all(&message)?;
    file.rewind()?;
    let mut at = 0;
    whole(sendfile(socket, &file, Some(&mut at), BYTES)?)?;

    let (read, write) = pipe()?;
    rustix::io::write(&write, &message)?;
    whole(splice(&read, None, socket, None, BYTES, SpliceFlags::empty())?)?;

    Ok(vec![
        one("send"),
        one("write"),
        one("writev"),
        one("sendmsg"),
        Sent { call: "sendmmsg", bytes: messages * BYTES, tcp_sends: Some(messages) },
        Sent { call: "sendfile", bytes: BYTES, tcp_sends: None },
        Sent { call: "splice", bytes: BYTES, tcp_sends: None },
    ])
}

/// `count` messages by one sendmmsg(2).
fn send_many(socket: &TcpStream, message: &[u8], count: usize) -> Result<()> {
    let mut slice =
        libc::iovec { iov_base: message.as_ptr().cast_mut().cast(), iov_len: message.len() };
    // SAFETY: all-zero is a valid mmsghdr: no address, no buffers, no control data.
    let empty: libc::mmsghdr = unsafe { std::mem::zeroed() };
    let mut headers = vec![empty; count];
    for header in &mut headers {
        header.msg_hdr.msg_iov = &raw mut slice;
        header.msg_hdr.msg_iovlen = 1;
    }
    let vlen = libc::c_uint::try_from(headers.len())?;
    // SAFETY: `headers` holds `vlen` headers, each with one iovec that points into `message`; both
    // outlive the call, which only reads the message.
    let sent = unsafe {
        libc::sendmmsg(socket.as_fd().as_raw_fd(), headers.as_mut_ptr(), vlen, libc::MSG_NOSIGNAL)
    };
    ensure!(sent >= 0, "sendmmsg: {}", io::Error::last_os_error());
    let whole = headers.iter().filter(|header| header.msg_len as usize == message.len()).count();
    ensure!(usize::try_from(sent)? == count && whole == count, "sendmmsg took {sent} messages");
    Ok(())
}

/// A send that fails with EPIPE because this side was shut down.
///
/// # Errors
/// When it does not fail that way.
pub fn failing_call(socket: &TcpStream) -> Result<()> {
    let result = rustix::net::send(socket.as_fd(), b"x", SendFlags::NOSIGNAL);
    ensure!(result == Err(rustix::io::Errno::PIPE), "send after shutdown: {result:?}");
    Ok(())
}
