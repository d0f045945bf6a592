//! What both memory sources have in common: the trait, the map from physical
//! addresses to offsets in a source, and the reader of pages.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lifeboat_format::bootcfg::MemorySource;
use lifeboat_format::{PAGE, PageRange, Pfn, PhysAddr};

use crate::elfcorehdr::{CoreHeader, ElfError};
use crate::notes;
use crate::oldmem::Oldmem;
use crate::pages::{self, ReadError};
use crate::vmcore::Vmcore;

/// Where memory comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceKind {
    /// `/dev/oldmem`.
    Oldmem,
    /// `/proc/vmcore`.
    Vmcore,
    /// A vmcore file on a host.
    File,
}

impl SourceKind {
    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Oldmem => "/dev/oldmem",
            Self::Vmcore => "/proc/vmcore",
            Self::File => "vmcore file",
        }
    }
}

/// Why a memory source cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Opening or reading failed.
    #[error("{}: {what}: {source}\nhint: {}", .path.display(), io_hint(.source))]
    Io {
        /// What was being done.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The ELF header is not usable.
    #[error("{}: {source}\nhint: {}", .path.display(), elf_hint(.source))]
    Elf {
        /// Of what.
        path: PathBuf,
        /// What is wrong.
        source: ElfError,
    },
    /// The kernel's command line has no usable `elfcorehdr=`.
    #[error(
        "no usable elfcorehdr= on the kernel command line\nhint: this kernel was not started by a crash; a crash kernel loaded with kexec_file_load(2) gets it from the kernel"
    )]
    NoElfcorehdr,
    /// There is no memory to capture.
    #[error("{}: the header describes no memory\nhint: the header is damaged, or the crash kernel was loaded by a tool that left it empty", .path.display())]
    NoMemory {
        /// Of what.
        path: PathBuf,
    },
    /// All sources failed.
    #[error("no memory source works:\n1. {oldmem}\n2. {vmcore}")]
    All {
        /// Why `/dev/oldmem` failed.
        oldmem: Box<OpenError>,
        /// Why `/proc/vmcore` failed.
        vmcore: Box<OpenError>,
    },
}

fn io_hint(e: &io::Error) -> &'static str {
    match e.kind() {
        io::ErrorKind::NotFound => {
            "it exists only in a crash kernel that was built with it and started by a crash"
        }
        io::ErrorKind::PermissionDenied => "run as root; lockdown may forbid it too",
        io::ErrorKind::UnexpectedEof => "the file is cut short; fetch it again",
        _ => "the kernel's messages say more",
    }
}

fn elf_hint(e: &ElfError) -> &'static str {
    match e {
        ElfError::Magic => "only ELF vmcores are read here, not kdump-compressed ones",
        ElfError::Short { .. } => "the file is cut short; fetch it again",
        _ => "the header is damaged or not that of a 64-bit vmcore",
    }
}

impl OpenError {
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }

    pub(crate) fn elf(path: &Path) -> impl FnOnce(ElfError) -> Self {
        let path = path.to_owned();
        move |source| Self::Elf { path, source }
    }
}

/// The memory of a crashed machine.
pub trait OldMemory: Send + Sync {
    /// The memory to capture, in pages: sorted, merged, disjoint.
    fn ranges(&self) -> &[PageRange];
    /// `Elf64_Ehdr` and `Elf64_Phdr[]`, see [`CoreHeader::bytes`].
    fn elfcorehdr(&self) -> &[u8];
    /// All notes as one valid stream; each note verbatim. At most [`notes::MAX_TOTAL`] bytes.
    fn notes(&self) -> &[u8];
    /// PT_NOTE segments that could not be read, or not in full.
    fn notes_lost(&self) -> u32;
    /// Which source this is.
    fn kind(&self) -> SourceKind;
    /// A reader with a file descriptor of its own, for one thread.
    ///
    /// # Errors
    /// [`OpenError::Io`].
    fn reader(&self) -> Result<MemoryReader, OpenError>;
}

/// A piece of physical memory and where its bytes lie in the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    /// First byte, physical.
    pub(crate) start: u64,
    /// One behind the last byte, physical.
    pub(crate) end: u64,
    /// Offset of the first byte in the source.
    pub(crate) offset: u64,
}

/// Segments made disjoint and ascending: where two overlap, those of `ram` win over
/// those of `alias`, and among equals the one that starts first. Both are consumed;
/// takes `n log n` steps however hostile they are.
pub(crate) fn disjoint(mut ram: Vec<Segment>, mut alias: Vec<Segment>) -> Vec<Segment> {
    sweep(&mut ram);
    sweep(&mut alias);
    let mut out: Vec<Segment> = Vec::with_capacity(ram.len());
    let mut rest = ram.iter().copied().peekable();
    for mut extra in alias {
        // A RAM segment taken for an earlier alias may reach over this one.
        if let Some(last) = out.last() {
            extra = from(extra, last.end);
        }
        while let Some(r) = rest.next_if(|r| r.start < extra.end) {
            push_part(&mut out, extra, r.start);
            extra = from(extra, r.end);
            out.push(r);
        }
        push_part(&mut out, extra, extra.end);
    }
    out.extend(rest);
    out
}

/// Sorts, and cuts from each segment what earlier ones cover.
fn sweep(list: &mut Vec<Segment>) {
    list.sort_unstable_by_key(|s| (s.start, std::cmp::Reverse(s.end), s.offset));
    let mut covered = 0;
    list.retain_mut(|s| {
        *s = from(*s, covered);
        covered = covered.max(s.end);
        s.start < s.end
    });
}

/// What of `s` lies at or behind `start`.
fn from(s: Segment, start: u64) -> Segment {
    let cut = start.saturating_sub(s.start).min(s.end.saturating_sub(s.start));
    Segment { start: s.start + cut, end: s.end, offset: s.offset + cut }
}

fn push_part(out: &mut Vec<Segment>, s: Segment, end: u64) {
    let end = s.end.min(end);
    if s.start < end {
        out.push(Segment { end, ..s });
    }
}

/// Reads old memory for one thread. Reading allocates nothing.
#[derive(Debug)]
pub struct MemoryReader {
    file: File,
    map: Arc<[Segment]>,
}

impl MemoryReader {
    pub(crate) fn new(file: File, map: Arc<[Segment]>) -> Self {
        Self { file, map }
    }

    /// Fills `buf`, whole pages, with the memory from page `first` on. `bad` gets each
    /// page that could not be read, ascending, among them those that the source does
    /// not have; their bytes in `buf` are zeros. Gives the number of such pages.
    ///
    /// Of a page that is only in part memory (the edge of a range that is no page
    /// boundary), what is memory is read and the rest is zeros.
    ///
    /// # Errors
    /// [`ReadError`]: then the source as a whole is gone.
    pub fn read_pages(
        &mut self,
        first: Pfn,
        buf: &mut [u8],
        bad: &mut dyn FnMut(Pfn),
    ) -> Result<u64, ReadError> {
        let len = buf.len();
        let odd = ReadError::Buffer { len };
        let pages = len / PAGE;
        let base = first.addr().ok_or(odd)?.0;
        if !len.is_multiple_of(PAGE) || base.checked_add(len as u64).is_none() {
            return Err(odd);
        }
        let mut lost = 0u64;
        let mut done = 0;
        while done < pages {
            let phys = base + (done * PAGE) as u64;
            let (what, count) = self.at(phys, pages - done);
            let part = buf.get_mut(done * PAGE..(done + count) * PAGE).ok_or(odd)?;
            let mut tell = |page: usize| {
                lost += 1;
                bad(Pfn(first.0 + (done + page) as u64));
            };
            match what {
                Piece::Whole(offset) => pages::read_run(&self.file, offset, part, &mut tell)?,
                Piece::Partial => {
                    if !self.read_partial(phys, part)? {
                        part.fill(0);
                        tell(0);
                    }
                }
                Piece::Hole => {
                    part.fill(0);
                    (0..count).for_each(tell);
                }
            }
            done += count;
        }
        Ok(lost)
    }

    /// What lies at `phys` (a page's address), and for how many pages, at most `most`.
    fn at(&self, phys: u64, most: usize) -> (Piece, usize) {
        let page = PAGE as u64;
        let pages = |bytes: u64| usize::try_from(bytes / page).unwrap_or(most).min(most);
        let index = self.map.partition_point(|s| s.end <= phys);
        match self.map.get(index) {
            None => (Piece::Hole, most),
            Some(s) if s.start >= phys + page => (Piece::Hole, pages(s.start - phys).max(1)),
            Some(s) if s.start <= phys && s.end - phys >= page => {
                (Piece::Whole(s.offset + (phys - s.start)), pages(s.end - phys))
            }
            Some(_) => (Piece::Partial, 1),
        }
    }

    /// A page that no one segment covers. `false` when any byte of memory in it failed.
    fn read_partial(&self, phys: u64, page: &mut [u8]) -> Result<bool, ReadError> {
        page.fill(0);
        let end = phys + page.len() as u64;
        let index = self.map.partition_point(|s| s.end <= phys);
        for s in self.map.iter().skip(index).take_while(|s| s.start < end) {
            let (from, to) = (s.start.max(phys), s.end.min(end));
            let range = usize::try_from(from - phys).ok().zip(usize::try_from(to - phys).ok());
            let Some(part) = range.and_then(|(a, b)| page.get_mut(a..b)) else {
                return Ok(false);
            };
            if !pages::read_piece(&self.file, s.offset + (from - s.start), part)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads `buf.len()` bytes of physical memory at `addr`.
    ///
    /// # Errors
    /// [`Unreadable`] when any of the bytes could not be read.
    pub fn read_phys(&mut self, addr: PhysAddr, buf: &mut [u8]) -> Result<(), Unreadable> {
        let failed = Unreadable { addr };
        let mut at = addr.0;
        let mut rest = buf;
        // Segments are disjoint and not empty: each round takes at least a byte.
        while !rest.is_empty() {
            let index = self.map.partition_point(|s| s.end <= at);
            let s = self.map.get(index).filter(|s| s.start <= at).ok_or(failed)?;
            let len = usize::try_from(s.end - at).unwrap_or(usize::MAX).min(rest.len());
            let (now, later) = rest.split_at_mut_checked(len).ok_or(failed)?;
            pages::read_exact(&self.file, s.offset + (at - s.start), now).map_err(|_| failed)?;
            at += len as u64;
            rest = later;
        }
        Ok(())
    }
}

enum Piece {
    /// Whole pages at this offset of the source.
    Whole(u64),
    /// A page that is memory in part, or in pieces.
    Partial,
    /// Nothing.
    Hole,
}

/// Physical memory that could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("physical memory at {:#x} cannot be read", addr.0)]
pub struct Unreadable {
    /// Where.
    pub addr: PhysAddr,
}

/// Access to physical memory by address.
pub trait PhysRead {
    /// Fills `buf` from `addr` on.
    ///
    /// # Errors
    /// [`Unreadable`].
    fn read_phys(&mut self, addr: PhysAddr, buf: &mut [u8]) -> Result<(), Unreadable>;
}

impl PhysRead for MemoryReader {
    fn read_phys(&mut self, addr: PhysAddr, buf: &mut [u8]) -> Result<(), Unreadable> {
        Self::read_phys(self, addr, buf)
    }
}

impl<M: PhysRead + ?Sized> PhysRead for &mut M {
    fn read_phys(&mut self, addr: PhysAddr, buf: &mut [u8]) -> Result<(), Unreadable> {
        (**self).read_phys(addr, buf)
    }
}

/// What a source knows once it is open; shared by both.
#[derive(Debug)]
pub(crate) struct Common {
    pub(crate) path: PathBuf,
    pub(crate) kind: SourceKind,
    pub(crate) header: CoreHeader,
    pub(crate) ranges: Vec<PageRange>,
    pub(crate) notes: Vec<u8>,
    pub(crate) notes_lost: u32,
    pub(crate) map: Arc<[Segment]>,
}

impl Common {
    /// Reads header, notes and map. `at` is the offset of the ELF header in the
    /// source; `segment` gives a PT_LOAD's place in it.
    pub(crate) fn open(
        file: &File,
        path: &Path,
        kind: SourceKind,
        at: u64,
        segment: impl Fn(&crate::elfcorehdr::ProgramHeader) -> Segment,
    ) -> Result<Self, OpenError> {
        let header = read_header(file, path, at)?;
        let (mut ram, mut alias) = (Vec::new(), Vec::new());
        for load in header.loads() {
            let list = if load.is_kernel_alias() { &mut alias } else { &mut ram };
            list.push(segment(load));
        }
        let map: Arc<[Segment]> = disjoint(ram, alias).into();
        let ranges = header.memory_ranges();
        if ranges.is_empty() {
            return Err(OpenError::NoMemory { path: path.to_owned() });
        }
        let (notes, notes_lost) = read_notes(file, &header);
        Ok(Self { path: path.to_owned(), kind, header, ranges, notes, notes_lost, map })
    }

    pub(crate) fn reader(&self) -> Result<MemoryReader, OpenError> {
        let file = File::open(&self.path).map_err(OpenError::io("open", &self.path))?;
        Ok(MemoryReader::new(file, Arc::clone(&self.map)))
    }
}

fn read_header(file: &File, path: &Path, at: u64) -> Result<CoreHeader, OpenError> {
    use crate::elfcorehdr::{EHDR_LEN, ElfHead};
    let mut first = [0u8; EHDR_LEN];
    let read = |offset, buf: &mut [u8]| {
        pages::read_exact(file, offset, buf).map_err(OpenError::io("read ELF header", path))
    };
    read(at, &mut first)?;
    let head = ElfHead::parse(&first).map_err(OpenError::elf(path))?;
    let mut bytes = vec![0u8; head.len()];
    read(at, &mut bytes)?;
    CoreHeader::parse(&bytes).map_err(OpenError::elf(path))
}

/// All notes as one stream, and how many segments were lost in part or in full. In
/// every layout `p_offset` is where the source has them: an elfcorehdr's is a
/// physical address, and `/dev/oldmem` takes those as offsets.
fn read_notes(file: &File, header: &CoreHeader) -> (Vec<u8>, u32) {
    let mut all = Vec::new();
    let mut lost = 0;
    for segment in header.notes() {
        let len = usize::try_from(segment.filesz).unwrap_or(usize::MAX);
        if len > notes::MAX_SEGMENT || all.len() + len > notes::MAX_TOTAL {
            lost += 1;
            continue;
        }
        let start = all.len();
        all.resize(start + len, 0);
        let part = all.get_mut(start..).unwrap_or_default();
        if pages::read_exact(file, segment.offset, part).is_err() {
            lost += 1;
            all.truncate(start);
            continue;
        }
        // What follows the last whole note is padding, or, when it is not zero, damage.
        let valid = notes::valid_len(part);
        if part.get(valid..valid.saturating_add(4)).is_some_and(|next| next != [0; 4]) {
            lost += 1;
        }
        all.truncate(start + valid);
    }
    all.shrink_to_fit();
    (all, lost)
}

/// Either source.
#[derive(Debug)]
pub enum AnyMemory {
    /// `/dev/oldmem`.
    Oldmem(Oldmem),
    /// `/proc/vmcore` or a vmcore file.
    Vmcore(Vmcore),
}

impl AnyMemory {
    fn inner(&self) -> &dyn OldMemory {
        match self {
            Self::Oldmem(m) => m,
            Self::Vmcore(m) => m,
        }
    }
}

impl OldMemory for AnyMemory {
    fn ranges(&self) -> &[PageRange] {
        self.inner().ranges()
    }
    fn elfcorehdr(&self) -> &[u8] {
        self.inner().elfcorehdr()
    }
    fn notes(&self) -> &[u8] {
        self.inner().notes()
    }
    fn notes_lost(&self) -> u32 {
        self.inner().notes_lost()
    }
    fn kind(&self) -> SourceKind {
        self.inner().kind()
    }
    fn reader(&self) -> Result<MemoryReader, OpenError> {
        self.inner().reader()
    }
}

/// Opens the source that the boot configuration asks for. `Auto` tries `/dev/oldmem`,
/// then `/proc/vmcore`; with the second one comes why the first one failed.
///
/// # Errors
/// [`OpenError`]; for `Auto`, [`OpenError::All`] with both causes.
pub fn open_auto(which: MemorySource) -> Result<(AnyMemory, Option<OpenError>), OpenError> {
    match which {
        MemorySource::Oldmem => Ok((AnyMemory::Oldmem(Oldmem::open()?), None)),
        MemorySource::Vmcore => Ok((AnyMemory::Vmcore(Vmcore::open_proc()?), None)),
        MemorySource::Auto => match Oldmem::open() {
            Ok(memory) => Ok((AnyMemory::Oldmem(memory), None)),
            Err(oldmem) => match Vmcore::open_proc() {
                Ok(memory) => Ok((AnyMemory::Vmcore(memory), Some(oldmem))),
                Err(vmcore) => {
                    Err(OpenError::All { oldmem: Box::new(oldmem), vmcore: Box::new(vmcore) })
                }
            },
        },
    }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
