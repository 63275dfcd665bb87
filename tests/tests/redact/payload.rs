//! What connections carry leaves netdiag by no way: of messages of the domain name system the header is read, of all else
//! nothing.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, UdpSocket},
    path::PathBuf,
};

use anyhow::{Result, ensure};
use netdiag_tests::{
    counters::TcpCounters,
    dns,
    facts::Facts,
    fault, machine,
    netdiag::{Netdiag, run},
    network::{Pair, RIGHT_V4},
    require,
    requirement::{Feature, alone},
    traffic::{Connection, Family, read_bytes, send_once},
};

/// What nobody else has a reason to say, nor a piece of it.
const MARK: &[u8] = b"Zq7xKw9vTj3mLr5nHd8bFs2cGy4pWz6k";
/// Bytes of a piece.
const PIECE: usize = 6;
/// Where nobody listens.
const NOBODY: u16 = 9;

/// Whether a piece of the mark is in there.
fn has_mark(bytes: &[u8]) -> bool {
    MARK.windows(PIECE).any(|piece| has(bytes, piece))
}

fn has(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// A query for the mark.
fn query() -> Vec<u8> {
    // RFC 1035, sections 4.1.1 and 4.1.2: recursion is desired, one question; type A, class IN.
    let header = [0x4e, 0x44, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    [&header[..], &[MARK.len() as u8], MARK, &[0, 0, 1, 0, 1]].concat()
}

/// Sends the mark in whatever netdiag tells of: data that is read, that is lost and sent again, and that nobody reads
/// before the connection is reset; a datagram that nobody wants; queries by both protocols.
fn send_all(pair: &Pair) -> Result<()> {
    let connection = Connection::open(&pair.left, &pair.right, Family::V4)?;
    send_once(&connection.client, MARK)?;
    read_bytes(&connection.server, MARK.len())?;
    let before = TcpCounters::read(&pair.left)?;
    let lost = fault::drop_incoming(&pair.right, "meta l4proto tcp drop")?;
    send_once(&connection.client, MARK)?;
    let sent_again = machine::wait_until(|| {
        TcpCounters::read(&pair.left).is_ok_and(|now| now.since(&before)["RetransSegs"] > 0)
    });
    ensure!(sent_again, "nothing was sent again");
    lost.end()?;
    read_bytes(&connection.server, MARK.len())?;
    let socket = pair.left.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
    socket.send_to(MARK, (RIGHT_V4, NOBODY))?;
    socket.send_to(&query(), (RIGHT_V4, dns::PORT))?;
    let listener = pair.right.run(|| TcpListener::bind((RIGHT_V4, dns::PORT)))?;
    let mut client = dns::connect(&pair.left, (RIGHT_V4, dns::PORT).into())?;
    let (mut server, _) = listener.accept()?;
    let query = query();
    let framed = [&(query.len() as u16).to_be_bytes()[..], &query].concat();
    client.write_all(&framed)?;
    server.read_exact(&mut vec![0; framed.len()])?;
    send_once(&connection.client, MARK)?;
    drop(connection);
    pair.wait_until_received()
}

#[test]
fn no_output_has_what_was_sent() -> Result<()> {
    require!(Feature::Nft);
    let _alone = alone();
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
    let [packets, out, page] = ["packets.pcapng", "dumps", "page.html"].map(path);
    let mut facts = Facts::new();
    facts.holds("the mark is found where it is", has_mark(&query()));
    // Each: what is asked, and words of what it tells.
    for (arguments, words) in [
        (&["live", "-i", "1h", "--all"][..], &["10.77.0.2"][..]),
        (
            &["events", "-o", "json", "--limit", "0", "--pcap", &packets],
            &["\"kind\":\"retransmit\"", "\"kind\":\"drop\""],
        ),
        (&["record", "-o", "json", "-i", "1h", "--out", &out], &["\"10.77.0.2\""]),
    ] {
        let pair = Pair::new()?;
        let netdiag = Netdiag::start(arguments)?;
        send_all(&pair)?;
        let (status, told, said) = netdiag.stop_text()?;
        let (told, said) = (told.join("\n"), said.join("\n"));
        facts.note(format_args!("{arguments:?}: {said}"));
        facts.equal(format_args!("{arguments:?}: status"), status.code(), Some(0));
        for word in words {
            facts.holds(format_args!("{arguments:?}: it tells of {word}"), told.contains(word));
        }
        let marked = has_mark(told.as_bytes()) || has_mark(said.as_bytes());
        facts.equal(format_args!("{arguments:?}: has the mark"), marked, false);
    }
    for arguments in [
        &["diagnose", "--from", &out][..],
        &["diagnose", "--from", &out, "-o", "json"],
        &["report", &out, "-o", "json", "--html", &page],
    ] {
        let output = run(arguments)?;
        facts.equal(format_args!("{arguments:?}: status"), output.status.code(), Some(0));
        let marked = has_mark(&output.stdout) || has_mark(&output.stderr);
        facts.equal(format_args!("{arguments:?}: has the mark"), marked, false);
    }
    let mut written = Vec::new();
    for entry in fs::read_dir(&out)? {
        written.push(entry?.path());
    }
    facts.holds(format_args!("{written:?} are two files"), written.len() == 2);
    for file in [PathBuf::from(packets), PathBuf::from(page)].into_iter().chain(written) {
        let bytes = fs::read(&file)?;
        let name = file.display();
        facts.holds(format_args!("{name}: {} bytes", bytes.len()), !bytes.is_empty());
        facts.equal(format_args!("{name}: has the mark"), has_mark(&bytes), false);
        if name.to_string().ends_with(".pcapng") {
            facts.holds("packets of drops are in it", has(&bytes, b"drop "));
        }
    }
    facts.finish();
    Ok(())
}
