//! Sockets that the kernel's socket dump told of first.

use super::*;

#[test]
fn a_socket_that_opened_after_the_dump_is_not_the_one_that_the_dump_saw() {
    // When it opened, then its bytes and whether it took the pid of the dump's socket.
    for (time_ns, bytes, seeded) in [(20, 5, false), (5, 5, true)] {
        let mut table = FlowTable::new(Config::default());
        let seed =
            Seed { key: key(1), cookie: 7, pid: Some(4), tcp: Some(tcp(0, 0)), ..Seed::default() };
        assert!(table.seed(&seed, 10));
        let accepted = socket::Event { time_ns, ..socket(1, key(1), What::Accept) };
        let reports = [
            Event::Socket(accepted),
            reported(1, key(1), What::Counters, tcp(5, 1)),
            reported(1, key(1), What::Close, tcp(5, 1)),
        ];
        apply(&mut table, &reports);
        let interval = table.interval(30);
        let [flow] = &interval.flows[..] else { panic!("{time_ns}: {interval:?}") };
        assert_eq!(flow.count(BYTES_SENT), Some(bytes), "opened at {time_ns}");
        assert_eq!(flow.pid.is_some(), seeded, "opened at {time_ns}");
    }
}

#[test]
fn a_connection_that_waited_to_be_accepted_since_before_the_dump_is_its_flow() {
    let seed = Seed { key: key(1), cookie: 7, tcp: Some(tcp(5, 1)), ..Seed::default() };
    for dump_first in [true, false] {
        let mut table = FlowTable::new(Config::default());
        let mut taken = socket(1, key(1), What::Taken);
        (taken.time_ns, taken.socket.cookie, taken.tcp) = (20, 7, Some(tcp(5, 1)));
        let taken = Event::Socket(taken);
        if dump_first {
            assert!(table.seed(&seed, 10));
            table.apply(&taken, 20);
        } else {
            table.apply(&taken, 5);
            table.seed(&seed, 10);
        }
        table.apply(&reported(1, key(1), What::Close, tcp(9, 2)), 25);
        let interval = table.interval(30);
        let [flow] = &interval.flows[..] else { panic!("{dump_first}: {interval:?}") };
        assert_eq!(flow.count(BYTES_SENT), Some(4), "what it sent before does not count");
        assert_eq!(flow.role, Some(Role::Server));
    }
}
