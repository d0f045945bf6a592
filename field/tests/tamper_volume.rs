//! A volume whose superblock or slots were rolled back to an older state of their own.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "test code, helpers included"
)]

mod golden;
mod support;

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use golden::{Made, Order, make};
use lifeboat_field::dump::{DumpFile, FileWindow};
use lifeboat_format::bootcfg::Policy;
use lifeboat_format::superblock::{SLOT_TABLE, SLOT_TABLE_END};
use lifeboat_format::{BLOCK, DumpHeader, FormatError, SlotState, Superblock};
use lifeboat_sink::{FileDev, Placement, Volume, VolumeError};
use support::rig::Place;

/// A partition that was formatted twice, each time with a dump captured onto it, and its
/// bytes after each step that an attacker may have kept.
struct History {
    place: Place,
    /// As the first formatting left it, with its dump.
    first: Vec<u8>,
    /// As the second formatting left it, empty.
    empty: Vec<u8>,
    second: Made,
}

fn bytes(place: &Place) -> Vec<u8> {
    let mut out = vec![0; usize::try_from(place.len).unwrap()];
    place.file.read_exact_at(&mut out, 0).unwrap();
    out
}

fn take(place: &Place, id: u8) -> Made {
    let file = place.file.try_clone().unwrap();
    make(&Order::clear(61, id), vec![Place { file, base: 0, len: place.len, good_for: u64::MAX }])
}

fn history() -> History {
    let file = tempfile::tempfile().unwrap();
    let place = golden::volume(file.try_clone().unwrap(), 14 << 20, 0xa1);
    take(&place, 0x61);
    let first = bytes(&place);
    let place = golden::volume(file, 14 << 20, 0xa2);
    let empty = bytes(&place);
    let second = take(&place, 0x62);
    place.volume().guard().unwrap();
    History { place, first, empty, second }
}

impl History {
    fn put(&self, from: &[u8], range: std::ops::Range<u64>) {
        let (start, end) = (range.start as usize, range.end as usize);
        self.place.file.write_all_at(&from[start..end], range.start).unwrap();
    }
    fn open(&self) -> Result<Volume<FileDev>, VolumeError> {
        let dev = FileDev::new(self.place.file.try_clone().unwrap(), 0, self.place.len);
        Volume::open(dev, Placement { start: 0, len: self.place.len })
    }
}

#[test]
fn an_older_superblock_is_refused() {
    let h = history();
    let block = BLOCK as u64;
    let backup = Superblock::backup_at(h.place.len).0;
    // Either copy alone: the two differ, nothing may be written.
    for at in [0, backup] {
        let new = bytes(&h.place);
        h.put(&h.first, at..at + block);
        let v = h.open().unwrap();
        assert!(matches!(v.guard(), Err(VolumeError::Backup)), "{at}");
        h.put(&new, at..at + block);
        h.open().unwrap().guard().unwrap();
    }
    // Both: the slots are another volume's, which no plan passes over.
    h.put(&h.first, 0..block);
    h.put(&h.first, backup..backup + block);
    let v = h.open().unwrap();
    assert_eq!(v.superblock().volume_id, [0xa1; 16]);
    let slot = v.slots()[0].unwrap_err();
    assert!(matches!(slot, FormatError::Field { field: "volume_id", .. }), "{slot}");
    let e = v.plan(Policy::KeepLatest).unwrap_err();
    assert!(matches!(e, VolumeError::Slot { slot: 0, .. }), "{e}");
}

/// What FORMAT.md admits: an older slot table of the same volume is sound. The dump is out of
/// sight of `list`, not gone: a scan for headers finds it, and it proves itself.
#[test]
fn an_older_slot_table_hides_a_dump_from_the_list_only() {
    let h = history();
    h.put(&h.empty, SLOT_TABLE..SLOT_TABLE_END);
    let v = h.open().unwrap();
    v.guard().unwrap();
    assert!(v.dumps().is_empty());
    let all = bytes(&h.place);
    let (blocks, _) = all.as_chunks::<BLOCK>();
    let heads: Vec<(usize, DumpHeader)> = blocks
        .iter()
        .enumerate()
        .filter_map(|(n, b)| Some((n * BLOCK, DumpHeader::decode(b).ok()?)))
        .filter(|(_, head)| head.volume_id == [0xa2; 16])
        .collect();
    // The header and its copy.
    assert_eq!(heads.len(), 2);
    let (at, head) = heads[0];
    assert_eq!((head, head.dump_id), (h.second.header, [0x62; 16]));
    let file = h.place.file.try_clone().unwrap();
    let window = FileWindow::new(file, at as u64, h.second.record.total_len);
    let dump = DumpFile::open(Arc::new(window)).unwrap();
    let v = dump.verify(Some(&dump.opener(None).unwrap()), &|_| {});
    assert!(v.is_sound() && v.is_complete(), "{:?}", v.findings);
}

/// One copy of a slot rolled back is what a torn write leaves: the newer one holds.
#[test]
fn one_older_copy_of_a_slot_changes_nothing() {
    let h = history();
    for copy in [0, 1] {
        let at = lifeboat_format::SlotRecord::offset(0, copy).0;
        let now = bytes(&h.place);
        h.put(&h.empty, at..at + BLOCK as u64);
        let dumps = h.open().unwrap().dumps();
        assert_eq!(dumps.len(), 1);
        // At worst the last change is lost: the dump is there, and ends with its record.
        assert!(matches!(dumps[0].1.state, SlotState::Complete | SlotState::Capturing));
        h.put(&now, at..at + BLOCK as u64);
    }
}
