//! Where a field lies: paths through nested, anonymous and embedded structs, bit-fields, sizes.

use netdiag_common::field::Location;

use super::{
    Btf, FieldProblem,
    wire::{Array, Kind, Member, Type, Types},
};

/// Typedefs and qualifiers followed before the data counts as damaged; the kernel's own limit is
/// `MAX_RESOLVE_DEPTH`, 32.
const DEPTH_MAX: usize = 32;

/// Members looked at for one field, all nesting included. A `tcp_sock` has some hundreds; a file
/// made to nest without end runs into this.
const MEMBERS_MAX: usize = 1 << 16;

/// A pointer of the running kernel.
const POINTER_BYTES: u64 = size_of::<usize>() as u64;

/// Position and extent of a field, relative to the outermost struct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// Bits from the start of the struct.
    bit: u64,
    /// Width where it is a bit-field.
    width: Option<u32>,
    /// Type of the field.
    ty: u32,
}

impl Btf {
    /// Looks `path` up in every struct of that name; see [`Btf::locate`].
    pub(super) fn resolve(
        &self,
        structure: &str,
        path: &str,
        size: usize,
    ) -> Result<Location, FieldProblem> {
        let mut found: Option<(Place, u64)> = None;
        let mut missing = FieldProblem::NoStruct;
        let mut budget = MEMBERS_MAX;
        let composite = |kind| matches!(kind, Kind::Struct | Kind::Union);
        for (id, _) in self.types.named(structure, composite) {
            let (place, bytes) = match self.descend(id, path, &mut budget) {
                Ok(place) => (place, self.size_of(place.ty).ok_or(FieldProblem::Damaged)?),
                Err(problem @ FieldProblem::NoField(_)) => {
                    missing = problem;
                    continue;
                }
                Err(problem) => return Err(problem),
            };
            match found {
                Some((other, other_bytes))
                    if (other.bit, other.width, other_bytes) != (place.bit, place.width, bytes) =>
                {
                    return Err(FieldProblem::Ambiguous);
                }
                _ => found = Some((place, bytes)),
            }
        }
        let (place, bytes) = found.ok_or(missing)?;
        if bytes != size as u64 {
            return Err(FieldProblem::Size { wanted: size, found: bytes });
        }
        place.location()
    }

    /// Follows a dotted path from a struct; `[0]` behind a name descends into an array.
    fn descend(&self, id: u32, path: &str, budget: &mut usize) -> Result<Place, FieldProblem> {
        let mut place = Place { bit: 0, width: None, ty: id };
        for name in path.split('.') {
            let (_, ty) = self.types.strip(place.ty).ok_or(FieldProblem::Damaged)?;
            if !ty.is_composite() || place.width.is_some() {
                return Err(FieldProblem::NotAStruct(name.to_owned()));
            }
            let (name, is_array) = match name.strip_suffix("[0]") {
                Some(array) => (array, true),
                None => (name, false),
            };
            let missing = || FieldProblem::NoField(name.to_owned());
            let inner = self.member(ty, name, budget)?.ok_or_else(missing)?;
            place = Place { bit: place.bit + inner.bit, ..inner };
            if is_array {
                place.ty = self.element(place.ty).ok_or_else(missing)?;
            }
        }
        Ok(place)
    }

    /// The member of that name, in `ty` or in any struct that it embeds without a name. C lets
    /// those be anonymous; with -fms-extensions (Linux 7.2) their type has a name of its own.
    fn member(
        &self,
        ty: Type<'_>,
        name: &str,
        budget: &mut usize,
    ) -> Result<Option<Place>, FieldProblem> {
        let mut found = None;
        let mut open = vec![(ty, 0_u64)];
        while let Some((ty, base)) = open.pop() {
            for member in ty.entries::<Member>() {
                *budget = budget.checked_sub(1).ok_or(FieldProblem::Damaged)?;
                let place = self.place(ty, member).ok_or(FieldProblem::Damaged)?;
                let place = Place { bit: base + place.bit, ..place };
                let label = self.types.name(member.name).ok_or(FieldProblem::Damaged)?;
                if label == name {
                    if found.is_some_and(|other| other != place) {
                        return Err(FieldProblem::Ambiguous);
                    }
                    found = Some(place);
                } else if label.is_empty()
                    && let Some((_, inner)) = self.types.strip(member.ty)
                    && inner.is_composite()
                {
                    open.push((inner, place.bit));
                }
            }
        }
        Ok(found)
    }

    /// Position of a member in its struct, from either of the two encodings of bit-fields.
    fn place(&self, ty: Type<'_>, member: Member) -> Option<Place> {
        if ty.head.flag() {
            let width = member.offset >> 24;
            let bit = u64::from(member.offset & 0x00ff_ffff);
            return Some(Place { bit, width: (width != 0).then_some(width), ty: member.ty });
        }
        let whole = Place { bit: u64::from(member.offset), width: None, ty: member.ty };
        let Some((_, inner)) = self.types.strip(member.ty) else { return Some(whole) };
        if inner.kind != Kind::Int {
            return Some(whole);
        }
        // Before Linux 4.20 (pahole before 1.13) the integer type itself carried offset and width.
        let encoding = inner.entry::<u32>()?;
        let (offset, bits) = (encoding >> 16 & 0xff, encoding & 0xff);
        if offset == 0 && u64::from(bits) == u64::from(inner.head.size_or_type) * 8 {
            return Some(whole);
        }
        Some(Place { bit: whole.bit + u64::from(offset), width: Some(bits), ty: member.ty })
    }

    /// Type of an array's elements; `None` for what is no array, or has none.
    fn element(&self, id: u32) -> Option<u32> {
        let (_, ty) = self.types.strip(id)?;
        let array = (ty.kind == Kind::Array).then(|| ty.entry::<Array>())??;
        (array.len > 0).then_some(array.element)
    }

    /// Size of a type in bytes.
    fn size_of(&self, id: u32) -> Option<u64> {
        let (mut count, mut id) = (1_u64, id);
        for _ in 0..DEPTH_MAX {
            let (_, ty) = self.types.strip(id)?;
            match ty.kind {
                Kind::Int
                | Kind::Struct
                | Kind::Union
                | Kind::Enum
                | Kind::Enum64
                | Kind::Float => return count.checked_mul(u64::from(ty.head.size_or_type)),
                Kind::Ptr => return count.checked_mul(POINTER_BYTES),
                Kind::Array => {
                    let array = ty.entry::<Array>()?;
                    count = count.checked_mul(u64::from(array.len))?;
                    id = array.element;
                }
                _ => return None,
            }
        }
        None
    }
}

impl Place {
    /// Packs the position for the programs, which load single bytes of bit-fields.
    fn location(self) -> Result<Location, FieldProblem> {
        let byte = u16::try_from(self.bit / 8).map_err(|_| FieldProblem::TooFar(self.bit / 8))?;
        let bit = (self.bit % 8) as u32;
        match self.width {
            None if bit == 0 => Ok(Location::bytes(byte)),
            Some(width @ 1..=8) if bit + width <= 8 => {
                Ok(Location::bits(byte, bit as u8, width as u8))
            }
            _ => Err(FieldProblem::Straddles { bit: self.bit, width: self.width.unwrap_or(0) }),
        }
    }
}

impl Types {
    /// Follows typedefs, qualifiers and tags to what they stand for.
    pub(super) fn strip(&self, mut id: u32) -> Option<(u32, Type<'_>)> {
        for _ in 0..DEPTH_MAX {
            let ty = self.get(id)?;
            match ty.kind {
                Kind::Typedef | Kind::Volatile | Kind::Const | Kind::Restrict | Kind::TypeTag => {
                    id = ty.head.size_or_type;
                }
                _ => return Some((id, ty)),
            }
        }
        None
    }
}
