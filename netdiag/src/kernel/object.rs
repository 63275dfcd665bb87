//! The eBPF object that is part of this binary, and what it is told before it is loaded.

use anyhow::Result;
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use netdiag_common::globals::{Filters, Locations, Settings, SlotPlace};
use rustix::{
    mm::{Advice, madvise},
    param::page_size,
};
use zerocopy::IntoBytes as _;

use crate::exit;

include!(concat!(env!("OUT_DIR"), "/ebpf_object.rs"));

/// Smallest ring there is; nothing is written to the log unless it is asked for.
pub(super) const PAGE: u32 = 4096;
/// Ring of the log when it is.
const LOG_BYTES: u32 = 128 << 10;

/// Sizes of the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Bytes of the ring of batched samples.
    pub(super) samples_bytes: u32,
    /// Bytes of the ring of socket records.
    pub(super) sockets_bytes: u32,
    /// Bytes of the ring of rare events.
    pub(super) events_bytes: u32,
    /// Sockets that the programs can remember in the hash.
    pub(super) sockets: u32,
    /// Send calls under way at once that have no slot to lie in.
    pub(super) calls: u32,
    /// Sockets whose owner is seeded for filters by owner, and as many younger listeners.
    pub(super) owners: u32,
    /// Cgroups that filters decide on.
    pub(super) cgroups: u32,
    /// Stacks, where they are asked for.
    pub(super) stacks: u32,
}

/// Everything that is decided before loading.
pub(super) struct Frozen<'a> {
    pub(super) settings: Settings,
    pub(super) filters: &'a Filters,
    /// 1 where there is any.
    pub(super) filtering: u32,
    pub(super) locations: &'a Locations,
    pub(super) sizes: Sizes,
    /// aya-log level of the programs' own diagnostics, 0 for none.
    pub(super) log_level: u8,
}

/// Who loads the object. aya reads the kernel's types for it, which nobody asks it for.
pub(super) fn loader() -> EbpfLoader<'static> {
    let mut loader = EbpfLoader::new();
    loader.btf(None).verifier_log_level(VerifierLogLevel::DEBUG);
    loader
}

/// Lets go of the object's pages: it is read once, and would stay resident as a part of this binary.
pub(super) fn release() {
    let object = ebpf_object::<true>();
    let page = page_size();
    let start = object.as_ptr().align_offset(page);
    let len = object.len().saturating_sub(start) / page * page;
    if len != 0 {
        let pages = object[start..].as_ptr().cast_mut().cast();
        // SAFETY: whole pages of a file that nobody wrote to; they are read anew when they are needed.
        let _still_resident = unsafe { madvise(pages, len, Advice::LinuxDontNeed) };
    }
}

/// Creates the maps; programs are loaded one by one later.
pub(super) fn load<'a>(loader: &mut EbpfLoader<'a>, frozen: &'a Frozen<'_>) -> Result<Ebpf> {
    let sizes = frozen.sizes;
    let storage = frozen.settings.slot_place == SlotPlace::Storage as u32;
    loader
        .override_global("SETTINGS", frozen.settings.as_bytes(), true)
        .override_global("FILTERS", frozen.filters.as_bytes(), true)
        .override_global("FILTERING", &frozen.filtering, true)
        .override_global("LOCATIONS", frozen.locations.as_bytes(), true)
        .override_global("AYA_LOG_LEVEL", &frozen.log_level, true)
        .map_max_entries("SAMPLES", sizes.samples_bytes)
        .map_max_entries("SOCKETS", sizes.sockets_bytes)
        .map_max_entries("EVENTS", sizes.events_bytes)
        .map_max_entries("SLOT_HASH", if storage { 1 } else { sizes.sockets })
        .map_max_entries("AYA_LOGS", if frozen.log_level == 0 { PAGE } else { LOG_BYTES })
        .map_max_entries("STARTS", sizes.calls)
        .map_max_entries("SEEDED_OWNERS", sizes.owners.max(1))
        .map_max_entries("LISTENERS", sizes.owners.max(1))
        .map_max_entries("CGROUPS", sizes.cgroups)
        .map_max_entries("STACKS", sizes.stacks)
        .load(ebpf_object::<true>())
        .map_err(|error| {
            exit::Error::cannot_observe(format!(
                "the kernel refused netdiag's maps ({error}), so nothing can be observed; check \
                 memory limits (RLIMIT_MEMLOCK, cgroup) and privileges"
            ))
            .into()
        })
}
