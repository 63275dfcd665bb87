//! Versions as Rust, LLVM and Debian write them.

use std::cmp::Ordering;

/// `major.minor` of a dotted version, ignoring what follows: `1.96.0-nightly` is `(1, 96)`.
pub(crate) fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.trim().split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The upstream part of a Debian version: `1:22.1.8-1~deb12u1` is `22.1.8`.
pub(crate) fn upstream(debian: &str) -> &str {
    let without_epoch = debian.split_once(':').map_or(debian, |(_, rest)| rest);
    without_epoch.rsplit_once('-').map_or(without_epoch, |(upstream, _)| upstream)
}

/// Orders two strings by Debian's rule (deb-version(7)) for one part, without epoch: runs of
/// non-digits compare by character with `~` before the end and letters before the rest, runs of
/// digits by value.
pub(crate) fn compare(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    while !a.is_empty() || !b.is_empty() {
        let (text_a, rest_a) = split(a, |c| !c.is_ascii_digit());
        let (text_b, rest_b) = split(b, |c| !c.is_ascii_digit());
        let weights = |text: &[u8]| text.iter().map(|&c| weight(c)).chain([0]).collect::<Vec<_>>();
        let (number_a, next_a) = split(rest_a, |c| c.is_ascii_digit());
        let (number_b, next_b) = split(rest_b, |c| c.is_ascii_digit());
        let order = weights(text_a)
            .cmp(&weights(text_b))
            .then_with(|| value(number_a).cmp(&value(number_b)));
        if order.is_ne() {
            return order;
        }
        (a, b) = (next_a, next_b);
    }
    Ordering::Equal
}

fn split(bytes: &[u8], keep: impl Fn(u8) -> bool) -> (&[u8], &[u8]) {
    bytes.split_at(bytes.iter().position(|&c| !keep(c)).unwrap_or(bytes.len()))
}

/// `~` sorts before the end of the text (0), letters after it, everything else after letters.
fn weight(c: u8) -> i32 {
    match c {
        b'~' => -1,
        c if c.is_ascii_alphabetic() => i32::from(c),
        c => i32::from(c) + 256,
    }
}

fn value(digits: &[u8]) -> (usize, &[u8]) {
    let significant = digits.iter().position(|&c| c != b'0').unwrap_or(digits.len());
    (digits.len() - significant, &digits[significant..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn major_minor_ignores_the_rest() {
        for (text, expected) in [
            ("1.96.0", Some((1, 96))),
            ("1.97.0-nightly", Some((1, 97))),
            ("22.1.8", Some((22, 1))),
            ("5.10", Some((5, 10))),
            ("nightly", None),
            ("7", None),
        ] {
            assert_eq!(major_minor(text), expected, "{text}");
        }
    }

    #[test]
    fn upstream_drops_epoch_and_revision() {
        assert_eq!(upstream("1:22.1.8-1~deb12u1"), "22.1.8");
        assert_eq!(upstream("1.96.0+dfsg1-1~deb12u2"), "1.96.0+dfsg1");
        assert_eq!(upstream("7.2"), "7.2");
    }

    #[test]
    fn compare_follows_debian() {
        let ascending =
            ["1.0~rc1", "1.0", "1.0a", "1.0+b", "1.9", "1.10", "5.10.0-46", "5.10.0-100"];
        for (i, a) in ascending.iter().enumerate() {
            for (j, b) in ascending.iter().enumerate() {
                assert_eq!(compare(a, b), i.cmp(&j), "{a} against {b}");
            }
        }
        assert_eq!(compare("1.01", "1.1"), Ordering::Equal);
    }
}
