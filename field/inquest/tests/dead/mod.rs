//! A dead kernel in 16 MiB: page tables, symbols, types, and whatever a test puts into it.
//!
//! Types are declared by the test, with the places of their members, and go into the image
//! as BTF; nothing of the library under test is used to write what it reads.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "helpers of tests are tests too, and each test program uses its part"
)]

#[path = "../../../../capturer/sources/tests/machine/btf.rs"]
pub mod btf;
pub mod tree;
pub mod types;
pub mod world;

use std::collections::BTreeMap;

use lifeboat_inquest::{Hole, Machine, PAGE, Pfn, SwapDevice};

use btf::{Form, PTR, STRUCT, Symbols, Types};

pub const DIRECT: u64 = 0xffff_8880_0000_0000;
pub const IMAGE: u64 = 0xffff_ffff_8000_0000;
pub const VMEMMAP: u64 = 0xffff_ea00_0000_0000;
const MEMORY: u64 = 16 << 20;
/// Physical places: page tables, the image (4 MiB), `struct page`s, objects.
const TABLES: u64 = 0x10_0000;
const DATA: u64 = 0x20_0000;
const MAP: u64 = 0x60_0000;
const OBJECTS: u64 = 0x80_0000;

/// What a member is.
#[derive(Clone, Copy)]
pub enum Is {
    /// A number of so many bytes.
    Number(u32),
    /// Text of so many bytes.
    Text(u32),
    /// So many pointers.
    Pointers(u32),
    /// Another record.
    Record(&'static str),
    /// So many of another record.
    Records(&'static str, u32),
    /// So many bits, from this bit of the record on.
    Bits(u32),
}

/// Shorthands.
pub const P: Is = Is::Number(8);
pub const U4: Is = Is::Number(4);
pub const U2: Is = Is::Number(2);
pub const U1: Is = Is::Number(1);

#[derive(Default)]
pub struct Dead {
    pub ram: Vec<u8>,
    pub swaps: Vec<SwapDevice>,
    pub disks: Vec<Vec<u8>>,
    /// Pages that the dump lacks.
    pub lost: Vec<u64>,
    types: Types,
    ids: BTreeMap<String, (u32, u32)>,
    /// Place in bits, and size in bits.
    places: BTreeMap<String, (u64, u32)>,
    symbols: Vec<(u64, String)>,
    next: u64,
    image: u64,
}

impl Dead {
    pub fn new() -> Self {
        let mut this = Self {
            ram: vec![0; usize::try_from(MEMORY).unwrap()],
            types: Types::new(),
            next: OBJECTS,
            image: DATA + 0x1000,
            ..Self::default()
        };
        let top = DATA;
        let (direct, image, map) = (TABLES, TABLES + 0x1000, TABLES + 0x2000);
        this.word(top + 8 * ((DIRECT >> 39) & 511), direct | 0x67);
        this.word(direct, 0xe3);
        this.word(top + 8 * 511, image | 0x67);
        this.word(image + 8 * 510, (TABLES + 0x3000) | 0x67);
        for at in [DATA, DATA + 0x20_0000] {
            this.word(TABLES + 0x3000 + 8 * (at >> 21), at | 0xe3);
        }
        this.word(top + 8 * ((VMEMMAP >> 39) & 511), map | 0x67);
        this.word(map, (TABLES + 0x4000) | 0x67);
        this.word(TABLES + 0x4000, MAP | 0xe3);
        for (name, size) in [("char", 1), ("short", 2), ("int", 4), ("long", 8)] {
            let id = this.types.int(name, size);
            this.ids.insert(name.to_owned(), (id, size));
        }
        let void = this.types.plain(PTR, "", 0);
        this.ids.insert("*".to_owned(), (void, 8));
        this.record(
            "page",
            64,
            &[
                ("flags", P, 0),
                ("compound_head", P, 8),
                ("mapping", P, 24),
                ("index", P, 32),
                ("private", P, 40),
            ],
        );
        this.record(
            "rb_node",
            24,
            &[("__rb_parent_color", P, 0), ("rb_right", P, 8), ("rb_left", P, 16)],
        );
        this.record("rb_root", 8, &[("rb_node", P, 0)]);
        this.record("swp_entry_t", 8, &[("val", P, 0)]);
        this.record("xarray", 16, &[("xa_head", P, 8)]);
        this.record(
            "xa_node",
            576,
            &[
                ("shift", U1, 0),
                ("offset", U1, 1),
                ("count", U1, 2),
                ("slots", Is::Pointers(64), 40),
            ],
        );
        this
    }

    fn word(&mut self, phys: u64, value: u64) {
        self.raw(phys, &value.to_le_bytes());
    }

    fn raw(&mut self, phys: u64, bytes: &[u8]) {
        let at = usize::try_from(phys).unwrap();
        self.ram[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn phys(addr: u64) -> u64 {
        match addr {
            IMAGE.. => addr - IMAGE,
            VMEMMAP.. => addr - VMEMMAP + MAP,
            _ => addr - DIRECT,
        }
    }

    /// Declares a record; places are in bytes, in bits where any member is a bit field.
    pub fn record(&mut self, name: &str, size: u32, members: &[(&str, Is, u32)]) {
        let bitwise = members.iter().any(|(_, is, _)| matches!(is, Is::Bits(_)));
        let scale = if bitwise { 1 } else { 8 };
        let mut list = Vec::new();
        for (member, is, at) in members {
            let number = |size: u32| match size {
                1 => "char",
                2 => "short",
                4 => "int",
                _ => "long",
            };
            let (id, bit, bits, whole) = match *is {
                Is::Number(size) => (self.ids[number(size)].0, at * scale, 0, size * 8),
                Is::Text(len) => {
                    (self.types.array(self.ids["char"].0, len), at * scale, 0, len * 8)
                }
                Is::Pointers(n) => (self.types.array(self.ids["*"].0, n), at * scale, 0, n * 64),
                Is::Record(other) => (self.ids[other].0, at * scale, 0, self.ids[other].1 * 8),
                Is::Records(other, n) => {
                    let (id, size) = self.ids[other];
                    (self.types.array(id, n), at * scale, 0, size * n * 8)
                }
                Is::Bits(bits) => (self.ids["int"].0, *at, bits, bits),
            };
            self.places.insert(format!("{name}.{member}"), (u64::from(bit), whole));
            list.push((*member, id, bit, bits));
        }
        let id = if bitwise {
            self.types.bits(name, size, &list)
        } else {
            let plain: Vec<_> = list.iter().map(|(n, id, bit, _)| (*n, *id, *bit)).collect();
            self.types.record(STRUCT, name, size, &plain)
        };
        self.ids.insert(name.to_owned(), (id, size));
    }

    pub fn enumeration(&mut self, name: &str, values: &[(&str, i32)]) {
        self.types.enumeration(name, false, values);
    }

    /// Room for an object, zeroed, by its direct-map address.
    pub fn room(&mut self, len: u64, align: u64) -> u64 {
        let at = self.next.next_multiple_of(align);
        self.next = at + len;
        assert!(self.next <= MEMORY, "the machine is too small");
        DIRECT + at
    }

    /// A record, zeroed.
    pub fn object(&mut self, record: &str) -> u64 {
        let size = u64::from(self.ids[record].1);
        self.room(size, 64)
    }

    /// A free page.
    pub fn page(&mut self) -> Pfn {
        Pfn((self.room(PAGE as u64, PAGE as u64) - DIRECT) / PAGE as u64)
    }

    pub fn struct_page(pfn: Pfn) -> u64 {
        VMEMMAP + pfn.0 * 64
    }

    /// A variable of the image.
    pub fn variable(&mut self, name: &str, len: u64) -> u64 {
        let at = self.image.next_multiple_of(8);
        self.image = at + len;
        self.symbols.push((IMAGE + at, name.to_owned()));
        IMAGE + at
    }

    pub fn put(&mut self, addr: u64, value: u64) {
        self.word(Self::phys(addr), value);
    }

    pub fn bytes(&mut self, addr: u64, bytes: &[u8]) {
        self.raw(Self::phys(addr), bytes);
    }

    pub fn get(&self, addr: u64) -> u64 {
        let at = usize::try_from(Self::phys(addr)).unwrap();
        u64::from_le_bytes(self.ram[at..at + 8].try_into().unwrap())
    }

    /// A text somewhere.
    pub fn text(&mut self, text: &str) -> u64 {
        let at = self.room(text.len() as u64 + 1, 8);
        self.bytes(at, text.as_bytes());
        at
    }

    /// Address of a member; `path` is `record.member`.
    pub fn at(&self, object: u64, path: &str) -> u64 {
        object + self.places[path].0 / 8
    }

    /// Sets a member, a number or a bit field.
    pub fn set(&mut self, object: u64, path: &str, value: u64) {
        let (bit, bits) = self.places[path];
        let at = object + bit / 8;
        if bits.is_multiple_of(8) && bit.is_multiple_of(8) {
            let bytes = value.to_le_bytes();
            self.bytes(at, &bytes[..usize::try_from(bits / 8).unwrap()]);
        } else {
            let old = self.get(at);
            let mask = ((1u64 << bits) - 1) << (bit % 8);
            self.put(at, old & !mask | value << (bit % 8) & mask);
        }
    }

    /// An XArray at `array` with these pointers; indexes below 2^18.
    pub fn xarray(&mut self, array: u64, entries: &[(u64, u64)]) {
        let slots = self.at(0, "xa_node.slots");
        let top = self.object("xa_node");
        self.set(top, "xa_node.shift", 12);
        for (index, value) in entries {
            assert!(*index < 1 << 18);
            let mut node = top;
            for shift in [12u64, 6] {
                let slot = node + slots + (index >> shift & 63) * 8;
                if self.get(slot) == 0 {
                    let below = self.object("xa_node");
                    self.set(below, "xa_node.shift", shift - 6);
                    self.put(slot, below | 2);
                }
                node = self.get(slot) & !3;
            }
            self.put(node + slots + (index & 63) * 8, *value);
        }
        let head = self.at(array, "xarray.xa_head");
        self.put(head, top | 2);
    }

    /// Puts symbols and types into the image. Gives the notes.
    pub fn bury(&mut self) -> Vec<u8> {
        let types = self.types.build();
        let at = self.variable("__start_BTF", types.len() as u64);
        self.bytes(at, &types);
        self.variable("__stop_BTF", 8);
        // Right behind it, with nothing in between.
        let stop = at + types.len() as u64;
        self.symbols.last_mut().unwrap().0 = stop;
        let mut all: Vec<(u64, &str)> =
            self.symbols.iter().map(|(at, name)| (*at, name.as_str())).collect();
        // Two that VMCOREINFO knows as well.
        all.push((IMAGE + DATA, "init_top_pgt"));
        all.push((IMAGE + DATA + 8, "init_uts_ns"));
        all.sort_unstable();
        let tables = Symbols::new(Form::Relative, IMAGE, &all);
        let mut info = format!(
            "PAGESIZE=4096\nSYMBOL(init_top_pgt)={:x}\nNUMBER(phys_base)=0\n\
             NUMBER(pgtable_l5_enabled)=0\nSIZE(page)=64\nSYMBOL(init_uts_ns)={:x}\n",
            IMAGE + DATA,
            IMAGE + DATA + 8
        );
        let count = tables.count.to_le_bytes();
        let base = tables.base.to_le_bytes();
        for (name, bytes) in [
            ("names", tables.names.as_slice()),
            ("num_syms", &count),
            ("token_table", &tables.tokens),
            ("token_index", &tables.index),
            ("offsets", &tables.addresses),
            ("relative_base", &base),
        ] {
            let at = (self.image.next_multiple_of(8)) + IMAGE;
            self.image = at - IMAGE + bytes.len() as u64;
            assert!(self.image < MAP, "the image is too small");
            self.bytes(at, bytes);
            info += &format!("SYMBOL(kallsyms_{name})={at:x}\n");
        }
        let mut note = Vec::new();
        for word in [11, u32::try_from(info.len()).unwrap(), 0] {
            note.extend(word.to_le_bytes());
        }
        note.extend(b"VMCOREINFO\0\0");
        note.extend(info.bytes());
        note.resize(note.len().next_multiple_of(4), 0);
        note
    }
}

impl Machine for Dead {
    fn memory(&self, pfn: Pfn, out: &mut [u8; PAGE]) -> Result<(), Hole> {
        if self.lost.contains(&pfn.0) {
            return Err(Hole::Unreadable);
        }
        let at = usize::try_from(pfn.0).ok().and_then(|p| p.checked_mul(PAGE));
        let page = at.and_then(|at| self.ram.get(at..at.checked_add(PAGE)?));
        out.copy_from_slice(page.ok_or(Hole::NotCaptured)?);
        Ok(())
    }

    fn swap(&self, device: usize, page: u64, out: &mut [u8; PAGE]) -> Result<(), Hole> {
        let at = usize::try_from(page).ok().and_then(|p| p.checked_mul(PAGE));
        let disk = self.disks.get(device).ok_or(Hole::Malformed)?;
        let page = at.and_then(|at| disk.get(at..at.checked_add(PAGE)?));
        out.copy_from_slice(page.ok_or(Hole::NotCaptured)?);
        Ok(())
    }

    fn swaps(&self) -> &[SwapDevice] {
        &self.swaps
    }
}
