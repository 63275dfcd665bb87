use netdiag_common::turn::{Ended, Look, QUICK_CALL_NS, QUIET_NS, SAME_READ_NS, SUSPECT, Turns};
use proptest::{collection::vec, prelude::*};

mod rows;

const MS: u64 = 1_000_000;
const THREAD: u32 = 7;

/// A socket as the kernel has it, and what is remembered of it.
#[derive(Clone, Debug)]
struct Socket {
    now_ns: u64,
    look: Look,
    turns: Turns,
    /// Nanoseconds that each thing took that was told.
    responses: Vec<u64>,
    services: Vec<u64>,
    waits: Vec<u64>,
    /// What all waits took together.
    waited_ns: u64,
    ambiguous: usize,
}

impl Socket {
    fn new() -> Self {
        // About to wrap.
        let look = Look { written: u32::MAX - 9, acknowledged: u32::MAX - 9, read: u32::MAX - 7, received: u32::MAX - 7 };
        let mut turns = Turns::default();
        turns.open();
        Self {
            now_ns: 1_000 * MS,
            look,
            turns,
            responses: Vec::new(),
            services: Vec::new(),
            waits: Vec::new(),
            waited_ns: 0,
            ambiguous: 0,
        }
    }

    fn after(&mut self, ns: u64) -> &mut Self {
        self.now_ns += ns;
        self
    }

    fn begin(&mut self) -> &mut Self {
        match self.turns.send_begins(self.now_ns, &self.look, THREAD, false) {
            Ended::Answered { latency_ns, .. } => self.services.push(latency_ns),
            Ended::Nothing => {}
            Ended::Ambiguous | Ended::Overlapped => self.ambiguous += 1,
        }
        self
    }

    fn end(&mut self, result: i32) -> &mut Self {
        self.look.written = self.look.written.wrapping_add(result.max(0) as u32);
        self.turns.send_ends(self.now_ns, result);
        self
    }

    fn send(&mut self, bytes: i32) -> &mut Self {
        self.begin().after(1_000).end(bytes)
    }

    /// Data comes, with the acknowledgement of all but so many bytes.
    fn hear(&mut self, bytes: u32, unacknowledged: u32) -> &mut Self {
        self.look.received = self.look.received.wrapping_add(bytes);
        self.look.acknowledged = self.look.written.wrapping_sub(unacknowledged);
        match self.turns.data_arrives(self.now_ns, &self.look) {
            Ended::Answered { latency_ns, .. } => self.responses.push(latency_ns),
            Ended::Nothing => {}
            Ended::Ambiguous | Ended::Overlapped => self.ambiguous += 1,
        }
        self
    }

    fn read(&mut self, bytes: u32) -> &mut Self {
        self.look.read = self.look.read.wrapping_add(bytes);
        if let Some(waited) = self.turns.data_is_read(self.now_ns, &self.look) {
            self.waits.push(waited.latency_ns);
            self.waited_ns += waited.other_ns;
        }
        self
    }

    fn read_all(&mut self) -> &mut Self {
        self.read(self.look.received.wrapping_sub(self.look.read))
    }
}

#[test]
fn a_client_waits_from_the_last_byte_asked_to_the_first_one_heard() {
    let mut client = Socket::new();
    client.send(100).after(20 * MS).hear(10, 0).after(MS).hear(10, 0).after(MS).read_all();
    client.after(5 * MS).send(50).after(1_000).send(9_000).after(30 * MS).hear(10, 0);
    assert_eq!(client.responses, [20 * MS, 30 * MS]);
    assert_eq!((client.waits, client.ambiguous), (vec![2 * MS], 0));
}

#[test]
fn a_server_takes_from_the_first_byte_heard_to_the_first_one_said() {
    let mut server = Socket::new();
    server.hear(10, 0).after(MS).hear(10, 0).after(MS).read_all().after(8 * MS);
    server.send(10).after(MS).send(10).after(40 * MS).hear(10, 0).read_all().after(3 * MS).send(5);
    assert_eq!(server.services, [10 * MS, 3 * MS]);
    assert_eq!(server.ambiguous, 0);
}

#[test]
fn who_speaks_before_hearing_all_makes_turns_ambiguous() {
    let mut client = Socket::new();
    client.send(100).after(MS).hear(10, 40).read_all();
    assert_eq!((client.responses.len(), client.ambiguous), (0, 1));
    // What seem to be turns now may be answers to what was asked before.
    for _ in 0..SUSPECT {
        client.after(MS).send(10).after(MS).hear(10, 0).read_all();
    }
    assert_eq!(client.responses.len(), 0, "{client:?}");
    client.after(MS).send(10).after(2 * MS).hear(10, 0).read_all();
    assert_eq!(client.responses, [2 * MS]);
    // Quiet ends the suspicion.
    client.send(10).after(MS).hear(10, 10).read_all().after(QUIET_NS);
    client.look.acknowledged = client.look.written;
    client.send(10).after(3 * MS).hear(10, 0);
    assert_eq!(client.responses, [2 * MS, 3 * MS]);
}

#[test]
fn who_speaks_before_reading_does_not_answer() {
    let mut server = Socket::new();
    server.hear(10, 0).after(MS).send(10);
    assert_eq!((server.services.len(), server.ambiguous), (0, 1));
}

#[test]
fn a_request_that_takes_its_time_may_be_several() {
    let mut client = Socket::new();
    client.send(10).after(2 * MS).send(10).after(10 * MS).hear(10, 0);
    assert_eq!((client.responses.len(), client.ambiguous), (0, 1));
    client.read_all().send(10).after(MS / 2).send(10).after(10 * MS).hear(10, 0);
    assert_eq!(client.responses, [10 * MS]);
}

#[test]
fn a_call_that_sends_nothing_is_no_send() {
    const EAGAIN: i32 = -11;
    let mut client = Socket::new();
    client.begin().after(MS).end(EAGAIN).after(MS).hear(10, 0).read_all();
    assert_eq!((client.responses.len(), client.ambiguous), (0, 0), "nothing was asked");
    client.send(10).after(MS / 4).begin().end(EAGAIN).after(20 * MS).hear(10, 0);
    assert_eq!(client.responses, [20 * MS + MS / 4]);
    // What was heard is still to be answered.
    let mut server = Socket::new();
    server.hear(10, 0).read_all().after(MS).begin().end(EAGAIN).after(MS).send(10);
    assert_eq!(server.services, [MS], "it was tried by then");
}

#[test]
fn an_answer_during_the_call_counts_from_its_beginning() {
    // Over loopback, in the call itself.
    let mut client = Socket::new();
    client.begin().after(9_000);
    client.look.written = client.look.written.wrapping_add(10);
    client.hear(10, 0).after(1_000).end(0);
    assert_eq!(client.responses, [9_000]);
    // While the call held the socket, so that it is taken up as soon as the call ends.
    let mut client = Socket::new();
    client.begin().after(9_000).end(10).after(100).hear(10, 0);
    assert_eq!(client.responses, [9_100]);
    // A call that waited for room did not hold it.
    let mut client = Socket::new();
    client.begin().after(QUICK_CALL_NS).end(10).after(100).hear(10, 0);
    assert_eq!(client.responses, [100]);
}

#[test]
fn a_hook_in_the_loop_of_a_call_tells_of_it_once() {
    let mut server = Socket::new();
    server.hear(10, 0).read_all().after(MS).begin();
    for _ in 0..3 {
        server.after(MS);
        let Socket { now_ns, look, .. } = server;
        assert_eq!(server.turns.send_begins(now_ns, &look, THREAD, true), Ended::Nothing);
        server.look.written = server.look.written.wrapping_add(1_000);
    }
    server.end(1).after(10 * MS).hear(10, 0);
    assert_eq!((server.services, server.responses), (vec![MS], vec![10 * MS]));
}

#[test]
fn a_call_begins_anew_once_one_has_returned() {
    const EAGAIN: i32 = -11;
    let mut client = Socket::new();
    let loops = |client: &mut Socket| {
        let Socket { now_ns, look, .. } = *client;
        assert_eq!(client.turns.send_begins(now_ns, &look, THREAD, true), Ended::Nothing);
    };
    // What a call without room asked for is asked for by the next one.
    loops(&mut client);
    client.after(9 * MS).end(EAGAIN).after(9 * MS);
    loops(&mut client);
    client.after(QUICK_CALL_NS / 2).end(10).after(100).hear(10, 0);
    assert_eq!(client.responses, [QUICK_CALL_NS / 2 + 100]);
}

#[test]
fn what_is_read_bit_by_bit_waits_at_once() {
    let mut reader = Socket::new();
    reader.hear(16_000, 0);
    let came_ns = reader.now_ns;
    for nth in 1..=16 {
        reader.after(5 * MS).read(1_000);
        assert_eq!(reader.waits.last(), Some(&(nth * 5 * MS)));
    }
    assert_eq!(reader.waited_ns, reader.now_ns - came_ns);
    // What comes behind what is left, while that waits.
    reader.after(MS).hear(10, 0).after(2 * MS).read(5).after(2 * MS).hear(10, 0).after(2 * MS);
    reader.read(5).after(2 * MS).read(10);
    assert_eq!(reader.waits[16..], [2 * MS, 6 * MS, 4 * MS]);
    assert_eq!(reader.waited_ns, reader.now_ns - came_ns - MS);
}

#[test]
fn a_fin_is_no_data() {
    let mut server = Socket::new();
    server.hear(10, 0).after(MS).hear(0, 0).read_all().after(MS).send(10);
    assert_eq!((server.services, server.waits), (vec![2 * MS], vec![MS]));
    let mut client = Socket::new();
    client.send(10).after(MS).hear(0, 0).after(MS).hear(10, 0);
    assert_eq!(client.responses, [2 * MS]);
}

#[test]
fn what_is_older_than_the_programs_begins_with_a_turn_of_its_own() {
    let turns = Turns::default();
    let mut client = Socket { turns, ..Socket::new() };
    client.send(10).after(MS).hear(10, 0).read_all();
    assert_eq!((client.responses.len(), client.ambiguous), (0, 0));
    client.send(10).after(2 * MS).hear(10, 0);
    assert_eq!(client.responses, [2 * MS]);
    let mut server = Socket { turns, ..Socket::new() };
    server.hear(10, 0).read_all().after(MS).send(10).after(MS).hear(10, 0).read_all();
    assert_eq!(server.services.len(), 0, "the request may have begun before");
    server.after(2 * MS).send(10);
    assert_eq!(server.services, [2 * MS]);
}

#[test]
fn what_one_call_reads_waited_once() {
    let mut socket = Socket::new();
    // Three buffers, of which a call takes one after the other.
    socket.hear(10, 0).after(MS).hear(10, 0).after(MS).hear(10, 0).after(MS);
    socket.read(10).after(1_000).read(10).after(1_000).read(0).after(1_000).read(10);
    assert_eq!(socket.waits, [3 * MS]);
    // What one call leaves waits for the next.
    socket.hear(10, 0).after(MS).hear(10, 0).after(MS).read(10);
    socket.after(SAME_READ_NS).read(5).after(1_000).read(5);
    assert_eq!(socket.waits, [3 * MS, 2 * MS, MS + SAME_READ_NS]);
    // Data that comes behind what is left.
    socket.hear(10, 0).after(MS).read(5).after(1_000).hear(10, 0).after(1_000).read(5);
    assert_eq!(socket.waits[3..], [MS]);
    socket.after(1_000).read(10);
    assert_eq!(socket.waits[3..], [MS, 2_000]);
}

/// What an end does, and how many microseconds later.
#[derive(Clone, Copy, Debug)]
enum Step {
    Send(i32),
    Hear(u32),
    Read,
}

fn steps(of: impl Strategy<Value = Step>) -> impl Strategy<Value = Vec<(u64, Step)>> {
    vec((1_u64..50_000, of), 0..200)
}

fn run(socket: &mut Socket, steps: &[(u64, Step)], unacknowledged: u32) {
    for &(us, step) in steps {
        socket.after(us * 1_000);
        match step {
            Step::Send(bytes) => socket.send(bytes),
            Step::Hear(bytes) => socket.hear(bytes, unacknowledged),
            Step::Read => socket.read_all(),
        };
    }
}

proptest! {
    /// Whatever a request and its reply consist of.
    #[test]
    fn turns_that_follow_each_other_are_all_found(
        turns in vec((1_u64..500_000, 0_u64..100_000, 1_usize..5, 1_usize..5), 1..50),
    ) {
        let (mut client, mut server) = (Socket::new(), Socket::new());
        let (mut responses, mut services) = (Vec::new(), Vec::new());
        for (think_us, path_us, requests, replies) in turns {
            for end in [&mut client, &mut server] {
                end.after(MS);
            }
            for nth in 0..requests {
                client.send(100);
                server.now_ns = client.now_ns + path_us * 1_000;
                server.hear(100, 0);
                let rest_ns = (requests - 1 - nth) as u64 * 1_000;
                services.extend((nth == 0).then_some(think_us * 1_000 + rest_ns));
            }
            server.after(think_us * 1_000);
            server.read_all();
            let replied_ns = server.now_ns;
            responses.push(replied_ns + path_us * 1_000 - client.now_ns);
            for nth in 0..replies {
                server.send(1_000);
                client.now_ns = replied_ns + (path_us + nth as u64) * 1_000;
                client.hear(1_000, 0);
            }
            client.read_all();
            let later_ns = client.now_ns.max(server.now_ns);
            (client.now_ns, server.now_ns) = (later_ns, later_ns);
        }
        // What was spread over more than its share, for a turn that took microseconds.
        prop_assert!(client.responses.len() + client.ambiguous == responses.len());
        let mut expected = responses.iter();
        for found in &client.responses {
            prop_assert!(expected.any(|it| it.abs_diff(*found) <= 2_000), "{found} of {responses:?}");
        }
        prop_assert_eq!(server.services, services);
        prop_assert_eq!(server.ambiguous, 0);
    }

    /// A stream in one direction, however it is cut.
    #[test]
    fn who_only_speaks_or_only_hears_has_no_turn(
        speaks in steps((1_i32..9_000).prop_map(Step::Send)),
        hears in steps(prop_oneof![(1_u32..9_000).prop_map(Step::Hear), Just(Step::Read)]),
    ) {
        for steps in [&speaks, &hears] {
            let mut socket = Socket::new();
            run(&mut socket, steps, 0);
            prop_assert_eq!(socket.responses.len() + socket.services.len() + socket.ambiguous, 0);
        }
    }

    /// Two streams that cross, and requests that do not wait: something is always on its way.
    #[test]
    fn what_overlaps_has_no_turn(
        steps in steps(prop_oneof![
            (1_i32..9_000).prop_map(Step::Send),
            (1_u32..9_000).prop_map(Step::Hear),
            Just(Step::Read),
        ]),
    ) {
        let mut socket = Socket::new();
        // Both have begun.
        socket.send(10).hear(10, 10).read_all();
        run(&mut socket, &steps, 1);
        prop_assert_eq!(socket.responses.len() + socket.services.len(), 0, "{:?}", socket);
    }

    /// However data comes and is read: no moment is counted twice, and none without data.
    #[test]
    fn waits_add_up_to_no_more_than_what_passed(
        steps in vec((1_u64..5_000, any::<bool>(), 1_u32..9_000), 0..200),
    ) {
        let mut socket = Socket::new();
        let mut waiting_ns = 0;
        for (us, comes, bytes) in steps {
            let left = socket.look.received.wrapping_sub(socket.look.read);
            waiting_ns += if left > 0 { us * 1_000 } else { 0 };
            socket.after(us * 1_000);
            if comes {
                socket.hear(bytes, 0);
            } else {
                socket.read(bytes.min(left));
            }
            prop_assert!(socket.waited_ns <= waiting_ns, "{} of {waiting_ns}", socket.waited_ns);
        }
    }

    /// Every wait is real: no longer than since the first byte came that was not read, or was left.
    #[test]
    fn waits_are_bounded_by_what_came(
        steps in steps(prop_oneof![
            (1_u32..9_000).prop_map(Step::Hear), Just(Step::Read), (1_i32..9).prop_map(Step::Send),
        ]),
    ) {
        let mut socket = Socket::new();
        let mut first_ns = None;
        for (us, step) in steps {
            socket.after(us * 1_000);
            let before = socket.waits.len();
            match step {
                Step::Hear(bytes) => {
                    socket.hear(bytes, 0);
                    first_ns.get_or_insert(socket.now_ns);
                }
                Step::Read => {
                    socket.read_all();
                }
                Step::Send(bytes) => {
                    socket.send(bytes);
                }
            }
            if matches!(step, Step::Read) {
                let expected: Vec<_> = first_ns.take().map(|it: u64| socket.now_ns - it).into_iter().collect();
                prop_assert_eq!(&socket.waits[before..], &expected[..]);
            }
        }
    }
}
