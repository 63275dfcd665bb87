//! One flow over a window.

use std::collections::BTreeMap;

use super::{Course, Extent, Sums, sums::adds_up};
use crate::snapshot::{CountValue, Endpoint, Flow, Owner, Role};

/// One flow of the window.
#[derive(Clone, Debug)]
pub struct Seen {
    /// As in snapshots.
    pub id: String,
    /// This end.
    pub local: Endpoint,
    /// The other end.
    pub peer: Endpoint,
    /// Inode number of the network namespace.
    pub netns: Option<u32>,
    /// `tcp` or `udp`.
    pub protocol: Option<String>,
    /// Client or server, where the opening was seen.
    pub role: Option<Role>,
    /// Whom it belongs to.
    pub owner: Owner,
    /// Whom the other end belongs to, where it is on this node and known.
    pub peer_owner: Option<Owner>,
    /// What its client sends to, where that is translated on the way.
    pub service: Option<Endpoint>,
    /// Who answers then.
    pub backend: Option<Endpoint>,
    /// The other end's flow id where both ends are on this node.
    pub pair: Option<String>,
    /// The socket is gone.
    pub closed: bool,
    /// Smoothed round-trip time, the last that was told.
    pub srtt_ns: Option<u64>,
    /// What the path takes at its best, the smallest that was told.
    pub rtt_min_ns: Option<u64>,
    /// Congestion window in segments, the last that was told.
    pub cwnd: Option<u32>,
    /// Intervals in which something was heard of it.
    pub intervals: u32,
    /// What it counted.
    pub sums: Sums,
    /// How it went.
    pub course: Course,
    extents: BTreeMap<String, Extent>,
}

impl Seen {
    pub(super) fn new(flow: &Flow) -> Self {
        Self {
            id: flow.id.clone(),
            local: flow.local.clone(),
            peer: flow.peer.clone(),
            netns: flow.netns,
            protocol: flow.protocol.clone(),
            role: flow.role,
            owner: flow.owner.clone(),
            peer_owner: flow.peer_owner.clone(),
            service: None,
            backend: None,
            pair: flow.pair.clone(),
            closed: false,
            srtt_ns: None,
            rtt_min_ns: None,
            cwnd: None,
            intervals: 0,
            sums: Sums::default(),
            course: Course::default(),
            extents: BTreeMap::new(),
        }
    }

    /// Adds an interval that began at `at` seconds of the window.
    pub(super) fn take(&mut self, flow: &Flow, at: f64, seconds: f64) {
        for (name, value) in &flow.counts {
            if let CountValue::Number(Some(value)) = value
                && !adds_up(name)
            {
                self.extents.entry(name.clone()).or_default().take(*value);
            }
        }
        self.role = flow.role.or(self.role);
        if flow.owner.pid.is_some() {
            self.owner = flow.owner.clone();
        }
        self.paired(flow.pair.as_ref(), flow.peer_owner.as_ref());
        self.translated(flow.service.as_ref(), flow.backend.as_ref());
        self.closed |= flow.closed;
        self.srtt_ns = flow.srtt_ns.or(self.srtt_ns);
        self.rtt_min_ns = [flow.rtt_min_ns, self.rtt_min_ns].into_iter().flatten().min();
        self.cwnd = flow.cwnd.or(self.cwnd);
        self.intervals += 1;
        self.sums.take(flow);
        self.course.take(flow, at, seconds);
    }

    /// Adds a later window of the same flow.
    pub fn follow(&mut self, later: &Self) {
        self.role = later.role.or(self.role);
        if later.owner.pid.is_some() {
            self.owner = later.owner.clone();
        }
        self.paired(later.pair.as_ref(), later.peer_owner.as_ref());
        self.translated(later.service.as_ref(), later.backend.as_ref());
        self.closed |= later.closed;
        self.srtt_ns = later.srtt_ns.or(self.srtt_ns);
        self.rtt_min_ns = [later.rtt_min_ns, self.rtt_min_ns].into_iter().flatten().min();
        self.cwnd = later.cwnd.or(self.cwnd);
        self.intervals += later.intervals;
        self.sums.add(&later.sums);
        self.course = later.course;
    }

    fn paired(&mut self, pair: Option<&String>, owner: Option<&Owner>) {
        self.pair = pair.cloned().or(self.pair.take());
        self.peer_owner = owner.cloned().or(self.peer_owner.take());
    }

    fn translated(&mut self, service: Option<&Endpoint>, backend: Option<&Endpoint>) {
        if service.is_some() {
            (self.service, self.backend) = (service.cloned(), backend.cloned());
        }
    }

    /// The end that answers a client: behind a translation, where there is one.
    #[must_use]
    pub fn server(&self) -> &Endpoint {
        self.backend.as_ref().unwrap_or(&self.peer)
    }

    /// Between what a state was; none where it was never told.
    #[must_use]
    pub fn extent(&self, state: &str) -> Option<Extent> {
        self.extents.get(state).copied()
    }

    /// As snapshots have it.
    #[must_use]
    pub fn flow(&self) -> Flow {
        Flow {
            id: self.id.clone(),
            local: self.local.clone(),
            peer: self.peer.clone(),
            netns: self.netns,
            protocol: self.protocol.clone(),
            role: self.role,
            owner: self.owner.clone(),
            peer_owner: self.peer_owner.clone(),
            service: self.service.clone(),
            backend: self.backend.clone(),
            pair: self.pair.clone(),
            closed: self.closed,
            srtt_ns: self.srtt_ns,
            rtt_min_ns: self.rtt_min_ns,
            cwnd: self.cwnd,
            group: None,
            metrics: self.sums.metrics(),
            counts: self.sums.nested(),
        }
    }

    /// Whether both ends are on this node.
    #[must_use]
    pub const fn is_local(&self) -> bool {
        self.pair.is_some()
    }

    /// Whether it is a connection of TCP.
    #[must_use]
    pub fn is_tcp(&self) -> bool {
        self.protocol.as_deref() == Some("tcp")
    }

    /// Whether this end asked for the connection.
    #[must_use]
    pub fn is_client(&self) -> bool {
        self.role == Some(Role::Client)
    }
}
