//! Other people's readers of pcapng, run on what netdiag wrote.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::tool;

/// A packet as a reader has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    /// Its comment.
    pub comment: String,
    /// Where it comes from; the port is 0 where it has none.
    pub source: SocketAddr,
    /// Where it goes.
    pub destination: SocketAddr,
    /// Sequence number, of TCP.
    pub seq: Option<u64>,
    /// Flags, of TCP.
    pub flags: Option<u64>,
    /// Bytes, with those that are not there.
    pub length: u64,
}

/// What only tshark tells, of each packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The packet.
    pub packet: Packet,
    /// Name of its interface.
    pub interface: String,
    /// 1 in, 2 out, 0 unknown.
    pub direction: u64,
    /// Whether the IP header's checksum is right; none of IPv6.
    pub has_right_checksum: Option<bool>,
}

/// Python of the system, which has the system's scapy.
const PYTHON: &str = "/usr/bin/python3";

/// Whether tshark and scapy are there.
#[must_use]
pub fn has_readers() -> bool {
    let scapy = || Command::new(PYTHON).args(["-c", "import scapy.utils"]).output();
    tool::find("tshark").is_some() && scapy().is_ok_and(|output| output.status.success())
}

/// The packets of a file as scapy reads them.
///
/// # Errors
/// When it refuses the file; with what it said.
pub fn scapy(file: &Path) -> Result<Vec<Packet>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("readers/read_pcapng.py");
    let output = Command::new(PYTHON).arg(script).arg(file).output()?;
    let text = tool::finish(&format!("scapy on {}", file.display()), &output)?;
    let packet = |line: &str| -> Result<Packet> {
        let value: Value = serde_json::from_str(line)?;
        let end = |name: &str, nth: usize| -> Result<SocketAddr> {
            let ip: IpAddr = value[name].as_str().context("an address")?.parse()?;
            let port = value["ports"][nth].as_u64().unwrap_or(0);
            Ok(SocketAddr::new(ip, u16::try_from(port)?))
        };
        Ok(Packet {
            time_ns: value["time_ns"].as_u64().context("a time")?,
            comment: value["comment"].as_str().context("a comment")?.to_owned(),
            source: end("source", 0)?,
            destination: end("destination", 1)?,
            seq: value["seq"].as_u64(),
            flags: value["flags"].as_u64(),
            length: value["length"].as_u64().context("a length")?,
        })
    };
    let all = text.lines().map(|line| packet(line).with_context(|| line.to_owned()));
    all.collect()
}

const FIELDS: [&str; 17] = [
    "frame.time_epoch",
    "frame.comment",
    "frame.len",
    "frame.interface_name",
    "frame.packet_flags_direction",
    "ip.src",
    "ip.dst",
    "ip.checksum.status",
    "ipv6.src",
    "ipv6.dst",
    "tcp.srcport",
    "tcp.dstport",
    "tcp.seq_raw",
    "tcp.flags",
    "udp.srcport",
    "udp.dstport",
    "_ws.malformed",
];

/// The packets of a file as tshark reads them. It must find none of them malformed.
///
/// # Errors
/// When it refuses the file; with what it said.
pub fn tshark(file: &Path) -> Result<Vec<Frame>> {
    let mut tshark = tool::command("tshark")?;
    tshark.args(["-n", "-T", "json", "-o", "ip.check_checksum:TRUE", "-r"]).arg(file);
    for field in FIELDS {
        tshark.args(["-e", field]);
    }
    let text = tool::finish(&format!("tshark on {}", file.display()), &tshark.output()?)?;
    let all: Vec<Value> = serde_json::from_str(&text)?;
    all.iter()
        .map(|one| frame(&one["_source"]["layers"]).with_context(|| one.to_string()))
        .collect()
}

fn frame(layers: &Value) -> Result<Frame> {
    let of = |names: &[&str]| names.iter().find_map(|name| layers[*name][0].as_str());
    let number = |names: &[&str]| -> Result<Option<u64>> {
        let Some(text) = of(names) else { return Ok(None) };
        Ok(Some(match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16)?,
            None => text.parse()?,
        }))
    };
    if of(&["_ws.malformed"]).is_some() {
        bail!("malformed");
    }
    let end = |addresses: &[&str], ports: &[&str]| -> Result<SocketAddr> {
        let ip: IpAddr = of(addresses).context("an address")?.parse()?;
        Ok(SocketAddr::new(ip, u16::try_from(number(ports)?.unwrap_or(0))?))
    };
    let (seconds, fraction) =
        of(&["frame.time_epoch"]).and_then(|time| time.split_once('.')).context("a time")?;
    let time_ns = format!("{seconds}{fraction}").parse()?;
    Ok(Frame {
        packet: Packet {
            time_ns,
            comment: of(&["frame.comment"]).context("a comment")?.to_owned(),
            source: end(&["ip.src", "ipv6.src"], &["tcp.srcport", "udp.srcport"])?,
            destination: end(&["ip.dst", "ipv6.dst"], &["tcp.dstport", "udp.dstport"])?,
            seq: number(&["tcp.seq_raw"])?,
            flags: number(&["tcp.flags"])?,
            length: number(&["frame.len"])?.context("a length")?,
        },
        interface: of(&["frame.interface_name"]).context("an interface")?.to_owned(),
        direction: number(&["frame.packet_flags_direction"])?.unwrap_or(0),
        // PROTO_CHECKSUM_E_GOOD (epan/proto.h)
        has_right_checksum: number(&["ip.checksum.status"])?.map(|status| status == 1),
    })
}
