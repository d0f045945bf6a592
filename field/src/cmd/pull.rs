//! `lifeboat pull`: a dump off the volume, byte for byte, checked on its way.
//!
//! Damage does not stop it: bytes that the medium does not give are written as
//! zeros and reported, their chunk fails its checksum, and the exit code is 3.
//! Such a dump is not marked as pulled, so that `clear` still asks for `--force`.
//! A dump that was never committed is copied up to its last good chunk.
//!
//! Reading, checking and writing overlap: a copy takes as long as the slower disk.

use lifeboat_field::dump::{Parts, ReadAt as _};
use lifeboat_field::lanes;
use lifeboat_field::stream::Stream;
use lifeboat_format::header::HEADER_LEN;
use lifeboat_sys::AlignedBuf;

use super::frames::{FrameCheck, Report};
use super::summary::{self, State, Summary};
use super::{scan, volumes};
use crate::cli::Pull;
use crate::device::Access;
use crate::output::Output;
use crate::ui::{self, Context as _, Ended, Failure, Outcome, progress, warn};

/// Bytes read at a time.
const STEP: usize = 4 << 20;
/// Reads that are on their way at a time, so that a device has something to do between one
/// and the next.
const READERS: u64 = 2;
/// Unit in which a failed read is tried again.
const RETRY: usize = 4096;
/// In a dump without a commit record, this far without a chunk is its end. More
/// than the capturer ever has in flight, so a write that was lost is bridged.
const OPEN_END: u64 = 64 << 20;

/// Copies a dump into a file.
pub(crate) fn run(args: &Pull) -> Ended {
    let dump = find(args)?;
    let dump = &dump;
    let out = Output::create(&args.output, args.force)?;
    let copy = Copy::new(dump)?.run(dump, &out)?;
    if copy.len == 0 {
        return Err(Failure::new(format!("{} has no readable header", dump.name))
            .hint("save the volume with dd; `lifeboat list --scan` shows what else is there"));
    }
    out.finish()?;
    let damaged = copy.report.bad > 0
        || copy.lost > 0
        || dump.state == State::Damaged
        || !dump.damage.is_empty();
    for what in dump.damage.iter().chain(&copy.report.words) {
        warn(what);
    }
    for words in super::absent_words(dump) {
        warn(words);
    }
    if copy.lost > 0 {
        warn(format!("{} could not be read and are zeros in the copy", ui::bytes(copy.lost)));
    }
    crate::ui::say!(
        "pulled {} into {}: {}, {} chunks good, {} findings",
        dump.title(),
        args.output.display(),
        ui::bytes(copy.len),
        copy.report.good,
        copy.report.bad
    );
    if !dump.absent.is_empty() {
        warn(
            "the copy lacks what is on the volume that was not given: zeros stand there, and `lifeboat verify` names what is lost. The dump stays marked as not pulled",
        );
        return Ok(Outcome::Partial);
    }
    if damaged {
        warn(
            "the copy is damaged; the dump stays marked as not pulled. `lifeboat verify` tells what is lost",
        );
        return Ok(Outcome::Partial);
    }
    if let Err(e) = mark(dump) {
        warn("the copy is whole, but the dump could not be marked as pulled:");
        e.report();
    }
    if dump.state == State::Complete {
        return Ok(Outcome::Good);
    }
    warn(format!("dump {} is {}: not all of the machine is in it", dump.number, dump.state.name()));
    Ok(Outcome::Partial)
}

/// The dump that the user means.
fn find(args: &Pull) -> Result<Summary, Failure> {
    if let Some(at) = args.at {
        return scan::at(&args.dev, args.partition.as_deref(), &args.with, at);
    }
    let volumes = volumes::open(&args.dev, args.partition.as_deref(), &args.with)?;
    let dump = super::choose(&args.dev, summary::of_volumes(&volumes)?, args.dump)?;
    // The power may have gone between the commit record and the slot.
    if dump.state == State::Capturing
        && let (Some(header), Some(laid)) = (&dump.header, &dump.laid)
        && let Some(whole) = scan::committed(&dump.name, &header.dump_id, laid)?
    {
        return Ok(whole);
    }
    Ok(dump)
}

/// Marks all parts as pulled.
fn mark(dump: &Summary) -> Result<(), Failure> {
    for part in dump.laid.iter().flat_map(|l| &l.parts).filter(|p| !p.record.pulled) {
        let Some(slot) = part.slot else { continue };
        let window = part.window.reopen(Access::Write)?;
        super::writable(&window)?.update(slot, |r| r.pulled = true).context(&window.name)?;
    }
    Ok(())
}

/// What was copied.
struct Copied {
    len: u64,
    lost: u64,
    report: Report,
}

/// A copy in progress.
struct Copy {
    source: Parts,
    len: u64,
    /// Where chunks end and the second header begins; the end of the extent if not known.
    frames_end: u64,
    open: bool,
}

impl Copy {
    fn new(dump: &Summary) -> Result<Self, Failure> {
        // Past the page cache where that works: the dump is read once.
        let laid = dump.laid.as_ref().ok_or_else(|| {
            Failure::new(format!("{} is a pulled dump already", dump.name)).hint("copy it with cp")
        })?;
        let source = laid.source(true)?;
        let len = source.len();
        let frames_end = dump.commit.map_or(len, |c| c.header_copy.0.min(len));
        Ok(Self { source, len, frames_end, open: dump.commit.is_none() })
    }

    fn run(&self, dump: &Summary, out: &Output) -> Result<Copied, Failure> {
        let Some(header) = dump.header else {
            return Ok(Copied { len: 0, lost: 0, report: Report::default() });
        };
        let mut check = FrameCheck::new(header.dump_id, HEADER_LEN as u64);
        let lost = Stream::run(out.file(), |out| self.stream(out, &mut check))?;
        if self.open {
            let report = check.finish_open();
            out.file().set_len(report.end).context("cutting the copy")?;
            return Ok(Copied { len: report.end, lost, report });
        }
        Ok(Copied { len: self.len, lost, report: check.finish(dump.commit.map(|c| c.chunks)) })
    }

    /// Copies and checks while the next pieces are read and those before go to their disk.
    /// Gives the bytes lost.
    fn stream(&self, out: &Stream<'_>, check: &mut FrameCheck) -> Result<u64, Failure> {
        let first = HEADER_LEN as u64;
        let bar = progress(self.len, "pull");
        let (mut at, mut lost, mut hole) = (0u64, 0u64, 0u64);
        let copied = lanes::in_order(
            READERS,
            self.len.div_ceil(STEP as u64),
            || (),
            || AlignedBuf::new(STEP),
            |(), piece, buf| {
                let at = piece * STEP as u64;
                let want = usize::try_from(self.len - at).unwrap_or(STEP).min(STEP);
                (self.read(at, buf.get_mut(..want).unwrap_or_default()), want)
            },
            |buf, (gone, want)| {
                if self.open && at > check.end().max(hole) + OPEN_END {
                    return Ok(false);
                }
                let part = buf.get(..want).unwrap_or_default();
                // What is not here is no sign of the dump's end.
                hole = self.source.hole(at).unwrap_or(hole);
                lost += gone;
                out.write_at(part, at).context("writing the copy")?;
                // Only chunks are fed: neither the header before nor the copy behind them.
                let want = want as u64;
                let from = first.saturating_sub(at).min(want);
                let to = self.frames_end.saturating_sub(at).min(want);
                let range = usize::try_from(from).unwrap_or(0)..usize::try_from(to).unwrap_or(0);
                check.feed(part.get(range).unwrap_or_default());
                at += want;
                bar.set_position(at);
                Ok(true)
            },
        );
        bar.finish_and_clear();
        copied.map(|()| lost)
    }

    /// Fills `buf`; what cannot be read stays zero. Gives the bytes lost.
    fn read(&self, at: u64, buf: &mut [u8]) -> u64 {
        if self.source.read_exact_at(at, buf).is_ok() {
            return 0;
        }
        let mut lost = 0;
        let mut at = at;
        for block in buf.chunks_mut(RETRY) {
            if self.source.read_exact_at(at, block).is_err() {
                block.fill(0);
                lost += block.len() as u64;
            }
            at += block.len() as u64;
        }
        lost
    }
}
