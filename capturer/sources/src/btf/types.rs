//! What a type says of itself.

/// Bytes of `struct btf_type`, which every type begins with.
pub(super) const HEAD: usize = 12;

/// Kinds of types (`BTF_KIND_…`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An integer, a character or a truth value.
    Int,
    /// A pointer.
    Ptr,
    /// An array.
    Array,
    /// A structure.
    Struct,
    /// A union.
    Union,
    /// An enumeration of 32-bit values.
    Enum,
    /// A structure or union that is named only.
    Fwd,
    /// Another name of a type.
    Typedef,
    /// `volatile`
    Volatile,
    /// `const`
    Const,
    /// `restrict`
    Restrict,
    /// A function.
    Func,
    /// Its parameters.
    FuncProto,
    /// A variable.
    Var,
    /// A section of variables.
    Datasec,
    /// A floating-point number.
    Float,
    /// A tag of a declaration.
    DeclTag,
    /// A tag of a type.
    TypeTag,
    /// An enumeration of 64-bit values.
    Enum64,
}

impl Kind {
    pub(super) const fn new(kind: u32) -> Option<Self> {
        Some(match kind {
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

    /// Bytes behind the head: for all, and for each of `vlen`.
    const fn body(self) -> (u64, u64) {
        match self {
            Self::Int | Self::Var | Self::DeclTag => (4, 0),
            Self::Array => (12, 0),
            Self::Struct | Self::Union | Self::Datasec | Self::Enum64 => (0, 12),
            Self::Enum | Self::FuncProto => (0, 8),
            Self::Ptr
            | Self::Fwd
            | Self::Typedef
            | Self::Volatile
            | Self::Const
            | Self::Restrict
            | Self::Func
            | Self::Float
            | Self::TypeTag => (0, 0),
        }
    }

    /// Whether it has members.
    #[must_use]
    pub const fn is_record(self) -> bool {
        matches!(self, Self::Struct | Self::Union)
    }

    /// Whether it has enumerators.
    #[must_use]
    pub const fn is_enum(self) -> bool {
        matches!(self, Self::Enum | Self::Enum64)
    }

    /// Whether it is another type with something added: a name, `const`, a tag.
    #[must_use]
    pub const fn is_alias(self) -> bool {
        matches!(
            self,
            Self::Typedef | Self::Volatile | Self::Const | Self::Restrict | Self::TypeTag
        )
    }
}

/// A type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Type {
    /// Its number.
    pub id: u32,
    /// Its kind.
    pub kind: Kind,
    /// Where its name lies, see [`super::Btf::name`]; 0: it has none.
    pub name: u32,
    /// How many members, enumerators or parameters it has.
    pub vlen: u32,
    /// `kind_flag`: a struct has bit fields, an enumeration signed values.
    pub flag: bool,
    /// Bytes that a value takes, or the type that this one refers to; by its kind.
    pub size_or_type: u32,
    /// Where it lies among the types, bytes.
    pub(super) at: u32,
}

impl Type {
    /// Where it begins, in bytes from the start of the types.
    #[must_use]
    pub fn start(&self) -> u64 {
        u64::from(self.at)
    }

    /// Where its members begin.
    pub(super) fn body(&self) -> u64 {
        u64::from(self.at) + HEAD as u64
    }

    /// Where the next type begins.
    pub(super) fn end(&self) -> u64 {
        let (all, each) = self.kind.body();
        // 32 bits, and 65535 times 12.
        self.body() + all + each * u64::from(self.vlen)
    }
}

/// A member of a struct or union.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Where its name lies; 0: it has none, and its own members count as its parent's.
    pub name: u32,
    /// Its type.
    pub ty: u32,
    /// Where it begins, in bits from the start of its parent.
    pub bit: u32,
    /// How many bits it has as a bit field; 0 for any other.
    pub bits: u32,
}

/// A value of an enumeration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enumerator {
    /// Where its name lies.
    pub name: u32,
    /// The value; one of over 63 bits comes as its two's complement.
    pub value: i64,
}

/// An array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Array {
    /// Type of the elements.
    pub element: u32,
    /// How many there are; 0: unknown.
    pub length: u32,
}
