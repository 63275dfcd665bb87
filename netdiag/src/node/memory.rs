//! Memory that sockets take (`/proc/net/sockstat`, `net/ipv4/proc.c`), and its limits.

use super::{files::Kept, proc::value};
use crate::snapshot::node::{MemoryUse, Part, SocketMemory, Unread};

/// Reads it; what cannot be read is unknown. The same in every namespace.
#[must_use]
pub fn read(files: &mut Kept) -> SocketMemory {
    let mut text = |path: &str| files.text(path).unwrap_or_default();
    let sockstat = text("/proc/self/net/sockstat");
    let mut sysctl = |name: &str| text(&format!("/proc/sys/net/ipv4/{name}"));
    SocketMemory {
        tcp: usage(value(&sockstat, "TCP:", "mem"), &sysctl("tcp_mem")),
        udp: usage(value(&sockstat, "UDP:", "mem"), &sysctl("udp_mem")),
        tcp_orphans: value(&sockstat, "TCP:", "orphan"),
        tcp_max_orphans: sysctl("tcp_max_orphans").trim_end().parse().ok(),
    }
}

/// Why what was read says nothing of TCP's memory, where that is so.
#[must_use]
pub fn unread(memory: &SocketMemory) -> Option<Unread> {
    let reason = match (memory.tcp.pages, memory.tcp.pressure_pages) {
        (Some(_), Some(_)) => return None,
        (None, _) => "cannot read /proc/self/net/sockstat",
        // `ipv4_table`, net/ipv4/sysctl_net_ipv4.c.
        (Some(_), None) => {
            "cannot read /proc/sys/net/ipv4/tcp_mem, which only the node's own network namespace has"
        }
    };
    Some(Unread::of_node(Part::Memory, reason.to_owned()))
}

fn usage(pages: Option<u64>, limits: &str) -> MemoryUse {
    let mut limits = limits.split_ascii_whitespace().map(|limit| limit.parse().ok());
    MemoryUse {
        pages,
        low_pages: limits.next().flatten(),
        pressure_pages: limits.next().flatten(),
        high_pages: limits.next().flatten(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_limits() {
        let sockstat =
            "sockets: used 15\nTCP: inuse 1 orphan 2 tw 3 alloc 4 mem 29\nUDP: inuse 0 mem 6\n";
        assert_eq!(value(sockstat, "TCP:", "orphan"), Some(2));
        assert_eq!(value(sockstat, "UDP:", "mem"), Some(6));
        for (text, group, name) in [
            ("", "TCP:", "mem"),
            (sockstat, "RAW:", "mem"),
            (sockstat, "UDP:", "tw"),
            ("TCP: mem", "TCP:", "mem"),
            ("TCP: mem -1", "TCP:", "mem"),
        ] {
            assert_eq!(value(text, group, name), None, "{text} {name}");
        }
        let usage = usage(Some(5), "93063\t124085\t186126\n");
        assert_eq!((usage.low_pages, usage.pressure_pages), (Some(93_063), Some(124_085)));
        assert_eq!((usage.pages, usage.high_pages), (Some(5), Some(186_126)));
        assert_eq!(self::usage(None, "7 x").pressure_pages, None);
    }

    #[test]
    fn this_kernel_tells() {
        let memory = read(&mut Kept::default());
        assert!(memory.tcp.pages.is_some() && memory.udp.high_pages.is_some(), "{memory:?}");
        assert_eq!(unread(&memory), None);
        assert!(unread(&SocketMemory::default()).is_some());
        assert!(memory.tcp_orphans.is_some() && memory.tcp_max_orphans.is_some(), "{memory:?}");
    }

    #[test]
    fn hostile_files_are_survived() {
        let sound = [
            "TCP: inuse 1 orphan 2 tw 3 alloc 4 mem 29\nUDP: inuse 0 mem 6\n",
            "93063\t124085\t186126\n",
        ];
        crate::hostile::survived_text(&sound, |text| {
            let _memory = (value(text, "TCP:", "mem"), usage(value(text, "UDP:", "mem"), text));
        });
    }
}
