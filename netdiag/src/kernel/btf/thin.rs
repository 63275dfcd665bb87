//! The ids of a few types, as BTF of its own.

use super::{Btf, wire::Kind};

/// A type without a name that nothing refers to (`BTF_KIND_FWD`): the shortest that there is.
const FILLER: [u32; 3] = [0, 7 << 24, 0];

impl Btf {
    /// BTF in which these functions and tracepoints have the ids that they have here, and nothing else has a
    /// name. Where several types have one name it is the first. For a reader that wants nothing but ids, and
    /// makes an object of each type with all its members: that takes it half as long.
    #[must_use]
    pub fn thinned<'a>(
        &self,
        functions: impl Iterator<Item = &'a str>,
        tracepoints: impl Iterator<Item = &'a str>,
    ) -> Vec<u8> {
        let functions = functions.map(|name| (Kind::Func, name.to_owned()));
        let tracepoints = tracepoints.map(|name| (Kind::Typedef, format!("btf_trace_{name}")));
        let mut named: Vec<(u32, String)> = functions
            .chain(tracepoints)
            .filter_map(|(kind, name)| {
                let id = self.types.named(&name, |other| other == kind).next()?.0;
                Some((id, name))
            })
            .collect();
        named.sort_unstable();
        named.dedup();
        let (mut types, mut strings) = (Vec::new(), vec![0]);
        let mut next = 1;
        for (id, name) in named {
            types.extend((next..id).flat_map(|_| FILLER));
            let info = self.types.get(id).map_or(0, |ty| ty.head.info());
            types.extend([strings.len() as u32, info, 0]);
            strings.extend(name.bytes().chain([0]));
            next = id + 1;
        }
        file(&types, &strings)
    }
}

/// A BTF file (`struct btf_header` and two sections).
fn file(types: &[u32], strings: &[u8]) -> Vec<u8> {
    const HEADER: u32 = 24;
    let (types_len, strings_len) = (size_of_val(types) as u32, strings.len() as u32);
    let mut file = Vec::with_capacity((HEADER + types_len + strings_len) as usize);
    file.extend(0xeb9f_u16.to_ne_bytes());
    file.extend([1, 0]);
    for word in [HEADER, 0, types_len, types_len, strings_len] {
        file.extend(word.to_ne_bytes());
    }
    file.extend(types.iter().flat_map(|word| word.to_ne_bytes()));
    file.extend(strings);
    file
}

#[cfg(test)]
mod tests {
    use aya::{Btf as Reader, Endianness};
    use aya_obj::btf::BtfKind;

    use super::*;

    /// aya reads the kernel's own file, and the thinned one.
    #[test]
    fn another_reader_finds_the_same_ids() {
        let (Ok(types), Ok(whole)) = (Btf::load(None), Reader::from_sys_fs()) else {
            assert!(!Btf::is_published(), "the kernel's types cannot be read");
            eprintln!("SKIPPED: types of the kernel are missing: it publishes none");
            return;
        };
        let functions = ["tcp_sendmsg", "kfree_skb_reason", "no_such_function", "tcp_v4_rcv"];
        let tracepoints = ["tcp_probe", "kfree_skb", "no_such_tracepoint", "tcp_probe"];
        let thin = types.thinned(functions.into_iter(), tracepoints.into_iter());
        let thin = Reader::parse(&thin, Endianness::default()).unwrap();
        let tracepoints = tracepoints.map(|name| format!("btf_trace_{name}"));
        let wanted = functions.map(|name| (name.to_owned(), BtfKind::Func));
        let wanted = wanted.into_iter().chain(tracepoints.map(|name| (name, BtfKind::Typedef)));
        for (name, kind) in wanted {
            let id = |btf: &Reader| btf.id_by_type_name_kind(&name, kind).ok();
            assert_eq!(id(&thin), id(&whole), "{name}");
        }
    }
}
