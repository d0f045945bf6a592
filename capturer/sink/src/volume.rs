//! Superblock, guard and slots of a volume.

use lifeboat_format::slot::all_slots;
use lifeboat_format::superblock::{EDGE, MIN_VOLUME, SLOT_TABLE_END};
use lifeboat_format::{
    BLOCK, ByteOff, FormatError, Id, SlotRecord, SlotState, Superblock, text_field,
};

use crate::plan::{NewPart, Plan};
use crate::{BlockDev, VolumeError};

const EDGE_BYTES: usize = 1 << 20;
const _: () = assert!(EDGE_BYTES as u64 == EDGE);

/// Where a volume lies, as the kernel (or a partition table) says it now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// Start of the partition on its disk in bytes; 0 for a whole disk or a plain file.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
}

/// A dump volume whose superblock was read.
#[derive(Debug)]
pub struct Volume<D> {
    dev: D,
    placement: Placement,
    superblock: Superblock,
    primary: bool,
    slots: Vec<Result<Option<SlotRecord>, FormatError>>,
}

impl<D: BlockDev> Volume<D> {
    /// Makes a volume: clears both edges, then writes the superblocks, the primary last.
    /// Whether that destroys anything is for the caller to find out first.
    ///
    /// # Errors
    /// [`VolumeError::TooSmall`], [`VolumeError::Io`].
    pub fn format(
        dev: D,
        at: Placement,
        max_dumps: u32,
        label: &str,
        volume_id: Id,
        now: u64,
    ) -> Result<Self, VolumeError> {
        let len = at.len - at.len % BLOCK as u64;
        if len < MIN_VOLUME {
            return Err(VolumeError::TooSmall { len: at.len, need: MIN_VOLUME });
        }
        let superblock = Superblock {
            volume_id,
            part_start: ByteOff(at.start),
            part_len: len,
            max_dumps: max_dumps.clamp(1, lifeboat_format::superblock::SLOTS),
            created: now,
            label: text_field(label),
        };
        let zeros = vec![0u8; EDGE_BYTES];
        let io = VolumeError::io;
        dev.write_at(0, &zeros).map_err(io("clearing the volume's head"))?;
        dev.write_at(len - EDGE, &zeros).map_err(io("clearing the volume's tail"))?;
        dev.flush().map_err(io("flushing"))?;
        let block = superblock.encode();
        let backup = Superblock::backup_at(len).0;
        dev.write_at(backup, &block).map_err(io("writing the backup superblock"))?;
        dev.flush().map_err(io("flushing"))?;
        dev.write_at(0, &block).map_err(io("writing the superblock"))?;
        dev.flush().map_err(io("flushing"))?;
        Self::open(dev, at)
    }

    /// Reads superblock and slots. A damaged primary superblock is replaced by
    /// the backup for reading; [`Volume::guard`] then refuses to write.
    ///
    /// # Errors
    /// [`VolumeError::NotOurs`], [`VolumeError::Superblock`], [`VolumeError::Io`].
    pub fn open(dev: D, at: Placement) -> Result<Self, VolumeError> {
        if dev.len() < MIN_VOLUME {
            return Err(if matches!(read_super(&dev, 0), Ok(Ok(_))) {
                VolumeError::TooSmall { len: dev.len(), need: MIN_VOLUME }
            } else {
                VolumeError::NotOurs
            });
        }
        let (superblock, primary) = match read_super(&dev, 0)? {
            Ok(sb) => (sb, true),
            Err(why) => {
                let usable = at.len - at.len % BLOCK as u64;
                match read_super(&dev, Superblock::backup_at(usable).0)? {
                    Ok(sb) => (sb, false),
                    Err(_) if matches!(why, FormatError::Magic { .. }) => {
                        return Err(VolumeError::NotOurs);
                    }
                    Err(_) => return Err(VolumeError::Superblock(why)),
                }
            }
        };
        let mut volume =
            Self { dev, placement: at, superblock, primary, slots: Vec::with_capacity(64) };
        volume.read_slots()?;
        Ok(volume)
    }

    fn read_slots(&mut self) -> Result<(), VolumeError> {
        self.slots.clear();
        let (mut a, mut b) = ([0u8; BLOCK], [0u8; BLOCK]);
        for slot in all_slots() {
            let io = VolumeError::io;
            self.dev
                .read_at(SlotRecord::offset(slot, 0).0, &mut a)
                .map_err(io("reading the slot table"))?;
            self.dev
                .read_at(SlotRecord::offset(slot, 1).0, &mut b)
                .map_err(io("reading the slot table"))?;
            let data_end = self.superblock.data_end().0;
            self.slots.push(SlotRecord::newest([&a, &b], &self.superblock.volume_id, data_end));
        }
        Ok(())
    }

    /// The superblock.
    #[must_use]
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// The device.
    #[must_use]
    pub fn dev(&self) -> &D {
        &self.dev
    }

    /// All slots in order; `Err` for one that is damaged.
    pub fn slots(&self) -> &[Result<Option<SlotRecord>, FormatError>] {
        &self.slots
    }

    /// Slots that hold a dump, as (slot, record), in order of dump number.
    #[must_use]
    pub fn dumps(&self) -> Vec<(u32, SlotRecord)> {
        let mut found: Vec<_> = all_slots()
            .zip(&self.slots)
            .filter_map(|(slot, record)| match record {
                Ok(Some(r)) if r.state != SlotState::Cleared => Some((slot, *r)),
                _ => None,
            })
            .collect();
        found.sort_by_key(|(_, r)| r.number);
        found
    }

    /// Whether this volume may be written: both superblocks are there and equal,
    /// the partition has the recorded start and length, and the guard areas hold
    /// nothing (the checks of s390-tools' zfcpdump, and one more).
    ///
    /// # Errors
    /// The first that fails, as a [`VolumeError`].
    pub fn guard(&self) -> Result<(), VolumeError> {
        let sb = &self.superblock;
        let found_len = self.placement.len - self.placement.len % BLOCK as u64;
        if self.placement.start != sb.part_start.0 || found_len != sb.part_len {
            return Err(VolumeError::Moved {
                want_start: sb.part_start.0,
                want_len: sb.part_len,
                start: self.placement.start,
                len: self.placement.len,
            });
        }
        if !self.primary {
            return Err(VolumeError::Backup);
        }
        match read_super(&self.dev, Superblock::backup_at(sb.part_len).0)? {
            Ok(backup) if backup == *sb => {}
            _ => return Err(VolumeError::Backup),
        }
        let mut buf = vec![0u8; 128 << 10];
        for area in sb.guard_areas() {
            let mut at = area.start;
            while at < area.end {
                let len = (area.end - at).min(buf.len() as u64);
                let space = buf.get_mut(..usize::try_from(len).unwrap_or(0)).unwrap_or_default();
                self.dev.read_at(at, space).map_err(VolumeError::io("reading a guard area"))?;
                if let Some(bad) = space.iter().position(|b| *b != 0) {
                    return Err(VolumeError::Foreign { at: at + bad as u64 });
                }
                at += len;
            }
        }
        Ok(())
    }

    /// Clears what `plan` drops, then records that part `part` of a dump is being
    /// captured into its room. From here on the space is taken, until the dump is
    /// cleared. A power cut between the steps loses only what the policy gave up.
    ///
    /// Both copies of the slot get the record: while a dump is captured, and for good if
    /// that never ends, nothing else protects it, and what the slot held before says that
    /// the space is free.
    ///
    /// # Errors
    /// [`VolumeError::Io`], [`VolumeError::Worn`].
    pub fn begin(&mut self, plan: &Plan, part: &NewPart) -> Result<(), VolumeError> {
        for slot in &plan.drops {
            self.update(*slot, |r| r.state = SlotState::Cleared)?;
        }
        let generation = match self.slots.get(plan.slot as usize) {
            Some(Ok(Some(old))) => next_generation(old)?,
            _ => 1,
        };
        let record = SlotRecord {
            volume_id: self.superblock.volume_id,
            dump_id: part.dump_id,
            generation,
            number: plan.number,
            state: SlotState::Capturing,
            pulled: false,
            start: plan.start,
            reserved_len: plan.len,
            used_len: 0,
            created: part.now,
            part: part.part,
            base: part.base,
            next_volume: [0; 16],
        };
        self.store(plan.slot, record)?;
        self.update(plan.slot, |_| {})
    }

    /// Changes the record of a slot that holds a dump.
    ///
    /// # Errors
    /// [`VolumeError::NoDump`], [`VolumeError::Io`], [`VolumeError::Worn`].
    pub fn update(
        &mut self,
        slot: u32,
        change: impl FnOnce(&mut SlotRecord),
    ) -> Result<(), VolumeError> {
        let Some(Ok(Some(old))) = self.slots.get(slot as usize) else {
            return Err(VolumeError::NoDump { slot });
        };
        let mut record = *old;
        change(&mut record);
        record.generation = next_generation(old)?;
        self.store(slot, record)
    }

    fn store(&mut self, slot: u32, record: SlotRecord) -> Result<(), VolumeError> {
        let at = SlotRecord::offset(slot, record.copy_index()).0;
        self.dev
            .write_at(at, &record.encode())
            .map_err(VolumeError::io("writing the slot table"))?;
        self.dev.flush().map_err(VolumeError::io("flushing the slot table"))?;
        if let Some(kept) = self.slots.get_mut(slot as usize) {
            *kept = Ok(Some(record));
        }
        Ok(())
    }
}

/// The generation of a slot's next write. None is left only in a forged slot: a write
/// with a lower one would be lost behind it.
fn next_generation(old: &SlotRecord) -> Result<u64, VolumeError> {
    old.generation.checked_add(1).ok_or(VolumeError::Worn)
}

fn read_super<D: BlockDev>(
    dev: &D,
    at: u64,
) -> Result<Result<Superblock, FormatError>, VolumeError> {
    let mut block = [0u8; BLOCK];
    dev.read_at(at, &mut block).map_err(VolumeError::io("reading the superblock"))?;
    Ok(Superblock::decode(&block))
}

const _: () = assert!(SLOT_TABLE_END < EDGE);
