//! The dead machine's pages, as whoever opened the dump hands them over.

use lifeboat_format::{PAGE, Pfn};

/// The dead machine's pages as a dump holds them.
pub trait Machine: Sync {
    /// Fills `out` with memory page `pfn`.
    ///
    /// # Errors
    /// The [`Hole`] that is in its place; `out` is then of no meaning.
    fn memory(&self, pfn: Pfn, out: &mut [u8; PAGE]) -> Result<(), Hole>;

    /// Fills `out` with page `page` of captured swap device `device`, an index into
    /// [`Machine::swaps`]. Page 0 is the one with the swap header.
    ///
    /// # Errors
    /// The [`Hole`] that is in its place; `out` is then of no meaning.
    fn swap(&self, device: usize, page: u64, out: &mut [u8; PAGE]) -> Result<(), Hole>;

    /// The captured swap devices.
    fn swaps(&self) -> &[SwapDevice];
}

/// A swap device that the dump holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwapDevice {
    /// Its name as the crash kernel saw it, such as `vda2`; the dead kernel may have named it
    /// otherwise.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// UUID in its swap header, where known, lower case with hyphens.
    pub uuid: Option<String>,
    /// GPT's UUID of its partition, where known, lower case with hyphens.
    pub partuuid: Option<String>,
}

/// Why a page, or some bytes, cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Hole {
    /// The dump does not cover the page: no such memory, or the dump ended before it.
    #[error("not captured")]
    NotCaptured,
    /// Left out by the capture's filter.
    #[error("left out by the capture's filter")]
    Excluded,
    /// The crash kernel could not read it.
    #[error("unreadable when it was captured")]
    Unreadable,
    /// The chunk of the dump that holds it is damaged or lost.
    #[error("in a damaged part of the dump")]
    Damaged,
    /// The page tables have nothing there.
    #[error("not mapped")]
    NotMapped,
    /// The page tables say so themselves: poisoned memory, a guard, a page of userfaultfd.
    #[error("marked as no page by the page tables")]
    Marked,
    /// It is swapped out, and nothing was there to bring it back.
    #[error("swapped out")]
    Swapped,
    /// It lay on a swap device that was not captured.
    #[error("on a swap device that was not captured")]
    SwapNotCaptured,
    /// It lay in a swap file, and the device of its file system was not captured.
    #[error("in a swap file whose disk was not captured")]
    SwapFileNotCaptured,
    /// What the dead kernel's structures say of it cannot be.
    #[error("the dead kernel's structures are damaged there")]
    Malformed,
    /// What was stored in its place cannot be decompressed.
    #[error("its compressed copy is damaged")]
    Undecodable,
    /// It is encrypted, and the key is not known.
    #[error("encrypted by a key that is not known")]
    Encrypted,
    /// It belongs to a file and is not in the page cache.
    #[error("in a file, not in memory")]
    FileOnly,
    /// It is there in a form that is not read: see the report.
    #[error("in a form that is not supported")]
    Unsupported,
}
