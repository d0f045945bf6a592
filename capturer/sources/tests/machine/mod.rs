//! A machine of 64 MiB for the tests of the page classifier: page tables, sections,
//! `struct page`s, a node with its free lists, and the VMCOREINFO that describes them,
//! with the numbers of Debian's kernels 6.1 and 6.12.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "helpers of tests are tests too, and each test program uses its part"
)]

pub mod btf;
mod own;

use std::cell::Cell;

use lifeboat_format::PhysAddr;
use lifeboat_sources::memory::{PhysRead, Unreadable};

/// Bytes of memory, and its pages.
pub const MEMORY: u64 = 64 << 20;
pub const PAGES: u64 = MEMORY / 4096;
pub const DIRECT_MAP: u64 = 0xffff_8880_0000_0000;
pub const KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;
pub const VMEMMAP: u64 = 0xffff_ea00_0000_0000;
/// Physical places: text, data of the image, `struct page`s, tables made at boot.
pub const TEXT: u64 = 0x0100_0000;
pub const DATA: u64 = 0x0200_0000;
pub const MAP: u64 = 0x0300_0000;
const TABLES: u64 = 0x0320_0000;
pub const ROOTS: u64 = TABLES + 0x1_0000;
pub const SECTIONS: u64 = TABLES + 0x5000;
pub const NODE: u64 = TABLES + 0x6000;
/// A pointer to a kernel object, such as an `address_space`.
pub const OBJECT: u64 = DIRECT_MAP + 0x0123_4560;

const ZONE: u64 = 1536;
const ORDERS: u64 = 11;
const TYPES: u64 = 5;

/// Which kernel died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    V6_1,
    V6_12,
}

/// A `struct page`.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    pub flags: u64,
    pub head: u64,
    pub mapping: u64,
    pub private: u64,
    pub mapcount: u32,
    pub refcount: u32,
}

/// A page in use, by nobody in particular.
pub const USED: Page =
    Page { flags: 0, head: 0, mapping: 0, private: 0, mapcount: u32::MAX, refcount: 1 };

/// Bits and values of a kernel.
pub struct Bits {
    pub lru: u64,
    pub private: u64,
    pub swapcache: u64,
    pub swapbacked: u64,
    pub reserved: u64,
    pub head: u64,
    pub hwpoison: u64,
    pub buddy: u32,
    pub offline: u32,
    pub table: u32,
}

pub struct Machine {
    pub kernel: Kernel,
    pub bits: Bits,
    pub info: String,
    pub ram: Vec<u8>,
}

/// The machine's memory as it is read: patches over it, pages that fail, and a count
/// of the reads.
pub struct Ram<'a> {
    pub base: &'a [u8],
    pub patches: Vec<(u64, Vec<u8>)>,
    pub bad: Vec<u64>,
    pub reads: Cell<u64>,
}

impl PhysRead for Ram<'_> {
    fn read_phys(&mut self, addr: PhysAddr, buf: &mut [u8]) -> Result<(), Unreadable> {
        self.reads.set(self.reads.get() + 1);
        let failed = Unreadable { addr };
        let start = usize::try_from(addr.0).map_err(|_| failed)?;
        let end = start.checked_add(buf.len()).ok_or(failed)?;
        buf.copy_from_slice(self.base.get(start..end).ok_or(failed)?);
        let range = start as u64..end as u64;
        let near = |(at, bytes): &&(u64, Vec<u8>)| {
            *at < range.end && at.saturating_add(bytes.len() as u64) > range.start
        };
        for (at, bytes) in self.patches.iter().filter(near) {
            for (n, byte) in (*at..).zip(bytes) {
                if let Some(i) = n.checked_sub(addr.0)
                    && let Some(slot) = buf.get_mut(usize::try_from(i).unwrap())
                {
                    *slot = *byte;
                }
            }
        }
        let touched =
            |page: &u64| (start as u64 / 4096..(end as u64).div_ceil(4096)).contains(page);
        if self.bad.iter().any(touched) { Err(failed) } else { Ok(()) }
    }
}

impl Bits {
    fn new(kernel: Kernel) -> Self {
        match kernel {
            Kernel::V6_1 => Self {
                lru: 1 << 4,
                private: 1 << 13,
                swapcache: 1 << 10,
                swapbacked: 1 << 19,
                reserved: 1 << 12,
                head: 0x10000,
                hwpoison: 1 << 23,
                buddy: (-129i32).cast_unsigned(),
                offline: (-257i32).cast_unsigned(),
                table: (-513i32).cast_unsigned(),
            },
            Kernel::V6_12 => Self {
                lru: 1 << 5,
                private: 1 << 14,
                swapcache: 1 << 10,
                swapbacked: 1 << 17,
                reserved: 1 << 13,
                head: 0x40,
                hwpoison: 1 << 20,
                buddy: 0xf000_0000,
                // The owner uses the lower bits.
                offline: 0xf100_0007,
                table: 0xf200_0000,
            },
        }
    }
}

fn vmcoreinfo(kernel: Kernel) -> String {
    let own = match kernel {
        Kernel::V6_1 => {
            "OFFSET(page.compound_dtor)=16\nNUMBER(PG_lru)=4\nNUMBER(PG_private)=13\n\
             NUMBER(PG_swapcache)=10\nNUMBER(PG_swapbacked)=19\nNUMBER(PG_slab)=9\n\
             NUMBER(PG_head_mask)=65536\nNUMBER(PG_hwpoison)=23\nNUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)=-129\n\
             NUMBER(HUGETLB_PAGE_DTOR)=2\nNUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)=-257\n"
        }
        Kernel::V6_12 => {
            "NUMBER(PG_lru)=5\nNUMBER(PG_private)=14\nNUMBER(PG_swapcache)=10\n\
             NUMBER(PG_swapbacked)=17\nNUMBER(PAGE_SLAB_MAPCOUNT_VALUE)=-184549376\n\
             NUMBER(PG_head_mask)=64\nNUMBER(PG_hwpoison)=20\nNUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)=-268435456\n\
             NUMBER(PAGE_HUGETLB_MAPCOUNT_VALUE)=-201326592\n\
             NUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)=-251658240\n"
        }
    };
    format!(
        "PAGESIZE=4096\nSYMBOL(init_top_pgt)={top:x}\nNUMBER(phys_base)=0\n\
         NUMBER(pgtable_l5_enabled)=0\nSYMBOL(_stext)={text:x}\nSYMBOL(prb)={prb:x}\n\
         SYMBOL(init_uts_ns)={prb:x}\nSYMBOL(mem_section)={roots:x}\n\
         LENGTH(mem_section)=8192\nSIZE(mem_section)=16\n\
         OFFSET(mem_section.section_mem_map)=0\nNUMBER(SECTION_SIZE_BITS)=25\n\
         NUMBER(MAX_PHYSMEM_BITS)=46\nSIZE(page)=64\nOFFSET(page.flags)=0\n\
         OFFSET(page._refcount)=52\nOFFSET(page.mapping)=24\nOFFSET(page.lru)=8\n\
         OFFSET(page._mapcount)=48\nOFFSET(page.private)=40\nOFFSET(page.compound_head)=8\n\
         SIZE(zone)={ZONE}\nSIZE(free_area)=88\nOFFSET(pglist_data.node_zones)=0\n\
         OFFSET(pglist_data.nr_zones)=8196\nOFFSET(zone.free_area)=256\n\
         OFFSET(free_area.free_list)=0\nLENGTH(zone.free_area)={ORDERS}\n\
         LENGTH(free_area.free_list)={TYPES}\nSYMBOL(node_data)={nodes:x}\n\
         LENGTH(node_data)=4\n{own}",
        top = KERNEL_MAP + DATA,
        text = KERNEL_MAP + TEXT,
        prb = KERNEL_MAP + DATA + 0x1000,
        nodes = KERNEL_MAP + DATA + 0x2000,
        roots = DIRECT_MAP + ROOTS,
    )
}

impl Machine {
    /// All of memory in use by the kernel, its text reserved, all lists empty.
    pub fn new(kernel: Kernel) -> Self {
        let ram = vec![0; usize::try_from(MEMORY).unwrap()];
        let mut this = Self { kernel, bits: Bits::new(kernel), info: vmcoreinfo(kernel), ram };
        this.page_tables();
        // 2^21 sections of 32 MiB, 256 to a root; two of them are there, as an early
        // section on node 0.
        this.put(ROOTS, DIRECT_MAP + SECTIONS);
        this.put(SECTIONS, VMEMMAP | 0xf);
        this.put(SECTIONS + 16, VMEMMAP | 0xf);
        // The second of two zones has no pages, and no lists.
        this.put(DATA + 0x2000, DIRECT_MAP + NODE);
        this.put(NODE + 8192, 2 << 32);
        for list in 0..ORDERS * TYPES {
            let head = Self::list(list / TYPES, list % TYPES);
            this.put(head, DIRECT_MAP + head);
            this.put(head + 8, DIRECT_MAP + head);
        }
        for pfn in 0..PAGES {
            this.set(pfn, USED);
        }
        let reserved = Page { flags: this.bits.reserved | 0x000f_fffc_0000_0000, ..USED };
        (TEXT / 4096..TEXT / 4096 + 0x400).for_each(|pfn| this.set(pfn, reserved));
        this
    }

    /// Four levels: the image and the struct pages by pages of 2 MiB, the direct map by 1 GiB.
    fn page_tables(&mut self) {
        let (top, direct, image, map) = (DATA, TABLES, TABLES + 0x1000, TABLES + 0x2000);
        self.put(top + 8 * ((DIRECT_MAP >> 39) & 511), direct | 0x67);
        self.put(direct, 0xe3);
        self.put(top + 8 * 511, image | 0x67);
        self.put(image + 8 * 510, (TABLES + 0x3000) | 0x67);
        for at in [TEXT, TEXT + 0x20_0000, DATA] {
            self.put(TABLES + 0x3000 + 8 * (at >> 21), at | 0xe3);
        }
        self.put(top + 8 * ((VMEMMAP >> 39) & 511), map | 0x67);
        self.put(map, (TABLES + 0xa000) | 0x67);
        self.put(TABLES + 0xa000, MAP | 0xe3);
    }

    fn list(order: u64, kind: u64) -> u64 {
        NODE + 256 + order * 88 + kind * 16
    }

    pub fn put(&mut self, at: u64, value: u64) {
        let at = usize::try_from(at).unwrap();
        self.ram[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }

    /// Where a page's `struct page` lies, physical.
    pub fn place(pfn: u64) -> u64 {
        MAP + pfn * 64
    }

    pub fn set(&mut self, pfn: u64, page: Page) {
        let at = Self::place(pfn);
        self.put(at, page.flags);
        self.put(at + 8, page.head);
        self.put(at + 24, page.mapping);
        self.put(at + 40, page.private);
        self.put(at + 48, u64::from(page.refcount) << 32 | u64::from(page.mapcount));
    }

    /// A free block, first in the list of its order.
    pub fn free(&mut self, pfn: u64, order: u64) {
        for inside in pfn..pfn + (1 << order) {
            self.set(inside, Page { refcount: 0, ..USED });
        }
        let buddy = Page { mapcount: self.bits.buddy, refcount: 0, private: order, ..USED };
        self.set(pfn, buddy);
        let list = Self::list(order, 1);
        let at = usize::try_from(list).unwrap();
        let first = u64::from_le_bytes(self.ram[at..at + 8].try_into().unwrap());
        self.put(Self::place(pfn) + 8, first);
        self.put(list, VMEMMAP + pfn * 64 + 8);
    }

    /// A compound page whose first page is `head`.
    pub fn compound(&mut self, pfn: u64, pages: u64, head: Page) {
        self.set(pfn, Page { flags: head.flags | self.bits.head, ..head });
        for tail in pfn + 1..pfn + pages {
            // TAIL_MAPPING.
            let mapping = 0xdead_0000_0000_0400;
            let head = VMEMMAP + pfn * 64 + 1;
            self.set(tail, Page { head, mapping, refcount: 0, ..USED });
        }
    }

    /// A page of hugetlbfs.
    pub fn huge(&mut self, pfn: u64, pages: u64) {
        match self.kernel {
            Kernel::V6_1 => {
                self.compound(pfn, pages, USED);
                self.put(Self::place(pfn + 1) + 16, 0x0902);
            }
            Kernel::V6_12 => self.compound(pfn, pages, Page { mapcount: 0xf400_0000, ..USED }),
        }
    }

    pub fn ram(&self) -> Ram<'_> {
        Ram { base: &self.ram, patches: Vec::new(), bad: Vec::new(), reads: Cell::new(0) }
    }
}
