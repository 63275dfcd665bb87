//! What happened to entries of the connection tracking table. They are linked to flows by tuple, and
//! never summed with them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Endpoint, Owner};

/// All of an interval or a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Conntrack {
    /// The entries, those first to which most happened.
    pub entries: Vec<Entry>,
    /// Sum of all that are not listed.
    pub other: Sum,
    /// Who made the most entries, and who could not make any more: at most ten, the most first.
    pub creators: Vec<TopCreator>,
}

/// Counts that no entry stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Sum {
    /// Counts by name; null where no source could see it.
    pub counts: BTreeMap<String, Option<u64>>,
}

/// One direction of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Tuple {
    /// Where its packets come from; null parts where many are summed up, or there are no ports.
    pub source: Endpoint,
    /// Where they go.
    pub destination: Endpoint,
}

/// One entry. In a flood many are summed up: by creator and destination, or by namespace alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Entry {
    /// Inode number of the network namespace, null when unknown.
    pub netns: Option<u32>,
    /// Conntrack zone.
    pub zone: u16,
    /// `tcp`, `udp`, `icmp`, `ipv6-icmp`, else the number; null where many are summed up.
    pub protocol: Option<String>,
    /// The conversation as it began.
    pub original: Tuple,
    /// As its answers come back, address translation undone; null where it is not known.
    pub reply: Option<Tuple>,
    /// The process whose packet made the entry; null where none of this node did, or none was seen.
    pub creator: Option<Owner>,
    /// How long it has been in the table at the end of the interval, or had been when it was freed; null
    /// where it was not seen to come into it.
    pub age_ns: Option<u64>,
    /// Ids of the flows that it is for.
    pub flows: Vec<String>,
    /// Counts by name; null where no source could see it.
    pub counts: BTreeMap<String, Option<u64>>,
}

/// Who makes entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TopCreator {
    /// Inode number of the network namespace, null when unknown.
    pub netns: Option<u32>,
    /// As in an entry.
    pub protocol: Option<String>,
    /// Where the conversations go.
    pub destination: Endpoint,
    /// The process; null where it is not known.
    pub creator: Option<Owner>,
    /// Entries made; null where no source could see it.
    pub new: Option<u64>,
    /// Entries that came into the table; null where no source could see it.
    pub confirmed: Option<u64>,
    /// Entries not made for want of room; null where no source could see it.
    pub table_full: Option<u64>,
}
