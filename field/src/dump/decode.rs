//! From a chunk's stored bytes to its pages: checksum, seal, compression, runs.

use lifeboat_crypt::{CryptError, Opener};
use lifeboat_format::chunk::{HEADER_LEN, PagePayload};
use lifeboat_format::{ChunkHeader, Codec, IndexEntry, PAGE, PageClass, PageRange, Pfn, Run};

use super::{DumpError, DumpFile};

/// What a page of a decoded chunk is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    /// First page, counted from the chunk's first.
    at: u64,
    run: Run,
    /// Where its contents start in the plaintext; data runs only.
    data_at: usize,
}

/// The run table of a page chunk: kept longer than its pages, because it is what a
/// look-up in several layers needs of most chunks.
#[derive(Debug, Clone)]
pub(crate) struct Runs {
    first: Pfn,
    /// Empty for chunks that hold no pages.
    spans: Vec<Span>,
}

impl Runs {
    /// Bytes that a copy of it takes.
    pub(crate) fn size(&self) -> usize {
        size_of::<Self>() + size_of_val(self.spans.as_slice())
    }

    /// Class of a page by itself, and where its contents lie in [`DecodedChunk::plain`].
    pub(crate) fn find(&self, page: Pfn) -> Option<(PageClass, usize)> {
        let at = page.0.checked_sub(self.first.0)?;
        let index = self.spans.partition_point(|s| s.at <= at).checked_sub(1)?;
        let span = self.spans.get(index)?;
        let within = at - span.at;
        if within >= span.run.count {
            return None;
        }
        let offset = match span.run.class {
            PageClass::Data => span.data_at + usize::try_from(within).ok()? * PAGE,
            _ => 0,
        };
        Some((span.run.class.ahead(within), offset))
    }
}

/// A chunk's plaintext, checked against its header.
#[derive(Debug)]
pub struct DecodedChunk {
    header: ChunkHeader,
    plain: Vec<u8>,
    runs: Runs,
}

/// A run of pages of a decoded chunk.
#[derive(Debug, Clone, Copy)]
pub struct Piece<'a> {
    /// First page.
    pub first: Pfn,
    /// How many.
    pub pages: u64,
    /// What they are; of [`PageClass::Same`], what the first one is.
    pub class: PageClass,
    /// Their contents; empty for everything but data.
    pub data: &'a [u8],
}

impl DecodedChunk {
    /// Checks `plain` against its header; `spans` is an empty buffer.
    fn new(header: ChunkHeader, plain: Vec<u8>, mut spans: Vec<Span>) -> Result<Self, String> {
        if plain.len() != header.raw_len as usize {
            return Err(format!("{} bytes instead of {}", plain.len(), header.raw_len));
        }
        if header.kind.is_pages() {
            let payload = PagePayload::parse(&plain, &header).map_err(|e| e.to_string())?;
            let mut at = 0u64;
            let mut data_at = plain.len() - payload.data().len();
            for run in payload.runs() {
                spans.push(Span { at, run, data_at });
                at += run.count;
                if run.class == PageClass::Data {
                    // parse() has checked that all data runs together fit the payload.
                    data_at += usize::try_from(run.count).map_err(|e| e.to_string())? * PAGE;
                }
            }
        }
        Ok(Self { header, plain, runs: Runs { first: header.first, spans } })
    }

    /// The chunk's header.
    #[must_use]
    pub fn header(&self) -> &ChunkHeader {
        &self.header
    }

    /// All of the plaintext.
    #[must_use]
    pub fn plain(&self) -> &[u8] {
        &self.plain
    }

    /// All of the plaintext, without the rest.
    pub(crate) fn into_plain(self) -> Vec<u8> {
        self.plain
    }

    /// The runs of a page chunk, in order of pages.
    pub fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        self.runs.spans.iter().map(|s| {
            let data = match s.run.class {
                PageClass::Data => usize::try_from(s.run.count)
                    .ok()
                    .and_then(|n| self.plain.get(s.data_at..)?.get(..n * PAGE))
                    .unwrap_or_default(),
                _ => &[],
            };
            Piece {
                first: Pfn(self.header.first.0 + s.at),
                pages: s.run.count,
                class: s.run.class,
                data,
            }
        })
    }

    /// The pages that this chunk answers for, those of other layers left out;
    /// ascending, neighbours joined.
    pub(crate) fn claims(&self) -> Vec<PageRange> {
        let mut out: Vec<PageRange> = Vec::new();
        for p in self.pieces().filter(|p| p.class != PageClass::Elsewhere) {
            let end = p.first.0 + p.pages;
            match out.last_mut() {
                Some(last) if last.end == p.first => last.end = Pfn(end),
                _ => out.push(PageRange::new(p.first.0, end)),
            }
        }
        out
    }

    /// Bytes that it takes: its buffers may have held a larger chunk before.
    pub(crate) fn size(&self) -> usize {
        self.plain.capacity() + self.runs.spans.capacity() * size_of::<Span>()
    }

    /// The run table.
    pub(crate) fn runs(&self) -> &Runs {
        &self.runs
    }
}

/// Reads and decodes chunks; one for each thread, so that buffers are used again: those
/// of a chunk that was given back ([`Decoder::recycle`]) take the next one.
#[derive(Default)]
pub struct Decoder {
    zstd: Option<zstd::bulk::Decompressor<'static>>,
    stored: Vec<u8>,
    plain: Vec<u8>,
    spans: Vec<Span>,
}

impl Decoder {
    /// A decoder without buffers yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the chunk that `entry` names and checks that it is the one meant.
    ///
    /// # Errors
    /// [`DumpError::Io`], [`DumpError::Chunk`].
    pub fn read(
        &mut self,
        file: &DumpFile,
        opener: &Opener,
        entry: &IndexEntry,
    ) -> Result<DecodedChunk, DumpError> {
        let header = read_header(file, entry)?;
        let mut stored = std::mem::take(&mut self.stored);
        stored.resize(entry.stored_len as usize, 0);
        super::file::read(file.source(), entry.offset.0 + HEADER_LEN as u64, &mut stored)?;
        let result = self.decode(opener, header, &mut stored);
        self.stored = stored;
        result
    }

    /// Decodes a chunk whose stored payload is in `stored`, which is then of no use.
    ///
    /// # Errors
    /// [`DumpError::Chunk`].
    pub fn decode(
        &mut self,
        opener: &Opener,
        header: ChunkHeader,
        stored: &mut Vec<u8>,
    ) -> Result<DecodedChunk, DumpError> {
        let entry = IndexEntry::of(&header);
        let bad = |why: String| DumpError::Chunk { entry, why };
        if lifeboat_format::crc32(stored) != header.payload_crc {
            return Err(bad("its checksum does not match".to_owned()));
        }
        opener.open(&header, stored).map_err(|e| match e {
            CryptError::Forged { .. } => {
                bad("it does not authenticate: it was changed, or the key is another dump's"
                    .to_owned())
            }
            other => bad(other.to_string()),
        })?;
        let mut plain = std::mem::take(&mut self.plain);
        self.expand(&header, stored, &mut plain).map_err(bad)?;
        DecodedChunk::new(header, plain, std::mem::take(&mut self.spans)).map_err(bad)
    }

    /// Fills `plain` with what `stored` holds compressed. The header limits `raw_len` to a
    /// little over 4 MiB; every codec is given room for that and no more.
    fn expand(
        &mut self,
        header: &ChunkHeader,
        stored: &mut Vec<u8>,
        plain: &mut Vec<u8>,
    ) -> Result<(), String> {
        if header.codec == Codec::Store {
            std::mem::swap(stored, plain);
            return Ok(());
        }
        plain.resize(header.raw_len as usize, 0);
        let len = match header.codec {
            Codec::Lz4 => {
                lz4_flex::block::decompress_into(stored, plain).map_err(|e| format!("LZ4: {e}"))?
            }
            Codec::Zstd | Codec::Store => self
                .zstd()?
                .decompress_to_buffer(stored, plain.as_mut_slice())
                .map_err(|e| format!("zstd: {e}"))?,
        };
        // Fewer bytes than the header says: found out where lengths are compared.
        plain.truncate(len);
        Ok(())
    }

    fn zstd(&mut self) -> Result<&mut zstd::bulk::Decompressor<'static>, String> {
        match &mut self.zstd {
            Some(zstd) => Ok(zstd),
            none => {
                let new = zstd::bulk::Decompressor::new().map_err(|e| e.to_string())?;
                Ok(none.insert(new))
            }
        }
    }

    /// Takes back a chunk's buffers for the next one.
    pub fn recycle(&mut self, chunk: DecodedChunk) {
        self.plain = chunk.plain;
        self.spans = chunk.runs.spans;
        self.spans.clear();
    }
}

/// Reads and checks the header of the chunk that `entry` names.
fn read_header(file: &DumpFile, entry: &IndexEntry) -> Result<ChunkHeader, DumpError> {
    let bad = |why: String| DumpError::Chunk { entry: *entry, why };
    if !file.holds(entry) {
        return Err(bad("it lies outside the dump".to_owned()));
    }
    let mut bytes = [0u8; HEADER_LEN];
    super::file::read(file.source(), entry.offset.0, &mut bytes)?;
    let header = ChunkHeader::decode(&bytes).map_err(|e| bad(e.to_string()))?;
    if header.dump_id != file.header().dump_id {
        return Err(bad("it belongs to another dump".to_owned()));
    }
    if IndexEntry::of(&header) != *entry {
        return Err(bad("its header says something else than the index".to_owned()));
    }
    Ok(header)
}
