//! What of a process is there, and what not.

use std::collections::BTreeMap;

use crate::Hole;

/// Where a page was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Origin {
    /// In memory, of the process alone or shared with its relatives since a fork.
    Present,
    /// In memory, part of a huge page (THP or hugetlb).
    Huge,
    /// In memory, shared memory: System V, memfd, tmpfs, shared anonymous.
    Shared,
    /// In the page cache of a file.
    File,
    /// On its way to or from swap: still or already in the swap cache.
    SwapCache,
    /// On a swap partition or in a swap file.
    Swap,
    /// On encrypted swap, whose key was in memory.
    Encrypted,
    /// Compressed in memory, in front of a swap device.
    Zswap,
    /// Compressed in memory, on a zram device.
    Zram,
    /// Nowhere: of one word over and over, which the kernel noted in place of the page.
    SameFilled,
    /// Shared memory that was swapped out, wherever it went.
    SharedSwap,
    /// Never touched: it would have been zeros.
    Untouched,
}

impl Origin {
    /// The word for it in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Present => "present",
            Self::Huge => "huge",
            Self::Shared => "shmem",
            Self::File => "file",
            Self::SwapCache => "swap-cache",
            Self::Swap => "swap",
            Self::Encrypted => "swap-encrypted",
            Self::Zswap => "zswap",
            Self::Zram => "zram",
            Self::SameFilled => "same-filled",
            Self::SharedSwap => "shmem-swap",
            Self::Untouched => "untouched",
        }
    }
}

/// Addresses that are missing, all for one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// Address of its first byte.
    pub start: u64,
    /// Address behind its last byte.
    pub end: u64,
    /// Why it is missing.
    pub why: Hole,
}

/// Most stretches of holes that are told one by one; all are counted.
const MAX_STRETCHES: usize = 1 << 20;

/// What was written of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Pages by where they were.
    pub pages: BTreeMap<Origin, u64>,
    /// Missing pages by reason.
    pub missing: BTreeMap<Hole, u64>,
    /// Where they are missing, in order of address; the first 2^20 stretches.
    pub holes: Vec<Stretch>,
    /// Length of the file in bytes, sparse stretches included.
    pub len: u64,
    /// Program headers of pages.
    pub segments: u64,
}

impl Report {
    /// Counts `pages` pages.
    pub(super) fn held(&mut self, origin: Origin, pages: u64) {
        *self.pages.entry(origin).or_default() += pages;
    }

    /// Counts a missing stretch.
    pub(super) fn lost(&mut self, stretch: Stretch) {
        let pages = (stretch.end - stretch.start) / crate::PAGE as u64;
        *self.missing.entry(stretch.why).or_default() += pages;
        if let Some(last) = self.holes.last_mut()
            && last.end == stretch.start
            && last.why == stretch.why
        {
            last.end = stretch.end;
        } else if self.holes.len() < MAX_STRETCHES {
            self.holes.push(stretch);
        }
    }

    /// Pages that are in the file, or read as zeros.
    #[must_use]
    pub fn held_pages(&self) -> u64 {
        self.pages.values().sum()
    }

    /// Pages that are missing.
    #[must_use]
    pub fn missing_pages(&self) -> u64 {
        self.missing.values().sum()
    }

    /// Missing pages that the dead machine had in memory or on swap: files that were not in
    /// the page cache are no loss of the dump's.
    #[must_use]
    pub fn lost_pages(&self) -> u64 {
        self.missing.iter().filter(|(why, _)| **why != Hole::FileOnly).map(|(_, n)| n).sum()
    }
}
