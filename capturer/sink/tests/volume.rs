//! Guard, slots and plans of a volume on a real file.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::too_many_lines,
    reason = "a test that fails shall panic"
)]

use std::fs::File;
use std::os::unix::fs::FileExt;

use lifeboat_format::bootcfg::Policy;
use lifeboat_format::{BLOCK, Id, SlotState};
use lifeboat_sink::{FileDev, MIN_DUMP, NewPart, Placement, Volume, VolumeError};

const LEN: u64 = 64 << 20;

fn part(dump_id: Id, now: u64) -> NewPart {
    NewPart { dump_id, part: 0, base: 0, now }
}

fn open(file: &File, start: u64, len: u64) -> Result<Volume<FileDev>, VolumeError> {
    let dev = FileDev::new(file.try_clone().unwrap(), 0, len);
    Volume::open(dev, Placement { start, len })
}

fn format(len: u64, max: u32) -> (File, Volume<FileDev>) {
    let file = tempfile::tempfile().unwrap();
    file.set_len(len).unwrap();
    let dev = FileDev::new(file.try_clone().unwrap(), 0, len);
    let at = Placement { start: 1 << 20, len };
    let volume = Volume::format(dev, at, max, "t", [5; 16], 1).unwrap();
    (file, volume)
}

#[test]
fn a_fresh_volume_passes_its_guard_and_holds_nothing() {
    let (file, volume) = format(LEN + 512, 4);
    volume.guard().unwrap();
    assert!(volume.dumps().is_empty());
    let again = open(&file, 1 << 20, LEN + 512).unwrap();
    again.guard().unwrap();
    assert_eq!(again.superblock().part_len, LEN);
    let plan = again.plan(Policy::KeepFirst).unwrap();
    assert_eq!((plan.slot, plan.number, plan.start.0, plan.len), (0, 1, 1 << 20, LEN - (2 << 20)));
}

#[test]
fn what_is_not_ours_is_not_opened() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(LEN).unwrap();
    assert!(matches!(open(&file, 0, LEN), Err(VolumeError::NotOurs)));
    file.set_len(1 << 20).unwrap();
    assert!(matches!(open(&file, 0, 1 << 20), Err(VolumeError::NotOurs)));
}

#[test]
fn a_moved_or_resized_partition_is_refused() {
    let (file, _) = format(LEN, 4);
    for (start, len) in [(0, LEN), (2 << 20, LEN), (1 << 20, LEN - (1 << 20))] {
        let volume = open(&file, start, len).unwrap();
        assert!(matches!(volume.guard(), Err(VolumeError::Moved { .. })), "{start} {len}");
    }
}

/// One byte anywhere in the edges, but for the slot table, is foreign.
#[test]
fn a_foreign_byte_in_the_edges_is_found() {
    let edge = 1u64 << 20;
    let slots = (128u64 << 10)..(640 << 10);
    let mut places: Vec<u64> = (0..edge).step_by(4093).filter(|at| !slots.contains(at)).collect();
    // Where real ones put theirs: ext, swap, LVM, btrfs, MD 1.1, MD 1.2, MD 0.90, GPT.
    places.extend([
        1080,
        4086,
        512,
        65600,
        4096,
        LEN - (64 << 10),
        LEN - 512,
        LEN - 8192,
        1 << 20 >> 1 << 1,
    ]);
    places.extend((LEN - edge..LEN).step_by(40_009));
    let mut tried = 0;
    for at in places {
        if at == edge {
            continue;
        }
        let (file, _) = format(LEN, 4);
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        byte[0] ^= 0x41;
        file.write_all_at(&byte, at).unwrap();
        let result = open(&file, 1 << 20, LEN).and_then(|v| v.guard());
        assert!(result.is_err(), "byte {at} went unseen");
        tried += 1;
    }
    assert!(tried > 100);
}

#[test]
fn a_lost_primary_superblock_is_read_from_its_copy_but_never_written_by() {
    let (file, mut volume) = format(LEN, 4);
    let plan = volume.plan(Policy::KeepFirst).unwrap();
    volume.begin(&plan, &part([1; 16], 9)).unwrap();
    file.write_all_at(&[0; BLOCK], 0).unwrap();
    let volume = open(&file, 1 << 20, LEN).unwrap();
    assert_eq!(volume.dumps().len(), 1);
    assert!(matches!(volume.guard(), Err(VolumeError::Backup)));
}

#[test]
fn dumps_follow_each_other_and_none_is_overwritten() {
    let (file, mut volume) = format(LEN, 3);
    let mut extents = Vec::new();
    for n in 1..=3u64 {
        let plan = volume.plan(Policy::KeepFirst).unwrap();
        assert_eq!(plan.number, n);
        for old in &extents {
            let old: &std::ops::Range<u64> = old;
            assert!(plan.start.0 >= old.end || plan.start.0 + plan.len <= old.start);
        }
        volume.begin(&plan, &part([n as u8; 16], n)).unwrap();
        // While it captures, all of the gap is taken.
        assert!(matches!(volume.plan(Policy::KeepFirst), Err(VolumeError::Full { .. })));
        let used = 5 << 20;
        volume
            .update(plan.slot, |r| {
                r.state = SlotState::Complete;
                r.used_len = used;
            })
            .unwrap();
        extents.push(plan.start.0..plan.start.0 + used);
    }
    assert!(matches!(
        volume.plan(Policy::KeepFirst),
        Err(VolumeError::Full { dumps: 3, max: 3, .. })
    ));
    let mut again = open(&file, 1 << 20, LEN).unwrap();
    assert_eq!(again.dumps().iter().map(|(_, r)| r.number).collect::<Vec<_>>(), [1, 2, 3]);
    let (slot, _) = again.dumps()[1];
    again.update(slot, |r| r.state = SlotState::Cleared).unwrap();
    let plan = again.plan(Policy::KeepFirst).unwrap();
    assert_eq!((plan.slot, plan.number), (slot, 4));
    assert!(plan.start.0 >= extents[2].end, "the largest gap is behind the last");
}

#[test]
fn a_damaged_slot_stops_new_dumps() {
    let (file, mut volume) = format(LEN, 3);
    let plan = volume.plan(Policy::KeepFirst).unwrap();
    volume.begin(&plan, &part([1; 16], 1)).unwrap();
    for copy in 0..2 {
        file.write_all_at(&[0xee; 64], (128 << 10) + copy * 4096).unwrap();
    }
    let volume = open(&file, 1 << 20, LEN).unwrap();
    volume.guard().unwrap();
    assert!(matches!(volume.plan(Policy::KeepFirst), Err(VolumeError::Slot { slot: 0, .. })));
}

#[test]
fn a_volume_with_too_little_room_is_full() {
    let (_, mut volume) = format(16 << 20, 64);
    let plan = volume.plan(Policy::KeepFirst).unwrap();
    volume.begin(&plan, &part([1; 16], 1)).unwrap();
    volume
        .update(plan.slot, |r| {
            r.state = SlotState::Partial;
            r.used_len = plan.len - MIN_DUMP + BLOCK as u64;
        })
        .unwrap();
    assert!(
        matches!(volume.plan(Policy::KeepFirst), Err(VolumeError::Full { gap, .. }) if gap < MIN_DUMP)
    );
}

#[test]
fn too_small_a_partition_is_not_formatted() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(8 << 20).unwrap();
    let dev = FileDev::new(file.try_clone().unwrap(), 0, 8 << 20);
    let result = Volume::format(dev, Placement { start: 0, len: 8 << 20 }, 1, "", [0; 16], 0);
    assert!(matches!(result, Err(VolumeError::TooSmall { .. })));
    let mut head = [1; 512];
    file.read_exact_at(&mut head, 0).unwrap();
    assert_eq!(head, [0; 512], "nothing was written");
}
