//! Values as people read them. Pure: text in, text out.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// What stands for a value that is not known; never `0`.
pub const MISSING: &str = "-";

/// A duration in nanoseconds with three significant digits: `999ns`, `4.50µs`, `12.3ms`, `3600s`.
#[must_use]
pub fn duration(nanoseconds: u64) -> String {
    scaled(nanoseconds, 1_000, &["ns", "µs", "ms", "s"])
}

/// A number of bytes with three significant digits in binary units: `17B`, `1.50KiB`.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    scaled(bytes, 1_024, &["B", "KiB", "MiB", "GiB", "TiB", "PiB"])
}

/// A count: exact up to 99999, then three significant digits: `123k`, `1.23M`.
#[must_use]
pub fn count(count: u64) -> String {
    if count < 100_000 {
        return count.to_string();
    }
    scaled(count, 1_000, &["", "k", "M", "G", "T"])
}

/// A part of a whole in percent with two significant digits: `0.034 %`, `2.7 %`, `100 %`.
#[must_use]
pub fn percent(ratio: f64) -> String {
    let percent = ratio * 100.0;
    let decimals = match percent.abs() {
        10.0.. => 0,
        1.0.. => 1,
        0.1.. => 2,
        0.01.. => 3,
        _ => 4,
    };
    let text = format!("{percent:.decimals$}");
    let text =
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text} %")
}

/// `format(value)`, or [`MISSING`].
#[must_use]
pub fn or_missing<T>(value: Option<T>, format: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| MISSING.to_owned(), format)
}

/// Three significant digits in the largest unit that keeps the number at 1 or above; the last
/// unit has no upper end. Rounds half up and never prints `1000` of a unit that has a next one.
fn scaled(value: u64, step: u64, units: &[&str]) -> String {
    let last = units.len() - 1;
    let mut unit = 0;
    let mut divisor = 1_u128;
    let value = u128::from(value);
    let step = u128::from(step);
    loop {
        let decimals = match value / divisor {
            _ if unit == 0 => 0,
            0..10 => 2,
            10..100 => 1,
            _ => 0,
        };
        let factor = 10_u128.pow(decimals);
        let rounded = (value * factor + divisor / 2) / divisor;
        if unit == last || rounded < step * factor {
            // 9.999 rounds to 10.00: one digit too many
            if unit > 0 && decimals > 0 && rounded >= 1_000 {
                return with_decimals(rounded / 10, decimals - 1, units[unit]);
            }
            return with_decimals(rounded, decimals, units[unit]);
        }
        unit += 1;
        divisor *= step;
    }
}

fn with_decimals(number: u128, decimals: u32, unit: &str) -> String {
    if decimals == 0 {
        return format!("{number}{unit}");
    }
    let factor = 10_u128.pow(decimals);
    format!("{}.{:0width$}{unit}", number / factor, number % factor, width = decimals as usize)
}

/// Text that others chose (process names come from processes), safe for a terminal: control
/// characters, direction marks and invisible characters become U+FFFD.
#[must_use]
pub fn sanitised(text: &str) -> String {
    text.chars().map(|c| if is_unsafe(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Whether [`sanitised`] replaces it.
pub(crate) fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            // direction marks, overrides and isolates (Unicode Standard Annex 9)
            '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
            // separators that terminals may take as a new line
            | '\u{2028}' | '\u{2029}'
            // tags and interlinear annotations
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
        || c.width().is_none_or(|width| width == 0)
}

/// Columns that text takes on a terminal.
#[must_use]
pub fn width(text: &str) -> usize {
    text.width()
}

/// Text filled up with spaces behind it to `columns`.
#[must_use]
pub fn left(text: &str, columns: usize) -> String {
    format!("{text}{}", " ".repeat(columns.saturating_sub(width(text))))
}

/// Text filled up with spaces before it to `columns`.
#[must_use]
pub fn right(text: &str, columns: usize) -> String {
    format!("{}{text}", " ".repeat(columns.saturating_sub(width(text))))
}

/// Text cut to `columns`, the last one `…` where something was cut off.
#[must_use]
pub fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut used = 1;
    for c in text.chars() {
        used += c.width().unwrap_or(0);
        if used > columns {
            break;
        }
        kept.push(c);
    }
    if columns > 0 {
        kept.push('…');
    }
    kept
}

/// Packs words into lines of at most `columns`, two spaces between words and `indent` before each
/// line but the first; a word that is longer stands alone on its line.
#[must_use]
pub fn wrapped(words: &[String], columns: usize, indent: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words {
        match lines.last_mut() {
            Some(line) if width(line) + 2 + width(word) <= columns => {
                line.push_str("  ");
                line.push_str(word);
            }
            Some(_) => lines.extend(broken(indent, word, columns, indent)),
            None => lines.extend(broken("", word, columns, indent)),
        }
    }
    lines
}

/// Fills lines of at most `columns` with the words of a text, `first` before the first line, `others` before
/// each further one; a word that is longer stands alone on its line.
#[must_use]
pub fn paragraph(text: &str, columns: usize, first: &str, others: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if width(line) + 1 + width(word) <= columns => {
                line.push(' ');
                line.push_str(word);
            }
            Some(_) => lines.push(format!("{others}{word}")),
            None => lines.push(format!("{first}{word}")),
        }
    }
    // Where a line ends between two blanks.
    lines.iter_mut().for_each(|line| line.truncate(line.trim_end().len()));
    lines
}

/// Lines of one word, broken at blanks where it is wider than a line.
fn broken(start: &str, word: &str, columns: usize, indent: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = start.to_owned();
    for (nth, part) in word.split(' ').enumerate() {
        if nth > 0 && width(&line) + 1 + width(part) > columns {
            lines.push(std::mem::replace(&mut line, indent.to_owned()));
        } else if nth > 0 {
            line.push(' ');
        }
        line.push_str(part);
    }
    lines.push(line);
    lines
}

/// RFC 3339 to the second.
#[must_use]
pub fn moment(time: &str) -> String {
    time.get(..19).map_or_else(|| time.to_owned(), |second| format!("{second}Z"))
}

/// [`duration`] of seconds.
#[must_use]
pub fn seconds(seconds: f64) -> String {
    duration((seconds * 1e9) as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_word_wider_than_a_line_is_broken_at_blanks() {
        let words = ["signal:", "what it cannot see at all", "b"].map(str::to_owned);
        let lines = wrapped(&words, 12, "  ");
        assert_eq!(lines, ["signal:", "  what it", "  cannot see", "  at all  b"]);
    }

    #[test]
    fn durations() {
        let cases = [
            (0, "0ns"),
            (1, "1ns"),
            (999, "999ns"),
            (1_000, "1.00µs"),
            (4_500, "4.50µs"),
            (9_994, "9.99µs"),
            (9_995, "10.0µs"),
            (99_950, "100µs"),
            (999_499, "999µs"),
            (999_500, "1.00ms"),
            (1_234_567, "1.23ms"),
            (60_000_000_000, "60.0s"),
            (3_600_000_000_000, "3600s"),
        ];
        for (value, expected) in cases {
            assert_eq!(duration(value), expected, "{value} ns");
        }
    }

    #[test]
    fn percentages() {
        let cases = [
            (0.0, "0 %"),
            (0.000_34, "0.034 %"),
            (0.001, "0.1 %"),
            (0.027, "2.7 %"),
            (0.0304, "3 %"),
            (0.104, "10 %"),
            (1.0, "100 %"),
        ];
        for (value, expected) in cases {
            assert_eq!(percent(value), expected, "{value}");
        }
    }

    #[test]
    fn bytes_and_counts() {
        for (value, expected) in [
            (0, "0B"),
            (1_023, "1023B"),
            (1_024, "1.00KiB"),
            (1_048_575, "1.00MiB"),
            (10 << 30, "10.0GiB"),
            (u64::MAX, "16384PiB"),
        ] {
            assert_eq!(bytes(value), expected, "{value} bytes");
        }
        for (value, expected) in
            [(0, "0"), (99_999, "99999"), (100_000, "100k"), (1_234_567, "1.23M")]
        {
            assert_eq!(count(value), expected, "{value}");
        }
    }

    #[test]
    fn text_of_others_cannot_move_the_cursor() {
        assert_eq!(sanitised("\u{1b}[2Jevil\n"), "\u{fffd}[2Jevil\u{fffd}");
        assert_eq!(sanitised("abc\u{202e}cba\u{200b}"), "abc\u{fffd}cba\u{fffd}");
        assert_eq!(sanitised("übung 漢字"), "übung 漢字");
    }

    #[test]
    fn alignment_counts_columns_not_bytes() {
        assert_eq!(left("漢", 4), "漢  ");
        assert_eq!(right("4µs", 5), "  4µs");
        assert_eq!(cut("漢字漢字", 5), "漢字…");
        assert_eq!(cut("abc", 3), "abc");
    }

    proptest! {
        #[test]
        fn nothing_unsafe_is_left(text in "\\PC*|.*") {
            prop_assert!(!sanitised(&text).chars().any(char::is_control));
            prop_assert_eq!(sanitised(&text).chars().count(), text.chars().count());
        }

        #[test]
        fn cut_fits(text in ".*", columns in 0_usize..40) {
            prop_assert!(width(&cut(&sanitised(&text), columns)) <= columns);
        }

        #[test]
        fn durations_are_short(value in 0..=3_600_000_000_000_u64) {
            prop_assert!(width(&duration(value)) <= 6);
        }
    }
}
