//! One compressing worker: read a batch, classify its pages, fill a chunk, pack it.

use std::io;
use std::sync::Mutex;

use lifeboat_format::chunk::{MAX_CHUNK_PAGES, MAX_RUNS, RUN_LEN};
use lifeboat_format::commit::PageCounts;
use lifeboat_format::{ChunkKind, Codec, PAGE, PageClass, PageRange, Pfn, Run};

use crate::frames::{Piece, TEXT_PART};
use crate::{Cursor, EngineError, FrameSink, Frames, Monitor, PageRead, Seal};

/// Pages read at a time.
const BATCH: usize = 32;
/// Room for the run table in front of the data.
const HEAD: usize = 4 + MAX_RUNS * RUN_LEN;

/// A compressor and the buffer for what comes out of it.
pub struct Scratch {
    zstd: Option<zstd::bulk::Compressor<'static>>,
    out: Vec<u8>,
}

impl Scratch {
    /// For payloads of up to `max_raw` bytes, at a zstd level or (`None`) as they are.
    ///
    /// # Errors
    /// [`EngineError::Compress`] when zstd refuses the level or has no memory.
    pub fn new(level: Option<i32>, max_raw: usize) -> Result<Self, EngineError> {
        let zstd =
            level.map(zstd::bulk::Compressor::new).transpose().map_err(EngineError::Compress)?;
        let mut scratch = Self { zstd, out: vec![0; max_raw.max(4096)] };
        // zstd makes its tables at the first use of a size: have that behind us.
        let warm = vec![0u8; max_raw.max(4096)];
        scratch.pack(&warm)?;
        Ok(scratch)
    }

    /// Compresses `raw`; stores it as it is when that would not be larger.
    ///
    /// # Errors
    /// [`EngineError::Compress`] for a payload longer than promised.
    pub(crate) fn pack(&mut self, raw: &[u8]) -> Result<(Codec, &mut [u8]), EngineError> {
        let too_long = || EngineError::Compress(io::ErrorKind::InvalidInput.into());
        if let Some(zstd) = &mut self.zstd {
            // An error here means that the result would be longer than `raw`.
            let limit = raw.len().min(self.out.len());
            let space = self.out.get_mut(..limit).ok_or_else(too_long)?;
            if let Ok(len) = zstd.compress_to_buffer(raw, space)
                && len < raw.len()
            {
                return Ok((Codec::Zstd, self.out.get_mut(..len).ok_or_else(too_long)?));
            }
        }
        let space = self.out.get_mut(..raw.len()).ok_or_else(too_long)?;
        space.copy_from_slice(raw);
        Ok((Codec::Store, space))
    }
}

/// What the workers of one source share.
pub struct Job<'a> {
    /// [`ChunkKind::Memory`] or [`ChunkKind::Swap`].
    pub kind: ChunkKind,
    /// Number of the swap device; 0 for memory.
    pub device: u16,
    /// Name of the source for messages.
    pub name: &'static str,
    /// Where the workers are.
    pub cursor: &'a Cursor<'a>,
    /// Time.
    pub monitor: &'a dyn Monitor,
}

/// A worker's memory: one chunk, its runs, its compressor.
pub struct Worker {
    scratch: Scratch,
    /// `[slack | HEAD | data pages | slack]`; the run table is written to end where
    /// the data starts, and the data starts at a page boundary of our own memory, so
    /// that a reader may use O_DIRECT.
    buf: Vec<u8>,
    /// Where the data starts in `buf`.
    origin: usize,
    runs: Vec<Run>,
    data: usize,
    capacity: usize,
    first: u64,
    counts: PageCounts,
}

impl Worker {
    /// A worker for chunks of up to `chunk_pages` data pages, at a zstd level or none.
    ///
    /// # Errors
    /// [`EngineError::Compress`].
    pub fn new(level: Option<i32>, chunk_pages: u32) -> Result<Self, EngineError> {
        let capacity = (chunk_pages.clamp(1, MAX_CHUNK_PAGES) as usize).max(BATCH);
        let raw = HEAD + capacity * PAGE;
        let buf = vec![0; raw + PAGE];
        // The vector never grows, so its address stays.
        let origin = HEAD + buf.as_ptr().wrapping_add(HEAD).align_offset(PAGE);
        Ok(Self {
            scratch: Scratch::new(level, raw.max(TEXT_PART))?,
            buf,
            origin,
            runs: Vec::with_capacity(MAX_RUNS),
            data: 0,
            capacity,
            first: 0,
            counts: PageCounts::default(),
        })
    }

    /// The compressor, for text chunks before and after the pages.
    pub fn scratch(&mut self) -> &mut Scratch {
        &mut self.scratch
    }

    fn pages(&self) -> u64 {
        self.counts.seen()
    }

    /// Whether another batch could overflow the chunk.
    fn is_full(&self) -> bool {
        self.data + BATCH > self.capacity || self.runs.len() + BATCH > MAX_RUNS
    }

    fn push(&mut self, class: PageClass) {
        match class {
            PageClass::Data => self.counts.data += 1,
            PageClass::Zero => self.counts.zero += 1,
            PageClass::Unreadable => self.counts.unreadable += 1,
            PageClass::Excluded => self.counts.excluded += 1,
        }
        match self.runs.last_mut() {
            Some(run) if run.class == class => run.count += 1,
            _ => self.runs.push(Run { class, count: 1 }),
        }
    }

    /// Reads and classifies `pages` (at most BATCH) from `first`.
    fn take(
        &mut self,
        reader: &mut dyn PageRead,
        first: Pfn,
        pages: usize,
    ) -> Result<(), crate::ReadFault> {
        let start = self.origin + self.data * PAGE;
        let mut bad = [false; BATCH];
        let space = self.buf.get_mut(start..start + pages * PAGE).unwrap_or_default();
        reader.read(first, space, &mut |index| {
            if let Some(flag) = bad.get_mut(index) {
                *flag = true;
            }
        })?;
        for (index, bad) in bad.iter().enumerate().take(pages) {
            let from = start + index * PAGE;
            let page = self.buf.get(from..from + PAGE).unwrap_or_default();
            let class = if *bad {
                PageClass::Unreadable
            } else if is_zero(page) {
                PageClass::Zero
            } else {
                PageClass::Data
            };
            if class == PageClass::Data {
                let to = self.origin + self.data * PAGE;
                if to != from {
                    self.buf.copy_within(from..from + PAGE, to);
                }
                self.data += 1;
            }
            self.push(class);
        }
        Ok(())
    }

    /// Packs what was gathered and hands it to `frames`.
    fn emit<S: FrameSink, C: Seal>(
        &mut self,
        job: &Job<'_>,
        frames: &Mutex<Frames<S, C>>,
    ) -> Result<(), EngineError> {
        if self.runs.is_empty() {
            return Ok(());
        }
        let table = 4 + self.runs.len() * RUN_LEN;
        let start = self.origin - table;
        let end = self.origin + self.data * PAGE;
        let count = u32::try_from(self.runs.len()).map_err(|_| EngineError::Seal)?;
        let head = self.buf.get_mut(start..self.origin).unwrap_or_default();
        let bytes =
            count.to_le_bytes().into_iter().chain(self.runs.iter().flat_map(|r| r.encode()));
        for (to, from) in head.iter_mut().zip(bytes) {
            *to = from;
        }
        let raw = self.buf.get(start..end).unwrap_or_default();
        let (codec, payload) = self.scratch.pack(raw)?;
        let piece = Piece {
            kind: job.kind,
            codec,
            device: job.device,
            first: Pfn(self.first),
            raw_len: end - start,
            counts: self.counts,
            pages: self.counts.seen(),
        };
        frames.lock().map_err(|_| EngineError::Poisoned)?.put(&piece, payload)?;
        self.clear();
        Ok(())
    }

    fn clear(&mut self) {
        self.runs.clear();
        self.data = 0;
        self.counts = PageCounts::default();
    }

    fn span<S: FrameSink, C: Seal>(
        &mut self,
        job: &Job<'_>,
        span: PageRange,
        reader: &mut dyn PageRead,
        frames: &Mutex<Frames<S, C>>,
    ) -> Result<(), EngineError> {
        self.clear();
        self.first = span.start.0;
        let mut at = span.start.0;
        while at < span.end.0 {
            if self.is_full() {
                let next = self.first + self.pages();
                self.emit(job, frames)?;
                self.first = next;
            }
            let pages = usize::try_from(span.end.0 - at).map_or(BATCH, |left| left.min(BATCH));
            if let Err(fault) = self.take(reader, Pfn(at), pages) {
                // What was read before is good: keep it.
                self.emit(job, frames)?;
                return Err(EngineError::Source { what: job.name, source: fault.0 });
            }
            at += pages as u64;
            if !job.monitor.tick(pages as u64) {
                self.emit(job, frames)?;
                return Err(EngineError::Stopped);
            }
        }
        self.emit(job, frames)
    }
}

/// Runs one worker until the cursor is at its end or something stops it.
///
/// # Errors
/// [`EngineError`]; see [`EngineError::can_commit`] for whether the dump can be finished.
pub fn capture<S: FrameSink, C: Seal>(
    worker: &mut Worker,
    job: &Job<'_>,
    reader: &mut dyn PageRead,
    frames: &Mutex<Frames<S, C>>,
) -> Result<(), EngineError> {
    while let Some(span) = job.cursor.next() {
        worker.span(job, span, reader, frames)?;
    }
    Ok(())
}

/// Whether a page is all zero; most are not and differ in the first word or two.
fn is_zero(page: &[u8]) -> bool {
    let (blocks, rest) = page.as_chunks::<64>();
    rest.iter().all(|b| *b == 0)
        && blocks.iter().all(|block| {
            let (words, _) = block.as_chunks::<8>();
            words.iter().fold(0, |acc, w| acc | u64::from_ne_bytes(*w)) == 0
        })
}
