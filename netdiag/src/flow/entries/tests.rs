use std::sync::Arc;

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
        creator: Some(Creator { pid, comm: pid.to_string(), place: None }),
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
            let interval = entries.freeze(0);
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
    let interval = entries.freeze(0);
    let by = |row: &Frozen| row.creator.as_ref().is_some_and(|by| by.pid == 42);
    assert!(interval.rows.iter().all(by));
    assert_eq!(interval.rows.iter().map(|row| row.count(NEW)).sum::<u64>(), 1000);
    assert_eq!(interval.other, []);
}

/// One that comes takes the place of two at most: those of late keep their own.
#[test]
fn many_destinations_do_not_sum_up_what_was_just_told() {
    let mut entries = Entries::new(10);
    for port in 1..=1000 {
        let mut event = event(port, NEW, 42, 1);
        if let Event::Conntrack(event) = &mut event {
            event.entry.original.destination_port = port;
        }
        apply(&mut entries, &event);
    }
    let interval = entries.freeze(0);
    let newest = (999..=1000).filter(|port| {
        let is_it = |row: &&Frozen| row.entry.original.source_port == *port;
        interval.rows.iter().any(|row| is_it(&row))
    });
    assert_eq!(newest.count(), 2);
    assert!(interval.rows.len() <= 10);
    assert_eq!(sum(&interval, NEW), 1000);
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
        assert_eq!(entries.freeze(0).rows[0].reply, translated);
    }
}

#[test]
fn who_makes_an_entry_anew_is_who_made_it() {
    let mut entries = Entries::new(10);
    for pid in [1, 2] {
        apply(&mut entries, &event(1, NEW, pid, 1));
        let interval = entries.freeze(0);
        assert_eq!(interval.rows[0].creator.as_ref().map(|by| by.pid), Some(pid));
    }
}

#[test]
fn creators_are_those_of_all_rows() {
    let mut entries = Entries::new(100);
    for port in 1..=50 {
        apply(&mut entries, &event(port, NEW, 1 + u32::from(port % 5 == 0), 1));
    }
    let mut interval = entries.freeze(0);
    interval.count_creators();
    interval.arrange(Some(3));
    let creators: Vec<_> = interval
        .creators
        .iter()
        .map(|top| (top.creator.as_ref().map(|by| by.pid), top.new, top.table_full))
        .collect();
    assert_eq!(creators, [(Some(1), 40, 0), (Some(2), 10, 0)]);
    assert_eq!(interval.rows.len(), 3);
}

#[test]
fn a_creator_is_one_wherever_some_of_its_events_place_it() {
    let mut entries = Entries::new(100);
    let place = Arc::new(crate::owner::Place { cgroup: "/a".to_owned(), ..Default::default() });
    for port in 1..=10 {
        let mut event = event(port, NEW, 1, 1);
        if let Event::Conntrack(conntrack::Event { creator: Some(by), .. }) = &mut event {
            by.place = (port > 5).then(|| Arc::clone(&place));
        }
        apply(&mut entries, &event);
    }
    let mut interval = entries.freeze(0);
    interval.count_creators();
    let places = interval.creators.iter().map(|top| (&top.creator, top.new));
    let places: Vec<_> =
        places.map(|(by, new)| (by.as_ref().and_then(|by| by.place.clone()), new)).collect();
    assert_eq!(places, [(Some(place), 10)]);
}

/// What happens to one entry, and how long it has been in the table at last, at 100.
#[test]
fn an_entry_is_as_old_as_its_time_in_the_table() {
    type Case<'a> = (&'a str, &'a [(CountId, u64)], Option<u64>);
    let cases: [Case<'_>; 9] = [
        ("it is there", &[(NEW, 9), (CONFIRMED, 10)], Some(90)),
        ("it was there", &[(CONFIRMED, 10), (DESTROYED, 40)], Some(30)),
        ("its end is told first", &[(DESTROYED, 40), (CONFIRMED, 10)], Some(30)),
        ("freed and made anew at once", &[(DESTROYED, 40), (CONFIRMED, 40)], Some(60)),
        ("made and freed at once", &[(CONFIRMED, 40), (DESTROYED, 40)], Some(0)),
        ("nobody saw it come", &[(DESTROYED, 40)], None),
        ("nobody knows", &[(TABLE_FULL, 40)], None),
        ("another one is there", &[(CONFIRMED, 10), (DESTROYED, 40), (CONFIRMED, 60)], Some(40)),
        (
            "the end of the one before is told late",
            &[(CONFIRMED, 10), (CONFIRMED, 60), (DESTROYED, 40)],
            Some(40),
        ),
    ];
    for (case, told, age_ns) in cases {
        let mut entries = Entries::new(10);
        for &(what, at_ns) in told {
            let mut event = event(1, what, 1, 1);
            if let Event::Conntrack(event) = &mut event {
                event.time_ns = at_ns;
            }
            apply(&mut entries, &event);
        }
        assert_eq!(entries.freeze(100).rows[0].age_ns, age_ns, "{case}");
        assert_eq!(entries.total().rows[0].age_ns, age_ns, "{case}");
    }
}

/// Whose end it was is not known where ends are told of many at once, or by no port.
#[test]
fn an_age_that_may_be_another_ones_is_unknown() {
    let mut entries = Entries::new(10);
    let told = |port, what, protocol, time_ns| {
        let mut event = event(port, what, 1, 1);
        if let Event::Conntrack(event) = &mut event {
            (event.time_ns, event.entry.protocol) = (time_ns, protocol);
            if port == 0 {
                event.entry = event.entry.summed_up();
            }
        }
        event
    };
    for event in [
        told(1, CONFIRMED, 17, 10),
        told(2, CONFIRMED, 17, 20),
        told(3, CONFIRMED, 1, 60),
        told(5, CONFIRMED, 17, 30),
        told(5, DESTROYED, 17, 70),
        told(2, DESTROYED, 17, 25),
        told(0, DESTROYED, 17, 50),
        told(4, CONFIRMED, 17, 60),
    ] {
        apply(&mut entries, &event);
    }
    let mut ages: Vec<_> = entries
        .freeze(100)
        .rows
        .iter()
        .map(|row| (row.entry.original.source_port, row.age_ns))
        .collect();
    ages.sort_unstable();
    assert_eq!(ages, [(0, None), (1, None), (2, Some(5)), (3, None), (4, Some(40)), (5, None)]);
}
