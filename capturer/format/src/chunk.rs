//! Chunks: the self-describing frames that a dump is made of.
//!
//! ```text
//! offset 0           96                  96 + stored_len        multiple of 512
//! | chunk header     | sealed payload    | zero padding         |
//! ```
//! The header's first 80 bytes are the additional authenticated data of the
//! seal: kind, place, sequence number and lengths cannot be changed without
//! the key. A reader that knows nothing but the dump's identity finds chunks
//! by scanning at every multiple of 512.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{ByteOff, CHUNK_ALIGN, Cipher, FormatError, Id, PAGE, Pfn, crc32, round_up};

/// First bytes of a chunk.
pub const MAGIC: [u8; 8] = *b"LBCHUNK\x01";
/// Bytes of a chunk header.
pub const HEADER_LEN: usize = 96;
/// Bytes of the header that the seal authenticates.
pub const AAD_LEN: usize = 80;
/// Most data pages in a chunk (4 MiB).
pub const MAX_CHUNK_PAGES: u32 = 1024;
/// Most entries of a page chunk's run table.
pub const MAX_RUNS: usize = 4096;
/// Largest payload before compression, in bytes.
pub const MAX_RAW: usize = MAX_CHUNK_PAGES as usize * PAGE + 4 + MAX_RUNS * RUN_LEN;
/// Largest payload as stored: compression may add a little to what it cannot shrink.
pub const MAX_STORED: usize = MAX_RAW + MAX_RAW / 128 + 1024;
/// Bytes of an entry of the run table.
pub const RUN_LEN: usize = 8;
/// Bytes of an index entry.
pub const INDEX_ENTRY_LEN: usize = 32;
/// Bytes before the entries of an index chunk.
pub const INDEX_HEAD_LEN: usize = 24;
/// Most entries in an index chunk.
pub const MAX_INDEX_ENTRIES: usize = 4096;

const WHAT: &str = "chunk";

/// What a chunk carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ChunkKind {
    /// The dead kernel's log as text. `first` = byte offset, `pages` = bytes.
    Log = 1,
    /// PT_NOTE contents, verbatim. `first` = byte offset, `pages` = bytes.
    Notes = 2,
    /// Tables of the dump itself, see [`crate::meta`]. `first` = byte offset, `pages` = bytes.
    Meta = 3,
    /// Physical memory. `first` = pfn, `pages` = pages covered.
    Memory = 4,
    /// A swap device. `first` = page on the device, `pages` = pages covered.
    Swap = 5,
    /// What the capturer did, as text lines. `first` = byte offset, `pages` = bytes.
    Trailer = 6,
    /// Index entries. `first` = sequence number of the first chunk listed, `pages` = entries.
    Index = 7,
}

impl ChunkKind {
    pub(crate) fn from_u8(v: u8) -> Option<Self> {
        Some(match v {
            1 => Self::Log,
            2 => Self::Notes,
            3 => Self::Meta,
            4 => Self::Memory,
            5 => Self::Swap,
            6 => Self::Trailer,
            7 => Self::Index,
            _ => return None,
        })
    }

    /// Whether the payload is a run table and pages.
    #[must_use]
    pub fn is_pages(self) -> bool {
        matches!(self, Self::Memory | Self::Swap)
    }

    /// Name for messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Notes => "notes",
            Self::Meta => "meta",
            Self::Memory => "memory",
            Self::Swap => "swap",
            Self::Trailer => "trailer",
            Self::Index => "index",
        }
    }
}

/// Which part of memory a memory chunk belongs to. Memory is captured layer by
/// layer, the most valuable first, so that a full partition or a deadline costs the
/// least. Chunks of one layer are disjoint; those of different layers may cover the
/// same pages, and [`PageClass::Elsewhere`] says which pages are not theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum Layer {
    /// All pages in order of address: the dead kernel's structures were not used.
    #[default]
    Address = 0,
    /// Pages of the kernel, and all that no other layer claims.
    Kernel = 1,
    /// Anonymous and shared memory of processes.
    User = 2,
    /// Page cache.
    Cache = 3,
    /// Free pages.
    Free = 4,
}

impl Layer {
    /// The layers by worth, without [`Layer::Address`].
    pub const BY_WORTH: [Self; 4] = [Self::Kernel, Self::User, Self::Cache, Self::Free];

    /// Reads a layer's number; swap and texts have layer 0 only.
    pub(crate) fn of_kind(v: u8, kind: ChunkKind) -> Option<Self> {
        match v {
            0 => Some(Self::Address),
            _ if kind != ChunkKind::Memory => None,
            1 => Some(Self::Kernel),
            2 => Some(Self::User),
            3 => Some(Self::Cache),
            4 => Some(Self::Free),
            _ => None,
        }
    }

    /// Name for messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Address => "all",
            Self::Kernel => "kernel",
            Self::User => "user",
            Self::Cache => "cache",
            Self::Free => "free",
        }
    }
}

/// How a payload is compressed before it is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    /// As it is.
    Store = 0,
    /// One zstd frame.
    Zstd = 1,
    /// One LZ4 block (no frame).
    Lz4 = 2,
}

/// What a run of pages is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PageClass {
    /// Contents follow the run table.
    Data,
    /// All zero, read as such from the machine.
    Zero,
    /// Could not be read; never shown as zeros.
    Unreadable,
    /// Left out: of a kind that was to be, or marked faulty by the dead kernel.
    Excluded,
    /// Of another layer: a chunk of that layer holds it, or it was not reached.
    Elsewhere,
    /// One 8-byte word (little-endian), over and over. Since version 3.
    Fill(u64),
    /// The same contents as the memory page here, which is [`PageClass::Data`] in some
    /// memory chunk; the next page of the run equals the one behind it. Since version 3.
    Same(Pfn),
}

impl PageClass {
    /// The class's number on disk.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Data => 0,
            Self::Zero => 1,
            Self::Unreadable => 2,
            Self::Excluded => 3,
            Self::Elsewhere => 4,
            Self::Fill(_) => 5,
            Self::Same(_) => 6,
        }
    }

    /// The word behind the run, in the classes that have one.
    #[must_use]
    pub const fn word(self) -> Option<u64> {
        match self {
            Self::Fill(word) => Some(word),
            Self::Same(source) => Some(source.0),
            _ => None,
        }
    }

    /// What the page `pages` behind a page of this class is in the same run.
    #[must_use]
    pub const fn ahead(self, pages: u64) -> Self {
        match self {
            Self::Same(source) => Self::Same(Pfn(source.0.saturating_add(pages))),
            other => other,
        }
    }

    /// 8-byte entries of the run table that a run of this class takes.
    #[must_use]
    pub const fn entries(self) -> usize {
        if self.word().is_some() { 2 } else { 1 }
    }
}

/// Consecutive pages of one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Class of all of them.
    pub class: PageClass,
    /// How many; 1 to 2^56 - 1.
    pub count: u64,
}

const COUNT_MASK: u64 = (1 << 56) - 1;

/// Page numbers end here: every reader shifts them into bytes.
pub(crate) const PFN_END: u64 = 1 << 52;

impl Run {
    /// The run's entry: class in the top byte, count in the other 56 bits. A class with
    /// a [`PageClass::word`] has that as a second entry behind it.
    #[must_use]
    pub fn encode(self) -> [u8; RUN_LEN] {
        ((u64::from(self.class.number()) << 56) | (self.count & COUNT_MASK)).to_le_bytes()
    }

    /// Reads a run at the start of `entries`; gives it and the entries behind it.
    ///
    /// # Errors
    /// [`FormatError::Field`] for an unknown class, a count of zero, a fill of zeros
    /// (which is [`PageClass::Zero`]), or a source outside of all memory;
    /// [`FormatError::Short`] where the table ends too early.
    pub fn decode(entries: &[[u8; RUN_LEN]]) -> Result<(Self, &[[u8; RUN_LEN]]), FormatError> {
        const WHAT: &str = "page run";
        let short = FormatError::Short { what: WHAT };
        let (first, rest) = entries.split_first().ok_or(short)?;
        let v = u64::from_le_bytes(*first);
        let count = v & COUNT_MASK;
        let bad = |field, value| FormatError::Field { what: WHAT, field, value };
        if count == 0 {
            return Err(bad("count", v));
        }
        let class = match v >> 56 {
            0 => PageClass::Data,
            1 => PageClass::Zero,
            2 => PageClass::Unreadable,
            3 => PageClass::Excluded,
            4 => PageClass::Elsewhere,
            number @ (5 | 6) => {
                let (word, rest) = rest.split_first().ok_or(short)?;
                let word = u64::from_le_bytes(*word);
                let class = if number == 5 {
                    Some(PageClass::Fill(word)).filter(|_| word != 0)
                } else {
                    let end = word.checked_add(count).filter(|end| *end <= PFN_END);
                    end.map(|_| PageClass::Same(Pfn(word)))
                };
                let class = class.ok_or_else(|| bad("word", word))?;
                return Ok((Self { class, count }, rest));
            }
            _ => return Err(bad("class", v)),
        };
        Ok((Self { class, count }, rest))
    }
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Raw {
    magic: [u8; 8],
    dump_id: Id,
    seq: U64,
    kind: u8,
    codec: u8,
    cipher: u8,
    layer: u8,
    device: U16,
    reserved: U16,
    first: U64,
    pages: U64,
    raw_len: U32,
    stored_len: U32,
    offset: U64,
    data_pages: U32,
    missing_pages: U32,
    payload_crc: U32,
    reserved2: U64Bytes,
    header_crc: U32,
}

type U64Bytes = [u8; 8];

const _: () = assert!(size_of::<Raw>() == HEADER_LEN);
const _: () = assert!(core::mem::offset_of!(Raw, payload_crc) == AAD_LEN);

/// The header of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkHeader {
    /// The dump that it belongs to.
    pub dump_id: Id,
    /// Place in the order of writing, from 0, without gaps; also the nonce.
    pub seq: u64,
    /// What it carries.
    pub kind: ChunkKind,
    /// How the payload is compressed.
    pub codec: Codec,
    /// How the payload is sealed.
    pub cipher: Cipher,
    /// Which swap device; 0 for everything else.
    pub device: u16,
    /// Which layer of memory; [`Layer::Address`] for everything else.
    pub layer: Layer,
    /// First page (or byte, see [`ChunkKind`]) covered.
    pub first: Pfn,
    /// Pages (or bytes) covered.
    pub pages: u64,
    /// Payload bytes before compression.
    pub raw_len: u32,
    /// Payload bytes as stored, tag included.
    pub stored_len: u32,
    /// Where the chunk starts, in bytes from the dump's start.
    pub offset: ByteOff,
    /// Pages whose contents are in the payload.
    pub data_pages: u32,
    /// Pages that could not be read.
    pub missing_pages: u32,
    /// CRC-32 of the stored payload.
    pub payload_crc: u32,
}

impl ChunkHeader {
    /// Bytes of the whole frame, padding included.
    #[must_use]
    pub fn frame_len(&self) -> u64 {
        frame_len(self.stored_len)
    }

    /// The 96 bytes to write. [`AAD_LEN`] of them are what the seal authenticates.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let raw = Raw {
            magic: MAGIC,
            dump_id: self.dump_id,
            seq: self.seq.into(),
            kind: self.kind as u8,
            codec: self.codec as u8,
            cipher: self.cipher as u8,
            layer: self.layer as u8,
            device: self.device.into(),
            reserved: 0.into(),
            first: self.first.0.into(),
            pages: self.pages.into(),
            raw_len: self.raw_len.into(),
            stored_len: self.stored_len.into(),
            offset: self.offset.0.into(),
            data_pages: self.data_pages.into(),
            missing_pages: self.missing_pages.into(),
            payload_crc: self.payload_crc.into(),
            reserved2: [0; 8],
            header_crc: 0.into(),
        };
        let mut out = [0u8; HEADER_LEN];
        let _ = raw.write_to(&mut out);
        if let Some((body, tail)) = out.split_last_chunk_mut::<4>() {
            *tail = crc32(body).to_le_bytes();
        }
        out
    }

    /// The part of [`ChunkHeader::encode`] that the seal authenticates.
    #[must_use]
    pub fn aad(&self) -> [u8; AAD_LEN] {
        let mut out = [0u8; AAD_LEN];
        for (to, from) in out.iter_mut().zip(self.encode()) {
            *to = from;
        }
        out
    }

    /// Reads and checks a chunk header.
    ///
    /// # Errors
    /// [`FormatError`]: wrong magic or checksum, an unknown kind, codec or
    /// cipher, a reserved field that is not zero, or a length out of bounds.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let (raw, _) =
            Raw::read_from_prefix(bytes).map_err(|_| FormatError::Short { what: WHAT })?;
        if raw.magic != MAGIC {
            return Err(FormatError::Magic { what: WHAT });
        }
        let body = bytes.get(..HEADER_LEN - 4).ok_or(FormatError::Short { what: WHAT })?;
        if crc32(body) != raw.header_crc.get() {
            return Err(FormatError::Checksum { what: WHAT });
        }
        let bad = |field, value: u64| FormatError::Field { what: WHAT, field, value };
        let kind = ChunkKind::from_u8(raw.kind).ok_or_else(|| bad("kind", u64::from(raw.kind)))?;
        let codec = match raw.codec {
            0 => Codec::Store,
            1 => Codec::Zstd,
            2 => Codec::Lz4,
            other => return Err(bad("codec", other.into())),
        };
        let layer =
            Layer::of_kind(raw.layer, kind).ok_or_else(|| bad("layer", u64::from(raw.layer)))?;
        if raw.reserved.get() != 0 || raw.reserved2 != [0; 8] {
            return Err(bad("reserved", 1));
        }
        let header = Self {
            dump_id: raw.dump_id,
            seq: raw.seq.get(),
            kind,
            codec,
            cipher: Cipher::from_u8(raw.cipher, WHAT)?,
            device: raw.device.get(),
            layer,
            first: Pfn(raw.first.get()),
            pages: raw.pages.get(),
            raw_len: raw.raw_len.get(),
            stored_len: raw.stored_len.get(),
            offset: ByteOff(raw.offset.get()),
            data_pages: raw.data_pages.get(),
            missing_pages: raw.missing_pages.get(),
            payload_crc: raw.payload_crc.get(),
        };
        header.check(bad)
    }

    fn check(self, bad: impl Fn(&'static str, u64) -> FormatError) -> Result<Self, FormatError> {
        if self.raw_len as usize > MAX_RAW {
            return Err(bad("raw_len", self.raw_len.into()));
        }
        if self.stored_len as usize > MAX_STORED
            || (self.stored_len as usize) < self.cipher.tag_len()
        {
            return Err(bad("stored_len", self.stored_len.into()));
        }
        if self.data_pages > MAX_CHUNK_PAGES || u64::from(self.data_pages) > self.pages {
            return Err(bad("data_pages", self.data_pages.into()));
        }
        if !self.offset.0.is_multiple_of(CHUNK_ALIGN as u64) {
            return Err(bad("offset", self.offset.0));
        }
        // Page numbers are shifted into bytes by every reader: keep them below 2^52.
        match self.first.0.checked_add(self.pages) {
            Some(end) if end <= PFN_END => Ok(self),
            _ => Err(bad("pages", self.pages)),
        }
    }
}

/// Bytes of a frame whose stored payload has `stored_len` bytes.
#[must_use]
pub fn frame_len(stored_len: u32) -> u64 {
    round_up(HEADER_LEN as u64 + u64::from(stored_len), CHUNK_ALIGN as u64).unwrap_or(u64::MAX)
}

/// A checked view of a page chunk's plaintext: runs, then data pages.
#[derive(Debug, Clone, Copy)]
pub struct PagePayload<'a> {
    runs: &'a [[u8; RUN_LEN]],
    data: &'a [u8],
}

impl<'a> PagePayload<'a> {
    /// Checks a plaintext against its header: the runs must cover exactly
    /// `header.pages` pages and the data exactly its data runs.
    ///
    /// # Errors
    /// [`FormatError`], naming the contradiction.
    pub fn parse(plain: &'a [u8], header: &ChunkHeader) -> Result<Self, FormatError> {
        const RUNS: &str = "page chunk";
        let short = FormatError::Short { what: RUNS };
        let bad = |field, value| FormatError::Field { what: RUNS, field, value };
        let (count, rest) = plain.split_first_chunk::<4>().ok_or(short)?;
        let count = u32::from_le_bytes(*count) as usize;
        if count == 0 || count > MAX_RUNS {
            return Err(bad("run_count", count as u64));
        }
        let (runs, data) = rest.split_at_checked(count * RUN_LEN).ok_or(short)?;
        let payload = Self { runs: runs.as_chunks().0, data };
        let (mut pages, mut data_pages) = (0u64, 0u64);
        for run in payload.raw_runs() {
            let run = run?;
            pages = pages.checked_add(run.count).ok_or(bad("count", run.count))?;
            if run.class == PageClass::Elsewhere && header.layer == crate::Layer::Address {
                return Err(bad("class", run.class.number().into()));
            }
            if run.class == PageClass::Data {
                data_pages = data_pages.checked_add(run.count).ok_or(bad("count", run.count))?;
            }
        }
        if pages != header.pages {
            return Err(bad("pages", pages));
        }
        if data_pages != u64::from(header.data_pages)
            || data_pages.checked_mul(PAGE as u64) != Some(data.len() as u64)
        {
            return Err(bad("data_pages", data_pages));
        }
        Ok(payload)
    }

    fn raw_runs(&self) -> impl Iterator<Item = Result<Run, FormatError>> + use<'a> {
        let mut rest = self.runs;
        core::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let run = Run::decode(rest);
            rest = run.as_ref().map_or(&[], |(_, behind)| *behind);
            Some(run.map(|(run, _)| run))
        })
    }

    /// The runs in order of pages.
    pub fn runs(&self) -> impl Iterator<Item = Run> + use<'a> {
        // Checked by parse(): none is left out.
        self.raw_runs().filter_map(Result::ok)
    }

    /// The data pages, one behind the other in order of pages.
    #[must_use]
    pub fn data(&self) -> &'a [u8] {
        self.data
    }
}
