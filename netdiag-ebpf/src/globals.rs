//! What userspace decided before the programs were loaded, and when they begin.
//!
//! The values but [`LIVE`] are frozen, so to the verifier they are constants: branches that this run does not
//! need are removed, and offsets made of them may be added to typed pointers.

use aya_ebpf::Global;
use netdiag_common::{
    field::{Field, Location},
    globals::{
        Filters, Live, Locations, NO_LOSSES, Names, NoLoss, Numbers, Prefixes, Settings, SlotPlace,
        hierarchy, no_loss,
    },
    signal::Signal,
};

#[unsafe(no_mangle)]
static LOCATIONS: Global<Locations> = Global::new([Location::MISSING.0; Field::ALL.len()]);

#[unsafe(no_mangle)]
static FILTERS: Global<Filters> = Global::new(Filters {
    pid: NUMBERS,
    port: NUMBERS,
    local_port: NUMBERS,
    peer_port: NUMBERS,
    netns: NUMBERS,
    peer: Prefixes { network: [[0; 4]; 16], mask: [[0; 4]; 16], len: 0 },
    comm: Names { values: [[0; 2]; 16], len: 0 },
    by_cgroup: 0,
});
/// 1 when [`FILTERS`] has a filter: one load on the path of every sample instead of one for each.
#[unsafe(no_mangle)]
static FILTERING: Global<u32> = Global::new(0);
const NUMBERS: Numbers = Numbers { values: [0; 16], len: 0 };

#[unsafe(no_mangle)]
static SETTINGS: Global<Settings> = Global::new(Settings {
    report_every_ns: 0,
    wake_above_bytes: 0,
    slot_place: 0,
    signals: 0,
    has_cookie: 0,
    retransmit_has_error: 0,
    reset_has_reason: 0,
    drop_arguments: 0,
    qdisc_drop: 0,
    netfilter_drop: 0,
    alone: 0,
    stacks: 0,
    no_losses_len: 0,
    hierarchy: hierarchy::NONE,
    no_losses: [NoLoss { from: 0, to: 0, reason: 0, when: no_loss::REASON }; NO_LOSSES],
    hooks_from: 0,
    hooks_to: 0,
    reads_tasks: 0,
    reads_memory: 0,
    tick_us: 0,
    tells_readers: 0,
    reserved: 0,
});

/// All signals begin to count at once, though loading takes one after the other. The only global that userspace
/// writes while programs run.
#[unsafe(no_mangle)]
static mut LIVE: Live = Live { begun: 0, duties: 0, shed: 0 };

/// Whether anything is to be told yet.
#[inline(always)]
pub(crate) fn has_begun() -> bool {
    // SAFETY: a word that programs only read; volatile, since userspace writes it.
    unsafe { core::ptr::read_volatile(&raw const LIVE.begun) != 0 }
}

/// Whether a program is to do for a signal what `duty` says, which depends on the source that the signal has: that
/// is known when all programs are loaded.
#[inline(always)]
pub(crate) fn has_duty(signal: Signal, duty: u32) -> bool {
    if !settings::is_on(signal) {
        return false;
    }
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(&raw const LIVE.duties) & duty != 0 }
}

/// Whether samples of a signal are left out by now to keep the cost down.
#[inline(always)]
pub(crate) fn sheds(signal: Signal) -> bool {
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(&raw const LIVE.shed) & signal.bit() != 0 }
}

/// The number itself from the beginning on, unknown to verifiers. They walk through what follows once for each number
/// that they know, as soon as something depends on it.
#[inline(always)]
pub(crate) fn unknown(number: u32) -> u32 {
    // SAFETY: as above.
    number * unsafe { core::ptr::read_volatile(&raw const LIVE.begun) }
}

/// Reads one word of a global. A copy of a whole struct would hide its constants from the verifier.
macro_rules! constant {
    ($global:ident as $type:ty, $($path:tt)+) => {{
        let whole = (&raw const $global).cast::<$type>();
        // SAFETY: `Global` is a transparent wrapper of its always initialised value; the read is
        // volatile because the loader replaces the value.
        unsafe { core::ptr::read_volatile(&raw const (*whole).$($path)+) }
    }};
}

/// Where a field lies on this kernel.
#[inline(always)]
pub(crate) fn location(field: Field) -> Location {
    let all = (&raw const LOCATIONS).cast::<u32>();
    // SAFETY: `Field` numbers the elements of `LOCATIONS`; volatile as in `constant!`.
    Location(unsafe { core::ptr::read_volatile(all.add(field as usize)) })
}

/// The settings, one by one.
pub(crate) mod settings {
    use super::{NO_LOSSES, SETTINGS, Settings, Signal, SlotPlace, no_loss};

    #[inline(always)]
    pub(crate) fn report_every_ns() -> u64 {
        constant!(SETTINGS as Settings, report_every_ns)
    }

    #[inline(always)]
    pub(crate) fn wake_above_bytes() -> u64 {
        constant!(SETTINGS as Settings, wake_above_bytes)
    }

    #[inline(always)]
    pub(crate) fn slots_in_storage() -> bool {
        constant!(SETTINGS as Settings, slot_place) == SlotPlace::Storage as u32
    }

    #[inline(always)]
    pub(crate) fn is_on(signal: Signal) -> bool {
        constant!(SETTINGS as Settings, signals) & signal.bit() != 0
    }

    #[inline(always)]
    pub(crate) fn has_cookie() -> bool {
        constant!(SETTINGS as Settings, has_cookie) != 0
    }

    #[inline(always)]
    pub(crate) fn retransmit_has_error() -> bool {
        constant!(SETTINGS as Settings, retransmit_has_error) != 0
    }

    #[inline(always)]
    pub(crate) fn reset_has_reason() -> bool {
        constant!(SETTINGS as Settings, reset_has_reason) != 0
    }

    #[inline(always)]
    pub(crate) fn drop_has_reason() -> bool {
        constant!(SETTINGS as Settings, drop_arguments) > 2
    }

    #[inline(always)]
    pub(crate) fn drop_has_receiver() -> bool {
        constant!(SETTINGS as Settings, drop_arguments) > 3
    }

    /// See [`Settings::alone`].
    #[inline(always)]
    pub(crate) fn alone() -> u64 {
        u64::from(constant!(SETTINGS as Settings, alone))
    }

    /// See [`Settings::tick_us`].
    #[inline(always)]
    pub(crate) fn tick_us() -> u64 {
        constant!(SETTINGS as Settings, tick_us)
    }

    /// See [`Settings::reads_tasks`].
    #[inline(always)]
    pub(crate) fn reads_tasks() -> bool {
        constant!(SETTINGS as Settings, reads_tasks) != 0
    }

    /// See [`Settings::reads_memory`].
    #[inline(always)]
    pub(crate) fn reads_memory() -> bool {
        constant!(SETTINGS as Settings, reads_memory) != 0
    }

    /// See [`Settings::tells_readers`].
    #[inline(always)]
    pub(crate) fn tells_readers() -> bool {
        constant!(SETTINGS as Settings, tells_readers) != 0
    }

    /// See [`Settings::hierarchy`].
    #[inline(always)]
    pub(crate) fn hierarchy() -> u32 {
        constant!(SETTINGS as Settings, hierarchy)
    }

    #[inline(always)]
    pub(crate) fn stacks() -> bool {
        constant!(SETTINGS as Settings, stacks) != 0
    }

    /// Whether a queue discipline has told why it drops a packet that is freed for this reason.
    #[inline(always)]
    pub(crate) fn is_told_by_qdisc(reason: u32) -> bool {
        let number = constant!(SETTINGS as Settings, qdisc_drop);
        number != 0 && number == reason
    }

    /// Whether a packet that is freed there for that reason is one that netfilter's hooks drop.
    #[inline(always)]
    pub(crate) fn is_dropped_by_hooks(location: u64, reason: u32) -> bool {
        reason == constant!(SETTINGS as Settings, netfilter_drop)
            && constant!(SETTINGS as Settings, hooks_from) <= location
            && location < constant!(SETTINGS as Settings, hooks_to)
    }

    /// Whether a packet that is freed there for that reason is no drop.
    #[inline(always)]
    pub(crate) fn is_no_loss(location: u64, reason: u32) -> bool {
        any_no_loss(location, |when, of| {
            when == no_loss::ANY || (when == no_loss::REASON && of == reason)
        })
    }

    /// Whether one that is freed there is no drop when it closes a connection.
    #[inline(always)]
    pub(crate) fn is_no_loss_when_closing(location: u64) -> bool {
        !drop_has_reason() && any_no_loss(location, |when, _| when == no_loss::CLOSING)
    }

    /// Asks about the entries for a place, by what makes them so and their reason.
    #[inline(always)]
    fn any_no_loss(location: u64, is_one: impl Fn(u32, u32) -> bool) -> bool {
        let len = constant!(SETTINGS as Settings, no_losses_len);
        let mut at = 0;
        while at < NO_LOSSES {
            if at as u32 >= len {
                return false;
            }
            let from = constant!(SETTINGS as Settings, no_losses[at].from);
            let to = constant!(SETTINGS as Settings, no_losses[at].to);
            let there = to == 0 || (from <= location && location < to);
            let when = constant!(SETTINGS as Settings, no_losses[at].when);
            if there && is_one(when, constant!(SETTINGS as Settings, no_losses[at].reason)) {
                return true;
            }
            at += 1;
        }
        false
    }
}

/// The filters, one by one.
pub(crate) mod filters {
    use super::{FILTERING, FILTERS, Filters};

    /// Whether any of them is.
    #[inline(always)]
    pub(crate) fn any_is_set() -> bool {
        let word = (&raw const FILTERING).cast::<u32>();
        // SAFETY: as in `constant!`.
        unsafe { core::ptr::read_volatile(word) != 0 }
    }

    macro_rules! numbers {
        ($($name:ident)+) => {$(
            /// Values that are accepted; any where none is set.
            pub(crate) mod $name {
                use super::{FILTERS, Filters};

                #[inline(always)]
                pub(crate) fn is_set() -> bool {
                    constant!(FILTERS as Filters, $name.len) != 0
                }

                #[inline(always)]
                pub(crate) fn accepts(value: u32) -> bool {
                    let len = constant!(FILTERS as Filters, $name.len);
                    let mut at = 0;
                    while at < netdiag_common::globals::FILTER_VALUES {
                        if at as u32 >= len {
                            return false;
                        }
                        if constant!(FILTERS as Filters, $name.values[at]) == value {
                            return true;
                        }
                        at += 1;
                    }
                    false
                }
            }
        )+};
    }
    numbers! { pid port local_port peer_port netns }

    /// Whether the cgroup of a process decides.
    #[inline(always)]
    pub(crate) fn by_cgroup() -> bool {
        constant!(FILTERS as Filters, by_cgroup) != 0
    }

    /// Names of processes.
    pub(crate) mod comm {
        use super::{FILTERS, Filters};

        #[inline(always)]
        pub(crate) fn is_set() -> bool {
            constant!(FILTERS as Filters, comm.len) != 0
        }

        /// `name` as two words in load order.
        #[inline(always)]
        pub(crate) fn accepts(name: [u64; 2]) -> bool {
            let len = constant!(FILTERS as Filters, comm.len);
            let mut at = 0;
            while at < netdiag_common::globals::FILTER_VALUES {
                if at as u64 >= len {
                    return false;
                }
                let differs = (name[0] ^ constant!(FILTERS as Filters, comm.values[at][0]))
                    | (name[1] ^ constant!(FILTERS as Filters, comm.values[at][1]));
                if differs == 0 {
                    return true;
                }
                at += 1;
            }
            false
        }
    }

    /// Peer prefixes.
    pub(crate) mod peer {
        use super::{FILTERS, Filters};

        #[inline(always)]
        pub(crate) fn is_set() -> bool {
            constant!(FILTERS as Filters, peer.len) != 0
        }

        /// `addr` as four words in load order.
        #[inline(always)]
        pub(crate) fn accepts(addr: [u32; 4]) -> bool {
            let len = constant!(FILTERS as Filters, peer.len);
            let mut at = 0;
            while at < netdiag_common::globals::FILTER_VALUES {
                if at as u32 >= len {
                    return false;
                }
                let mut differs = 0;
                let mut word = 0;
                while word < 4 {
                    differs |= (addr[word] & constant!(FILTERS as Filters, peer.mask[at][word]))
                        ^ constant!(FILTERS as Filters, peer.network[at][word]);
                    word += 1;
                }
                if differs == 0 {
                    return true;
                }
                at += 1;
            }
            false
        }
    }
}
