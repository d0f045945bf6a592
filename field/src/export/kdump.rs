//! The kdump-compressed format of makedumpfile, header version 6, for x86-64.
//!
//! ```text
//! block 0      disk_dump_header (makedumpfile's diskdump_mod.h)
//! block 1..    kdump_sub_header, then the notes, verbatim
//! bitmap 1     a bit for each pfn below max_mapnr: this was memory
//! bitmap 2     the same: this page is in the file
//! page_desc[]  one for each bit of bitmap 2, in order of pfn
//! a hole       where there are missing pages: room for their descriptors, had they any
//! page data    compressed one by one; equal pages share theirs, all zero pages the first
//! ```
//! How many descriptors there are is known only when every chunk was decoded. So they are
//! written as if no page was missing, and moved together at the end: 24 bytes a page.
//!
//! Missing pages are set in bitmap 1 and clear in bitmap 2, as makedumpfile's
//! excluded pages are: a reader then says "excluded" and never shows contents. What
//! is no memory at all is clear in both. `dump_level` is 0, so that crash does not
//! fill what is missing with zeros.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

use lifeboat_format::{PAGE, PageClass, PageRange};
use lifeboat_sources::notes::{NT_PRSTATUS, Notes, vmcoreinfo};
use lifeboat_sources::vmcoreinfo::VmcoreInfo;
use rustix::fs::{FallocateFlags, fallocate};

use super::coverage::{Coverage, Held};
use super::links::Links;
use super::marks::Span;
use super::pipeline::{self, Order};
use super::{ExportError, Options, Report, page_of};
use crate::dump::{OpenDump, PageSource, Piece};
use crate::stream::Stream;

const PAGE64: u64 = PAGE as u64;
/// `sizeof(struct kdump_sub_header)`, version 6.
const SUB_HEADER: usize = 104;
/// `sizeof(struct page_desc)`: offset, size, flags, page_flags.
const DESC: usize = 24;
const DESC64: u64 = DESC as u64;
/// Descriptors written or moved at a time.
const DESC_BATCH: usize = 16 << 10;
/// Highest pfn that the bitmaps may need: 64 TiB, 2 GiB of (sparse) bitmap each.
const MAX_PFN: u64 = 1 << 34;
/// `__START_KERNEL_map`.
const KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;
/// Bytes of each of the six fields of `struct new_utsname`.
const UTS_FIELD: usize = 65;

/// How pages are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// zlib level 1, as `makedumpfile -c`: every reader of the format knows it.
    #[default]
    Zlib,
    /// zstd level 1, as `makedumpfile -z`: in half the time. Debian 13's crash 8.0.6 and
    /// drgn 0.3.0 read it; an older crash may not.
    Zstd,
}

impl Compression {
    /// `DUMP_DH_COMPRESSED_*`.
    fn flag(self) -> u32 {
        match self {
            Self::Zlib => 0x1,
            Self::Zstd => 0x20,
        }
    }
}

/// Places of the parts of the file, bytes.
struct Plan {
    notes_at: u64,
    bitmap_at: u64,
    bitmap_len: u64,
    desc_at: u64,
    zero_at: u64,
    max_pfn: u64,
}

impl Plan {
    fn new(span: &Span, notes_len: usize) -> Result<Self, ExportError> {
        let max_pfn = span.end();
        if max_pfn > MAX_PFN {
            return Err(ExportError::TooLarge { what: "memory above 64 TiB".into() });
        }
        let notes_at = PAGE64 + SUB_HEADER as u64;
        let bitmap_at = (notes_at + notes_len as u64).next_multiple_of(PAGE64);
        let bitmap_len = max_pfn.div_ceil(8).next_multiple_of(PAGE64);
        let desc_at = bitmap_at + 2 * bitmap_len;
        let zero_at = desc_at + span.pages() * DESC64;
        Ok(Self { notes_at, bitmap_at, bitmap_len, desc_at, zero_at, max_pfn })
    }
}

/// Writes the vmcore into `out`, an empty regular file.
///
/// # Errors
/// [`ExportError`]; [`ExportError::Lacks`] without notes, VMCOREINFO or `phys_base`.
pub fn write(
    dump: &OpenDump,
    out: &File,
    compression: Compression,
    options: &Options<'_>,
) -> Result<Report, ExportError> {
    Stream::run(out, |out| write_to(dump, out, compression, options))
}

fn write_to(
    dump: &OpenDump,
    out: &Stream<'_>,
    compression: Compression,
    options: &Options<'_>,
) -> Result<Report, ExportError> {
    let coverage = Coverage::of_memory(dump, options)?;
    let notes = dump.notes()?;
    let info_text = vmcoreinfo(&notes).ok_or(ExportError::Lacks { what: "the VMCOREINFO note" })?;
    let info = VmcoreInfo::new(info_text);
    let phys_base = info
        .number("phys_base")
        .ok_or(ExportError::Lacks { what: "NUMBER(phys_base) in VMCOREINFO" })?;
    let plan = Plan::new(coverage.span(), notes.len())?;
    pipeline::write_at(out, &disk_header(dump, &plan, &notes, &info, phys_base, compression), 0)?;
    pipeline::write_at(out, &sub_header(&plan, &notes, info_text, phys_base), PAGE64)?;
    pipeline::write_at(out, &notes, plan.notes_at)?;
    pipeline::write_at(out, &[0; PAGE], plan.zero_at)?;
    let pages = write_pages(dump, out, compression, options, &coverage, &plan)?;
    let held = coverage.finish()?;
    close_up(out, &plan, coverage.span(), &held)?;
    write_bitmap(out, plan.bitmap_at, held.ram().into_iter())?;
    write_bitmap(out, plan.bitmap_at + plan.bitmap_len, held.present.iter().copied())?;
    out.file().set_len(pages.len).map_err(ExportError::Write)?;
    Ok(Report { missing: held.missing, ..pages })
}

/// Writes `bytes` into `block` at `at`; places are constants that fit.
fn put(block: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(space) = block.get_mut(at..at + bytes.len()) {
        space.copy_from_slice(bytes);
    }
}

/// `struct disk_dump_header`, with the offsets that x86-64 compilers give it.
fn disk_header(
    dump: &OpenDump,
    plan: &Plan,
    notes: &[u8],
    info: &VmcoreInfo<'_>,
    phys_base: i64,
    compression: Compression,
) -> [u8; PAGE] {
    let cpus = Notes::new(notes).filter(|n| n.name == b"CORE" && n.kind == NT_PRSTATUS).count();
    // Values below are bounded by MAX_PFN and by the notes' own limit.
    let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    let mut block = [0u8; PAGE];
    put(&mut block, 0, b"KDUMP   ");
    put(&mut block, 8, &6u32.to_le_bytes());
    put(&mut block, 12, &utsname(dump, info, phys_base));
    put(&mut block, 408, &info.crash_time().unwrap_or(dump.file().header().created).to_le_bytes());
    let words = [
        (424, compression.flag()),
        (428, 4096),
        (432, narrow((plan.bitmap_at - PAGE64) / PAGE64)),
        (436, narrow(2 * plan.bitmap_len / PAGE64)),
        // Readers of version 6 take max_mapnr_64.
        (440, narrow(plan.max_pfn)),
        (460, narrow(cpus as u64)),
    ];
    for (at, value) in words {
        put(&mut block, at, &value.to_le_bytes());
    }
    block
}

/// `struct new_utsname`: from the dead kernel's `init_uts_ns`, or what else is known.
fn utsname(dump: &OpenDump, info: &VmcoreInfo<'_>, phys_base: i64) -> [u8; 6 * UTS_FIELD] {
    let mut uts = [0u8; 6 * UTS_FIELD];
    let release = info.osrelease().unwrap_or(dump.file().header().release_text());
    let at = info
        .symbol("init_uts_ns")
        .zip(info.offset("uts_namespace.name"))
        .and_then(|(ns, name)| ns.checked_add(name)?.checked_sub(KERNEL_MAP))
        .and_then(|at| at.checked_add_signed(phys_base));
    if let Some(at) = at
        && dump.memory().read(at, &mut uts).ok() == Some(uts.len())
        // Only what is really there: the release stands behind sysname and nodename.
        && uts.get(2 * UTS_FIELD..).is_some_and(|r| {
            r.starts_with(release.as_bytes()) && r.get(release.len()) == Some(&0)
        })
    {
        return uts;
    }
    let host = dump.meta().hostname.as_deref().unwrap_or("(none)");
    uts = [0; 6 * UTS_FIELD];
    for (index, text) in ["Linux", host, release, "", "x86_64", "(none)"].iter().enumerate() {
        let mut field = lifeboat_format::text_field::<UTS_FIELD>(text);
        if let Some(last) = field.last_mut() {
            *last = 0;
        }
        put(&mut uts, index * UTS_FIELD, &field);
    }
    uts
}

/// `struct kdump_sub_header`, version 6.
fn sub_header(plan: &Plan, notes: &[u8], info: &[u8], phys_base: i64) -> [u8; SUB_HEADER] {
    // VMCOREINFO lies within the notes; both are slices of one buffer.
    let info_at = info.as_ptr().addr().saturating_sub(notes.as_ptr().addr()) as u64;
    let mut block = [0u8; SUB_HEADER];
    put(&mut block, 0, &phys_base.to_le_bytes());
    let words = [
        (24, plan.max_pfn),            // end_pfn
        (32, plan.notes_at + info_at), // offset_vmcoreinfo
        (40, info.len() as u64),       // size_vmcoreinfo
        (48, plan.notes_at),           // offset_note
        (56, notes.len() as u64),      // size_note
        (88, plan.max_pfn),            // end_pfn_64
        (96, plan.max_pfn),            // max_mapnr_64
    ];
    for (at, value) in words {
        put(&mut block, at, &value.to_le_bytes());
    }
    block
}

/// Sets the bits of ascending, disjoint ranges; what is zero stays a hole.
fn write_bitmap(
    out: &Stream<'_>,
    at: u64,
    ranges: impl Iterator<Item = PageRange>,
) -> Result<(), ExportError> {
    const BUF: usize = 64 << 10;
    let mut buf: Vec<u8> = Vec::with_capacity(BUF);
    let mut buf_at = 0u64;
    for range in ranges {
        let (first, last) = (range.start.0 / 8, range.end.0.div_ceil(8));
        let mut byte = first;
        while byte < last {
            // The first byte may be the one that the range before ended in.
            let end = buf_at + buf.len() as u64;
            let shared = byte + 1 == end && !buf.is_empty();
            if !shared && (byte != end || buf.len() == BUF) {
                pipeline::write_at(out, &buf, at + buf_at)?;
                buf.clear();
                buf_at = byte;
            }
            let low = range.start.0.saturating_sub(byte * 8).min(8);
            let high = range.end.0.saturating_sub(byte * 8).min(8);
            let bits = u8::try_from((1u16 << high) - (1u16 << low)).unwrap_or(u8::MAX);
            match buf.last_mut() {
                Some(same) if shared => *same |= bits,
                _ => buf.push(bits),
            }
            byte += 1;
        }
    }
    pipeline::write_at(out, &buf, at + buf_at)
}

/// One thread's compressor.
enum Packer {
    Zlib(libdeflater::Compressor),
    Zstd(zstd::bulk::Compressor<'static>),
}

impl Packer {
    fn new(compression: Compression) -> Result<Self, ExportError> {
        match compression {
            Compression::Zlib => libdeflater::CompressionLvl::new(1)
                .map(|level| Self::Zlib(libdeflater::Compressor::new(level)))
                .map_err(|e| ExportError::Compressor(format!("{e:?}"))),
            Compression::Zstd => zstd::bulk::Compressor::new(1)
                .map(Self::Zstd)
                .map_err(|e| ExportError::Compressor(e.to_string())),
        }
    }

    /// Compresses a page to the end of `out`, if that is less than a page. Gives the
    /// length, or nothing.
    fn pack(&mut self, page: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        let start = out.len();
        out.resize(start + PAGE - 1, 0);
        let room = out.get_mut(start..).unwrap_or_default();
        // An error means: would be longer.
        let len = match self {
            Self::Zlib(z) => z.zlib_compress(page, room).ok(),
            Self::Zstd(z) => z.compress_to_buffer(page, room).ok(),
        };
        out.truncate(start + len.unwrap_or(0));
        len
    }
}

/// What is made of one chunk.
#[derive(Default)]
struct Packed {
    data: Vec<u8>,
    /// Length and flags of each data page.
    sizes: Vec<(u32, u32)>,
    /// Numbers of the pages of each run, and what their descriptors point to.
    runs: Vec<(Range<u64>, Points)>,
}

/// What the descriptors of a run point to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Points {
    /// One of [`Packed::sizes`] after the other.
    Each,
    /// All to the next one of them.
    One,
    /// The page of zeros.
    Zero,
}

impl Packed {
    fn clear(&mut self) {
        self.data.clear();
        self.sizes.clear();
        self.runs.clear();
    }

    /// Adds a run of pages with these numbers.
    fn add(&mut self, piece: &Piece<'_>, ranks: Range<u64>, packer: &mut Packer, flag: u32) {
        let word;
        let (points, pages) = match piece.class {
            PageClass::Data => (Points::Each, piece.data.as_chunks::<PAGE>().0),
            PageClass::Fill(fill) => {
                word = [page_of(fill)];
                (Points::One, word.as_slice())
            }
            _ => (Points::Zero, [].as_slice()),
        };
        self.runs.push((ranks, points));
        for page in pages {
            let (len, flag) = match packer.pack(page, &mut self.data) {
                Some(len) => (len, flag),
                None => {
                    self.data.extend_from_slice(page);
                    (PAGE, 0)
                }
            };
            // At most 4096.
            self.sizes.push((u32::try_from(len).unwrap_or(0), flag));
        }
    }
}

/// What one thread keeps.
struct State {
    packer: Packer,
    /// Buffers for chunks to come.
    spare: Vec<Packed>,
    descs: Vec<u8>,
}

/// Writes page data and descriptors; gives the figures and the length of the file.
fn write_pages(
    dump: &OpenDump,
    out: &Stream<'_>,
    compression: Compression,
    options: &Options<'_>,
    coverage: &Coverage,
    plan: &Plan,
) -> Result<Report, ExportError> {
    let work = pipeline::Work::memory(dump, options);
    let order = Order::new(plan.zero_at + PAGE64, work.threads());
    let links = Links { out, coverage, at: plan.desc_at, size: DESC };
    let (data, zero) = (AtomicU64::new(0), AtomicU64::new(0));
    let make = || {
        let packer = Packer::new(compression)?;
        Ok(State { packer, spare: Vec::new(), descs: Vec::new() })
    };
    work.run(
        make,
        || order.fail(),
        |state: &mut State, entry, index, chunk| {
            let mut packed = state.spare.pop().unwrap_or_default();
            packed.clear();
            match chunk {
                Ok(chunk) => coverage.take(chunk, |piece, ranks| {
                    let count = if piece.class == PageClass::Zero { &zero } else { &data };
                    count.fetch_add(piece.pages, Ordering::Relaxed);
                    if let PageClass::Same(source) = piece.class {
                        return links.note(ranks, source.0);
                    }
                    packed.add(&piece, ranks, &mut state.packer, compression.flag());
                    Ok(())
                })?,
                Err(_) => coverage.take_damaged(entry),
            }
            let len = packed.data.len() as u64;
            for (packed, at) in order.hand_in(index, packed, len) {
                pipeline::write_at(out, &packed.data, at)?;
                write_descs(&links, plan.zero_at, &packed, at, &mut state.descs)?;
                state.spare.push(packed);
            }
            Ok(())
        },
    )?;
    // A reader takes each descriptor by itself: several may point to the same data.
    let lost = links.resolve(work.threads())?;
    Ok(Report {
        data_pages: data.into_inner() - lost,
        zero_pages: zero.into_inner(),
        len: order.end(),
        ..Report::default()
    })
}

/// Writes the descriptors of a chunk's pages: neighbours in the table unless pages of
/// other layers lie between.
fn write_descs(
    links: &Links<'_>,
    zero_at: u64,
    packed: &Packed,
    mut data_at: u64,
    buf: &mut Vec<u8>,
) -> Result<(), ExportError> {
    let mut at = links.at;
    let mut sizes = packed.sizes.iter();
    buf.clear();
    for (ranks, points) in &packed.runs {
        let place = links.place(ranks.start);
        if place != at + buf.len() as u64 {
            pipeline::write_at(links.out, buf, at)?;
            buf.clear();
            at = place;
        }
        for rank in ranks.clone() {
            let (size, flags) = sizes.as_slice().first().copied().unwrap_or((4096, 0));
            let offset = if *points == Points::Zero { zero_at } else { data_at };
            let (size, flags) = if *points == Points::Zero { (4096, 0) } else { (size, flags) };
            if *points == Points::Each || *points == Points::One && rank + 1 == ranks.end {
                sizes.next();
                data_at += u64::from(size);
            }
            buf.extend_from_slice(&offset.to_le_bytes());
            buf.extend_from_slice(&size.to_le_bytes());
            buf.extend_from_slice(&flags.to_le_bytes());
            buf.extend_from_slice(&0u64.to_le_bytes());
            if buf.len() == DESC_BATCH * DESC {
                pipeline::write_at(links.out, buf, at)?;
                at += buf.len() as u64;
                buf.clear();
            }
        }
    }
    pipeline::write_at(links.out, buf, at)
}

/// Moves the descriptors of present pages together: missing pages have none. Within the
/// file, from its front to its end: what is read lies never before what is written.
fn close_up(out: &Stream<'_>, plan: &Plan, span: &Span, held: &Held) -> Result<(), ExportError> {
    let table_end = plan.zero_at;
    let (mut window, mut window_at) = (Vec::new(), 0u64);
    let (mut buf, mut to) = (Vec::new(), plan.desc_at);
    for range in &held.present {
        let Some(Range { start, end }) = span.ranks(*range) else { continue };
        let (mut at, end) = (plan.desc_at + start * DESC64, plan.desc_at + end * DESC64);
        if at == to && buf.is_empty() {
            to = end;
            continue;
        }
        while at < end {
            if at < window_at || at >= window_at + window.len() as u64 {
                let take = (table_end - at).min((DESC_BATCH * DESC) as u64);
                window.resize(usize::try_from(take).unwrap_or(0), 0);
                window_at = at;
                out.file().read_exact_at(&mut window, at).map_err(ExportError::Write)?;
            }
            let skip = usize::try_from(at - window_at).unwrap_or(0);
            let part = window.get(skip..).unwrap_or_default();
            let part = part.get(..usize::try_from(end - at).unwrap_or(usize::MAX)).unwrap_or(part);
            buf.extend_from_slice(part);
            at += part.len() as u64;
            if buf.len() >= DESC_BATCH * DESC {
                pipeline::write_at(out, &buf, to)?;
                to += buf.len() as u64;
                buf.clear();
            }
        }
    }
    pipeline::write_at(out, &buf, to)?;
    to += buf.len() as u64;
    if let Some(len) = table_end.checked_sub(to).filter(|len| *len > 0) {
        // What stands there is stale, and no descriptor any more. A file system that
        // cannot make holes keeps it.
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let _ = fallocate(out.file(), how, to, len);
    }
    Ok(())
}
