//! `/proc/vmcore`, and vmcore files in ELF format on a host.

use std::fs::File;
use std::path::Path;

use lifeboat_format::{PAGE, PageRange};

use crate::elfcorehdr::ProgramHeader;
use crate::memory::{Common, MemoryReader, OldMemory, OpenError, Segment, SourceKind};

/// Where the kernel offers it.
pub const PROC_VMCORE: &str = "/proc/vmcore";

/// An open vmcore.
#[derive(Debug)]
pub struct Vmcore(Common);

impl Vmcore {
    /// Opens `/proc/vmcore`.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_proc() -> Result<Self, OpenError> {
        let path = Path::new(PROC_VMCORE);
        let file = File::open(path).map_err(OpenError::io("open", path))?;
        Common::open(&file, path, SourceKind::Vmcore, 0, proc_segment).map(Self)
    }

    /// Opens a vmcore file. Memory beyond the end of the file, or beyond a segment's
    /// `p_filesz`, is reported as unreadable.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_file(path: &Path) -> Result<Self, OpenError> {
        let file = File::open(path).map_err(OpenError::io("open", path))?;
        let len = file.metadata().map_err(OpenError::io("stat", path))?.len();
        let segment = |load: &ProgramHeader| file_segment(load, len);
        Common::open(&file, path, SourceKind::File, 0, segment).map(Self)
    }
}

/// The kernel rounds each PT_LOAD outward to pages and has those bytes in the file
/// (`process_ptload_program_headers_elf64()`, `fs/proc/vmcore.c`), so an edge page
/// can be read in full.
fn proc_segment(load: &ProgramHeader) -> Segment {
    let page = PAGE as u64;
    let before = load.paddr % page;
    let end = (load.paddr + load.memsz).next_multiple_of(page);
    if load.offset % page != before {
        return Segment { start: load.paddr, end: load.paddr + load.memsz, offset: load.offset };
    }
    Segment { start: load.paddr - before, end, offset: load.offset - before }
}

/// Only the bytes that the file has. A segment whose `p_filesz` is short was written
/// by a filter: the rest was left out, and must not be taken for zeros.
fn file_segment(load: &ProgramHeader, file_len: u64) -> Segment {
    let there = load.filesz.min(load.memsz).min(file_len.saturating_sub(load.offset));
    Segment { start: load.paddr, end: load.paddr + there, offset: load.offset }
}

impl OldMemory for Vmcore {
    fn ranges(&self) -> &[PageRange] {
        &self.0.ranges
    }
    fn elfcorehdr(&self) -> &[u8] {
        self.0.header.bytes()
    }
    fn notes(&self) -> &[u8] {
        &self.0.notes
    }
    fn notes_lost(&self) -> u32 {
        self.0.notes_lost
    }
    fn kind(&self) -> SourceKind {
        self.0.kind
    }
    fn reader(&self) -> Result<MemoryReader, OpenError> {
        self.0.reader()
    }
}
