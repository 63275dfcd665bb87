use std::{fs::File, os::unix::fs::FileExt as _};

use rustix::fs::{MemfdFlags, memfd_create};

use super::*;

/// A file in the place of a ring: two pages with the positions, and then the ring twice.
struct Written {
    file: File,
    bytes: usize,
    /// The writers' position.
    end: usize,
}

impl Written {
    /// Nothing but what was read long ago.
    fn begin(pages: usize, position: usize) -> Self {
        let fd = memfd_create("ring", MemfdFlags::CLOEXEC).expect("a file in memory");
        let (file, bytes) = (File::from(fd), pages * page_size());
        file.set_len((2 * page_size() + 2 * bytes) as u64).expect("room");
        let mut written = Self { file, bytes, end: position };
        written.put(0, &position.to_ne_bytes());
        written.announce();
        written
    }

    fn put(&mut self, at: usize, content: &[u8]) {
        self.file.write_all_at(content, at as u64).expect("written");
    }

    fn announce(&mut self) {
        self.put(page_size(), &self.end.to_ne_bytes());
    }

    /// Adds a record, in both places where the ring shows it.
    fn write(&mut self, flags: u32, content: &[u8]) {
        let header = [(content.len() as u32 | flags).to_ne_bytes(), [0; 4]].concat();
        for (nth, byte) in header.iter().chain(content).enumerate() {
            let at = 2 * page_size() + (self.end + nth) % self.bytes;
            self.put(at, &[*byte]);
            self.put(at + self.bytes, &[*byte]);
        }
        self.end += (HEADER_BYTES + content.len()).next_multiple_of(8);
        self.announce();
    }

    fn take(&self, most: usize) -> (bool, Vec<Vec<u8>>) {
        let positions = Positions::of(&self.file).expect("positions");
        let mut records = Records::default();
        let all = take(&self.file, self.bytes, &positions, most, &mut records).expect("mapped");
        (all, records.drain().map(|record| record.to_vec()).collect())
    }

    fn waiting(&self) -> usize {
        Positions::of(&self.file).expect("positions").read().1
    }
}

#[test]
fn records_come_out_in_order_wherever_they_lie() {
    let ring = page_size();
    for position in [0, 8, ring - 16, ring - 8, ring, 7 * ring - 24] {
        let mut written = Written::begin(1, position);
        assert_eq!(written.take(CHUNK), (true, vec![]), "{position}");
        let records: [Vec<u8>; 4] = [vec![1; 5], vec![], vec![2; 40], vec![3; 16]];
        records.iter().for_each(|record| written.write(0, record));
        written.write(DISCARDED, &[9; 24]);
        written.write(0, &[4]);
        let expected = [&records[..], &[vec![4]]].concat();
        assert_eq!(written.take(CHUNK), (true, expected), "{position}");
        assert_eq!((written.waiting(), written.take(CHUNK)), (0, (true, vec![])), "{position}");
    }
}

#[test]
fn one_that_is_being_written_holds_up_what_is_behind_it() {
    let mut written = Written::begin(1, 64);
    written.write(0, b"one");
    let at = written.end;
    written.write(BUSY, b"two");
    written.write(0, b"three");
    assert_eq!(written.take(CHUNK), (true, vec![b"one".to_vec()]));
    let header = 2 * page_size() + at;
    written.put(header, &3_u32.to_ne_bytes());
    assert_eq!(written.take(CHUNK), (true, vec![b"two".to_vec(), b"three".to_vec()]));
}

#[test]
fn a_part_is_taken_at_a_time() {
    let mut written = Written::begin(1, 0);
    (0..5).for_each(|byte| written.write(0, &[byte; 8]));
    // Two of them, and a part of the third.
    assert_eq!(written.take(40), (false, vec![vec![0; 8], vec![1; 8]]));
    assert_eq!(written.waiting(), 48);
    assert_eq!(written.take(48), (true, [2, 3, 4].map(|byte| vec![byte; 8]).to_vec()));
}

#[test]
fn lengths_that_lie_are_survived() {
    for header in [1 << 20, u32::MAX >> 2, 4096] {
        let mut written = Written::begin(1, 0);
        written.write(0, b"one");
        let at = 2 * page_size() + written.end;
        written.write(0, b"two");
        written.put(at, &u32::to_ne_bytes(header));
        assert_eq!(written.take(CHUNK), (true, vec![b"one".to_vec()]), "{header}");
    }
}
