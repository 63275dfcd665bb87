use std::net::Ipv4Addr;

use netdiag_common::flow::TCP;

use super::*;

fn ip(host: u8) -> [u8; 16] {
    Ipv4Addr::new(10, 0, 0, host).to_ipv6_mapped().octets()
}

fn tuple(source: (u8, u16), destination: (u8, u16)) -> Tuple {
    Tuple {
        source: ip(source.0),
        source_port: source.1,
        destination: ip(destination.0),
        destination_port: destination.1,
    }
}

fn entry(netns: u32, source: (u8, u16), destination: (u8, u16)) -> Entry {
    Entry { netns, zone: 0, protocol: TCP, original: tuple(source, destination) }
}

fn translated(began: Began) -> Ends {
    began.is.expect("it translates")
}

const CLIENT: (u8, u16) = (1, 40_000);
const SERVICE: (u8, u16) = (96, 80);
const NODE: (u8, u16) = (7, 30_080);
const POD: (u8, u16) = (9, 8080);

fn translation(service: (u8, u16), backend: (u8, u16)) -> Translation {
    Translation { service: (ip(service.0), service.1), backend: (ip(backend.0), backend.1) }
}

#[test]
fn both_ends_find_their_entry_also_from_another_namespace() {
    let mut translations = Translations::new(8);
    let entry = entry(3, CLIENT, SERVICE);
    let told = translated(translations.begin(&entry, &tuple(POD, CLIENT), 5));
    assert_eq!(*told.translation, translation(SERVICE, POD));
    for netns in [3, 4] {
        let of = |from, to| translations.of(&FlowKey { netns, ..entry.key(&tuple(from, to)) });
        assert_eq!(of(CLIENT, SERVICE).as_ref(), Some(&told));
        assert_eq!(of(POD, CLIENT).as_ref(), Some(&told));
        assert_eq!(of(CLIENT, POD), None);
    }
    translations.end(&entry, 4);
    assert!(translations.of(&entry.key(&entry.original)).is_some(), "that was an earlier one");
    translations.end(&entry, 6);
    assert_eq!(translations.of(&entry.key(&entry.original)), None);
    assert!(translations.steps.is_empty());
}

#[test]
fn a_tuple_that_is_used_again_is_what_it_was_last() {
    let mut translations = Translations::new(8);
    let entry = entry(3, CLIENT, SERVICE);
    let client = entry.key(&entry.original);
    translations.begin(&entry, &tuple(POD, CLIENT), 5);
    let late = translations.begin(&entry, &tuple((10, 8080), CLIENT), 4);
    assert_eq!(late, Began::default());
    translations.begin(&entry, &tuple((11, 8080), CLIENT), 7);
    let told = translations.of(&client).map(|ends| *ends.translation);
    assert_eq!(told, Some(translation(SERVICE, (11, 8080))));
    let plain = translations.begin(&entry, &tuple(SERVICE, CLIENT), 9);
    assert_eq!(plain.is, None);
    assert!(plain.was.is_some_and(|ends| ends.client == client), "it was translated");
    assert_eq!(translations.of(&client), None, "it is not translated any more");
    assert_eq!(translations.begin(&entry, &tuple(SERVICE, CLIENT), 10), Began::default());
}

#[test]
fn the_same_tuples_in_two_namespaces_are_nobodys_elsewhere() {
    let mut translations = Translations::new(8);
    for (netns, backend) in [(3, POD), (4, NODE)] {
        translations.begin(&entry(netns, CLIENT, SERVICE), &tuple(backend, CLIENT), 5);
    }
    let of = |netns| {
        let key = FlowKey { netns, ..entry(netns, CLIENT, SERVICE).key(&tuple(CLIENT, SERVICE)) };
        translations.of(&key).map(|ends| *ends.translation)
    };
    assert_eq!(of(3), Some(translation(SERVICE, POD)));
    assert_eq!(of(4), Some(translation(SERVICE, NODE)));
    assert_eq!(of(5), None);
}

#[test]
fn translators_one_behind_the_other_lead_to_the_last() {
    let masked = (7, 50_000);
    let outer = entry(3, CLIENT, SERVICE);
    let inner = entry(4, CLIENT, NODE);
    let steps = [(&outer, tuple(NODE, CLIENT)), (&inner, tuple(POD, masked))];
    for order in [[0, 1], [1, 0]] {
        let mut translations = Translations::new(8);
        let told = order.map(|at| translations.begin(steps[at].0, &steps[at].1, 5));
        let told = translated(told[1].clone());
        assert_eq!(*told.translation, translation(SERVICE, POD));
        assert_eq!(told.client, outer.key(&outer.original));
        assert_eq!(told.server, inner.key(&tuple(POD, masked)));
    }
}

#[test]
fn the_oldest_goes_for_one_that_comes() {
    let mut translations = Translations::new(2);
    for port in 0..5 {
        translations.begin(&entry(3, (1, port), SERVICE), &tuple(POD, (1, port)), 5);
    }
    assert_eq!(translations.steps.len(), 2);
    let of = |port| translations.of(&entry(3, (1, port), SERVICE).key(&tuple((1, port), SERVICE)));
    assert!(of(2).is_none() && of(3).is_some() && of(4).is_some());
}

#[test]
fn what_many_of_a_destination_may_have_been_is_unknown() {
    let mut translations = Translations::new(8);
    let (one, other) = (entry(3, CLIENT, SERVICE), entry(3, CLIENT, NODE));
    let of = |translations: &Translations, entry: &Entry| {
        translations.of(&entry.key(&entry.original)).map(|ends| *ends.translation)
    };
    let begin = |translations: &mut Translations, time_ns| {
        translations.begin(&one, &tuple(POD, CLIENT), time_ns);
        translations.begin(&other, &tuple(POD, CLIENT), time_ns);
    };
    begin(&mut translations, 5);
    translations.blur(&one.summed_up(), 4);
    assert!(of(&translations, &one).is_some(), "it came after those");
    translations.blur(&one.summed_up(), 5);
    assert_eq!(of(&translations, &one), None);
    assert!(of(&translations, &other).is_some(), "that leads elsewhere");
    let all = Entry { netns: 3, ..Entry::default() };
    translations.blur(&all, 6);
    assert_eq!(of(&translations, &other), None);
    begin(&mut translations, 7);
    assert!(of(&translations, &one).is_some() && of(&translations, &other).is_some());
    translations.blur(&Entry { netns: 0, ..all }, 8);
    assert!(of(&translations, &one).is_none() && of(&translations, &other).is_none());
}

#[test]
fn too_many_destinations_are_told_of_as_one() {
    let mut translations = Translations::new(2);
    translations.begin(&entry(3, CLIENT, SERVICE), &tuple(POD, CLIENT), 5);
    for host in 20..23 {
        translations.blur(&entry(3, CLIENT, (host, 80)).summed_up(), 6);
    }
    assert_eq!(translations.blurred.len(), 1);
    let entry = entry(3, CLIENT, SERVICE);
    assert_eq!(translations.of(&entry.key(&entry.original)), None);
}

#[test]
fn a_conversation_is_as_old_as_its_entries() {
    let mut translations = Translations::new(8);
    translations.begin(&entry(3, CLIENT, SERVICE), &tuple(NODE, CLIENT), 5);
    let told = translated(translations.begin(&entry(4, CLIENT, NODE), &tuple(POD, CLIENT), 7));
    assert_eq!((told.first_ns, told.last_ns), (5, 7));
}
