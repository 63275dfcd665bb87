//! A look at the kernel's estimator of a socket's round-trip time.

use netdiag_common::{
    estimator::{Estimator, Since},
    field::Field,
};

use crate::{
    kernel::{Access, Pointer, Refused, field},
    slot::RoundTrips,
};

/// A sample, if it was one, and whether it may be of a delayed ACK.
pub(super) struct Found {
    pub(super) since: Since,
    pub(super) is_short: bool,
}

/// What came since the last look, which is remembered. Nothing is known of what was before the first.
///
/// # Safety
/// `tp` is a `tcp_sock`, and its lock is held.
#[inline(always)]
pub(super) unsafe fn look<A: Access>(tp: Pointer, last: &mut RoundTrips) -> Result<Found, Refused> {
    // SAFETY: passed on.
    let now = unsafe {
        Estimator {
            srtt: field::<A, _>(tp, Field::TcpSrtt)?,
            mdev: field::<A, _>(tp, Field::TcpMdev)?,
            una: field::<A, _>(tp, Field::TcpSndUna)?,
        }
    };
    // SAFETY: passed on.
    let mss = unsafe { field::<A, _>(tp, Field::TcpMss) }?;
    let known = core::mem::replace(&mut last.known, 1) != 0;
    let before = core::mem::replace(&mut last.estimator, now);
    Ok(Found {
        since: if known { now.since(before) } else { Since::Nothing },
        is_short: now.is_short_since(before, mss),
    })
}
