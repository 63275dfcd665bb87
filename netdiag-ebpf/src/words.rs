//! Plain data word by word. What the compiler makes of larger pieces by itself are calls of memset and memmove:
//! loops over bytes, which cost at each run, and which verifiers walk through turn by turn.

use core::mem::MaybeUninit;

/// Fills `to` with zeros.
///
/// # Safety
/// `to` is valid, and zeros are a `T`.
#[inline(always)]
pub(crate) unsafe fn zero<T>(to: *mut T) {
    const { assert!(is_halves::<T>()) };
    let mut at = 0;
    // SAFETY: inside `to`. Volatile: what is not may become a memset again.
    unsafe {
        if const { is_words::<T>() } {
            while at < size_of::<T>() / 8 {
                to.cast::<u64>().add(at).write_volatile(0);
                at += 1;
            }
        } else {
            while at < size_of::<T>() / 4 {
                to.cast::<u32>().add(at).write_volatile(0);
                at += 1;
            }
        }
    }
}

/// Fills room for a `T` with zeros, and hands it out as one.
///
/// # Safety
/// Zeros are a `T`.
#[inline(always)]
pub(crate) unsafe fn zeros<T>(room: &mut MaybeUninit<T>) -> &mut T {
    // SAFETY: passed on; filled just now.
    unsafe {
        zero(room.as_mut_ptr());
        room.assume_init_mut()
    }
}

/// Copies what `from` holds to `to`.
///
/// # Safety
/// Both are valid.
#[inline(always)]
pub(crate) unsafe fn copy<T: Copy>(from: *const T, to: *mut T) {
    const { assert!(is_words::<T>()) };
    let mut at = 0;
    while at < size_of::<T>() / 8 {
        // SAFETY: inside both. Volatile as above.
        unsafe { to.cast::<u64>().add(at).write_volatile(from.cast::<u64>().add(at).read()) };
        at += 1;
    }
}

const fn is_words<T>() -> bool {
    align_of::<T>().is_multiple_of(8) && size_of::<T>().is_multiple_of(8)
}

const fn is_halves<T>() -> bool {
    align_of::<T>().is_multiple_of(4) && size_of::<T>().is_multiple_of(4)
}
