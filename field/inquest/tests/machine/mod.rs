//! A small dead machine in memory, byte by byte as a kernel leaves it: page tables,
//! kallsyms, BTF, VMCOREINFO, and whatever objects a test puts there.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "helpers of tests are tests too, and each test program uses its part"
)]

#[path = "../../../../capturer/sources/tests/machine/btf.rs"]
pub mod btf;
pub mod people;
pub mod types;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use btf::{Form, Symbols, Types};
use lifeboat_inquest::{Hole, Kernel, Machine, PAGE, Pfn, SwapDevice};

/// Bytes of memory.
pub const MEMORY: u64 = 16 << 20;
pub const DIRECT: u64 = 0xffff_8880_0000_0000;
pub const VMALLOC: u64 = 0xffff_c900_0000_0000;
pub const VMEMMAP: u64 = 0xffff_ea00_0000_0000;
pub const IMAGE: u64 = 0xffff_ffff_8000_0000;

/// Physical places.
const TABLES: u64 = 0x1000;
const TOP: u64 = 0x10_0000;
/// Variables of the image.
const VARS: u64 = 0x10_2000;
pub const KALLSYMS: u64 = 0x11_0000;
const BTF: u64 = 0x14_0000;
/// `struct page`s: 4096 of them.
const MAP: u64 = 0x20_0000;
/// What tests make.
pub const OBJECTS: u64 = 0x40_0000;

/// Memory, pages that fail, and how often any was asked for.
pub struct Ram {
    pub bytes: Vec<u8>,
    pub bad: BTreeMap<u64, Hole>,
    pub reads: AtomicU64,
    pub swaps: Vec<SwapDevice>,
}

impl Ram {
    pub fn new(bytes: Vec<u8>) -> Self {
        let (bad, reads) = (BTreeMap::new(), AtomicU64::new(0));
        Self { bytes, bad, reads, swaps: Vec::new() }
    }
}

impl Machine for Ram {
    fn memory(&self, pfn: Pfn, out: &mut [u8; PAGE]) -> Result<(), Hole> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if let Some(hole) = self.bad.get(&pfn.0) {
            return Err(*hole);
        }
        let at = usize::try_from(pfn.0).unwrap().checked_mul(PAGE).ok_or(Hole::NotCaptured)?;
        let page = self.bytes.get(at..).and_then(|b| b.first_chunk());
        *out = *page.ok_or(Hole::NotCaptured)?;
        Ok(())
    }

    fn swap(&self, _: usize, _: u64, _: &mut [u8; PAGE]) -> Result<(), Hole> {
        Err(Hole::SwapNotCaptured)
    }

    fn swaps(&self) -> &[SwapDevice] {
        &self.swaps
    }
}

/// A machine in the making.
pub struct World {
    pub bytes: Vec<u8>,
    pub symbols: BTreeSet<(u64, String)>,
    next: u64,
    vars: u64,
    /// Whether the symbols' order by name lies behind the markers, as from 6.2 to 6.3.
    pub sequences: bool,
    /// Types of vmlinux; those of a module are added behind.
    pub types: Types,
}

impl World {
    /// With page tables, types, and the symbols that every kernel has.
    pub fn new() -> Self {
        let mut this = Self {
            bytes: vec![0; MEMORY as usize],
            symbols: BTreeSet::new(),
            next: OBJECTS,
            vars: VARS,
            sequences: false,
            types: types::vmlinux(),
        };
        this.page_tables();
        for (name, value) in
            [("page_offset_base", DIRECT), ("vmalloc_base", VMALLOC), ("vmemmap_base", VMEMMAP)]
        {
            let at = this.var(name, 8);
            this.put(at, value);
        }
        for name in ["_stext", "prb", "init_uts_ns"] {
            this.var(name, 64);
        }
        this.symbols.insert((IMAGE + TOP, "init_top_pgt".to_owned()));
        // Two CPUs, whose copies lie 64 KiB apart.
        let at = this.var("nr_cpu_ids", 8);
        this.put32(at, 2);
        let at = this.var("__cpu_possible_mask", 8);
        this.put(at, 3);
        let at = this.var("__per_cpu_offset", 16);
        let area = this.alloc(0x2_0000);
        this.put(at, area - 0x1000);
        this.put(at + 8, area + 0x1_0000 - 0x1000);
        let at = this.var("nr_swapfiles", 8);
        this.put32(at, 2);
        for list in ["modules", "btf_modules"] {
            let at = this.var(list, 16);
            this.empty_list(at);
        }
        for pfn in 0..MEMORY / 4096 {
            this.page_flags(pfn, 0);
        }
        this
    }

    fn page_tables(&mut self) {
        let index = |addr: u64, level: u32| (addr >> (12 + 9 * (level - 1)) & 511) * 8;
        let phys = |at| DIRECT + at;
        self.put(phys(TOP + index(DIRECT, 4)), TABLES | 0x67);
        self.put(phys(TABLES + index(DIRECT, 3)), 0xe3);
        self.put(phys(TOP + index(VMEMMAP, 4)), (TABLES + 0x1000) | 0x67);
        self.put(phys(TABLES + 0x1000), (TABLES + 0x2000) | 0x67);
        self.put(phys(TABLES + 0x2000), MAP | 0xe3);
        self.put(phys(TOP + index(IMAGE, 4)), (TABLES + 0x3000) | 0x67);
        self.put(phys(TABLES + 0x3000 + index(IMAGE, 3)), (TABLES + 0x4000) | 0x67);
        for n in 0..MEMORY >> 21 {
            self.put(phys(TABLES + 0x4000 + n * 8), n << 21 | 0xe3);
        }
    }

    /// A variable of the image.
    pub fn var(&mut self, name: &str, size: u64) -> u64 {
        let at = IMAGE + self.vars;
        self.vars += size.next_multiple_of(64);
        assert!(self.vars <= KALLSYMS);
        self.symbols.insert((at, name.to_owned()));
        at
    }

    /// An object, as `kmalloc()` gives it.
    pub fn alloc(&mut self, size: u64) -> u64 {
        let at = self.next;
        self.next += size.next_multiple_of(256);
        assert!(self.next <= MEMORY);
        DIRECT + at
    }

    /// A page of its own.
    pub fn alloc_page(&mut self) -> u64 {
        self.next = self.next.next_multiple_of(4096);
        self.alloc(4096)
    }

    fn place(addr: u64) -> usize {
        let phys = if addr >= IMAGE { addr - IMAGE } else { addr - DIRECT };
        usize::try_from(phys).unwrap()
    }

    pub fn write(&mut self, addr: u64, bytes: &[u8]) {
        let at = Self::place(addr);
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub fn put(&mut self, addr: u64, value: u64) {
        self.write(addr, &value.to_le_bytes());
    }

    pub fn put32(&mut self, addr: u64, value: u32) {
        self.write(addr, &value.to_le_bytes());
    }

    pub fn get(&self, addr: u64) -> u64 {
        let at = Self::place(addr);
        u64::from_le_bytes(self.bytes[at..at + 8].try_into().unwrap())
    }

    pub fn page_flags(&mut self, pfn: u64, flags: u64) {
        self.put(DIRECT + MAP + pfn * 64, flags);
    }

    pub fn empty_list(&mut self, head: u64) {
        self.put(head, head);
        self.put(head + 8, head);
    }

    /// Adds a node at the end of a list.
    pub fn add_tail(&mut self, head: u64, node: u64) {
        let last = self.get(head + 8);
        self.put(last, node);
        self.put(node, head);
        self.put(node + 8, last);
        self.put(head + 8, node);
    }

    /// A list of so many nodes, each on a page of its own. Gives head and nodes.
    pub fn list(&mut self, count: usize) -> (u64, Vec<u64>) {
        let head = self.alloc(16);
        self.empty_list(head);
        let nodes: Vec<u64> = (0..count).map(|_| self.alloc_page()).collect();
        nodes.iter().for_each(|node| self.add_tail(head, *node));
        (head, nodes)
    }

    fn info(&self) -> String {
        let symbol = |name: &str| {
            let found = self.symbols.iter().find(|(_, n)| n == name);
            format!("SYMBOL({name})={:x}\n", found.unwrap().0)
        };
        let mut info = "OSRELEASE=test\nPAGESIZE=4096\nNUMBER(phys_base)=0\n\
                        NUMBER(pgtable_l5_enabled)=0\nSIZE(page)=64\n"
            .to_owned();
        for name in ["init_top_pgt", "_stext", "prb", "init_uts_ns"] {
            info += &symbol(name);
        }
        let at = |n: u64| IMAGE + KALLSYMS + n;
        for (name, addr) in [
            ("names", at(0x1000)),
            ("num_syms", at(0)),
            ("relative_base", at(8)),
            ("token_table", at(0x1_0000)),
            ("token_index", at(0x1_2000)),
            ("offsets", at(0x1_4000)),
        ] {
            info += &format!("SYMBOL(kallsyms_{name})={addr:x}\n");
        }
        info
    }

    /// Writes symbols and types, and ends the making.
    pub fn finish(mut self) -> (Ram, Vec<u8>) {
        let types = self.types.build();
        self.write(IMAGE + BTF, &types);
        assert!(BTF + types.len() as u64 <= MAP);
        self.symbols.insert((IMAGE + BTF, "__start_BTF".to_owned()));
        self.symbols.insert((IMAGE + BTF + types.len() as u64, "__stop_BTF".to_owned()));
        let list: Vec<(u64, &str)> = self.symbols.iter().map(|(a, n)| (*a, n.as_str())).collect();
        let tables = Symbols::new(Form::Relative, IMAGE, &list);
        let at = |n: u64| IMAGE + KALLSYMS + n;
        self.put32(at(0), tables.count);
        self.put(at(8), tables.base);
        self.write(at(0x1000), &tables.names);
        // Right before the tokens, or the order by name.
        let sequences = (u64::from(tables.count) * 3).next_multiple_of(8);
        let behind = (tables.markers.len() as u64).next_multiple_of(8)
            + if self.sequences { sequences } else { 0 };
        assert!(0x1000 + tables.names.len() as u64 + behind <= 0x1_0000);
        self.write(at(0x1_0000 - behind), &tables.markers);
        self.write(at(0x1_0000), &tables.tokens);
        self.write(at(0x1_2000), &tables.index);
        self.write(at(0x1_4000), &tables.addresses);
        let notes = note("VMCOREINFO", 0, self.info().as_bytes());
        (Ram::new(self.bytes), notes)
    }
}

/// The page that a kernel address lies on.
pub fn pfn(addr: u64) -> u64 {
    (if addr >= IMAGE { addr - IMAGE } else { addr - DIRECT }) / 4096
}

pub fn open<'m>(ram: &'m Ram, notes: &[u8]) -> Kernel<'m> {
    Kernel::open(ram, notes).unwrap()
}

/// An ELF note.
fn note(name: &str, kind: u32, desc: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for word in [name.len() as u32 + 1, desc.len() as u32, kind] {
        out.extend(word.to_le_bytes());
    }
    for part in [format!("{name}\0").as_bytes(), desc] {
        out.extend(part);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    out
}
