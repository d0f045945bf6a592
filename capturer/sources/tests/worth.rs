//! The page classifier against a small machine of which every page is known.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "a test may fail by panicking"
)]
mod machine;

use lifeboat_format::Pfn;
use lifeboat_sources::vmcoreinfo::VmcoreInfo;
use lifeboat_sources::worth::{Class, Layer, Worth, WorthError, WorthReader};
use machine::{Kernel, MAP, Machine, OBJECT, PAGES, Page, Ram, SECTIONS, USED, VMEMMAP};

const BOTH: [Kernel; 2] = [Kernel::V6_1, Kernel::V6_12];

fn open(machine: &Machine, ram: &mut Ram<'_>) -> Result<Worth, WorthError> {
    Worth::open(&VmcoreInfo::new(machine.info.as_bytes()), ram)
}

/// Every page's class, and how many were in doubt.
fn all(machine: &Machine) -> (Vec<Class>, u64) {
    let mut ram = machine.ram();
    let worth = open(machine, &mut ram).unwrap();
    let mut reader = WorthReader::new(&worth, &mut ram);
    let mut out = vec![Class::Free; usize::try_from(PAGES).unwrap()];
    reader.classes(Pfn(0), &mut out);
    (out, reader.doubts())
}

/// The classes that are not [`Class::Kernel`], as runs of pfns.
fn runs(classes: &[Class]) -> Vec<(Class, u64, u64)> {
    let mut out: Vec<(Class, u64, u64)> = Vec::new();
    for (pfn, class) in (0u64..).zip(classes) {
        match out.last_mut() {
            Some((last, _, end)) if last == class && *end == pfn => *end += 1,
            _ if *class == Class::Kernel => {}
            _ => out.push((*class, pfn, pfn + 1)),
        }
    }
    out
}

/// A machine with one free block, so that the free lists are not empty.
fn machine(kernel: Kernel) -> Machine {
    let mut m = Machine::new(kernel);
    m.free(0x400, 10);
    m
}

fn lru(m: &Machine, more: u64) -> Page {
    Page { flags: m.bits.lru | more, mapping: OBJECT, ..USED }
}

fn anon(m: &Machine) -> Page {
    Page { mapping: OBJECT | 1, mapcount: 0, ..lru(m, m.bits.swapbacked) }
}

#[test]
fn every_kind_of_page_is_told() {
    for kernel in BOTH {
        let mut m = machine(kernel);
        m.free(0x803, 0);
        m.set(0x900, anon(&m));
        m.set(0x902, Page { mapping: OBJECT | 3, ..anon(&m) }); // KSM
        m.set(0x904, Page { flags: 0, ..anon(&m) }); // not yet on a list
        m.set(0x906, Page { flags: m.bits.lru, ..anon(&m) }); // MADV_FREE
        let swapped = m.bits.swapbacked | m.bits.swapcache;
        m.set(0x908, Page { mapping: 0, ..lru(&m, swapped) });
        m.set(0x910, lru(&m, m.bits.swapbacked));
        m.set(0x912, Page { flags: m.bits.swapbacked, ..lru(&m, 0) });
        m.set(0x920, lru(&m, 0));
        m.set(0x922, Page { mapping: 0, ..lru(&m, 0) });
        m.set(0x924, lru(&m, m.bits.swapcache)); // PG_owner_priv_1 of a file system
        m.set(0x926, lru(&m, m.bits.private));
        m.set(0x930, Page { mapcount: m.bits.offline, ..USED });
        m.set(0x932, Page { mapcount: m.bits.table, ..USED });
        m.set(0x934, Page { mapping: OBJECT | 2, ..USED }); // zsmalloc
        m.set(0x936, Page { mapping: OBJECT, ..USED }); // perf's buffers
        m.set(0x938, Page { flags: m.bits.reserved, mapping: OBJECT | 1, ..USED });
        m.compound(0xa00, 512, anon(&m));
        m.compound(0xc00, 8, lru(&m, 0));
        m.compound(0xc08, 8, USED);
        m.huge(0xe00, 512);
        m.huge(0x2800, 2048);
        let (classes, doubts) = all(&m);
        let want = [
            (Class::Free, 0x400, 0x800),
            (Class::Free, 0x803, 0x804),
            (Class::Anon, 0x900, 0x901),
            (Class::Anon, 0x902, 0x903),
            (Class::Anon, 0x904, 0x905),
            (Class::Anon, 0x906, 0x907),
            (Class::SwapCache, 0x908, 0x909),
            (Class::Shmem, 0x910, 0x911),
            (Class::Shmem, 0x912, 0x913),
            (Class::Cache, 0x920, 0x921),
            (Class::Cache, 0x922, 0x923),
            (Class::Cache, 0x924, 0x925),
            (Class::CachePrivate, 0x926, 0x927),
            (Class::Offline, 0x930, 0x931),
            (Class::Anon, 0xa00, 0xc00),
            (Class::Cache, 0xc00, 0xc08),
            (Class::Huge, 0xe00, 0x1000),
            (Class::Huge, 0x2800, 0x3000),
        ];
        assert_eq!(runs(&classes), want, "{kernel:?}");
        assert_eq!(doubts, 0, "{kernel:?}");
    }
}

#[test]
fn layers_are_what_the_classes_say() {
    let mut m = machine(Kernel::V6_12);
    m.set(0x900, anon(&m));
    m.set(0x901, lru(&m, 0));
    let mut ram = m.ram();
    let worth = open(&m, &mut ram).unwrap();
    let mut layers = |first| {
        let mut classes = [Class::Offline; 4];
        WorthReader::new(&worth, &mut ram).classes(Pfn(first), &mut classes);
        classes.map(Class::layer)
    };
    assert_eq!(layers(0x8ff), [Layer::Kernel, Layer::User, Layer::Cache, Layer::Kernel]);
    assert_eq!(layers(0x7fe), [Layer::Free, Layer::Free, Layer::Kernel, Layer::Kernel]);
    let text = worth.describe().to_string();
    assert_eq!(
        text,
        "struct page of 64 bytes from 0xffffea0000000000 on, 2 sections; \
         checked 16384 pages (0 in doubt) and 1 free blocks; \
         without BTF: VMCOREINFO has no SYMBOL(kallsyms_names)"
    );
}

/// Slab, the kernel's whatever `mapping` and flags say: a flag in 6.1, a type in 6.12.
#[test]
fn slab_is_the_kernels() {
    for kernel in BOTH {
        let mut m = machine(kernel);
        let slab = match kernel {
            Kernel::V6_1 => Page { flags: 1 << 9, mapping: OBJECT | 1, ..USED },
            Kernel::V6_12 => Page { mapcount: 0xf500_0123, mapping: OBJECT | 1, ..USED },
        };
        m.compound(0x900, 8, slab);
        assert_eq!(runs(&all(&m).0), [(Class::Free, 0x400, 0x800)]);
    }
}

#[test]
fn a_free_block_that_cannot_be_is_the_kernels() {
    for kernel in BOTH {
        let mut m = machine(kernel);
        let buddy = Page { mapcount: m.bits.buddy, refcount: 0, ..USED };
        m.set(0x901, Page { private: 1, ..buddy }); // not at a multiple of two
        m.set(0xa00, Page { private: 11, ..buddy });
        m.set(0xc00, Page { private: u64::MAX, ..buddy });
        m.set(0xd00, Page { refcount: 1, ..buddy });
        m.set(0xe00, Page { flags: m.bits.lru, ..buddy });
        m.set(0xf00, Page { flags: m.bits.reserved, ..buddy });
        m.compound(0xf80, 2, buddy);
        let (classes, doubts) = all(&m);
        assert_eq!(runs(&classes), [(Class::Free, 0x400, 0x800)], "{kernel:?}");
        assert_eq!(doubts, 7);
    }
}

#[test]
fn an_order_beyond_the_kernels_own_is_the_kernels() {
    let mut m = machine(Kernel::V6_12);
    m.free(0x800, 9);
    let buddy = Page { mapcount: m.bits.buddy, refcount: 0, private: 10, ..USED };
    m.set(0xc00, buddy);
    // This kernel's largest order is 9; its list of order 10 is not looked at.
    m.info = m.info.replace("LENGTH(zone.free_area)=11", "LENGTH(zone.free_area)=10");
    let (classes, doubts) = all(&m);
    assert_eq!(runs(&classes), [(Class::Free, 0x800, 0xa00)]);
    assert_eq!(doubts, 2);
}

#[test]
fn a_page_in_use_within_a_free_block_is_the_kernels() {
    for kernel in BOTH {
        let mut m = machine(kernel);
        m.set(0x500, anon(&m));
        m.set(0x501, USED);
        m.set(0x502, Page { refcount: 0, mapcount: m.bits.buddy, ..USED });
        m.set(0x503, Page { refcount: 0, head: VMEMMAP + 0x500 * 64 + 1, ..USED });
        m.set(0x504, Page { refcount: 0, mapping: OBJECT, ..USED });
        let (classes, doubts) = all(&m);
        assert_eq!(
            runs(&classes),
            [(Class::Free, 0x400, 0x500), (Class::Free, 0x505, 0x800)],
            "{kernel:?}"
        );
        assert_eq!(doubts, 5);
    }
}

#[test]
fn a_tail_without_a_sound_head_is_the_kernels() {
    let mut m = machine(Kernel::V6_1);
    m.compound(0xa00, 512, anon(&m));
    let tail = |head: u64| Page { head: VMEMMAP.wrapping_add(head * 64) + 1, ..USED };
    m.set(0xa10, tail(0xa80)); // before its head
    m.set(0xa11, tail(0xa11)); // its own head
    m.set(0xa12, tail(0xa10)); // a tail of a tail
    m.set(0xc00, tail(0xa00)); // 513 pages on, and no compound page of 1024 begins there
    m.set(0xc10, tail(0x400)); // of a free block
    m.set(0xc20, tail(PAGES * 1000));
    m.set(0xc30, Page { head: VMEMMAP + 0xc00 * 64 + 9, ..USED }); // within a struct page
    m.set(0xa20, Page { head: VMEMMAP + 0xa00 * 64 + 9, ..USED });
    m.set(0xc40, Page { head: 1, ..USED });
    m.set(0xc50, Page { head: u64::MAX, ..USED });
    m.set(0xc60, tail(0xc00)); // of a page that is no head
    m.set(0x3000, tail(0)); // the head of another block is none
    let (classes, doubts) = all(&m);
    let want = [
        (Class::Free, 0x400, 0x800),
        (Class::Anon, 0xa00, 0xa10),
        (Class::Anon, 0xa13, 0xa20),
        (Class::Anon, 0xa21, 0xc00),
    ];
    assert_eq!(runs(&classes), want);
    assert_eq!(doubts, 12);
}

/// With `hugetlb_free_vmemmap`, the page that holds the first 64 `struct page`s of a
/// huge page is mapped for the others too: what reads as a second head is none.
#[test]
fn a_huge_page_that_shares_its_struct_pages() {
    for kernel in BOTH {
        let mut m = machine(kernel);
        m.huge(0xa00, 512);
        let first = usize::try_from(Machine::place(0xa00)).unwrap();
        let shared = m.ram[first..first + 4096].to_vec();
        for n in 1..8 {
            m.ram[first + n * 4096..first + (n + 1) * 4096].copy_from_slice(&shared);
        }
        let (classes, doubts) = all(&m);
        assert_eq!(runs(&classes), [(Class::Free, 0x400, 0x800), (Class::Huge, 0xa00, 0xc00)]);
        assert_eq!(doubts, 0);
    }
}

#[test]
fn what_cannot_be_read_is_the_kernels() {
    let mut m = machine(Kernel::V6_12);
    for pfn in 0x800..0x1000 {
        m.set(pfn, lru(&m, 0));
    }
    let mut ram = m.ram();
    let worth = open(&m, &mut ram).unwrap();
    // A page of struct pages in the free block, and one in the cache.
    ram.bad = vec![(MAP + 0x440 * 64) / 4096, (MAP + 0xc00 * 64) / 4096];
    let mut reader = WorthReader::new(&worth, &mut ram);
    let mut out = vec![Class::Offline; usize::try_from(PAGES).unwrap()];
    reader.classes(Pfn(0), &mut out);
    let want = [
        (Class::Free, 0x400, 0x440),
        (Class::Free, 0x480, 0x800),
        (Class::Cache, 0x800, 0xc00),
        (Class::Cache, 0xc40, 0x1000),
    ];
    assert_eq!(runs(&out), want);
    assert_eq!(reader.doubts(), 128);
}

#[test]
fn memory_without_a_section_is_the_kernels() {
    let mut m = machine(Kernel::V6_1);
    m.set(0x2900, lru(&m, 0));
    let mut ram = m.ram();
    let worth = open(&m, &mut ram).unwrap();
    let mut reader = WorthReader::new(&worth, &mut ram);
    for first in [PAGES - 1, PAGES, 1 << 34, (1 << 34) - 1, 1 << 52, u64::MAX - 1, u64::MAX] {
        // A block that is there comes before, so that its answer is not given again.
        reader.classes(Pfn(0x400), &mut [Class::Kernel; 1024]);
        let mut out = [Class::Free; 4000];
        reader.classes(Pfn(first), &mut out);
        assert_eq!(out, [Class::Kernel; 4000], "{first:#x}");
    }
    // The second section goes offline.
    let mut out = [Class::Free; 1];
    WorthReader::new(&worth, &mut ram).classes(Pfn(0x2900), &mut out);
    assert_eq!(out, [Class::Cache]);
    ram.patches.push((SECTIONS + 16, vec![0x0b]));
    WorthReader::new(&worth, &mut ram).classes(Pfn(0x2900), &mut out);
    assert_eq!(out, [Class::Kernel]);
}

#[test]
fn without_a_free_block_in_the_lists_none_is_believed() {
    let mut m = Machine::new(Kernel::V6_1);
    let buddy = Page { mapcount: m.bits.buddy, refcount: 0, private: 0, ..USED };
    m.set(0x900, buddy);
    m.set(0x902, lru(&m, 0));
    let mut ram = m.ram();
    let worth = open(&m, &mut ram).unwrap();
    assert!(worth.describe().to_string().contains("; free pages cannot be told; without BTF"));
    assert_eq!(worth.checked().lists, 0);
    assert_eq!(runs(&all(&m).0), [(Class::Cache, 0x902, 0x903)]);
}

#[test]
fn a_page_known_to_be_the_kernels_is_confirmed() {
    let m = machine(Kernel::V6_1);
    let mut ram = m.ram();
    let worth = open(&m, &mut ram).unwrap();
    assert_eq!(worth.confirm(&mut ram, Pfn(0x900)), Ok(()));
    let free = WorthError::NotKernel { what: "a note", pfn: 0x777 };
    assert_eq!(worth.confirm(&mut ram, Pfn(0x777)), Err(free));
}
