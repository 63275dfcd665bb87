//! Times and sizes.

use std::time::Duration;

use jiff::Timestamp;

use super::Parsed;

/// A point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// That time.
    At(Timestamp),
    /// So long before now.
    Ago(Duration),
}

/// `--since`, `--until`.
pub fn when(text: &str) -> Parsed<When> {
    if let Ok(at) = text.parse() {
        return Ok(When::At(at));
    }
    let hint = "write a time with its zone, 2026-11-21T04:18:00Z, or how long ago: 30m, 2h, 7d";
    time(text).map(When::Ago).map_err(|_| format!("`{text}` is no time; {hint}"))
}

/// A time with units, such as `1s`, `500ms`, `1m30s`.
pub(super) fn time(text: &str) -> Parsed<Duration> {
    let hint = "write a number with a unit: 500ms, 1s, 2m, 1h";
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(format!("no time given; {hint}"));
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| !c.is_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let seconds = match unit {
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            "" => return Err(format!("no unit in `{text}`; {hint}")),
            _ => return Err(format!("unknown unit `{unit}`; {hint}")),
        };
        let number: f64 = number.parse().map_err(|_| format!("`{text}` is no time; {hint}"))?;
        total = Duration::try_from_secs_f64(number * seconds)
            .ok()
            .and_then(|part| total.checked_add(part))
            .ok_or_else(|| format!("`{text}` is too long; {hint}"))?;
        rest = tail;
    }
    Ok(total)
}

fn time_within(text: &str, low: &str, high: &str) -> Parsed<Duration> {
    let value = time(text)?;
    if value < time(low)? || value > time(high)? {
        return Err(format!("`{text}` is out of bounds; give {low} to {high}"));
    }
    Ok(value)
}

/// `--interval`.
pub fn interval(text: &str) -> Parsed<Duration> {
    time_within(text, "100ms", "1h")
}

/// `--duration`.
pub fn duration(text: &str) -> Parsed<Duration> {
    time_within(text, "100ms", "366d")
}

/// `--idle`.
pub fn idle(text: &str) -> Parsed<Duration> {
    time_within(text, "1s", "24h")
}

/// `--rotate-every`.
pub fn rotate_every(text: &str) -> Parsed<Duration> {
    time_within(text, "1s", "366d")
}

/// A number of bytes, such as `8MiB`, `64KiB`, `1GB`, `4096`.
fn bytes(text: &str) -> Parsed<u64> {
    let hint = "write a number of bytes, with a unit if you like: 4096, 64KiB, 8MiB, 1GiB";
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "K" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        "T" | "TiB" => 1 << 40,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        unit => return Err(format!("unknown unit `{unit}`; {hint}")),
    };
    let number: u64 = number.parse().map_err(|_| format!("`{text}` is no size; {hint}"))?;
    number.checked_mul(factor).ok_or_else(|| format!("`{text}` is too large; {hint}"))
}

fn bytes_from(text: &str, low: &str) -> Parsed<u64> {
    let value = bytes(text)?;
    if value < bytes(low)? {
        return Err(format!("`{text}` is too small; give at least {low}"));
    }
    Ok(value)
}

/// `--max-disk`.
pub fn max_disk(text: &str) -> Parsed<u64> {
    bytes_from(text, "1MiB")
}

/// `--rotate-size`.
pub fn rotate_size(text: &str) -> Parsed<u64> {
    bytes_from(text, "64KiB")
}

/// `--ring-size`: the kernel wants a power of two of whole pages (`ringbuf_map_alloc` in
/// `kernel/bpf/ringbuf.c`).
pub fn ring_size(text: &str) -> Parsed<u32> {
    let value = bytes(text)?;
    let page = rustix::param::page_size() as u64;
    let most = 1_u64 << 30;
    if !value.is_power_of_two() || value < page || value > most {
        let below = 1_u64 << (63 - value.clamp(page, most).leading_zeros());
        return Err(format!(
            "`{text}` cannot be a ring buffer: give a power of two from {page} to 1GiB, \
             such as {below}"
        ));
    }
    u32::try_from(value).map_err(|error| error.to_string())
}

/// `--max-cpu`, as a part of one core.
pub fn max_cpu(text: &str) -> Parsed<f64> {
    let hint = "write percent of one core, 0.1 to 100, such as 5 or 2.5%";
    let number = text.trim().trim_end_matches('%').trim();
    let percent: f64 = number.parse().map_err(|_| format!("`{text}` is no number; {hint}"))?;
    if !(0.1..=100.0).contains(&percent) {
        return Err(format!("`{text}` is out of bounds; {hint}"));
    }
    Ok(percent / 100.0)
}
