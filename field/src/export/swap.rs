//! A swap device as a raw image, as if the partition had been copied.
//!
//! Zero pages are holes of the file. Pages that could not be read are holes too,
//! because a raw image has no other way; so they are listed in the report, the
//! caller writes the list beside the image, and the export counts as incomplete.

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use lifeboat_format::{PAGE, PageClass, PageRange, Pfn};

use super::coverage::{join, pages_of};
use super::{ExportError, Missing, Options, Report, Why, page_of, pipeline};
use crate::dump::{OpenDump, PageSpace, Piece, merge, subtract};
use crate::stream::Stream;

const PAGE64: u64 = PAGE as u64;

/// Writes swap device `index` into `out`, an empty regular file. Its length is that
/// of the device.
///
/// # Errors
/// [`ExportError`].
pub fn write(
    dump: &OpenDump,
    index: u16,
    out: &File,
    options: &Options<'_>,
) -> Result<Report, ExportError> {
    let space = dump.swap(index)?;
    let entries = space.entries();
    let covered = entries.iter().map(|e| pages_of(e.first.0, e.pages));
    let covered = merge(covered.collect());
    let mut warnings = Vec::new();
    let device = dump.meta().swap.iter().find(|d| d.index == index);
    let end = covered.last().map_or(0, |r| r.end.0 * PAGE64);
    let len = device.map_or_else(
        || {
            warnings
                .push("the device's length is lost: the image ends with what was captured".into());
            end
        },
        |d| d.bytes,
    );
    out.set_len(len).map_err(ExportError::Write)?;
    let (data_pages, zero_pages, mut missing) = Stream::run(out, |out| {
        let image = Image::new(dump, options, out, len);
        let work = pipeline::Work::of(dump, entries, options);
        work.run(
            || Ok(()),
            || (),
            |(), entry, _, chunk| {
                let mut found = Vec::new();
                match chunk {
                    Ok(chunk) => {
                        chunk.pieces().try_for_each(|p| image.take(&p, &mut found))?;
                    }
                    Err(_) => {
                        let pages = pages_of(entry.first.0, entry.pages);
                        found.push(Missing { pages, why: Why::Damaged });
                    }
                }
                image.miss(found);
                Ok(())
            },
        )?;
        let last = std::mem::take(&mut *image.waiting());
        image.copy_all(last)?;
        let missing = image.missing.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok::<_, ExportError>((image.data.into_inner(), image.zero.into_inner(), missing))
    })?;
    let all = [PageRange::new(0, len.div_ceil(PAGE64))];
    let never = subtract(&all, &covered);
    missing.extend(never.into_iter().map(|pages| Missing { pages, why: Why::NotCaptured }));
    Ok(Report { data_pages, zero_pages, missing: join(missing), len, warnings })
}

/// The image on its way.
struct Image<'a> {
    memory: PageSpace<'a>,
    skip_damaged: bool,
    out: &'a Stream<'a>,
    len: u64,
    data: AtomicU64,
    zero: AtomicU64,
    missing: Mutex<Vec<Missing>>,
    copies: Mutex<Vec<Twin>>,
}

/// Pages with the contents of as many pages of memory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Twin {
    source: u64,
    page: u64,
    count: u64,
}

/// Copies that are put off at most, 24 MiB of them.
const MAX_COPIES: usize = 1 << 20;

impl<'a> Image<'a> {
    fn new(dump: &'a OpenDump, options: &Options<'_>, out: &'a Stream<'a>, len: u64) -> Self {
        Self {
            memory: dump.memory(),
            skip_damaged: options.skip_damaged,
            out,
            len,
            data: AtomicU64::new(0),
            zero: AtomicU64::new(0),
            missing: Mutex::new(Vec::new()),
            copies: Mutex::new(Vec::new()),
        }
    }

    fn take(&self, piece: &Piece<'_>, found: &mut Vec<Missing>) -> Result<(), ExportError> {
        let pages = pages_of(piece.first.0, piece.pages);
        // What lies behind the end of the device is no part of it.
        let end = pages.end.0.min(self.len.div_ceil(PAGE64));
        match piece.class {
            PageClass::Data => {
                self.data.fetch_add(piece.pages, Ordering::Relaxed);
                self.write(piece.data, piece.first.0)?;
            }
            PageClass::Zero => {
                self.zero.fetch_add(piece.pages, Ordering::Relaxed);
            }
            PageClass::Fill(word) => {
                self.data.fetch_add(piece.pages, Ordering::Relaxed);
                let bytes = page_of(word);
                for page in piece.first.0..end {
                    self.write(&bytes, page)?;
                }
            }
            PageClass::Same(source) => {
                let page = piece.first.0;
                let count = end.saturating_sub(page);
                self.put_off(Twin { source: source.0, page, count })?;
            }
            PageClass::Unreadable => found.push(Missing { pages, why: Why::Unreadable }),
            PageClass::Excluded => found.push(Missing { pages, why: Why::Excluded }),
            PageClass::Elsewhere => {}
        }
        Ok(())
    }

    fn miss(&self, more: Vec<Missing>) {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).extend(more);
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Twin>> {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts copies off, until they are many.
    fn put_off(&self, copy: Twin) -> Result<(), ExportError> {
        let mut waiting = self.waiting();
        waiting.push(copy);
        if waiting.len() < MAX_COPIES {
            return Ok(());
        }
        let many = std::mem::take(&mut *waiting);
        drop(waiting);
        self.copy_all(many)
    }

    fn copy_all(&self, mut copies: Vec<Twin>) -> Result<(), ExportError> {
        // Each chunk of memory is decoded once then.
        copies.sort_unstable();
        let mut found = Vec::new();
        for Twin { source, page, count } in copies {
            for n in 0..count {
                self.copy(page + n, Pfn(source.saturating_add(n)), &mut found)?;
            }
        }
        self.miss(found);
        Ok(())
    }

    /// A page with the contents of a page of memory.
    fn copy(&self, page: u64, source: Pfn, found: &mut Vec<Missing>) -> Result<(), ExportError> {
        let why = match self.memory.stored(source) {
            Ok(Some(bytes)) => {
                self.data.fetch_add(1, Ordering::Relaxed);
                return self.write(&bytes[..], page);
            }
            Ok(None) => Why::NotCaptured,
            Err(_) if self.skip_damaged => Why::Damaged,
            Err(e) => return Err(e.into()),
        };
        found.push(Missing { pages: PageRange::new(page, page + 1), why });
        Ok(())
    }

    /// A device's last page may be cut by its end.
    fn write(&self, bytes: &[u8], page: u64) -> Result<(), ExportError> {
        let at = page * PAGE64;
        let room = usize::try_from(self.len.saturating_sub(at)).unwrap_or(usize::MAX);
        let part = bytes.get(..bytes.len().min(room)).unwrap_or_default();
        pipeline::write_at(self.out, part, at)
    }
}
