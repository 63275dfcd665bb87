//! A run killed at any byte.

use super::*;
use recover::Cut;

/// From memory, a few bytes at a time.
fn cut(log: &[u8], sidecar: Option<&[u8]>) -> Cut {
    let slow = |bytes| io::BufReader::with_capacity(5, bytes);
    recover::cut(slow(log), sidecar.map(slow)).expect("memory")
}

/// Everything that a run of three intervals writes, in order: `(to the log, bytes)`.
fn writes() -> Vec<(bool, Vec<u8>)> {
    let start: Timestamp = "2026-11-21T04:18:00Z".parse().expect("time");
    let mut encoder = Encoder::default();
    let mut writes = vec![(true, block::header(start).expect("header").to_vec())];
    for number in 1..=3_u32 {
        let span = block::Span {
            file: start,
            start: start + Duration::from_secs(u64::from(number) - 1),
            end: start + Duration::from_secs(u64::from(number)),
        };
        let value = u64::from(number) * 1_000;
        let gap = (number == 2).then_some(("2026-11-21T04:18:00Z", 1));
        let mut snapshot = snapshot(i64::from(number));
        snapshot.flows.clear();
        snapshot.signals.clear();
        snapshot.accounting.clear();
        let block = encoder
            .encode(&snapshot, &interval(&[(1, &[value])], &[value]), span, number.into(), gap)
            .expect("encoded");
        writes.push((true, block.log.to_vec()));
        writes.push((false, block.sidecar.to_vec()));
    }
    writes.push((true, block::CLOSED.as_bytes().to_vec()));
    writes
}

/// What both files hold after the first `bytes` of `writes`, and how many intervals are complete.
fn killed_after(writes: &[(bool, Vec<u8>)], mut bytes: usize) -> (Vec<u8>, Vec<u8>, usize) {
    let (mut log, mut sidecar, mut complete) = (Vec::new(), Vec::new(), 0);
    for (to_log, data) in writes {
        let part = &data[..bytes.min(data.len())];
        bytes -= part.len();
        if *to_log {
            log.extend_from_slice(part);
        } else {
            sidecar.extend_from_slice(part);
            complete += usize::from(part.len() == data.len());
        }
    }
    (log, sidecar, complete)
}

fn total(writes: &[(bool, Vec<u8>)]) -> usize {
    writes.iter().map(|(_, data)| data.len()).sum()
}

#[test]
fn every_complete_interval_survives_a_kill_at_any_byte() {
    let root = tempfile::tempdir().expect("directory");
    let name = root.path().join("netdiag-node-1-20261121T041800Z");
    let (log_path, sidecar_path) = (name.with_extension("hlog"), name.with_extension("jsonl"));
    let writes = writes();
    for bytes in 0..=total(&writes) {
        let (log, side, complete) = killed_after(&writes, bytes);
        fs::write(&log_path, &log).expect("log");
        fs::write(&sidecar_path, &side).expect("sidecar");
        // now and then twice: what was recovered stays as it is
        for _ in 0..=usize::from(bytes % 16 == 0) {
            drop(open(&settings(root.path().to_owned())));
            let log = fs::read(&log_path).expect("log");
            let lines = sidecar(&fs::read(&sidecar_path).expect("sidecar"));
            assert_eq!(lines.len(), complete, "sidecar, killed after {bytes} bytes");
            let all = logged(&log);
            assert_eq!(all.len(), 3 * complete, "log, killed after {bytes} bytes");
            for (at, three) in all.chunks(3).enumerate() {
                let tags: Vec<_> = three.iter().map(|(tag, ..)| tag.as_deref()).collect();
                assert_eq!(tags, [None, Some("f1.send"), Some("other.send")]);
                assert_eq!(three[0].1.as_secs(), at as u64, "killed after {bytes} bytes");
            }
        }
    }
}

#[test]
fn without_a_sidecar_the_log_keeps_what_is_whole() {
    let writes = writes();
    for bytes in 0..=total(&writes) {
        let (log, _, complete) = killed_after(&writes, bytes);
        let cut = cut(&log, None);
        assert!(cut.intervals >= complete, "{bytes} bytes");
        assert_eq!(logged(&log[..cut.log]).len(), 3 * cut.intervals, "{bytes} bytes");
    }
}

#[test]
fn a_power_failure_may_lose_more_of_either_file() {
    let writes = writes();
    let (log, side, _) = killed_after(&writes, total(&writes));
    for log_bytes in (0..log.len()).step_by(7) {
        for side_bytes in (0..side.len()).step_by(97) {
            let Cut { log: log_end, sidecar: side_end, intervals } =
                cut(&log[..log_bytes], Some(&side[..side_bytes]));
            assert!(log_end <= log_bytes && side_end <= side_bytes);
            assert_eq!(logged(&log[..log_end]).len(), 3 * intervals);
            assert_eq!(sidecar(&side[..side_end]).len(), intervals);
        }
    }
    // blocks that were allocated and never written read as zeros
    let mut zeros = log[..log.len() / 2].to_vec();
    zeros.resize(log.len(), 0);
    let kept = cut(&zeros, Some(&side));
    assert_eq!(logged(&zeros[..kept.log]).len(), 3 * kept.intervals);
    assert!(kept.log <= log.len() / 2);
}

#[test]
fn a_file_that_is_being_written_is_never_cut() {
    let root = tempfile::tempdir().expect("directory");
    let (mut recorder, _) = open(&settings(root.path().to_owned()));
    recorder.write(&snapshot(0), &interval(&[(1, &[1])], &[]));
    let path = recorder.current().expect("a file").to_owned();
    // as if caught in the middle of a write
    let mut torn = fs::read(&path).expect("log");
    torn.extend_from_slice(b"1.000,1.0");
    let inode = fs::metadata(&path).expect("log").ino();
    fs::write(&path, &torn).expect("log");
    drop(open(&settings(root.path().to_owned())));
    assert_eq!(fs::read(&path).expect("log"), torn);
    assert_eq!(fs::metadata(&path).expect("log").ino(), inode);
    drop(recorder);
    let (_, said) = open(&settings(root.path().to_owned()));
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("9 bytes of an incomplete interval were cut"), "{said:?}");
}

proptest! {
    #[test]
    fn any_bytes_can_be_cut(log: Vec<u8>, side in prop::option::of(any::<Vec<u8>>())) {
        let cut = cut(&log, side.as_deref());
        prop_assert!(cut.log <= log.len());
        prop_assert!(cut.sidecar <= side.map_or(0, |side| side.len()));
    }
}

/// Whatever is in the files: what is kept of them is as it was, and is kept the next time, too.
#[test]
fn hostile_files_are_cut_once() {
    let writes = writes();
    let (log, side, _) = killed_after(&writes, total(&writes));
    crate::hostile::survived(&[log.clone(), side.clone()], |bytes| {
        for (log, side) in
            [(bytes, Some(&side[..])), (&log, Some(bytes)), (bytes, Some(bytes)), (bytes, None)]
        {
            let first = cut(log, side);
            assert!(first.log <= log.len() && first.sidecar <= side.map_or(0, <[u8]>::len));
            let kept = side.map(|side| &side[..first.sidecar]);
            assert_eq!(cut(&log[..first.log], kept), first);
        }
    });
}
