//! From a file descriptor to the socket behind it.

use aya_ebpf::helpers::generated::bpf_get_current_task;
use netdiag_common::field::Field;

use crate::{
    kernel::{Access as _, Pointer, Probed, Refused, field},
    numbers::{FILE_TYPE, SOCKET_FILE},
};

/// The `struct sock` behind a file descriptor of the current task; `None` when it is no socket's.
#[inline(always)]
pub(super) fn sock(descriptor: u32) -> Result<Option<Pointer>, Refused> {
    // SAFETY: no precondition.
    let task = unsafe { bpf_get_current_task() } as Pointer;
    // SAFETY: each pointer comes from the struct whose BTF gives the location; the helper survives any
    // address, and a table that is replaced meanwhile is freed after a grace period of RCU.
    unsafe {
        let files: Pointer = field::<Probed, _>(task, Field::TaskFiles)?;
        let table: Pointer = field::<Probed, _>(files, Field::FilesTable)?;
        if descriptor >= field::<Probed, u32>(table, Field::TableSize)? {
            return Ok(None);
        }
        let all: Pointer = field::<Probed, _>(table, Field::TableFiles)?;
        let file: Pointer = Probed::load(all, descriptor as usize * size_of::<Pointer>())?;
        if file.is_null() {
            return Ok(None);
        }
        let inode: Pointer = field::<Probed, _>(file, Field::FileInode)?;
        if field::<Probed, u16>(inode, Field::InodeMode)? & FILE_TYPE != SOCKET_FILE {
            return Ok(None);
        }
        let socket: Pointer = field::<Probed, _>(file, Field::FilePrivate)?;
        if socket.is_null() {
            // A path to a Unix socket, opened with O_PATH.
            return Ok(None);
        }
        let sk: Pointer = field::<Probed, _>(socket, Field::SocketSk)?;
        Ok((!sk.is_null()).then_some(sk))
    }
}
