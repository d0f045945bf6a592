//! How many pages of a process are where.
//!
//! A damaged table may be led to by all entries of another, or by its own: taken entry by
//! entry, three of them are 2^35 pages. So what is below a table is counted once and kept:
//! each costs its 512 entries, however often it is led to. What is kept is bounded too.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use lifeboat_format::{PAGE, PhysAddr};

use super::tables::{SHIFT, Spot, Tables};

const PAGE64: u64 = PAGE as u64;
/// Most tables of one process that are counted: as many as map 2 TiB in pages of 4 KiB, and
/// some 100 MiB here.
const MAX_TALLIES: usize = 1 << 20;

/// Pages of a stretch of addresses, by what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// In memory, pages of huge ones each for itself.
    pub present: u64,
    /// Swapped out.
    pub swap: u64,
    /// Being moved.
    pub migration: u64,
    /// Poisoned, or marked.
    pub marked: u64,
    /// In no page of memory: a device's.
    pub special: u64,
    /// Never touched, dropped, or only in a file.
    pub none: u64,
    /// Not known, since a page table is lost.
    pub lost: u64,
}

impl Counts {
    /// Adds others. Pages of one address space: no sum overflows.
    fn add(&mut self, other: Self) {
        self.present += other.present;
        self.swap += other.swap;
        self.migration += other.migration;
        self.marked += other.marked;
        self.special += other.special;
        self.none += other.none;
        self.lost += other.lost;
    }

    fn lost(bytes: u64) -> Self {
        Self { lost: bytes / PAGE64, ..Self::default() }
    }
}

/// What is below whole tables, by their physical address and level.
#[derive(Debug, Default)]
pub(super) struct Tallies(Mutex<HashMap<(u64, u32), Counts>>);

impl Tallies {
    /// What is known of a table; an error where there is no room to remember another.
    fn known(&self, table: u64, level: u32) -> Result<Option<Counts>, ()> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match known.get(&(table, level)) {
            Some(counts) => Ok(Some(*counts)),
            None if known.len() >= MAX_TALLIES => Err(()),
            None => Ok(None),
        }
    }

    fn keep(&self, table: u64, level: u32, counts: Counts) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert((table, level), counts);
    }
}

/// Counts the pages from `start` to `end`, both at pages. What is the kernel's half of the
/// addresses is lost, and so is what lies below more tables than there can be.
#[must_use]
pub fn count(tables: &Tables<'_, '_>, start: u64, end: u64) -> Counts {
    let (top, levels) = tables.root();
    let limit = 1u64 << (SHIFT + 9 * levels - 1);
    let mut counts = Counts::lost(end.saturating_sub(start.max(limit)));
    if start < end.min(limit) {
        counts.add(tally(tables, top, levels, start, end.min(limit)));
    }
    counts
}

/// Counts what a table maps, from the byte `from` of it to the byte `to`.
fn tally(tables: &Tables<'_, '_>, table: u64, level: u32, from: u64, to: u64) -> Counts {
    let size = 1u64 << (SHIFT + 9 * (level - 1));
    let whole = to - from == size * 512;
    if whole {
        match tables.tallies.known(table, level) {
            Ok(Some(counts)) => return counts,
            Ok(None) => {}
            Err(()) => return Counts::lost(to - from),
        }
    }
    let mut raw = [0; PAGE];
    let mut counts = Counts::default();
    if tables.kernel().read_phys(PhysAddr(table), &mut raw).is_err() {
        counts = Counts::lost(to - from);
    } else {
        for (n, entry) in (0u64..).zip(raw.as_chunks::<8>().0) {
            let begin = n * size;
            let (from, to) = (from.max(begin), to.min(begin + size));
            if from < to {
                let (from, to) = (from - begin, to - begin);
                counts.add(of_entry(tables, u64::from_le_bytes(*entry), level, from, to));
            }
        }
    }
    if whole {
        tables.tallies.keep(table, level, counts);
    }
    counts
}

/// Counts what one entry maps.
fn of_entry(tables: &Tables<'_, '_>, entry: u64, level: u32, from: u64, to: u64) -> Counts {
    let mut counts = Counts::default();
    let kind = match tables.decode(entry, level, 0) {
        Ok(Ok(Spot::Present { .. })) => &mut counts.present,
        Ok(Ok(Spot::Swap(_))) => &mut counts.swap,
        Ok(Ok(Spot::Migration { .. })) => &mut counts.migration,
        Ok(Ok(Spot::Poisoned | Spot::Marker(_))) => &mut counts.marked,
        Ok(Ok(Spot::Special(_))) => &mut counts.special,
        Ok(Ok(Spot::None)) => &mut counts.none,
        Ok(Err(_)) => &mut counts.lost,
        Err(below) if level > 1 => return tally(tables, below, level - 1, from, to),
        // Entries of the lowest level lead to no table.
        Err(_) => &mut counts.lost,
    };
    *kind = (to - from) / PAGE64;
    counts
}
