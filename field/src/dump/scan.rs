//! Walks a dump's chunks from front to back without key or index.
//!
//! A frame's header says where the next one is. Where that is not so, the walk
//! goes on sector by sector until a header of this dump, with a sound checksum,
//! stands where it says it does: a page of memory that happens to hold an old
//! dump is never taken for a part of this one.

use std::io;
use std::ops::Range;

use lifeboat_format::chunk::HEADER_LEN;
use lifeboat_format::{CHUNK_ALIGN, ChunkHeader, FormatError, Id, is_zero};

use super::ReadAt;
use super::hasher::Hasher;

/// Bytes read at a time; a frame may be a little longer.
const READ: usize = 4 << 20;
const SECTOR: u64 = CHUNK_ALIGN as u64;

/// What the walk met.
#[derive(Debug)]
pub enum Step<'a> {
    /// A chunk whose header is sound.
    Chunk(Chunk<'a>),
    /// Bytes that are no chunk.
    Gap(Gap),
}

/// A chunk whose header is sound and stands in its place.
#[derive(Debug)]
pub struct Chunk<'a> {
    /// Its header.
    pub header: ChunkHeader,
    /// Its payload as stored.
    pub stored: &'a [u8],
    /// What is wrong with it.
    pub faults: Faults,
}

/// What can be wrong with a chunk behind its header.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults {
    /// The payload's CRC-32 does not match.
    pub payload: bool,
    /// The padding is not zero.
    pub padding: bool,
    /// Sequence numbers between the chunk before and this one.
    pub skipped: Option<Range<u64>>,
    /// The sequence number is not higher than the one before.
    pub backward: bool,
}

impl Faults {
    /// Whether the chunk's own bytes are as they were written.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        !self.payload && !self.padding && !self.backward
    }
}

/// Bytes that are no chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Where, from the dump's start.
    pub bytes: Range<u64>,
    /// What stands at its beginning.
    pub kind: GapKind,
    /// Whether they are all zero.
    pub zero: bool,
}

/// What stands where a chunk should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GapKind {
    /// Something else than a chunk.
    NoHeader,
    /// A chunk header that is damaged.
    BadHeader(FormatError),
    /// A chunk of another dump.
    OtherDump,
    /// A chunk of this dump that belongs to another place, which it names.
    WrongPlace(u64),
    /// A chunk that reaches behind the end of the dump.
    CutShort,
    /// The medium cannot be read there.
    Unreadable,
    /// A part of the dump that is not here.
    MissingPart,
}

/// The walk.
pub struct Scanner<'s> {
    src: &'s dyn ReadAt,
    id: Id,
    pos: u64,
    end: u64,
    next_seq: u64,
    buf: Vec<u8>,
    buf_at: u64,
    patience: u64,
    hash: Option<Hasher>,
    hashed: u64,
}

impl<'s> Scanner<'s> {
    /// A walk over bytes `[start, end)` of dump `id`; `start` is a multiple of 512.
    #[must_use]
    pub fn new(src: &'s dyn ReadAt, id: Id, start: u64, end: u64) -> Self {
        let end = end.min(src.len());
        Self {
            src,
            id,
            pos: start,
            end,
            next_seq: 0,
            buf: Vec::new(),
            buf_at: 0,
            patience: u64::MAX,
            hash: None,
            hashed: 0,
        }
    }

    /// Ends the walk after this many bytes without a chunk. The SHA-256 is given up
    /// with it: nobody knows where such a dump ends.
    #[must_use]
    pub fn giving_up_after(mut self, bytes: u64) -> Self {
        self.patience = bytes;
        self
    }

    /// Computes the SHA-256 of the whole source on the way, on a thread of its own.
    #[must_use]
    pub fn hashing(mut self) -> Self {
        self.hash = Hasher::new();
        // What lies before the chunks is not walked over.
        let head = usize::try_from(self.pos).unwrap_or(0);
        let mut bytes = vec![0; head];
        match self.src.read_exact_at(0, &mut bytes) {
            Ok(()) => {
                self.absorb(&bytes);
            }
            Err(_) => self.hash = None,
        }
        self
    }

    fn absorb(&mut self, bytes: &[u8]) {
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
            self.hashed += bytes.len() as u64;
        }
    }

    /// Where the walk is, in bytes from the dump's start.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.pos
    }

    /// Sequence number that the next chunk should have.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// SHA-256 of the whole source, after the walk; `None` when not asked for or
    /// when some bytes could not be read.
    pub fn finish_hash(&mut self) -> Option<[u8; 32]> {
        while self.hash.is_some() && self.hashed < self.src.len() {
            let left = self.src.len() - self.hashed;
            let take = usize::try_from(left).unwrap_or(READ).min(READ);
            let mut bytes = vec![0; take];
            self.src.read_exact_at(self.hashed, &mut bytes).ok()?;
            self.absorb(&bytes);
        }
        self.hash.take().and_then(Hasher::finish)
    }

    /// Makes `[off, off + len)` part of the buffer.
    fn load(&mut self, off: u64, len: usize) -> io::Result<()> {
        let have = self.buf_at..self.buf_at + self.buf.len() as u64;
        if have.start <= off && off + len as u64 <= have.end {
            return Ok(());
        }
        let left = usize::try_from(self.end.saturating_sub(off)).unwrap_or(usize::MAX);
        for take in [READ.max(len).min(left), len] {
            self.buf.resize(take, 0);
            self.buf_at = off;
            match self.src.read_exact_at(off, &mut self.buf) {
                Ok(()) => {
                    self.absorb_buffer();
                    return Ok(());
                }
                Err(e) if take == len => {
                    self.buf.clear();
                    self.hash = None;
                    return Err(e);
                }
                // A bad sector further on: what is asked for may be good.
                Err(_) => {}
            }
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }

    fn absorb_buffer(&mut self) {
        let Some(skip) = self.hashed.checked_sub(self.buf_at) else {
            self.hash = None;
            return;
        };
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        let buf = std::mem::take(&mut self.buf);
        if let Some(new) = buf.get(skip..) {
            self.absorb(new);
        }
        self.buf = buf;
    }

    fn slice(&self, off: u64, len: usize) -> &[u8] {
        usize::try_from(off.saturating_sub(self.buf_at))
            .ok()
            .and_then(|at| self.buf.get(at..)?.get(..len))
            .unwrap_or_default()
    }

    /// The header at `pos`, with its whole frame in the buffer.
    fn header_at(&mut self, pos: u64) -> Result<ChunkHeader, GapKind> {
        let left = self.end.saturating_sub(pos);
        let sector = usize::try_from(left.min(SECTOR)).unwrap_or(CHUNK_ALIGN);
        if self.load(pos, sector).is_err() {
            return Err(GapKind::Unreadable);
        }
        let header = ChunkHeader::decode(self.slice(pos, sector)).map_err(|e| match e {
            FormatError::Magic { .. } | FormatError::Short { .. } => GapKind::NoHeader,
            other => GapKind::BadHeader(other),
        })?;
        if header.dump_id != self.id {
            return Err(GapKind::OtherDump);
        }
        if header.offset.0 != pos {
            return Err(GapKind::WrongPlace(header.offset.0));
        }
        if header.frame_len() > left {
            return Err(GapKind::CutShort);
        }
        let frame = usize::try_from(header.frame_len()).map_err(|_| GapKind::CutShort)?;
        self.load(pos, frame).map_err(|_| GapKind::Unreadable)?;
        Ok(header)
    }

    /// Goes on to the next chunk or gap; `None` at the end.
    #[allow(clippy::should_implement_trait, reason = "what it gives borrows the walk's buffer")]
    pub fn next(&mut self) -> Option<Step<'_>> {
        let mut gap: Option<Gap> = None;
        while self.pos < self.end {
            if let Some(hole) = self.src.hole(self.pos) {
                if gap.is_none() {
                    let bytes = self.pos..hole.min(self.end);
                    self.pos = bytes.end;
                    self.hash = None;
                    return Some(Step::Gap(Gap { bytes, kind: GapKind::MissingPart, zero: false }));
                }
                break;
            }
            match self.header_at(self.pos) {
                Ok(header) if gap.is_none() => return Some(self.take(header)),
                Ok(_) => break,
                Err(kind) => {
                    let from = self.pos;
                    self.pos = (from + SECTOR).min(self.end);
                    let len = usize::try_from(self.pos - from).unwrap_or(CHUNK_ALIGN);
                    // Unreadable bytes are not known to be zero.
                    let bytes = self.slice(from, len);
                    let zero = !bytes.is_empty() && is_zero(bytes);
                    let gap = gap.get_or_insert(Gap { bytes: from..from, kind, zero: true });
                    gap.bytes.end = self.pos;
                    gap.zero &= zero;
                    // Zeros before a damaged header: the header is the news.
                    if gap.kind == GapKind::NoHeader {
                        gap.kind = kind;
                    }
                    if gap.bytes.end - gap.bytes.start >= self.patience {
                        self.end = self.pos;
                        self.hash = None;
                    }
                }
            }
        }
        gap.map(Step::Gap)
    }

    fn take(&mut self, header: ChunkHeader) -> Step<'_> {
        let start = self.pos;
        self.pos = start + header.frame_len();
        let backward = header.seq < self.next_seq;
        let skipped = (header.seq > self.next_seq).then_some(self.next_seq..header.seq);
        if !backward {
            self.next_seq = header.seq.saturating_add(1);
        }
        let frame_len = usize::try_from(header.frame_len()).unwrap_or(0);
        let frame = self.slice(start, frame_len);
        let body = frame.get(HEADER_LEN..).unwrap_or_default();
        let (stored, padding) =
            body.split_at_checked(header.stored_len as usize).unwrap_or_default();
        let faults = Faults {
            payload: lifeboat_format::crc32(stored) != header.payload_crc,
            padding: !is_zero(padding),
            skipped,
            backward,
        };
        Step::Chunk(Chunk { header, stored, faults })
    }
}
