//! Keeps pages that were just read: the checks at the start follow pointers through the
//! same few page tables and structs again and again.

use lifeboat_format::{PAGE, PhysAddr};

use crate::memory::{PhysRead, Unreadable};

/// Pages that are kept, at most; a power of two.
const SLOTS: usize = 64;
/// Longest read that is answered from them, bytes.
const MOST: usize = 256;

/// Memory with some of its pages at hand.
pub(super) struct Cached<M> {
    memory: M,
    /// Pfn of each page that is kept.
    pfns: [Option<u64>; SLOTS],
    pages: Vec<u8>,
}

impl<M: PhysRead> Cached<M> {
    /// Allocates 256 KiB.
    pub(super) fn new(memory: M) -> Self {
        Self { memory, pfns: [None; SLOTS], pages: vec![0; SLOTS * PAGE] }
    }

    /// The page at `pfn`, if all of it can be read.
    fn page(&mut self, pfn: u64) -> Option<&[u8]> {
        let slot = usize::try_from(pfn ^ pfn >> 6).unwrap_or_default() % SLOTS;
        let known = self.pfns.get_mut(slot)?;
        let page = self.pages.get_mut(slot * PAGE..(slot + 1) * PAGE)?;
        if *known != Some(pfn) {
            *known = None;
            let addr = PhysAddr(pfn.checked_mul(PAGE as u64)?);
            self.memory.read_phys(addr, page).ok()?;
            *known = Some(pfn);
        }
        Some(page)
    }
}

impl<M: PhysRead> PhysRead for Cached<M> {
    fn read_phys(&mut self, addr: PhysAddr, buf: &mut [u8]) -> Result<(), Unreadable> {
        let inside = usize::try_from(addr.0 % PAGE as u64).unwrap_or_default();
        let len = buf.len();
        if len <= MOST && inside + len <= PAGE {
            let part = self.page(addr.0 / PAGE as u64).and_then(|p| p.get(inside..inside + len));
            if let Some(part) = part {
                buf.copy_from_slice(part);
                return Ok(());
            }
        }
        // A page that is memory in part only, a long read, or one that fails.
        self.memory.read_phys(addr, buf)
    }
}
