//! One JSON object per line.

use std::io::{self, Write};

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
