//! What one `struct page` says of its page.

use lifeboat_format::chunk::Layer;

use crate::bytes::{le32, le64};

use super::layout::{Huge, PageLayout};

/// What a page holds. Finer than [`Layer`], so that filters can choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Class {
    /// The kernel's own, and everything that is in doubt.
    Kernel = 0,
    /// Given back to the hypervisor or to firmware (`PageOffline`): nothing to read.
    Offline = 1,
    /// Anonymous memory of processes.
    Anon = 2,
    /// tmpfs and System V shared memory: no file holds it.
    Shmem = 3,
    /// Pages of hugetlbfs, used or kept in reserve.
    Huge = 4,
    /// Page cache.
    Cache = 5,
    /// Page cache to which the file system has tied data of its own (`PG_private`).
    CachePrivate = 6,
    /// In the buddy allocator's lists.
    Free = 7,
    /// In the swap cache, and no longer or not yet anybody's by its mapping.
    SwapCache = 8,
    /// Faulty memory (`PG_hwpoison`): not to be read where [`super::Filter`] can help it.
    Poison = 9,
}

impl Class {
    /// All, by number.
    pub const ALL: [Self; 10] = [
        Self::Kernel,
        Self::Offline,
        Self::Anon,
        Self::Shmem,
        Self::Huge,
        Self::Cache,
        Self::CachePrivate,
        Self::Free,
        Self::SwapCache,
        Self::Poison,
    ];

    /// The layer that such a page is captured in; never [`Layer::Address`].
    #[must_use]
    pub const fn layer(self) -> Layer {
        match self {
            Self::Kernel | Self::Offline | Self::Poison => Layer::Kernel,
            Self::Anon | Self::Shmem | Self::Huge | Self::SwapCache => Layer::User,
            Self::Cache | Self::CachePrivate => Layer::Cache,
            Self::Free => Layer::Free,
        }
    }

    /// Name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Offline => "offline",
            Self::Anon => "anon",
            Self::Shmem => "shmem",
            Self::Huge => "huge",
            Self::Cache => "cache",
            Self::CachePrivate => "cache-private",
            Self::Free => "free",
            Self::SwapCache => "swap-cache",
            Self::Poison => "poison",
        }
    }
}

/// One `struct page`, taken by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// First page of a free block; the order is as stored, not checked.
    Buddy(u64),
    /// A further page of a compound page; the address of the first one's `struct page`.
    Tail(u64),
    /// A page on its own, or the first of a compound page.
    Own(Class),
    /// Says what cannot be: the kernel's, and counted.
    Doubt,
}

/// `PAGE_MAPPING_ANON` and `PAGE_MAPPING_MOVABLE`, the low bits of `mapping`
/// (`include/linux/page-flags.h`); both together are KSM, which is anonymous.
pub(super) const ANON: u64 = 1;
pub(super) const MOVABLE: u64 = 2;

/// Whether this is where kernel objects are: the upper half, and aligned.
fn is_kernel_pointer(value: u64) -> bool {
    value >= 0xff00_0000_0000_0000 && value.is_multiple_of(4)
}

impl PageLayout {
    /// What `page` says. `next` is the `struct page` behind it, where a compound page
    /// keeps what it is; it must be there for the first page of a compound page.
    pub(super) fn look(&self, page: &[u8], next: &[u8]) -> Seen {
        let word = |at: usize| le64(page, at);
        let half = |at: usize| le32(page, at);
        let (Some(flags), Some(head), Some(mapping), Some(mapcount), Some(refcount)) = (
            word(self.flags),
            word(self.compound_head),
            word(self.mapping),
            half(self.mapcount),
            half(self.refcount),
        ) else {
            return Seen::Doubt;
        };
        if flags == u64::MAX || refcount.cast_signed() < 0 {
            // Never initialised, or not readable, see `reader`.
            return Seen::Doubt;
        }
        if head & 1 == 1 {
            return Seen::Tail(head - 1);
        }
        let lru = flags & self.pg_lru != 0;
        // A page type makes `_mapcount` smaller than the -1 of a page nobody maps.
        if mapcount.cast_signed() < -1 {
            return if lru || flags & self.pg_slab != 0 {
                Seen::Doubt
            } else if mapcount == self.buddy {
                let unused = refcount == 0 && flags & self.busy == 0;
                let order = word(self.private).filter(|_| unused);
                order.map_or(Seen::Doubt, Seen::Buddy)
            } else if self.is_type(mapcount, self.huge_type()) {
                Seen::Own(Class::Huge)
            } else if self.is_type(mapcount, self.offline) {
                Seen::Own(Class::Offline)
            } else {
                Seen::Own(Class::Kernel)
            };
        }
        if flags & self.pg_slab != 0 {
            return if lru { Seen::Doubt } else { Seen::Own(Class::Kernel) };
        }
        if flags & self.pg_head != 0 && self.is_huge(next) {
            return Seen::Own(Class::Huge);
        }
        self.mapped(flags, mapping, lru)
    }

    /// A page without a type: the kernel's, anonymous, shared or cache.
    fn mapped(&self, flags: u64, mapping: u64, lru: bool) -> Seen {
        if flags & self.pg_reserved != 0 {
            return if lru { Seen::Doubt } else { Seen::Own(Class::Kernel) };
        }
        let swapbacked = flags & self.pg_swapbacked != 0;
        let object = mapping & !(ANON | MOVABLE);
        let plausible = is_kernel_pointer(object);
        if mapping & ANON != 0 {
            return if plausible { Seen::Own(Class::Anon) } else { Seen::Doubt };
        }
        if mapping & MOVABLE != 0 {
            // Balloon, zsmalloc: moved by their owner, never on a list of reclaim.
            return if lru { Seen::Doubt } else { Seen::Own(Class::Kernel) };
        }
        // PG_swapcache shares its bit with flags of file systems (`PG_owner_priv_1`).
        if swapbacked && flags & self.pg_swapcache != 0 {
            return Seen::Own(Class::SwapCache);
        }
        if swapbacked && (lru || plausible) {
            return Seen::Own(Class::Shmem);
        }
        // Without PG_lru, `mapping` alone is no proof: the kernel's own pages that it
        // maps into processes (perf, sound, frame buffers) have it too.
        if !lru {
            return Seen::Own(Class::Kernel);
        }
        match (mapping == 0 || plausible, flags & self.pg_private != 0) {
            (false, _) => Seen::Doubt,
            (true, true) => Seen::Own(Class::CachePrivate),
            (true, false) => Seen::Own(Class::Cache),
        }
    }

    /// Whether this page may be the inside of a free block: unused, and none of those
    /// that are something on their own.
    pub(super) fn is_free_inside(&self, page: &[u8]) -> bool {
        le64(page, self.flags).is_some_and(|flags| flags & (self.busy | self.pg_uptodate) == 0)
            && le32(page, self.refcount) == Some(0)
            && le32(page, self.mapcount) == Some(u32::MAX)
            && le64(page, self.mapping) == Some(0)
            && le64(page, self.compound_head).is_some_and(|head| head & 1 == 0)
    }

    /// Whether the machine reported this page as faulty.
    pub(super) fn is_poison(&self, page: &[u8]) -> bool {
        le64(page, self.flags)
            .is_some_and(|flags| flags & self.pg_hwpoison != 0 && flags != u64::MAX)
    }

    /// Whether this is the first page of a compound page.
    pub(super) fn is_head(&self, page: &[u8]) -> bool {
        le64(page, self.flags).is_some_and(|flags| flags & self.pg_head != 0)
    }

    fn huge_type(&self) -> Option<u32> {
        match self.huge {
            Huge::Type(value) => Some(value),
            _ => None,
        }
    }

    fn is_huge(&self, next: &[u8]) -> bool {
        match self.huge {
            Huge::Flag(mask) => le64(next, self.flags).is_some_and(|flags| flags & mask != 0),
            Huge::Dtor { at, value } => next.get(at) == Some(&value),
            Huge::Type(_) | Huge::Unknown => false,
        }
    }

    /// Since 6.12 the type is the high byte, and its owner may use the rest
    /// (`page_type` in `include/linux/mm_types.h`); before, each type is a cleared bit
    /// and the value is exact.
    fn is_type(&self, mapcount: u32, wanted: Option<u32>) -> bool {
        const BYTE: u32 = 0xff00_0000;
        wanted.is_some_and(|w| mapcount == w || (self.high_byte() && mapcount & BYTE == w & BYTE))
    }

    /// Whether VMCOREINFO's values show that the type is the high byte alone.
    fn high_byte(&self) -> bool {
        self.buddy.trailing_zeros() >= 24
    }
}
