//! Small files for each shape that kernels have and some that they must not have.

use netdiag_common::field::{Field, Location};
use proptest::prelude::*;

use super::{
    Btf, BtfError, FieldProblem,
    samples::{Builder, everything},
};

/// Both encodings: `icsk_ca_state` is a bit-field of 5 at byte 1248 in Linux 6.18.
#[test]
fn bit_fields_in_both_encodings() {
    for flag in [false, true] {
        let mut b = Builder::new();
        let (ty, offset) = if flag {
            (b.int("unsigned char", 1, 0, 8), 5 << 24 | 9986)
        } else {
            (b.int("unsigned char", 1, 2, 5), 9984)
        };
        b.structure("inet_connection_sock", flag, &[("icsk_ca_state", ty, offset)]);
        assert_eq!(b.btf().locate(Field::CaState), Ok(Location::bits(1248, 2, 5)), "flag {flag}");
    }
}

#[test]
fn whole_fields_are_no_bit_fields_in_either_encoding() {
    for flag in [false, true] {
        let mut b = Builder::new();
        let ty = b.int("unsigned char", 1, 0, 8);
        b.structure("inet_connection_sock", flag, &[("icsk_ca_state", ty, 9984)]);
        assert_eq!(b.btf().locate(Field::CaState), Ok(Location::bytes(1248)), "flag {flag}");
    }
}

/// Paths, each with the answer: through anonymous structs, a typedef, and a named struct embedded
/// without a member name (-fms-extensions, Linux 7.2).
#[test]
fn paths_through_embedded_structs() {
    for embedded in ["", "sock_addrs"] {
        let mut b = Builder::new();
        let int = b.int("unsigned int", 4, 0, 32);
        let saddr = b.structure("", true, &[("skc_daddr", int, 0), ("skc_rcv_saddr", int, 32)]);
        let outer = b.structure(embedded, true, &[("", saddr, 64)]);
        let net = b.structure("net", true, &[]);
        let net = b.link("", 2, net);
        let net = b.structure("", true, &[("net", net, 0)]);
        let net = b.link("possible_net_t", 8, net);
        b.structure("sock_common", true, &[("", outer, 0), ("skc_net", net, 384)]);
        let btf = b.btf();
        assert_eq!(btf.locate(Field::SkRcvSaddr), Ok(Location::bytes(12)), "{embedded:?}");
        assert_eq!(btf.locate(Field::SkNet), Ok(Location::bytes(48)), "{embedded:?}");
    }
}

/// An array has as many elements as this kernel has subsystems.
#[test]
fn the_first_of_an_array() {
    for (len, expected) in [(12, Ok(Location::bytes(16))), (14, Ok(Location::bytes(16)))] {
        let mut b = Builder::new();
        let state = b.structure("cgroup_subsys_state", true, &[]);
        let pointer = b.link("", 2, state);
        let array = b.array(pointer, len);
        b.structure("css_set", true, &[("subsys", array, 128)]);
        assert_eq!(b.btf().locate(Field::CgroupsSubsys), expected, "{len}");
    }
    let mut b = Builder::new();
    let state = b.structure("cgroup_subsys_state", true, &[]);
    let pointer = b.link("", 2, state);
    b.structure("css_set", true, &[("subsys", pointer, 0)]);
    let error = b.btf().locate(Field::CgroupsSubsys).unwrap_err();
    assert_eq!(error.problem, FieldProblem::NoField("subsys".to_owned()));
}

/// Without CONFIG_NET_NS `possible_net_t` is empty.
#[test]
fn a_missing_field_is_named() {
    let mut b = Builder::new();
    let net = b.structure("", true, &[]);
    let net = b.link("possible_net_t", 8, net);
    b.structure("sock_common", true, &[("skc_net", net, 384)]);
    let btf = b.btf();
    let error = btf.locate(Field::SkNet).unwrap_err();
    assert_eq!(error.problem, FieldProblem::NoField("net".to_owned()));
    assert_eq!(error.to_string(), "sock_common.skc_net.net: this kernel has no member net there");
    assert_eq!(btf.locate(Field::SkbLen).unwrap_err().problem, FieldProblem::NoStruct);
    let (locations, errors) = btf.locations();
    assert!(locations.iter().all(|&location| location == Location::MISSING.0));
    assert_eq!(errors.len(), Field::ALL.len());
}

/// Copies of one struct, as a deduplicator leaves them behind.
#[test]
fn structs_of_one_name_must_agree() {
    let located = |offsets: &[(&str, &str, u32)]| {
        let mut b = Builder::new();
        let int = b.int("unsigned int", 4, 0, 32);
        for &(structure, member, offset) in offsets {
            b.structure(structure, true, &[(member, int, offset)]);
        }
        // A function of the same name is something else.
        let proto = b.prototype(0, &[]);
        b.function("sk_buff", proto);
        b.btf().locate(Field::SkbLen).map_err(|error| error.problem)
    };
    let at = |byte| Ok(Location::bytes(byte));
    assert_eq!(located(&[("sk_buff", "len", 64), ("sk_buff", "len", 64)]), at(8));
    assert_eq!(located(&[("sk_buff", "len", 64), ("sk_buff___init", "len", 0)]), at(8));
    assert_eq!(located(&[("sk_buff", "other", 0), ("sk_buff", "len", 64)]), at(8));
    let two = located(&[("sk_buff", "len", 64), ("sk_buff", "len", 96)]);
    assert_eq!(two, Err(FieldProblem::Ambiguous));
}

#[test]
fn another_size_is_refused() {
    let mut b = Builder::new();
    let int = b.int("unsigned int", 4, 0, 32);
    let char = b.int("char", 1, 0, 8);
    let cb = b.array(char, 40);
    let wide = b.int("u64", 8, 0, 64);
    b.structure("sk_buff", true, &[("len", wide, 0), ("cb", cb, 64)]);
    b.structure("sock_common", true, &[("skc_daddr", int, 4)]);
    b.structure("tcp_sock", true, &[("snd_cwnd", int, 0x8_0000)]);
    b.structure("inet_connection_sock", true, &[("icsk_pending", char, 6 << 24 | 4)]);
    let btf = b.btf();
    for (field, problem) in [
        (Field::SkbLen, FieldProblem::Size { wanted: 4, found: 8 }),
        (Field::SkbCb, FieldProblem::Size { wanted: 48, found: 40 }),
        (Field::SkDaddr, FieldProblem::Straddles { bit: 4, width: 0 }),
        (Field::TcpCwnd, FieldProblem::TooFar(0x1_0000)),
        (Field::Pending, FieldProblem::Straddles { bit: 4, width: 6 }),
    ] {
        assert_eq!(btf.locate(field).unwrap_err().problem, problem);
    }
}

#[test]
fn prototypes_without_qualifiers() {
    let btf = Btf::parse(everything().into_boxed_slice()).unwrap();
    let send = btf.function("tcp_sendmsg").unwrap();
    assert_eq!(send.args, ["struct sock *", "unsigned int"]);
    assert_eq!(send.ret, "unsigned int");
    let args = btf.tracepoint("sock_send_length").unwrap();
    assert_eq!(args, ["struct sock *", "unsigned int"]);
    assert_eq!(btf.tracepoint("sock_recv_length"), None);
    assert_eq!(btf.function("sock"), None);
}

#[test]
fn enumerators_widen_as_in_c() {
    let mut b = Builder::new();
    b.enumeration("unsigned", false, &[("A", 0xffff_ffff)]);
    b.enumeration("signed", true, &[("A", 0xffff_ffff)]);
    b.enumeration64("wide", &[("A", 1 << 40), ("B", 2)]);
    b.enumeration("twice", false, &[("A", 1)]);
    b.enumeration("twice", false, &[("A", 2)]);
    let btf = b.btf();
    assert_eq!(btf.enum_value("unsigned", "A"), Some(0xffff_ffff));
    assert_eq!(btf.enum_value("signed", "A"), Some(u64::MAX));
    assert_eq!(btf.enum_value("wide", "A"), Some(1 << 40));
    assert_eq!(btf.enum_value("twice", "A"), None);
    assert_eq!(btf.enum_value("wide", "C"), None);
    assert_eq!(btf.enumerators("wide").collect::<Vec<_>>(), [("A", 1 << 40), ("B", 2)]);
}

#[test]
fn what_is_no_btf_says_what_it_is() {
    let of = |bytes: &[u8]| Btf::parse(bytes.into()).map(|_| ()).unwrap_err().to_string();
    let good = everything();
    let mut swapped = good.clone();
    swapped.swap(0, 1);
    let mut version = good.clone();
    version[2] = 2;
    assert_eq!(of(&[]), BtfError::Truncated.to_string());
    assert_eq!(of(&good[..good.len() - 1]), BtfError::Truncated.to_string());
    assert_eq!(of(&swapped), BtfError::ByteOrder.to_string());
    assert_eq!(of(&version), BtfError::Version(2).to_string());
    assert_eq!(of(&[0; 64]), BtfError::NotBtf.to_string());
}

/// A type that leads to itself, and structs nested until the walk would never end.
#[test]
fn endless_nesting_ends() {
    let mut b = Builder::new();
    b.link("loop", 8, 1);
    b.structure("sk_buff", true, &[("len", 1, 0)]);
    let mut id = b.structure("", true, &[]);
    for _ in 0..64 {
        id = b.structure("", true, &[("", id, 0), ("", id, 0)]);
    }
    b.structure("sock_common", true, &[("", id, 0)]);
    let btf = b.btf();
    assert_eq!(btf.locate(Field::SkbLen).unwrap_err().problem, FieldProblem::Damaged);
    assert_eq!(btf.locate(Field::SkDaddr).unwrap_err().problem, FieldProblem::Damaged);
}

/// Asks everything of a file.
fn exercise(bytes: Vec<u8>) {
    let Ok(btf) = Btf::parse(bytes.into_boxed_slice()) else { return };
    let (locations, errors) = btf.locations();
    let missing = locations.iter().filter(|&&found| found == Location::MISSING.0).count();
    assert_eq!(missing, errors.len());
    drop(errors.iter().map(|(_, error)| error.to_string()).collect::<Vec<_>>());
    let functions = (btf.function("tcp_sendmsg"), btf.tracepoint("sock_send_length"));
    let values = (btf.enum_value("tcp_ca_state", "TCP_CA_Loss"), btf.enum_value("wide", "WIDE"));
    std::hint::black_box((functions, values));
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        exercise(bytes);
    }

    #[test]
    fn any_mutation_is_survived(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..24),
        keep in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let mut bytes = everything();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if cut {
            bytes.truncate(keep.index(bytes.len()));
        }
        exercise(bytes);
    }
}

#[test]
fn hostile_files_are_survived() {
    crate::hostile::survived(&[everything()], |bytes| exercise(bytes.to_vec()));
}
