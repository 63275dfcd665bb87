use super::*;
use crate::signal::conntrack::{self, NEW, TABLE_FULL};

fn tuple(port: u16) -> Tuple {
    let source = [1; 16];
    Tuple { source, destination: [2; 16], source_port: port, destination_port: 53 }
}

fn event(port: u16, what: CountId, pid: u32, times: u32) -> Event {
    Event::Conntrack(conntrack::Event {
        time_ns: 0,
        entry: Entry { netns: 7, zone: 0, protocol: 17, original: tuple(port) },
        reply: Some(Tuple { source_port: 9, ..tuple(port) }),
        creator: Some(Creator { pid, comm: pid.to_string() }),
        what,
        times,
    })
}

fn apply(entries: &mut Entries, event: &Event) {
    let Event::Conntrack(of) = event else { panic!("no event of an entry") };
    entries.apply(&of.entry, event);
}

fn sum(interval: &Interval, what: CountId) -> u64 {
    let other = interval.other.iter().filter(|(id, _)| *id == what).map(|(_, n)| n).sum::<u64>();
    interval.rows.iter().map(|row| row.count(what)).sum::<u64>() + other
}

#[test]
fn intervals_add_up_to_the_total_however_few_rows_there_are() {
    for most in [1, 2, 3, 5, 100] {
        let mut entries = Entries::new(most);
        let mut intervals = [0, 0];
        for round in 0..4 {
            for port in 1..20 {
                apply(&mut entries, &event(port, NEW, 1 + u32::from(port % 2), 1));
                apply(&mut entries, &event(port * round, TABLE_FULL, 3, 2));
            }
            let interval = entries.freeze();
            intervals[0] += sum(&interval, NEW);
            intervals[1] += sum(&interval, TABLE_FULL);
        }
        let total = entries.total();
        assert!(total.rows.len() <= most, "{most}");
        assert_eq!(intervals, [4 * 19, 4 * 19 * 2], "{most}");
        assert_eq!([sum(&total, NEW), sum(&total, TABLE_FULL)], intervals, "{most}");
    }
}

#[test]
fn what_finds_no_row_is_still_told_by_who_made_it() {
    let mut entries = Entries::new(10);
    for port in 1..=1000 {
        apply(&mut entries, &event(port, NEW, 42, 1));
    }
    let interval = entries.freeze();
    let by = |row: &Frozen| row.creator.as_ref().is_some_and(|by| by.pid == 42);
    assert!(interval.rows.iter().all(by));
    assert_eq!(interval.rows.iter().map(|row| row.count(NEW)).sum::<u64>(), 1000);
    assert_eq!(interval.other, []);
}

/// Address translation is known once the entry is in the table, and CPUs tell in any order.
#[test]
fn the_reply_of_a_new_entry_is_not_the_last_word() {
    let translated = Some(Tuple { source: [8; 16], ..tuple(1) });
    let mut confirmed = event(1, NEW, 1, 1);
    if let Event::Conntrack(event) = &mut confirmed {
        (event.what, event.reply) = (CountId(NEW.0 + 1), translated);
    }
    let new = event(1, NEW, 1, 1);
    for order in [[&new, &confirmed], [&confirmed, &new]] {
        let mut entries = Entries::new(10);
        order.into_iter().for_each(|event| apply(&mut entries, event));
        assert_eq!(entries.freeze().rows[0].reply, translated);
    }
}

#[test]
fn who_makes_an_entry_anew_is_who_made_it() {
    let mut entries = Entries::new(10);
    for pid in [1, 2] {
        apply(&mut entries, &event(1, NEW, pid, 1));
        let interval = entries.freeze();
        assert_eq!(interval.rows[0].creator.as_ref().map(|by| by.pid), Some(pid));
    }
}

#[test]
fn makers_are_those_of_all_rows() {
    let mut entries = Entries::new(100);
    for port in 1..=50 {
        apply(&mut entries, &event(port, NEW, 1 + u32::from(port % 5 == 0), 1));
    }
    let mut interval = entries.freeze();
    interval.count_makers();
    interval.arrange(Some(3));
    let makers: Vec<_> = interval
        .makers
        .iter()
        .map(|maker| (maker.creator.as_ref().map(|by| by.pid), maker.new, maker.table_full))
        .collect();
    assert_eq!(makers, [(Some(1), 40, 0), (Some(2), 10, 0)]);
    assert_eq!(interval.rows.len(), 3);
}
