//! The key area: blocks 1 to 3 of a header, apart from block 0 so that
//! `lifeboat rekey` may give a dump to further recipients without rewriting it.
//!
//! It holds entries, each a binary age file (age-encryption.org/v1) and the
//! fingerprints of those who can open it. `rekey` appends an entry with a higher
//! generation and leaves those before as they are: whoever could open the dump
//! still can. This file refuses to look into the age files.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::header::KEY_AREA_LEN;
use crate::{FormatError, crc32, is_zero};

/// First bytes of a key area of version 1: one entry of kind [`KeyKind::Data`].
pub const MAGIC_V1: [u8; 8] = *b"LBKEYS\0\x01";
/// First bytes of a key area.
pub const MAGIC: [u8; 8] = *b"LBKEYS\0\x02";
/// Fingerprints that a key area can hold, over all entries.
pub const MAX_RECIPIENTS: usize = 32;
/// Most entries.
pub const MAX_ENTRIES: usize = 32;
/// Bytes for entries, their heads and padding included.
pub const ROOM: usize = KEY_AREA_LEN - FIXED - 4;
/// Largest wrapped key, in bytes, when it is alone and names all recipients.
pub const MAX_WRAPPED: usize = ROOM - ENTRY_HEAD - MAX_RECIPIENTS * 8 - 8;

const FIXED: usize = 32;
const FIXED_V1: usize = FIXED + MAX_RECIPIENTS * 8;
const ENTRY_HEAD: usize = 8;
const WHAT: &str = "key area";

/// What an entry's age file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum KeyKind {
    /// The 32-byte data key.
    Data = 1,
    /// An age identity line: the one-boot identity that opens an entry of kind `Data`.
    Identity = 2,
}

/// One entry, borrowed from its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyEntry<'a> {
    /// What is wrapped.
    pub kind: KeyKind,
    /// First 8 bytes of the SHA-256 of each recipient's text form.
    pub fingerprints: &'a [[u8; 8]],
    /// The age file.
    pub wrapped: &'a [u8],
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Raw {
    magic: [u8; 8],
    generation: U64,
    /// Version 1: recipients.
    entries: U32,
    /// Bytes of the entries. Version 1: bytes of the one age file.
    used: U32,
    reserved: U64,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawEntry {
    kind: u8,
    reserved: u8,
    count: U16,
    len: U32,
}

const _: () = assert!(size_of::<Raw>() == FIXED);
const _: () = assert!(size_of::<RawEntry>() == ENTRY_HEAD);

/// The key area, borrowed from its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyArea<'a> {
    /// Counts rewrites; 0 as captured.
    pub generation: u64,
    body: Body<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Body<'a> {
    One(KeyEntry<'a>),
    /// Checked entries, one behind the other.
    Many(&'a [u8]),
}

impl<'a> KeyArea<'a> {
    /// The entries, in the order in which they were added.
    pub fn entries(&self) -> impl Iterator<Item = KeyEntry<'a>> + use<'a> {
        let (one, mut rest) = match self.body {
            Body::One(entry) => (Some(entry), &[][..]),
            Body::Many(bytes) => (None, bytes),
        };
        // Checked by decode(): none is left out.
        one.into_iter().chain(core::iter::from_fn(move || {
            let (entry, behind) = split(rest).ok().flatten()?;
            rest = behind;
            Some(entry)
        }))
    }

    /// Fingerprints of all recipients, entry by entry.
    pub fn fingerprints(&self) -> impl Iterator<Item = [u8; 8]> + use<'a> {
        self.entries().flat_map(|e| e.fingerprints.iter().copied())
    }

    /// Writes a key area.
    ///
    /// # Errors
    /// [`FormatError::NoSpace`] with too many recipients or too long wrapped keys.
    pub fn encode(
        out: &mut [u8; KEY_AREA_LEN],
        generation: u64,
        entries: &[KeyEntry<'_>],
    ) -> Result<(), FormatError> {
        let full = FormatError::NoSpace { what: WHAT };
        let recipients: usize = entries.iter().map(|e| e.fingerprints.len()).sum();
        if recipients > MAX_RECIPIENTS || entries.len() > MAX_ENTRIES {
            return Err(full);
        }
        out.fill(0);
        let mut at = FIXED;
        for e in entries {
            let prints = e.fingerprints.as_flattened();
            let head = RawEntry {
                kind: e.kind as u8,
                reserved: 0,
                count: u16::try_from(e.fingerprints.len()).map_err(|_| full)?.into(),
                len: u32::try_from(e.wrapped.len()).map_err(|_| full)?.into(),
            };
            for part in [head.as_bytes(), prints, e.wrapped] {
                let end = at.checked_add(part.len()).filter(|end| *end <= FIXED + ROOM);
                let space = end.and_then(|end| out.get_mut(at..end)).ok_or(full)?;
                space.copy_from_slice(part);
                at += part.len();
            }
            at = at.next_multiple_of(8);
        }
        if at > FIXED + ROOM {
            return Err(full);
        }
        let raw = Raw {
            magic: MAGIC,
            generation: generation.into(),
            entries: u32::try_from(entries.len()).map_err(|_| full)?.into(),
            used: u32::try_from(at - FIXED).map_err(|_| full)?.into(),
            reserved: 0.into(),
        };
        raw.write_to_prefix(out).map_err(|_| full)?;
        if let Some((body, tail)) = out.split_last_chunk_mut::<4>() {
            *tail = crc32(body).to_le_bytes();
        }
        Ok(())
    }

    /// Reads and checks a key area of version 1 or 2.
    ///
    /// # Errors
    /// [`FormatError`], naming what is wrong.
    pub fn decode(bytes: &'a [u8; KEY_AREA_LEN]) -> Result<Self, FormatError> {
        let (raw, _) =
            Raw::read_from_prefix(bytes).map_err(|_| FormatError::Short { what: WHAT })?;
        if raw.magic != MAGIC && raw.magic != MAGIC_V1 {
            return Err(match raw.magic.split_last() {
                Some((v, name)) if MAGIC.starts_with(name) => {
                    FormatError::Version { what: WHAT, found: u32::from(*v) }
                }
                _ => FormatError::Magic { what: WHAT },
            });
        }
        let (body, tail) =
            bytes.split_last_chunk::<4>().ok_or(FormatError::Short { what: WHAT })?;
        if crc32(body) != u32::from_le_bytes(*tail) {
            return Err(FormatError::Checksum { what: WHAT });
        }
        if raw.reserved.get() != 0 {
            return Err(bad("reserved", raw.reserved.get()));
        }
        let body = if raw.magic == MAGIC_V1 { Self::v1(bytes, &raw)? } else { many(bytes, &raw)? };
        Ok(Self { generation: raw.generation.get(), body })
    }

    /// The entries of an area whose checksum fails, as far as they hold together, without
    /// a look at the counts: a rewrite that the power cut leaves every entry from before
    /// it in its place. Age authenticates each by itself. Nothing for version 1.
    pub fn salvage(bytes: &'a [u8; KEY_AREA_LEN]) -> impl Iterator<Item = KeyEntry<'a>> + use<'a> {
        let whole = bytes.get(FIXED..FIXED + ROOM).filter(|_| bytes.starts_with(&MAGIC));
        let mut rest = whole.unwrap_or_default();
        core::iter::from_fn(move || {
            let (entry, behind) = split(rest).ok().flatten()?;
            rest = behind;
            Some(entry)
        })
        .take(MAX_ENTRIES)
    }

    fn v1(bytes: &'a [u8; KEY_AREA_LEN], raw: &Raw) -> Result<Body<'a>, FormatError> {
        let count = raw.entries.get() as usize;
        let (prints, _) = bytes.get(FIXED..FIXED_V1).unwrap_or_default().as_chunks::<8>();
        let fingerprints =
            prints.get(..count).ok_or_else(|| bad("count", raw.entries.get().into()))?;
        let len = raw.used.get() as usize;
        let end = FIXED_V1.checked_add(len).filter(|end| *end <= KEY_AREA_LEN - 4);
        let wrapped = end
            .and_then(|end| bytes.get(FIXED_V1..end))
            .ok_or_else(|| bad("wrapped_len", raw.used.get().into()))?;
        let unused = prints.get(count..).unwrap_or_default().as_flattened();
        zero_to_crc(bytes, FIXED_V1 + len)?;
        if !is_zero(unused) {
            return Err(bad("reserved", 1));
        }
        Ok(Body::One(KeyEntry { kind: KeyKind::Data, fingerprints, wrapped }))
    }
}

fn bad(field: &'static str, value: u64) -> FormatError {
    FormatError::Field { what: WHAT, field, value }
}

/// Behind what is used, a key area is zero: nothing seals it.
fn zero_to_crc(bytes: &[u8; KEY_AREA_LEN], from: usize) -> Result<(), FormatError> {
    let unused = bytes.get(from..KEY_AREA_LEN - 4).unwrap_or_default();
    if is_zero(unused) { Ok(()) } else { Err(bad("reserved", 1)) }
}

/// Checks all entries.
fn many<'a>(bytes: &'a [u8; KEY_AREA_LEN], raw: &Raw) -> Result<Body<'a>, FormatError> {
    let used = raw.used.get() as usize;
    let all = FIXED
        .checked_add(used)
        .filter(|end| *end <= FIXED + ROOM)
        .and_then(|end| bytes.get(FIXED..end))
        .ok_or_else(|| bad("used", raw.used.get().into()))?;
    zero_to_crc(bytes, FIXED + used)?;
    let (mut rest, mut entries, mut recipients) = (all, 0u32, 0usize);
    while let Some((entry, behind)) = split(rest)? {
        entries = entries.saturating_add(1);
        recipients = recipients.saturating_add(entry.fingerprints.len());
        rest = behind;
    }
    if entries != raw.entries.get() || entries as usize > MAX_ENTRIES {
        return Err(bad("entries", raw.entries.get().into()));
    }
    if recipients > MAX_RECIPIENTS {
        return Err(bad("count", recipients as u64));
    }
    Ok(Body::Many(all))
}

/// The next entry and what lies behind it; `None` at the end.
fn split(bytes: &[u8]) -> Result<Option<(KeyEntry<'_>, &[u8])>, FormatError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (raw, rest) =
        RawEntry::read_from_prefix(bytes).map_err(|_| FormatError::Short { what: WHAT })?;
    let kind = match raw.kind {
        1 => KeyKind::Data,
        2 => KeyKind::Identity,
        other => return Err(bad("kind", other.into())),
    };
    if raw.reserved != 0 {
        return Err(bad("reserved", raw.reserved.into()));
    }
    let count = usize::from(raw.count.get());
    let (prints, rest) = rest
        .split_at_checked(count.saturating_mul(8))
        .ok_or_else(|| bad("count", raw.count.get().into()))?;
    let (fingerprints, _) = prints.as_chunks::<8>();
    let (wrapped, rest) = rest
        .split_at_checked(raw.len.get() as usize)
        .ok_or_else(|| bad("len", raw.len.get().into()))?;
    let pad = wrapped.len().next_multiple_of(8) - wrapped.len();
    let (padding, rest) =
        rest.split_at_checked(pad).ok_or_else(|| bad("len", raw.len.get().into()))?;
    if !is_zero(padding) {
        return Err(bad("padding", 1));
    }
    Ok(Some((KeyEntry { kind, fingerprints, wrapped }, rest)))
}
