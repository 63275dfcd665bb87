//! Headers of the packets that events are of, as pcapng, for Wireshark and its like.
//!
//! Nothing was captured: the headers are made of what the records say of a packet (`headers`), and its comment
//! says what happened to it, what findings such packets count for, whose it is and what of its headers is known.
//! Format: draft-ietf-opsawg-pcapng. Each network namespace is an interface, whose packets begin with the IP header
//! (`LINKTYPE_RAW`).

use std::{
    collections::BTreeMap,
    io,
    time::{Duration, SystemTime},
};

use netdiag_common::flow::{TCP, UDP};
use pcap_file::{
    DataLink, Endianness, PcapError,
    pcapng::{
        PcapNgWriter,
        blocks::{
            enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption},
            interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption},
            section_header::{SectionHeaderBlock, SectionHeaderOption},
        },
    },
};

use super::{events::said, owner::process};
use crate::{
    event::{Packet, Way},
    finding::counted_by,
    format::{MISSING, sanitised},
    snapshot::told::Event,
};

mod headers;

/// Decimal digits of a second's fraction in timestamps (`if_tsresol`): nanoseconds.
const DIGITS: u8 = 9;
/// Bytes of a comment at most. The format has room for 65535, and nobody reads as many.
const COMMENT_MOST: usize = 4_096;
// Direction of a packet, bits 0 and 1 of `epb_flags`.
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// What the file says of where it was made.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The node.
    pub host: &'a str,
    /// Its machine, as `uname -m`.
    pub machine: &'a str,
    /// Release of its kernel.
    pub kernel: &'a str,
}

/// Blocks that are to be written, each kind in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blocks {
    /// The section and its interfaces: without those before it no later block can be read.
    pub frame: Vec<u8>,
    /// Packets. They may be left out.
    pub packets: Vec<u8>,
}

/// Makes the blocks of a file.
#[derive(Debug)]
pub struct Pcap {
    /// Writes into memory, from which each block is taken at once.
    writer: Writer,
    /// By network namespace, 0 where it is not known.
    interfaces: BTreeMap<u32, u32>,
    made: Blocks,
}

struct Writer(PcapNgWriter<Vec<u8>>);

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Writer")
    }
}

impl Writer {
    fn take(&mut self) -> Vec<u8> {
        std::mem::take(self.0.get_mut())
    }
}

impl Pcap {
    /// Begins with the header of the section.
    ///
    /// # Errors
    /// Those of pcap-file; memory makes none.
    pub fn begin(origin: &Origin<'_>) -> io::Result<Self> {
        let Origin { host, machine, kernel } = origin;
        let text = |text: String| sanitised(&text).into();
        let section = SectionHeaderBlock {
            endianness: Endianness::Little,
            options: vec![
                SectionHeaderOption::Comment(text(format!(
                    "headers of packets that `netdiag events` told of on {host}: made of what is known of each, \
                     none was captured"
                ))),
                SectionHeaderOption::Hardware(text((*machine).to_owned())),
                SectionHeaderOption::OS(text(format!("Linux {kernel}"))),
                SectionHeaderOption::UserApplication(
                    concat!("netdiag ", env!("CARGO_PKG_VERSION")).into(),
                ),
            ],
            ..SectionHeaderBlock::default()
        };
        let writer = PcapNgWriter::with_section_header(Vec::new(), section).map_err(failed)?;
        let mut writer = Writer(writer);
        let made = Blocks { frame: writer.take(), packets: Vec::new() };
        Ok(Self { writer, interfaces: BTreeMap::new(), made })
    }

    /// Adds the packet of an event that happened at `time`.
    ///
    /// # Errors
    /// As for [`Self::begin`].
    pub fn add(&mut self, time: SystemTime, packet: &Packet, event: &Event) -> io::Result<()> {
        let netns = match packet.key.netns {
            0 => event.flow.netns.unwrap_or(0),
            netns => netns,
        };
        let interface_id = self.interface(netns)?;
        let made = headers::of(packet);
        let direction = packet.way.map(|way| match way {
            Way::In => INBOUND,
            Way::Out => OUTBOUND,
        });
        let comment = EnhancedPacketOption::Comment(comment(packet, event).into());
        let block = EnhancedPacketBlock {
            interface_id,
            timestamp: time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO),
            original_len: made.length,
            data: made.bytes.into(),
            options: [comment]
                .into_iter()
                .chain(direction.map(EnhancedPacketOption::Flags))
                .collect(),
        };
        self.writer.0.write_pcapng_block(block).map_err(failed)?;
        self.made.packets.append(&mut self.writer.take());
        Ok(())
    }

    /// The blocks since they were last taken.
    pub fn take(&mut self) -> Blocks {
        std::mem::take(&mut self.made)
    }

    /// The number of a namespace's interface.
    fn interface(&mut self, netns: u32) -> io::Result<u32> {
        if let Some(number) = self.interfaces.get(&netns) {
            return Ok(*number);
        }
        let name = match netns {
            0 => "netns:unknown".to_owned(),
            netns => format!("netns:{netns}"),
        };
        let block = InterfaceDescriptionBlock {
            linktype: DataLink::RAW,
            snaplen: 0,
            options: vec![
                InterfaceDescriptionOption::IfName(name.into()),
                InterfaceDescriptionOption::IfDescription(
                    "a network namespace, by its inode number".into(),
                ),
                InterfaceDescriptionOption::IfTsResol(DIGITS),
            ],
        };
        self.writer.0.write_pcapng_block(block).map_err(failed)?;
        self.made.frame.append(&mut self.writer.take());
        let number = u32::try_from(self.interfaces.len()).map_err(io::Error::other)?;
        self.interfaces.insert(netns, number);
        Ok(number)
    }
}

fn failed(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        error => io::Error::other(error),
    }
}

/// What happened to the packet, what findings such packets count for, whose it is, and what of its headers is known;
/// names in it are harmless.
fn comment(packet: &Packet, event: &Event) -> String {
    let mut words = vec![event.kind.to_owned()];
    words.extend(said(event));
    let owner = match process(&event.flow.owner) {
        owner if owner == MISSING => "not known".to_owned(),
        owner => owner,
    };
    let mut comment = format!(
        "{}{}; owner {owner}; synthetic: made of its {}; all else in it is filled in",
        words.join(" "),
        counts_for(event),
        known(packet)
    );
    if packet.way.is_none() {
        comment.push_str(", and which way it went is not known");
    }
    comment.truncate(comment.floor_char_boundary(COMMENT_MOST));
    comment
}

/// What findings such packets count for, `; counts for firewall-drop`. It does not say that there is one, which takes
/// its rule and a window.
fn counts_for(event: &Event) -> String {
    let count = event.count();
    let findings: Vec<_> =
        count.iter().flat_map(|count| counted_by(count, event.flow.role)).collect();
    match findings.as_slice() {
        [] => String::new(),
        findings => format!("; counts for {}", findings.join(", ")),
    }
}

/// What is known of a packet: `addresses, ports and flags`.
fn known(packet: &Packet) -> String {
    let Packet { key, tcp, bytes, .. } = packet;
    let one_or_both = |ends: [bool; 2], one, both| match ends {
        [true, true] => Some(both),
        [false, false] => None,
        _ => Some(one),
    };
    let ends = [key.local_addr, key.peer_addr].map(|address| address != [0; 16]);
    let ports = [key.local_port, key.peer_port].map(|port| port != 0);
    let is_tcp = key.protocol == TCP;
    let all = [
        one_or_both(ends, "one address", "addresses"),
        one_or_both(ports, "one port", "ports").filter(|_| is_tcp || key.protocol == UDP),
        tcp.seq.filter(|_| is_tcp).map(|_| "sequence number"),
        tcp.flags.filter(|_| is_tcp).map(|_| "flags"),
        tcp.payload.filter(|_| is_tcp).map(|_| "payload length"),
        bytes.map(|_| "length"),
    ];
    let mut all: Vec<_> = all.into_iter().flatten().collect();
    match (all.pop(), all.as_slice()) {
        (None, _) => MISSING.to_owned(),
        (Some(last), []) => last.to_owned(),
        (Some(last), others) => format!("{} and {last}", others.join(", ")),
    }
}

#[cfg(test)]
mod tests;
