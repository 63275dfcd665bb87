//! Numbers as marks: a course as a row of small bars, a share as a long one.

/// From the smallest to the largest.
const STEPS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Parts of a mark of a bar, by eighths.
const EIGHTHS: [char; 7] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉'];

/// The last `columns` values of a course, the newest at the right. The largest has the highest mark; `.` is 0, a
/// blank is unknown.
pub(super) fn course(
    values: impl DoubleEndedIterator<Item = Option<u64>>,
    columns: usize,
) -> String {
    let mut last: Vec<_> = values.rev().take(columns).collect();
    last.reverse();
    let largest = last.iter().flatten().max().copied().unwrap_or(0);
    let mut text = " ".repeat(columns - last.len());
    text.extend(last.into_iter().map(|value| match value {
        None => ' ',
        Some(0) => '.',
        Some(value) => STEPS[step(value, largest)],
    }));
    text
}

/// Which of the marks.
fn step(value: u64, largest: u64) -> usize {
    let all = STEPS.len() as u128;
    let at = (u128::from(value) * all).div_ceil(u128::from(largest.max(1)));
    usize::try_from(at.clamp(1, all) - 1).unwrap_or_default()
}

/// A bar of a part of a whole, filled up with blanks to `columns`. What is not nothing is seen.
pub(super) fn bar(part: u64, whole: u64, columns: usize) -> String {
    let eighths = (u128::from(part) * columns as u128 * 8 + u128::from(whole / 2))
        .checked_div(u128::from(whole))
        .unwrap_or(0);
    let eighths = usize::try_from(eighths).unwrap_or(usize::MAX).min(columns * 8);
    let eighths = if part > 0 { eighths.max(1) } else { eighths };
    let (full, rest) = (eighths / 8, eighths % 8);
    let mut text = "█".repeat(full);
    if rest > 0 && full < columns {
        text.push(EIGHTHS[rest - 1]);
    }
    let used = full + usize::from(rest > 0 && full < columns);
    text.push_str(&" ".repeat(columns - used));
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::width;

    #[test]
    fn courses_tell_none_from_unknown() {
        let values = [None, Some(0), Some(1), Some(50), Some(100)];
        assert_eq!(course(values.into_iter(), 5), " .▁▄█");
        assert_eq!(course(values.into_iter(), 3), "▁▄█", "the newest");
        assert_eq!(course(values.into_iter(), 7), "   .▁▄█");
    }

    #[test]
    fn bars_show_what_is_not_nothing() {
        assert_eq!(bar(0, 100, 4), "    ");
        assert_eq!(bar(1, 1_000_000, 4), "▏   ");
        assert_eq!(bar(50, 100, 4), "██  ");
        assert_eq!(bar(100, 100, 4), "████");
        assert_eq!(bar(7, 0, 2), "▏ ");
    }

    proptest! {
        #[test]
        fn marks_take_the_columns_they_have(
            part: u64, whole: u64, columns in 0_usize..50, values: Vec<Option<u64>>
        ) {
            prop_assert_eq!(width(&bar(part, whole, columns.max(1))), columns.max(1));
            prop_assert_eq!(width(&course(values.into_iter(), columns)), columns);
        }
    }
}
