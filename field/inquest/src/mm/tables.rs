//! Page tables of a process (`arch/x86/include/asm/pgtable.h`, `pgtable_64.h`,
//! `pgtable_types.h`).
//!
//! What an entry means that is not present has no witness but the macros:
//!
//! * with `_PAGE_PROTNONE` (bit 8) it is a page all the same, which nobody may touch; with
//!   `_PAGE_PSE` (bit 7) a huge page that was just being split. The bits of its address are
//!   inverted then (4.18, commit 6b28baca9b1f, against L1TF);
//! * else it is a swap entry: its type in bits 59 to 63, its offset inverted in bits 14 - 5 to
//!   58 (`SWP_TYPE_BITS`, `SWP_OFFSET_SHIFT` in `pgtable_64.h` of 6.1 and 6.12; against L1TF
//!   too).
//!
//! Which types are swap devices, the kernel's variable `nr_swapfiles` tells. What the others
//! mean depends on the configuration; but a page under migration is locked, a poisoned one
//! is marked, and a marker (`include/linux/swapops.h`) has only a few bits: the page that the
//! entry tells of is asked itself.

use lifeboat_format::{PAGE, Pfn, PhysAddr};

use crate::kernel::{Fault, Field, Kernel, KernelError};
use crate::machine::Hole;
use crate::walk::Damage;

use super::count::Tallies;

const PRESENT: u64 = 1;
/// `_PAGE_PSE`.
const LARGE: u64 = 1 << 7;
/// `_PAGE_PROTNONE`.
const PROTNONE: u64 = 1 << 8;
/// Bits that a CPU may set in an entry that is none (`_PAGE_KNL_ERRATUM_MASK`).
const STRAY: u64 = 0x60;
/// log2 of a page's bytes.
pub(super) const SHIFT: u32 = PAGE.trailing_zeros();
/// `SWP_TYPE_BITS`, `SWP_OFFSET_SHIFT`.
const TYPE_BITS: u32 = 5;
const OFFSET_SHIFT: u32 = 14;
/// All bits that a `pte_marker` has.
const MARKERS: u64 = 15;

/// A swap entry of a page table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SwapEntry {
    /// Which swap device or file: the index in `swap_info`.
    pub ty: u8,
    /// Which page there.
    pub offset: u64,
}

/// What is at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Spot {
    /// A page in memory.
    Present {
        /// Where the byte is that was asked for.
        phys: PhysAddr,
        /// Bytes of the page: 4096, or those of a huge one.
        size: u64,
    },
    /// A page that is swapped out.
    Swap(SwapEntry),
    /// A page that was just being moved; it still is where it was.
    Migration {
        /// Where the byte is that was asked for.
        phys: PhysAddr,
    },
    /// A page that the hardware lost.
    Poisoned,
    /// No page, but a mark (`PTE_MARKER_UFFD_WP`, `PTE_MARKER_POISONED`, …).
    Marker(u64),
    /// Something else that is in no page of memory, such as a device's own.
    Special(SwapEntry),
    /// Nothing: never touched, dropped, or only in a file.
    None,
}

impl Spot {
    /// Why there are no bytes to be had; `None` where there are.
    #[must_use]
    pub fn hole(self) -> Option<Hole> {
        match self {
            Self::Present { .. } | Self::Migration { .. } => None,
            Self::Swap(_) => Some(Hole::Swapped),
            Self::Poisoned | Self::Marker(_) => Some(Hole::Marked),
            Self::Special(_) => Some(Hole::Unsupported),
            Self::None => Some(Hole::NotMapped),
        }
    }
}

/// What is at an address, and how far that answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// What is there, or why that cannot be told.
    pub spot: Result<Spot, Fault>,
    /// Bytes from the address on that the same entry tells of: to the end of a huge page, or
    /// of all that a missing table would map. At least 1.
    pub left: u64,
}

/// What tells pages apart.
#[derive(Debug, Clone, Copy)]
struct PageMarks {
    flags: Field,
    head: Field,
    locked: u64,
    poisoned: u64,
}

/// The page tables of one process.
#[derive(Debug)]
pub struct Tables<'k, 'm> {
    kernel: &'k Kernel<'m>,
    top: PhysAddr,
    levels: u32,
    mask: u64,
    /// How many types are swap devices; or why that is not known, and then no entry that is
    /// not present can be told from another.
    swapfiles: Result<u32, Hole>,
    marks: PageMarks,
    pub(super) tallies: Tallies,
}

impl<'k, 'm> Tables<'k, 'm> {
    /// The tables of the process whose `struct mm_struct` is at `mm`.
    ///
    /// # Errors
    /// [`Damage`].
    pub fn open(kernel: &'k Kernel<'m>, mm: u64) -> Result<Self, Damage> {
        let pgd = kernel.get(mm, kernel.field("mm_struct", "pgd")?)?;
        let top = kernel.phys(pgd)?;
        if !top.0.is_multiple_of(PAGE as u64) {
            return Err(Damage::Odd(mm));
        }
        Ok(Self::at(kernel, top)?)
    }

    /// The tables whose top one is at a physical address.
    ///
    /// # Errors
    /// [`KernelError`].
    pub fn at(kernel: &'k Kernel<'m>, top: PhysAddr) -> Result<Self, KernelError> {
        let bit = |name: &str| {
            let bit = kernel.enumerator(name).and_then(|bit| u32::try_from(bit).ok());
            // Without memory failure there is no such flag, and no such page.
            bit.and_then(|bit| 1u64.checked_shl(bit)).unwrap_or(0)
        };
        let marks = PageMarks {
            flags: kernel.field("page", "flags")?,
            head: kernel.field("page", "compound_head")?,
            locked: bit("PG_locked"),
            poisoned: bit("PG_hwpoison"),
        };
        let space = kernel.space();
        let swapfiles = match super::swapfiles(kernel) {
            // Without swap there is no such variable, and no such entry.
            Err(KernelError::Symbol(_)) => Ok(0),
            other => other.map_err(|why| Damage::from(why).hole()),
        };
        let (levels, mask) = (space.levels(), space.entry_mask());
        let tallies = Tallies::default();
        Ok(Self { kernel, top, levels, mask, swapfiles, marks, tallies })
    }

    /// The kernel that the tables are of.
    #[must_use]
    pub fn kernel(&self) -> &'k Kernel<'m> {
        self.kernel
    }

    /// The physical address of the top table, and how many levels there are.
    pub(super) fn root(&self) -> (u64, u32) {
        (self.top.0, self.levels)
    }

    /// What is at an address of the process.
    #[must_use]
    pub fn look(&self, addr: u64) -> Look {
        let bits = SHIFT + 9 * self.levels;
        // The upper half is the kernel's.
        if addr >> (bits - 1) != 0 {
            return Look { spot: Err(Fault::malformed(addr)), left: (u64::MAX - addr).max(1) };
        }
        let mut table = self.top.0;
        let mut level = self.levels;
        loop {
            let shift = SHIFT + 9 * (level - 1);
            let left = (1u64 << shift) - (addr & ((1 << shift) - 1));
            let at = table + (addr >> shift & 511) * 8;
            let mut raw = [0; 8];
            if let Err(fault) = self.kernel.read_phys(PhysAddr(at), &mut raw) {
                return Look { spot: Err(Fault { addr, why: fault.why }), left };
            }
            match self.decode(u64::from_le_bytes(raw), level, addr) {
                Ok(spot) => return Look { spot, left },
                Err(below) => table = below,
            }
            level -= 1;
        }
    }

    /// What an entry says, or the physical address of the table that it leads to.
    pub(super) fn decode(
        &self,
        entry: u64,
        level: u32,
        addr: u64,
    ) -> Result<Result<Spot, Fault>, u64> {
        if entry & !STRAY == 0 {
            return Ok(Ok(Spot::None));
        }
        let present = entry & PRESENT != 0;
        let leaf = match level {
            1 => present || entry & PROTNONE != 0,
            2 => entry & LARGE != 0,
            3 => entry & LARGE != 0 && entry & (PRESENT | PROTNONE) != 0,
            _ => false,
        };
        if leaf {
            let size = 1u64 << (SHIFT + 9 * (level - 1));
            let upright = if present { entry } else { !entry };
            let phys = PhysAddr(upright & self.mask & !(size - 1) | addr & (size - 1));
            return Ok(Ok(Spot::Present { phys, size }));
        }
        match present {
            true if level > 3 && entry & LARGE != 0 => Ok(Err(Fault::malformed(addr))),
            true => Err(entry & self.mask),
            false if level > 3 => Ok(Err(Fault::malformed(addr))),
            false => Ok(self.absent(entry, level, addr)),
        }
    }

    /// What an entry in the form of a swap entry says.
    fn absent(&self, entry: u64, level: u32, addr: u64) -> Result<Spot, Fault> {
        let ty = u8::try_from(entry >> (64 - TYPE_BITS)).unwrap_or(u8::MAX);
        let offset = !entry << TYPE_BITS >> OFFSET_SHIFT;
        let swap = SwapEntry { ty, offset };
        let swapfiles = self.swapfiles.map_err(|why| Fault { addr, why })?;
        if u32::from(ty) < swapfiles {
            // Only pages of the usual size are swapped by an entry of their own.
            return if level == 1 { Ok(Spot::Swap(swap)) } else { Err(Fault::malformed(addr)) };
        }
        if offset <= MARKERS {
            return Ok(Spot::Marker(offset));
        }
        // SWP_PFN_BITS: above are bits for young and dirty (6.1, commit 2e3468778dbe).
        let bits = if self.levels == 5 { 52 } else { 46 } - SHIFT;
        let pfn = offset & ((1 << bits) - 1);
        let Some(flags) = self.flags(Pfn(pfn)) else { return Ok(Spot::Special(swap)) };
        let (own, head) = flags;
        if own & self.marks.poisoned != 0 {
            return Ok(Spot::Poisoned);
        }
        if head & self.marks.locked == 0 {
            return Ok(Spot::Special(swap));
        }
        let inside = addr & ((1u64 << (SHIFT + 9 * (level - 1))) - 1);
        Ok(Spot::Migration { phys: PhysAddr((pfn << SHIFT) + inside) })
    }

    /// Flags of a page, and of the head of the compound that it belongs to.
    fn flags(&self, pfn: Pfn) -> Option<(u64, u64)> {
        let page = self.kernel.page_struct(pfn);
        let own = self.kernel.get(page, self.marks.flags).ok()?;
        // Bit 0 says that this is a tail (`compound_head()`).
        let head = self.kernel.get(page, self.marks.head).ok()?;
        if head & 1 == 0 {
            return Some((own, own));
        }
        self.kernel.pfn_of(head - 1)?;
        Some((own, self.kernel.get(head - 1, self.marks.flags).ok()?))
    }
}
