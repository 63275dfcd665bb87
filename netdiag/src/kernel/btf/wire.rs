//! BTF as bytes: header, type records, strings.
//!
//! Format: the kernel's Documentation/bpf/btf.rst and include/uapi/linux/btf.h. Nothing is trusted:
//! every read is bounds-checked, and what does not fit is an error or `None`, never a panic.

use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::BtfError;

/// First two bytes, in the byte order of the machine that wrote it.
const MAGIC: u16 = 0xeb9f;

/// Longest name that is read; the kernel's own limit is `KSYM_NAME_LEN`, 512.
const NAME_MAX: usize = 512;

/// Start of the file, `struct btf_header`.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    magic: u16,
    version: u8,
    flags: u8,
    hdr_len: u32,
    type_off: u32,
    type_len: u32,
    str_off: u32,
    str_len: u32,
}

/// Common head of every type, `struct btf_type`.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Head {
    pub(super) name: u32,
    info: u32,
    /// Size in bytes, or the id of the type referred to: the kind decides.
    pub(super) size_or_type: u32,
}

impl Head {
    /// Kind, entries and flag as they stand there.
    pub(super) fn info(self) -> u32 {
        self.info
    }

    /// Entries that follow. 24 bits: newer kernels widen the field into bits that were zero before.
    pub(super) fn vlen(self) -> usize {
        (self.info & 0x00ff_ffff) as usize
    }

    pub(super) fn kind(self) -> Option<Kind> {
        Kind::from_number(self.info >> 24 & 0x7f)
    }

    /// Struct: member offsets carry bit-field widths. Enum: values are signed.
    pub(super) fn flag(self) -> bool {
        self.info >> 31 == 1
    }
}

/// Kinds of type record, `BTF_KIND_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Int,
    Ptr,
    Array,
    Struct,
    Union,
    Enum,
    Fwd,
    Typedef,
    Volatile,
    Const,
    Restrict,
    Func,
    FuncProto,
    Var,
    Datasec,
    Float,
    DeclTag,
    TypeTag,
    Enum64,
}

impl Kind {
    fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Int,
            2 => Self::Ptr,
            3 => Self::Array,
            4 => Self::Struct,
            5 => Self::Union,
            6 => Self::Enum,
            7 => Self::Fwd,
            8 => Self::Typedef,
            9 => Self::Volatile,
            10 => Self::Const,
            11 => Self::Restrict,
            12 => Self::Func,
            13 => Self::FuncProto,
            14 => Self::Var,
            15 => Self::Datasec,
            16 => Self::Float,
            17 => Self::DeclTag,
            18 => Self::TypeTag,
            19 => Self::Enum64,
            _ => return None,
        })
    }

    /// Bytes between this head and the next one.
    fn tail(self, vlen: usize) -> usize {
        match self {
            Self::Int | Self::Var | Self::DeclTag => 4,
            Self::Array => size_of::<Array>(),
            Self::Struct | Self::Union => vlen * size_of::<Member>(),
            Self::Datasec | Self::Enum64 => vlen * 12,
            Self::Enum => vlen * size_of::<Enumerator>(),
            Self::FuncProto => vlen * size_of::<Param>(),
            _ => 0,
        }
    }

    /// Whether types of this kind are looked up by name.
    fn is_named(self) -> bool {
        matches!(
            self,
            Self::Struct | Self::Union | Self::Enum | Self::Enum64 | Self::Typedef | Self::Func
        )
    }
}

/// `struct btf_array`.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Array {
    pub(super) element: u32,
    index: u32,
    pub(super) len: u32,
}

/// `struct btf_member`.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Member {
    pub(super) name: u32,
    pub(super) ty: u32,
    /// In bits; with the struct's flag set, the top 8 bits are the width of a bit-field.
    pub(super) offset: u32,
}

/// `struct btf_param`.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Param {
    name: u32,
    pub(super) ty: u32,
}

/// `struct btf_enum`.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Enumerator {
    pub(super) name: u32,
    pub(super) value: u32,
}

/// `struct btf_enum64`.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Enumerator64 {
    pub(super) name: u32,
    pub(super) low: u32,
    pub(super) high: u32,
}

/// One type: its head and the bytes that follow it.
#[derive(Clone, Copy)]
pub(super) struct Type<'a> {
    pub(super) head: Head,
    pub(super) kind: Kind,
    tail: &'a [u8],
}

impl<'a> Type<'a> {
    /// The entries that follow the head, as many as are whole.
    pub(super) fn entries<T: FromBytes + Immutable + KnownLayout + 'a>(
        self,
    ) -> impl Iterator<Item = T> + 'a {
        self.tail.chunks_exact(size_of::<T>()).filter_map(|chunk| T::read_from_bytes(chunk).ok())
    }

    /// What follows the head where that is a single thing.
    pub(super) fn entry<T: FromBytes + Immutable + KnownLayout + 'a>(self) -> Option<T> {
        self.entries().next()
    }

    pub(super) fn is_composite(self) -> bool {
        matches!(self.kind, Kind::Struct | Kind::Union)
    }
}

/// The bytes of a BTF file with an index by id and one by name.
pub(super) struct Types {
    data: Box<[u8]>,
    strings: std::ops::Range<usize>,
    /// Where the type of id `i + 1` starts.
    starts: Vec<u32>,
    /// Hash of the name in the high half, id in the low half, sorted.
    names: Vec<u64>,
}

impl Types {
    /// Checks the framing and indexes the types.
    pub(super) fn index(data: Box<[u8]>) -> Result<Self, BtfError> {
        if u32::try_from(data.len()).is_err() {
            return Err(BtfError::TooLarge);
        }
        let (header, _) = Header::read_from_prefix(&data).map_err(|_| BtfError::Truncated)?;
        if header.magic != MAGIC {
            let swapped = header.magic == MAGIC.swap_bytes();
            return Err(if swapped { BtfError::ByteOrder } else { BtfError::NotBtf });
        }
        if header.version != 1 {
            return Err(BtfError::Version(header.version));
        }
        let section = |offset: u32, len: u32| {
            let start = (header.hdr_len as usize).checked_add(offset as usize)?;
            let end = start.checked_add(len as usize)?;
            (end <= data.len()).then_some(start..end)
        };
        let types = section(header.type_off, header.type_len).ok_or(BtfError::Truncated)?;
        let strings = section(header.str_off, header.str_len).ok_or(BtfError::Truncated)?;

        let mut starts = Vec::new();
        let mut names = Vec::new();
        let mut at = types.start;
        while at < types.end {
            let damaged = || BtfError::Damaged { id: starts.len() as u32 + 1 };
            let (head, _) = Head::read_from_prefix(&data[at..types.end]).map_err(|_| damaged())?;
            let kind = head.kind().ok_or_else(damaged)?;
            let end = at + size_of::<Head>() + kind.tail(head.vlen());
            if end > types.end {
                return Err(damaged());
            }
            if kind.is_named() && head.name != 0 {
                let name = string(&data[strings.clone()], head.name).ok_or_else(damaged)?;
                names.push(u64::from(hash(name)) << 32 | (starts.len() as u64 + 1));
            }
            starts.push(at as u32);
            at = end;
        }
        names.sort_unstable();
        Ok(Self { data, strings, starts, names })
    }

    /// The type of that id; id 0 is `void` and has no record.
    pub(super) fn get(&self, id: u32) -> Option<Type<'_>> {
        let index = (id as usize).checked_sub(1)?;
        let at = *self.starts.get(index)? as usize;
        let (head, rest) = Head::read_from_prefix(self.data.get(at..)?).ok()?;
        let kind = head.kind()?;
        Some(Type { head, kind, tail: rest.get(..kind.tail(head.vlen()))? })
    }

    /// The name at that offset of the string section; "" for anonymous things.
    pub(super) fn name(&self, offset: u32) -> Option<&str> {
        std::str::from_utf8(string(&self.data[self.strings.clone()], offset)?).ok()
    }

    /// Every type of exactly that name, of a kind that `wanted` accepts.
    pub(super) fn named<'a>(
        &'a self,
        name: &'a str,
        wanted: impl Fn(Kind) -> bool + 'a,
    ) -> impl Iterator<Item = (u32, Type<'a>)> + 'a {
        let hash = hash(name.as_bytes());
        let first = self.names.partition_point(|&entry| ((entry >> 32) as u32) < hash);
        self.names[first..]
            .iter()
            .take_while(move |&&entry| (entry >> 32) as u32 == hash)
            .filter_map(|&entry| Some((entry as u32, self.get(entry as u32)?)))
            .filter(move |(_, ty)| wanted(ty.kind) && self.name(ty.head.name) == Some(name))
    }

    /// How many types there are.
    pub(super) fn len(&self) -> usize {
        self.starts.len()
    }
}

/// The NUL-terminated string at `offset`, if it ends within the section and within [`NAME_MAX`].
fn string(section: &[u8], offset: u32) -> Option<&[u8]> {
    let rest = section.get(offset as usize..)?;
    let rest = &rest[..rest.len().min(NAME_MAX)];
    Some(&rest[..rest.iter().position(|&byte| byte == 0)?])
}

/// FNV-1a, <http://www.isthe.com/chongo/tech/comp/fnv/>.
fn hash(name: &[u8]) -> u32 {
    name.iter().fold(0x811c_9dc5, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
