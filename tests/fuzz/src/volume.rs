//! The slot table of a volume, read as the capturer and the host command do.

use std::collections::BTreeMap;
use std::io;

use lifeboat_format::bootcfg::Policy;
use lifeboat_format::superblock::{EDGE, MIN_VOLUME, SLOTS};
use lifeboat_format::{BLOCK, ByteOff, SlotRecord, SlotState, Superblock, text_field};
use lifeboat_sink::{BlockDev, Placement, Volume};

use crate::blocks::{padded, reseal};

const ID: [u8; 16] = [7; 16];

/// A device whose blocks are zero but for a few.
#[derive(Debug)]
struct Sparse {
    blocks: BTreeMap<u64, [u8; BLOCK]>,
    len: u64,
}

impl BlockDev for Sparse {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = off.checked_add(buf.len() as u64).filter(|end| *end <= self.len);
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.fill(0);
        let size = BLOCK as u64;
        for (at, block) in self.blocks.range(off / size * size..end) {
            let (from, to) = ((*at).max(off), (at + size).min(end));
            let part = |base: u64| {
                usize::try_from(from - base).unwrap()..usize::try_from(to - base).unwrap()
            };
            buf[part(off)].copy_from_slice(&block[part(*at)]);
        }
        Ok(())
    }

    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        panic!("reading a volume writes nothing")
    }

    fn flush(&self) -> io::Result<()> {
        panic!("reading a volume writes nothing")
    }
}

/// Slot records, `place u8, flags u8, len u8, body[len]` each: they are put into the
/// table of a sound volume, with right checksums unless bit 0 of the flags is set, and
/// with magic, version and volume unless bit 1 is.
pub fn slots(data: &[u8]) {
    let superblock = Superblock {
        volume_id: ID,
        part_start: ByteOff(0),
        part_len: MIN_VOLUME,
        max_dumps: 8,
        created: 1,
        label: text_field("fuzz"),
    };
    let data_end = superblock.data_end().0;
    let mut blocks = BTreeMap::new();
    blocks.insert(0, superblock.encode());
    blocks.insert(Superblock::backup_at(MIN_VOLUME).0, superblock.encode());
    let mut rest = data;
    while let Some(([place, flags, len], behind)) = rest.split_first_chunk::<3>() {
        let (body, behind) = behind.split_at(usize::from(*len).min(behind.len()));
        rest = behind;
        let mut block: [u8; BLOCK] = padded(body);
        if flags & 2 == 0 {
            block[..8].copy_from_slice(b"LBSLOT\0\x01");
            block[8..12].copy_from_slice(&lifeboat_format::FORMAT_VERSION.to_le_bytes());
            block[16..32].copy_from_slice(&ID);
        }
        if flags & 1 == 0 {
            reseal(&mut block);
        }
        if let Ok(Some(record)) = SlotRecord::decode(&block, &ID, data_end) {
            assert_eq!(SlotRecord::decode(&record.encode(), &ID, data_end), Ok(Some(record)));
        }
        let at = SlotRecord::offset(u32::from(*place) % SLOTS, u32::from(*place >> 7)).0;
        blocks.insert(at, block);
    }
    let dev = Sparse { blocks, len: MIN_VOLUME };
    let volume = Volume::open(dev, Placement { start: 0, len: MIN_VOLUME }).expect("it is ours");
    assert_eq!(volume.slots().len(), SLOTS as usize);
    for record in volume.slots().iter().flatten().flatten() {
        let extent = record.extent();
        assert!(extent.start >= EDGE && extent.start <= extent.end && extent.end <= data_end);
        assert!(record.used_len <= record.reserved_len && record.number > 0);
    }
    for policy in [Policy::KeepFirst, Policy::KeepLatest, Policy::DropPulled] {
        plan(&volume, policy, data_end);
    }
}

/// What is planned hits nothing that is kept, and drops only what the policy allows.
fn plan(volume: &Volume<Sparse>, policy: Policy, data_end: u64) {
    let Ok(plan) = volume.plan(policy) else { return };
    let end = plan.start.0.checked_add(plan.len).expect("a place on the volume");
    assert!(plan.start.0 >= EDGE && end <= data_end && plan.len > 0);
    assert!(plan.start.0.is_multiple_of(BLOCK as u64));
    for (slot, record) in (0u32..).zip(volume.slots()) {
        let record = record.as_ref().expect("a damaged slot may protect a dump");
        let Some(kept) = record.filter(|r| r.state != SlotState::Cleared) else { continue };
        if plan.drops.contains(&slot) {
            assert!(policy != Policy::KeepFirst && (policy == Policy::KeepLatest || kept.pulled));
            continue;
        }
        assert!(plan.slot != slot, "slot {slot} is taken");
        let kept = kept.extent();
        assert!(kept.end <= plan.start.0 || end <= kept.start, "{kept:?} would be overwritten");
    }
}
