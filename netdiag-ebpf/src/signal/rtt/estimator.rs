//! A look at the kernel's estimator of a socket's round-trip time.

use netdiag_common::{
    estimator::{Estimator, Since},
    field::Field,
};

use crate::{
    kernel::{Access, Pointer, Refused, field},
    slot::RoundTrips,
};

/// What came since the last look, which is remembered. Nothing is known of what was before the first.
///
/// # Safety
/// `tp` is a `tcp_sock`, and its lock is held.
#[inline(always)]
pub(super) unsafe fn look<A: Access>(tp: Pointer, last: &mut RoundTrips) -> Result<Since, Refused> {
    // SAFETY: passed on.
    let now = unsafe {
        Estimator {
            srtt: field::<A, _>(tp, Field::TcpSrtt)?,
            mdev: field::<A, _>(tp, Field::TcpMdev)?,
            una: field::<A, _>(tp, Field::TcpSndUna)?,
        }
    };
    let known = core::mem::replace(&mut last.known, 1) != 0;
    let before = core::mem::replace(&mut last.estimator, now);
    Ok(if known { now.since(before) } else { Since::Nothing })
}
