//! Which functions the kernel really has, from /proc/kallsyms.
//!
//! BTF lists functions that were inlined away, and compilers call a split-off `NAME.part.0` or a clone
//! (`NAME.constprop.0`, `NAME.isra.0`) directly: a hook on `NAME` then attaches and misses those calls, or all.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{self, BufRead, BufReader},
};

/// Functions that are entered by their own name although a copy exists (`.part.`), seen on Linux
/// 5.10, 6.1, 6.12 and 7.2.
const ENTERED_DESPITE_COPY: &[&str] = &["tcp_xmit_retransmit_queue"];

/// No function of the kernel is as long: what lies farther behind a symbol is in none.
const FUNCTION_MOST: u64 = 1 << 20;

/// What the symbol table says of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Symbol {
    /// No function of that name: inlined everywhere, or not in this kernel.
    Absent,
    /// Exactly one, and it is the one that is called.
    Unique {
        /// The module it belongs to, `None` for the kernel itself.
        module: Option<String>,
    },
    /// That many symbols of this name; the kernel refuses to hook by name.
    Ambiguous(usize),
    /// One, but the compiler made a copy of it, or of part of it, that callers enter directly.
    Split,
}

/// Answers for the names asked for.
#[derive(Clone, Debug, Default)]
pub struct Symbols(HashMap<String, Seen>);

/// What was found for one name.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// Symbols of exactly that name, of any kind, as the kernel counts them.
    matches: usize,
    function: bool,
    module: Option<String>,
    copied: bool,
    /// Its first address, 0 where addresses are not told.
    start: u64,
    /// Where the next function begins, 0 until that was read.
    end: u64,
}

impl Symbols {
    /// Reads the running kernel's table once, keeping only these names. Addresses are needed for
    /// [`Self::range`] only, which `kernel.kptr_restrict` may withhold.
    ///
    /// # Errors
    /// /proc/kallsyms cannot be read (kernels without CONFIG_KALLSYMS).
    pub fn load(names: &[&str]) -> io::Result<Self> {
        Self::read(BufReader::with_capacity(64 << 10, File::open("/proc/kallsyms")?), names)
    }

    /// Reads a table in the format of /proc/kallsyms: address, type, name and, for modules, a tab
    /// and `[module]`. Lines of another form are passed over.
    ///
    /// # Errors
    /// What reading gives.
    pub fn read(mut table: impl BufRead, names: &[&str]) -> io::Result<Self> {
        let mut seen: HashMap<_, _> =
            names.iter().map(|&name| (name.to_owned(), Seen::default())).collect();
        let mut line = Vec::new();
        // The function whose end is the beginning of the next one: the table is in their order.
        let mut open: Option<String> = None;
        loop {
            line.clear();
            if table.read_until(b'\n', &mut line)? == 0 {
                return Ok(Self(seen));
            }
            let Ok(line) = std::str::from_utf8(&line) else { continue };
            if open.is_some()
                && let Some((address, _)) = function(line)
                && let Some(seen) = open.as_ref().and_then(|name| seen.get_mut(name))
                && address > seen.start
            {
                seen.end = address;
                open = None;
            }
            if let Some(name) = note(&mut seen, line) {
                open = Some(name);
            }
        }
    }

    /// The addresses of a function that was asked for at loading, the end excluded; none where there
    /// are several of that name or addresses are not told.
    #[must_use]
    pub fn range(&self, name: &str) -> Option<(u64, u64)> {
        let seen = self.0.get(name)?;
        let known = seen.matches == 1 && seen.function && seen.start != 0 && seen.end > seen.start;
        known.then_some((seen.start, seen.end))
    }

    /// The verdict on a name that was asked for at loading; [`Symbol::Absent`] for any other.
    #[must_use]
    pub fn get(&self, name: &str) -> Symbol {
        match self.0.get(name) {
            Some(seen) if seen.matches > 1 => Symbol::Ambiguous(seen.matches),
            Some(seen) if seen.matches == 1 && seen.function => {
                if seen.copied && !ENTERED_DESPITE_COPY.contains(&name) {
                    Symbol::Split
                } else {
                    Symbol::Unique { module: seen.module.clone() }
                }
            }
            _ => Symbol::Absent,
        }
    }
}

/// The functions that contain these addresses, none for those that no symbol is below. Reads the
/// running kernel's table; without CAP_SYSLOG, or with `kernel.kptr_restrict=2`, it has no addresses.
#[must_use]
pub fn places(addresses: &[u64]) -> BTreeMap<u64, Option<String>> {
    named(addresses, |_, symbol| within(symbol).to_owned())
}

/// The same with the offset and the module, as the kernel prints a place:
/// `nft_do_chain+0x1a3 [nf_tables]`.
#[must_use]
pub fn located(addresses: &[u64]) -> BTreeMap<u64, Option<String>> {
    named(addresses, located_as)
}

/// Whether the table tells this process where functions are.
#[must_use]
pub fn are_told() -> bool {
    File::open("/proc/kallsyms").is_ok_and(|table| {
        BufReader::new(table).lines().map_while(Result::ok).any(|line| function(&line).is_some())
    })
}

/// The name of a function from its symbol, which may stand behind a module's.
fn within(symbol: &str) -> &str {
    symbol.split(['.', '\t']).next().unwrap_or(symbol)
}

fn located_as(offset: u64, symbol: &str) -> String {
    match symbol.split_once('\t') {
        Some((name, module)) => format!("{name}+{offset:#x} {module}"),
        None => format!("{symbol}+{offset:#x}"),
    }
}

fn named(addresses: &[u64], name: impl Fn(u64, &str) -> String) -> BTreeMap<u64, Option<String>> {
    let table = File::open("/proc/kallsyms");
    let read = table
        .and_then(|table| places_in(BufReader::with_capacity(64 << 10, table), addresses, name));
    // The names are all that is lost.
    read.unwrap_or_else(|_| addresses.iter().map(|&address| (address, None)).collect())
}

/// The same, in a table of any order; `name` makes one of an offset and a symbol.
fn places_in(
    mut table: impl BufRead,
    addresses: &[u64],
    name: impl Fn(u64, &str) -> String,
) -> io::Result<BTreeMap<u64, Option<String>>> {
    let mut below: Vec<(u64, u64, String)> =
        addresses.iter().map(|&address| (address, 0, String::new())).collect();
    // A line concerns the addresses behind it: few, found by their order.
    below.sort_unstable();
    let mut line = Vec::new();
    loop {
        line.clear();
        if table.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let Some((start, symbol)) = std::str::from_utf8(&line).ok().and_then(function) else {
            continue;
        };
        let first = below.partition_point(|(address, ..)| *address < start);
        for (address, nearest, function) in &mut below[first..] {
            if *address - start >= FUNCTION_MOST {
                break;
            }
            if *nearest < start {
                *nearest = start;
                symbol.clone_into(function);
            }
        }
    }
    let named = |(address, nearest, symbol): (u64, u64, String)| {
        (address, (nearest != 0).then(|| name(address - nearest, &symbol)))
    };
    Ok(below.into_iter().map(named).collect())
}

/// Address and symbol of a line that stands for a function, with its module behind a tab.
fn function(line: &str) -> Option<(u64, &str)> {
    let (address, rest) = line.trim_end().split_once(' ')?;
    let (kind, symbol) = rest.split_once(' ')?;
    let address = u64::from_str_radix(address, 16).ok()?;
    let is_function = matches!(kind, "t" | "T" | "w" | "W");
    (is_function && address != 0).then_some((address, symbol))
}

/// Takes one line into account; returns the name of a function that begins there.
fn note(seen: &mut HashMap<String, Seen>, line: &str) -> Option<String> {
    let mut words = line.split_ascii_whitespace();
    let (address, kind, symbol) = (words.next()?, words.next()?, words.next()?);
    let (name, suffix) = symbol.split_at(symbol.find('.').unwrap_or(symbol.len()));
    let seen = seen.get_mut(name)?;
    let function = matches!(kind, "t" | "T" | "w" | "W");
    if suffix.is_empty() {
        seen.matches += 1;
        seen.function |= function;
        seen.module = words.next().map(|word| word.trim_matches(['[', ']']).to_owned());
        seen.start = u64::from_str_radix(address, 16).unwrap_or(0);
        return (function && seen.start != 0).then(|| name.to_owned());
    }
    // What is hardly run of a function is jumped to from its inside.
    seen.copied |= function && !suffix.contains(".cold");
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Symbol, Symbols, located_as, places_in, within};

    const TABLE: &str = "\
0000000000000000 T tcp_sendmsg
0000000000000000 t tcp_sendmsg.cold
0000000000000000 T __tcp_retransmit_skb
0000000000000000 t __tcp_retransmit_skb.part.0
0000000000000000 t tcp_xmit_retransmit_queue
0000000000000000 t tcp_xmit_retransmit_queue.part.0
0000000000000000 t tcp_stream_memory_free
ffffffff81a00000 t tcp_stream_memory_free
0000000000000000 t init_conntrack.constprop.0\t[nf_conntrack]
0000000000000000 t nf_ct_gc_expired.part.0.cold\t[nf_conntrack]
0000000000000000 t nf_ct_gc_expired\t[nf_conntrack]
0000000000000000 t nf_ct_delete.isra.0.part.0\t[nf_conntrack]
0000000000000000 T nf_ct_delete\t[nf_conntrack]
0000000000000000 t icmp_reply.isra.0
0000000000000000 t icmp_reply.isra.0.cold
0000000000000000 t icmp_reply
0000000000000000 T skb_release
0000000000000000 t skb_release.constprop.0
0000000000000000 d skb_clone.0
0000000000000000 T skb_clone
0000000000000000 d tcp_prot
0000000000000000 W weak_function
garbage

";

    #[test]
    fn verdicts() {
        let unique =
            |module: Option<&str>| Symbol::Unique { module: module.map(ToOwned::to_owned) };
        for (name, expected) in [
            ("tcp_sendmsg", unique(None)),
            ("__tcp_retransmit_skb", Symbol::Split),
            ("tcp_xmit_retransmit_queue", unique(None)),
            ("tcp_stream_memory_free", Symbol::Ambiguous(2)),
            ("init_conntrack", Symbol::Absent),
            ("nf_ct_gc_expired", unique(Some("nf_conntrack"))),
            ("nf_ct_delete", Symbol::Split),
            ("icmp_reply", Symbol::Split),
            ("skb_release", Symbol::Split),
            ("skb_clone", unique(None)),
            ("tcp_prot", Symbol::Absent),
            ("weak_function", unique(None)),
            ("tcp_drop", Symbol::Absent),
        ] {
            let symbols = Symbols::read(TABLE.as_bytes(), &[name]).unwrap();
            assert_eq!(symbols.get(name), expected, "{name}");
        }
    }

    #[test]
    fn the_running_kernel_has_tcp() {
        let symbols = Symbols::load(&["tcp_sendmsg", "no_such_function"]).unwrap();
        assert_eq!(symbols.get("tcp_sendmsg"), Symbol::Unique { module: None });
        assert_eq!(symbols.get("no_such_function"), Symbol::Absent);
    }

    const ADDRESSES: &str = "\
ffffffff81000000 T _stext
ffffffff81a00000 t tcp_v4_rcv
ffffffff81a00800 t tcp_v4_rcv.cold
ffffffff81a01000 T tcp_v6_rcv
ffffffff81a01000 d no_function
ffffffff82000000 B __bss_start
ffffffffc0000000 t nf_conntrack_in\t[nf_conntrack]
";

    #[test]
    fn a_function_ends_where_the_next_one_begins() {
        let names = ["tcp_v4_rcv", "tcp_v6_rcv", "tcp_sendmsg"];
        let symbols = Symbols::read(ADDRESSES.as_bytes(), &names).unwrap();
        assert_eq!(
            symbols.range("tcp_v4_rcv"),
            Some((0xffff_ffff_81a0_0000, 0xffff_ffff_81a0_0800))
        );
        let end = 0xffff_ffff_c000_0000;
        assert_eq!(symbols.range("tcp_v6_rcv"), Some((0xffff_ffff_81a0_1000, end)));
        assert_eq!(symbols.range("tcp_sendmsg"), None);
        let hidden = Symbols::read(TABLE.as_bytes(), &["tcp_sendmsg"]).unwrap();
        assert_eq!(hidden.range("tcp_sendmsg"), None, "addresses are not told");
    }

    #[test]
    fn addresses_have_the_names_of_their_functions() {
        let addresses =
            [0xffff_ffff_81a0_0123, 0xffff_ffff_81a0_0900, 0xffff_ffff_c000_0001, 5, u64::MAX];
        let plain = |_, symbol: &str| within(symbol).to_owned();
        let found = places_in(ADDRESSES.as_bytes(), &addresses, plain).unwrap();
        let name = |name: &str| Some(name.to_owned());
        let names = [name("tcp_v4_rcv"), name("tcp_v4_rcv"), name("nf_conntrack_in"), None, None];
        assert_eq!(found, BTreeMap::from_iter(addresses.into_iter().zip(names)));
        let found = places_in(ADDRESSES.as_bytes(), &addresses[..3], located_as).unwrap();
        let located: Vec<_> = found.into_values().flatten().collect();
        let expected =
            ["tcp_v4_rcv+0x123", "tcp_v4_rcv.cold+0x100", "nf_conntrack_in+0x1 [nf_conntrack]"];
        assert_eq!(located, expected);
    }

    #[test]
    fn hostile_tables_are_survived() {
        crate::hostile::survived(&[TABLE.as_bytes().to_vec()], |table| {
            let names = ["tcp_sendmsg", "nf_ct_delete", ""];
            let symbols = Symbols::read(table, &names).unwrap();
            for name in names {
                let _verdict = (symbols.get(name), symbols.range(name));
            }
        });
    }
}
