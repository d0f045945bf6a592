//! ELF64 vmcore, as `/proc/vmcore` would have been: for crash, drgn, gdb, makedumpfile.
//!
//! ```text
//! ELF header | program headers | notes, verbatim | memory, page-aligned, sparse
//! ```
//! Program headers directly follow the ELF header (crash and makedumpfile look
//! nowhere else). Each PT_LOAD of the elfcorehdr keeps its addresses. The one of
//! the kernel's text points into the RAM that holds it; if no other describes that
//! memory, it gets its own. A PT_LOAD with missing pages is split around them, so
//! that they lie in no file range. Zero pages are holes of the file: real zeros to
//! any reader, no blocks on disk.

use std::fs::File;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use lifeboat_format::{PAGE, PageClass, PageRange};
use lifeboat_sources::elfcorehdr::CoreHeader;

use super::coverage::{Coverage, Held};
use super::links::Links;
use super::marks::Span;
use super::{ExportError, Options, Report, page_of, pipeline};
use crate::dump::{OpenDump, subtract};
use crate::stream::Stream;

const EHDR: usize = 64;
const PHDR: usize = 56;
const SHDR: usize = 64;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const PF_RWX: u32 = 7;
/// `e_phnum` when the count is in section header 0.
const PN_XNUM: u16 = 0xffff;
const EM_X86_64: u16 = 62;
const PAGE64: u64 = PAGE as u64;
/// Pages of one word that are written at a time.
const WORD_PAGES: u64 = 64;
/// Most program headers: a table of 56 MiB.
const MAX_PHDRS: usize = 1 << 20;

/// A program header to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Phdr {
    kind: u32,
    flags: u32,
    offset: u64,
    vaddr: u64,
    paddr: u64,
    size: u64,
}

/// One PT_LOAD as the elfcorehdr describes it.
struct Load {
    flags: u32,
    vaddr: u64,
    start: u64,
    end: u64,
}

/// Writes the vmcore into `out`, an empty regular file.
///
/// # Errors
/// [`ExportError`].
pub fn write(dump: &OpenDump, out: &File, options: &Options<'_>) -> Result<Report, ExportError> {
    Stream::run(out, |out| write_to(dump, out, options))
}

fn write_to(
    dump: &OpenDump,
    out: &Stream<'_>,
    options: &Options<'_>,
) -> Result<Report, ExportError> {
    let coverage = Coverage::of_memory(dump, options)?;
    let mut warnings = Vec::new();
    let notes = notes(dump, &mut warnings);
    let core = Core::of(dump, &mut warnings);
    // How long the tables will be is known when all is decoded: leave them room.
    let room = core.most_headers(&coverage, dump);
    let data_at = (notes_at(room) + notes.len()).next_multiple_of(PAGE) as u64;
    // File offsets are signed.
    let end = coverage.span().pages().checked_mul(PAGE64).and_then(|n| n.checked_add(data_at));
    if end.is_none_or(|e| e > i64::MAX as u64) {
        return Err(ExportError::TooLarge { what: "over 2^63 bytes of memory".into() });
    }
    let place = |page: u64| Some(data_at + coverage.span().rank(page)? * PAGE64);
    let (data_pages, zero_pages) = fill(dump, out, options, &coverage, data_at)?;
    let held = coverage.finish()?;
    let (machine, loads) = (core.machine, core.loads(&held));
    let table = table(&loads, &held, &place, room - 1)?;
    pipeline::write_at(out, &head(machine, table, &notes), 0)?;
    let last = held.present.last().and_then(|r| place(r.end.0 - 1));
    let len = last.map_or(data_at, |at| at + PAGE64);
    out.file().set_len(len).map_err(ExportError::Write)?;
    Ok(Report { data_pages, zero_pages, missing: held.missing, len, warnings })
}

/// The notes, if they are sound.
pub(super) fn notes(dump: &OpenDump, warnings: &mut Vec<String>) -> Vec<u8> {
    dump.notes().unwrap_or_else(|e| {
        warnings.push(format!("the output has no notes: {e}"));
        Vec::new()
    })
}

/// All that stands before the memory, where that is `span` and nothing else.
pub(super) fn compact_head(
    core: Core,
    held: &Held,
    span: &Span,
    notes: &[u8],
) -> Result<Vec<u8>, ExportError> {
    let (machine, loads) = (core.machine, core.loads(held));
    let rank = |page| span.rank(page).map(|rank| rank * PAGE64);
    let mut table = table(&loads, held, &rank, MAX_PHDRS)?;
    let data_at = (notes_at(table.len() + 1) + notes.len()).next_multiple_of(PAGE);
    table.iter_mut().for_each(|p| p.offset += data_at as u64);
    let mut head = head(machine, table, notes);
    head.resize(data_at, 0);
    Ok(head)
}

/// Where the notes stand behind so many program headers, their own included.
fn notes_at(headers: usize) -> usize {
    (EHDR + headers * PHDR + SHDR).next_multiple_of(8)
}

/// All that stands before the memory.
fn head(machine: u16, mut table: Vec<Phdr>, notes: &[u8]) -> Vec<u8> {
    // crash takes all before the first segment for the header, notes included, and reads
    // it with one read(2) (`is_netdump()`, netdump.c): that segment must be the first in
    // the file too, wherever the kernel's text lies.
    table.sort_by_key(|p| p.offset);
    let note = Phdr {
        kind: PT_NOTE,
        flags: 0,
        offset: notes_at(table.len() + 1) as u64,
        vaddr: 0,
        paddr: 0,
        size: notes.len() as u64,
    };
    table.insert(0, note);
    let mut head = encode(machine, &table);
    head.resize(notes_at(table.len()), 0);
    head.extend_from_slice(notes);
    head
}

/// What the elfcorehdr describes.
pub(super) struct Core {
    machine: u16,
    loads: Vec<Load>,
    described: Vec<PageRange>,
}

impl Core {
    pub(super) fn of(dump: &OpenDump, warnings: &mut Vec<String>) -> Self {
        match CoreHeader::parse(&dump.meta().elfcorehdr) {
            Ok(core) => {
                let load = |s: &lifeboat_sources::elfcorehdr::ProgramHeader| Load {
                    flags: s.flags,
                    vaddr: s.vaddr,
                    start: s.paddr,
                    end: s.paddr + s.memsz,
                };
                let loads = core.loads().map(load).collect();
                Self { machine: core.head().machine, loads, described: core.memory_ranges() }
            }
            Err(e) => {
                warnings.push(format!(
                    "the output has no virtual addresses, as the elfcorehdr is lost: {e}"
                ));
                Self { machine: EM_X86_64, loads: Vec::new(), described: Vec::new() }
            }
        }
    }

    /// Room for program headers, the notes' included: every PT_LOAD may be split by
    /// everything that is missing.
    fn most_headers(&self, coverage: &Coverage, dump: &OpenDump) -> usize {
        let stretches = coverage.most_stretches(dump);
        let own = |l: &Load| stretches.min((l.end - l.start).div_ceil(PAGE64).saturating_add(1));
        let rest = stretches.saturating_add(self.described.len() as u64);
        let all = self.loads.iter().map(own).fold(rest, u64::saturating_add);
        usize::try_from(all).unwrap_or(MAX_PHDRS).min(MAX_PHDRS) + 1
    }

    /// The PT_LOADs to describe: those of the elfcorehdr, and what else was captured.
    fn loads(self, held: &Held) -> Vec<Load> {
        let mut loads = self.loads;
        for r in subtract(&held.present, &self.described) {
            let (start, end) = (r.start.0 * PAGE64, r.end.0 * PAGE64);
            loads.push(Load { flags: PF_RWX, vaddr: 0, start, end });
        }
        loads
    }
}

/// At most `most` PT_LOADs, split around what is missing.
fn table(
    loads: &[Load],
    held: &Held,
    place: &impl Fn(u64) -> Option<u64>,
    most: usize,
) -> Result<Vec<Phdr>, ExportError> {
    let mut out = Vec::new();
    for load in loads {
        for r in held.within(load.start / PAGE64, load.end.div_ceil(PAGE64)) {
            let start = load.start.max(r.start.0 * PAGE64);
            let end = load.end.min(r.end.0 * PAGE64);
            let Some(place) = place(start / PAGE64) else { continue };
            if out.len() == most {
                return Err(ExportError::TooLarge { what: "over 2^20 stretches of memory".into() });
            }
            out.push(Phdr {
                kind: PT_LOAD,
                flags: load.flags,
                offset: place + start % PAGE64,
                // 0 says that the address is not known (QEMU's dumps): keep it so.
                vaddr: if load.vaddr == 0 {
                    0
                } else {
                    load.vaddr.wrapping_add(start - load.start)
                },
                paddr: start,
                size: end - start,
            });
        }
    }
    Ok(out)
}

/// ELF header, program headers, and a section header if there are too many of them.
fn encode(machine: u16, phdrs: &[Phdr]) -> Vec<u8> {
    let mut out = Vec::with_capacity(EHDR + phdrs.len() * PHDR + SHDR);
    let short = u16::try_from(phdrs.len()).ok().filter(|n| *n < PN_XNUM);
    let shoff = if short.is_some() { 0 } else { (EHDR + phdrs.len() * PHDR) as u64 };
    // ELFCLASS64, ELFDATA2LSB, EV_CURRENT; ET_CORE.
    out.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    out.extend_from_slice(&4u16.to_le_bytes());
    out.extend_from_slice(&machine.to_le_bytes());
    out.extend_from_slice(&1u32.to_le_bytes());
    for word in [0, EHDR as u64, shoff] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(&0u32.to_le_bytes());
    let sections = u16::from(short.is_none());
    // e_ehsize, e_phentsize, e_phnum, e_shentsize, e_shnum, e_shstrndx.
    for half in [64, 56, short.unwrap_or(PN_XNUM), 64 * sections, sections, 0] {
        out.extend_from_slice(&half.to_le_bytes());
    }
    for p in phdrs {
        out.extend_from_slice(&p.kind.to_le_bytes());
        out.extend_from_slice(&p.flags.to_le_bytes());
        for word in [p.offset, p.vaddr, p.paddr, p.size, p.size, 0] {
            out.extend_from_slice(&word.to_le_bytes());
        }
    }
    if short.is_none() {
        let mut section = [0u8; SHDR];
        // sh_info at 44; MAX_PHDRS keeps the count below 2^32.
        let count = u32::try_from(phdrs.len()).unwrap_or(u32::MAX).to_le_bytes();
        if let Some(info) = section.get_mut(44..48) {
            info.copy_from_slice(&count);
        }
        out.extend_from_slice(&section);
    }
    out
}

/// Writes the pages; gives how many have contents, and how many are zero.
fn fill(
    dump: &OpenDump,
    out: &Stream<'_>,
    options: &Options<'_>,
    coverage: &Coverage,
    data_at: u64,
) -> Result<(u64, u64), ExportError> {
    let (data, zero) = (AtomicU64::new(0), AtomicU64::new(0));
    let links = Links { out, coverage, at: data_at, size: PAGE };
    let work = pipeline::Work::memory(dump, options);
    work.run(
        || Ok(Vec::new()),
        || (),
        |buf, entry, _, chunk| {
            let Ok(chunk) = chunk else {
                coverage.take_damaged(entry);
                return Ok(());
            };
            coverage.take(chunk, |piece, ranks| {
                let count = if piece.class == PageClass::Zero { &zero } else { &data };
                count.fetch_add(piece.pages, Ordering::Relaxed);
                match piece.class {
                    PageClass::Fill(word) => write_word(&links, ranks, word, buf),
                    PageClass::Same(source) => links.note(ranks, source.0),
                    // Nothing is to be written of a zero page.
                    _ => pipeline::write_at(out, piece.data, links.place(ranks.start)),
                }
            })
        },
    )?;
    let lost = links.resolve(work.threads())?;
    Ok((data.into_inner() - lost, zero.into_inner()))
}

/// Writes pages of one word.
fn write_word(
    links: &Links<'_>,
    ranks: Range<u64>,
    word: u64,
    buf: &mut Vec<u8>,
) -> Result<(), ExportError> {
    let pages = (ranks.end - ranks.start).min(WORD_PAGES);
    let page = page_of(word);
    buf.clear();
    (0..pages).for_each(|_| buf.extend_from_slice(&page));
    let mut at = ranks.start;
    while at < ranks.end {
        let take = usize::try_from((ranks.end - at).min(pages) * PAGE64).unwrap_or(0);
        pipeline::write_at(links.out, buf.get(..take).unwrap_or(buf), links.place(at))?;
        at += pages;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_headers_are_counted_in_a_section() {
        let one = Phdr { kind: PT_LOAD, flags: 7, offset: 0, vaddr: 0, paddr: 0, size: 1 };
        let few = encode(62, &vec![one; 65534]);
        assert_eq!((&few[56..58], &few[60..62]), (&[0xfe, 0xff][..], &[0, 0][..]));
        assert_eq!(few.len(), EHDR + 65534 * PHDR);
        let many = encode(62, &vec![one; 65535]);
        assert_eq!((&many[56..58], &many[60..62]), (&[0xff, 0xff][..], &[1, 0][..]));
        let shoff = usize::try_from(u64::from_le_bytes(many[40..48].try_into().unwrap())).unwrap();
        assert_eq!(shoff + SHDR, many.len());
        assert_eq!(many[shoff + 44..shoff + 48], 65535u32.to_le_bytes());
    }
}
