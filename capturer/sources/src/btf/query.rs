//! Questions to the types: which type has a name, where a member lies, what a value is.

use crate::bytes::{le32, le64};
use crate::paging::ReadVirt;
use crate::window::WINDOW;

use super::types::{Array, Enumerator, Kind, Member, Type};
use super::{Btf, BtfError, MAX_NAME};

/// Anonymous records within each other that are looked into.
const MAX_DEPTH: u32 = 16;
/// Members that one question may look at; the largest struct of a kernel has some 300.
const MAX_MEMBERS: u32 = 1 << 14;
/// Aliases of aliases that are followed.
const MAX_ALIASES: u32 = 16;
/// Most bytes of a member or an enumerator.
const ENTRY: usize = 12;

/// Types of a name and kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hits {
    /// The first one's number, 0 for none.
    pub first: u32,
    /// How many there are.
    pub count: u32,
}

impl Hits {
    /// The type, where there is exactly one.
    #[must_use]
    pub fn only(self) -> Option<u32> {
        (self.count == 1).then_some(self.first)
    }
}

/// Where a member lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// In bits from the start of the struct that was asked about.
    pub bit: u32,
    /// How many bits it has as a bit field; 0 for any other.
    pub bits: u32,
    /// Its type.
    pub ty: u32,
}

impl Place {
    /// In bytes; `None` for a bit field.
    #[must_use]
    pub fn byte(self) -> Option<u64> {
        (self.bits == 0 && self.bit.is_multiple_of(8)).then_some(u64::from(self.bit / 8))
    }
}

/// A record that is searched, and how far that may go.
struct Search<'n> {
    name: &'n str,
    left: u32,
}

impl<R: ReadVirt> Btf<R> {
    /// The types of these names and kinds; [`Kind::Enum`] stands for both sizes.
    /// A name that the writer merged into the end of a longer one is not found.
    ///
    /// # Errors
    /// [`BtfError`].
    pub fn find(&mut self, wanted: &[(Kind, &str)]) -> Result<Vec<Hits>, BtfError> {
        let names: Vec<&str> = wanted.iter().map(|(_, name)| *name).collect();
        let offsets = self.name_offsets(&names)?;
        let mut hits = vec![Hits::default(); wanted.len()];
        self.walk(|ty| {
            let same = |kind| kind == ty.kind || (kind == Kind::Enum && ty.kind.is_enum());
            let all = wanted.iter().zip(&offsets).zip(&mut hits);
            for (((kind, _), offset), hit) in all.filter(|_| ty.name != 0) {
                if *offset == Some(ty.name) && same(*kind) {
                    hit.first = if hit.count == 0 { ty.id } else { hit.first };
                    hit.count += 1;
                }
            }
        })?;
        Ok(hits)
    }

    /// Where these names lie, by one walk over all names.
    fn name_offsets(&mut self, wanted: &[&str]) -> Result<Vec<Option<u32>>, BtfError> {
        let mut found = vec![None; wanted.len()];
        let (start, end) = (self.names.start, self.names.end);
        let mut at = start;
        while at < end {
            let left = usize::try_from(end - at).unwrap_or(usize::MAX);
            let count = left.min(WINDOW);
            let (window, reader) = (&mut self.name_window, &mut self.reader);
            let offset = u32::try_from(at - start).unwrap_or(u32::MAX);
            let bytes = window.get(reader, at, count, end)?;
            let bytes = bytes.ok_or(BtfError::Name { offset })?;
            let mut place = offset;
            // The piece behind the last NUL goes on in the next window.
            let whole = bytes.iter().rposition(|b| *b == 0).map_or(0, |last| last + 1);
            let (whole, _) = bytes.split_at_checked(whole).unwrap_or_default();
            for name in whole.split(|b| *b == 0) {
                for (want, slot) in wanted.iter().zip(&mut found) {
                    if want.as_bytes() == name && slot.is_none() {
                        *slot = Some(place);
                    }
                }
                // At most MAX_LEN in all.
                place = place.wrapping_add(u32::try_from(name.len() + 1).unwrap_or_default());
            }
            // A name longer than a window is nobody's: go on behind this piece of it.
            at += if whole.is_empty() { count as u64 } else { whole.len() as u64 };
        }
        Ok(found)
    }

    /// Whether the name at `offset` is `want`.
    fn is_name(&mut self, offset: u32, want: &str) -> Result<bool, BtfError> {
        let count = want.len() + 1;
        let at = self.names.start.saturating_add(u64::from(offset));
        if offset == 0 || want.len() > MAX_NAME {
            return Ok(false);
        }
        let (window, reader) = (&mut self.name_window, &mut self.reader);
        let bytes = window.get(reader, at, count, self.names.end)?;
        Ok(bytes.is_some_and(|b| b.strip_suffix(b"\0") == Some(want.as_bytes())))
    }

    /// Member number `n` of a struct or union.
    ///
    /// # Errors
    /// [`BtfError::NoType`] where it has no such member, and others.
    pub fn member_at(&mut self, ty: &Type, n: u32) -> Result<Member, BtfError> {
        if !ty.kind.is_record() || n >= ty.vlen {
            return Err(BtfError::NoType { id: ty.id });
        }
        let raw = self.type_bytes(ty.id, ty.body() + u64::from(n) * ENTRY as u64, ENTRY)?;
        let words = le32(raw, 0).zip(le32(raw, 4)).zip(le32(raw, 8));
        let ((name, of), place) = words.ok_or(BtfError::Type { id: ty.id })?;
        let (bit, bits) = if ty.flag { (place & 0x00ff_ffff, place >> 24) } else { (place, 0) };
        Ok(Member { name, ty: of, bit, bits })
    }

    /// Enumerator number `n`.
    ///
    /// # Errors
    /// [`BtfError::NoType`] where there is none, and others.
    pub fn enumerator_at(&mut self, ty: &Type, n: u32) -> Result<Enumerator, BtfError> {
        let none = BtfError::NoType { id: ty.id };
        let len = match ty.kind {
            Kind::Enum => 8u32,
            Kind::Enum64 => 12,
            _ => return Err(none),
        };
        if n >= ty.vlen {
            return Err(none);
        }
        let at = ty.body() + u64::from(n) * u64::from(len);
        let raw = self.type_bytes(ty.id, at, usize::try_from(len).unwrap_or(ENTRY))?;
        let name = le32(raw, 0);
        let value = match (le64(raw, 4), le32(raw, 4)) {
            (Some(wide), _) => Some(wide.cast_signed()),
            (None, Some(low)) if ty.flag => Some(i64::from(low.cast_signed())),
            (None, low) => low.map(i64::from),
        };
        let (name, value) = name.zip(value).ok_or(BtfError::Type { id: ty.id })?;
        Ok(Enumerator { name, value })
    }

    /// What an array is made of; `None` for any other type.
    ///
    /// # Errors
    /// [`BtfError`].
    pub fn array(&mut self, ty: &Type) -> Result<Option<Array>, BtfError> {
        if ty.kind != Kind::Array {
            return Ok(None);
        }
        let raw = self.type_bytes(ty.id, ty.body(), 12)?;
        let both = le32(raw, 0).zip(le32(raw, 8));
        let (element, length) = both.ok_or(BtfError::Type { id: ty.id })?;
        Ok(Some(Array { element, length }))
    }

    /// Whether an integer is a signed one (`BTF_INT_SIGNED`); false for any other type.
    ///
    /// # Errors
    /// [`BtfError`].
    pub fn is_signed(&mut self, ty: &Type) -> Result<bool, BtfError> {
        if ty.kind != Kind::Int {
            return Ok(false);
        }
        let raw = self.type_bytes(ty.id, ty.body(), 4)?;
        let word = le32(raw, 0).ok_or(BtfError::Type { id: ty.id })?;
        Ok(word & 1 << 24 != 0)
    }

    /// The type itself, without names, `const` and tags. `None` for `void`.
    ///
    /// # Errors
    /// [`BtfError::Endless`] where aliases lead in a circle, and others.
    pub fn bare(&mut self, id: u32) -> Result<Option<Type>, BtfError> {
        let mut now = id;
        for _ in 0..MAX_ALIASES {
            if now == 0 {
                return Ok(None);
            }
            let ty = self.by_id(now)?;
            if !ty.kind.is_alias() {
                return Ok(Some(ty));
            }
            now = ty.size_or_type;
        }
        Err(BtfError::Endless { id })
    }

    /// Bytes that a value of this type takes; `None` for `void`, functions and what is
    /// named only.
    ///
    /// # Errors
    /// [`BtfError`].
    pub fn size(&mut self, id: u32) -> Result<Option<u64>, BtfError> {
        let mut times = 1u64;
        let mut now = id;
        for _ in 0..MAX_ALIASES {
            let Some(ty) = self.bare(now)? else { return Ok(None) };
            let one = match ty.kind {
                Kind::Ptr => 8,
                Kind::Array => {
                    let array = self.array(&ty)?.ok_or(BtfError::Type { id: ty.id })?;
                    let all = times.checked_mul(u64::from(array.length));
                    times = all.ok_or(BtfError::Type { id: ty.id })?;
                    now = array.element;
                    continue;
                }
                Kind::Struct
                | Kind::Union
                | Kind::Int
                | Kind::Enum
                | Kind::Enum64
                | Kind::Float
                | Kind::Datasec => u64::from(ty.size_or_type),
                _ => return Ok(None),
            };
            return one.checked_mul(times).map(Some).ok_or(BtfError::Type { id: ty.id });
        }
        Err(BtfError::Endless { id })
    }

    /// Where a member of struct or union `id` lies; one of an anonymous record within
    /// counts as its own. `None` where it has no such member.
    ///
    /// # Errors
    /// [`BtfError`].
    pub fn member(&mut self, id: u32, name: &str) -> Result<Option<Place>, BtfError> {
        let mut search = Search { name, left: MAX_MEMBERS };
        self.search(id, &mut search, 0, MAX_DEPTH)
    }

    fn search(
        &mut self,
        id: u32,
        search: &mut Search<'_>,
        base: u32,
        depth: u32,
    ) -> Result<Option<Place>, BtfError> {
        let endless = BtfError::Endless { id };
        let depth = depth.checked_sub(1).ok_or(endless)?;
        let ty = self.by_id(id)?;
        for n in 0..ty.vlen {
            search.left = search.left.checked_sub(1).ok_or(endless)?;
            let member = self.member_at(&ty, n)?;
            let bit = base.checked_add(member.bit).ok_or(BtfError::Type { id })?;
            if self.is_name(member.name, search.name)? {
                return Ok(Some(Place { bit, bits: member.bits, ty: member.ty }));
            }
            if member.name != 0 {
                continue;
            }
            let inner = self.bare(member.ty)?.filter(|t| t.kind.is_record());
            if let Some(inner) = inner
                && let Some(found) = self.search(inner.id, search, bit, depth)?
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The value of an enumerator of enumeration `id`; `None` where there is none.
    ///
    /// # Errors
    /// [`BtfError`].
    pub fn enumerator(&mut self, id: u32, name: &str) -> Result<Option<i64>, BtfError> {
        let ty = self.by_id(id)?;
        for n in 0..ty.vlen {
            let one = self.enumerator_at(&ty, n)?;
            if self.is_name(one.name, name)? {
                return Ok(Some(one.value));
            }
        }
        Ok(None)
    }
}
