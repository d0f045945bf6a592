//! Index chunks: which chunk lies where. A chain from the last to the first, so
//! that a capturer keeps the entries of one index chunk in memory and no more.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::chunk::{INDEX_ENTRY_LEN, INDEX_HEAD_LEN, MAX_INDEX_ENTRIES, PFN_END};
use crate::{ByteOff, CHUNK_ALIGN, ChunkHeader, ChunkKind, FormatError, Layer, Pfn};

/// The start of an index chunk's payload; [`IndexEntry`]s follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexHead {
    /// Offset in the dump of the index chunk before this one; 0 for the first.
    pub prev: ByteOff,
    /// Sequence number of the first chunk listed.
    pub first_seq: u64,
    /// Number of entries.
    pub count: u32,
}

impl IndexHead {
    /// On disk.
    #[must_use]
    pub fn encode(&self) -> [u8; INDEX_HEAD_LEN] {
        let raw = RawIndexHead {
            prev: self.prev.0.into(),
            first_seq: self.first_seq.into(),
            count: self.count.into(),
            reserved: 0.into(),
        };
        let mut out = [0u8; INDEX_HEAD_LEN];
        let _ = raw.write_to(&mut out);
        out
    }

    /// Reads the head and gives the entries' bytes.
    ///
    /// # Errors
    /// [`FormatError`] when the count does not match the bytes.
    pub fn decode(payload: &[u8]) -> Result<(Self, &[[u8; INDEX_ENTRY_LEN]]), FormatError> {
        const INDEX: &str = "index chunk";
        let (raw, rest) = RawIndexHead::read_from_prefix(payload)
            .map_err(|_| FormatError::Short { what: INDEX })?;
        let (entries, left) = rest.as_chunks::<INDEX_ENTRY_LEN>();
        let count = raw.count.get();
        if raw.reserved.get() != 0 {
            let value = raw.reserved.get().into();
            return Err(FormatError::Field { what: INDEX, field: "reserved", value });
        }
        if !left.is_empty() || count as usize != entries.len() || entries.len() > MAX_INDEX_ENTRIES
        {
            return Err(FormatError::Field { what: INDEX, field: "count", value: count.into() });
        }
        let head = Self { prev: ByteOff(raw.prev.get()), first_seq: raw.first_seq.get(), count };
        Ok((head, entries))
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawIndexHead {
    prev: U64,
    first_seq: U64,
    count: U32,
    reserved: U32,
}

/// Where a chunk lies and what it covers. Index chunks are not listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexEntry {
    /// Offset of the chunk in the dump, in bytes.
    pub offset: ByteOff,
    /// First page (or byte).
    pub first: Pfn,
    /// Pages (or bytes).
    pub pages: u64,
    /// Stored payload bytes.
    pub stored_len: u32,
    /// What it carries.
    pub kind: ChunkKind,
    /// Swap device.
    pub device: u16,
    /// Layer of memory.
    pub layer: Layer,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawEntry {
    offset: U64,
    first: U64,
    pages: U64,
    stored_len: U32,
    kind: u8,
    layer: u8,
    device: U16,
}

impl IndexEntry {
    /// The entry of a chunk.
    #[must_use]
    pub fn of(header: &ChunkHeader) -> Self {
        Self {
            offset: header.offset,
            first: header.first,
            pages: header.pages,
            stored_len: header.stored_len,
            kind: header.kind,
            device: header.device,
            layer: header.layer,
        }
    }

    /// On disk.
    #[must_use]
    pub fn encode(&self) -> [u8; INDEX_ENTRY_LEN] {
        let raw = RawEntry {
            offset: self.offset.0.into(),
            first: self.first.0.into(),
            pages: self.pages.into(),
            stored_len: self.stored_len.into(),
            kind: self.kind as u8,
            layer: self.layer as u8,
            device: self.device.into(),
        };
        let mut out = [0u8; INDEX_ENTRY_LEN];
        let _ = raw.write_to(&mut out);
        out
    }

    /// Reads an entry.
    ///
    /// # Errors
    /// [`FormatError::Field`] for an unknown kind or a place that cannot be.
    pub fn decode(bytes: &[u8; INDEX_ENTRY_LEN]) -> Result<Self, FormatError> {
        const ENTRY: &str = "index entry";
        let raw =
            RawEntry::read_from_bytes(bytes).map_err(|_| FormatError::Short { what: ENTRY })?;
        let bad = |field, value: u64| FormatError::Field { what: ENTRY, field, value };
        let kind = ChunkKind::from_u8(raw.kind).ok_or_else(|| bad("kind", u64::from(raw.kind)))?;
        if !raw.offset.get().is_multiple_of(CHUNK_ALIGN as u64) {
            return Err(bad("offset", raw.offset.get()));
        }
        if raw.first.get().checked_add(raw.pages.get()).is_none_or(|end| end > PFN_END) {
            return Err(bad("pages", raw.pages.get()));
        }
        Ok(Self {
            offset: ByteOff(raw.offset.get()),
            first: Pfn(raw.first.get()),
            pages: raw.pages.get(),
            stored_len: raw.stored_len.get(),
            kind,
            device: raw.device.get(),
            layer: Layer::of_kind(raw.layer, kind)
                .ok_or_else(|| bad("layer", u64::from(raw.layer)))?,
        })
    }
}

const _: () = assert!(size_of::<RawEntry>() == INDEX_ENTRY_LEN);
const _: () = assert!(size_of::<RawIndexHead>() == INDEX_HEAD_LEN);
