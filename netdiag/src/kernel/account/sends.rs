//! The account of sends, whose calls are seen at both ends: which of them the kernel skipped.
//!
//! A call is missed when the kernel skipped the program at its beginning, at its end, or at both. If
//! the end alone ran, it found no beginning; if the beginning alone ran, it waits for ever or was
//! overwritten by the next. Both are taken out of what was seen, so that each call stands in one
//! counter: calls = `seen` + `missed`.
//!
//! While sends are shed they are counted at their ends alone, so that a skipped end leaves nothing behind: that the
//! kernel counted it is all that tells of the call. It explains nothing of what is left of other calls.
//!
//! `missed` is an upper bound where calls were under way at the attach, where filters are set (a
//! skipped run is counted whosesoever call it was), where sends are shed (a call whose beginning was
//! skipped is counted at its end all the same), and where the beginning's hook fires several times
//! in a call (a call that lost its first is there, with too short a time).

use netdiag_common::signal::send::lane::{BEGIN, END, FLUSH, SENDPAGE_BEGIN, SENDPAGE_END};

use super::{Skipped, Sums};
use crate::coverage::Account;

/// Whether more can come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::kernel) enum Phase {
    /// Programs are in their hooks.
    Attached,
    /// They are gone, so what is pending has no end.
    Detached {
        /// Returned calls that still lie in batches, such as that of a CPU that went offline.
        batched: u64,
    },
}

/// The account of the sums over all CPUs by lane. `skipped` must have been read after them.
pub(super) fn account(lanes: &Sums, skipped: Skipped, phase: Phase) -> Account {
    let begin = lanes[BEGIN].plus(&lanes[SENDPAGE_BEGIN]);
    let end = lanes[END].plus(&lanes[SENDPAGE_END]);
    let mut account = super::account(&begin.plus(&end).plus(&lanes[FLUSH]));
    let of_shed = skipped.begins_shed + skipped.ends_shed;
    let skipped = Skipped {
        begins: skipped.begins.saturating_sub(skipped.begins_shed),
        ends: skipped.ends.saturating_sub(skipped.ends_shed),
        ..Skipped::default()
    };

    let lone_ends = end.unmatched + end.read_failed;
    // A call given up at its beginning must not count again at its end, nor one that is missed.
    let given_up = begin.map_full + begin.read_failed;
    let explained = lone_ends.min(skipped.begins + given_up);
    let unmatched = explained.min(end.unmatched);
    account.unmatched = account.unmatched.saturating_sub(unmatched);
    account.read_failed = account.read_failed.saturating_sub(explained - unmatched);
    account.seen = account.seen.saturating_sub(explained);

    // Calls skipped at both ends have left nothing: as many as there were skipped beginnings whose
    // end did not come. Some of those may still be under way; they are taken for such until then.
    let both = skipped.begins - skipped.begins.min(lone_ends);
    let overwritten = begin.unmatched;
    let lost_ends = (skipped.ends.saturating_sub(both))
        .max(overwritten)
        .min(overwritten + account.pending)
        .min(skipped.ends);
    let unmatched = lost_ends.min(overwritten);
    account.unmatched = account.unmatched.saturating_sub(unmatched);
    account.pending = account.pending.saturating_sub(lost_ends - unmatched);
    account.seen = account.seen.saturating_sub(lost_ends);
    account.missed = skipped.begins + lost_ends + of_shed;

    if let Phase::Detached { batched } = phase {
        // Ended, and never to arrive: not seen, as far as anyone can tell.
        let batched = batched.min(account.pending);
        account.seen = account.seen.saturating_sub(batched);
        account.missed += batched;
        account.unmatched += account.pending - batched;
        account.pending = 0;
    }
    if skipped.ends > 0 && account.lost() == 0 {
        // The skipped end of a call that began before the attach: nothing tells how many.
        account.missed = 1;
    }
    account
}

#[cfg(test)]
mod tests;
