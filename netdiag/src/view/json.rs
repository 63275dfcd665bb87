//! One JSON object per line.

use std::io::{self, BufWriter, Write};

use serde::Serialize;

/// Writes one object and a newline, at once.
///
/// # Errors
/// What the writer says; a closed pipe among it.
pub fn line(value: &impl Serialize, out: &mut impl Write) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    out.write_all(&line)?;
    out.flush()
}

/// The same in pieces, for what may be too long to be there as a whole.
///
/// # Errors
/// What the writer says; a closed pipe among it.
pub fn stream(value: &impl Serialize, out: &mut impl Write) -> io::Result<()> {
    /// Bytes of a piece.
    const PIECE: usize = 64 << 10;
    let mut pieces = BufWriter::with_capacity(PIECE, out);
    serde_json::to_writer(&mut pieces, value)?;
    pieces.write_all(b"\n")?;
    pieces.flush()
}
