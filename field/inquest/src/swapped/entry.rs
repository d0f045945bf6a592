//! Swap entries: which swap area, and which page of it.
//!
//! Neither BTF nor VMCOREINFO tells how an entry is packed; these are macros. Their values
//! here are those of `arch/x86/include/asm/pgtable_64.h` in 6.1 and 6.12, and have held since
//! the answer to L1TF ("Change order of offset/type in swap entry", "Protect swap entries
//! against L1TF"), 4.19 and all stable kernels of its day. That an entry was read
//! rightly shows where it leads: a swap area in use and an offset inside it, or a page of
//! the swap cache that carries the same entry.

/// Bits of the type in a page table's entry (`SWP_TYPE_BITS`).
const TYPE_BITS: u32 = 5;
/// Where the offset begins (`SWP_OFFSET_FIRST_BIT`, `_PAGE_BIT_PROTNONE + 1`).
const OFFSET_FIRST: u32 = 9;
/// Bits of an XArray's value (`BITS_PER_XA_VALUE`) less the type's (`MAX_SWAPFILES_SHIFT`).
const VALUE_TYPE_SHIFT: u32 = 58;

/// A page of a swap area.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SwapEntry {
    /// Which swap area: an index into the kernel's `swap_info`. The last few numbers are no
    /// areas, but migration, poison and markers.
    pub area: u8,
    /// Which page of it.
    pub offset: u64,
}

impl SwapEntry {
    /// From an entry of a page table (of any level) that is neither empty nor present:
    /// `__swp_type()` and `__swp_offset()`, `arch/x86/include/asm/pgtable_64.h`. The offset is
    /// stored inverted, so that a processor that speculates on it finds no memory there.
    #[must_use]
    pub fn from_pte(pte: u64) -> Self {
        // Five bits fit.
        let area = u8::try_from(pte >> (64 - TYPE_BITS)).unwrap_or(u8::MAX);
        Self { area, offset: (!pte << TYPE_BITS) >> (OFFSET_FIRST + TYPE_BITS) }
    }

    /// From a `swp_entry_t`: `swp_type()` and `swp_offset()`, `include/linux/swapops.h`.
    #[must_use]
    pub fn from_val(val: u64) -> Self {
        // Six bits fit.
        let area = u8::try_from(val >> VALUE_TYPE_SHIFT).unwrap_or(u8::MAX);
        Self { area, offset: val & ((1 << VALUE_TYPE_SHIFT) - 1) }
    }

    /// From a slot of an XArray, such as a shared memory file's pages: `None` where the slot
    /// holds no value but a pointer (`xa_is_value()`; `radix_to_swp_entry()`).
    #[must_use]
    pub fn from_slot(slot: u64) -> Option<Self> {
        (slot & 1 == 1).then(|| Self::from_val(slot >> 1))
    }

    /// As a `swp_entry_t`.
    #[must_use]
    pub fn val(self) -> u64 {
        (u64::from(self.area) << VALUE_TYPE_SHIFT) | (self.offset & ((1 << VALUE_TYPE_SHIFT) - 1))
    }
}

impl From<crate::mm::SwapEntry> for SwapEntry {
    fn from(entry: crate::mm::SwapEntry) -> Self {
        Self { area: entry.ty, offset: entry.offset }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `__swp_entry()` packs it.
    fn pte(area: u64, offset: u64) -> u64 {
        ((!offset << 14) >> 5) | area << 59
    }

    #[test]
    fn entries_of_page_tables() {
        // By hand: area 1 in bits 59 to 63, offset 0x1234 inverted in bits 9 to 58.
        let entry = SwapEntry { area: 1, offset: 0x1234 };
        assert_eq!(SwapEntry::from_pte(0x0fff_ffff_ffdb_9600), entry);
        // Soft-dirty, write-protected by userfaultfd, exclusive: no part of either.
        assert_eq!(SwapEntry::from_pte(0x0fff_ffff_ffdb_960e), entry);
        for (area, offset) in [(0, 0), (0, 1), (3, 0x1234), (31, (1 << 50) - 1), (1, 1 << 40)] {
            let entry = SwapEntry::from_pte(pte(area, offset));
            assert_eq!((u64::from(entry.area), entry.offset), (area, offset));
        }
    }

    #[test]
    fn entries_of_xarrays() {
        let entry = SwapEntry { area: 2, offset: 77 };
        assert_eq!(entry.val(), 2 << 58 | 77);
        assert_eq!(SwapEntry::from_val(entry.val()), entry);
        assert_eq!(SwapEntry::from_slot(entry.val() << 1 | 1), Some(entry));
        assert_eq!(SwapEntry::from_slot(0xffff_8880_0000_1000), None);
        assert_eq!(SwapEntry::from_slot(0), None);
    }
}
