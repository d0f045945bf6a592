//! What a ring of dumps should be: a list of dumps, and a map of blocks.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test that fails shall panic"
)]

use std::collections::BTreeMap;
use std::ops::Range;

use lifeboat_format::bootcfg::Policy;
use lifeboat_format::part::PART_HEAD;
use lifeboat_format::{BLOCK, FormatError, Id, SlotRecord, SlotState};
use lifeboat_sink::BlockDev;

use crate::sim::Disk;

const EDGE: u64 = 1 << 20;
const BLOCK64: u64 = BLOCK as u64;

/// Eight bytes of a dump at logical offset `at`.
pub fn word(id: &Id, at: u64) -> u64 {
    let seed = u64::from_le_bytes(*id.first_chunk().unwrap());
    (seed ^ at).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23) | 1
}

#[derive(Debug, Clone)]
pub struct Dump {
    pub id: Id,
    pub slots: BTreeMap<u32, SlotRecord>,
    /// Bytes from the front that must be there.
    pub sound: u64,
}

impl Dump {
    fn pulled(&self) -> bool {
        self.slots.values().all(|r| r.pulled)
    }
    fn number(&self) -> u64 {
        self.slots.values().map(|r| r.number).min().unwrap()
    }
}

/// Where the next extent must go.
#[derive(Debug)]
pub struct Room {
    pub slot: u32,
    pub start: u64,
    pub len: u64,
    pub drops: Vec<u32>,
}

type Slots = [Result<Option<SlotRecord>, FormatError>];

#[derive(Debug)]
pub struct Model {
    len: u64,
    max: usize,
    dumps: Vec<Dump>,
    /// The dump that this step captured.
    own: Option<Id>,
    /// Highest number seen in any slot, cleared ones included.
    pub highest: u64,
    ids: u64,
}

impl Model {
    pub fn new(len: u64, max: u32) -> Self {
        let max = max as usize;
        Self { len, max, dumps: Vec::new(), own: None, highest: 0, ids: 0 }
    }

    pub fn new_id(&mut self) -> Id {
        self.ids += 1;
        let mut id = [0x77; 16];
        id[..8].copy_from_slice(&(self.ids.wrapping_mul(0x1234_5678_9abc_def1)).to_le_bytes());
        self.own = Some(id);
        id
    }

    pub fn pick(&mut self, n: usize) -> Option<&mut Dump> {
        let len = self.dumps.len();
        self.dumps.get_mut(n.checked_rem(len)?)
    }

    pub fn slots(&self) -> impl Iterator<Item = (u32, SlotRecord)> + '_ {
        self.dumps.iter().flat_map(|d| d.slots.iter().map(|(s, r)| (*s, *r)))
    }

    /// Slots that hold something: those of parts whose begin did not fail. One that
    /// failed may have written one copy only, beside an older record.
    pub fn slots_with_bytes(&self) -> impl Iterator<Item = (u32, SlotRecord)> + '_ {
        let slots = self.dumps.iter().flat_map(|d| d.slots.iter().map(move |s| (d.sound, s)));
        slots.filter(|(sound, (_, r))| r.base < *sound).map(|(_, (s, r))| (*s, *r))
    }

    pub fn forget_empty(&mut self) {
        self.dumps.retain(|d| !d.slots.is_empty());
    }

    /// The order in which a policy gives dumps up; none for those that it keeps.
    fn order(policy: Policy, dumps: &[Dump], own: Option<&Id>) -> Vec<Id> {
        let may = |d: &&Dump| match policy {
            Policy::KeepFirst => false,
            Policy::DropPulled => d.pulled(),
            Policy::KeepLatest => true,
        };
        let mut list: Vec<_> = dumps.iter().filter(may).filter(|d| own != Some(&d.id)).collect();
        list.sort_by_key(|d| (!d.pulled(), d.number()));
        list.iter().map(|d| d.id).collect()
    }

    /// The first of the longest stretches of blocks that nothing takes.
    fn gap(&self, dumps: &[Dump]) -> (u64, u64) {
        let mut map = vec![false; (self.len / BLOCK64) as usize];
        for r in dumps.iter().flat_map(|d| d.slots.values()) {
            let e = r.extent();
            map[(e.start / BLOCK64) as usize..e.end.div_ceil(BLOCK64) as usize].fill(true);
        }
        let data = (EDGE / BLOCK64) as usize..((self.len - EDGE) / BLOCK64) as usize;
        let (mut best, mut at) = ((0, 0), data.start);
        for run in map[data].chunk_by(|a, b| a == b) {
            if !run[0] && run.len() > best.1 {
                best = (at, run.len());
            }
            at += run.len();
        }
        (best.0 as u64 * BLOCK64, best.1 as u64 * BLOCK64)
    }

    /// Where an extent of at least `need` bytes must go, and what it costs.
    pub fn room(&self, policy: Policy, own: Option<&Id>, need: u64) -> Option<Room> {
        let mut kept = self.dumps.clone();
        let mut order = Self::order(policy, &kept, own).into_iter();
        let mut drops = Vec::new();
        loop {
            let (start, len) = self.gap(&kept);
            let taken = |n: &u32| kept.iter().any(|d| d.slots.contains_key(n));
            let slot = (0..64).find(|n| !taken(n));
            let more = usize::from(!kept.iter().any(|d| Some(&d.id) == own));
            if let Some(slot) = slot
                && len >= need
                && kept.len() + more <= self.max
            {
                return Some(Room { slot, start, len, drops });
            }
            let next = order.next()?;
            drops.extend(kept.iter().find(|d| d.id == next).unwrap().slots.keys());
            kept.retain(|d| d.id != next);
        }
    }

    /// Dumps were dropped for a part, whose slot was then written.
    pub fn take_slots(&mut self, policy: Policy, drops: &[u32], slots: &Slots) {
        let gone = |d: &Dump| d.slots.keys().any(|s| drops.contains(s));
        for d in self.dumps.iter().filter(|d| gone(d)) {
            assert!(policy != Policy::KeepFirst, "keep-first dropped a dump");
            assert!(policy != Policy::DropPulled || d.pulled(), "a dump nobody pulled was dropped");
        }
        self.dumps.retain(|d| !gone(d));
        self.adopt(slots);
    }

    /// Takes in slots that are new: those of the capture that is going on.
    fn adopt(&mut self, slots: &Slots) {
        for (slot, record) in (0..).zip(slots) {
            let Some(r) = record.as_ref().unwrap() else { continue };
            self.highest = self.highest.max(r.number);
            if r.state == SlotState::Cleared || self.slots().any(|(s, _)| s == slot) {
                continue;
            }
            match self.dumps.iter_mut().find(|d| d.id == r.dump_id) {
                Some(d) => drop(d.slots.insert(slot, *r)),
                None => {
                    self.dumps.push(Dump { id: r.dump_id, slots: [(slot, *r)].into(), sound: 0 })
                }
            }
        }
    }

    /// After a capture onto a failing disk: what is gone must be what the policy gives up
    /// first, and gone in whole or in part.
    pub fn lost_to(&mut self, policy: Policy, own: &Id, found: &[(u32, SlotRecord)]) {
        let order = Self::order(policy, &self.dumps, Some(own));
        let there = |s: &u32, r: &SlotRecord| found.iter().any(|(n, f)| n == s && f == r);
        let mut gone = Vec::new();
        for d in &mut self.dumps {
            if !d.slots.iter().all(|(s, r)| there(s, r)) {
                gone.push(d.id);
                d.slots.retain(|s, r| there(s, r));
            }
        }
        let first = order.get(..gone.len()).unwrap_or_else(|| panic!("{policy:?} lost {gone:?}"));
        assert!(gone.iter().all(|id| first.contains(id)), "not the first to go");
        self.forget_empty();
    }

    /// A capture ended, however.
    pub fn replace(&mut self, dump: Dump, slots: &Slots) {
        self.dumps.retain(|d| d.id != dump.id);
        let all = slots.iter().filter_map(|r| r.as_ref().unwrap().map(|r| r.number));
        self.highest = all.max().unwrap_or(0).max(self.highest);
        if !dump.slots.is_empty() {
            self.dumps.push(dump);
        }
    }

    /// The slots that were read are those of the model.
    pub fn same_slots(&self, found: &[(u32, SlotRecord)]) {
        let found: BTreeMap<_, _> = found.iter().copied().collect();
        assert_eq!(found, self.slots().collect(), "the slots are not those of the model");
        assert!(self.dumps.len() <= self.max, "more dumps than allowed");
        let mut numbers: Vec<u64> = self.dumps.iter().map(Dump::number).collect();
        numbers.sort_unstable();
        assert!(numbers.is_sorted_by(|a, b| a < b), "two dumps have one number");
        let same = |d: &Dump| d.slots.values().all(|r| r.number == d.number());
        assert!(self.dumps.iter().all(same), "a dump has two numbers");
    }

    pub fn no_overlap(&self) {
        let mut all: Vec<Range<u64>> = self.slots().map(|(_, r)| r.extent()).collect();
        all.sort_by_key(|e| (e.start, e.end));
        assert!(all.windows(2).all(|w| w[0].end <= w[1].start), "dumps overlap: {all:?}");
        let data = EDGE..self.len - EDGE;
        assert!(all.iter().all(|e| e.start >= data.start && e.end <= data.end));
    }

    /// Every write since the last step went to the slot table, to the dump that was then
    /// captured, or to what no dump takes.
    pub fn only_given_up(&mut self, touched: &[Range<u64>]) {
        let own = self.own.take();
        for d in self.dumps.iter().filter(|d| Some(d.id) != own) {
            for e in d.slots.values().map(SlotRecord::extent) {
                let hit = touched.iter().find(|t| t.start < e.end && t.end > e.start);
                assert!(hit.is_none(), "{hit:?} was written over dump {} in {e:?}", d.number());
            }
        }
        let table = 128 << 10..(128 + 512) << 10;
        let data = EDGE..self.len - EDGE;
        for t in touched {
            let within = |area: &Range<u64>| t.start >= area.start && t.end <= area.end;
            assert!(within(&table) || within(&data), "{t:?} is no place for anything");
        }
    }

    /// The bytes of all dumps: the ends of every block, or all of them.
    pub fn bytes_are_there(&self, disk: &Disk, all: bool) {
        let mut block = [0u8; BLOCK];
        for d in &self.dumps {
            let mut parts: Vec<_> = d.slots.values().collect();
            parts.sort_by_key(|r| r.part);
            for r in parts {
                let head = if r.part == 0 { 0 } else { PART_HEAD as u64 };
                let e = r.extent();
                let len = (e.end - e.start).saturating_sub(head);
                let end = d.sound.min(r.base.saturating_add(len));
                for at in (r.base..end).step_by(BLOCK) {
                    disk.read_at(e.start + head + (at - r.base), &mut block).unwrap();
                    let (words, _) = block.as_chunks::<8>();
                    let step = if all { 1 } else { 511 };
                    for (n, found) in words.iter().enumerate().step_by(step) {
                        let place = at + n as u64 * 8;
                        let want = word(&d.id, place);
                        let same = place >= end || u64::from_le_bytes(*found) == want;
                        assert!(same, "dump {} byte {place} was harmed", d.number());
                    }
                }
            }
        }
    }
}
