//! The page classifier against kernels that are not what they say, and against noise.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "a test may fail by panicking"
)]
mod machine;

use std::sync::LazyLock;

use lifeboat_format::Pfn;
use lifeboat_sources::vmcoreinfo::VmcoreInfo;
use lifeboat_sources::worth::{Class, Worth, WorthError, WorthReader};
use machine::{
    Kernel, MAP, Machine, NODE, OBJECT, PAGES, Page, ROOTS, Ram, SECTIONS, TEXT, USED, VMEMMAP,
};
use proptest::prelude::*;

/// Bytes to put at a physical address.
type Patch = (u64, Vec<u8>);

/// A machine with a page of each kind.
fn machine(kernel: Kernel) -> Machine {
    let mut m = Machine::new(kernel);
    let user =
        Page { flags: m.bits.lru | m.bits.swapbacked, mapping: OBJECT | 1, mapcount: 0, ..USED };
    m.free(0x400, 10);
    for pfn in (0x820..0x900).step_by(16) {
        m.free(pfn, 3);
        m.set(pfn + 8, user);
        m.set(pfn + 9, Page { flags: m.bits.lru, mapping: OBJECT, ..USED });
    }
    m.compound(0xa00, 512, user);
    m.huge(0xe00, 512);
    m
}

static OLD: LazyLock<Machine> = LazyLock::new(|| machine(Kernel::V6_1));
static NEW: LazyLock<Machine> = LazyLock::new(|| machine(Kernel::V6_12));

fn open(info: &str, ram: &mut Ram<'_>) -> Result<Worth, WorthError> {
    let opened = Worth::open(&VmcoreInfo::new(info.as_bytes()), ram);
    if let Err(e) = &opened {
        assert!(e.to_string().contains("\nhint: "), "{e}");
    }
    opened
}

/// `info` with the line that starts with `key=` set to `value`; without it for `None`.
fn with(info: &str, key: &str, value: Option<&str>) -> String {
    let mut hits = 0;
    let lines: Vec<String> = info
        .lines()
        .filter_map(|line| {
            if line.split_once('=').unwrap().0 != key {
                return Some(format!("{line}\n"));
            }
            hits += 1;
            value.map(|v| format!("{key}={v}\n"))
        })
        .collect();
    assert_eq!(hits, 1, "{key}");
    lines.concat()
}

#[test]
fn nothing_is_guessed() {
    for m in [&*OLD, &*NEW] {
        assert!(open(&m.info, &mut m.ram()).is_ok());
        for line in m.info.lines() {
            let key = line.split_once('=').unwrap().0;
            let opened = open(&with(&m.info, key, None), &mut m.ram());
            // What may be missing, and then means less is known or an older kernel.
            let optional = [
                "SYMBOL(prb)",
                "SYMBOL(init_uts_ns)",
                "NUMBER(MAX_PHYSMEM_BITS)",
                "NUMBER(pgtable_l5_enabled)",
                "NUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)",
                "NUMBER(PAGE_HUGETLB_MAPCOUNT_VALUE)",
                "NUMBER(HUGETLB_PAGE_DTOR)",
                "NUMBER(PG_hwpoison)",
                "OFFSET(page.compound_dtor)",
            ];
            assert_eq!(opened.is_ok(), optional.contains(&key), "{key}: {opened:?}");
        }
    }
}

#[test]
fn numbers_that_no_kernel_has_are_refused() {
    for (key, value) in [
        ("SIZE(page)", "0"),
        ("SIZE(page)", "4096"),
        ("SIZE(page)", "60"),
        ("OFFSET(page.flags)", "60"),
        ("OFFSET(page.flags)", "64"),
        ("OFFSET(page.flags)", "18446744073709551608"),
        ("OFFSET(page.mapping)", "40"), // where `private` is
        ("OFFSET(page._mapcount)", "50"),
        ("OFFSET(page._refcount)", "48"),
        ("NUMBER(PG_lru)", "64"),
        ("NUMBER(PG_lru)", "-1"),
        ("NUMBER(PG_lru)", "19"), // PG_swapbacked
        ("NUMBER(PG_head_mask)", "0"),
        ("NUMBER(PG_head_mask)", "3"),
        ("NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)", "-1"),
        ("NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)", "5"),
        ("NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)", "-257"), // offline
        ("NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)", "99999999999"),
        ("NUMBER(HUGETLB_PAGE_DTOR)", "256"),
        ("OFFSET(page.compound_dtor)", "64"),
        ("LENGTH(zone.free_area)", "0"),
        ("LENGTH(zone.free_area)", "12"),
        ("LENGTH(mem_section)", "0"),
        ("LENGTH(mem_section)", "8191"),
        ("SIZE(mem_section)", "0"),
        ("SIZE(mem_section)", "18446744073709551615"),
        ("OFFSET(mem_section.section_mem_map)", "16"),
        ("NUMBER(SECTION_SIZE_BITS)", "12"),
        ("NUMBER(SECTION_SIZE_BITS)", "63"),
        ("NUMBER(MAX_PHYSMEM_BITS)", "64"),
        ("SYMBOL(mem_section)", "ffffffffffffffff"),
        ("SYMBOL(mem_section)", "1000"),
        ("SIZE(zone)", "18446744073709551615"),
        ("OFFSET(pglist_data.nr_zones)", "8192"),
        ("SYMBOL(node_data)", "ffffffffffffffff"),
        ("SYMBOL(_stext)", "ffffffffffffffff"),
    ] {
        let opened = open(&with(&OLD.info, key, Some(value)), &mut OLD.ram());
        // By the number alone, before anything of the machine contradicts it.
        use WorthError::{NoSections, NoVmemmap, Nonsense, NotKernel};
        let late = matches!(
            opened,
            Ok(_) | Err(Nonsense { .. } | NotKernel { .. } | NoSections | NoVmemmap { .. })
        );
        assert!(!late, "{key}={value}: {opened:?}");
    }
}

/// What reads well but is another kernel's layout shows in the machine's memory.
#[test]
fn the_layout_of_another_kernel_is_refused() {
    for (m, key, value) in [
        // Free blocks of 6.1 looked for as 6.12 marks them, and the other way round.
        (&*OLD, "NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)", "-268435456"),
        (&*NEW, "NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)", "-129"),
        // The bit of PG_reserved taken for PG_lru, and for PG_swapbacked.
        (&*OLD, "NUMBER(PG_lru)", "12"),
        (&*NEW, "NUMBER(PG_swapbacked)", "13"),
        // Members moved by one word.
        (&*OLD, "OFFSET(page.flags)", "56"),
        (&*OLD, "OFFSET(page.private)", "32"),
        (&*OLD, "OFFSET(page.lru)", "32"),
        (&*NEW, "OFFSET(page._refcount)", "44"),
        (&*NEW, "OFFSET(page._mapcount)", "36"),
        // A larger struct page.
        (&*OLD, "SIZE(page)", "80"),
        (&*NEW, "SIZE(page)", "72"),
        // Lists elsewhere.
        (&*OLD, "OFFSET(zone.free_area)", "264"),
        (&*NEW, "SIZE(free_area)", "104"),
        // A kernel that has moved.
        (&*OLD, "NUMBER(phys_base)", "2097152"),
        (&*OLD, "SYMBOL(_stext)", "ffffffff82000000"),
    ] {
        let opened = open(&with(&m.info, key, Some(value)), &mut m.ram());
        assert!(opened.is_err(), "{key}={value}: {opened:?}");
    }
}

#[test]
fn a_damaged_machine_is_refused() {
    let le = |v: u64| v.to_le_bytes().to_vec();
    let lru = OLD.bits.lru;
    let text = |n: u64| Machine::place(TEXT / 4096 + n);
    let cases: Vec<(&str, Vec<Patch>)> = vec![
        ("no sections", vec![(SECTIONS, le(0)), (SECTIONS + 16, le(0))]),
        ("a root that is none", vec![(ROOTS, le(0x1000))]),
        ("text in the cache", vec![(text(8), le(lru))]),
        ("text that is not reserved", vec![(text(8), le(0))]),
        ("text that is free", vec![(text(8) + 48, le(u64::from(OLD.bits.buddy)))]),
        ("a node elsewhere", vec![(NODE + 8192, le(0))]),
        ("lists that lead elsewhere", vec![(NODE + 256 + 10 * 88 + 16, le(VMEMMAP + 12))]),
        // All cache, with a mapping that cannot be.
        (
            "nonsense in a sample",
            (0..1024)
                .map(|n| (Machine::place(n), [le(lru), le(0), le(0), le(4)].concat()))
                .collect(),
        ),
    ];
    for (what, patches) in cases {
        let mut ram = OLD.ram();
        ram.patches = patches;
        let opened = open(&OLD.info, &mut ram);
        assert!(opened.is_err(), "{what}: {opened:?}");
    }
    // The kernel's own tables: page tables, log, sections, nodes, struct pages.
    for at in [0x0200_0000, 0x0200_1000, ROOTS, 0x0200_2000, MAP + 0x2000 * 64] {
        let mut ram = OLD.ram();
        let cache = [le(lru), le(0), le(0), le(OBJECT)].concat();
        ram.patches = vec![(Machine::place(at / 4096), cache)];
        let opened = open(&OLD.info, &mut ram);
        assert!(matches!(opened, Err(WorthError::NotKernel { .. })), "{at:#x}: {opened:?}");
    }
}

#[test]
fn struct_pages_elsewhere_are_refused() {
    let at = |one: u64, other: u64| {
        let mut ram = OLD.ram();
        let le = |v: u64| (v | 0xf).to_le_bytes().to_vec();
        ram.patches = vec![(SECTIONS, le(one)), (SECTIONS + 16, le(other))];
        open(&OLD.info, &mut ram)
    };
    let other = VMEMMAP + (1 << 30);
    let two = WorthError::NoVmemmap { one: VMEMMAP, other };
    assert_eq!(at(VMEMMAP, other).unwrap_err(), two);
    for place in [0, VMEMMAP + 0x20_0000, 0xff10_0000_0000_0000, 0xffff_fe00_0000_0000, !0xfff] {
        let odd = WorthError::Odd { what: "vmemmap", value: place };
        assert_eq!(at(place, place).unwrap_err(), odd);
    }
}

#[test]
fn unreadable_tables_are_refused() {
    for at in [0x0200_0000, 0x0200_2000, ROOTS, SECTIONS, NODE, MAP + TEXT / 64] {
        let mut ram = OLD.ram();
        ram.bad = vec![at / 4096];
        let opened = open(&OLD.info, &mut ram);
        assert!(opened.is_err(), "{at:#x}: {opened:?}");
    }
}

/// Reads that one open may take, and one pass over memory: no table makes it loop.
const MOST_READS: u64 = 200_000;

/// Opens, and where that works, looks at all of memory, and checks what must hold.
fn try_all(info: &str, ram: &mut Ram<'_>) -> Option<Vec<Class>> {
    let opened = open(info, ram);
    assert!(ram.reads.get() < MOST_READS, "{} reads", ram.reads.get());
    let worth = opened.ok()?;
    ram.reads.set(0);
    Some(pass(&worth, ram))
}

/// Looks at all of memory and a little beyond.
fn pass(worth: &Worth, ram: &mut Ram<'_>) -> Vec<Class> {
    let mut out = vec![Class::Offline; usize::try_from(PAGES).unwrap() + 100];
    WorthReader::new(worth, &mut *ram).classes(Pfn(0), &mut out);
    assert!(ram.reads.get() < MOST_READS, "{} reads", ram.reads.get());
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever is asked for in whatever order, a page is what it is.
    #[test]
    fn any_window_gives_the_same(windows in proptest::collection::vec(
        (0u64..PAGES + 50, 0usize..3000), 1..20)) {
        let mut ram = NEW.ram();
        let whole = try_all(&NEW.info, &mut ram).unwrap();
        let worth = open(&NEW.info, &mut ram).unwrap();
        let mut reader = WorthReader::new(&worth, &mut ram);
        for (first, len) in windows {
            let at = usize::try_from(first).unwrap();
            let len = len.min(whole.len() - at);
            let mut out = vec![Class::Offline; len];
            reader.classes(Pfn(first), &mut out);
            prop_assert_eq!(&out, &whole[at..at + len]);
        }
    }

    /// Hostile struct pages: words that mean something, at places that matter.
    #[test]
    fn hostile_struct_pages(
        pages in proptest::collection::vec((0u64..PAGES, proptest::collection::vec(word(), 8)), 1..60)
    ) {
        for m in [&*OLD, &*NEW] {
            let mut ram = m.ram();
            ram.patches = pages
                .iter()
                .map(|(pfn, words)| {
                    (Machine::place(*pfn), words.iter().flat_map(|w| w.to_le_bytes()).collect())
                })
                .collect();
            if let Some(classes) = try_all(&m.info, &mut ram) {
                for (pfn, class) in (0u64..PAGES).zip(classes) {
                    check(m, &mut ram, pfn, class);
                }
            }
        }
    }

    #[test]
    fn hostile_vmcoreinfo(line in any::<prop::sample::Index>(), value in number(),
                          other in any::<prop::sample::Index>(), second in number()) {
        for m in [&*OLD, &*NEW] {
            let keys: Vec<&str> =
                m.info.lines().map(|l| l.split_once('=').unwrap().0).collect();
            let once = with(&m.info, keys[line.index(keys.len())], Some(&value));
            try_all(&once, &mut m.ram());
            try_all(&with(&once, keys[other.index(keys.len())], Some(&second)), &mut m.ram());
        }
    }

    /// Noise in page tables, sections, nodes and anywhere: from the start on, and from
    /// the moment on at which all was found sound.
    #[test]
    fn hostile_memory(patches in proptest::collection::vec((place(), word()), 1..12),
                      bad in proptest::collection::vec(place(), 0..3)) {
        let mut ram = NEW.ram();
        let worth = open(&NEW.info, &mut ram).unwrap();
        ram.patches = patches.iter().map(|(at, w)| (at & !7, w.to_le_bytes().to_vec())).collect();
        ram.bad = bad.iter().map(|at| at / 4096).collect();
        try_all(&NEW.info, &mut ram);
        ram.reads.set(0);
        pass(&worth, &mut ram);
    }
}

/// What must hold for every page, whatever its `struct page` says.
fn check(m: &Machine, ram: &mut Ram<'_>, pfn: u64, class: Class) {
    use lifeboat_sources::memory::PhysRead as _;
    let mut raw = [0; 64];
    ram.read_phys(lifeboat_format::PhysAddr(Machine::place(pfn)), &mut raw).unwrap();
    let word = |at: usize| u64::from_le_bytes(raw[at..at + 8].try_into().unwrap());
    let tail = word(8) & 1 == 1;
    let lru = word(0) & m.bits.lru != 0;
    match class {
        // In no list, used by nobody.
        Class::Free => assert!(word(48) >> 32 == 0 && !lru && !tail, "{pfn:#x}"),
        Class::Cache | Class::CachePrivate => {
            assert!(tail || (lru && word(24) & 3 == 0), "{pfn:#x}");
        }
        // The kernel's text and tables are reserved or in use as they were.
        _ => {}
    }
    if word(0) & m.bits.reserved != 0 && !tail && word(48) & 0x8000_0000 == 0 {
        let kept = [Class::Kernel, Class::Poison].contains(&class);
        let doubtful = kept || (class == Class::Huge && m.kernel == Kernel::V6_1);
        assert!(doubtful, "{pfn:#x} {class:?}");
    }
}

/// Addresses of this machine, with those that decide more often.
fn place() -> impl Strategy<Value = u64> {
    prop_oneof![
        0x0200_0000u64..0x0200_3000,
        MAP..MAP + PAGES * 64,
        0x0320_0000u64..0x0320_4000,
        ROOTS..ROOTS + 64,
        SECTIONS..SECTIONS + 64,
        NODE..NODE + 2048,
        NODE + 8192..NODE + 8200,
        Just(0x0320_a000u64),
        0..machine::MEMORY,
    ]
}

/// Words that a struct page or a table might hold.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        Just(0),
        Just(u64::MAX),
        0u64..16,
        (0u32..24).prop_map(|bit| 1 << bit),
        (0..PAGES).prop_map(|pfn| VMEMMAP + pfn * 64 + 1),
        (0..PAGES).prop_map(|pfn| VMEMMAP + pfn * 64 + 8),
        (0u64..4).prop_map(|low| OBJECT | low),
        place().prop_map(|at| at | 0xe3),
        prop::sample::select(vec![
            0xffff_ff7f_u64,
            0xf000_0000,
            0xf400_0000,
            0xffff_ffff,
            0xf500_0000
        ]),
    ]
}

fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<u64>().prop_map(|n| n.to_string()),
        any::<i64>().prop_map(|n| n.to_string()),
        (-300i64..300).prop_map(|n| n.to_string()),
        (0u32..64).prop_map(|n| (1u64 << n).to_string()),
        any::<u64>().prop_map(|n| format!("{n:x}")),
        (0u64..machine::MEMORY).prop_map(|n| format!("{:x}", 0xffff_8880_0000_0000 + n)),
        (0u64..0x0220_0000).prop_map(|n| format!("{:x}", 0xffff_ffff_8000_0000 + n)),
        Just("18446744073709551615".to_owned()),
        Just("-9223372036854775808".to_owned()),
        Just(String::new()),
    ]
}
