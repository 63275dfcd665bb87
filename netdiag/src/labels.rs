//! What is called how that is told by number: reasons of drops and places in the kernel's code, told by the
//! kernel side, and the pods and containers of owners. Used where a snapshot is built.

use std::collections::BTreeMap;

use crate::{
    event::{GIVEN_UP, errno_name},
    owner::Names,
    signal::{Label, dns::rcode_name},
};

/// Names by number and address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// Reasons as `counts.drops` has them: upper case, without `SKB_DROP_REASON_`.
    pub reasons: BTreeMap<u32, String>,
    /// Reasons of resets: upper case, without `SK_RST_REASON_`.
    pub resets: BTreeMap<u32, String>,
    /// Functions by addresses inside them, none where nobody knows.
    pub places: BTreeMap<u64, Option<String>>,
    /// Pods and containers.
    pub owners: Names,
}

impl Labels {
    /// The key of a labelled count.
    #[must_use]
    pub fn name(&self, label: Label) -> String {
        match label {
            Label::Reason(reason) => match self.reasons.get(&reason) {
                Some(name) => name.clone(),
                // A module's, or younger than the BTF that was read.
                None => format!("REASON_{reason:#x}"),
            },
            Label::Reset(None) => "unknown".to_owned(),
            Label::Reset(Some(reason)) => match self.resets.get(&reason) {
                Some(name) => name.clone(),
                None => format!("REASON_{reason:#x}"),
            },
            Label::Place(address) => match self.places.get(&address) {
                Some(Some(function)) => format!("at:{function}"),
                // Not the address, which may have been hidden on purpose.
                _ => "at:unknown".to_owned(),
            },
            Label::Errno(error) => errno_name(error).into_owned(),
            Label::GivenUp => GIVEN_UP.to_owned(),
            Label::Rcode(rcode) => rcode_name(rcode).into_owned(),
        }
    }

    /// Which addresses nobody was asked about yet.
    #[must_use]
    pub fn unknown_places(&self, labels: impl Iterator<Item = Label>) -> Vec<u64> {
        let mut unknown: Vec<u64> = labels
            .filter_map(|label| match label {
                Label::Place(address) => Some(address),
                Label::Reason(_)
                | Label::Reset(_)
                | Label::Errno(_)
                | Label::GivenUp
                | Label::Rcode(_) => None,
            })
            .filter(|address| !self.places.contains_key(address))
            .collect();
        unknown.sort_unstable();
        unknown.dedup();
        unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_name() {
        let labels = Labels {
            reasons: BTreeMap::from([(3, "NO_SOCKET".to_owned())]),
            resets: BTreeMap::from([(1, "NO_SOCKET".to_owned())]),
            places: BTreeMap::from([(1 << 40, Some("tcp_v4_rcv".to_owned())), (1 << 41, None)]),
            ..Labels::default()
        };
        assert_eq!(labels.name(Label::Reason(3)), "NO_SOCKET");
        assert_eq!(labels.name(Label::Reason(0x3_0005)), "REASON_0x30005");
        assert_eq!(labels.name(Label::Place(1 << 40)), "at:tcp_v4_rcv");
        assert_eq!(labels.name(Label::Place(1 << 41)), "at:unknown");
        assert_eq!(labels.name(Label::Reset(Some(1))), "NO_SOCKET");
        assert_eq!(labels.name(Label::Reset(Some(99))), "REASON_0x63");
        assert_eq!(labels.name(Label::Reset(None)), "unknown");
        assert_eq!(labels.name(Label::Errno(libc::ECONNREFUSED)), "ECONNREFUSED");
        assert_eq!(labels.name(Label::GivenUp), "closed");
        assert_eq!(labels.name(Label::Rcode(3)), "NXDOMAIN");
        assert_eq!(labels.name(Label::Rcode(12)), "RCODE12");
    }

    #[test]
    fn places_are_asked_for_once() {
        let labels = Labels { places: BTreeMap::from([(7, None)]), ..Labels::default() };
        let seen = [7, 9, 8, 9].map(Label::Place).into_iter().chain([Label::Reason(8)]);
        assert_eq!(labels.unknown_places(seen), [8, 9]);
    }
}
