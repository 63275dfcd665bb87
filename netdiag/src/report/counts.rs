//! Counts of rows, added up by name.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use crate::{
    signal,
    snapshot::{CountValue, node::sum},
};

/// Counts by name, as in a flow.
pub(crate) type Counts = BTreeMap<String, CountValue>;

/// Names of those that are states, which nothing adds up to.
static STATES: LazyLock<BTreeSet<&'static str>> = LazyLock::new(|| {
    signal::counts()
        .filter(|(_, _, count)| !count.adds_up)
        .map(|(_, _, count)| count.name)
        .collect()
});

/// Names of the groups of counts that tell of trouble: those with a column in the plain table.
pub(super) static TROUBLES: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    let with_column = signal::counts().filter(|(_, _, count)| count.column);
    let mut groups: Vec<_> = with_column.filter_map(|(_, _, count)| count.group()).collect();
    groups.dedup();
    groups
});

/// Adds what a flow counted. What is known of one is known of both: unknown stays unknown only where both are.
pub(super) fn add(to: &mut Counts, from: &Counts) {
    // Both in the order of their names, which are mostly the same: looking each up took a third of a report's time.
    let mut known = to.iter_mut().peekable();
    let mut new = Vec::new();
    for (name, value) in from {
        let same = known.next_if(|(known, _)| *known == name).or_else(|| {
            while known.next_if(|(known, _)| known.as_str() < name.as_str()).is_some() {}
            known.next_if(|(known, _)| *known == name)
        });
        match same {
            Some((_, known)) => add_value(known, value),
            None if STATES.contains(name.as_str()) => {}
            None => new.push((name.clone(), value.clone())),
        }
    }
    to.extend(new);
}

fn add_value(to: &mut CountValue, from: &CountValue) {
    match (&mut *to, from) {
        (CountValue::Number(known), CountValue::Number(more)) => *known = sum(*known, *more),
        (CountValue::Group(keys), CountValue::Group(more)) => {
            for (key, more) in more {
                match keys.get_mut(key) {
                    Some(known) => *known = sum(*known, *more),
                    None => drop(keys.insert(key.clone(), *more)),
                }
            }
        }
        // A group of which nothing is known is a null.
        (CountValue::Number(None), CountValue::Group(_)) => *to = from.clone(),
        _ => {}
    }
}

/// The sum of a count, over all keys where it is a group; none where it is unknown.
pub(crate) fn total(counts: &Counts, name: &str) -> Option<u64> {
    match counts.get(name)? {
        CountValue::Number(number) => *number,
        CountValue::Group(keys) if keys.is_empty() => Some(0),
        CountValue::Group(keys) => keys.values().copied().flatten().reduce(u64::saturating_add),
    }
}

/// What of it tells of trouble, together.
pub(super) fn trouble(counts: &Counts) -> u64 {
    TROUBLES.iter().filter_map(|name| total(counts, name)).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watched::kit;

    #[test]
    fn unknown_is_no_zero() {
        let flow = |n| kit::flow("f1").count("retransmits.rto", n).count("sends", 1).counts;
        let mut all = Counts::new();
        add(&mut all, &[("drops".to_owned(), CountValue::Number(None))].into());
        assert_eq!(total(&all, "drops"), None);
        add(&mut all, &kit::flow("f1").count("drops.NO_SOCKET", 3).counts);
        assert_eq!(total(&all, "drops"), Some(3));
        add(&mut all, &flow(2));
        add(&mut all, &flow(5));
        assert_eq!((total(&all, "retransmits"), total(&all, "sends")), (Some(7), Some(2)));
        assert_eq!(trouble(&all), 10);
        let state = signal::counts().find(|(_, _, count)| !count.adds_up).expect("a state").2.name;
        add(&mut all, &kit::flow("f1").count(state, 3).counts);
        assert_eq!(total(&all, state), None);
    }
}
