//! What the kernel says of its own types: BTF, read at start and released before anything runs.
//!
//! Own code because the libraries at hand do not fit: btfparse keeps one type per name whatever
//! its kind (a guess where a name is ambiguous) and takes 218 ms and 57 MB for one kernel; aya-obj
//! hides struct members; btf-rs is LGPL. This reads in place: an index by id, one by name.

mod file;
mod layout;
mod prototype;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod tests;
mod thin;
mod wire;

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use netdiag_common::{
    field::{Field, Location},
    globals::Locations,
};

pub use self::prototype::Prototype;
use self::wire::Types;

/// Where the kernel publishes its own types.
const RUNNING_KERNEL: &str = "/sys/kernel/btf/vmlinux";

/// The types of one kernel.
///
/// Holds the file and about 8 bytes a type: 6.6 MB for Linux 6.18. Made to be dropped after
/// start-up.
pub struct Btf {
    types: Types,
}

impl fmt::Debug for Btf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Btf").field("types", &self.types.len()).finish_non_exhaustive()
    }
}

impl Btf {
    /// Reads the running kernel's types, or those in `path` for a kernel that publishes none: raw
    /// BTF as in /sys/kernel/btf/vmlinux, or an ELF file (vmlinux) with a `.BTF` section.
    ///
    /// # Errors
    /// [`LoadError`] with the file's name: it cannot be read, or is no BTF of this machine.
    pub fn load(path: Option<&Path>) -> Result<Self, LoadError> {
        let file = path.unwrap_or(Path::new(RUNNING_KERNEL));
        let error = |cause| LoadError { file: file.to_owned(), given: path.is_some(), cause };
        let data = file::read(file).map_err(error)?;
        Self::parse(data.into_boxed_slice()).map_err(error)
    }

    /// Whether the running kernel publishes its types.
    #[must_use]
    pub fn is_published() -> bool {
        Path::new(RUNNING_KERNEL).exists()
    }

    /// Indexes BTF that is in memory already.
    ///
    /// # Errors
    /// [`BtfError`] where the bytes are no BTF, or not this machine's.
    pub fn parse(data: Box<[u8]>) -> Result<Self, BtfError> {
        Ok(Self { types: Types::index(data)? })
    }

    /// Where the kernel keeps a field that some program reads.
    ///
    /// Structs are matched by exact name (`nf_conn`, never `nf_conn___init`). The path passes
    /// through structs and unions embedded without a name.
    ///
    /// # Errors
    /// [`FieldError`] where the kernel has no such field, has it in another size than the programs
    /// read, or has several structs of that name that differ.
    pub fn locate(&self, field: Field) -> Result<Location, FieldError> {
        let (structure, path, size) = field.path();
        self.resolve(structure, path, size).map_err(|problem| FieldError { field, problem })
    }

    /// All fields at once: the globals for the programs, [`Location::MISSING`] where there is none,
    /// and the reasons for those.
    #[must_use]
    pub fn locations(&self) -> (Locations, Vec<(Field, FieldError)>) {
        let mut locations = [Location::MISSING.0; Field::ALL.len()];
        let mut errors = Vec::new();
        for (slot, &field) in locations.iter_mut().zip(Field::ALL) {
            match self.locate(field) {
                Ok(location) => *slot = location.0,
                Err(error) => errors.push((field, error)),
            }
        }
        (locations, errors)
    }
}

/// Why there are no types to work with.
#[derive(Debug)]
pub enum BtfError {
    /// Opening or reading failed.
    Io(io::Error),
    /// More than 64 MiB.
    TooLarge,
    /// Does not begin with BTF's magic number.
    NotBtf,
    /// An ELF file without a readable `.BTF` section.
    Elf,
    /// Written for a machine of the other byte order.
    ByteOrder,
    /// A format version other than 1.
    Version(u8),
    /// Ends before its sections do.
    Truncated,
    /// A type that does not parse.
    Damaged {
        /// Its id.
        id: u32,
    },
}

impl fmt::Display for BtfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::TooLarge => f.write_str("larger than 64 MiB"),
            Self::NotBtf => f.write_str("not BTF"),
            Self::Elf => f.write_str("an ELF file without BTF"),
            Self::ByteOrder => f.write_str("BTF of a machine with the other byte order"),
            Self::Version(version) => write!(f, "BTF version {version}, only 1 is known"),
            Self::Truncated => f.write_str("truncated BTF"),
            Self::Damaged { id } => write!(f, "BTF type {id} is damaged or of an unknown kind"),
        }
    }
}

impl std::error::Error for BtfError {}

/// A [`BtfError`] with the file it concerns.
#[derive(Debug)]
pub struct LoadError {
    file: PathBuf,
    given: bool,
    /// What is wrong with it.
    pub cause: BtfError,
}

impl LoadError {
    /// Whether the file that `--btf` names cannot be read at all: wrong usage, whatever the kernel
    /// can do.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        self.given && matches!(self.cause, BtfError::Io(_))
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, given, cause } = self;
        let file = file.display();
        write!(f, "no kernel types from {file}: {cause}; nothing can be observed without them, ")?;
        f.write_str(if *given {
            "give --btf the BTF or vmlinux of exactly the running kernel"
        } else {
            "run a kernel built with CONFIG_DEBUG_INFO_BTF or give --btf FILE"
        })
    }
}

impl std::error::Error for LoadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.cause)
    }
}

/// Why a field has no location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldProblem {
    /// No struct of that name.
    NoStruct,
    /// The struct has no member of that name.
    NoField(String),
    /// This part of the path is looked for in something that is no struct.
    NotAStruct(String),
    /// Several structs or members of that name, in different places.
    Ambiguous,
    /// The kernel's type has another size than the programs read.
    Size {
        /// Bytes that the programs read.
        wanted: usize,
        /// Bytes that the kernel's type has.
        found: u64,
    },
    /// A bit-field that no single byte holds.
    Straddles {
        /// Its first bit.
        bit: u64,
        /// Its width in bits.
        width: u32,
    },
    /// At an offset beyond 64 KiB.
    TooFar(u64),
    /// The types contradict themselves.
    Damaged,
}

/// A field that the programs cannot read on this kernel, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Which one.
    pub field: Field,
    /// Why not.
    pub problem: FieldProblem,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (structure, path, _) = self.field.path();
        write!(f, "{structure}.{path}: ")?;
        match &self.problem {
            FieldProblem::NoStruct => write!(f, "this kernel has no struct {structure}"),
            FieldProblem::NoField(name) => write!(f, "this kernel has no member {name} there"),
            FieldProblem::NotAStruct(name) => write!(f, "{name} is looked for in a non-struct"),
            FieldProblem::Ambiguous => f.write_str("several differ in this kernel, none is taken"),
            FieldProblem::Size { wanted, found } => {
                write!(f, "{found} bytes in this kernel, {wanted} expected")
            }
            FieldProblem::Straddles { bit, width } => {
                write!(f, "{width} bits at bit {bit} do not lie in one byte")
            }
            FieldProblem::TooFar(offset) => write!(f, "offset {offset} is beyond 65535"),
            FieldProblem::Damaged => f.write_str("the kernel's BTF is damaged there"),
        }
    }
}

impl std::error::Error for FieldError {}
