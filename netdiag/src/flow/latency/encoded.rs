//! A histogram as it stands in a log: base64 (RFC 4648) of a deflated encoding V2 (HdrHistogram,
//! `EncodableHistogram`), decoded into its buckets. No histogram is made of it: that would cost several times as
//! much, and a report adds up millions of them.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use flate2::{Decompress, FlushDecompress, Status};

use super::{DIGITS, HIGHEST_NS, LOWEST_NS, bucket_of};

/// First word of a V2 encoding, and of one that is deflated.
const COOKIE: u32 = 0x1c84_9303 | 0x10;
const DEFLATED: u32 = 0x1c84_9304 | 0x10;
/// Cookie, length of the payload, offset, digits (4 bytes each), lowest, highest, ratio (8 bytes each).
const HEADER: usize = 40;
/// No count takes more bytes, and a count and the zeros before it are told in two.
const LONGEST: usize = HEADER + (bucket_of(HIGHEST_NS) as usize + 2) * 9;

/// Samples by the number of their bucket, ascending.
pub type Buckets = [(u16, u64)];

/// Decodes one histogram after the other; keeps its buffers.
#[derive(Debug)]
pub struct Decoder {
    inflate: Decompress,
    deflated: Vec<u8>,
    plain: Vec<u8>,
    buckets: Vec<(u16, u64)>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            inflate: Decompress::new(true),
            deflated: Vec::new(),
            plain: vec![0; LONGEST],
            buckets: Vec::new(),
        }
    }
}

impl Decoder {
    /// The samples of a histogram with the bounds and digits of all that netdiag writes; none where it has others,
    /// or is torn.
    pub fn decode(&mut self, text: &[u8]) -> Option<&Buckets> {
        self.deflated.clear();
        STANDARD.decode_vec(text, &mut self.deflated).ok()?;
        let (cookie, rest) = self.deflated.split_first_chunk()?;
        let (length, body) = rest.split_first_chunk()?;
        let length = u32::from_be_bytes(*length) as usize;
        if u32::from_be_bytes(*cookie) != DEFLATED || length > body.len() {
            return None;
        }
        self.inflate.reset(true);
        let ended =
            self.inflate.decompress(&body[..length], &mut self.plain, FlushDecompress::Finish);
        let Ok(Status::StreamEnd) = ended else { return None };
        let plain = self.plain.get(..usize::try_from(self.inflate.total_out()).ok()?)?;
        counts(payload(plain)?, &mut self.buckets)?;
        Some(&self.buckets)
    }
}

/// What stands behind a header that is as it should be.
fn payload(plain: &[u8]) -> Option<&[u8]> {
    let (header, payload) = plain.split_at_checked(HEADER)?;
    let word = |at: usize| header[at..].first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
    let long = |at: usize| header[at..].first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
    let expected = (Some(COOKIE), Some(0), Some(u32::from(DIGITS)));
    let bounds = (Some(LOWEST_NS), Some(HIGHEST_NS), Some(1_f64.to_bits()));
    let is_ours =
        (word(0), word(8), word(12)) == expected && (long(16), long(24), long(32)) == bounds;
    (is_ours && word(4)? as usize == payload.len()).then_some(payload)
}

/// Counts of buckets, the first of them first; a negative one stands for as many buckets without any.
fn counts(mut payload: &[u8], buckets: &mut Vec<(u16, u64)>) -> Option<()> {
    const LAST: u64 = bucket_of(HIGHEST_NS) as u64;
    buckets.clear();
    let mut bucket = 0_u64;
    while !payload.is_empty() {
        let (number, rest) = number(payload)?;
        payload = rest;
        match u64::try_from(number) {
            Ok(0) => bucket += 1,
            Ok(_) if bucket > LAST => return None,
            Ok(count) => {
                buckets.push((u16::try_from(bucket).ok()?, count));
                bucket += 1;
            }
            Err(_) => bucket = bucket.checked_add(number.unsigned_abs())?,
        }
        if bucket > LAST + 1 {
            return None;
        }
    }
    Some(())
}

/// The first number of `bytes`: seven bits in a byte, the lowest first, eight in the ninth; its sign in the lowest
/// bit (zig-zag).
fn number(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let mut value = 0_u64;
    for at in 0..9 {
        let byte = *bytes.get(at)?;
        let is_last = at == 8 || byte < 0x80;
        let bits = if at == 8 { byte } else { byte & 0x7f };
        value |= u64::from(bits) << (7 * at);
        if is_last {
            let number = (value >> 1).cast_signed() ^ -((value & 1).cast_signed());
            return Some((number, &bytes[at + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use hdrhistogram::{
        Histogram,
        serialization::{Serializer as _, V2DeflateSerializer, V2Serializer},
    };
    use proptest::prelude::*;

    use super::*;
    use crate::flow::latency::{Latency, bounds_of};

    fn encoded(histogram: &Histogram<u64>) -> String {
        let mut bytes = Vec::new();
        V2DeflateSerializer::new().serialize(histogram, &mut bytes).expect("serialised");
        STANDARD.encode(bytes)
    }

    #[test]
    fn others_are_refused() {
        let mut decoder = Decoder::default();
        let ours = {
            let mut latency = Latency::default();
            latency.record(1_000);
            encoded(&latency.histogram())
        };
        assert_eq!(decoder.decode(ours.as_bytes()).map(<[_]>::len), Some(1));
        let other = Histogram::<u64>::new_with_bounds(1, 1_000, 3).expect("bounds");
        assert_eq!(decoder.decode(encoded(&other).as_bytes()), None, "other bounds");
        let mut plain = Vec::new();
        V2Serializer::new().serialize(&other, &mut plain).expect("serialised");
        assert_eq!(decoder.decode(STANDARD.encode(plain).as_bytes()), None, "not deflated");
        for end in 0..ours.len() {
            assert_eq!(decoder.decode(&ours.as_bytes()[..end]), None, "cut at {end}");
        }
        assert_eq!(decoder.decode(ours.as_bytes()).map(<[_]>::len), Some(1), "after all of them");
    }

    /// Zeros up to the end of the buckets, and then a count.
    #[test]
    fn nothing_is_counted_beyond_the_last_bucket() {
        let mut buckets = Vec::new();
        let beyond = [30, 224, 0, 151, 71, 3, 0, 32, 224, 0];
        assert_eq!(counts(&beyond, &mut buckets), None);
        assert!(buckets.iter().all(|&(bucket, _)| bucket <= bucket_of(HIGHEST_NS)));
    }

    #[test]
    fn hostile_histograms_are_survived() {
        let mut latency = Latency::default();
        [1_000, 70_000, 3_000_000_000].into_iter().for_each(|value| latency.record(value));
        let mut plain = Vec::new();
        V2Serializer::new().serialize(&latency.histogram(), &mut plain).expect("serialised");
        let sound = [encoded(&latency.histogram()).into_bytes(), plain];
        crate::hostile::survived(&sound, |bytes| {
            let mut decoder = Decoder::default();
            let mut buckets = decoder.decode(bytes).map(<[_]>::to_vec).unwrap_or_default();
            if let Some(payload) = payload(bytes) {
                let _any = counts(payload, &mut buckets);
            }
            assert!(buckets.iter().all(|&(bucket, _)| bucket <= bucket_of(HIGHEST_NS)));
        });
    }

    proptest! {
        #[test]
        fn what_was_recorded_is_decoded(
            values in prop::collection::vec((LOWEST_NS..=HIGHEST_NS, 1..u64::from(u32::MAX)), 0..300),
        ) {
            let mut latency = Latency::default();
            values.iter().for_each(|&(value, n)| latency.record_n(value, n));
            let expected: Vec<_> = latency.buckets().collect();
            let text = encoded(&latency.histogram());
            let mut decoder = Decoder::default();
            let found = decoder.decode(text.as_bytes()).expect("decoded").iter();
            let found: Vec<_> = found.map(|&(bucket, n)| (bounds_of(bucket).1, n)).collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn nothing_makes_it_panic(text in "[A-Za-z0-9+/=]{0,200}", payload in prop::collection::vec(any::<u8>(), 0..64)) {
            Decoder::default().decode(text.as_bytes());
            let mut buckets = Vec::new();
            let _any = counts(&payload, &mut buckets);
            prop_assert!(buckets.iter().all(|&(bucket, _)| bucket <= bucket_of(HIGHEST_NS)));
        }
    }
}
