//! The swap cache: pages that have a place on a swap device and are in memory still, or again
//! (`mm/swap_state.c`).
//!
//! Each swap area has an array of address spaces, one for every 64 MiB of it. The number that
//! a page stands at there is its offset, or what is left of it within its 64 MiB, by kernel.
//! Both are looked at: what is found must be marked as of the swap cache and carry the very
//! entry that was asked for, so a wrong reading finds nothing.

use lifeboat_format::{PAGE, Pfn};

use crate::kernel::{Field, Kernel, KernelError};
use crate::machine::Hole;

use super::area::Area;
use super::entry::SwapEntry;
use super::{SPACE_MASK, load, why};

/// Where the swap cache keeps what, by symbols and BTF.
#[derive(Debug)]
pub(super) struct SwapCache {
    spaces: u64,
    counts: u64,
    /// Bytes of an address space, and where in it the array of pages is.
    space: u64,
    pages: Field,
    flags: Field,
    private: Field,
    head: Field,
    marks: Marks,
}

/// Bits of a page's flags (`enum pageflags`).
#[derive(Debug, Clone, Copy)]
struct Marks {
    swap_cache: u64,
    up_to_date: u64,
    /// Not on the device yet, or on its way there.
    unwritten: u64,
}

/// A page of the swap cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cached {
    /// Where it is.
    pub(super) pfn: Pfn,
    /// Whether the device has the same.
    pub(super) clean: bool,
}

impl SwapCache {
    /// From the dead kernel's symbols and types.
    ///
    /// # Errors
    /// [`KernelError`]: it keeps its swap cache in another way. Without it no page can be
    /// had, since a newer copy of any may be in it.
    pub(super) fn new(kernel: &Kernel<'_>) -> Result<Self, KernelError> {
        let mark = |name: &'static str| {
            let bit = kernel.enumerator(name).and_then(|v| u32::try_from(v).ok());
            let mask = bit.and_then(|bit| 1u64.checked_shl(bit));
            mask.ok_or(KernelError::Odd { what: name, value: u64::MAX })
        };
        Ok(Self {
            spaces: kernel.need("swapper_spaces")?,
            counts: kernel.need("nr_swapper_spaces")?,
            space: kernel.size("address_space")?,
            pages: kernel.field("address_space", "i_pages")?,
            flags: kernel.field("page", "flags")?,
            private: kernel.field("page", "private")?,
            head: kernel.field("page", "compound_head")?,
            marks: Marks {
                swap_cache: mark("PG_swapcache")?,
                up_to_date: mark("PG_uptodate")?,
                unwritten: mark("PG_dirty")? | mark("PG_writeback")?,
            },
        })
    }

    /// The page of an entry; `None` where the cache has none, or one that was still being
    /// read.
    ///
    /// # Errors
    /// What keeps the cache from telling.
    pub(super) fn find(
        &self,
        kernel: &Kernel<'_>,
        area: &Area,
        entry: SwapEntry,
    ) -> Result<Option<Cached>, Hole> {
        let at = u64::from(entry.area);
        let spaces = kernel.u64(self.spaces.wrapping_add(at * 8)).map_err(why)?;
        let count = kernel.u32(self.counts.wrapping_add(at * 4)).map_err(why)?;
        let number = area.space(entry.offset, u64::from(count))?;
        let space = self.space.checked_mul(number).and_then(|o| spaces.checked_add(o));
        let pages = space.and_then(|s| s.checked_add(self.pages.offset)).ok_or(Hole::Malformed)?;
        let mut found = load(kernel, pages, entry.offset)?;
        let within = entry.offset & SPACE_MASK;
        if found.is_none() && within != entry.offset {
            found = load(kernel, pages, within)?;
        }
        match found {
            Some(page) => self.judge(kernel, page, entry),
            None => Ok(None),
        }
    }

    /// Whether the page at `page`, or one behind it that belongs to it, is that of `entry`.
    fn judge(
        &self,
        kernel: &Kernel<'_>,
        page: u64,
        entry: SwapEntry,
    ) -> Result<Option<Cached>, Hole> {
        let get = |object, field| kernel.get(object, field).map_err(why);
        let flags = get(page, self.flags)?;
        let first = kernel.pfn_of(page).ok_or(Hole::Malformed)?;
        // A large folio has one entry for all its pages, that of the first.
        let ahead = entry.val().checked_sub(get(page, self.private)?).ok_or(Hole::Malformed)?;
        let pfn = Pfn(first.0.checked_add(ahead).ok_or(Hole::Malformed)?);
        if ahead != 0 && get(kernel.page_struct(pfn), self.head)? != page | 1 {
            return Err(Hole::Malformed);
        }
        if flags & self.marks.swap_cache == 0 {
            return Err(Hole::Malformed);
        }
        let there = flags & self.marks.up_to_date != 0;
        let clean = flags & self.marks.unwritten == 0;
        Ok(there.then_some(Cached { pfn, clean }))
    }
}

/// Reads a page of the cache.
pub(super) fn read(kernel: &Kernel<'_>, page: Cached, out: &mut [u8; PAGE]) -> Result<(), Hole> {
    kernel.machine().memory(page.pfn, out)
}
