//! One JSON object per line. What a terminal would obey in text that others chose stands there escaped (`\u202e`), so
//! that a line is harmless where it is looked at, and nothing is lost.

use std::io::{self, BufWriter, Write};

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

use crate::format::is_unsafe;

/// Writes one object and a newline, at once.
///
/// # Errors
/// What the writer says; a closed pipe among it.
pub fn line(value: &impl Serialize, out: &mut impl Write) -> io::Result<()> {
    let mut line = Vec::with_capacity(1024);
    write(value, &mut line)?;
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
    write(value, &mut pieces)?;
    pieces.write_all(b"\n")?;
    pieces.flush()
}

/// Writes one object in many pieces, without a newline.
///
/// # Errors
/// What the writer says, or a value that has no form in JSON.
pub fn write(value: &impl Serialize, out: &mut impl Write) -> io::Result<()> {
    value.serialize(&mut Serializer::with_formatter(out, Harmless))?;
    Ok(())
}

/// JSON in its shortest form, but for what [`crate::format::sanitised`] replaces, which is escaped.
struct Harmless;

impl Formatter for Harmless {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        // As keys and most names are: every string of every line comes by here.
        if fragment.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return writer.write_all(fragment.as_bytes());
        }
        let mut rest = fragment;
        while let Some((at, c)) = rest.char_indices().find(|&(_, c)| is_unsafe(c)) {
            writer.write_all(&rest.as_bytes()[..at])?;
            // RFC 8259 section 7: beyond the basic plane it is two.
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = &rest[at + c.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::{format::sanitised, hostile};

    fn written(value: &impl Serialize) -> String {
        let mut out = Vec::new();
        line(value, &mut out).expect("memory");
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        for (name, expected) in [
            ("curl", "\"curl\"\n"),
            ("übung 漢字 \u{1f980}", "\"übung 漢字 \u{1f980}\"\n"),
            ("a\"b\\c\n", "\"a\\\"b\\\\c\\n\"\n"),
            ("\u{1b}[2J\u{7f}", "\"\\u001b[2J\\u007f\"\n"),
            ("a\u{9b}2J", "\"a\\u009b2J\"\n"),
            ("\u{202e}ü\u{200b}", "\"\\u202eü\\u200b\"\n"),
            ("\u{e0041}x", "\"\\udb40\\udc41x\"\n"),
        ] {
            assert_eq!(written(&name), expected, "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn a_line_is_harmless_and_nothing_is_lost(names in vec(hostile::name(), 0..4)) {
            // As keys, too.
            let object: BTreeMap<_, _> = names.iter().map(|name| (name, &names)).collect();
            let text = written(&object);
            let line = text.strip_suffix('\n').expect("a whole line");
            prop_assert_eq!(sanitised(line), line);
            let read: BTreeMap<String, Vec<String>> = serde_json::from_str(line).expect("JSON");
            let object: BTreeMap<_, _> =
                names.iter().map(|name| (name.clone(), names.clone())).collect();
            prop_assert_eq!(read, object);
        }
    }
}
