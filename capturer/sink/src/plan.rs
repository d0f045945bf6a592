//! Where a new dump, or a further part of one, may go: the ring and its policies.
//!
//! A dump takes the largest gap. What the volume's policy gives up is dropped only
//! when there is no gap, no slot or no further dump allowed: the oldest first, and
//! never more than is needed to go on. This file only plans; it writes nothing.

use lifeboat_format::bootcfg::Policy;
use lifeboat_format::part::PART_HEAD;
use lifeboat_format::slot::all_slots;
use lifeboat_format::superblock::SLOTS;
use lifeboat_format::{BLOCK, ByteOff, Id, SlotRecord, SlotState};

use crate::{BlockDev, Volume, VolumeError};

/// The least room that a dump is begun with, in bytes: header, log, notes,
/// index and commit record, and a first stretch of memory.
pub const MIN_DUMP: u64 = 4 << 20;
/// The least room that a dump goes on in, in bytes.
pub const MIN_PART: u64 = 2 << 20;

/// Where a new dump, or a further part of one, would go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The slot that will record it.
    pub slot: u32,
    /// The dump's number on this volume.
    pub number: u64,
    /// First byte within the volume.
    pub start: ByteOff,
    /// Bytes that it may take.
    pub len: u64,
    /// Slots whose dumps are dropped for it, in this order.
    pub drops: Drops,
}

/// Slots, at most all of a volume.
pub type Drops = heapless::Vec<u32, { SLOTS as usize }>;

/// What [`Volume::begin`] records of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewPart {
    /// The dump.
    pub dump_id: Id,
    /// Number of the part, from 0.
    pub part: u16,
    /// Logical offset of its first byte behind the head; 0 for part 0.
    pub base: u64,
    /// Seconds since 1970.
    pub now: u64,
}

/// What is kept, as the plan goes on.
struct Kept {
    /// Slots that hold something.
    used: heapless::Vec<(u32, SlotRecord), { SLOTS as usize }>,
    drops: Drops,
}

impl Kept {
    /// Different dumps.
    fn dumps(&self) -> u32 {
        let first = |(n, (_, r)): &(usize, &(u32, SlotRecord))| {
            self.used.iter().take(*n).all(|(_, other)| other.dump_id != r.dump_id)
        };
        let count = self.used.iter().enumerate().filter(first).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// The largest gap between what is kept, in whole blocks.
    fn gap(&self, start: u64, end: u64) -> (u64, u64) {
        let mut extents: heapless::Vec<_, { SLOTS as usize }> =
            self.used.iter().map(|(_, r)| r.extent()).collect();
        extents.sort_unstable_by_key(|e| (e.start, e.end));
        let (mut at, mut best) = (start, (start, 0));
        for extent in extents.iter().chain(std::iter::once(&(end..end))) {
            if extent.start.saturating_sub(at) > best.1 {
                best = (at, extent.start - at);
            }
            at = extent.end.max(at).next_multiple_of(BLOCK as u64);
        }
        (best.0, best.1 - best.1 % BLOCK as u64)
    }

    /// Drops the dump that the policy gives up next, with all its parts here. Not
    /// `own`. `false` when there is none.
    fn drop_next(&mut self, policy: Policy, own: Option<&Id>) -> bool {
        // A dump counts as pulled when every part of it here is marked so.
        let pulled =
            |id: &Id| self.used.iter().filter(|(_, r)| r.dump_id == *id).all(|(_, r)| r.pulled);
        let may_go = |r: &SlotRecord| match policy {
            Policy::KeepFirst => false,
            Policy::DropPulled => pulled(&r.dump_id),
            Policy::KeepLatest => true,
        };
        let next = self
            .used
            .iter()
            .filter(|(_, r)| may_go(r) && own != Some(&r.dump_id))
            .min_by_key(|(_, r)| (!pulled(&r.dump_id), r.number))
            .map(|(_, r)| r.dump_id);
        let Some(id) = next else { return false };
        // No slot is dropped twice, so that there is room for each.
        for (slot, _) in self.used.iter().filter(|(_, r)| r.dump_id == id) {
            let _ = self.drops.push(*slot);
        }
        self.used.retain(|(_, r)| r.dump_id != id);
        true
    }

    fn free_slot(&self) -> Option<u32> {
        all_slots().find(|n| self.used.iter().all(|(slot, _)| slot != n))
    }
}

impl<D: BlockDev> Volume<D> {
    /// Finds room for a new dump. Writes nothing.
    ///
    /// # Errors
    /// [`VolumeError::Full`], or [`VolumeError::Slot`] when a damaged slot may protect a dump.
    pub fn plan(&self, policy: Policy) -> Result<Plan, VolumeError> {
        self.find_room(policy, None, MIN_DUMP)
    }

    /// Finds room for a further part of dump `id`, of which parts may lie here: at least
    /// `need` bytes behind the part's head, and at least [`MIN_PART`] in all.
    ///
    /// # Errors
    /// As [`Volume::plan`].
    pub fn plan_part(&self, policy: Policy, id: &Id, need: u64) -> Result<Plan, VolumeError> {
        let need = need.saturating_add(PART_HEAD as u64).max(MIN_PART);
        self.find_room(policy, Some(id), need)
    }

    fn find_room(&self, policy: Policy, own: Option<&Id>, need: u64) -> Result<Plan, VolumeError> {
        let mut kept = Kept { used: heapless::Vec::new(), drops: Drops::new() };
        let (mut highest, mut own_number) = (0, None);
        for (slot, record) in all_slots().zip(self.slots()) {
            let Some(r) = record.as_ref().map_err(|why| VolumeError::Slot { slot, why: *why })?
            else {
                continue;
            };
            highest = highest.max(r.number);
            if r.state != SlotState::Cleared {
                if own == Some(&r.dump_id) {
                    own_number = Some(r.number);
                }
                let _ = kept.used.push((slot, *r));
            }
        }
        let sb = self.superblock();
        let found_number =
            own_number.or_else(|| highest.checked_add(1)).ok_or(VolumeError::Worn)?;
        loop {
            // A part of a dump that is here already makes no further dump.
            let more = u32::from(own_number.is_none());
            let (start, len) = kept.gap(sb.data_start().0, sb.data_end().0);
            if let Some(slot) = kept.free_slot()
                && kept.dumps().saturating_add(more) <= sb.max_dumps
                && len >= need
            {
                let (number, drops) = (found_number, kept.drops);
                return Ok(Plan { slot, number, start: ByteOff(start), len, drops });
            }
            if !kept.drop_next(policy, own) {
                let (dumps, max) = (kept.dumps(), sb.max_dumps);
                return Err(VolumeError::Full { dumps, max, gap: len, policy: policy.name() });
            }
        }
    }
}
