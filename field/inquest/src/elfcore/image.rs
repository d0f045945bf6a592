//! Which bytes of a core file go where, and which pages are segments.
//!
//! Pages are fetched by several threads, a block of them at a time, and written in order:
//! what is in flight is bounded by the number of threads, whatever the process's size.

use std::io::{Seek, SeekFrom, Write};

use lifeboat_format::is_zero;

use crate::elfcore::pipeline::{self, Block};
use crate::elfcore::report::{Origin, Report, Stretch};
use crate::elfcore::{Pages, Process, notes};
use crate::{Hole, PAGE};

const EHDR: u64 = 64;
const PHDR: u64 = 56;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const EM_X86_64: u16 = 62;
/// `e_phnum` when the count is in section header 0 (`elf(5)`).
const PN_XNUM: u16 = 0xffff;
const PAGE64: u64 = PAGE as u64;
/// A stretch of zeros that is shorter stays in the file, as a hole of it: not every reader
/// of core files knows what `p_memsz` is for. A longer one would make the file as long as
/// what was reserved (a thread's heap: 64 MiB), to everything that cannot copy holes.
const SHORT_ZEROS: u64 = 16 << 20;
/// Most segments: a table of 224 MiB. Of a process with more, the rest is told as a hole.
const MAX_LOADS: usize = 1 << 22;

/// Why no core file was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CoreError {
    /// The file cannot be written.
    #[error(
        "the core file cannot be written\nhint: free space at the destination, or write elsewhere"
    )]
    Write(#[from] std::io::Error),
    /// A mapping ends before it begins, is not of whole pages, or lies within another.
    #[error(
        "a mapping at {start:#x} to {end:#x} cannot be\nhint: the dead kernel's list of mappings is damaged; see `lifeboat maps`"
    )]
    Mapping {
        /// Address of its first byte.
        start: u64,
        /// Address behind its last byte.
        end: u64,
    },
    /// A thread that fetches pages ended before its time.
    #[error(
        "a thread that fetches pages ended early\nhint: this is a fault of this program; please report it"
    )]
    Worker,
}

/// How a core file is written.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// Threads that fetch pages; 0 is one a CPU, at most 8.
    pub threads: usize,
    /// Most pages that are looked at. A damaged page table can map the same page over and
    /// over; all beyond is [`Hole::Malformed`].
    pub most_pages: u64,
    /// Told now and then: pages looked at.
    pub progress: Option<&'a (dyn Fn(u64) + Sync)>,
}

impl Default for Options<'_> {
    /// One thread a CPU, 2^32 pages (16 TiB).
    fn default() -> Self {
        Self { threads: 0, most_pages: 1 << 32, progress: None }
    }
}

impl std::fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("threads", &self.threads)
            .field("most_pages", &self.most_pages)
            .finish_non_exhaustive()
    }
}

/// Writes the core file of a process into `out`, from its start.
///
/// # Errors
/// [`CoreError`]. What is missing of the process is no error: it is in the report.
pub fn write<W: Write + Seek>(
    out: W,
    process: &Process,
    pages: &dyn Pages,
    options: &Options<'_>,
) -> Result<Report, CoreError> {
    check(process)?;
    let notes = notes::encode(process);
    let at = (EHDR + notes.len() as u64).next_multiple_of(PAGE64);
    let mut image = Image::new(out, at);
    pipeline::run(&process.mappings, pages, options, &mut |block| image.block(block))?;
    image.finish(&notes)
}

fn check(process: &Process) -> Result<(), CoreError> {
    let mut before = 0;
    for m in &process.mappings {
        let whole = m.start.is_multiple_of(PAGE64) && m.end.is_multiple_of(PAGE64);
        if m.start < before || m.end <= m.start || !whole {
            return Err(CoreError::Mapping { start: m.start, end: m.end });
        }
        before = m.end;
    }
    Ok(())
}

/// A PT_LOAD.
#[derive(Debug, Clone, Copy)]
struct Load {
    flags: u32,
    vaddr: u64,
    offset: u64,
    filesz: u64,
    memsz: u64,
}

/// A core file on its way.
struct Image<W> {
    out: W,
    /// Where the next page goes; the zeros that `open` ends in are not counted yet.
    at: u64,
    /// Where the last write ended.
    written: u64,
    loads: Vec<Load>,
    /// The segment that may still grow.
    open: Option<Load>,
    report: Report,
}

impl<W: Write + Seek> Image<W> {
    fn new(out: W, at: u64) -> Self {
        let report = Report::default();
        Self { out, at, written: 0, loads: Vec::new(), open: None, report }
    }

    /// Takes a block of pages, the next one of its mapping.
    fn block(&mut self, block: &Block) -> Result<(), CoreError> {
        match block {
            Block::Pages { start, flags, found, bytes } => {
                let pages = found.iter().zip(bytes.chunks_exact(PAGE));
                let mut addr = *start;
                for (found, bytes) in pages {
                    match found {
                        Ok(origin) => self.page(addr, *flags, *origin, bytes)?,
                        Err(why) => self.hole(addr, addr + PAGE64, *why),
                    }
                    addr += PAGE64;
                }
            }
            Block::Untouched { start, end, .. } if self.is_full() => {
                self.hole(*start, *end, Hole::Unsupported);
            }
            Block::Untouched { start, end, flags } => {
                self.zeros(*start, *end - *start, *flags);
                self.report.held(Origin::Untouched, (end - start) / PAGE64);
            }
            Block::Hole { start, end, why } => self.hole(*start, *end, *why),
            Block::EndOfMapping => self.close(),
        }
        Ok(())
    }

    fn close(&mut self) {
        let Some(mut load) = self.open.take() else { return };
        let zeros = load.memsz - load.filesz;
        if zeros < SHORT_ZEROS {
            load.filesz = load.memsz;
            self.at += zeros;
        }
        self.loads.push(load);
    }

    /// Whether another segment may begin.
    fn is_full(&self) -> bool {
        self.loads.len() >= MAX_LOADS && self.open.is_none()
    }

    fn hole(&mut self, start: u64, end: u64, why: Hole) {
        self.close();
        self.report.lost(Stretch { start, end, why });
    }

    fn zeros(&mut self, addr: u64, len: u64, flags: u32) {
        let fresh = Load { flags, vaddr: addr, offset: self.at, filesz: 0, memsz: 0 };
        // Saturating: no sum of a mapping's parts is longer than the mapping.
        let open = self.open.get_or_insert(fresh);
        open.memsz = open.memsz.saturating_add(len);
    }

    fn page(
        &mut self,
        addr: u64,
        flags: u32,
        origin: Origin,
        bytes: &[u8],
    ) -> Result<(), CoreError> {
        if self.is_full() {
            self.hole(addr, addr + PAGE64, Hole::Unsupported);
            return Ok(());
        }
        self.report.held(origin, 1);
        if is_zero(bytes) {
            self.zeros(addr, PAGE64, flags);
            return Ok(());
        }
        if self.open.is_some_and(|o| o.memsz - o.filesz >= SHORT_ZEROS) {
            self.close();
        }
        let fresh = Load { flags, vaddr: addr, offset: self.at, filesz: 0, memsz: 0 };
        let open = self.open.get_or_insert(fresh);
        // The zeros behind the last page become a hole of the file.
        self.at += open.memsz - open.filesz + PAGE64;
        open.memsz += PAGE64;
        open.filesz = open.memsz;
        let at = self.at - PAGE64;
        self.write_at(at, bytes)
    }

    fn write_at(&mut self, at: u64, bytes: &[u8]) -> Result<(), CoreError> {
        if at != self.written {
            self.out.seek(SeekFrom::Start(at))?;
        }
        self.out.write_all(bytes)?;
        self.written = at + bytes.len() as u64;
        Ok(())
    }

    /// Writes all but the pages.
    fn finish(mut self, notes: &[u8]) -> Result<Report, CoreError> {
        self.close();
        let table = self.at;
        let mut tail = Vec::new();
        let note = Load { flags: 0, vaddr: 0, offset: EHDR, filesz: notes.len() as u64, memsz: 0 };
        header(&mut tail, PT_NOTE, &note, 4);
        for load in &self.loads {
            header(&mut tail, PT_LOAD, load, PAGE64);
        }
        let count = self.loads.len() + 1;
        let short = u16::try_from(count).ok().filter(|n| *n < PN_XNUM);
        let sections = if short.is_some() { 0 } else { table + count as u64 * PHDR };
        if short.is_none() {
            section(&mut tail, count);
        }
        self.write_at(table, &tail)?;
        self.report.len = table + tail.len() as u64;
        self.report.segments = self.loads.len() as u64;
        let head = elf_header(table, sections, short);
        self.write_at(0, &head)?;
        self.write_at(EHDR, notes)?;
        self.out.flush()?;
        Ok(self.report)
    }
}

fn header(out: &mut Vec<u8>, kind: u32, load: &Load, align: u64) {
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&load.flags.to_le_bytes());
    for word in [load.offset, load.vaddr, 0, load.filesz, load.memsz, align] {
        out.extend_from_slice(&word.to_le_bytes());
    }
}

/// Section header 0, with the number of program headers in `sh_info`.
fn section(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&[0; 32]);
    // sh_size: the number of section headers, as the kernel has it (fill_extnum_info()).
    out.extend_from_slice(&1u64.to_le_bytes());
    out.extend_from_slice(&0u32.to_le_bytes());
    // MAX_LOADS keeps it below 2^32.
    out.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&[0; 16]);
}

fn elf_header(table: u64, sections: u64, short: Option<u16>) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    // ELFCLASS64, ELFDATA2LSB, EV_CURRENT, ELFOSABI_NONE; ET_CORE.
    out.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    out.extend_from_slice(&4u16.to_le_bytes());
    out.extend_from_slice(&EM_X86_64.to_le_bytes());
    out.extend_from_slice(&1u32.to_le_bytes());
    for word in [0, table, sections] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(&0u32.to_le_bytes());
    let extra = u16::from(short.is_none());
    // e_ehsize, e_phentsize, e_phnum, e_shentsize, e_shnum, e_shstrndx.
    for half in [64, 56, short.unwrap_or(PN_XNUM), 64 * extra, extra, 0] {
        out.extend_from_slice(&half.to_le_bytes());
    }
    out
}
