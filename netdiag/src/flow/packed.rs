//! Numbers in as few bytes as they take: for what each of many flows has, and what is seldom read.

use smallvec::SmallVec;

use super::counts::Counts;
use crate::signal::CountId;

/// What is being put together. Memory is taken for it when it is done: as much as it takes, wherever that is free.
pub(super) type Bytes = SmallVec<[u8; 256]>;

/// What was put together, unless it is nothing.
pub(super) type Packed = Option<Box<[u8]>>;

/// What was put together.
pub(super) fn packed(bytes: &Bytes) -> Packed {
    (!bytes.is_empty()).then(|| Box::from(bytes.as_slice()))
}

/// Appends a number, seven bits a byte, the low ones first (LEB128).
pub(super) fn put(bytes: &mut Bytes, mut n: u64) {
    while n > 0x7f {
        bytes.push(n as u8 | 0x80);
        n >>= 7;
    }
    bytes.push(n as u8);
}

/// Takes one off the front; 0 where none is.
pub(super) fn get(bytes: &mut &[u8]) -> u64 {
    let (mut n, mut shift) = (0, 0);
    while let Some((&byte, rest)) = bytes.split_first() {
        *bytes = rest;
        n |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 || shift > 63 {
            break;
        }
    }
    n
}

/// Appends counts.
pub(super) fn put_counts(bytes: &mut Bytes, counts: &Counts) {
    put(bytes, counts.len() as u64);
    let mut last = 0;
    for (CountId(id), n) in counts.iter() {
        put(bytes, (id - last).into());
        put(bytes, n);
        last = id;
    }
}

/// Takes counts off the front; none where none are.
pub(super) fn get_counts(bytes: &mut &[u8]) -> Counts {
    let (mut counts, mut id) = (Counts::default(), 0);
    for _ in 0..get(bytes) {
        id += get(bytes) as u16;
        counts.set(CountId(id), get(bytes));
    }
    counts
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::signal::COUNTS;

    proptest! {
        #[test]
        fn numbers_survive(numbers in vec(any::<u64>(), 0..50)) {
            let mut bytes = Bytes::new();
            numbers.iter().for_each(|&n| put(&mut bytes, n));
            let mut rest = bytes.as_slice();
            for n in numbers {
                prop_assert_eq!(get(&mut rest), n);
            }
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn counts_survive(numbers in vec((0..COUNTS as u16, any::<u64>()), 0..50)) {
            let (mut counts, mut bytes) = (Counts::default(), Bytes::new());
            numbers.iter().for_each(|&(id, n)| counts.set(CountId(id), n));
            put_counts(&mut bytes, &counts);
            let mut rest = bytes.as_slice();
            let found: Vec<_> = get_counts(&mut rest).iter().collect();
            prop_assert_eq!(found, counts.iter().collect::<Vec<_>>());
            prop_assert!(rest.is_empty());
        }
    }
}
