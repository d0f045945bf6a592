//! Where the members of `struct page` lie and what their bits mean, as VMCOREINFO says.
//!
//! Sources: `crash_save_vmcoreinfo_init()` in `kernel/vmcore_info.c` (before 6.9
//! `kernel/crash_core.c`), `include/linux/mm_types.h`, `include/linux/page-flags.h`.

use super::WorthError;
use super::facts::Facts;

/// Largest `struct page` that is believed in, bytes; 64 is usual, debug kernels have more.
pub(super) const MAX_SIZE: usize = 128;
/// Smallest one, bytes: the members that are read do not fit into less.
const MIN_SIZE: u64 = 40;
/// Page flags end where zone, node and section begin; no kernel has more than these.
const FLAG_BITS: i64 = 32;
/// Orders of the buddy allocator, at most: blocks of 1024 pages. x86-64 has 11
/// (`MAX_ORDER` before 6.8, `NR_PAGE_ORDERS` since).
const MAX_ORDERS: u64 = 11;

/// How this kernel marks the head of a hugetlb page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Huge {
    /// By its page type, in `_mapcount` (`PAGE_HUGETLB_MAPCOUNT_VALUE`, as in 6.12).
    Type(u32),
    /// By a flag of the second page (`PG_hugetlb`, from 6.6 until it became a type).
    Flag(u64),
    /// By the destructor's number, one byte of the second page (before 6.6).
    Dtor {
        /// Where in the second page, bytes.
        at: usize,
        /// `HUGETLB_PAGE_DTOR`.
        value: u8,
    },
    /// Nothing in VMCOREINFO says so: such pages count as the kernel's.
    Unknown,
}

/// The members of `struct page` that decide, as offsets in bytes and masks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PageLayout {
    pub(super) size: usize,
    pub(super) flags: usize,
    pub(super) refcount: usize,
    pub(super) mapping: usize,
    pub(super) lru: usize,
    pub(super) mapcount: usize,
    pub(super) private: usize,
    pub(super) compound_head: usize,
    pub(super) pg_lru: u64,
    pub(super) pg_private: u64,
    pub(super) pg_swapcache: u64,
    pub(super) pg_swapbacked: u64,
    /// Zero where slab is a page type, as in 6.12.
    pub(super) pg_slab: u64,
    pub(super) pg_head: u64,
    /// Found on the kernel's text, see `checks`; zero until then.
    pub(super) pg_reserved: u64,
    /// Zero where this kernel marks no faulty pages.
    pub(super) pg_hwpoison: u64,
    /// Zero without BTF. `PG_reported` is the same bit, on the first page of a free block.
    pub(super) pg_uptodate: u64,
    /// Flags that no free page has (`PAGE_FLAGS_CHECK_AT_PREP`): with BTF all but these
    /// two, without it those that are known.
    pub(super) busy: u64,
    /// `_mapcount` of the head of a free block.
    pub(super) buddy: u32,
    /// `_mapcount` of an offline page.
    pub(super) offline: Option<u32>,
    pub(super) huge: Huge,
    /// Orders of the buddy allocator: the largest block has `1 << (orders - 1)` pages.
    pub(super) orders: u32,
}

impl PageLayout {
    pub(super) fn new(info: &Facts<'_>) -> Result<Self, WorthError> {
        let size = info.size("page").ok_or(WorthError::Missing("SIZE(page)"))?;
        if !(MIN_SIZE..=MAX_SIZE as u64).contains(&size) || !size.is_multiple_of(8) {
            return Err(WorthError::Odd { what: "SIZE(page)", value: size });
        }
        let member = |name: &'static str, width: u64| member(info, size, name, width);
        let orders =
            info.length("zone.free_area").ok_or(WorthError::Missing("LENGTH(zone.free_area)"))?;
        let orders = u32::try_from(orders)
            .ok()
            .filter(|o| (1..=MAX_ORDERS).contains(&u64::from(*o)))
            .ok_or(WorthError::Odd { what: "LENGTH(zone.free_area)", value: orders })?;
        let layout = Self {
            size: usize::try_from(size).unwrap_or_default(),
            flags: member("page.flags", 8)?,
            refcount: member("page._refcount", 4)?,
            mapping: member("page.mapping", 8)?,
            lru: member("page.lru", 16)?,
            mapcount: member("page._mapcount", 4)?,
            private: member("page.private", 8)?,
            compound_head: member("page.compound_head", 8)?,
            pg_lru: flag(info, "PG_lru")?,
            pg_private: flag(info, "PG_private")?,
            pg_swapcache: flag(info, "PG_swapcache")?,
            pg_swapbacked: flag(info, "PG_swapbacked")?,
            pg_slab: slab(info)?,
            pg_head: head_mask(info)?,
            pg_reserved: 0,
            pg_hwpoison: optional(info, "PG_hwpoison")?,
            // BTF alone tells it: without it less is known of free pages, and no more.
            pg_uptodate: optional(info, "PG_uptodate").unwrap_or_default(),
            busy: 0,
            buddy: page_type(info, "PAGE_BUDDY_MAPCOUNT_VALUE")?
                .ok_or(WorthError::Missing("NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)"))?,
            offline: page_type(info, "PAGE_OFFLINE_MAPCOUNT_VALUE")?,
            huge: huge(info, size)?,
            orders,
        };
        layout.check()
    }

    /// Takes what the checks found out, and what follows from it.
    pub(super) fn with_reserved(mut self, reserved: u64, info: &Facts<'_>) -> Self {
        self.pg_reserved = reserved;
        let known = self.pg_lru | self.pg_slab | self.pg_head | self.pg_private | self.pg_reserved;
        let count = info.number("__NR_PAGEFLAGS").and_then(|n| u32::try_from(n).ok());
        let all = count.and_then(|n| 1u64.checked_shl(n)).map_or(0, |next| next - 1);
        // As many as there may be, and those that are known among them.
        let sound = all >> FLAG_BITS == 0 && all & known == known;
        let every = if sound { all & !self.pg_hwpoison & !self.pg_uptodate } else { 0 };
        self.busy = every | known;
        self
    }

    /// Members must not overlap where they are read of the same page, flags must differ.
    fn check(self) -> Result<Self, WorthError> {
        let mut spans = [
            (self.flags, 8),
            (self.compound_head, 8),
            (self.mapping, 8),
            (self.private, 8),
            (self.mapcount, 4),
            (self.refcount, 4),
        ];
        spans.sort_unstable();
        let overlap = spans.windows(2).any(|pair| match pair {
            [(at, len), (next, _)] => at + len > *next,
            _ => false,
        });
        if overlap {
            return Err(WorthError::Overlap("members of struct page"));
        }
        let masks = [
            self.pg_lru,
            self.pg_private,
            self.pg_swapcache,
            self.pg_swapbacked,
            self.pg_slab,
            self.pg_head,
            self.pg_hwpoison,
        ];
        let all = masks.iter().fold(0, |sum, m| sum | m);
        if all.count_ones() != masks.iter().map(|m| m.count_ones()).sum() {
            return Err(WorthError::Overlap("page flags"));
        }
        let types = [Some(self.buddy), self.offline, self.huge.page_type()];
        let twice = |t: &Option<u32>| t.is_some() && types.iter().filter(|o| *o == t).count() > 1;
        if types.iter().any(twice) {
            return Err(WorthError::Overlap("page types"));
        }
        Ok(self)
    }

    /// Flags that a page of the kernel's image cannot have.
    pub(super) fn known_flags(&self) -> u64 {
        self.pg_lru
            | self.pg_private
            | self.pg_swapcache
            | self.pg_swapbacked
            | self.pg_slab
            | self.pg_head
    }
}

impl Huge {
    fn page_type(self) -> Option<u32> {
        match self {
            Self::Type(value) => Some(value),
            _ => None,
        }
    }
}

fn member(
    info: &Facts<'_>,
    size: u64,
    name: &'static str,
    width: u64,
) -> Result<usize, WorthError> {
    let at = info.offset(name).ok_or(WorthError::Missing(name))?;
    let fits = at.checked_add(width).is_some_and(|end| end <= size);
    if !fits || !at.is_multiple_of(width.min(8)) {
        return Err(WorthError::Odd { what: name, value: at });
    }
    usize::try_from(at).map_err(|_| WorthError::Odd { what: name, value: at })
}

fn flag(info: &Facts<'_>, name: &'static str) -> Result<u64, WorthError> {
    let bit = info.number(name).ok_or(WorthError::Missing(name))?;
    if !(0..FLAG_BITS).contains(&bit) {
        return Err(WorthError::Odd { what: name, value: bit.cast_unsigned() });
    }
    Ok(1 << bit)
}

/// A flag that not every kernel has, or that not everybody knows.
fn optional(info: &Facts<'_>, name: &'static str) -> Result<u64, WorthError> {
    info.number(name).map_or(Ok(0), |_| flag(info, name))
}

/// A flag, or in later kernels a page type, which [`PageLayout`] need not tell from others.
fn slab(info: &Facts<'_>) -> Result<u64, WorthError> {
    if page_type(info, "PAGE_SLAB_MAPCOUNT_VALUE")?.is_some() {
        return Ok(0);
    }
    flag(info, "PG_slab")
}

fn head_mask(info: &Facts<'_>) -> Result<u64, WorthError> {
    let mask = info.number("PG_head_mask").ok_or(WorthError::Missing("PG_head_mask"))?;
    let mask = mask.cast_unsigned();
    if mask.count_ones() != 1 || mask >> FLAG_BITS != 0 {
        return Err(WorthError::Odd { what: "PG_head_mask", value: mask });
    }
    Ok(mask)
}

/// A value of `_mapcount` that stands for a type; [`Facts`] has it signed. Every type is
/// below -1, the value of a page that nobody maps.
fn page_type(info: &Facts<'_>, name: &'static str) -> Result<Option<u32>, WorthError> {
    let Some(value) = info.number(name) else {
        return Ok(None);
    };
    let odd = WorthError::Odd { what: name, value: value.cast_unsigned() };
    let bits = i32::try_from(value).ok().filter(|bits| *bits < -1).ok_or(odd)?;
    Ok(Some(bits.cast_unsigned()))
}

fn huge(info: &Facts<'_>, size: u64) -> Result<Huge, WorthError> {
    if let Some(value) = page_type(info, "PAGE_HUGETLB_MAPCOUNT_VALUE")? {
        return Ok(Huge::Type(value));
    }
    if let Some(value) = info.number("HUGETLB_PAGE_DTOR") {
        // The offset in struct folio counts from the first page.
        let in_folio = || info.offset("folio._folio_dtor").and_then(|o| o.checked_sub(size));
        let Some(at) = info.offset("page.compound_dtor").or_else(in_folio) else {
            return Ok(Huge::Unknown);
        };
        let odd = WorthError::Odd { what: "HUGETLB_PAGE_DTOR", value: at };
        let value = u8::try_from(value).map_err(|_| odd)?;
        let at = usize::try_from(at).ok().filter(|_| at < size).ok_or(odd)?;
        return Ok(Huge::Dtor { at, value });
    }
    match info.number("PG_hugetlb") {
        Some(_) => flag(info, "PG_hugetlb").map(Huge::Flag),
        None => Ok(Huge::Unknown),
    }
}
