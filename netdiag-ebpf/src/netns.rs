//! Network namespaces, by the inode numbers that they have.

use netdiag_common::field::Field;

use crate::{
    globals::{location, settings},
    kernel::{Access, Pointer, Refused, field, read_or_zero},
};

/// Reads the inode number of the network namespace that a field points to, 0 where it points to none.
///
/// For each pointer that is loaded through a typed one, verifiers from 6.4 on look for several names in all of the
/// kernel's types (`btf_nested_type_is_trusted`): that took a third of the time in which the programs were loaded.
/// An address that is read costs them nothing.
///
/// # Safety
/// `holder` points to the struct that the field belongs to.
#[inline(always)]
pub(crate) unsafe fn of<A: Access>(holder: Pointer, net: Field) -> Result<u32, Refused> {
    // SAFETY: passed on; the field points to a `struct net` or nowhere.
    unsafe {
        if A::TYPED && settings::reads_memory() {
            let net: u64 = read_or_zero(holder, location(net).offset());
            return Ok(read_or_zero(net as Pointer, location(Field::NetInum).offset()));
        }
        let net: Pointer = field::<A, _>(holder, net)?;
        if net.is_null() { Ok(0) } else { field::<A, _>(net, Field::NetInum) }
    }
}

/// One whose number was read.
pub(crate) struct Known {
    address: u64,
    inode: u32,
}

impl Known {
    /// What a pointer to nowhere leads to.
    pub(crate) const NONE: Self = Self { address: 0, inode: 0 };

    /// The same as [`of`]. The number of the one that was read last is not read again.
    ///
    /// # Safety
    /// As for [`of`].
    #[inline(always)]
    pub(crate) unsafe fn of<A: Access>(
        &mut self,
        holder: Pointer,
        net: Field,
    ) -> Result<u32, Refused> {
        // SAFETY: passed on; the field points to a `struct net` or nowhere.
        unsafe {
            if A::TYPED && !settings::reads_memory() {
                return of::<A>(holder, net);
            }
            let address: u64 = if A::TYPED {
                read_or_zero(holder, location(net).offset())
            } else {
                field::<A, _>(holder, net)?
            };
            if address != self.address {
                let inode = if A::TYPED {
                    read_or_zero(address as Pointer, location(Field::NetInum).offset())
                } else if address == 0 {
                    0
                } else {
                    field::<A, _>(address as Pointer, Field::NetInum)?
                };
                *self = Self { address, inode };
            }
            Ok(self.inode)
        }
    }
}
