//! Files that carry BTF.

use std::{
    fs::File,
    io::{Read as _, Seek as _},
    path::Path,
};

use object::{
    Endianness, Object as _, ObjectSection as _,
    read::{ReadCache, elf::ElfFile64},
};

use super::BtfError;

/// Most BTF that is read: ten times what today's kernels have.
const SIZE_MAX: u64 = 64 << 20;

/// The BTF in a file: all of it, or its `.BTF` section where it is an ELF file. Of a vmlinux only
/// the headers and that section are read.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, BtfError> {
    let mut file = File::open(path).map_err(BtfError::Io)?;
    let len = file.metadata().map_err(BtfError::Io)?.len();
    let mut data = Vec::with_capacity(len.clamp(4, SIZE_MAX) as usize + 1);
    file.by_ref().take(4).read_to_end(&mut data).map_err(BtfError::Io)?;
    if data.starts_with(b"\x7fELF") {
        file.rewind().map_err(BtfError::Io)?;
        return section(file);
    }
    file.take(SIZE_MAX - 3).read_to_end(&mut data).map_err(BtfError::Io)?;
    if data.len() as u64 > SIZE_MAX { Err(BtfError::TooLarge) } else { Ok(data) }
}

/// The `.BTF` section of an ELF file.
fn section(file: File) -> Result<Vec<u8>, BtfError> {
    let cache = ReadCache::new(file);
    let elf = ElfFile64::<Endianness, _>::parse(&cache).map_err(|_| BtfError::Elf)?;
    let section = elf.section_by_name(".BTF").ok_or(BtfError::Elf)?;
    if section.size() > SIZE_MAX {
        return Err(BtfError::TooLarge);
    }
    Ok(section.data().map_err(|_| BtfError::Elf)?.to_vec())
}
