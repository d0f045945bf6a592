//! An unlocked dump: its texts, its tables, its pages.

use lifeboat_crypt::{Identities, Opener, header_digest};
use lifeboat_format::meta::{MetaReader, Record};
use lifeboat_format::{ChunkKind, CommitRecord, IndexEntry, PageRange, Pfn};

use super::index::{self, ChunkList, ChunkMap, NO_CHUNKS};
use super::pages::{Cache, Hit, PageSpace};
use super::{DecodedChunk, Decoder, DumpError, DumpFile};

/// Most bytes of one text: far more than a capturer writes, and what a small hostile dump
/// can make a reader hold.
const MAX_TEXT: u64 = 64 << 20;

/// A swap device as the dump describes it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SwapDevice {
    /// Number that its chunks carry.
    pub index: u16,
    /// Page size of its swap header, bytes.
    pub page_size: u32,
    /// Length of the device, bytes.
    pub bytes: u64,
    /// What is known of it, one `key value` a line.
    pub text: String,
}

/// The tables of the meta chunk.
#[derive(Debug, Clone, Default)]
pub struct Meta {
    /// SHA-256 of the header's block 0, as sealed.
    pub header_digest: Option<[u8; 32]>,
    /// `Elf64_Ehdr` and `Elf64_Phdr[]` of the elfcorehdr, verbatim; empty if lost.
    pub elfcorehdr: Vec<u8>,
    /// Memory that the capture was to cover: sorted, disjoint.
    pub ranges: Vec<PageRange>,
    /// Swap devices.
    pub swap: Vec<SwapDevice>,
    /// Name of the host, if the arming told it.
    pub hostname: Option<String>,
    /// The boot configuration without seed.
    pub boot_config: Option<String>,
}

impl Meta {
    /// Reads the tables from the plaintext of all meta chunks.
    pub(crate) fn parse(plain: &[u8]) -> Result<Self, DumpError> {
        let mut meta = Self::default();
        for record in MetaReader::new(plain) {
            match record.map_err(|source| DumpError::Meta { source })? {
                Record::HeaderDigest(digest) => meta.header_digest = Some(digest),
                Record::Elfcorehdr(bytes) => meta.elfcorehdr = bytes.to_vec(),
                Record::MemoryRange(range) => meta.ranges.push(range),
                Record::SwapDevice(dev) => meta.swap.push(SwapDevice {
                    index: dev.index,
                    page_size: dev.page_size,
                    bytes: dev.bytes,
                    text: dev.text.to_owned(),
                }),
                Record::Hostname(name) => meta.hostname = Some(name.to_owned()),
                Record::BootConfig(text) => meta.boot_config = Some(text.to_owned()),
            }
        }
        meta.ranges = merge(meta.ranges);
        Ok(meta)
    }
}

/// Sorts ranges, drops empty ones, and joins those that touch or overlap.
pub(crate) fn merge(mut ranges: Vec<PageRange>) -> Vec<PageRange> {
    ranges.retain(|r| r.pages() > 0);
    ranges.sort_unstable_by_key(|r| r.start);
    let mut out: Vec<PageRange> = Vec::with_capacity(ranges.len());
    for next in ranges {
        match out.last_mut() {
            Some(last) if next.start <= last.end => last.end = last.end.max(next.end),
            _ => out.push(next),
        }
    }
    out
}

/// A dump whose key is known.
pub struct OpenDump {
    file: DumpFile,
    opener: Opener,
    map: ChunkMap,
    meta: Meta,
    warnings: Vec<String>,
    cache: Cache,
}

impl std::fmt::Debug for OpenDump {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenDump").field("file", &self.file).finish_non_exhaustive()
    }
}

impl OpenDump {
    /// Unlocks a dump, reads its index (or scans, with a warning) and its tables.
    ///
    /// # Errors
    /// [`DumpError`]: no or a wrong key, a forged header or commit record, an
    /// index that contradicts itself. Damaged tables are a warning.
    pub fn unlock(file: DumpFile, identities: Option<&Identities>) -> Result<Self, DumpError> {
        let opener = file.opener(identities)?;
        if let Ok(commit) = file.committed() {
            opener.check_commit(commit)?;
        }
        let mut warnings = Vec::new();
        if let Some(fault) = file.first_fault() {
            warnings.push(format!("the second header is in use, because of the first: {fault}"));
        }
        let map = index::load(&file, &opener, &mut warnings)?;
        let mut dump =
            Self { file, opener, map, meta: Meta::default(), warnings, cache: Cache::default() };
        match dump.text(ChunkKind::Meta).and_then(|plain| Meta::parse(&plain)) {
            Ok(meta) => dump.meta = meta,
            Err(e) => dump.warnings.push(e.to_string()),
        }
        match (dump.meta.header_digest, dump.file.block0()) {
            (Some(sealed), Some(block0)) if header_digest(block0) != sealed => {
                return Err(DumpError::HeaderForged);
            }
            (None, _) => dump
                .warnings
                .push("the header cannot be authenticated: the digest of it is lost".to_owned()),
            _ => {}
        }
        Ok(dump)
    }

    /// The dump's ends.
    #[must_use]
    pub fn file(&self) -> &DumpFile {
        &self.file
    }

    /// The commit record; it authenticates.
    #[must_use]
    pub fn commit(&self) -> Option<&CommitRecord> {
        self.file.committed().ok()
    }

    /// Whether a part of the dump is not here: the commit record then counts more than
    /// there is.
    pub(crate) fn is_parted(&self) -> bool {
        self.map.parted
    }

    /// The tables.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// What had to be worked around, in words, for the user.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The contents of the PT_NOTE segments, verbatim, one behind the other.
    ///
    /// # Errors
    /// [`DumpError`] when a chunk is damaged or missing.
    pub fn notes(&self) -> Result<Vec<u8>, DumpError> {
        self.text(ChunkKind::Notes)
    }

    /// The dead kernel's log.
    ///
    /// # Errors
    /// [`DumpError`] when a chunk is damaged or missing.
    pub fn log(&self) -> Result<Vec<u8>, DumpError> {
        self.text(ChunkKind::Log)
    }

    /// What the capturer did.
    ///
    /// # Errors
    /// [`DumpError`] when a chunk is damaged or missing.
    pub fn trailer(&self) -> Result<Vec<u8>, DumpError> {
        self.text(ChunkKind::Trailer)
    }

    /// All bytes of one kind of text; empty when the dump has none.
    fn text(&self, kind: ChunkKind) -> Result<Vec<u8>, DumpError> {
        let mut parts: Vec<&IndexEntry> =
            self.map.texts.iter().filter(|e| e.kind == kind).collect();
        parts.sort_by_key(|e| e.first);
        let mut decoder = Decoder::new();
        let mut out = Vec::new();
        // A dump that went on to another volume tells its texts there again.
        for copies in parts.chunk_by(|a, b| a.first == b.first) {
            let from = out.len() as u64;
            let to = copies.first().map_or(from, |e| e.first.0);
            if to != from {
                return Err(DumpError::TextGap { kind, from, to });
            }
            out.extend_from_slice(&self.text_part(kind, from, copies, &mut decoder)?);
        }
        Ok(out)
    }

    /// One stretch of a text, from any sound one of its copies.
    fn text_part(
        &self,
        kind: ChunkKind,
        from: u64,
        copies: &[&IndexEntry],
        decoder: &mut Decoder,
    ) -> Result<Vec<u8>, DumpError> {
        let mut first_fault = None;
        for entry in copies {
            let len = from.saturating_add(entry.pages);
            if len > MAX_TEXT {
                first_fault.get_or_insert(DumpError::TextTooLong { kind, len });
                continue;
            }
            match decoder.read(&self.file, &self.opener, entry) {
                Ok(chunk) if chunk.plain().len() as u64 == entry.pages => {
                    return Ok(chunk.into_plain());
                }
                Ok(_) => {
                    let why = "its length contradicts its header".to_owned();
                    first_fault.get_or_insert(DumpError::Chunk { entry: **entry, why });
                }
                Err(e) => {
                    first_fault.get_or_insert(e);
                }
            }
        }
        first_fault.map_or(Ok(Vec::new()), Err)
    }

    /// The machine's memory.
    #[must_use]
    pub fn memory(&self) -> PageSpace<'_> {
        self.space(ChunkKind::Memory, 0, &self.map.memory)
    }

    fn space<'d>(&'d self, kind: ChunkKind, device: u16, list: &'d ChunkList) -> PageSpace<'d> {
        PageSpace { dump: self, kind, device, list, cache: &self.cache }
    }

    /// A swap device.
    ///
    /// # Errors
    /// [`DumpError::NoSwap`].
    pub fn swap(&self, index: u16) -> Result<PageSpace<'_>, DumpError> {
        let described = self.meta.swap.iter().any(|d| d.index == index);
        // Described only: the capture did not get there.
        let empty = described.then_some(&NO_CHUNKS);
        match self.map.swap.get(&index).or(empty) {
            Some(list) => Ok(self.space(ChunkKind::Swap, index, list)),
            None => {
                let known: Vec<String> =
                    self.meta.swap.iter().map(|d| d.index.to_string()).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                Err(DumpError::NoSwap { index, known })
            }
        }
    }

    /// Reads and decodes one chunk, past the cache, with the caller's decoder.
    ///
    /// # Errors
    /// [`DumpError`] when it is damaged.
    pub fn read_chunk(
        &self,
        entry: &IndexEntry,
        decoder: &mut Decoder,
    ) -> Result<DecodedChunk, DumpError> {
        decoder.read(&self.file, &self.opener, entry)
    }

    /// What a chunk says of a page, with the chunk itself where it holds the contents.
    pub(crate) fn look_up(
        &self,
        entry: &IndexEntry,
        page: Pfn,
        cache: &Cache,
    ) -> Result<Hit, DumpError> {
        cache.find(entry.offset.0, page, |decoder| decoder.read(&self.file, &self.opener, entry))
    }
}
