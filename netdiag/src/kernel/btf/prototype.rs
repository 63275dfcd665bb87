//! Functions, tracepoints and enums: what the choice between variants of a hook rests on.

use super::{
    Btf,
    wire::{Array, Enumerator, Enumerator64, Kind, Param, Type},
};

/// Arguments read of a prototype; the kernel's calling convention for programs ends at 12.
const ARGS_MAX: usize = 32;

/// Pointers and arrays followed in one type.
const DEPTH_MAX: usize = 32;

/// The types of a function, in C without qualifiers: `struct sock *`, `size_t`, `enum
/// skb_drop_reason`, `void`. `const` moves from release to release and decides nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prototype {
    /// Type of each argument.
    pub args: Vec<String>,
    /// Type of the result.
    pub ret: String,
}

impl Btf {
    /// Prototype of a function by its exact name; `None` where the kernel has no such function, or
    /// several that differ. A function in BTF is not yet one that can be hooked: see
    /// [`Symbols`](crate::kernel::symbols::Symbols).
    #[must_use]
    pub fn function(&self, name: &str) -> Option<Prototype> {
        self.the_one(name, Kind::Func, |ty| self.prototype(ty.head.size_or_type))
    }

    /// Types of the arguments that a raw tracepoint hands to its programs, from the typedef
    /// `btf_trace_NAME`; `None` where the kernel has no such tracepoint.
    #[must_use]
    pub fn tracepoint(&self, name: &str) -> Option<Vec<String>> {
        self.the_one(&format!("btf_trace_{name}"), Kind::Typedef, |ty| {
            let pointer = self.types.get(ty.head.size_or_type)?;
            (pointer.kind == Kind::Ptr).then_some(())?;
            let mut args = self.prototype(pointer.head.size_or_type)?.args;
            // The probe's private data, `void *__data`, which programs never see.
            (!args.is_empty()).then(|| args.remove(0))?;
            Some(args)
        })
    }

    /// Value of an enumerator of a named enum, as the kernel's 64-bit pattern (negative values are
    /// sign-extended).
    #[must_use]
    pub fn enum_value(&self, name: &str, enumerator: &str) -> Option<u64> {
        let mut found = self
            .enumerators(name)
            .filter(|(other, _)| *other == enumerator)
            .map(|(_, value)| value);
        let first = found.next()?;
        found.all(|value| value == first).then_some(first)
    }

    /// Every enumerator of the enums of that name with its value, in the order of declaration.
    pub fn enumerators<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, u64)> + 'a {
        let enums = |kind| matches!(kind, Kind::Enum | Kind::Enum64);
        self.types.named(name, enums).flat_map(|(_, ty)| {
            let signed = ty.head.flag();
            let narrow = (ty.kind == Kind::Enum)
                .then(|| ty.entries::<Enumerator>().map(move |e| (e.name, widen(e.value, signed))));
            let wide = (ty.kind == Kind::Enum64).then(|| {
                ty.entries::<Enumerator64>()
                    .map(|e| (e.name, u64::from(e.high) << 32 | u64::from(e.low)))
            });
            narrow
                .into_iter()
                .flatten()
                .chain(wide.into_iter().flatten())
                .filter_map(|(name, value)| Some((self.types.name(name)?, value)))
        })
    }

    /// What `read` makes of the types of that name and kind, if all agree.
    fn the_one<T: PartialEq>(
        &self,
        name: &str,
        kind: Kind,
        read: impl Fn(Type<'_>) -> Option<T>,
    ) -> Option<T> {
        let mut found = self.types.named(name, move |other| other == kind);
        let first = read(found.next()?.1)?;
        found.all(|(_, ty)| read(ty).as_ref() == Some(&first)).then_some(first)
    }

    fn prototype(&self, id: u32) -> Option<Prototype> {
        let ty = self.types.get(id)?;
        if ty.kind != Kind::FuncProto || ty.head.vlen() > ARGS_MAX {
            return None;
        }
        let args = ty
            .entries::<Param>()
            .map(|param| self.spell(param.ty, 0))
            .collect::<Option<Vec<_>>>()?;
        Some(Prototype { args, ret: self.spell(ty.head.size_or_type, 0)? })
    }

    /// A type in C, without qualifiers.
    fn spell(&self, id: u32, depth: usize) -> Option<String> {
        if id == 0 {
            return Some("void".to_owned());
        }
        if depth > DEPTH_MAX {
            return None;
        }
        let ty = self.types.get(id)?;
        let name = match self.types.name(ty.head.name)? {
            "" => "(anonymous)",
            name => name,
        };
        let target = || self.spell(ty.head.size_or_type, depth + 1);
        Some(match ty.kind {
            Kind::Int | Kind::Float | Kind::Typedef => name.to_owned(),
            Kind::Struct => format!("struct {name}"),
            Kind::Union => format!("union {name}"),
            Kind::Enum | Kind::Enum64 => format!("enum {name}"),
            Kind::Fwd if ty.head.flag() => format!("union {name}"),
            Kind::Fwd => format!("struct {name}"),
            Kind::Volatile | Kind::Const | Kind::Restrict | Kind::TypeTag => target()?,
            Kind::FuncProto => "function".to_owned(),
            Kind::Ptr => {
                let mut target = target()?;
                target.push_str(if target.ends_with('*') { "*" } else { " *" });
                target
            }
            Kind::Array => {
                let array = ty.entry::<Array>()?;
                format!("{}[{}]", self.spell(array.element, depth + 1)?, array.len)
            }
            _ => return None,
        })
    }
}

/// Widens an enumerator as C would.
fn widen(value: u32, signed: bool) -> u64 {
    if signed { i64::from(value as i32) as u64 } else { u64::from(value) }
}
