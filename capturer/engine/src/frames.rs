//! Frames in order: header, chunks, index, second header, commit record.
//!
//! One [`Frames`] is shared by all workers behind [`crate::Shared`]. A chunk takes two
//! steps under that lock: its place is reserved, and, when it is sealed and its turn
//! has come, it is copied into the device's buffers. Compressing and sealing are done
//! outside. What needs everything before it to be in its place (a full index, another
//! extent, texts to be repeated) is done by [`Frames::settle`], when nothing is reserved.

use std::io;
use std::sync::Arc;

use lifeboat_format::chunk::{self, INDEX_ENTRY_LEN, INDEX_HEAD_LEN, MAX_INDEX_ENTRIES};
use lifeboat_format::commit::{IoMode, MAX_PHASES, Outcome, PageCounts, SourceKind};
use lifeboat_format::header::KEY_AREA_LEN;
use lifeboat_format::{
    BLOCK, ByteOff, CHUNK_ALIGN, ChunkHeader, ChunkKind, Codec, CommitRecord, DumpHeader,
    FORMAT_VERSION, Id, IndexEntry, IndexHead, Layer, Pfn, crc32,
};

use crate::{EngineError, FrameSink, Scratch, Seal};

/// Bytes kept free for the trailer, the last index chunk, the second header and
/// the commit record, so that a full partition still ends in a valid dump.
pub const TAIL_RESERVE: u64 = 1 << 20;
/// Bytes of a text chunk before compression.
pub(crate) const TEXT_PART: usize = 256 << 10;
/// Targets and extents that one chunk can pass over before it is given up.
const MAX_SETTLES: u32 = 4096;
const INDEX_BUF: usize = INDEX_HEAD_LEN + MAX_INDEX_ENTRIES * INDEX_ENTRY_LEN;

/// What the capturer knows at the end, for the commit record.
#[derive(Debug, Clone, Copy)]
pub struct CommitFacts {
    /// How it ended.
    pub outcome: Outcome,
    /// Where memory came from.
    pub source: SourceKind,
    /// How blocks reached the device.
    pub io: IoMode,
    /// Write requests.
    pub writes: u64,
    /// When, seconds since 1970.
    pub now: u64,
    /// Pages that memory and swap were asked for.
    pub asked: (u64, u64),
    /// Reads that failed beyond single pages counted as unreadable.
    pub read_errors: u64,
    /// Phases: number and milliseconds.
    pub phases: [(u8, u32); MAX_PHASES],
}

/// A chunk to be: what its header says of the payload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece {
    pub(crate) kind: ChunkKind,
    pub(crate) codec: Codec,
    pub(crate) device: u16,
    pub(crate) layer: Layer,
    pub(crate) first: Pfn,
    pub(crate) raw_len: usize,
    pub(crate) counts: PageCounts,
    /// Pages or bytes covered.
    pub(crate) pages: u64,
}

/// Writes one dump.
pub struct Frames<S, C> {
    sink: S,
    seal: Arc<C>,
    dump_id: Id,
    /// The next number to give.
    seq: u64,
    /// The number whose turn it is to be appended.
    turn: u64,
    /// Bytes of the frames between the two.
    reserved: u64,
    /// Whether the lasting texts are to be written again.
    repeat_due: bool,
    /// Entries not yet in an index chunk, as they will lie on disk behind a head.
    index: Vec<u8>,
    indexed_from: u64,
    last_index: ByteOff,
    header: Box<[u8; BLOCK]>,
    keys: Box<[u8; KEY_AREA_LEN]>,
    memory: PageCounts,
    swap: PageCounts,
    reserve: u64,
    /// Compressed texts that are written again when the dump moves to another device,
    /// so that what lies there can be read alone.
    repeat: Vec<(Piece, Vec<u8>)>,
    /// Where a text to be repeated is sealed; as long as the longest.
    spare: Vec<u8>,
}

impl<S: FrameSink, C: Seal> Frames<S, C> {
    /// A dump that will begin with `header` and `keys`.
    #[must_use]
    pub fn new(sink: S, seal: C, header: &DumpHeader, keys: &[u8; KEY_AREA_LEN]) -> Self {
        Self {
            sink,
            seal: Arc::new(seal),
            dump_id: header.dump_id,
            seq: 0,
            turn: 0,
            reserved: 0,
            repeat_due: false,
            index: Vec::with_capacity(INDEX_BUF + 16),
            indexed_from: 0,
            last_index: ByteOff(0),
            header: Box::new(header.encode()),
            keys: Box::new(*keys),
            memory: PageCounts::default(),
            swap: PageCounts::default(),
            reserve: TAIL_RESERVE,
            repeat: Vec::new(),
            spare: Vec::new(),
        }
    }

    /// Writes the header.
    ///
    /// # Errors
    /// [`EngineError::Sink`].
    pub fn begin(&mut self) -> Result<(), EngineError> {
        self.sink.append(&*self.header).map_err(EngineError::Sink)?;
        self.sink.append(&*self.keys).map_err(EngineError::Sink)?;
        self.start_index();
        Ok(())
    }

    /// Writes a text as [`Frames::text`] does and keeps its compressed form, to write it
    /// again when the dump moves to another device.
    ///
    /// # Errors
    /// As [`Frames::text`].
    pub fn lasting_text(
        &mut self,
        kind: ChunkKind,
        bytes: &[u8],
        scratch: &mut Scratch,
    ) -> Result<(), EngineError> {
        self.each_part(kind, bytes, scratch, true)
    }

    /// Makes durable what was written so far, so that a capture which dies in its
    /// first pages still leaves who, when, why and the log.
    ///
    /// # Errors
    /// [`EngineError::Sink`].
    pub fn checkpoint(&mut self) -> Result<(), EngineError> {
        self.sink.checkpoint().map_err(EngineError::Sink)
    }

    /// Pages of memory and of swap that are in the dump so far.
    #[must_use]
    pub fn counts(&self) -> (PageCounts, PageCounts) {
        (self.memory, self.swap)
    }

    /// The sink, for its figures.
    #[must_use]
    pub fn sink(&self) -> &S {
        &self.sink
    }

    /// The sink, to end it once the dump is finished.
    pub fn sink_mut(&mut self) -> &mut S {
        &mut self.sink
    }

    /// Bytes of the dump so far.
    #[must_use]
    pub fn position(&self) -> ByteOff {
        self.sink.position()
    }

    /// Lets the tail use the space that was kept for it. From here on only the
    /// trailer and the end are written.
    pub fn open_reserve(&mut self) {
        self.reserve = 0;
    }

    /// What seals; for use outside of the lock.
    pub(crate) fn sealer(&self) -> Arc<C> {
        Arc::clone(&self.seal)
    }

    /// Whether everything that was reserved is in its place.
    pub(crate) fn is_settled(&self) -> bool {
        self.turn == self.seq
    }

    /// Whose turn it is to be appended.
    pub(crate) fn turn(&self) -> u64 {
        self.turn
    }

    /// Bytes of a frame for `payload` bytes, and what must be free for it.
    fn need(&self, payload: usize) -> Result<(u32, u64, u64), EngineError> {
        let stored = payload + self.seal.cipher().tag_len();
        let stored = u32::try_from(stored).map_err(|_| EngineError::Seal)?;
        let frame = chunk::frame_len(stored);
        Ok((stored, frame, frame.saturating_add(self.reserve)))
    }

    /// Takes the next number and place for a payload of `len` bytes. `None` when
    /// [`Frames::settle`] must come first.
    ///
    /// # Errors
    /// [`EngineError::Seal`] for a payload that no chunk can hold.
    pub(crate) fn reserve(
        &mut self,
        piece: &Piece,
        len: usize,
    ) -> Result<Option<ChunkHeader>, EngineError> {
        let (stored_len, frame, need) = self.need(len)?;
        let free = self.sink.remaining().saturating_sub(self.reserved);
        if free < need || self.repeat_due || (piece.kind != ChunkKind::Index && self.is_listed()) {
            return Ok(None);
        }
        let narrow = |n: u64| u32::try_from(n).map_err(|_| EngineError::Seal);
        let header = ChunkHeader {
            dump_id: self.dump_id,
            seq: self.seq,
            kind: piece.kind,
            codec: piece.codec,
            cipher: self.seal.cipher(),
            device: piece.device,
            layer: piece.layer,
            first: piece.first,
            pages: piece.pages,
            raw_len: narrow(piece.raw_len as u64)?,
            stored_len,
            offset: ByteOff(self.sink.position().0.saturating_add(self.reserved)),
            data_pages: narrow(piece.counts.data)?,
            missing_pages: u32::try_from(piece.counts.unreadable).unwrap_or(u32::MAX),
            payload_crc: 0,
        };
        // Used up, whatever becomes of the write: another worker may come after an error,
        // and two payloads under one nonce would give both away.
        self.seq += 1;
        self.reserved += frame;
        Ok(Some(header))
    }

    /// Whether the index has no room for what is reserved and one more.
    fn is_listed(&self) -> bool {
        let listed = self.index.len().saturating_sub(INDEX_HEAD_LEN) / INDEX_ENTRY_LEN;
        listed as u64 + (self.seq - self.turn) >= MAX_INDEX_ENTRIES as u64
    }

    /// Makes room for a payload of `len` bytes: writes a full index, the texts that are
    /// to be repeated, and goes on to another extent. Only when [`Frames::is_settled`].
    ///
    /// # Errors
    /// [`EngineError::Full`], [`EngineError::Sink`], [`EngineError::Seal`].
    pub(crate) fn settle(&mut self, len: usize) -> Result<(), EngineError> {
        if self.is_listed() {
            self.write_index()?;
        }
        if std::mem::take(&mut self.repeat_due) {
            self.write_again()?;
        }
        let (_, _, need) = self.need(len)?;
        if self.sink.remaining() < need && !self.sink.more(need) {
            return Err(EngineError::Full);
        }
        self.repeat_due |= self.sink.moved();
        Ok(())
    }

    /// Appends a chunk whose turn it is.
    ///
    /// # Errors
    /// [`EngineError::Sink`].
    pub(crate) fn append(
        &mut self,
        header: &ChunkHeader,
        piece: &Piece,
        payload: &[u8],
        tag: &[u8],
    ) -> Result<(), EngineError> {
        let frame = header.frame_len();
        self.turn += 1;
        self.reserved = self.reserved.saturating_sub(frame);
        let sink = &mut self.sink;
        let io: io::Result<()> = (|| {
            sink.append(&header.encode())?;
            sink.append(payload)?;
            sink.append(tag)?;
            sink.pad_to(CHUNK_ALIGN)
        })();
        io.map_err(EngineError::Sink)?;
        self.count(piece, frame);
        if header.kind != ChunkKind::Index {
            self.index.extend_from_slice(&IndexEntry::of(header).encode());
        }
        self.repeat_due |= self.sink.moved();
        Ok(())
    }

    /// Seals and writes one payload, with nobody beside. `payload` is the compressed bytes.
    pub(crate) fn put(&mut self, piece: &Piece, payload: &mut [u8]) -> Result<(), EngineError> {
        let mut tries = 0;
        let mut header = loop {
            if let Some(header) = self.reserve(piece, payload.len())? {
                break header;
            }
            // Texts that are repeated on one new device after the other end some time.
            tries += 1;
            if tries > MAX_SETTLES {
                return Err(EngineError::Full);
            }
            self.settle(payload.len())?;
        };
        let sealed = seal(&*self.seal, &mut header, payload);
        if sealed.is_err() {
            self.turn = self.seq;
            self.reserved = 0;
        }
        let tag = sealed?;
        self.append(&header, piece, payload, tag.as_ref().map_or(&[], |t| &t[..]))
    }

    /// Writes the lasting texts again. That there is no room for them is no failure:
    /// the first copy may still be there.
    fn write_again(&mut self) -> Result<(), EngineError> {
        let repeat = std::mem::take(&mut self.repeat);
        let mut spare = std::mem::take(&mut self.spare);
        let mut result = Ok(());
        for (piece, payload) in &repeat {
            spare.clear();
            spare.extend_from_slice(payload);
            result = self.put(piece, &mut spare);
            if result.is_err() {
                break;
            }
        }
        (self.repeat, self.spare) = (repeat, spare);
        match result {
            Err(EngineError::Full) => Ok(()),
            other => other,
        }
    }

    fn count(&mut self, piece: &Piece, frame: u64) {
        let counts = PageCounts { stored_bytes: frame, ..piece.counts };
        match piece.kind {
            ChunkKind::Memory => self.memory.add(&counts),
            ChunkKind::Swap => self.swap.add(&counts),
            _ => {}
        }
    }

    fn start_index(&mut self) {
        self.index.clear();
        self.index.extend_from_slice(&[0; INDEX_HEAD_LEN]);
        self.indexed_from = self.seq;
    }

    /// Writes the entries gathered so far as an index chunk, linked to the one before.
    fn write_index(&mut self) -> Result<(), EngineError> {
        let entries = self.index.len().saturating_sub(INDEX_HEAD_LEN) / INDEX_ENTRY_LEN;
        let head = IndexHead {
            prev: self.last_index,
            first_seq: self.indexed_from,
            count: u32::try_from(entries).map_err(|_| EngineError::Seal)?,
        };
        for (to, from) in self.index.iter_mut().zip(head.encode()) {
            *to = from;
        }
        let mut payload = std::mem::take(&mut self.index);
        let piece = Piece {
            kind: ChunkKind::Index,
            codec: Codec::Store,
            device: 0,
            layer: Layer::Address,
            first: Pfn(self.indexed_from),
            pages: entries as u64,
            raw_len: payload.len(),
            counts: PageCounts::default(),
        };
        let at = self.sink.position();
        // The index may use the reserve: it is what the reserve is for.
        let reserve = std::mem::replace(&mut self.reserve, 0);
        let result = self.put(&piece, &mut payload);
        self.reserve = reserve;
        self.index = payload;
        result?;
        self.last_index = at;
        self.start_index();
        Ok(())
    }

    /// Writes text or another byte string as chunks of `kind`, each of at most 256 KiB.
    /// `scratch` holds the compressed form.
    ///
    /// # Errors
    /// [`EngineError::Full`], [`EngineError::Sink`], [`EngineError::Seal`].
    pub fn text(
        &mut self,
        kind: ChunkKind,
        bytes: &[u8],
        scratch: &mut Scratch,
    ) -> Result<(), EngineError> {
        self.each_part(kind, bytes, scratch, false)
    }

    fn each_part(
        &mut self,
        kind: ChunkKind,
        bytes: &[u8],
        scratch: &mut Scratch,
        lasting: bool,
    ) -> Result<(), EngineError> {
        let mut at = 0u64;
        for part in bytes.chunks(TEXT_PART) {
            let (codec, payload) = scratch.pack_text(part)?;
            let piece = Piece {
                kind,
                codec,
                device: 0,
                layer: Layer::Address,
                first: Pfn(at),
                raw_len: part.len(),
                counts: PageCounts::default(),
                pages: part.len() as u64,
            };
            if lasting {
                self.repeat.push((piece, payload.to_vec()));
                self.spare.reserve(payload.len());
            }
            self.put(&piece, payload)?;
            at += part.len() as u64;
        }
        Ok(())
    }

    /// Writes index, second header and commit record; gives the record.
    ///
    /// # Errors
    /// [`EngineError::Sink`], [`EngineError::Seal`], [`EngineError::Full`].
    pub fn finish(&mut self, facts: &CommitFacts) -> Result<CommitRecord, EngineError> {
        self.open_reserve();
        if std::mem::take(&mut self.repeat_due) {
            self.write_again()?;
        }
        self.write_index()?;
        self.sink.pad_to(BLOCK).map_err(EngineError::Sink)?;
        let header_copy = self.sink.position();
        self.sink.append(&*self.header).map_err(EngineError::Sink)?;
        self.sink.append(&*self.keys).map_err(EngineError::Sink)?;
        // The record says that all before it is there: so it must be.
        self.sink.flush().map_err(EngineError::Sink)?;
        let mut record = CommitRecord {
            version: FORMAT_VERSION,
            dump_id: self.dump_id,
            outcome: facts.outcome,
            source: facts.source,
            io: facts.io,
            last_part: self.sink.part(),
            total_len: self.sink.position().0 + BLOCK as u64,
            chunks: self.seq,
            index: self.last_index,
            header_copy,
            committed: facts.now,
            memory: PageCounts { asked: facts.asked.0, ..self.memory },
            swap: PageCounts { asked: facts.asked.1, ..self.swap },
            read_errors: facts.read_errors,
            writes: facts.writes,
            phases: facts.phases,
            tag: [0; 16],
        };
        record.tag = self.seal.commit_tag(&record).map_err(|_| EngineError::Seal)?;
        self.sink.append(&record.encode()).map_err(EngineError::Sink)?;
        self.sink.flush().map_err(EngineError::Sink)?;
        Ok(record)
    }
}

/// Seals `payload` in place and completes its header; gives the tag, if there is one.
pub(crate) fn seal<C: Seal + ?Sized>(
    with: &C,
    header: &mut ChunkHeader,
    payload: &mut [u8],
) -> Result<Option<[u8; 16]>, EngineError> {
    let tag = with.seal(header.seq, &header.aad(), payload).map_err(|_| EngineError::Seal)?;
    header.payload_crc = crc_of(payload, tag.as_ref().map_or(&[], |t| &t[..]));
    Ok(tag)
}

/// CRC-32 over payload and tag, without joining them.
fn crc_of(payload: &[u8], tag: &[u8]) -> u32 {
    if tag.is_empty() {
        return crc32(payload);
    }
    lifeboat_format::crc32_parts(&[payload, tag])
}
