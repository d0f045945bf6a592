//! The ELF vmcore from front to back, for a pipe.
//!
//! What is missing must be known before the first byte: where the commit record does not
//! say that nothing is, all chunks are decoded once before. Missing pages take no room
//! here, and zero pages do. Memory: 36 MiB a core, and 24 bytes for each run of copies,
//! at most 2^22 of them, while chunks are looked into.

use std::io::Write;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use lifeboat_format::{PAGE, PageClass, Pfn};

use super::coverage::{Coverage, Held};
use super::elf::{self, Core};
use super::marks::Span;
use super::{ExportError, Options, Report, page_of, pipeline};
use crate::dump::{Cache, OpenDump, Page, PageSource};
use crate::lanes;

const PAGE64: u64 = PAGE as u64;
/// Pages that a thread puts together at a time. A chunk that lies across the border of two
/// such pieces is decoded for each.
const PIECE: u64 = 2048;
/// Bytes of chunks that a thread keeps: one of each layer, and sources of copies.
const CACHE: usize = 8 << 20;
/// Most runs of copies whose sources are looked for before anything is written.
const MAX_COPIES: usize = 1 << 22;

/// Writes the vmcore into `out`.
///
/// # Errors
/// [`ExportError`]; [`ExportError::Pipe`] when nobody reads on.
pub fn write(
    dump: &OpenDump,
    out: &mut impl Write,
    options: &Options<'_>,
) -> Result<Report, ExportError> {
    let coverage = Coverage::of_memory(dump, options)?;
    let held = match coverage.told() {
        Some(held) => held,
        None => look(dump, options, &coverage)?,
    };
    let mut warnings = Vec::new();
    let notes = elf::notes(dump, &mut warnings);
    let core = Core::of(dump, &mut warnings);
    let span = Span::new(&held.present);
    let head = elf::compact_head(core, &held, &span, &notes)?;
    out.write_all(&head).map_err(ExportError::Pipe)?;
    let (mut data_pages, mut zero_pages) = (0, 0);
    let threads = pipeline::Work::memory(dump, options).threads();
    lanes::in_order(
        threads as u64,
        span.pages().div_ceil(PIECE),
        || Cache::of(CACHE),
        Vec::new,
        |cache, piece, buf| {
            let ranks = piece * PIECE..((piece + 1) * PIECE).min(span.pages());
            fill(dump, cache, &span, ranks, buf)
        },
        |buf: &Vec<u8>, filled: Result<(u64, u64), ExportError>| {
            let (data, zero) = filled?;
            out.write_all(buf).map_err(ExportError::Pipe)?;
            (data_pages, zero_pages) = (data_pages + data, zero_pages + zero);
            if let Some(progress) = options.progress {
                progress((data_pages + zero_pages) * PAGE64, span.pages() * PAGE64);
            }
            Ok::<_, ExportError>(true)
        },
    )?;
    out.flush().map_err(ExportError::Pipe)?;
    Ok(Report {
        data_pages,
        zero_pages,
        missing: held.missing,
        len: head.len() as u64 + span.pages() * PAGE64,
        warnings,
    })
}

/// What there is, by decoding everything.
fn look(dump: &OpenDump, options: &Options<'_>, coverage: &Coverage) -> Result<Held, ExportError> {
    let copies = Mutex::new(Vec::new());
    let quiet = Options { progress: None, ..*options };
    pipeline::Work::memory(dump, &quiet).run(
        || Ok(()),
        || (),
        |(), entry, _, chunk| {
            let Ok(chunk) = chunk else {
                coverage.take_damaged(entry);
                return Ok(());
            };
            coverage.take(chunk, |piece, ranks| {
                let PageClass::Same(source) = piece.class else { return Ok(()) };
                let mut copies = copies.lock().unwrap_or_else(PoisonError::into_inner);
                if copies.len() == MAX_COPIES {
                    let what = "more copies of pages than a pipe can be told of".into();
                    return Err(ExportError::TooLarge { what });
                }
                copies.push((ranks, source.0));
                Ok(())
            })
        },
    )?;
    for (ranks, source) in copies.into_inner().unwrap_or_else(PoisonError::into_inner) {
        coverage.sources(ranks, source, |_, _| Ok(()))?;
    }
    coverage.finish()
}

/// Puts pages together; gives how many have contents, and how many are zero.
fn fill(
    dump: &OpenDump,
    cache: &Cache,
    span: &Span,
    ranks: Range<u64>,
    buf: &mut Vec<u8>,
) -> Result<(u64, u64), ExportError> {
    let memory = dump.memory().with_cache(cache);
    let (mut data, mut zero) = (0, 0);
    buf.clear();
    for page in span.pages_of(ranks).flat_map(|r| r.start.0..r.end.0) {
        data += 1;
        match memory.page(Pfn(page))? {
            Page::Data(bytes) => buf.extend_from_slice(&bytes[..]),
            Page::Fill(word) => buf.extend_from_slice(&page_of(word)),
            Page::Zero => {
                (data, zero) = (data - 1, zero + 1);
                buf.resize(buf.len() + PAGE, 0);
            }
            // The tables are written: it cannot be left out any more.
            Page::Unreadable | Page::Excluded | Page::NotCaptured => {
                return Err(ExportError::Contradiction { page });
            }
        }
    }
    Ok((data, zero))
}
