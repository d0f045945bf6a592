//! A swap device as a raw image, as if the partition had been copied.
//!
//! Zero pages are holes of the file. Pages that could not be read are holes too,
//! because a raw image has no other way; so they are listed in the report, the
//! caller writes the list beside the image, and the export counts as incomplete.

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use lifeboat_format::{IndexEntry, PAGE, PageClass, PageRange};

use super::coverage::{join, reason};
use super::{ExportError, Missing, Options, Report, Why, pipeline};
use crate::dump::{OpenDump, merge, subtract};
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
    let covered = entries.iter().map(|e| PageRange::new(e.first.0, e.first.0 + e.pages));
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
    let (data, zero) = (AtomicU64::new(0), AtomicU64::new(0));
    let missing = Mutex::new(Vec::new());
    let take = |out: &Stream<'_>, entry: &IndexEntry, chunk: pipeline::Decoded<'_>| {
        let mut found = Vec::new();
        match chunk {
            Ok(chunk) => {
                for p in chunk.pieces() {
                    let pages = PageRange::new(p.first.0, p.first.0 + p.pages);
                    match (p.class, reason(p.class)) {
                        (_, Some(why)) => found.push(Missing { pages, why }),
                        (PageClass::Data, None) => {
                            write_within(out, p.data, p.first.0 * PAGE64, len)?;
                            data.fetch_add(p.pages, Ordering::Relaxed);
                        }
                        (_, None) => {
                            zero.fetch_add(p.pages, Ordering::Relaxed);
                        }
                    }
                }
            }
            Err(_) => {
                let pages = PageRange::new(entry.first.0, entry.first.0 + entry.pages);
                found.push(Missing { pages, why: Why::Damaged });
            }
        }
        missing.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
        Ok(())
    };
    Stream::run(out, |out| {
        let work = pipeline::Work::of(dump, entries, options);
        work.run(|| Ok(()), || (), |(), entry, _, chunk| take(out, entry, chunk))
    })?;
    let mut missing = missing.into_inner().unwrap_or_else(PoisonError::into_inner);
    let all = [PageRange::new(0, len.div_ceil(PAGE64))];
    let never = subtract(&all, &covered);
    missing.extend(never.into_iter().map(|pages| Missing { pages, why: Why::NotCaptured }));
    Ok(Report {
        data_pages: data.into_inner(),
        zero_pages: zero.into_inner(),
        missing: join(missing),
        len,
        warnings,
    })
}

/// A device's last page may be cut by its end.
fn write_within(out: &Stream<'_>, bytes: &[u8], at: u64, len: u64) -> Result<(), ExportError> {
    let room = usize::try_from(len.saturating_sub(at)).unwrap_or(usize::MAX);
    let part = bytes.get(..bytes.len().min(room)).unwrap_or_default();
    pipeline::write_at(out, part, at)
}
