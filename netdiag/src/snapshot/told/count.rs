//! The count of snapshots that a single event adds to.

use super::{Event, Said, kinds};

impl Event {
    /// Its name in snapshots (`drops.NETFILTER_DROP`); none of an event without a packet.
    #[must_use]
    pub fn count(&self) -> Option<String> {
        let kind = kinds().find(|kind| kind.name == self.kind)?;
        kind.counted.iter().find_map(|counted| counted.of(|field| self.text(field)))
    }

    /// What it says in a field; of a flag that is set, its name.
    fn text(&self, field: &str) -> Option<&str> {
        match self.fields.get_key_value(field)? {
            (_, Said::Text(text)) => Some(text.as_str()),
            (name, Said::Flag(true)) => Some(*name),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        time::SystemTime,
    };

    use netdiag_common::{
        header::{Header, VERSION},
        signal::{
            Signal, drop,
            reset::{self, direction},
            retransmit::{self, origin},
        },
    };
    use zerocopy::IntoBytes;

    use crate::{
        event::Past,
        flow::Frozen,
        labels::Labels,
        signal::{self, CountId, DEFINITIONS, Fold, Label},
        snapshot::told::{Names, Telling},
    };

    /// Names of what a fold counts.
    struct Row<'a> {
        labels: &'a Labels,
        counts: BTreeSet<String>,
    }

    fn name_of(id: CountId) -> &'static str {
        let found = signal::counts().find(|(known, ..)| *known == id);
        found.map(|(_, _, count)| count.name).expect("a count")
    }

    impl Fold for Row<'_> {
        fn count(&mut self, count: CountId, _n: u64) {
            self.counts.insert(name_of(count).to_owned());
        }

        fn labelled(&mut self, count: CountId, label: Label, _n: u64) {
            self.counts.insert(format!("{}.{}", name_of(count), self.labels.name(label)));
        }
    }

    fn header(signal: Signal) -> Header {
        Header { version: VERSION, signal: signal as u16, samples: 1, time_ns: 7 }
    }

    /// As what the event of a record counts, which must be what it adds to the row of its flow.
    #[track_caller]
    fn counted(record: &[u8]) -> String {
        const PLACE: u64 = 1 << 40;
        let labels = Labels {
            reasons: BTreeMap::from([(3, "NETFILTER_DROP".to_owned())]),
            resets: BTreeMap::from([(1, "NO_SOCKET".to_owned())]),
            places: BTreeMap::from([(PLACE, Some("nf_hook_slow".to_owned()))]),
            ..Labels::default()
        };
        let places = BTreeMap::from([(PLACE, Some("nf_hook_slow+0x4b".to_owned()))]);
        let names = Names { labels: &labels, places: &places, signals: &[] };
        let mut events = Vec::new();
        signal::decode(record, &mut |event| events.push(event)).expect("a sound record");
        let mut row = Row { labels: &labels, counts: BTreeSet::new() };
        events[0].fold(&mut row);
        let mut all = Vec::new();
        events[0].tell(&Past::default(), &mut |told| all.push(told));
        let told = all.pop().expect("it is told");
        let (time, flow) = (SystemTime::UNIX_EPOCH, Frozen::default());
        let name = names.event(&Telling { time, told, flow, stack: None }).count().expect("a name");
        assert!(row.counts.contains(&name), "{name} is none of {:?}", row.counts);
        name
    }

    #[test]
    fn what_is_told_counts_as_what_is_folded() {
        let dropped = |reason, location| {
            let header = header(Signal::Drop);
            counted(drop::Record { header, reason, location, ..Default::default() }.as_bytes())
        };
        assert_eq!(dropped(3, 1 << 40), "drops.NETFILTER_DROP");
        assert_eq!(dropped(0x3_0005, 1 << 40), "drops.REASON_0x30005");
        assert_eq!(dropped(0, 1 << 40), "drops.at:nf_hook_slow");
        assert_eq!(dropped(0, 9), "drops.at:unknown");
        let again = |origin, ca_state, error| {
            let header = header(Signal::Retransmit);
            let record =
                retransmit::Record { header, origin, ca_state, error, ..Default::default() };
            counted(retransmit::Record { segments: 2, ..record }.as_bytes())
        };
        assert_eq!(again(origin::SEGMENT, 4, 0), "retransmits.rto");
        assert_eq!(again(origin::SEGMENT, 3, 0), "retransmits.fast");
        assert_eq!(again(origin::SYNACK, 0, 0), "retransmits.synack");
        assert_eq!(again(origin::SEGMENT, 4, -libc::EHOSTUNREACH), "retransmits_failed");
        let was_reset = |direction, reason| {
            let header = header(Signal::Reset);
            counted(reset::Record { header, direction, reason, ..Default::default() }.as_bytes())
        };
        assert_eq!(was_reset(direction::SENT, 1), "resets_sent.NO_SOCKET");
        assert_eq!(was_reset(direction::SENT, reset::NO_REASON), "resets_sent.unknown");
        assert_eq!(was_reset(direction::RECEIVED, reset::NO_REASON), "resets_received");
    }

    /// Whatever has a packet counts as something, and names counts and fields that are there.
    #[test]
    fn kinds_of_packets_add_to_counts_of_their_signal() {
        for definition in DEFINITIONS {
            for kind in definition.kinds {
                assert_eq!(kind.has_packet, !kind.counted.is_empty(), "{}", kind.name);
                for counted in kind.counted {
                    let name = counted.name();
                    let group = name.split_once('.').map(|(group, _)| group);
                    let is_it = |count: &signal::Count| match group {
                        Some(group) => count.group() == Some(group),
                        None => count.name == name,
                    };
                    assert!(definition.counts.iter().any(is_it), "{}: {name}", kind.name);
                    for field in counted.fields() {
                        let is_said = kind.fields.iter().any(|known| known.name == field);
                        assert!(is_said, "{}: no field {field}", kind.name);
                    }
                }
            }
        }
    }
}
