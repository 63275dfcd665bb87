//! What happens to TCP sockets shows in what their namespace says of itself, on every kernel.

use std::{
    fs,
    net::{Shutdown, TcpListener, TcpStream},
};

use netdiag::{
    node::census::{self, Census, Signs},
    snapshot::node::States,
};
use netdiag_tests::facts::Facts;

use super::{Made, make, until};

/// Signs of the calling thread's namespace.
fn signs() -> Option<Signs> {
    Signs::read(Some(&fs::read_to_string("/proc/thread-self/net/snmp").unwrap()))
}

/// The sockets of a namespace, after an earlier count of them; none where there are none.
fn count(made: &Made, last: Option<&Census>) -> Option<Census> {
    made.run(|| census::read(signs(), last).unwrap()).map(Census::settle)
}

fn stands(made: &Made, census: &Census) -> bool {
    made.run(|| census.stands(signs().as_ref()))
}

/// Waits until the sockets are in these states and nothing happens to them any more.
fn rest(made: &Made, what: &str, expected: States) -> Census {
    let mut last = None;
    until(what, || {
        let census = count(made, last.as_ref())?;
        let rests = census.states == expected && stands(made, &census);
        last = Some(census.clone());
        rests.then_some(census)
    })
}

#[test]
fn whatever_happens_to_a_socket_shows() {
    let made = make("signs");
    assert!(count(&made, None).is_none(), "there are none");
    let mut facts = Facts::new();
    let mut shows = |what: &str, before: &Census| {
        facts.holds(format_args!("{what} shows"), !stands(&made, before));
    };

    let listener = made.run(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let listening = States { listen: 1, ..States::default() };
    let census = rest(&made, "listening", listening);
    let to = listener.local_addr().unwrap();
    let client = made.run(|| TcpStream::connect(to).unwrap());
    shows("a connection", &census);
    let connected = States { established: 2, ..listening };
    // That it is accepted would not show.
    let first = until("a connection", || count(&made, None).filter(|it| it.states == connected));
    let second = count(&made, Some(&first)).unwrap();
    assert!(!stands(&made, &second));
    let server = listener.accept().unwrap().0;

    let census = rest(&made, "being connected", connected);
    client.shutdown(Shutdown::Write).unwrap();
    shows("an end that closed", &census);
    let half_closed = States { fin_wait2: 1, close_wait: 1, ..listening };
    let census = rest(&made, "closing one end", half_closed);
    drop(server);
    shows("the other end that closed", &census);
    let census = rest(&made, "waiting out its time", States { time_wait: 1, ..listening });
    drop(listener);
    shows("a listener that is gone", &census);
    let waits = States { time_wait: 1, ..States::default() };
    let census = rest(&made, "listening no more", waits);
    let _listener = made.run(|| TcpListener::bind("[::1]:0").unwrap());
    shows("a listener over IPv6", &census);
    rest(&made, "listening over IPv6", States { listen: 1, ..waits });
    drop(client);
    facts.finish();
}
