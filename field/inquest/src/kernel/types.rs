//! Types of the dead kernel: its BTF, indexed by name, and that of each module on top.
//!
//! BTF of a module goes on where that of vmlinux ends: its first type has the number behind
//! vmlinux's last one, its first name the offset behind vmlinux's last one
//! (`Documentation/bpf/btf.rst`, "split BTF"; `btf_parse_module()`). So the two, put one
//! behind the other, are one BTF.

use std::sync::Arc;

use lifeboat_sources::btf::{Btf, BtfError, Kind, MAX_LEN, Type};
use lifeboat_sources::bytes::le32;
use lifeboat_sources::paging::{PagingError, ReadVirt};

use super::symbols::hash;

/// Bytes of `struct btf_header`, the first version.
const HEADER: usize = 24;
/// Subscripts of one member that are looked at.
const MAX_SUBSCRIPTS: usize = 4;

/// Most records of one name that are looked at; compilers leave a handful of some.
const MAX_SAME: usize = 64;

/// What lies where in a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// In bytes from the start of the record; of a bit field, the byte that its lowest bit
    /// is in.
    pub offset: u64,
    /// Bytes to read for it; 0 where it takes more than 8, or none at all.
    pub size: u8,
    /// Of a bit field: how far to shift to the right, and how many bits it has.
    pub bits: Option<(u8, u8)>,
    /// Bytes that it takes in all; 0 for a bit field, and where that is not known.
    pub bytes: u64,
    /// Elements where it is an array, else 1; 0 for a flexible array.
    pub length: u64,
    /// Whether it is a signed number.
    pub signed: bool,
}

/// Sections of one BTF.
#[derive(Debug, Clone)]
pub(super) struct Blob {
    pub(super) types: Arc<[u8]>,
    pub(super) names: Arc<[u8]>,
}

impl Blob {
    /// Takes BTF apart, of a kernel or a module.
    ///
    /// # Errors
    /// [`BtfError::Header`].
    pub(super) fn new(raw: &[u8]) -> Result<Self, BtfError> {
        let odd = |what, value: u64| BtfError::Header { what, value };
        let word = |at| le32(raw, at).ok_or(odd("length", raw.len() as u64));
        // Magic number, version 1 and no flags.
        let first = word(0)?;
        if first != 0x0001_eb9f {
            return Err(odd("magic", u64::from(first)));
        }
        let head = u64::from(word(4)?);
        let section = |what, offset: u32, size: u32| {
            let from = head + u64::from(offset);
            let range =
                usize::try_from(from).ok().zip(usize::try_from(from + u64::from(size)).ok());
            let bytes = range.and_then(|(from, to)| raw.get(from..to));
            bytes.map(Arc::from).ok_or(odd(what, u64::from(size)))
        };
        let types = section("length of types", word(8)?, word(12)?)?;
        let names = section("length of names", word(16)?, word(20)?)?;
        Ok(Self { types, names })
    }

    /// Whether a whole name is among the names; a quick look that opens nothing.
    pub(super) fn mentions(&self, name: &str) -> bool {
        self.offset_of(name).is_some()
    }

    /// Where a whole name lies among the names.
    pub(super) fn offset_of(&self, name: &str) -> Option<u32> {
        let mut at = 0;
        for known in self.names.split(|b| *b == 0) {
            if known == name.as_bytes() {
                return u32::try_from(at).ok();
            }
            at += known.len() + 1;
        }
        None
    }

    /// Whether a record, a typedef or an enumerator has the name at this offset, which may
    /// be one of vmlinux's names; a quick look along the types (`Documentation/bpf/btf.rst`).
    pub(super) fn declares(&self, offset: u32) -> bool {
        let mut at = 0;
        while let (Some(name), Some(info)) = (le32(&self.types, at), le32(&self.types, at + 4)) {
            let (kind, vlen) = (info >> 24 & 31, (info & 0xffff) as usize);
            let first = at + 12;
            // Bytes of a kind's tail: for each member, and in all.
            let (each, tail) = match kind {
                // Numbers, variables, tags of declarations; arrays.
                1 | 14 | 17 => (0, 4),
                3 => (0, 12),
                // Records; sections; enumerations of 64 bits; of 32; prototypes.
                4 | 5 | 15 | 19 => (12, 12 * vlen),
                6 | 13 => (8, 8 * vlen),
                _ => (0, 0),
            };
            let is_enum = matches!(kind, 6 | 19);
            let mut names = (0..if is_enum { vlen } else { 0 }).map(|n| first + n * each);
            if (matches!(kind, 4 | 5 | 8) && name == offset)
                || names.any(|at| le32(&self.types, at) == Some(offset))
            {
                return true;
            }
            at = first + tail;
        }
        false
    }
}

/// One or two blobs, put one behind the other.
#[derive(Debug)]
struct Spliced {
    parts: Vec<Arc<[u8]>>,
}

impl Spliced {
    fn new(blobs: &[&Blob]) -> Result<(Self, u64), BtfError> {
        let len = |pick: fn(&Blob) -> usize| {
            let all: usize = blobs.iter().map(|b| pick(b)).sum();
            let odd = BtfError::Header { what: "length", value: all as u64 };
            u32::try_from(all).ok().filter(|n| u64::from(*n) <= MAX_LEN).ok_or(odd)
        };
        let (types, names) = (len(|b| b.types.len())?, len(|b| b.names.len())?);
        let head = [0x0001_eb9f, 24, 0, types, types, names].map(u32::to_le_bytes).concat();
        let all = HEADER as u64 + u64::from(types) + u64::from(names);
        let mut parts = vec![Arc::from(head)];
        parts.extend(blobs.iter().map(|b| Arc::clone(&b.types)));
        parts.extend(blobs.iter().map(|b| Arc::clone(&b.names)));
        Ok((Self { parts }, all))
    }
}

impl ReadVirt for Spliced {
    fn read_virt(&mut self, addr: u64, buf: &mut [u8]) -> Result<(), PagingError> {
        let lost = PagingError::NotMapped { addr, level: 1 };
        let mut at = usize::try_from(addr).map_err(|_| lost)?;
        let mut rest = buf;
        for part in &self.parts {
            if rest.is_empty() {
                break;
            }
            let Some(here) = part.get(at..).filter(|here| !here.is_empty()) else {
                at = at.saturating_sub(part.len());
                continue;
            };
            let count = here.len().min(rest.len());
            let (now, later) = rest.split_at_mut(count);
            now.copy_from_slice(here.get(..count).ok_or(lost)?);
            (rest, at) = (later, 0);
        }
        if rest.is_empty() { Ok(()) } else { Err(lost) }
    }
}

/// What a name may stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Named {
    hash: u64,
    id: u32,
}

/// All types of one BTF, and of the one beneath it.
#[derive(Debug)]
pub(super) struct Types {
    btf: Btf<Spliced>,
    /// Structs, unions and typedefs, sorted.
    records: Vec<Named>,
    /// Enumerations.
    enums: Vec<u32>,
    /// Values of enumerators by the hash of the name, sorted; made when first asked for.
    values: Option<Vec<(u64, i64)>>,
}

/// Why there is no such member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Miss {
    Record,
    Field,
    Btf(BtfError),
}

impl From<BtfError> for Miss {
    fn from(source: BtfError) -> Self {
        Self::Btf(source)
    }
}

impl Types {
    /// Indexes the types of the last blob; the first one is that of vmlinux.
    ///
    /// # Errors
    /// [`BtfError`].
    pub(super) fn new(blobs: &[&Blob]) -> Result<Self, BtfError> {
        let (spliced, len) = Spliced::new(blobs)?;
        let names: Vec<Arc<[u8]>> = blobs.iter().map(|b| Arc::clone(&b.names)).collect();
        let beneath = blobs
            .split_last()
            .map_or(0, |(_, below)| below.iter().map(|b| b.types.len()).sum::<usize>() as u64);
        let mut btf = Btf::open(spliced, 0, len)?;
        let (mut records, mut enums) = (Vec::new(), Vec::new());
        btf.walk(|ty| {
            let own = ty.start() >= beneath;
            if own && (ty.kind.is_record() || ty.kind == Kind::Typedef) && ty.name != 0 {
                let name = name_at(&names, ty.name).unwrap_or_default();
                records.push(Named { hash: hash(name), id: ty.id });
            } else if own && ty.kind.is_enum() {
                enums.push(ty.id);
            }
        })?;
        records.sort_unstable();
        Ok(Self { btf, records, enums, values: None })
    }

    /// Structs and unions of a name; typedefs of it where there is neither.
    fn records(&mut self, name: &str) -> Result<Vec<Type>, BtfError> {
        let want = hash(name.as_bytes());
        let from = self.records.partition_point(|n| n.hash < want);
        let rest = self.records.get(from..).unwrap_or_default();
        let same = rest.iter().take_while(|n| n.hash == want).take(MAX_SAME);
        let ids: Vec<u32> = same.map(|n| n.id).collect();
        let (mut tagged, mut other) = (Vec::new(), Vec::new());
        for id in ids {
            let ty = self.btf.by_id(id)?;
            if ty.kind.is_record() {
                tagged.push(ty);
            } else if let Some(bare) = self.btf.bare(id)? {
                other.push(bare);
            }
        }
        Ok(if tagged.is_empty() { other } else { tagged })
    }

    /// Bytes of a record.
    pub(super) fn size(&mut self, name: &str) -> Result<u64, Miss> {
        let mut sizes = Vec::new();
        for ty in self.records(name)? {
            sizes.extend(self.btf.size(ty.id)?);
        }
        sizes.dedup();
        match sizes.as_slice() {
            [one] => Ok(*one),
            [] => Err(Miss::Record),
            _ => Err(Miss::Field),
        }
    }

    /// Where a member lies. Of several records of the name, those that have it must agree.
    pub(super) fn field(&mut self, record: &str, path: &str) -> Result<Field, Miss> {
        let all = self.records(record)?;
        if all.is_empty() {
            return Err(Miss::Record);
        }
        let mut found: Option<Field> = None;
        for ty in all {
            let Some(field) = self.resolve(ty, path)? else { continue };
            if found.is_some_and(|f| f != field) {
                return Err(Miss::Field);
            }
            found = Some(field);
        }
        found.ok_or(Miss::Field)
    }

    /// Follows a path such as `a.b[3].c`; `None` where it leads nowhere.
    fn resolve(&mut self, record: Type, path: &str) -> Result<Option<Field>, BtfError> {
        let mut now = Some(record);
        let (mut bit, mut bits, mut ty) = (0u64, 0u32, record.id);
        for segment in path.split('.') {
            let Some(inside) = now.filter(|t| t.kind.is_record()) else { return Ok(None) };
            let Some((name, subscripts)) = segment_of(segment) else { return Ok(None) };
            let Some(place) = self.btf.member(inside.id, name)? else { return Ok(None) };
            // Records are of 32 bits; but not what arrays of arrays of them add up to.
            bit = bit.checked_add(u64::from(place.bit)).ok_or(BtfError::Type { id: ty })?;
            (bits, ty) = (place.bits, place.ty);
            for subscript in subscripts {
                let Some(more) = self.element(&mut ty, subscript)? else { return Ok(None) };
                bit = bit.checked_add(more).ok_or(BtfError::Type { id: ty })?;
            }
            now = self.btf.bare(ty)?;
        }
        self.place(bit, bits, ty).map(Some)
    }

    /// Bits to element number `n` of array `ty`, which then is the element's type.
    fn element(&mut self, ty: &mut u32, n: u32) -> Result<Option<u64>, BtfError> {
        let Some(bare) = self.btf.bare(*ty)? else { return Ok(None) };
        let Some(array) = self.btf.array(&bare)? else { return Ok(None) };
        if array.length != 0 && n >= array.length {
            return Ok(None);
        }
        let Some(size) = self.btf.size(array.element)? else { return Ok(None) };
        *ty = array.element;
        let bits = size.checked_mul(u64::from(n)).and_then(|b| b.checked_mul(8));
        bits.map(Some).ok_or(BtfError::Type { id: *ty })
    }

    fn place(&mut self, bit: u64, bits: u32, ty: u32) -> Result<Field, BtfError> {
        let offset = bit / 8;
        if bits > 0 {
            let shift = u8::try_from(bit % 8).unwrap_or(0);
            let width = u8::try_from(bits).ok().filter(|w| *w <= 64);
            let width = width.ok_or(BtfError::Type { id: ty })?;
            let size = (shift + width).div_ceil(8);
            let signed = self.signed(ty)?;
            let size = if size > 8 { 0 } else { size };
            let bits = Some((shift, width));
            return Ok(Field { offset, size, bits, bytes: 0, length: 1, signed });
        }
        let bytes = self.btf.size(ty)?.unwrap_or(0);
        let bare = self.btf.bare(ty)?;
        let array = match bare {
            Some(bare) => self.btf.array(&bare)?,
            None => None,
        };
        let length = array.map_or(1, |a| u64::from(a.length));
        let size = u8::try_from(bytes).ok().filter(|b| *b <= 8).unwrap_or(0);
        Ok(Field { offset, size, bits: None, bytes, length, signed: self.signed(ty)? })
    }

    fn signed(&mut self, ty: u32) -> Result<bool, BtfError> {
        let Some(bare) = self.btf.bare(ty)? else { return Ok(false) };
        match bare.kind {
            Kind::Int => self.btf.is_signed(&bare),
            Kind::Enum | Kind::Enum64 => Ok(bare.flag),
            _ => Ok(false),
        }
    }

    /// The value of an enumerator, whatever enumeration it is of; those of the name must
    /// agree.
    pub(super) fn enumerator(&mut self, name: &str) -> Result<Option<i64>, BtfError> {
        if self.values.is_none() {
            self.values = Some(self.enumerators()?);
        }
        let values = self.values.as_deref().unwrap_or_default();
        let want = hash(name.as_bytes());
        let from = values.partition_point(|(hash, _)| *hash < want);
        let mut all = values.get(from..).unwrap_or_default().iter();
        let first = all.next().filter(|(hash, _)| *hash == want).map(|(_, value)| *value);
        let second = all.next().is_some_and(|(hash, _)| *hash == want);
        Ok(first.filter(|_| !second))
    }

    fn enumerators(&mut self) -> Result<Vec<(u64, i64)>, BtfError> {
        let mut values = Vec::new();
        for id in std::mem::take(&mut self.enums) {
            let ty = self.btf.by_id(id)?;
            for n in 0..ty.vlen {
                let one = self.btf.enumerator_at(&ty, n)?;
                let hash = hash(self.btf.name(one.name)?.as_bytes());
                values.push((hash, one.value));
            }
        }
        values.sort_unstable();
        values.dedup();
        Ok(values)
    }
}

/// The name at an offset, over all blobs.
fn name_at(names: &[Arc<[u8]>], offset: u32) -> Option<&[u8]> {
    let mut at = usize::try_from(offset).ok()?;
    for part in names {
        if let Some(rest) = part.get(at..).filter(|rest| !rest.is_empty()) {
            return rest.split(|b| *b == 0).next();
        }
        at -= part.len();
    }
    None
}

/// `name[1][2]` → the name and its subscripts.
fn segment_of(segment: &str) -> Option<(&str, Vec<u32>)> {
    let (name, rest) = match segment.find('[') {
        Some(at) => segment.split_at_checked(at)?,
        None => (segment, ""),
    };
    let mut subscripts = Vec::new();
    for part in rest.split_terminator(']') {
        subscripts.push(part.strip_prefix('[')?.parse().ok()?);
    }
    (!name.is_empty() && subscripts.len() <= MAX_SUBSCRIPTS).then_some((name, subscripts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_apart() {
        assert_eq!(segment_of("a"), Some(("a", vec![])));
        assert_eq!(segment_of("a[3][14]"), Some(("a", vec![3, 14])));
        for bad in ["", "[1]", "a[", "a[]", "a[x]", "a[1]b", "a[1][1][1][1][1]", "a[4294967296]"] {
            assert_eq!(segment_of(bad), None, "{bad}");
        }
    }
}
