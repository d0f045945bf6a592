//! The dead kernel's page tables: from a kernel virtual address to a physical one.
//!
//! x86-64 with 4 or 5 levels (`NUMBER(pgtable_l5_enabled)`), pages of 4 KiB, 2 MiB
//! and 1 GiB, and the memory encryption bit (`NUMBER(sme_mask)`) taken out of each
//! entry. The top table is `SYMBOL(init_top_pgt)`, which older kernels call
//! `swapper_pg_dir`; it lies in the kernel's image, so its physical address is
//! `symbol - __START_KERNEL_map + phys_base` (`__pa_symbol()`,
//! `arch/x86/include/asm/page_64.h`). Nothing is guessed: where VMCOREINFO lacks
//! one of these, there is no translation.

use lifeboat_format::{PAGE, PhysAddr};

use crate::bytes::le64;
use crate::memory::{PhysRead, Unreadable};
use crate::vmcoreinfo::VmcoreInfo;

/// `__START_KERNEL_map`.
const KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;
/// Physical address bits of an entry (`PTE_PFN_MASK`): 51 to 12.
const ENTRY_ADDR: u64 = 0x000f_ffff_ffff_f000;
/// `_PAGE_PRESENT`.
const PRESENT: u64 = 1;
/// `_PAGE_PSE`: this entry maps a large page.
const LARGE: u64 = 1 << 7;
/// Pages that [`VirtReader`] keeps.
const CACHED: usize = 8;

/// Why a virtual address has no physical one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PagingError {
    /// VMCOREINFO lacks what is needed.
    #[error("VMCOREINFO has no usable {0}")]
    Missing(&'static str),
    /// The address is not canonical.
    #[error("virtual address {0:#x} is not canonical")]
    NotCanonical(u64),
    /// No page is mapped there.
    #[error("virtual address {addr:#x} is not mapped (level {level})")]
    NotMapped {
        /// The virtual address.
        addr: u64,
        /// Level of the table that says so; 1 holds 4 KiB pages.
        level: u32,
    },
    /// A table or the memory itself cannot be read.
    #[error("virtual address {addr:#x}: {source}")]
    Unreadable {
        /// The virtual address.
        addr: u64,
        /// Which physical address failed.
        source: Unreadable,
    },
}

/// The kernel's address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressSpace {
    top: u64,
    levels: u32,
    entry_mask: u64,
}

impl AddressSpace {
    /// From what VMCOREINFO says.
    ///
    /// # Errors
    /// [`PagingError::Missing`].
    pub fn new(info: &VmcoreInfo<'_>) -> Result<Self, PagingError> {
        let missing = PagingError::Missing;
        if info.page_size() != Some(PAGE as u64) {
            return Err(missing("PAGESIZE (4096)"));
        }
        let symbol = info
            .symbol("init_top_pgt")
            .or_else(|| info.symbol("swapper_pg_dir"))
            .filter(|s| *s >= KERNEL_MAP)
            .ok_or(missing("SYMBOL(init_top_pgt)"))?;
        let base = info.number("phys_base").ok_or(missing("NUMBER(phys_base)"))?;
        // phys_base is unsigned in the kernel and may wrap; the sum is what counts.
        let top = (symbol - KERNEL_MAP).wrapping_add(base.cast_unsigned());
        if !top.is_multiple_of(PAGE as u64) || top & !ENTRY_ADDR != 0 {
            return Err(missing("NUMBER(phys_base): the top table is not at a page"));
        }
        let levels = match info.number("pgtable_l5_enabled") {
            // Kernels before 4.17 have four levels and do not say so.
            None | Some(0) => 4,
            Some(1) => 5,
            Some(_) => return Err(missing("NUMBER(pgtable_l5_enabled)")),
        };
        let sme = info.number("sme_mask").unwrap_or(0).cast_unsigned();
        Ok(Self { top, levels, entry_mask: ENTRY_ADDR & !sme })
    }

    /// Levels of the page tables, 4 or 5; those of processes have as many.
    #[must_use]
    pub fn levels(&self) -> u32 {
        self.levels
    }

    /// The bits of an entry that are a physical address, memory encryption's left out.
    #[must_use]
    pub fn entry_mask(&self) -> u64 {
        self.entry_mask
    }

    /// Physical address of the top table.
    #[must_use]
    pub fn top(&self) -> PhysAddr {
        PhysAddr(self.top)
    }

    /// The physical address behind a virtual one. Reads at most five entries.
    ///
    /// # Errors
    /// [`PagingError`].
    pub fn translate(
        &self,
        memory: &mut (impl PhysRead + ?Sized),
        addr: u64,
    ) -> Result<PhysAddr, PagingError> {
        self.translate_run(memory, addr).map(|(phys, _)| phys)
    }

    /// As [`AddressSpace::translate`], and for how many bytes from `addr` on, up to the
    /// end of the page that maps it (4 KiB, 2 MiB or 1 GiB), physical memory goes on.
    ///
    /// # Errors
    /// [`PagingError`].
    pub fn translate_run(
        &self,
        memory: &mut (impl PhysRead + ?Sized),
        addr: u64,
    ) -> Result<(PhysAddr, u64), PagingError> {
        let unused = 64 - (12 + 9 * self.levels);
        let extended = ((addr << unused).cast_signed() >> unused).cast_unsigned();
        if extended != addr {
            return Err(PagingError::NotCanonical(addr));
        }
        let mut table = self.top;
        let mut level = self.levels;
        loop {
            let shift = 12 + 9 * (level - 1);
            let index = (addr >> shift) & 511;
            let mut raw = [0u8; 8];
            memory
                .read_phys(PhysAddr(table + index * 8), &mut raw)
                .map_err(|source| PagingError::Unreadable { addr, source })?;
            let entry = u64::from_le_bytes(raw);
            // Levels above 1 GiB pages have no large pages: the bit is reserved there.
            let large = entry & LARGE != 0 && level > 1;
            if entry & PRESENT == 0 || (large && level > 3) {
                return Err(PagingError::NotMapped { addr, level });
            }
            let inside = (1u64 << shift) - 1;
            if level == 1 || large {
                // In a large entry, bit 12 is PAT and the bits up to `shift` are no address.
                let phys = PhysAddr((entry & self.entry_mask & !inside) | (addr & inside));
                return Ok((phys, (1 << shift) - (addr & inside)));
            }
            table = entry & self.entry_mask;
            level -= 1;
        }
    }
}

/// Reads the dead kernel's virtual memory, or bytes that stand in its place.
pub trait ReadVirt {
    /// Fills `buf` with what lies at `addr`.
    ///
    /// # Errors
    /// [`PagingError`]; `buf` is then of no meaning.
    fn read_virt(&mut self, addr: u64, buf: &mut [u8]) -> Result<(), PagingError>;
}

impl<T: ReadVirt + ?Sized> ReadVirt for &mut T {
    fn read_virt(&mut self, addr: u64, buf: &mut [u8]) -> Result<(), PagingError> {
        (**self).read_virt(addr, buf)
    }
}

/// Bytes that were loaded from `base` on, such as a section of a file.
#[derive(Debug, Clone, Copy)]
pub struct Image<'a> {
    /// Address of the first byte.
    pub base: u64,
    /// The bytes.
    pub bytes: &'a [u8],
}

impl ReadVirt for Image<'_> {
    fn read_virt(&mut self, addr: u64, buf: &mut [u8]) -> Result<(), PagingError> {
        let part = addr.checked_sub(self.base).and_then(|at| {
            let at = usize::try_from(at).ok()?;
            self.bytes.get(at..at.checked_add(buf.len())?)
        });
        buf.copy_from_slice(part.ok_or(PagingError::NotMapped { addr, level: 1 })?);
        Ok(())
    }
}

/// Reads kernel virtual memory in long pieces, for tables that are walked from front to
/// back: keeps the last mapping, and no bytes.
#[derive(Debug)]
pub struct SpanReader<R> {
    space: AddressSpace,
    memory: R,
    /// The last mapping: from, to, and the physical address of its beginning.
    run: (u64, u64, u64),
}

impl<R: PhysRead> SpanReader<R> {
    /// Allocates nothing.
    #[must_use]
    pub fn new(space: AddressSpace, memory: R) -> Self {
        Self { space, memory, run: (0, 0, 0) }
    }

    /// The memory itself.
    pub(crate) fn memory(&mut self) -> &mut R {
        &mut self.memory
    }

    /// Where `addr` lies, and for how many bytes memory goes on.
    fn translate(&mut self, addr: u64) -> Result<(u64, u64), PagingError> {
        let (from, to, phys) = self.run;
        if (from..to).contains(&addr) {
            return Ok((phys + (addr - from), to - addr));
        }
        let (phys, left) = self.space.translate_run(&mut self.memory, addr)?;
        let ends = addr.checked_add(left).zip(phys.0.checked_add(left));
        let (to, _) = ends.ok_or(PagingError::NotCanonical(addr))?;
        self.run = (addr, to, phys.0);
        Ok((phys.0, left))
    }
}

impl<R: PhysRead> ReadVirt for SpanReader<R> {
    fn read_virt(&mut self, addr: u64, buf: &mut [u8]) -> Result<(), PagingError> {
        let mut at = addr;
        let mut rest = buf;
        while !rest.is_empty() {
            let (phys, left) = self.translate(at)?;
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
            let (now, later) = rest.split_at_mut(count);
            self.memory
                .read_phys(PhysAddr(phys), now)
                .map_err(|source| PagingError::Unreadable { addr: at, source })?;
            rest = later;
            // `translate` saw to it that the run's end fits.
            at += count as u64;
        }
        Ok(())
    }
}

/// Reads kernel virtual memory, keeping the last few pages it read.
pub struct VirtReader<'a> {
    space: AddressSpace,
    memory: &'a mut dyn PhysRead,
    pages: Vec<(u64, [u8; PAGE])>,
    next: usize,
}

impl<'a> VirtReader<'a> {
    /// Allocates 32 KiB.
    #[must_use]
    pub fn new(space: AddressSpace, memory: &'a mut dyn PhysRead) -> Self {
        // No page has an odd address: nothing matches until it is read.
        Self { space, memory, pages: vec![(1, [0; PAGE]); CACHED], next: 0 }
    }

    /// Fills `buf` with what lies at `addr`, over page boundaries.
    ///
    /// # Errors
    /// [`PagingError`].
    pub fn read(&mut self, addr: u64, buf: &mut [u8]) -> Result<(), PagingError> {
        let mut at = addr;
        let mut rest = buf;
        while !rest.is_empty() {
            let inside = usize::try_from(at % PAGE as u64).unwrap_or(0);
            let len = rest.len().min(PAGE - inside);
            let page = self.page(at - inside as u64)?;
            let wraps = PagingError::NotCanonical(at);
            let (now, later) = rest.split_at_mut_checked(len).ok_or(wraps)?;
            now.copy_from_slice(page.get(inside..inside + len).ok_or(wraps)?);
            rest = later;
            at = match at.checked_add(len as u64) {
                Some(next) => next,
                None if rest.is_empty() => return Ok(()),
                None => return Err(wraps),
            };
        }
        Ok(())
    }

    /// A little-endian u64 at `addr`.
    ///
    /// # Errors
    /// [`PagingError`].
    pub fn u64(&mut self, addr: u64) -> Result<u64, PagingError> {
        let mut raw = [0u8; 8];
        self.read(addr, &mut raw)?;
        le64(&raw, 0).ok_or(PagingError::NotCanonical(addr))
    }

    fn page(&mut self, addr: u64) -> Result<&[u8; PAGE], PagingError> {
        let hit = self.pages.iter().position(|(a, _)| *a == addr);
        let slot = hit.unwrap_or(self.next);
        let lost = PagingError::NotCanonical(addr);
        let entry = self.pages.get_mut(slot).ok_or(lost)?;
        if hit.is_none() {
            let phys = self.space.translate(self.memory, addr)?;
            entry.0 = 1;
            self.memory
                .read_phys(phys, &mut entry.1)
                .map_err(|source| PagingError::Unreadable { addr, source })?;
            entry.0 = addr;
            self.next = (slot + 1) % CACHED;
        }
        Ok(&entry.1)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Physical memory in which only what was put there exists.
    #[derive(Default)]
    pub(crate) struct Ram {
        pub(crate) pages: BTreeMap<u64, Vec<u8>>,
    }

    impl Ram {
        pub(crate) fn put(&mut self, addr: u64, bytes: &[u8]) {
            for (i, b) in bytes.iter().enumerate() {
                let at = addr + i as u64;
                let page = self.pages.entry(at / 4096).or_insert_with(|| vec![0; 4096]);
                page[usize::try_from(at % 4096).unwrap()] = *b;
            }
        }

        /// Maps a 4 KiB page, making tables from `pool` on as needed.
        pub(crate) fn map(&mut self, top: u64, levels: u32, va: u64, pa: u64, pool: &mut u64) {
            let mut table = top;
            for level in (1..=levels).rev() {
                let at = table + ((va >> (12 + 9 * (level - 1))) & 511) * 8;
                let mut raw = [0; 8];
                let _ = self.read_phys(PhysAddr(at), &mut raw);
                let mut entry = u64::from_le_bytes(raw);
                if level == 1 {
                    entry = pa | 0x8000_0000_0000_0063;
                } else if entry & 1 == 0 {
                    entry = *pool | 0x67;
                    self.put(*pool, &[0; 4096]);
                    *pool += 4096;
                }
                self.put(at, &entry.to_le_bytes());
                table = entry & ENTRY_ADDR;
            }
        }
    }

    impl PhysRead for Ram {
        fn read_phys(&mut self, addr: PhysAddr, buf: &mut [u8]) -> Result<(), Unreadable> {
            for (i, b) in buf.iter_mut().enumerate() {
                let at = addr.0 + i as u64;
                let page = self.pages.get(&(at / 4096)).ok_or(Unreadable { addr })?;
                *b = page[usize::try_from(at % 4096).unwrap()];
            }
            Ok(())
        }
    }

    fn space(extra: &str) -> Result<AddressSpace, PagingError> {
        let text = format!("PAGESIZE=4096\nSYMBOL(init_top_pgt)=ffffffff82010000\n{extra}");
        AddressSpace::new(&VmcoreInfo::new(text.as_bytes()))
    }

    #[test]
    fn the_top_table_comes_from_vmcoreinfo() {
        assert_eq!(space("NUMBER(phys_base)=16777216\n").unwrap().top, 0x0301_0000);
        assert_eq!(space("NUMBER(phys_base)=-16777216\n").unwrap().top, 0x0101_0000);
        assert_eq!(space("").unwrap_err(), PagingError::Missing("NUMBER(phys_base)"));
        assert!(space("NUMBER(phys_base)=1\n").is_err());
        assert!(space("NUMBER(phys_base)=-9223372036854775808\n").is_err());
        assert!(space("NUMBER(phys_base)=0\nNUMBER(pgtable_l5_enabled)=7\n").is_err());
        assert!(AddressSpace::new(&VmcoreInfo::new(b"NUMBER(phys_base)=0\n")).is_err());
    }

    #[test]
    fn walks_four_and_five_levels_and_encrypted_entries() {
        for (levels, va) in [(4, 0xffff_8880_1234_5678), (5, 0xff11_0000_1234_5678)] {
            let mut ram = Ram::default();
            ram.map(0x10_0000, levels, va, 0x7777_0000 | 1 << 47, &mut 0x20_0000);
            let as_is = AddressSpace { top: 0x10_0000, levels, entry_mask: ENTRY_ADDR };
            let sme = AddressSpace { entry_mask: ENTRY_ADDR & !(1 << 47), ..as_is };
            assert_eq!(as_is.translate(&mut ram, va), Ok(PhysAddr(0x8000_7777_0678)));
            assert_eq!(sme.translate(&mut ram, va), Ok(PhysAddr(0x7777_0678)));
            let next = va + 4096;
            assert_eq!(
                as_is.translate(&mut ram, next),
                Err(PagingError::NotMapped { addr: next, level: 1 })
            );
            assert!(matches!(
                as_is.translate(&mut ram, va & !(1 << 63)),
                Err(PagingError::NotCanonical(_))
            ));
        }
    }

    #[test]
    fn large_pages() {
        let mut ram = Ram::default();
        // Top → table at 0x2000; entry 0: 1 GiB page; entry 1 → 0x3000, entry 2: 2 MiB page.
        ram.put(0x1000, &0x2003u64.to_le_bytes());
        ram.put(0x2000, &0x0001_c000_1083u64.to_le_bytes());
        ram.put(0x2008, &0x3003u64.to_le_bytes());
        ram.put(0x3010, &0x1234_6183_u64.to_le_bytes());
        let space = AddressSpace { top: 0x1000, levels: 4, entry_mask: ENTRY_ADDR };
        assert_eq!(space.translate(&mut ram, 0x1234_5678), Ok(PhysAddr(0x1_d234_5678)));
        assert_eq!(space.translate(&mut ram, 0x4045_6789), Ok(PhysAddr(0x1225_6789)));
        // How far each goes on: to the end of its page.
        let far = space.translate_run(&mut ram, 0x1234_5678).unwrap().1;
        assert_eq!(far, (1 << 30) - 0x1234_5678);
        assert_eq!(space.translate_run(&mut ram, 0x4045_6789).unwrap().1, 0x20_0000 - 0x5_6789);
        // The large bit is reserved in the top level.
        ram.put(0x1008, &0x2083u64.to_le_bytes());
        assert!(space.translate(&mut ram, 1 << 39).is_err());
    }

    #[test]
    fn reads_over_page_boundaries() {
        let (mut ram, top, va) = (Ram::default(), 0x10_0000, 0xffff_8880_0000_0000);
        let mut pool = 0x20_0000;
        for (i, pa) in [0x9000u64, 0x5000, 0x7000].into_iter().enumerate() {
            ram.map(top, 4, va + i as u64 * 4096, pa, &mut pool);
            ram.put(pa, &[u8::try_from(i).unwrap() + 1; 4096]);
        }
        let space = AddressSpace { top, levels: 4, entry_mask: ENTRY_ADDR };
        let mut reader = VirtReader::new(space, &mut ram);
        let mut buf = vec![0; 4098];
        reader.read(va + 4095, &mut buf).unwrap();
        assert_eq!((buf[0], buf[1], buf[4096], buf[4097]), (1, 2, 2, 3));
        assert!(reader.read(va + 3 * 4096 - 1, &mut buf).is_err());
        assert!(reader.read(u64::MAX, &mut buf).is_err());
        // The same in long pieces, and back to what was mapped before.
        let mut spans = SpanReader::new(space, &mut ram);
        let mut again = vec![0; 4098];
        spans.read_virt(va + 4095, &mut again).unwrap();
        assert_eq!((again[0], again[1], again[4096], again[4097]), (1, 2, 2, 3));
        spans.read_virt(va, &mut again[..4096]).unwrap();
        assert_eq!((again[0], again[4095]), (1, 1));
        let gap = spans.read_virt(va + 3 * 4096 - 1, &mut again);
        assert_eq!(gap, Err(PagingError::NotMapped { addr: va + 3 * 4096, level: 1 }));
        assert!(spans.read_virt(u64::MAX, &mut again).is_err());
    }

    #[test]
    fn an_image_has_its_own_bytes_only() {
        let mut image = Image { base: 0x1000, bytes: &[1, 2, 3] };
        let mut buf = [0; 2];
        image.read_virt(0x1001, &mut buf).unwrap();
        assert_eq!(buf, [2, 3]);
        for at in [0xfff, 0x1002, u64::MAX, 0] {
            assert!(image.read_virt(at, &mut buf).is_err(), "{at:#x}");
        }
    }

    proptest! {
        #[test]
        fn hostile_tables_never_panic(words in proptest::collection::vec(any::<u64>(), 512),
                                      va in any::<u64>(), levels in 4u32..=5) {
            let mut ram = Ram::default();
            for (i, w) in words.iter().enumerate() {
                // Half of the entries point back at the table itself.
                let w = if w & 2 == 0 { 0x1003 } else { *w };
                ram.put(0x1000 + i as u64 * 8, &w.to_le_bytes());
            }
            let space = AddressSpace { top: 0x1000, levels, entry_mask: ENTRY_ADDR };
            let _ = space.translate(&mut ram, va);
            let _ = VirtReader::new(space, &mut ram).read(va, &mut [0; 100]);
            let _ = SpanReader::new(space, &mut ram).read_virt(va, &mut [0; 100]);
        }
    }
}
