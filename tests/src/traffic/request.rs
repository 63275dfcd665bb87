//! Requests and responses, and one-way streams of single sends.

use std::{net::Shutdown, thread};

use anyhow::Result;

use super::{Connection, read_bytes, send_once};

/// What one connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// Sends by the client.
    pub sends: usize,
    /// Bytes in each.
    pub bytes: usize,
    /// Whether the server answers each send with one of the same size, and the client waits for it.
    pub echo: bool,
}

impl Exchange {
    /// Sends that the server makes.
    #[must_use]
    pub fn server_sends(&self) -> usize {
        if self.echo { self.sends } else { 0 }
    }
}

/// Does all exchanges at once, two threads per connection, and returns when every byte is read.
///
/// # Errors
/// When a socket call fails or takes less than all.
pub fn exchange<'a>(
    connections: impl IntoIterator<Item = (&'a Connection, Exchange)>,
) -> Result<()> {
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for (connection, exchange) in connections {
            for side in [client, server] {
                threads.push(scope.spawn(move || {
                    let result = side(connection, exchange);
                    if result.is_err() {
                        // Let go of the other side, or it waits for ever.
                        connection.client.shutdown(Shutdown::Both)?;
                    }
                    result
                }));
            }
        }
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

fn client(connection: &Connection, exchange: Exchange) -> Result<()> {
    let message = vec![b'q'; exchange.bytes];
    for _ in 0..exchange.sends {
        send_once(&connection.client, &message)?;
        if exchange.echo {
            read_bytes(&connection.client, exchange.bytes)?;
        }
    }
    Ok(())
}

fn server(connection: &Connection, exchange: Exchange) -> Result<()> {
    if !exchange.echo {
        return read_bytes(&connection.server, exchange.sends * exchange.bytes);
    }
    let message = vec![b'a'; exchange.bytes];
    for _ in 0..exchange.sends {
        read_bytes(&connection.server, exchange.bytes)?;
        send_once(&connection.server, &message)?;
    }
    Ok(())
}
