use proptest::prelude::*;

use super::*;

/// As captured on two processors: 5 connections and 3 drops, then 15 and 32.
const V5_10: &str = "\
entries  clashres found new invalid ignore delete delete_list insert insert_failed drop early_drop icmp_error  expect_new expect_create expect_delete search_restart\n\
00000005  00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000  00000000 00000000 00000000 00000000\n\
00000005  00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000003 00000000 00000000  00000000 00000000 00000000 00000000\n";
const V6_18: &str = "\
entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop icmp_error  expect_new expect_create expect_delete search_restart\n\
0000000f  00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000  00000000 00000000 00000000 00000000\n\
0000000f  00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000020 00000000 00000000  00000000 00000000 00000000 00000000\n";

fn sums(statistics: &Statistics) -> Vec<(&'static str, Option<u64>)> {
    let sums = statistics.sums();
    let all = Counter::ALL.into_iter().map(|counter| (counter.name(), sums.get(counter)));
    all.filter(|(_, sum)| *sum != Some(0)).collect()
}

#[test]
fn files_of_kernels() {
    for (text, entries, drops, unknown) in
        [(V5_10, 5, 3, Some(("chaintoolong", None))), (V6_18, 15, 32, None)]
    {
        let mut expected = vec![("drop", Some(drops))];
        expected.extend(unknown);
        let (found, statistics) = parse(text).unwrap();
        assert_eq!((found, sums(&statistics)), (entries, expected), "{text}");
    }
}

#[test]
fn columns_are_known_by_name() {
    let names = "drop clashres early_drop entries found icmp_error new chainlength";
    let (entries, statistics) =
        parse(&format!("{names}\n1 2 3 4 5 6 7 8\n1 0 0 4 0 0 0 ffffffff\n")).unwrap();
    let expected = [
        ("found", Some(5)),
        ("invalid", None),
        ("insert", None),
        ("insert_failed", None),
        ("drop", Some(2)),
        ("early_drop", Some(3)),
        ("error", Some(6)),
        ("search_restart", None),
        ("clash_resolve", Some(2)),
        ("chaintoolong", Some(0x1_0000_0007)),
    ];
    assert_eq!((entries, sums(&statistics)), (4, expected.to_vec()));
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (text, message) in [
        ("", "no column `entries`"),
        ("drop\n1\n", "no column `entries`"),
        ("entries drop\n", "no line of values"),
        ("entries drop\n1\n", "names and values do not match in number"),
        ("entries drop\n1 2 3\n", "names and values do not match in number"),
        ("entries drop\n1 x\n", "a value is no number"),
        ("entries drop\n1 100000000\n", "a value is no number"),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.ends_with(message), "{text:?}: {error}");
    }
}

proptest! {
    #[test]
    fn any_text_is_survived(text in "(entries|drop|clashres|x| |[0-9a-f]{1,9}|\n){0,60}") {
        let _ = parse(&text);
    }

    #[test]
    fn lies_are_survived(lies in proptest::collection::vec((any::<usize>(), "[ -~\n]"), 1..12)) {
        let mut text = V6_18.to_owned();
        for (at, lie) in lies {
            let at = at % text.len();
            text.replace_range(at..=at, &lie);
        }
        let _ = parse(&text);
    }
}

#[test]
fn hostile_files_are_survived() {
    crate::hostile::survived_text(&[V5_10, V6_18], |text| drop(parse(text)));
}
