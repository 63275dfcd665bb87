//! Small BTF files, built for the tests.

use super::Btf;

/// Writes BTF: each method adds a type and returns its id.
#[derive(Default)]
pub(super) struct Builder {
    types: Vec<u8>,
    strings: Vec<u8>,
    next: u32,
}

/// A member: name, type, offset in bits (with the width in the top 8 bits where the struct says so).
pub(super) type Member<'a> = (&'a str, u32, u32);

impl Builder {
    pub(super) fn new() -> Self {
        Self { strings: vec![0], ..Self::default() }
    }

    fn string(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let at = self.strings.len() as u32;
        self.strings.extend_from_slice(name.as_bytes());
        self.strings.push(0);
        at
    }

    fn head(&mut self, name: &str, kind: u32, flag: bool, vlen: usize, last: u32) -> u32 {
        let name = self.string(name);
        self.words(&[name, u32::from(flag) << 31 | kind << 24 | vlen as u32, last]);
        self.next += 1;
        self.next
    }

    fn words(&mut self, words: &[u32]) {
        self.types.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
    }

    /// An integer of `size` bytes, `bits` wide, starting at bit `offset` of it.
    pub(super) fn int(&mut self, name: &str, size: u32, offset: u32, bits: u32) -> u32 {
        let id = self.head(name, 1, false, 0, size);
        self.words(&[offset << 16 | bits]);
        id
    }

    /// A type that refers to another: pointer 2, typedef 8, volatile 9, const 10, type tag 18.
    pub(super) fn link(&mut self, name: &str, kind: u32, to: u32) -> u32 {
        self.head(name, kind, false, 0, to)
    }

    pub(super) fn array(&mut self, element: u32, len: u32) -> u32 {
        let id = self.head("", 3, false, 0, 0);
        self.words(&[element, element, len]);
        id
    }

    /// A struct; `flag` is the encoding of bit-fields since Linux 4.20.
    pub(super) fn structure(&mut self, name: &str, flag: bool, members: &[Member<'_>]) -> u32 {
        let id = self.head(name, 4, flag, members.len(), 64);
        for &(name, ty, offset) in members {
            let name = self.string(name);
            self.words(&[name, ty, offset]);
        }
        id
    }

    pub(super) fn enumeration(&mut self, name: &str, signed: bool, values: &[(&str, u32)]) -> u32 {
        let id = self.head(name, 6, signed, values.len(), 4);
        for &(name, value) in values {
            let name = self.string(name);
            self.words(&[name, value]);
        }
        id
    }

    pub(super) fn enumeration64(&mut self, name: &str, values: &[(&str, u64)]) -> u32 {
        let id = self.head(name, 19, false, values.len(), 8);
        for &(name, value) in values {
            let name = self.string(name);
            self.words(&[name, value as u32, (value >> 32) as u32]);
        }
        id
    }

    pub(super) fn prototype(&mut self, ret: u32, args: &[u32]) -> u32 {
        let id = self.head("", 13, false, args.len(), ret);
        for &arg in args {
            self.words(&[0, arg]);
        }
        id
    }

    pub(super) fn function(&mut self, name: &str, prototype: u32) -> u32 {
        self.head(name, 12, false, 1, prototype)
    }

    /// The file.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
        let mut bytes = Vec::new();
        bytes.extend(0xeb9f_u16.to_ne_bytes());
        bytes.extend([1, 0]);
        for word in [24, 0, types, types, strings] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(&self.types);
        bytes.extend(&self.strings);
        bytes
    }

    pub(super) fn btf(&self) -> Btf {
        Btf::parse(self.bytes().into_boxed_slice()).expect("built well")
    }
}

/// A file with some of everything, for mutation.
pub(super) fn everything() -> Vec<u8> {
    let mut b = Builder::new();
    let char = b.int("char", 1, 0, 8);
    let short = b.int("short unsigned int", 2, 0, 16);
    let int = b.int("unsigned int", 4, 0, 32);
    let five = b.int("unsigned char", 1, 0, 5);
    let net = b.structure("net", true, &[("ns", int, 0)]);
    let to_net = b.link("", 2, net);
    let possible = b.structure("", true, &[("net", to_net, 0)]);
    let possible = b.link("possible_net_t", 8, possible);
    let anonymous = b.structure("", true, &[("skc_daddr", int, 0), ("skc_rcv_saddr", int, 32)]);
    let state = b.link("", 9, char);
    b.structure(
        "sock_common",
        true,
        &[
            ("", anonymous, 0),
            ("skc_family", short, 128),
            ("skc_state", state, 144),
            ("skc_net", possible, 384),
        ],
    );
    let sock = b.structure("sock", true, &[("sk_protocol", short, 4592)]);
    b.structure("inet_connection_sock", false, &[("icsk_ca_state", five, 9984)]);
    let cb = b.array(char, 48);
    b.structure("sk_buff", true, &[("cb", cb, 320), ("len", int, 896)]);
    b.enumeration("tcp_ca_state", false, &[("TCP_CA_Open", 0), ("TCP_CA_Loss", 4)]);
    b.enumeration64("wide", &[("WIDE", 1 << 40)]);
    let sk = b.link("", 2, sock);
    let konst = b.link("", 10, sock);
    let const_sk = b.link("", 2, konst);
    let data = b.link("", 2, 0);
    let proto = b.prototype(int, &[sk, int]);
    b.function("tcp_sendmsg", proto);
    let proto = b.prototype(0, &[data, const_sk, int]);
    let proto = b.link("", 2, proto);
    b.link("btf_trace_sock_send_length", 8, proto);
    b.bytes()
}
