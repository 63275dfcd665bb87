//! Histogram logs read by the crate that wrote them, bucket by bucket: what other people's readers do not
//! tell.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, anyhow};
use hdrhistogram::{
    Histogram,
    serialization::{
        Deserializer,
        interval_log::{IntervalLogIterator, LogEntry},
    },
};

/// The histograms of a log by tag, all intervals together; the untagged under the empty one.
///
/// # Errors
/// When the log makes no sense.
pub fn read(log: &Path) -> Result<BTreeMap<String, Histogram<u64>>> {
    let text = fs::read(log)?;
    let mut all: BTreeMap<String, Histogram<u64>> = BTreeMap::new();
    for entry in IntervalLogIterator::new(&text) {
        let entry = entry.map_err(|error| anyhow!("{error:?} in {}", log.display()))?;
        let LogEntry::Interval(line) = entry else { continue };
        let bytes = base64(line.encoded_histogram())?;
        let histogram: Histogram<u64> = Deserializer::new()
            .deserialize(&mut bytes.as_slice())
            .map_err(|error| anyhow!("{error:?} in {}", log.display()))?;
        let tag = line.tag().map_or_else(String::new, |tag| tag.as_str().to_owned());
        match all.get_mut(&tag) {
            Some(sum) => sum.add(&histogram).map_err(|error| anyhow!("{error:?} of {tag}"))?,
            None => {
                all.insert(tag, histogram);
            }
        }
    }
    Ok(all)
}

/// RFC 4648 section 4.
fn base64(text: &str) -> Result<Vec<u8>> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::new();
    for group in text.trim_end_matches('=').as_bytes().chunks(4) {
        let mut bits = 0_u32;
        for byte in group {
            let digit =
                DIGITS.iter().position(|digit| digit == byte).context("no digit of base64")?;
            bits = bits << 6 | digit as u32;
        }
        bits <<= 6 * (4 - group.len());
        bytes.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_all_lengths_are_decoded() -> Result<()> {
        for (text, bytes) in
            [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYg==", "foob")]
        {
            assert_eq!(base64(text)?, bytes.as_bytes());
        }
        Ok(())
    }
}
