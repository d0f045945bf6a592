//! `mem_section`: which parts of physical memory have a `struct page`, and where.
//!
//! Sources: `include/linux/mmzone.h` (`__nr_to_section()`, the `SECTION_` flags) and
//! `mm/sparse.c` (`sparse_encode_mem_map()`). With `CONFIG_SPARSEMEM_VMEMMAP`, which
//! x86-64 has always, every section encodes the same address: that of `struct page`
//! number 0. That all of them agree is the first check of what was read.

use lifeboat_format::PAGE;

use crate::memory::PhysRead;
use crate::paging::{AddressSpace, ReadVirt as _, SpanReader};

use super::WorthError;
use super::facts::Facts;
use super::reader::BLOCK;

/// log2 of a page's bytes.
const PAGE_SHIFT: u32 = PAGE.trailing_zeros();
/// Lowest address of the direct map with five levels of page tables; with four levels
/// nothing lies lower than the second (`Documentation/arch/x86/x86_64/mm.rst`).
const LOWEST: u64 = 0xff11_0000_0000_0000;
/// Where the CPU entry area begins; vmemmap lies below.
const HIGHEST: u64 = 0xffff_fe00_0000_0000;
/// vmemmap is moved by whole entries of the third level (`kernel_randomize_memory()`).
const VMEMMAP_ALIGN: u64 = 1 << 30;
/// Where the kernel's image lies, `__START_KERNEL_map`.
const KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;
/// `SECTION_MARKED_PRESENT | SECTION_HAS_MEM_MAP | SECTION_IS_ONLINE`; their order has
/// been the same since 4.13 (`include/linux/mmzone.h`).
const USABLE: u64 = 7;
/// Flags and the node number end below this; the address of a `struct page` begins there.
const FLAGS: u64 = PAGE as u64 - 1;
/// Most roots with sections that are looked at; 16 TiB have 1024.
const MAX_ROOTS: u64 = 1 << 14;
/// Most pages of `struct mem_section*` that are read.
const MAX_LENGTH: u64 = 1 << 20;
/// Sections in a sample.
pub(super) const SAMPLE: usize = 64;

/// Where the table of sections is, and what it says for all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sections {
    /// Address of the array of pointers to arrays of `struct mem_section`.
    pub(super) roots: u64,
    length: u64,
    per_root: u64,
    entry: u64,
    member: u64,
    /// log2 of the pages in a section.
    pub(super) shift: u32,
    /// Address of `struct page` number 0.
    pub(super) vmemmap: u64,
    /// Sections that have a usable map.
    pub(super) usable: u64,
}

/// Numbers of sections, evenly over all that were given: where the list is full,
/// every other one goes, and only every other one is taken from then on.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) list: Vec<u64>,
    stride: u64,
    given: u64,
}

impl Sample {
    fn new() -> Self {
        Self { list: Vec::with_capacity(SAMPLE), stride: 1, given: 0 }
    }

    fn give(&mut self, section: u64) {
        if self.given.is_multiple_of(self.stride) {
            if self.list.len() == SAMPLE {
                let mut keep = false;
                self.list.retain(|_| {
                    keep = !keep;
                    keep
                });
                self.stride *= 2;
            }
            self.list.push(section);
        }
        self.given += 1;
    }
}

/// A word of the dead kernel's memory, at a multiple of 8.
pub(super) fn word(
    space: &AddressSpace,
    memory: &mut impl PhysRead,
    addr: u64,
    what: &'static str,
) -> Result<u64, WorthError> {
    if !addr.is_multiple_of(8) {
        return Err(WorthError::Odd { what, value: addr });
    }
    let mut raw = [0; 8];
    let mut reader = SpanReader::new(*space, memory);
    reader.read_virt(addr, &mut raw).map_err(|source| WorthError::unread(what, source))?;
    Ok(u64::from_le_bytes(raw))
}

impl Sections {
    /// Reads the whole table once. Gives a sample of the usable sections with it.
    pub(super) fn open(
        info: &Facts<'_>,
        space: &AddressSpace,
        memory: &mut impl PhysRead,
        page_size: usize,
    ) -> Result<(Self, Sample), WorthError> {
        let mut this = Self::from_info(info)?;
        if this.roots >= KERNEL_MAP {
            // Kernels before 4.15 give the variable's address, later ones its value
            // (commits 83e3c48729d9 and a0b1280368d1).
            this.roots = word(space, memory, this.roots, "mem_section")?;
        }
        let end = this.length.checked_mul(8).and_then(|bytes| this.roots.checked_add(bytes));
        let inside = end.is_some_and(|end| end <= KERNEL_MAP) && this.roots >= LOWEST;
        if !inside || !this.roots.is_multiple_of(8) {
            return Err(WorthError::Odd { what: "SYMBOL(mem_section)", value: this.roots });
        }
        let sample = this.walk(space, memory)?;
        this.check_vmemmap(&sample, page_size)?;
        Ok((this, sample))
    }

    fn from_info(info: &Facts<'_>) -> Result<Self, WorthError> {
        let missing = WorthError::Missing;
        let odd = |what, value| WorthError::Odd { what, value };
        let vmcoreinfo = info.info();
        let roots = vmcoreinfo.symbol("mem_section").ok_or(missing("SYMBOL(mem_section)"))?;
        let length = vmcoreinfo.length("mem_section").ok_or(missing("LENGTH(mem_section)"))?;
        let entry = info.size("mem_section").ok_or(missing("SIZE(mem_section)"))?;
        let member = info
            .offset("mem_section.section_mem_map")
            .ok_or(missing("OFFSET(mem_section.section_mem_map)"))?;
        let bits = vmcoreinfo
            .number("SECTION_SIZE_BITS")
            .ok_or(missing("NUMBER(SECTION_SIZE_BITS)"))?
            .cast_unsigned();
        if length == 0 || length > MAX_LENGTH {
            return Err(odd("LENGTH(mem_section)", length));
        }
        if !(8..=64).contains(&entry) || !entry.is_multiple_of(8) {
            return Err(odd("SIZE(mem_section)", entry));
        }
        if member > entry - 8 || !member.is_multiple_of(8) {
            return Err(odd("OFFSET(mem_section.section_mem_map)", member));
        }
        let shift = u32::try_from(bits)
            .ok()
            .filter(|b| (22..=36).contains(b))
            .map(|b| b - PAGE_SHIFT)
            .ok_or(odd("NUMBER(SECTION_SIZE_BITS)", bits))?;
        // SECTIONS_PER_ROOT.
        let per_root = PAGE as u64 / entry;
        if let Some(max) = vmcoreinfo.number("MAX_PHYSMEM_BITS") {
            let sections = u32::try_from(max)
                .ok()
                .filter(|max| (32..=52).contains(max))
                .and_then(|max| max.checked_sub(shift + PAGE_SHIFT))
                .map(|n| 1u64 << n)
                .ok_or(odd("NUMBER(MAX_PHYSMEM_BITS)", max.cast_unsigned()))?;
            if sections.div_ceil(per_root) != length {
                return Err(odd("LENGTH(mem_section)", length));
            }
        }
        Ok(Self { roots, length, per_root, entry, member, shift, vmemmap: 0, usable: 0 })
    }

    /// Looks at every section there is: at most [`MAX_ROOTS`] arrays.
    fn walk(
        &mut self,
        space: &AddressSpace,
        memory: &mut impl PhysRead,
    ) -> Result<Sample, WorthError> {
        let mut sample = Sample::new();
        let mut seen = 0;
        let mut table = Table::new();
        for root in 0..self.length {
            let array = table.word(space, memory, self.roots + root * 8)?;
            if array == 0 {
                continue;
            }
            seen += 1;
            if seen > MAX_ROOTS {
                return Err(WorthError::Odd { what: "LENGTH(mem_section)", value: self.length });
            }
            let mut entries = Table::new();
            for at in 0..self.per_root {
                let addr = array
                    .checked_add(at * self.entry + self.member)
                    .filter(|_| array >= LOWEST)
                    .ok_or(WorthError::Odd { what: "mem_section", value: array })?;
                let value = entries.word(space, memory, addr)?;
                if value & USABLE != USABLE {
                    continue;
                }
                let base = value & !FLAGS;
                if self.usable > 0 && base != self.vmemmap {
                    return Err(WorthError::NoVmemmap { one: self.vmemmap, other: base });
                }
                self.vmemmap = base;
                self.usable += 1;
                sample.give(root * self.per_root + at);
            }
        }
        Ok(sample)
    }

    fn check_vmemmap(&self, sample: &Sample, page_size: usize) -> Result<(), WorthError> {
        let Some(last) = sample.list.last() else {
            return Err(WorthError::NoSections);
        };
        let odd = WorthError::Odd { what: "vmemmap", value: self.vmemmap };
        let end = (last + 1)
            .checked_shl(self.shift)
            .and_then(|pages| pages.checked_mul(page_size as u64))
            .and_then(|bytes| self.vmemmap.checked_add(bytes))
            .ok_or(odd)?;
        let inside = self.vmemmap >= LOWEST && end <= HIGHEST;
        if !inside || !self.vmemmap.is_multiple_of(VMEMMAP_ALIGN) {
            return Err(WorthError::Odd { what: "vmemmap", value: self.vmemmap });
        }
        Ok(())
    }

    /// Pages that the table has room for.
    pub(super) fn pages(&self) -> u64 {
        // At most 2^20 * 512 sections of at most 2^24 pages.
        (self.length * self.per_root) << self.shift
    }

    /// Whether the pages of this section have a `struct page` in vmemmap. What cannot
    /// be read has none.
    pub(super) fn is_usable(
        &self,
        space: &AddressSpace,
        memory: &mut impl PhysRead,
        section: u64,
    ) -> bool {
        let root = section / self.per_root;
        if root >= self.length {
            return false;
        }
        let what = "mem_section";
        let Ok(array) = word(space, memory, self.roots + root * 8, what) else {
            return false;
        };
        let offset = (section % self.per_root) * self.entry + self.member;
        let value = array
            .checked_add(offset)
            .filter(|_| array >= LOWEST)
            .and_then(|addr| word(space, memory, addr, what).ok());
        value.is_some_and(|v| v & USABLE == USABLE && v & !FLAGS == self.vmemmap)
    }

    /// Address of a page's `struct page`; `None` beyond the table.
    pub(super) fn page_addr(&self, pfn: u64, page_size: usize) -> Option<u64> {
        let inside = pfn < self.pages();
        pfn.checked_mul(page_size as u64)
            .filter(|_| inside)
            .and_then(|bytes| self.vmemmap.checked_add(bytes))
    }

    /// The pfn whose `struct page` begins at `addr`; `None` where none does.
    pub(super) fn pfn_of(&self, addr: u64, page_size: usize) -> Option<u64> {
        let bytes = addr.checked_sub(self.vmemmap)?;
        let size = page_size as u64;
        let pfn = bytes.checked_div(size).filter(|pfn| pfn * size == bytes)?;
        (pfn < self.pages()).then_some(pfn)
    }
}

const _: () = assert!(BLOCK as u64 == 1 << (22 - PAGE_SHIFT), "a block lies in one section");

/// One page of a table that is read from front to back.
struct Table {
    page: u64,
    bytes: [u8; PAGE],
}

impl Table {
    fn new() -> Self {
        // No page has an odd address: nothing matches until it is read.
        Self { page: 1, bytes: [0; PAGE] }
    }

    fn word(
        &mut self,
        space: &AddressSpace,
        memory: &mut impl PhysRead,
        addr: u64,
    ) -> Result<u64, WorthError> {
        let what = "mem_section";
        let odd = WorthError::Odd { what, value: addr };
        let inside = addr % PAGE as u64;
        let page = addr - inside;
        if self.page != page {
            self.page = 1;
            let mut reader = SpanReader::new(*space, memory);
            reader
                .read_virt(page, &mut self.bytes)
                .map_err(|source| WorthError::unread(what, source))?;
            self.page = page;
        }
        usize::try_from(inside).ok().and_then(|at| crate::bytes::le64(&self.bytes, at)).ok_or(odd)
    }
}
