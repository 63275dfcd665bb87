//! What a node says of itself with pseudonyms for the addresses and names in it.

use super::Redactor;
use crate::snapshot::{
    Listener, Node,
    node::{
        HeldSockets, Interface, ListenQueue, PortUse, Ports, Qdisc, RouteMtu, RuleTable, Settings,
        SocketGroup, Sockets, Throttled, Unread,
    },
};

impl Redactor {
    /// Leaves no address and no name in it.
    pub(super) fn node(&self, node: &mut Node) {
        let Node {
            sockets,
            ports,
            listeners,
            listen_queues,
            interfaces,
            qdiscs,
            route_mtus,
            throttled,
            netfilter,
            settings,
            unread,
            // Numbers, by names of the kernel.
            tcp: _,
            ip: _,
            udp: _,
            icmp: _,
            interfaces_left_out: _,
            softnet: _,
            cpu: _,
            cgroups_left_out: _,
            memory: _,
            conntrack: _,
            own_cpu_ns: _,
            own_resident_bytes: _,
        } = node;
        self.sockets(sockets);
        self.ports(ports);
        self.listeners(listeners, listen_queues);
        self.links(interfaces, qdiscs, route_mtus);
        self.throttled(throttled);
        for RuleTable { table, netns: _, family: _, legacy: _, rules: _ } in netfilter {
            self.table(table);
        }
        for Settings {
            // An algorithm, by the name that everybody calls it by.
            tcp_congestion_control: _,
            netns: _,
            somaxconn: _,
            tcp_max_syn_backlog: _,
            tcp_syncookies: _,
            tcp_abort_on_overflow: _,
            local_port_first: _,
            local_port_last: _,
            tcp_tw_reuse: _,
            tcp_max_tw_buckets: _,
            tcp_fin_timeout_s: _,
            tcp_mtu_probing: _,
            ip_no_pmtu_disc: _,
            tcp_rmem_max_bytes: _,
            tcp_wmem_max_bytes: _,
            netdev_max_backlog: _,
            netdev_budget: _,
        } in settings
        {}
        // Namespaces have names, and files paths, which stand in the reasons.
        for Unread { part, reason, namespaces: _, netns: _ } in unread {
            *reason = format!("the {} could not be read", part.words());
        }
    }

    fn sockets(&self, all: &mut [Sockets]) {
        for Sockets {
            close_wait,
            time_wait,
            syn_sent,
            fin_wait2,
            netns: _,
            age_ns: _,
            unchanged_ns: _,
            states: _,
            close_wait_looked_at: _,
            close_wait_unaccepted: _,
        } in all
        {
            for HeldSockets { owner, count: _ } in close_wait {
                self.owner(owner);
            }
            for SocketGroup { local, peer, count: _ } in
                time_wait.iter_mut().chain(syn_sent).chain(fin_wait2)
            {
                [local, peer].into_iter().for_each(|end| self.endpoint(end));
            }
        }
    }

    fn ports(&self, all: &mut [Ports]) {
        for Ports {
            destinations,
            netns: _,
            age_ns: _,
            unchanged_ns: _,
            first: _,
            last: _,
            available: _,
            taken: _,
        } in all
        {
            for PortUse { local_ip, peer, owner, taken: _, time_wait: _ } in destinations {
                *local_ip = self.ip(*local_ip);
                self.endpoint(peer);
                self.owner(owner);
            }
        }
    }

    fn listeners(&self, listeners: &mut [Listener], queues: &mut [ListenQueue]) {
        for Listener { local, owner, netns: _, drops: _, accept_queue: _, accept_queue_limit: _ } in
            listeners
        {
            self.endpoint(local);
            self.owner(owner);
        }
        for ListenQueue {
            local,
            owner,
            netns: _,
            accept_queue: _,
            accept_queue_limit: _,
            syn_recv: _,
        } in queues
        {
            self.endpoint(local);
            self.owner(owner);
        }
    }

    fn links(&self, interfaces: &mut [Interface], qdiscs: &mut [Qdisc], routes: &mut [RouteMtu]) {
        for Interface {
            name,
            // A word of the kernel.
            kind: _,
            netns: _,
            index: _,
            loopback: _,
            up: _,
            carrier: _,
            mtu: _,
            speed_bits: _,
            master: _,
            peer: _,
            rx_bytes: _,
            rx_packets: _,
            rx_errors: _,
            rx_dropped: _,
            rx_missed: _,
            rx_crc_errors: _,
            rx_overruns: _,
            rx_nohandler: _,
            tx_bytes: _,
            tx_packets: _,
            tx_errors: _,
            tx_dropped: _,
            tx_carrier_errors: _,
            carrier_changes: _,
        } in interfaces
        {
            self.interface(name);
        }
        for Qdisc {
            interface,
            // A word of the kernel, and numbers as `tc` writes them.
            kind: _,
            handle: _,
            parent: _,
            netns: _,
            index: _,
            bytes: _,
            packets: _,
            drops: _,
            overlimits: _,
            requeues: _,
            backlog_bytes: _,
            backlog_packets: _,
            rate_bits: _,
        } in qdiscs
        {
            interface.iter_mut().for_each(|name| self.interface(name));
        }
        for RouteMtu { destination, netns: _, index: _, mtu: _ } in routes {
            *destination = self.prefix(destination);
        }
    }

    fn throttled(&self, all: &mut [Throttled]) {
        for Throttled {
            cgroup,
            owner,
            unified: _,
            pids: _,
            periods: _,
            throttled_periods: _,
            throttled_us: _,
            quota_us: _,
            period_us: _,
        } in all
        {
            *cgroup = self.cgroup(cgroup);
            self.owner(owner);
        }
    }
}
