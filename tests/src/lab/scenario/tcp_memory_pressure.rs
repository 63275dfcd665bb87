//! More memory in TCP's queues than the machine gives them.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    watch: &[Side::Client, Side::Server],
    needs: Needs::OwnMachine("net.ipv4.tcp_mem is one for the machine"),
    parameters: &[
        Parameter::new("pages", [300, 600], [60_000, 90_000]),
        // Of 20,000 bytes each; the twin's come as soon as there is something.
        Parameter::new("reads_per_s", [8, 10], [1_000, 1_000]),
    ],
    set: |stage, it| {
        stage.veth([1500; 2])?;
        let pages = it["pages"];
        stage.keep(Setting::new("net/ipv4/tcp_mem", &format!("{} {pages} {}", pages / 2, pages * 2))?);
        let at = stage.at(9000);
        // Read more slowly than it is sent, so that queues fill.
        let per_second = Some(it["reads_per_s"] as f64);
        let receive = Receive { per_second, chunk: 20_000, ..Receive::at(at) };
        stage.start(Side::Server, "store", Act::Receive(receive))?;
        stage.start(Side::Client, "backup", Act::Send(Send::paced(vec![at; 24], 300_000)))?;
        Ok(())
    },
    proof: |_, seen, claims| {
        const ENTERED: &str = "TCPMemoryPressures";
        /// Milliseconds, counted as it is left (`tcp_leave_memory_pressure`, net/ipv4/tcp.c).
        const LEFT: &str = "TCPMemoryPressuresChrono";
        let sides = || [Side::Client, Side::Server].into_iter();
        let rise = |name| sides().map(|side| seen.counter(side, name)).sum::<u64>();
        let total = |name| sides().map(|side| seen.total(side, name)).sum::<u64>();
        // Entered before it was watched, and not left since.
        let throughout = if total(LEFT) == 0 { total(ENTERED) } else { 0 };
        let within = rise(ENTERED) + rise(LEFT) + rise("PruneCalled");
        claims.least("times under pressure", throughout + within, 1);
    },
    ..Scenario::fault("tcp-memory-pressure", &["node:"])
};
