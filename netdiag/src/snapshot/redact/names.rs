//! Names that stand for others: each says what kind of thing it is the name of.

use std::{
    hash::BuildHasher as _,
    net::{IpAddr, SocketAddr},
};

use super::Redactor;
use crate::{flow::Grouping, snapshot::Owner};

/// Bits of a name's pseudonym: 10,000 names share one in 22,000 runs.
const NAME_BITS: u32 = 40;

/// What the pseudonym of a process begins with: with what follows it is as long as the kernel lets a name be.
const PROCESS: &str = "proc";

/// The interface that every network namespace has: it tells nobody anything.
const LOOPBACK: &str = "lo";

/// Tables that iptables has everywhere, likewise. A process or a namespace of that name has it of somebody.
const TABLES: &[&str] = &["filter", "nat", "mangle", "raw", "security"];

impl Redactor {
    /// The name of a group: that of what it has in common, as it stands elsewhere.
    pub(super) fn group(&self, by: Grouping, name: &str) -> String {
        match by {
            Grouping::Peer | Grouping::Backend => {
                // A loopback one is followed by its namespace.
                let (end, within) = name.split_once('/').unwrap_or((name, ""));
                let end = match (end.parse::<SocketAddr>(), end.parse::<IpAddr>()) {
                    (Ok(end), _) => SocketAddr::new(self.ip(end.ip()), end.port()).to_string(),
                    (_, Ok(ip)) => self.ip(ip).to_string(),
                    _ => self.name("end", end),
                };
                if within.is_empty() { end } else { format!("{end}/{within}") }
            }
            Grouping::Process => match name.rsplit_once('/') {
                Some((comm, pid)) => format!("{}/{pid}", self.name(PROCESS, comm)),
                // A process id alone.
                None => name.to_owned(),
            },
            Grouping::Container => self.container(name),
            Grouping::Pod => self.name("pod", name),
            Grouping::Flow | Grouping::Port => name.to_owned(),
        }
    }

    /// Whose it is, by other names.
    pub(super) fn owner(&self, owner: &mut Owner) {
        let Owner { pid: _, comm, cgroup, container, container_name, pod_uid, pod, namespace } =
            owner;
        cgroup.iter_mut().for_each(|path| *path = self.cgroup(path));
        container.iter_mut().for_each(|id| *id = self.container(id));
        for (kind, name) in [
            (PROCESS, comm),
            ("container", container_name),
            ("pod", pod_uid),
            ("pod", pod),
            ("namespace", namespace),
        ] {
            name.iter_mut().for_each(|name| self.rename(kind, name));
        }
    }

    /// Another name, which says what kind of thing it is the name of.
    fn name(&self, kind: &str, name: &str) -> String {
        let digest = self.key.hash_one((kind, name)) >> (u64::BITS - NAME_BITS);
        format!("{kind}-{digest:0width$x}", width = NAME_BITS as usize / 4)
    }

    /// Another id, as long as views show of one.
    fn container(&self, id: &str) -> String {
        format!("{:012x}", self.key.hash_one(("container", id)) >> 16)
    }

    fn rename(&self, kind: &str, name: &mut String) {
        if !name.is_empty() {
            *name = self.name(kind, name);
        }
    }

    pub(super) fn interface(&self, name: &mut String) {
        if name != LOOPBACK {
            self.rename("interface", name);
        }
    }

    pub(super) fn table(&self, name: &mut String) {
        if !TABLES.contains(&name.as_str()) {
            self.rename("table", name);
        }
    }

    /// Each part of the path has a name of its own, so that what is in what can be told still. The root stays.
    pub(super) fn cgroup(&self, path: &str) -> String {
        let mut redacted = String::new();
        let ends = path.match_indices('/').map(|(at, _)| at).skip(1).chain([path.len()]);
        for end in ends.filter(|end| !path[..*end].trim_matches('/').is_empty()) {
            redacted.push('/');
            redacted.push_str(&self.name("cgroup", path[..end].trim_matches('/')));
        }
        if redacted.is_empty() { "/".to_owned() } else { redacted }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// Anybody may call his process, pod or namespace like what the kernel has.
    #[test]
    fn a_name_is_the_kernels_where_it_names_something_of_the_kernels() {
        let redactor = Redactor::default();
        for word in TABLES.iter().copied().chain([LOOPBACK]) {
            let name = || Some(word.to_owned());
            let mut owner = Owner {
                comm: name(),
                container_name: name(),
                pod_uid: name(),
                pod: name(),
                namespace: name(),
                ..Owner::default()
            };
            redactor.owner(&mut owner);
            assert_eq!(owner.pod, owner.pod_uid, "a group of either has the name of its flows");
            let Owner { comm, container_name, pod, namespace, .. } = owner;
            let [comm, pod, namespace, container] =
                [comm, pod, namespace, container_name].map(Option::unwrap_or_default);
            assert_eq!(comm, redactor.name(PROCESS, word));
            assert_eq!(pod, redactor.name("pod", word));
            assert_eq!(namespace, redactor.name("namespace", word));
            assert_eq!(container, redactor.name("container", word));
            let group = redactor.group(Grouping::Process, &format!("{word}/7"));
            assert_eq!(group, format!("{comm}/7"), "as its flows are called");
            assert_eq!(redactor.group(Grouping::Pod, word), pod);
            let stays = |rename: fn(&Redactor, &mut String)| {
                let mut name = word.to_owned();
                rename(&redactor, &mut name);
                name == word
            };
            assert_eq!(stays(Redactor::interface), word == LOOPBACK, "{word}");
            assert_eq!(stays(Redactor::table), word != LOOPBACK, "{word}");
        }
        let mut all = String::new();
        redactor.table(&mut all);
        assert_eq!(all, "", "it stands for all tables");
    }

    #[test]
    fn a_pseudonym_is_of_a_run() {
        let (one, other) = (Redactor::default(), Redactor::default());
        assert_eq!(one.name("pod", "cart"), one.name("pod", "cart"));
        assert_ne!(one.name("pod", "cart"), other.name("pod", "cart"));
        assert_ne!(one.name("pod", "cart"), one.name("pod", "card"));
        let (within, group) = (one.cgroup("/kubepods/pod1/box"), one.cgroup("/kubepods/pod1"));
        assert!(within.starts_with(&format!("{group}/")), "{within} {group}");
        assert_eq!((one.cgroup("/").as_str(), one.cgroup("").as_str()), ("/", "/"));
        assert!(one.name(PROCESS, "nginx").len() <= 15);
        assert_eq!(one.group(Grouping::Process, "812"), "812");
        let ip = Ipv4Addr::new(10, 1, 2, 3);
        assert_eq!(one.group(Grouping::Backend, "10.1.2.3:80"), format!("{}:80", one.v4(ip)));
        assert_eq!(one.group(Grouping::Peer, "127.0.0.1/netns:7"), "127.0.0.1/netns:7");
        assert!(one.name("pod", "cart").starts_with("pod-"));
        assert_eq!(one.prefix("default"), "default");
        assert!(one.prefix("10.1.0.0/16").ends_with("/16"));
    }
}
