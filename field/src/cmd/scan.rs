//! Dumps that no slot tells of: the slot table or the superblock is lost, or from
//! another time. Headers and part blocks are looked for in every block.
//!
//! A header counts only with a chunk of its dump behind it that stands where it says it
//! does: the memory in a dump taken in the clear may hold headers too.

use std::fmt::Write as _;
use std::sync::Arc;

use lifeboat_field::dump::{Extent, Parts, ReadAt as _, Scanner, Step};
use lifeboat_format::chunk::HEADER_LEN as CHUNK_HEADER;
use lifeboat_format::header::HEADER_LEN;
use lifeboat_format::part::PART_HEAD;
use lifeboat_format::{
    BLOCK, ByteOff, ChunkHeader, CommitRecord, DumpHeader, Id, PartBlock, SlotRecord, SlotState,
};
use lifeboat_sink::Volume;
use serde_json::{Value, json};

use super::summary::Summary;
use super::volumes::{Laid, PartPlace};
use crate::device::{self, Window};
use crate::ui::{Failure, hex, progress, safe, warn, when};

/// Bytes read at a time.
const STEP: usize = 4 << 20;
const BLOCK64: u64 = BLOCK as u64;
/// This far without a chunk is the end of a dump; more than a capturer has in flight.
const OPEN_END: u64 = 64 << 20;

/// What a device holds.
pub(crate) struct Scanned {
    /// The device.
    pub(crate) window: Window,
    /// What no slot tells of.
    pub(crate) hits: Vec<Hit>,
    /// Bytes that could not be read.
    unreadable: u64,
}

/// A dump, or a part of one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hit {
    /// Byte of the device.
    at: u64,
    dump_id: Id,
    /// 0 for a dump's first part.
    part: u16,
    base: u64,
    header: Option<DumpHeader>,
}

/// Scans whole devices for what their slots do not tell of.
///
/// # Errors
/// When one cannot be opened.
pub(crate) fn all(devs: &[String], partition: Option<&str>) -> Result<Vec<Scanned>, Failure> {
    devs.iter().map(|dev| Ok(unknown(device::for_format(dev, partition)?))).collect()
}

fn unknown(window: Window) -> Scanned {
    let (mut hits, unreadable) = hits(&window);
    // Nothing but a superblock tells of slots; without one everything is news.
    let known: Vec<u64> = window
        .dev()
        .ok()
        .and_then(|dev| Volume::open(dev, window.placement()).ok())
        .map(|v| v.dumps().iter().map(|(_, r)| r.start.0).collect())
        .unwrap_or_default();
    hits.retain(|h| !known.contains(&h.at));
    Scanned { window, hits, unreadable }
}

/// All dumps and parts that a device holds, and the bytes that could not be read.
fn hits(window: &Window) -> (Vec<Hit>, u64) {
    let (mut found, mut unreadable) = (Vec::new(), 0);
    let mut buf = vec![0u8; STEP];
    let bar = progress(window.len, "scan");
    let mut at = 0;
    while at < window.len {
        let take = usize::try_from(window.len - at).unwrap_or(STEP).min(STEP);
        let space = buf.get_mut(..take).unwrap_or_default();
        if window.read_at(at, space).is_err() {
            // Around a bad sector, block by block.
            for (n, block) in space.chunks_mut(BLOCK).enumerate() {
                if window.read_at(at + n as u64 * BLOCK64, block).is_err() {
                    block.fill(0);
                    unreadable += block.len() as u64;
                }
            }
        }
        let (blocks, _) = space.as_chunks::<BLOCK>();
        for (n, block) in blocks.iter().enumerate() {
            found.extend(look_at(window, at + n as u64 * BLOCK64, block));
        }
        at += take as u64;
        bar.set_position(at);
    }
    bar.finish_and_clear();
    (found, unreadable)
}

/// What begins at a block, if anything does.
fn look_at(window: &Window, at: u64, block: &[u8; BLOCK]) -> Option<Hit> {
    if let Ok(p) = PartBlock::decode(block) {
        let header = block_at(window, at + BLOCK64).and_then(|b| DumpHeader::decode(&b).ok());
        let header = header.filter(|h| h.dump_id == p.dump_id);
        return Some(Hit { at, dump_id: p.dump_id, part: p.part, base: p.base, header });
    }
    // The first chunk tells of a dump even where its header is damaged.
    let chunk = block_at(window, at).and_then(|_| first_chunk(window, at))?;
    let header = DumpHeader::decode(block).ok().filter(|h| h.dump_id == chunk.dump_id);
    let begins = block.starts_with(&lifeboat_format::header::MAGIC) || header.is_some();
    begins.then_some(Hit { at, dump_id: chunk.dump_id, part: 0, base: 0, header })
}

fn block_at(window: &Window, at: u64) -> Option<[u8; BLOCK]> {
    let mut block = [0u8; BLOCK];
    window.read_at(at, &mut block).ok().map(|()| block)
}

/// The first chunk of a dump that would begin at `at`.
fn first_chunk(window: &Window, at: u64) -> Option<ChunkHeader> {
    let mut bytes = [0u8; CHUNK_HEADER];
    window.read_at(at.checked_add(HEADER_LEN as u64)?, &mut bytes).ok()?;
    ChunkHeader::decode(&bytes).ok().filter(|c| c.offset.0 == HEADER_LEN as u64)
}

/// The dump that begins at byte `at` of DEV, with its further parts wherever on the
/// given devices they lie.
///
/// # Errors
/// When nothing begins there.
pub(crate) fn at(
    dev: &str,
    partition: Option<&str>,
    with: &[String],
    at: u64,
) -> Result<Summary, Failure> {
    let window = device::for_format(dev, partition)?;
    let nothing = || {
        Failure::new(format!("no dump begins at byte {at} of {}", window.name))
            .hint("`lifeboat list --scan` prints where dumps begin")
    };
    let block = block_at(&window, at).ok_or_else(nothing)?;
    let hit = look_at(&window, at, &block).ok_or_else(nothing)?;
    let mut places = vec![place(0, &window, &hit)];
    let alone = end_of(&hit.dump_id, &places);
    // A dump whose end was found where it must be has no further parts.
    if hit.part > 0 || alone.is_none_or(|c| c.last_part > 0) {
        let mut devices = vec![window.clone()];
        for dev in with {
            devices.push(device::for_format(dev, None)?);
        }
        for (n, w) in devices.iter().enumerate() {
            let parts = hits(w).0.into_iter().filter(|h| h.dump_id == hit.dump_id);
            let new = parts.filter(|h| h.at != at || n > 0);
            places.extend(new.map(|h| place(n, w, &h)));
        }
    }
    places.sort_by_key(|p| p.record.part);
    finish(&hit.dump_id, &mut places);
    Summary::found(format!("{} dump at byte {at}", window.name), Laid { parts: places })
}

/// A part that reaches to the end of its device, for now.
fn place(volume: usize, window: &Window, hit: &Hit) -> PartPlace {
    let len = window.len.saturating_sub(hit.at);
    let record = SlotRecord {
        volume_id: hit.header.map(|h| h.volume_id).unwrap_or_default(),
        dump_id: hit.dump_id,
        generation: 0,
        number: hit.header.map_or(0, |h| h.number),
        state: SlotState::Capturing,
        pulled: false,
        start: ByteOff(hit.at),
        reserved_len: len,
        used_len: 0,
        created: hit.header.map_or(0, |h| h.created),
        part: hit.part,
        base: hit.base,
        next_volume: [0; 16],
    };
    PartPlace::found(volume, window.clone(), record)
}

fn logical(places: &[PartPlace]) -> Parts {
    let extents: Vec<Extent> =
        places.iter().map(|p| p.extent(Arc::clone(&p.window.file))).collect();
    Parts::new(extents)
}

/// The commit record behind the last chunk, if it stands where it must.
fn end_of(id: &Id, places: &[PartPlace]) -> Option<CommitRecord> {
    let parts = logical(places);
    let mut walk = Scanner::new(&parts, *id, HEADER_LEN as u64, u64::MAX).giving_up_after(OPEN_END);
    let mut end = 0;
    while let Some(step) = walk.next() {
        match step {
            Step::Chunk(c) => end = c.header.offset.0.saturating_add(c.header.frame_len()),
            Step::Gap(_) => {}
        }
    }
    let at = end.checked_next_multiple_of(BLOCK64)?.checked_add(HEADER_LEN as u64)?;
    let mut block = [0u8; BLOCK];
    parts.read_exact_at(at, &mut block).ok()?;
    let c = CommitRecord::decode(&block).ok()?;
    (c.dump_id == *id && c.total_len == at + BLOCK64).then_some(c)
}

/// Gives the last part its length, and the others theirs, as a slot would.
fn finish(id: &Id, places: &mut [PartPlace]) {
    let Some(c) = end_of(id, places) else { return };
    if let Some(last) = places.last_mut()
        && let Some(left) = c.total_len.checked_sub(last.record.base)
    {
        let head = if last.record.part == 0 { 0 } else { PART_HEAD as u64 };
        last.record.used_len = left + head;
        last.record.state = SlotState::Complete;
    }
}

/// A dump whose slot says that it is being captured, if its commit record is there.
///
/// # Errors
/// When a device cannot be opened.
pub(crate) fn committed(name: &str, id: &Id, laid: &Laid) -> Result<Option<Summary>, Failure> {
    let mut places: Vec<PartPlace> = laid.entered().cloned().collect();
    finish(id, &mut places);
    let ended = places.last().is_some_and(|p| p.record.state == SlotState::Complete);
    ended.then(|| Summary::found(name.to_owned(), Laid { parts: places })).transpose()
}

/// For people.
pub(crate) fn text(s: &Scanned) -> String {
    let mut out = String::new();
    if s.unreadable > 0 {
        warn(format!("{}: {} bytes could not be read", s.window.name, s.unreadable));
    }
    if s.hits.is_empty() {
        let _ = writeln!(out, "{}: scanned, and no dump that no slot tells of", s.window.name);
    }
    for h in &s.hits {
        let what = match h.part {
            0 => "a dump".to_owned(),
            n => format!("part {} (from byte {} on) of a dump", n + 1, h.base),
        };
        let _ = writeln!(out, "{}: {what} that no slot tells of, at byte {}", s.window.name, h.at);
        let _ = writeln!(out, "  id          {}", hex(&h.dump_id));
        match &h.header {
            Some(header) => {
                let _ = writeln!(out, "  when        {}", when(header.created));
                let _ = writeln!(out, "  kernel      {}", safe(header.release_text()));
                let _ = writeln!(out, "  reason      {}", safe(header.reason_text()));
                let _ = writeln!(out, "  volume      {}", hex(&header.volume_id));
            }
            None => {
                let _ = writeln!(out, "  DAMAGED     its header");
            }
        }
        let _ =
            writeln!(out, "  fetch it    lifeboat pull {} --at {} -o FILE", s.window.name, h.at);
    }
    out
}

/// For scripts.
pub(crate) fn json(all: &[Scanned]) -> Value {
    let hit = |h: &Hit| {
        json!({
            "at": h.at, "dump_id": hex(&h.dump_id), "part": h.part, "base": h.base,
            "created": h.header.map(|x| x.created), "volume": h.header.map(|x| hex(&x.volume_id)),
            "release": h.header.as_ref().map(|x| x.release_text().to_owned()),
            "reason": h.header.as_ref().map(|x| x.reason_text().to_owned()),
        })
    };
    let of = |s: &Scanned| {
        let hits: Vec<Value> = s.hits.iter().map(hit).collect();
        json!({ "name": s.window.name, "unreadable": s.unreadable, "found": hits })
    };
    Value::Array(all.iter().map(of).collect())
}
