//! Settings of the calling thread's network namespace that limit connections: not the mount decides
//! whose are read, but the reader (`net/sysctl_net.c`, `net_ctl_header_lookup`).

use super::files;
use crate::snapshot::node::Settings;

/// Reads them; what is not there is unknown.
#[must_use]
pub fn read() -> Settings {
    from(|name| files::text(format!("/proc/sys/net/{name}")).ok())
}

fn from(read: impl Fn(&str) -> Option<String>) -> Settings {
    let nth = |name: &str, at: usize| read(name)?.split_ascii_whitespace().nth(at)?.parse().ok();
    let number = |name: &str| nth(name, 0);
    let port = |at| nth("ipv4/ip_local_port_range", at).and_then(|port| u16::try_from(port).ok());
    Settings {
        netns: 0,
        somaxconn: number("core/somaxconn"),
        tcp_max_syn_backlog: number("ipv4/tcp_max_syn_backlog"),
        tcp_syncookies: number("ipv4/tcp_syncookies"),
        tcp_abort_on_overflow: number("ipv4/tcp_abort_on_overflow"),
        local_port_first: port(0),
        local_port_last: port(1),
        tcp_tw_reuse: number("ipv4/tcp_tw_reuse"),
        tcp_max_tw_buckets: number("ipv4/tcp_max_tw_buckets"),
        tcp_fin_timeout_s: number("ipv4/tcp_fin_timeout"),
        tcp_mtu_probing: number("ipv4/tcp_mtu_probing"),
        ip_no_pmtu_disc: number("ipv4/ip_no_pmtu_disc"),
        tcp_congestion_control: read("ipv4/tcp_congestion_control")
            .map(|name| name.trim_end().to_owned()),
        tcp_rmem_max_bytes: nth("ipv4/tcp_rmem", 2),
        tcp_wmem_max_bytes: nth("ipv4/tcp_wmem", 2),
        netdev_max_backlog: number("core/netdev_max_backlog"),
        netdev_budget: number("core/netdev_budget"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_from_its_file() {
        let settings = from(|name| {
            let text = match name {
                "ipv4/ip_local_port_range" => "32768\t60999\n",
                "ipv4/tcp_rmem" => "4096\t131072\t6291456\n",
                "ipv4/tcp_wmem" => "4096\t16384\n",
                "ipv4/tcp_congestion_control" => "cubic\n",
                "core/somaxconn" => "4096\n",
                "core/netdev_budget" => "\n",
                "ipv4/tcp_syncookies" => "-1\n",
                _ => return None,
            };
            Some(text.to_owned())
        });
        let expected = Settings {
            somaxconn: Some(4096),
            local_port_first: Some(32_768),
            local_port_last: Some(60_999),
            tcp_congestion_control: Some("cubic".to_owned()),
            tcp_rmem_max_bytes: Some(6_291_456),
            ..Settings::default()
        };
        assert_eq!(settings, expected);
    }

    #[test]
    fn hostile_files_are_survived() {
        crate::hostile::survived_text(&["32768\t60999\n", "4096\t131072\t6291456\n"], |text| {
            let _settings = from(|_| Some(text.to_owned()));
        });
    }
}
