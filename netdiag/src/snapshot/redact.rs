//! Outputs that may be given to others: addresses and names stand as pseudonyms, everything that is counted or
//! measured as it is.
//!
//! It is done to a snapshot or an event before any view or rule sees it, so none can forget it: text, findings and
//! commands are made of what stands there. Types that have names or addresses are taken apart field by field, without
//! `..`: one that is added does not compile until somebody decides whether it is a name. The key is new in each run and
//! leaves it nowhere.

use std::collections::hash_map::RandomState;

use super::{
    Conntrack, Endpoint, Entry, Flow, Group, Snapshot, TopCreator, Tuple,
    told::{Event, EventFlow, Said},
};
use crate::flow::{self, Grouping, SERVER};

mod address;
mod names;
mod node;

/// Gives pseudonyms: the same one for the same name all the run.
#[derive(Clone, Debug, Default)]
pub struct Redactor {
    key: RandomState,
}

impl Redactor {
    /// Leaves no address and no name in a snapshot.
    pub fn snapshot(&self, snapshot: &mut Snapshot) {
        let by = snapshot.by;
        snapshot.flows.iter_mut().for_each(|flow| self.flow(flow, by));
        self.rest(snapshot);
    }

    /// The same of a snapshot whose flows have their pseudonyms, or get them one by one ([`Self::flow`]).
    pub fn rest<F>(&self, snapshot: &mut Snapshot<F>) {
        let Snapshot {
            by,
            other,
            conntrack,
            node,
            flows: _,
            // Who watches may be known; `--node` gives another name.
            host: _,
            kernel: _,
            // Names of signals and of netdiag's programs, and words of netdiag and of the kernel.
            signals: _,
            accounting: _,
            own: _,
            schema: _,
            start: _,
            end: _,
            folded: _,
            filtered: _,
            stream: _,
            complete: _,
        } = snapshot;
        self.flow(other, *by);
        conntrack.iter_mut().for_each(|conntrack| self.conntrack(conntrack));
        self.node(node);
    }

    /// Leaves no address and no name in an event.
    pub fn event(&self, event: &mut Event) {
        let Event {
            flow,
            fields,
            // Functions of the kernel.
            stack: _,
            schema: _,
            kind: _,
            time: _,
        } = event;
        let EventFlow {
            local,
            peer,
            owner,
            service,
            backend,
            id: _,
            netns: _,
            protocol: _,
            role: _,
        } = flow;
        for end in [local, peer].into_iter().chain(service).chain(backend) {
            self.endpoint(end);
        }
        self.owner(owner);
        for said in fields.values_mut() {
            match said {
                // Text is the kernel's: reasons, states, errors, places.
                Said::Unknown
                | Said::Number(_)
                | Said::Text(_)
                | Said::Flag(_)
                | Said::Counts(_) => {}
                Said::Owner(owner) => self.owner(owner),
                Said::Endpoint(end) => self.endpoint(end),
                Said::Tuple(tuple) => self.tuple(tuple),
            }
        }
    }

    /// Leaves no address and no name in a row that stands for so many flows.
    pub fn flow(&self, flow: &mut Flow, by: Grouping) {
        let Flow {
            id,
            local,
            peer,
            owner,
            service,
            backend,
            peer_owner,
            group,
            // The id of a flow, which is a number.
            pair: _,
            netns: _,
            protocol: _,
            role: _,
            closed: _,
            srtt_ns: _,
            rtt_min_ns: _,
            cwnd: _,
            // Their names, and labels of the kernel.
            metrics: _,
            counts: _,
        } = flow;
        for end in [local, peer].into_iter().chain(service).chain(backend) {
            self.endpoint(end);
        }
        [owner].into_iter().chain(peer_owner).for_each(|owner| self.owner(owner));
        let Some(Group { name, flows }) = group else { return };
        if let Some(name) = name.as_mut().filter(|_| by != Grouping::Port) {
            *name = self.group(by, name);
            let serves = id.ends_with(SERVER);
            *id = flow::Group { by, name: Some(name.clone()), serves, flows: *flows }.id();
        }
    }

    fn conntrack(&self, conntrack: &mut Conntrack) {
        let Conntrack { entries, creators, other: _ } = conntrack;
        for Entry {
            original,
            reply,
            creator,
            // Ids, which are numbers.
            flows: _,
            netns: _,
            zone: _,
            protocol: _,
            age_ns: _,
            counts: _,
        } in entries
        {
            [original].into_iter().chain(reply).for_each(|tuple| self.tuple(tuple));
            creator.iter_mut().for_each(|owner| self.owner(owner));
        }
        for TopCreator {
            destination,
            creator,
            netns: _,
            protocol: _,
            new: _,
            confirmed: _,
            table_full: _,
        } in creators
        {
            self.endpoint(destination);
            creator.iter_mut().for_each(|owner| self.owner(owner));
        }
    }

    fn endpoint(&self, end: &mut Endpoint) {
        let Endpoint { ip, port: _ } = end;
        ip.iter_mut().for_each(|ip| *ip = self.ip(*ip));
    }

    fn tuple(&self, tuple: &mut Tuple) {
        let Tuple { source, destination } = tuple;
        [source, destination].into_iter().for_each(|end| self.endpoint(end));
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::{flow::Frozen, labels::Labels, snapshot::build::named};

    #[test]
    fn a_row_is_called_by_the_pseudonym_of_its_group() {
        let redactor = Redactor::default();
        let ip = redactor.v4(Ipv4Addr::new(10, 1, 2, 3));
        let pod = redactor.group(Grouping::Pod, "a b");
        for (by, name, serves, expected) in [
            (Grouping::Backend, Some("10.1.2.3:80"), true, format!("backend:{ip}:80/server")),
            (Grouping::Backend, Some("10.1.2.3:80"), false, format!("backend:{ip}:80")),
            (Grouping::Pod, Some("a b"), false, format!("pod:{pod}")),
            (Grouping::Port, Some("443"), true, "port:443/server".to_owned()),
            (Grouping::Peer, None, false, "peer:-".to_owned()),
        ] {
            let group = flow::Group { by, name: name.map(str::to_owned), serves, flows: 2 };
            let row = Frozen { group: Some(Box::new(group)), ..Frozen::default() };
            let mut row = named(&row, &[], &Labels::default());
            redactor.flow(&mut row, by);
            assert_eq!(row.id, expected);
        }
    }
}
