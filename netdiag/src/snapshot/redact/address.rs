//! Addresses that stand for others, each in the class of the one that it stands for.

use std::{
    hash::BuildHasher as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::Redactor;

/// Rounds of the permutation of addresses: four suffice (Luby and Rackoff, 1988).
const ROUNDS: u32 = 4;

impl Redactor {
    /// A destination of routes: an address and how many bits of it count, or a word.
    pub(super) fn prefix(&self, destination: &str) -> String {
        let (ip, bits) = destination.split_once('/').unwrap_or((destination, ""));
        let Ok(ip) = ip.parse::<IpAddr>() else { return destination.to_owned() };
        let ip = self.ip(ip);
        if bits.is_empty() { ip.to_string() } else { format!("{ip}/{bits}") }
    }

    /// An address of the same class: no rule decides otherwise for it.
    #[must_use]
    pub fn ip(&self, ip: IpAddr) -> IpAddr {
        match ip {
            IpAddr::V4(ip) => self.v4(ip).into(),
            IpAddr::V6(ip) => self.v6(ip).into(),
        }
    }

    /// No two share one. What may be to all of a network, by its last octet, may be so still, and nothing else.
    pub(super) fn v4(&self, ip: Ipv4Addr) -> Ipv4Addr {
        let of = class(ip);
        let host = match of {
            Class::Known => return ip,
            Class::Within(host) => host,
            Class::Public => u32::BITS,
        };
        let is_to_all = |ip: Ipv4Addr| ip.octets()[3] == 255;
        // A permutation of numbers, followed until it is among those alike again, is one of these.
        let mut other = ip;
        loop {
            let bits = other.to_bits();
            let own = self.permuted(bits & mask(host), host);
            other = Ipv4Addr::from_bits(bits & !mask(host) | own);
            if class(other) == of && is_to_all(other) == is_to_all(ip) {
                return other;
            }
        }
    }

    /// Global ones lie in the prefix that is for documents (RFC 3849), others in their own.
    fn v6(&self, ip: Ipv6Addr) -> Ipv6Addr {
        const DOCUMENTS: u128 = 0x2001_0db8 << 96;
        if let Some(ip) = ip.to_ipv4_mapped() {
            return self.v4(ip).to_ipv6_mapped();
        }
        if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() {
            return ip;
        }
        let digest = |half| u128::from(self.key.hash_one((half, ip.to_bits())));
        let hash = digest(0) << 64 | digest(1);
        let (prefix, host) = match ip.segments()[0] {
            first if first & 0xffc0 == 0xfe80 => (0xfe80 << 112, 64),
            first if first & 0xfe00 == 0xfc00 => (0xfd00 << 112, 120),
            _ => (DOCUMENTS, 96),
        };
        Ipv6Addr::from_bits(prefix | hash & ((1 << host) - 1))
    }

    /// One of the numbers of so many bits for each of them, by a Feistel network; one that lands beyond goes again.
    fn permuted(&self, value: u32, bits: u32) -> u32 {
        let half = bits.div_ceil(2);
        let mut value = value;
        loop {
            let (mut left, mut right) = (value.unbounded_shr(half), value & mask(half));
            for round in 0..ROUNDS {
                let mixed = self.key.hash_one((round, bits, right)) as u32 & mask(half);
                (left, right) = (right, left ^ mixed);
            }
            value = left.unbounded_shl(half) | right;
            if value & mask(bits) == value {
                return value;
            }
        }
    }
}

/// What an address of IPv4 is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// It tells nobody anything.
    Known,
    /// Private or reserved; so many bits are its own.
    Within(u32),
    /// Any other.
    Public,
}

fn class(ip: Ipv4Addr) -> Class {
    match ip.octets() {
        [0 | 127 | 224..=239, ..] | [255, 255, 255, 255] => Class::Known,
        [10, ..] => Class::Within(24),
        [172, 16..=31, ..] => Class::Within(20),
        [192, 168, ..] | [169, 254, ..] => Class::Within(16),
        // RFC 6598.
        [100, 64..=127, ..] => Class::Within(22),
        // Reserved, RFC 1112.
        [240..=255, ..] => Class::Within(28),
        _ => Class::Public,
    }
}

/// So many bits from the lowest on.
const fn mask(bits: u32) -> u32 {
    1_u32.unbounded_shl(bits).wrapping_sub(1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn addresses_stay_in_their_class_and_apart() {
        let redactor = Redactor::default();
        for (network, bits) in [
            ([10, 0, 0, 0], 24),
            ([172, 16, 0, 0], 20),
            ([192, 168, 0, 0], 16),
            ([100, 64, 0, 0], 22),
            ([169, 254, 0, 0], 16),
            ([240, 0, 0, 0], 28),
        ] {
            let network = Ipv4Addr::from(network).to_bits();
            let others: HashSet<_> = (0..4096)
                .map(|host| redactor.v4(Ipv4Addr::from_bits(network | host)).to_bits())
                .collect();
            assert_eq!(others.len(), 4096, "no two share one");
            assert!(others.iter().all(|other| other & !mask(bits) == network));
        }
        let to_all = redactor.v4(Ipv4Addr::new(10, 0, 7, 255));
        assert_eq!(to_all.octets()[3], 255, "{to_all}");
        let public: HashSet<_> =
            (0..4096).map(|n| redactor.v4(Ipv4Addr::from_bits(0x0808_0000 | n))).collect();
        assert_eq!(public.len(), 4096);
        assert!(public.iter().all(|ip| matches!(class(*ip), Class::Public)));
        for known in ["127.0.0.1", "0.0.0.0", "::1", "::", "255.255.255.255", "224.0.0.1"] {
            let known: IpAddr = known.parse().expect("an address");
            assert_eq!(redactor.ip(known), known);
        }
        for (clear, begins) in
            [("fe80::1", "fe80::"), ("fd12::1", "fd"), ("2a00:1450::1", "2001:db8:")]
        {
            let ip = redactor.ip(clear.parse().expect("an address"));
            assert!(ip.to_string().starts_with(begins), "{clear}: {ip}");
            assert_ne!(ip.to_string(), clear);
        }
        let mapped = redactor.ip("::ffff:10.1.2.3".parse().expect("an address")).to_string();
        assert_eq!(mapped, format!("::ffff:{}", redactor.v4(Ipv4Addr::new(10, 1, 2, 3))));
    }
}
