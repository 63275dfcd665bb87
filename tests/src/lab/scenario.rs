//! All scenarios, one file and one line each.

use super::Scenario;

mod prelude;

macro_rules! scenarios {
    ($($module:ident)*) => {
        $(mod $module;)*

        /// All of them.
        pub static SCENARIOS: &[&Scenario] = &[$(&$module::SCENARIO),*];
    };
}

// Which play side by side, and which one a seed of the soak draws, follows from this order, so it stays.
scenarios! {
    backend_outlier
    bufferbloat
    close_wait_leak
    connection_churn
    connection_refused
    connection_reset
    conntrack_full
    conntrack_insert_failed
    conntrack_pressure
    cpu_starved
    dns_failing
    dns_slow
    dns_unanswered
    ephemeral_ports_exhausted
    fin_wait_buildup
    firewall_drop
    half_open_peer
    heavy_netfilter
    high_rtt
    interface_errors
    interface_saturated
    listen_overflow
    local_not_reading
    mtu_mismatch
    packet_loss
    peer_not_reading
    peer_unreachable
    periodic_latency
    pmtu_black_hole
    qdisc_drop
    reordering
    send_buffer_limited
    two_applications
    three_causes
    two_servers
    churn_fills_table
    short_timeouts
    slow_local_application
    slow_peer_application
    softnet_drop
    some_syns
    syn_backlog_overflow
    tcp_memory_pressure
    time_wait_buildup
    window_limited
    healthy_idle
    healthy_request_response
    healthy_paced_bulk
    healthy_wide_area
    healthy_short_connections
    healthy_ipv6
    healthy_busy_dns
    healthy_idle_connections
    healthy_deploy
    healthy_nightly_batch
    healthy_long_polls
    healthy_query_mix
    healthy_few_lost_syns
    healthy_slow_uploads
    healthy_large_requests
    healthy_idle_consumers
    healthy_unlike_services
}

/// The scenario of that name.
#[must_use]
pub fn named(name: &str) -> Option<&'static Scenario> {
    SCENARIOS.iter().find(|scenario| scenario.name == name).copied()
}
