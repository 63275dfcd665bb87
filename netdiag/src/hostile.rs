//! Input as nobody should give it, for the tests of what reads it: noise, and sound input that was cut, torn, joined,
//! or told another length. `PROPTEST_CASES` says how many of each (256 if nothing is said), or `NETDIAG_HOSTILE_SECONDS` for
//! how many seconds of processor time; what that gives, `NETDIAG_SEED` gives again. Names as nobody should have them, for
//! the tests of what shows them.

use std::{
    env, fs,
    hash::{BuildHasher as _, RandomState},
    io::{self, Write as _},
    time::Duration,
};

use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
    test_runner::{Config, RngSeed, TestRunner},
};
use rustix::time::{ClockId, clock_gettime};

/// CPU time that no reader takes for input of a few kilobytes, unless it never ends.
const MOST_CPU: Duration = Duration::from_secs(10);

/// By how much reading may let the process grow that does nothing else, at most: inputs have 64 KiB.
const MOST_RESIDENT: u64 = 64 << 20;
/// The same of what it asks the kernel for and never touches, such as room for as many things as an input says that it
/// has. The allocator takes some for each of its arenas.
const MOST_MAPPED: u64 = 2 << 30;

/// Lengths, counts and offsets at which arithmetic goes wrong.
const NUMBERS: &[u64] = &[
    0,
    1,
    3,
    4,
    15,
    16,
    17,
    0x7f,
    0xff,
    0x7fff,
    0x8000,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fff0,
    0xffff_ffff,
    0x1_0000_0000,
    i64::MAX as u64,
    u64::MAX,
];

/// Words that readers of text stumble over.
const WORDS: &[&str] = &[
    "",
    " ",
    "\n",
    "\r\n",
    "\t",
    "\0",
    ":",
    ": ",
    "/",
    "//",
    "-",
    "-1",
    "--",
    "[",
    "]",
    "(",
    ")",
    "\\",
    "\\0",
    "0",
    "00",
    "0x",
    "+1",
    "max",
    "NaN",
    "4294967295",
    "4294967296",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "99999999999999999999999999",
    "ffffffffffffffff",
    "1ffffffffffffffff",
    "\u{fffd}",
    "\u{1f980}",
];

/// What is done to bytes.
#[derive(Clone, Debug)]
enum Change {
    Set(Index, u8),
    Number(Index, u64, usize),
    Cut(Index),
    Remove(Index, Index),
    Repeat(Index, Index, u8),
    Insert(Index, Vec<u8>),
    /// The rest is that of another sound input.
    Join(Index, Index, Index),
}

fn changes(words: &'static [&'static str]) -> impl Strategy<Value = Vec<Change>> {
    let at = || any::<Index>();
    let change = prop_oneof![
        4 => (at(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        4 => (at(), select(NUMBERS), select(&[1, 2, 4, 8][..]))
            .prop_map(|(at, number, bytes)| Change::Number(at, number, bytes)),
        1 => at().prop_map(Change::Cut),
        1 => (at(), at()).prop_map(|(from, to)| Change::Remove(from, to)),
        1 => (at(), at(), 1..5_u8).prop_map(|(from, to, times)| Change::Repeat(from, to, times)),
        1 => (at(), vec(any::<u8>(), 0..9)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        4 => (at(), select(words))
            .prop_map(|(at, word)| Change::Insert(at, word.as_bytes().to_vec())),
        1 => (at(), at(), at()).prop_map(|(at, other, from)| Change::Join(at, other, from)),
    ];
    vec(change, 0..8)
}

fn spoil(sound: &[Vec<u8>], which: Index, changes: &[Change]) -> Vec<u8> {
    let mut bytes = sound[which.index(sound.len())].clone();
    for change in changes {
        // Also right behind the last byte.
        let place = |at: &Index| at.index(bytes.len() + 1);
        match change {
            Change::Set(at, byte) => {
                let at = place(at);
                if let Some(there) = bytes.get_mut(at) {
                    *there = *byte;
                }
            }
            Change::Number(at, number, width) => {
                // Fields are aligned as a rule.
                let at = place(at) / width * width;
                for (there, byte) in bytes.iter_mut().skip(at).zip(&number.to_ne_bytes()[..*width])
                {
                    *there = *byte;
                }
            }
            Change::Cut(at) => bytes.truncate(place(at)),
            Change::Remove(one, other) => {
                let (one, other) = (place(one), place(other));
                bytes.drain(one.min(other)..one.max(other));
            }
            Change::Repeat(one, other, times) => {
                let (one, other) = (place(one), place(other));
                let part = bytes[one.min(other)..one.max(other)].repeat((*times).into());
                bytes.splice(one..one, part);
            }
            Change::Insert(at, more) => {
                let at = place(at);
                bytes.splice(at..at, more.iter().copied());
            }
            Change::Join(at, other, from) => {
                bytes.truncate(place(at));
                let other = &sound[other.index(sound.len())];
                bytes.extend_from_slice(&other[from.index(other.len() + 1)..]);
            }
        }
        // However often a part of a part is repeated.
        bytes.truncate(64 << 10);
    }
    bytes
}

/// Hands noise to `read`, and each of the sound inputs spoilt in every way. It is to return, and soon.
pub(crate) fn survived(sound: &[Vec<u8>], read: impl Fn(&[u8])) {
    let noise = vec(any::<u8>(), 0..600);
    let spoilt = (any::<Index>(), changes(WORDS));
    let input = prop_oneof![
        1 => noise.prop_map(|bytes| (None, bytes)),
        4 => spoilt.prop_map(|spoilt| (Some(spoilt), Vec::new())),
    ];
    let time = number("NETDIAG_HOSTILE_SECONDS").map(Duration::from_secs);
    let mut seed = number("NETDIAG_SEED").unwrap_or_else(|| RandomState::new().hash_one(()));
    if time.is_some() {
        // Not by the macro, whose lines are lost where this process is.
        let _closed = writeln!(io::stderr(), "hostile: NETDIAG_SEED={seed} and those behind it");
    }
    let (began, before) = (cpu_time(ClockId::ProcessCPUTime), Memory::now());
    loop {
        // A failure becomes a test of its own, not a file.
        let config = Config {
            failure_persistence: None,
            rng_seed: RngSeed::Fixed(seed),
            ..Config::default()
        };
        let result = TestRunner::new(config).run(&input, |(spoilt, noise)| {
            let bytes = spoilt.map_or(noise, |(which, changes)| spoil(sound, which, &changes));
            let began = cpu_time(ClockId::ThreadCPUTime);
            read(&bytes);
            let took = cpu_time(ClockId::ThreadCPUTime).saturating_sub(began);
            prop_assert!(took < MOST_CPU, "{took:?} for {bytes:?}");
            Ok(())
        });
        if let Err(error) = result {
            panic!("NETDIAG_SEED={seed} gives it again: {error}");
        }
        // Other tests run beside this one where nobody gave it time.
        let Some(time) = time else { return };
        let now = Memory::now();
        let resident = now.resident.saturating_sub(before.resident);
        let mapped = now.mapped.saturating_sub(before.mapped);
        assert!(
            resident < MOST_RESIDENT && mapped < MOST_MAPPED,
            "NETDIAG_SEED={seed} gives it again: from {before:?} to {now:?}"
        );
        if cpu_time(ClockId::ProcessCPUTime).saturating_sub(began) > time {
            return;
        }
        seed = seed.wrapping_add(1);
    }
}

/// A number in a variable of the environment.
fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

/// The most that this process ever had, in bytes (proc_pid_status(5)).
#[derive(Clone, Copy, Debug)]
struct Memory {
    /// In memory.
    resident: u64,
    /// Asked for.
    mapped: u64,
}

impl Memory {
    fn now() -> Self {
        let text = fs::read_to_string("/proc/self/status").expect("/proc/self/status");
        let bytes = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            kib.expect("a number of KiB") * 1024
        };
        Self { resident: bytes("VmHWM:"), mapped: bytes("VmPeak:") }
    }
}

/// The same with text; what is none by then is made text as where files are read.
pub(crate) fn survived_text(sound: &[&str], read: impl Fn(&str)) {
    let sound: Vec<_> = sound.iter().map(|text| text.as_bytes().to_vec()).collect();
    survived(&sound, |bytes| read(&String::from_utf8_lossy(bytes)));
}

/// A name as others may choose it: of a process, a pod, a node.
pub(crate) fn name() -> impl Strategy<Value = String> {
    /// What moves a cursor, ends a line or a quotation, turns text around, or is not seen.
    const HARMFUL: &[char] = &[
        '\0',
        '\n',
        '\r',
        '\t',
        '\u{1b}',
        ' ',
        '"',
        '\'',
        '\\',
        '\u{7f}',
        '\u{9b}',
        '\u{301}',
        '\u{200b}',
        '\u{2028}',
        '\u{202e}',
        '\u{feff}',
        '\u{e0041}',
    ];
    let piece = prop_oneof![select(HARMFUL), any::<char>(), proptest::char::range(' ', '~')];
    vec(piece, 0..20).prop_map(|chars| chars.into_iter().collect::<String>())
}

/// Of this thread, or of all, so that it does not matter how busy the machine is.
fn cpu_time(of: ClockId) -> Duration {
    let time = clock_gettime(of);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}
