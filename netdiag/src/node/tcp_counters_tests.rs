use proptest::prelude::*;

use super::*;

const SNMP: &str = "\
Ip: Forwarding DefaultTTL InReceives\n\
Ip: 1 64 1220\n\
Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens CurrEstab InSegs OutSegs RetransSegs\n\
Tcp: 1 200 120000 -1 9 3 18446744073709551615 1166 12\n\
Udp: InDatagrams NoPorts\n\
Udp: 20 2\n";

type Values<'a> = &'a [(&'static str, u64)];

fn counters(values: Values<'_>) -> Counters {
    values.iter().copied().collect()
}

fn tcp(text: &str) -> io::Result<Counters> {
    parse(text, "Tcp", DOCUMENTED)
}

fn reading(namespaces: &[(u32, Values<'_>)], unread: &[u32]) -> Reading {
    Reading {
        namespaces: namespaces.iter().map(|(inode, values)| (*inode, counters(values))).collect(),
        unread: unread.iter().map(|inode| (*inode, String::new())).collect(),
    }
}

#[test]
fn one_group_without_settings_and_levels() {
    assert_eq!(
        tcp(SNMP).unwrap(),
        counters(&[
            ("ActiveOpens", 9),
            ("InSegs", u64::MAX),
            ("OutSegs", 1166),
            ("RetransSegs", 12)
        ])
    );
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (text, message) in [
        ("", "Tcp: no such group of counters"),
        ("TcpExt: A\nTcpExt: 1\n", "Tcp: no such group of counters"),
        ("Tcp: A B\n", "Tcp: no such group of counters"),
        ("Tcp: A B\nTcp: 1\n", "Tcp: names and values do not match in number"),
        ("Tcp: A\nTcp: 1 2\n", "Tcp: names and values do not match in number"),
        ("Tcp: InSegs\nTcp: -1\n", "Tcp: a value is no number"),
    ] {
        assert_eq!(tcp(text).unwrap_err().to_string(), message, "{text:?}");
    }
}

#[test]
fn increases() {
    type Case = (&'static str, Reading, Reading, &'static [(u32, Values<'static>)]);
    let cases: &[Case] = &[
        (
            "plain",
            reading(&[(1, &[("RetransSegs", 5), ("InSegs", 7)])], &[]),
            reading(&[(1, &[("RetransSegs", 8), ("InSegs", 7)])], &[]),
            &[(1, &[("RetransSegs", 3), ("InSegs", 0)])],
        ),
        (
            "a new namespace counts from zero",
            reading(&[], &[]),
            reading(&[(2, &[("RetransSegs", 8)])], &[]),
            &[(2, &[("RetransSegs", 8)])],
        ),
        (
            "one that could not be read before is unknown",
            reading(&[], &[2]),
            reading(&[(2, &[("RetransSegs", 8)])], &[]),
            &[],
        ),
        (
            "one that cannot be read now is unknown",
            reading(&[(2, &[("RetransSegs", 8)])], &[]),
            reading(&[], &[2]),
            &[],
        ),
        (
            "a fallen counter makes all of them new",
            reading(&[(3, &[("RetransSegs", 9), ("InSegs", 4)])], &[]),
            reading(&[(3, &[("RetransSegs", 2), ("InSegs", 6)])], &[]),
            &[(3, &[("RetransSegs", 2), ("InSegs", 6)])],
        ),
        (
            "a counter that was absent counts from zero",
            reading(&[(3, &[("InSegs", 4)])], &[]),
            reading(&[(3, &[("InSegs", 4), ("RetransSegs", 2)])], &[]),
            &[(3, &[("InSegs", 0), ("RetransSegs", 2)])],
        ),
    ];
    for (case, before, after, expected) in cases {
        assert_eq!(increase(before, after), reading(expected, &[]).namespaces, "{case}");
    }
}

#[test]
fn documented_ones_are_taken_and_have_one_name() {
    let taken = tcp("Tcp: RetransSegs TCPHPHits CurrEstab\nTcp: 5 7 9\n").unwrap();
    assert_eq!(taken, counters(&[("RetransSegs", 5)]));
    let told = named(&BTreeMap::from([(1, taken)]));
    assert_eq!(told, BTreeMap::from([(1, BTreeMap::from([("RetransSegs".to_owned(), 5)]))]));
    let mut names: Vec<_> = DOCUMENTED.iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), DOCUMENTED.len(), "a name is documented twice");
}

proptest! {
    #[test]
    fn increases_add_up(steps in proptest::collection::vec(0u64..1 << 40, 1..20)) {
        let mut total = 0;
        let mut before = reading(&[(1, &[("RetransSegs", 0)])], &[]);
        let mut sum = 0;
        for step in &steps {
            total += step;
            let after = reading(&[(1, &[("RetransSegs", total)])], &[]);
            sum += increase(&before, &after)[&1]["RetransSegs"];
            before = after;
        }
        prop_assert_eq!(sum, total);
    }

    #[test]
    fn any_text_is_survived(text in "(Tcp|TcpExt|InSegs|x|:| |-|[0-9]|\n){0,60}") {
        let _ = tcp(&text);
    }
}

#[test]
fn a_namespace_that_is_overlooked_once_is_not_new_the_next_time() {
    let (one, two) = (&[("InSegs", 5)][..], &[("InSegs", 7)][..]);
    let mut last = reading(&[(1, one), (2, two)], &[]);
    last.follow(reading(&[(1, one)], &[]));
    let found = reading(&[(1, one), (2, &[("InSegs", 9)])], &[]);
    assert_eq!(increase(&last, &found)[&2]["InSegs"], 2);
    last.follow(found.clone());
    assert_eq!(last, found);
}
