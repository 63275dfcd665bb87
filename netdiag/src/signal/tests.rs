use std::num::NonZeroU64;

use netdiag_common::{
    globals::duty,
    signal::{
        conntrack as entries, dns as messages, drop as drops, reset as resets, retransmit as again,
        rtt as trips, send as sends, socket as sockets, turn as turns,
    },
};
use proptest::{collection::vec, prelude::*};
use zerocopy::IntoBytes;

use super::*;
use crate::event::Way;

fn header(signal: Signal, samples: u32) -> Header {
    Header { version: VERSION, signal: signal as u16, samples, time_ns: 7 }
}

/// Sound records, each of another signal.
fn records() -> Vec<Vec<u8>> {
    let socket = sockets::Record { header: header(Signal::Socket, 1), ..Default::default() };
    let again =
        again::Record { header: header(Signal::Retransmit, 1), segments: 2, ..Default::default() };
    let drop = drops::Record { header: header(Signal::Drop, 5), bytes: 9, ..Default::default() };
    let sample = |flow| sends::Sample { flow, latency_ns: 100 * flow, result: -11 };
    let mut send = header(Signal::Send, 3).as_bytes().to_vec();
    send.extend([1, 2, 3].map(sample).as_bytes());
    let entry = entries::Record {
        header: header(Signal::Conntrack, 4),
        what: entries::what::CLASH,
        ..Default::default()
    };
    let (socket, again) = (socket.as_bytes().to_vec(), again.as_bytes().to_vec());
    let trip = |flow| trips::Sample { flow, rtt_us: 9, ..Default::default() };
    let mut rtt = header(Signal::Rtt, 2).as_bytes().to_vec();
    rtt.extend([1, 2].map(trip).as_bytes());
    let reset = resets::Record { header: header(Signal::Reset, 3), ..Default::default() };
    let reset = reset.as_bytes().to_vec();
    vec![socket, send, again, drop.as_bytes().to_vec(), entry.as_bytes().to_vec(), rtt, reset]
}

fn decoded(bytes: &[u8]) -> (Result<Header, Malformed>, Vec<Event>) {
    let mut events = Vec::new();
    let result = decode(bytes, &mut |event| events.push(event));
    (result, events)
}

#[test]
fn a_sound_record_is_decoded() {
    for record in records() {
        let (result, events) = decoded(&record);
        let header = result.expect("a sound record");
        let packets = |event: &Event| match event {
            Event::Drop(event) => u64::from(event.packets),
            Event::Conntrack(event) => u64::from(event.times),
            Event::Reset(event) => u64::from(event.resets),
            _ => 1,
        };
        assert_eq!(events.iter().map(packets).sum::<u64>(), u64::from(header.samples));
        assert_eq!(samples(&record), u64::from(header.samples));
    }
}

#[test]
fn what_is_not_as_long_as_it_says_is_refused_whole() {
    for record in records() {
        for length in 0..record.len() {
            assert_eq!(decoded(&record[..length]), (Err(Malformed::Short), vec![]), "{length}");
        }
        let longer = [record.as_slice(), &[0]].concat();
        assert_eq!(decoded(&longer), (Err(Malformed::Long), vec![]));
    }
}

#[test]
fn another_version_or_signal_is_refused() {
    for mut record in records() {
        record[0] ^= 0xff;
        let version = u16::from_ne_bytes([record[0], record[1]]);
        assert_eq!(decoded(&record).0, Err(Malformed::Version(version)));
        record[0] ^= 0xff;
        record[2..4].copy_from_slice(&u16::MAX.to_ne_bytes());
        assert_eq!(decoded(&record).0, Err(Malformed::Signal(u16::MAX)));
        assert_eq!(samples(&record), 1);
    }
}

#[test]
fn a_number_of_samples_that_cannot_be_is_refused() {
    for mut record in records() {
        for claim in [0, u32::MAX] {
            record[4..8].copy_from_slice(&claim.to_ne_bytes());
            let (result, events) = decoded(&record);
            assert!(matches!(result, Err(Malformed::Value(_))), "{result:?}");
            assert_eq!(events, vec![]);
            assert!((1..=u64::from(drops::SAMPLES)).contains(&samples(&record)));
        }
    }
}

/// Whatever a source attaches to, it says no less than what that costs.
#[test]
fn dear_hooks_are_told() {
    let least = |attachments: &[Attachment]| {
        let costs = attachments.iter().filter_map(|attachment| match attachment.hook {
            Hook::Tracepoint("syscalls", _) => Some(Cost::SystemCall),
            Hook::Tracepoint("sock", _) | Hook::TpBtf("sock_recv_length" | "sock_send_length") => {
                Some(Cost::Call)
            }
            _ => None,
        });
        costs.max()
    };
    for definition in DEFINITIONS {
        let sources = definition.sources.iter();
        for source in sources.flat_map(|source| [Some(source), source.when_preempted]).flatten() {
            let name = (definition.signal, source.name);
            let told = |attachments: &[Attachment]| {
                let dearest = attachments.iter().filter_map(|attachment| attachment.cost).max();
                dearest.max(Some(definition.cost))
            };
            assert!(least(source.attachments) <= told(source.attachments), "{name:?}");
            for way in source.extras.iter().flat_map(|extra| extra.alternatives) {
                if let By::Programs(attachments) = way.by {
                    assert!(least(attachments) <= told(attachments), "{name:?}: {attachments:?}");
                }
            }
        }
    }
}

#[test]
fn drops_without_a_known_conversation_have_none() {
    let key = FlowKey { netns: 5, protocol: 6, ..FlowKey::default() };
    let record =
        |ends| drops::Record { header: header(Signal::Drop, 1), key, ends, ..Default::default() };
    for (ends, expected) in [
        (drops::ends::KNOWN, Some((key, true, None))),
        (drops::ends::BY_DESTINATION, Some((key, false, Some(Way::In)))),
        (drops::ends::NONE, Some((FlowKey::default(), false, None))),
        (drops::ends::SENT, Some((key, true, Some(Way::Out)))),
        (drops::ends::RECEIVED, Some((key, true, Some(Way::In)))),
        (drops::ends::RECEIVED + 1, None),
    ] {
        let found = match &decoded(record(ends).as_bytes()).1[..] {
            [Event::Drop(event)] => Some((event.key, event.ends_known, event.way)),
            _ => None,
        };
        assert_eq!(found, expected, "{ends}");
    }
}

#[test]
fn a_connection_fails_with_its_errno_or_for_want_of_a_port_or_is_given_up() {
    for (error, local_port, expected) in [
        (libc::ECONNREFUSED, 40_000, Some(libc::ECONNREFUSED)),
        (libc::ETIMEDOUT, 0, Some(libc::ETIMEDOUT)),
        (0, 40_000, None),
        (0, 0, Some(libc::EADDRNOTAVAIL)),
    ] {
        let key = FlowKey { local_port, ..FlowKey::default() };
        let record = sockets::Record {
            header: header(Signal::Socket, 1),
            socket: SocketRef { key, ..SocketRef::default() },
            what: sockets::what::FAILED,
            error,
            ..Default::default()
        };
        let failed = match &decoded(record.as_bytes()).1[..] {
            [Event::Socket(socket::Event { what: socket::What::Failed(error), .. })] => *error,
            events => panic!("{events:?}"),
        };
        assert_eq!(failed, expected, "{error} {local_port}");
    }
}

#[test]
fn only_a_connection_that_waited_for_accept_has_a_sample() {
    for (accept_wait_ns, expected) in [(0, None), (1, NonZeroU64::new(1))] {
        let record = sockets::Record {
            header: header(Signal::Socket, 1),
            what: sockets::what::OWNER,
            accept_wait_ns,
            ..Default::default()
        };
        let found = match &decoded(record.as_bytes()).1[..] {
            [Event::Socket(event)] => event.accept_wait_ns,
            events => panic!("{events:?}"),
        };
        assert_eq!(found, expected);
    }
}

proptest! {
    /// Whatever comes: no panic, all samples or none, and never more than the record can hold.
    #[test]
    fn any_bytes_are_decoded_or_refused(
        signal in 0..Signal::COUNT as u16 + 2,
        claim: u32,
        body in vec(any::<u8>(), 0..2048),
        intact: bool,
    ) {
        let mut bytes = Header { version: VERSION, signal, samples: claim, time_ns: 0 }.as_bytes().to_vec();
        if !intact {
            bytes.clear();
        }
        bytes.extend(body);
        let (result, events) = decoded(&bytes);
        match result {
            Ok(_) => prop_assert!(!events.is_empty()),
            Err(_) => prop_assert!(events.is_empty()),
        }
        prop_assert!(events.len() <= BATCH);
        prop_assert!((1..=u64::from(drops::SAMPLES)).contains(&samples(&bytes)));
    }
}

/// One that stands in for another looks at what that one left; see [`Source::attachments`].
#[test]
fn who_stands_in_runs_behind_the_first() {
    let sources = DEFINITIONS.iter().flat_map(|definition| definition.sources);
    for source in sources.flat_map(|source| [Some(source), source.when_preempted]).flatten() {
        let at = |name: &str| source.attachments.iter().position(|it| it.program == name);
        for second in source.attachments.iter().filter(|it| it.program.contains("_second")) {
            let (own, first) = (at(second.program), at(&second.program.replace("_second", "")));
            let trampoline =
                matches!(second.hook, Hook::Fentry(_) | Hook::Fexit(_) | Hook::FexitWith(..));
            assert!(first.is_some(), "{} stands in for nobody", second.program);
            assert_eq!(own > first, trampoline, "{} of {}", second.program, source.name);
        }
    }
}

/// What several signals share is attached once, and told for which of them it works; see [`Attachment::duty`].
#[test]
fn shared_programs_have_a_duty_for_each_signal() {
    let mut uses = Vec::new();
    for definition in DEFINITIONS {
        let sources = definition.sources.iter();
        for source in sources.flat_map(|source| [Some(source), source.when_preempted]).flatten() {
            let extras = source.extras.iter().flat_map(|extra| extra.alternatives);
            let beside = extras.flat_map(|way| match way.by {
                By::Programs(attachments) => attachments,
                By::Ctnetlink => &[],
            });
            // What one may do in place of another one is nothing that it shares.
            let shared = |it: &Attachment| it.duty & !duty::READERS;
            let all = source.attachments.iter().chain(beside);
            uses.extend(all.map(|it| (it.program, definition.signal, it.hook, shared(it))));
        }
    }
    for &(program, signal, hook, duty) in &uses {
        let same = |name: &str, other: Signal| name == program && other == signal;
        let others = uses.iter().filter(|(name, other, ..)| *name == program && *other != signal);
        assert_eq!(others.clone().count() != 0, duty != 0, "{program} for {signal:?}");
        assert!(others.clone().all(|(_, _, other, _)| *other == hook), "{program}");
        let alone = uses.iter().all(|&(name, other, _, of)| of & duty == 0 || same(name, other));
        assert!(alone, "{program} for {signal:?}: another one has its duty");
    }
}

/// Also of those whose samples are more than one, and of messages that lie behind their record.
#[test]
fn hostile_records_are_decoded_or_refused() {
    let turn = |flow| turns::Sample { flow, kind: turns::kind::RESPONSE, ..Default::default() };
    let mut batch = header(Signal::Turn, 2).as_bytes().to_vec();
    batch.extend([1, 2].map(turn).as_bytes());
    let message = messages::Record {
        header: header(Signal::Dns, 1),
        flags: messages::flag::PACKET | messages::flag::TO_SERVER,
        length: 30,
        before: 4,
        ..Default::default()
    };
    let behind = [message.as_bytes(), &[0; 40]].concat();
    let sound = [records(), vec![batch, behind]].concat();
    assert!(sound.iter().all(|record| decoded(record).0.is_ok()));
    crate::hostile::survived(&sound, |bytes| {
        let (result, events) = decoded(bytes);
        assert_eq!(result.is_ok(), !events.is_empty());
        assert!(events.len() <= BATCH);
        assert!((1..=u64::from(drops::SAMPLES)).contains(&samples(bytes)));
    });
}

#[test]
fn each_that_may_be_left_out_has_a_place_of_its_own() {
    let order = shedding();
    assert_eq!(order, [Signal::Rtt, Signal::Turn, Signal::Send, Signal::Dns]);
    let places = DEFINITIONS.iter().filter_map(|it| Some(usize::from(it.shed?.place)));
    assert_eq!(places.sum::<usize>(), (0..order.len()).sum::<usize>());
}
