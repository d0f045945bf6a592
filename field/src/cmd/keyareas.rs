//! The copies of a dump's key area, where they lie, and writing all of them so that
//! a power cut at any moment leaves the dump open to everybody whom it was open to.
//!
//! A dump has one copy behind its header, one behind the header's second copy if it was
//! committed, and one at the head of every further part. They are written one by
//! one, each made durable before the next is touched: damaged ones first, since nothing is
//! lost with them, the first one last. Where there is one copy only, its old entries stay
//! in their place, byte for byte, and readers find them even if the write is torn.

use std::io;

use lifeboat_format::header::{HEADER_LEN, KEY_AREA_LEN};
use lifeboat_format::part::PART_HEAD;
use lifeboat_format::{
    BLOCK, CommitRecord, DumpHeader, FormatError, Id, KeyArea, KeyEntry, SlotRecord, keys,
};
use lifeboat_sink::BlockDev;

const BLOCK64: u64 = BLOCK as u64;

/// Where a copy lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// For messages.
    pub(crate) name: String,
    /// Which of the devices.
    pub(crate) dev: usize,
    /// Byte offset of the key area on it.
    pub(crate) at: u64,
}

/// One copy, as it was read.
pub(crate) struct Copy {
    pub(crate) place: Place,
    /// The header block in front of it.
    header: Option<DumpHeader>,
    bytes: Box<[u8; KEY_AREA_LEN]>,
    /// What is wrong with it.
    pub(crate) fault: Option<String>,
}

/// What became of a copy.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// It was sound and has the new entries.
    Renewed,
    /// It was damaged or behind, and is sound again.
    Repaired,
    /// It was damaged and could not be written.
    Lost(String),
}

/// All copies that the devices hold.
pub(crate) struct KeyAreas {
    pub(crate) copies: Vec<Copy>,
}

/// The entries to keep, and what stands behind them.
pub(crate) struct Newest<'a> {
    generation: u64,
    pub(crate) entries: Vec<KeyEntry<'a>>,
    /// No area is sound: an entry may be torn, the last of them above all.
    pub(crate) salvaged: bool,
}

/// Where a dump file has its key areas.
pub(crate) fn of_file(commit: Option<&CommitRecord>) -> Vec<Place> {
    let first = Place { name: "first copy".to_owned(), dev: 0, at: BLOCK64 };
    let second = commit.map(|c| Place {
        name: "second copy".to_owned(),
        dev: 0,
        at: c.header_copy.0.saturating_add(BLOCK64),
    });
    std::iter::once(first).chain(second).collect()
}

/// Where a dump has its key areas on volumes that hold `parts` of it; part number `n` of
/// the list lies on device `n`.
pub(crate) fn of_parts(parts: &[SlotRecord], commit: Option<&CommitRecord>) -> Vec<Place> {
    let place = |name: String, dev: usize, header: u64| Place {
        name,
        dev,
        at: header.saturating_add(BLOCK64),
    };
    let head = |(dev, r): (usize, &SlotRecord)| match r.part {
        0 => place("first copy".to_owned(), dev, r.start.0),
        n => place(format!("copy of part {n}"), dev, r.start.0.saturating_add(BLOCK64)),
    };
    let copy = commit.map(|c| c.header_copy.0);
    let held = |(dev, r): (usize, &SlotRecord)| Some((dev, place_in(r, copy?)?));
    let second = parts.iter().enumerate().find_map(held);
    let second = second.map(|(dev, at)| place("second copy".to_owned(), dev, at));
    parts.iter().enumerate().map(head).chain(second).collect()
}

/// Where the header's copy at logical offset `copy` lies, if all of it is in this part.
fn place_in(part: &SlotRecord, copy: u64) -> Option<u64> {
    let head = if part.part == 0 { 0 } else { PART_HEAD as u64 };
    let within = copy.checked_sub(part.base)?.checked_add(head)?;
    let at = part.start.0.checked_add(within).filter(|at| at.is_multiple_of(BLOCK64))?;
    let end = at.checked_add(HEADER_LEN as u64)?;
    (end <= part.extent().end).then_some(at)
}

impl KeyAreas {
    /// Reads the copies of dump `id`. One that cannot be read counts as damaged.
    pub(crate) fn read<D: BlockDev>(devs: &[D], id: Option<&Id>, places: Vec<Place>) -> Self {
        let copies = places.into_iter().map(|place| {
            let mut block = [0u8; BLOCK];
            let mut bytes = Box::new([0u8; KEY_AREA_LEN]);
            let read = |at, buf: &mut [u8]| match devs.get(place.dev) {
                Some(dev) => dev.read_at(at, buf),
                None => Err(io::ErrorKind::NotFound.into()),
            };
            let header = read(place.at.saturating_sub(BLOCK64), &mut block).ok();
            let header = header.and_then(|()| DumpHeader::decode(&block).ok());
            let header = header.filter(|h| id.is_none_or(|id| h.dump_id == *id));
            let read = read(place.at, &mut *bytes).map_err(|e| e.to_string());
            let fault = read
                .and_then(|()| KeyArea::decode(&bytes).map(|_| ()).map_err(|e| e.to_string()))
                .err();
            Copy { place, header, bytes, fault }
        });
        Self { copies: copies.collect() }
    }

    /// The header, from whichever copy is sound.
    pub(crate) fn header(&self) -> Option<&DumpHeader> {
        self.copies.iter().find_map(|c| c.header.as_ref())
    }

    fn newest_copy(&self) -> Option<(&Copy, KeyArea<'_>)> {
        let sound = self.copies.iter().filter_map(|c| Some((c, KeyArea::decode(&c.bytes).ok()?)));
        // The first of equals.
        sound.reduce(|a, b| if b.1.generation > a.1.generation { b } else { a })
    }

    /// The newest sound copy's entries, or what holds together in a damaged one.
    pub(crate) fn newest(&self) -> Option<Newest<'_>> {
        if let Some((_, area)) = self.newest_copy() {
            let (generation, entries) = (area.generation, area.entries().collect());
            return Some(Newest { generation, entries, salvaged: false });
        }
        let salvaged = self.copies.iter().map(|c| KeyArea::salvage(&c.bytes).collect::<Vec<_>>());
        let entries = salvaged.max_by_key(Vec::len).filter(|e| !e.is_empty())?;
        Some(Newest { generation: 0, entries, salvaged: true })
    }

    /// Whether some copy is damaged or older than the newest.
    pub(crate) fn uneven(&self) -> bool {
        let newest = self.newest_copy().map(|(c, _)| &c.bytes);
        newest.is_none() || self.copies.iter().any(|c| Some(&c.bytes) != newest)
    }

    /// The key area with one more entry; with none, as it is.
    ///
    /// # Errors
    /// [`FormatError::NoSpace`] when it is full.
    pub(crate) fn with(
        &self,
        entry: Option<KeyEntry<'_>>,
    ) -> Result<Box<[u8; KEY_AREA_LEN]>, FormatError> {
        if entry.is_none()
            && let Some((newest, _)) = self.newest_copy()
        {
            return Ok(newest.bytes.clone());
        }
        let newest = self.newest().ok_or(FormatError::Short { what: "key area" })?;
        let entries: Vec<KeyEntry<'_>> = newest.entries.into_iter().chain(entry).collect();
        let mut bytes = Box::new([0u8; KEY_AREA_LEN]);
        KeyArea::encode(&mut bytes, newest.generation.saturating_add(1), &entries)?;
        Ok(bytes)
    }

    /// Writes `bytes` to every copy, see above.
    ///
    /// # Errors
    /// The device's at a copy that was sound: later ones are then untouched. Also when the
    /// only sound copy is of version 1, whose entries would move.
    pub(crate) fn write<D: BlockDev>(
        &self,
        devs: &[D],
        bytes: &[u8; KEY_AREA_LEN],
    ) -> Result<Vec<(&Copy, Written)>, (&Place, io::Error)> {
        let newest = self.newest_copy().map(|(c, _)| &c.bytes);
        let (mut done, mut safe) = (Vec::new(), self.copies.iter().filter(|c| c.sound()).count());
        let damaged_first = self.copies.iter().rev().filter(|c| !c.sound());
        let sound_then = self.copies.iter().rev().filter(|c| c.sound());
        for copy in damaged_first.chain(sound_then) {
            let alone = copy.sound() && safe <= 1;
            let moves = *copy.bytes != *bytes && copy.bytes.starts_with(&keys::MAGIC_V1);
            if alone && moves {
                let why = "it is the only sound key area and of version 1: a power cut while it is rewritten would lose the dump";
                return Err((&copy.place, io::Error::other(why)));
            }
            let dev = devs.get(copy.place.dev);
            let put = dev.map_or(Err(io::ErrorKind::NotFound.into()), |dev| put(dev, copy, bytes));
            let became = match put {
                Ok(()) if !copy.sound() || Some(&copy.bytes) != newest => {
                    safe += usize::from(!copy.sound());
                    Written::Repaired
                }
                Ok(()) => Written::Renewed,
                Err(e) if !copy.sound() => Written::Lost(e.to_string()),
                Err(e) => return Err((&copy.place, e)),
            };
            done.push((copy, became));
        }
        Ok(done)
    }
}

impl Copy {
    fn sound(&self) -> bool {
        self.fault.is_none()
    }
}

/// Writes one copy, makes it durable, and looks whether it is there.
fn put<D: BlockDev>(dev: &D, copy: &Copy, bytes: &[u8; KEY_AREA_LEN]) -> io::Result<()> {
    dev.write_at(copy.place.at, bytes)?;
    dev.flush()?;
    let mut back = Box::new([0u8; KEY_AREA_LEN]);
    dev.read_at(copy.place.at, &mut *back)?;
    if *back == *bytes {
        return Ok(());
    }
    Err(io::Error::other("what was written is not what can be read there"))
}

#[cfg(test)]
#[path = "keyareas_tests.rs"]
mod tests;
