//! Many sockets and many namespaces. Times are printed, not judged.

use std::{
    net::{TcpListener, TcpStream},
    path::Path,
    process,
    time::Instant,
};

use netdiag::node::{
    netns::{Depth, find},
    owners, seed,
    sockets::{FULL, dump_all},
    tcp_counters,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{Asked as _, NONE, make, unexpected};

const CONNECTIONS: usize = 5_000;
const NAMESPACES: usize = 100;

#[test]
fn ten_thousand_sockets_are_all_there_with_owner() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Some(2 * CONNECTIONS as u64 + 500);
    let maximum = limit.maximum.max(wanted);
    setrlimit(Resource::Nofile, Rlimit { current: wanted, maximum }).unwrap();
    let made = make("many");
    let (_listener, streams) = made.run(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let streams: Vec<_> = (0..CONNECTIONS)
            .map(|_| {
                let client = TcpStream::connect(address).unwrap();
                (client, listener.accept().unwrap().0)
            })
            .collect();
        (listener, streams)
    });
    let seeds = seed(Path::new("/"), true);
    let start = Instant::now();
    let dump = dump_all(&[made.found()], &FULL);
    let dump_took = start.elapsed();
    let start = Instant::now();
    let inodes = dump.sockets.iter().map(|socket| socket.inode).collect();
    let owners = owners::find(Path::new("/"), &inodes).unwrap();
    eprintln!(
        "{} sockets: seed in {:?}, dump of one namespace {dump_took:?}, owners in {} descriptors \
         of {} processes {:?}",
        seeds.sockets.len(),
        seeds.took,
        owners.descriptors,
        owners.processes,
        start.elapsed()
    );
    assert_eq!(unexpected(&seeds.problems), NONE);
    let here: Vec<_> = seeds.sockets.iter().filter(|seed| seed.key.netns == made.inode()).collect();
    assert_eq!(here.len(), 2 * CONNECTIONS);
    assert!(here.iter().all(|seed| seed.pid == Some(process::id()) && seed.tcp.is_some()));
    let mut cookies: Vec<_> = here.iter().map(|seed| seed.cookie).collect();
    cookies.sort_unstable();
    cookies.dedup();
    assert_eq!(cookies.len(), 2 * CONNECTIONS);
    drop(streams);
}

#[test]
fn a_hundred_namespaces_are_read_in_one_visit() {
    let made: Vec<_> = (0..NAMESPACES).map(|number| make(&format!("of{number}"))).collect();
    let start = Instant::now();
    let everything = find(Path::new("/"), Depth::Everything);
    let everything_took = start.elapsed();
    let start = Instant::now();
    let processes = find(Path::new("/"), Depth::Processes);
    let processes_took = start.elapsed();
    let start = Instant::now();
    let reading = tcp_counters::read_all(&everything.namespaces);
    let read_took = start.elapsed();
    let seeds = seed(Path::new("/"), true);
    eprintln!(
        "{} namespaces: found in {everything_took:?} (processes only: {processes_took:?}), \
         counters read in {read_took:?}, seed in {:?}",
        everything.namespaces.len(),
        seeds.took
    );
    for made in &made {
        let inode = made.inode();
        assert!(reading.namespaces.contains_key(&inode), "{} was not read", made.name());
        for found in [&everything, &processes] {
            assert!(found.namespaces.iter().any(|namespace| namespace.inode == inode));
        }
    }
}
