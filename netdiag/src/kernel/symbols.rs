//! Which functions the kernel really has, from /proc/kallsyms.
//!
//! BTF lists functions that were inlined away, and compilers call a split-off `NAME.part.0`
//! directly: a hook on `NAME` then attaches and never fires.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufRead, BufReader},
};

/// Functions that are entered by their own name although a `.part.` copy exists, seen on Linux
/// 5.10, 6.1, 6.12 and 7.2.
const ENTERED_DESPITE_PART: &[&str] = &["tcp_xmit_retransmit_queue"];

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
    /// One, but the compiler split off a `.part.` copy that callers enter directly.
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
    part: bool,
}

impl Symbols {
    /// Reads the running kernel's table once, keeping only these names. Addresses are not needed,
    /// so `kernel.kptr_restrict` does not matter.
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
        loop {
            line.clear();
            if table.read_until(b'\n', &mut line)? == 0 {
                return Ok(Self(seen));
            }
            if let Ok(line) = std::str::from_utf8(&line) {
                note(&mut seen, line);
            }
        }
    }

    /// The verdict on a name that was asked for at loading; [`Symbol::Absent`] for any other.
    #[must_use]
    pub fn get(&self, name: &str) -> Symbol {
        match self.0.get(name) {
            Some(seen) if seen.matches > 1 => Symbol::Ambiguous(seen.matches),
            Some(seen) if seen.matches == 1 && seen.function => {
                if seen.part && !ENTERED_DESPITE_PART.contains(&name) {
                    Symbol::Split
                } else {
                    Symbol::Unique { module: seen.module.clone() }
                }
            }
            _ => Symbol::Absent,
        }
    }
}

/// Takes one line into account.
fn note(seen: &mut HashMap<String, Seen>, line: &str) {
    let mut words = line.split_ascii_whitespace();
    let (Some(_), Some(kind), Some(symbol)) = (words.next(), words.next(), words.next()) else {
        return;
    };
    let (name, suffix) = symbol.split_at(symbol.find('.').unwrap_or(symbol.len()));
    let Some(seen) = seen.get_mut(name) else { return };
    let function = matches!(kind, "t" | "T" | "w" | "W");
    if suffix.is_empty() {
        seen.matches += 1;
        seen.function |= function;
        seen.module = words.next().map(|word| word.trim_matches(['[', ']']).to_owned());
    } else if function && suffix.contains(".part.") && !suffix.contains(".cold") {
        seen.part = true;
    }
}

#[cfg(test)]
mod tests {
    use super::{Symbol, Symbols};

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
}
