//! What is left out of the small machine, with VMCOREINFO and BTF as witnesses.
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
use lifeboat_format::exclude::{Exclude, Kind};
use lifeboat_sources::vmcoreinfo::VmcoreInfo;
use lifeboat_sources::worth::{
    BtfState, Class, Filter, Layer, NoBtf, Places, Verdict, Worth, WorthReader,
};
use machine::{DATA, Kernel, Machine, OBJECT, PAGES, Page, Ram, USED, VMEMMAP};
use proptest::prelude::*;

const BOTH: [Kernel; 2] = [Kernel::V6_1, Kernel::V6_12];

/// A page of each kind, at pfns that the tests know.
fn machine(kernel: Kernel) -> Machine {
    let mut m = Machine::new(kernel);
    m.free(0x400, 10);
    let lru = Page { flags: m.bits.lru, mapping: OBJECT, ..USED };
    let backed = Page { flags: m.bits.lru | m.bits.swapbacked, ..lru };
    let anon = Page { mapping: OBJECT | 1, mapcount: 0, ..backed };
    m.set(0x900, anon);
    m.set(0x901, backed);
    m.set(0x902, lru);
    m.set(0x903, Page { flags: lru.flags | m.bits.private, ..lru });
    m.set(0x904, Page { mapcount: m.bits.offline, ..USED });
    m.set(0x905, Page { flags: m.bits.hwpoison, ..USED });
    m.set(0x906, Page { flags: backed.flags | m.bits.swapcache, mapping: 0, ..USED });
    m.huge(0xa00, 512);
    m
}

static OLD: LazyLock<Machine> = LazyLock::new(|| machine(Kernel::V6_1).with_btf(&[]));
static NEW: LazyLock<Machine> = LazyLock::new(|| machine(Kernel::V6_12).with_btf(&[]));

fn open(m: &Machine, ram: &mut Ram<'_>) -> Worth {
    Worth::open(&VmcoreInfo::new(m.info.as_bytes()), ram).unwrap()
}

fn parse(text: &str) -> Exclude {
    Exclude::parse(text).unwrap()
}

/// The classes of which pages are left out.
fn out(m: &Machine, exclude: Exclude) -> Vec<Class> {
    let filter = Filter::new(&open(m, &mut m.ram()), exclude);
    let out = |c: &Class| filter.verdict(*c) == Verdict::Excluded;
    Class::ALL.into_iter().filter(out).collect()
}

/// Without the line that starts with `key=`.
fn without(info: &str, key: &str) -> String {
    let other = |l: &&str| l.split_once('=').unwrap().0 != key;
    info.lines().filter(other).map(|l| format!("{l}\n")).collect()
}

#[test]
fn each_word_means_its_dump_level() {
    use Class::{Anon, Cache, CachePrivate, Free, Huge, Offline, Poison, Shmem, SwapCache};
    for m in [&*OLD, &*NEW] {
        for (words, want) in [
            ("zero", vec![Poison]),
            ("free", vec![Free, Poison]),
            ("cache", vec![Cache, Poison]),
            ("cache-private", vec![Cache, CachePrivate, Poison]),
            ("user", vec![Anon, Huge, Poison]),
            ("offline", vec![Offline, Poison]),
            ("hwpoison", vec![Poison]),
            ("user,cache", vec![Anon, Shmem, Huge, Cache, SwapCache, Poison]),
        ] {
            assert_eq!(out(m, parse(words)), want, "{words}");
        }
        let all = Kind::ALL.into_iter().fold(Exclude::NOTHING, Exclude::with);
        assert_eq!(out(m, all).len(), Class::ALL.len() - 1, "all but the kernel's own");
    }
}

#[test]
fn pages_get_the_verdict_of_their_class() {
    for m in [&*OLD, &*NEW] {
        let mut ram = m.ram();
        let worth = open(m, &mut ram);
        let mut places = Places::new(&worth, parse("user,free,hwpoison"), &mut ram);
        let mut out = [Verdict::Excluded; 9];
        places.places(Pfn(0x8ff), &mut out);
        let kept = Verdict::Layer;
        let want = [
            kept(Layer::Kernel),
            Verdict::Excluded,
            kept(Layer::User),
            kept(Layer::Cache),
            kept(Layer::Cache),
            kept(Layer::Kernel),
            Verdict::Excluded,
            kept(Layer::User),
            kept(Layer::Kernel),
        ];
        assert_eq!(out, want);
        let mut out = [kept(Layer::Kernel); 4];
        places.places(Pfn(0x3fe), &mut out);
        assert_eq!(out[..2], [kept(Layer::Kernel); 2]);
        assert_eq!(out[2..], [Verdict::Excluded; 2]);
        assert_eq!(places.doubts(), 0);
    }
}

#[test]
fn a_layer_of_which_nothing_is_kept_need_not_be_walked() {
    let worth = open(&NEW, &mut NEW.ram());
    let keeps = |words: &str| {
        let filter = Filter::new(&worth, parse(words));
        [Layer::Kernel, Layer::User, Layer::Cache, Layer::Free].map(|l| filter.keeps(l))
    };
    assert_eq!(keeps("zero"), [true; 4]);
    assert_eq!(keeps("free,hwpoison,offline"), [true, true, true, false]);
    // Shared memory stays in the one, private cache in the other.
    assert_eq!(keeps("user,free"), [true, true, true, false]);
    assert_eq!(keeps("user,cache"), [true, false, true, true]);
    assert_eq!(keeps("cache-private"), [true, true, false, true]);
    assert_eq!(keeps("free,cache-private,user"), [true, false, false, false]);
    assert!(Filter::new(&worth, parse("free")).keeps(Layer::Address));
}

#[test]
fn both_witnesses_agree_and_that_is_said() {
    for (m, added) in [(&*OLD, 7), (&*NEW, 7)] {
        let worth = open(m, &mut m.ram());
        let BtfState::Agrees { confirmed, added: a } = worth.btf() else {
            panic!("{}", worth.btf())
        };
        assert!(confirmed >= 24, "{confirmed}");
        assert_eq!(a, added);
        // PG_swapcache and the poison are not looked at; of 4 pages each has its owner.
        let owners = worth.owners();
        assert_eq!((owners.files.good, owners.files.all), (2, 2));
        assert_eq!((owners.anon.good, owners.anon.all), (1, 1));
        let text = worth.describe().to_string();
        assert!(text.ends_with("; 3 of 3 pages lead to their owners"), "{text}");
        assert_eq!(
            Filter::new(&worth, parse("free,cache")).to_string(),
            "left out: zero,free,cache,hwpoison"
        );
    }
}

/// Each number that decides, put differently by BTF: nothing is left out, not even what
/// that number does not touch, and the line says what differs. The order goes on.
#[test]
fn a_contradiction_keeps_everything() {
    for m in BOTH {
        let plain = machine(m);
        let mut tried = 0;
        for line in plain.info.lines() {
            let (key, value) = line.split_once('=').unwrap();
            let known = ["SIZE(page)", "SIZE(zone)", "LENGTH(zone.free_area)"].contains(&key)
                || key.starts_with("OFFSET(page.") && key != "OFFSET(page.compound_dtor)"
                || key.starts_with("NUMBER(PG_") && key != "NUMBER(PG_head_mask)"
                || key == "OFFSET(zone.free_area)";
            if !known {
                continue;
            }
            tried += 1;
            // Another number that could be.
            let other = if key.starts_with("OFFSET(page.") { 96 } else { 1 };
            let other = value.parse::<i64>().unwrap() + other;
            let m = machine(m).with_btf(&[(key, Some(other))]);
            let worth = open(&m, &mut m.ram());
            let name = key.split(['(', ')']).nth(1).unwrap();
            let BtfState::Contradicts { what, info, btf } = worth.btf() else {
                panic!("{key}: {}", worth.btf())
            };
            assert_eq!((what, info.to_string().as_str(), btf), (name, value, other));
            let filter = Filter::new(&worth, parse("free,user,cache-private,hwpoison,offline"));
            assert!(Class::ALL.iter().all(|c| filter.verdict(*c) == Verdict::Layer(c.layer())));
            assert_eq!(filter.excludes(), Exclude::NOTHING);
            let text = filter.to_string();
            assert!(
                text.starts_with("left out: zero; all of zero,free,cache,cache-private,user")
                    && text.contains(&format!("BTF contradicts VMCOREINFO: {name} is ")),
                "{text}"
            );
        }
        assert!(tried >= 14, "{tried}");
        // What only the machine's own text says.
        let m = machine(m).with_btf(&[("PG_reserved", Some(11))]);
        let worth = open(&m, &mut m.ram());
        assert!(
            matches!(worth.btf(), BtfState::Contradicts { what: "PG_reserved", btf: 11, .. }),
            "{}",
            worth.btf()
        );
    }
}

/// What VMCOREINFO lacks, BTF knows.
#[test]
fn btf_stands_in_for_what_vmcoreinfo_lacks() {
    for m in [&*OLD, &*NEW] {
        let mut want = vec![Class::Kernel; usize::try_from(PAGES).unwrap()];
        let worth = open(m, &mut m.ram());
        WorthReader::new(&worth, &mut m.ram()).classes(Pfn(0), &mut want);
        for key in [
            "SIZE(page)",
            "OFFSET(page.flags)",
            "OFFSET(page.lru)",
            "OFFSET(page.private)",
            "OFFSET(page.compound_head)",
            "OFFSET(mem_section.section_mem_map)",
            "OFFSET(zone.free_area)",
            "LENGTH(zone.free_area)",
            "SIZE(free_area)",
            "NUMBER(PG_lru)",
            "NUMBER(PG_hwpoison)",
            "NUMBER(PG_head_mask)",
        ] {
            // The line stays where BTF is made of it, and goes where it is read.
            let info = without(&m.info, key);
            let mut ram = m.ram();
            let worth = Worth::open(&VmcoreInfo::new(info.as_bytes()), &mut ram);
            let worth = worth.unwrap_or_else(|e| panic!("{key}: {e}"));
            let mut got = vec![Class::Kernel; want.len()];
            WorthReader::new(&worth, &mut ram).classes(Pfn(0), &mut got);
            assert!(got == want, "{key}");
        }
        let info = without(&m.info, "NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)");
        let opened = Worth::open(&VmcoreInfo::new(info.as_bytes()), &mut m.ram());
        // A page type is in BTF where it is an enumerator.
        assert_eq!(opened.is_ok(), m.kernel == Kernel::V6_12);
    }
}

/// Damage to symbols and types costs them alone; VMCOREINFO decides as ever.
#[test]
fn without_sound_btf_vmcoreinfo_stands_alone() {
    let cases: [(&str, u64, Vec<u8>); 6] = [
        ("BTF's magic is 0x0", DATA + 0x2_0000, vec![0; 2]),
        ("BTF's version is 0x200", DATA + 0x2_0002, vec![2]),
        ("is of kind 31, which is not known", DATA + 0x2_0018 + 7, vec![31]),
        ("kallsyms: number of symbols is 0x0", DATA + 0x1_8000, vec![0; 4]),
        ("kallsyms puts", DATA + 0x1_8008, vec![0x55; 8]),
        ("kallsyms: a name is", DATA + 0x1_0000, vec![0]),
    ];
    for m in [&*OLD, &*NEW] {
        for (what, at, bytes) in &cases {
            let mut ram = m.ram();
            ram.patches = vec![(*at, bytes.clone())];
            let worth = open(m, &mut ram);
            let text = worth.describe().to_string();
            assert!(text.contains("; without BTF: ") && text.contains(what), "{what}: {text}");
            assert!(!text.contains('\n'), "{text}");
            let filter = Filter::new(&worth, parse("free,user,cache,offline"));
            assert_eq!(filter.to_string(), "left out: zero,free,cache,user,offline,hwpoison");
        }
        // A page of it that the machine lost.
        let mut ram = m.ram();
        ram.bad = vec![(DATA + 0x1_0000) / 4096];
        let worth = open(m, &mut ram);
        assert!(matches!(worth.btf(), BtfState::Missing(NoBtf::Symbols(_))), "{}", worth.btf());
    }
    let m = machine(Kernel::V6_12);
    let info = m.with_btf(&[]);
    let without = without(&info.info, "SYMBOL(kallsyms_offsets)");
    let worth = Worth::open(&VmcoreInfo::new(without.as_bytes()), &mut info.ram()).unwrap();
    let text = worth.btf().to_string();
    assert_eq!(text, "without BTF: VMCOREINFO has no SYMBOL(kallsyms_addresses)");
}

/// Pages that do not lead to an owner who knows them are not what they seem.
#[test]
fn pages_without_owners_are_kept() {
    for m in [&*OLD, &*NEW] {
        let object = OBJECT - machine::DIRECT_MAP;
        let mut ram = m.ram();
        ram.patches = vec![(object, vec![0; 8])];
        let worth = open(m, &mut ram);
        let filter = Filter::new(&worth, parse("free,cache-private,user"));
        assert_eq!(
            filter.to_string(),
            "left out: zero,free,user,hwpoison; cache is kept: its pages do not lead to their files"
        );
        assert_eq!(filter.verdict(Class::CachePrivate), Verdict::Layer(Layer::Cache));
        assert_eq!(filter.verdict(Class::Shmem), Verdict::Layer(Layer::User));
        ram.patches = vec![(object + 8, 7u64.to_le_bytes().to_vec())];
        let filter = Filter::new(&open(m, &mut ram), parse("free,cache,user"));
        assert_eq!(
            filter.to_string(),
            "left out: zero,free,cache,hwpoison; user is kept: its pages do not lead to their owners"
        );
    }
}

#[test]
fn what_cannot_be_told_is_kept_and_said() {
    let mut m = machine(Kernel::V6_1);
    // No free block in the lists: none is believed.
    m = Machine { info: without(&m.info, "NUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)"), ..m };
    let mut empty = Machine::new(Kernel::V6_1);
    empty.info = m.info;
    let filter = Filter::new(&open(&empty, &mut empty.ram()), Exclude::DEFAULT);
    assert_eq!(
        filter.to_string(),
        "left out: zero,hwpoison; free is kept: the allocator's lists hold no free block; \
         offline is kept: nothing tells such pages"
    );
    assert_eq!(filter.verdict(Class::Free), Verdict::Layer(Layer::Free));
}

/// A flag that VMCOREINFO does not name is enough to doubt that a page is free.
#[test]
fn with_btf_a_free_page_has_no_flag_at_all() {
    for kernel in BOTH {
        let mut m = machine(kernel);
        // Bit 3 or so: locked, dirty, whatever it is.
        m.set(0x480, Page { flags: 1 << 3, refcount: 0, ..USED });
        // The first page of a block may be reported to the hypervisor, and no other.
        m.put(Machine::place(0x400), 1 << 2);
        m.set(0x490, Page { flags: 1 << 2, refcount: 0, ..USED });
        // Node and zone stand above the flags.
        m.set(0x4a0, Page { flags: 0x0017_ffff_c000_0000 & !0xff_ffff, refcount: 0, ..USED });
        m = m.with_btf(&[]);
        let mut ram = m.ram();
        let worth = open(&m, &mut ram);
        let mut classes = [Class::Offline; 0x400];
        WorthReader::new(&worth, &mut ram).classes(Pfn(0x400), &mut classes);
        let kernel: Vec<usize> =
            (0..0x400).filter(|n| classes[*n] == Class::Kernel).map(|n| n + 0x400).collect();
        assert_eq!(kernel, [0x480, 0x490]);
        assert!(classes.iter().all(|c| [Class::Kernel, Class::Free].contains(c)));
    }
}

#[test]
fn faulty_pages_are_known_wherever_they_are() {
    for kernel in BOTH {
        let mut m = machine(kernel);
        let poison = m.bits.hwpoison;
        // Within a free block, in the cache, the kernel's own.
        m.set(0x444, Page { flags: poison, refcount: 0, ..USED });
        m.set(0x910, Page { flags: m.bits.lru | poison, mapping: OBJECT, ..USED });
        // The first page of a compound page alone, one of its others alone.
        let anon = Page { flags: m.bits.lru | m.bits.swapbacked, mapping: OBJECT | 1, ..USED };
        m.compound(0xc00, 8, Page { flags: anon.flags | poison, ..anon });
        m.compound(0xc08, 8, anon);
        let tail = Page { head: VMEMMAP + 0xc08 * 64 + 1, refcount: 0, ..USED };
        m.set(0xc0b, Page { flags: poison, ..tail });
        // A hugetlb page is marked on its first page, whichever it is of: in its own
        // block, and in that of another.
        m.huge(0xe00, 512);
        m.huge(0x2800, 2048);
        for head in [0xe00, 0x2800] {
            let at = usize::try_from(Machine::place(head)).unwrap();
            let flags = u64::from_le_bytes(m.ram[at..at + 8].try_into().unwrap());
            m.put(Machine::place(head), flags | poison);
        }
        let mut ram = m.ram();
        // Marks count, not the pages of the hugetlb pages: those are more than a machine has
        // that ran.
        let worth = open(&m, &mut ram);
        let mut classes = vec![Class::Offline; usize::try_from(PAGES).unwrap()];
        WorthReader::new(&worth, &mut ram).classes(Pfn(0), &mut classes);
        let poisoned: Vec<usize> =
            (0..classes.len()).filter(|n| classes[*n] == Class::Poison).collect();
        let mut want = vec![0x444, 0x905, 0x910, 0xc00, 0xc0b];
        want.extend(0xe00..0x1000);
        want.extend(0x2800..0x3000);
        assert_eq!(poisoned, want, "{kernel:?}");
        assert!((0xc01..0xc08).all(|n| classes[n] == Class::Anon));
        assert_eq!((classes[0xc0a], classes[0xc0c]), (Class::Anon, Class::Anon));
        assert_eq!((classes[0x443], classes[0x445]), (Class::Free, Class::Free));
        // A machine of which one page in a hundred is marked did not run: its flag is another.
        let marks = PAGES / 100;
        (0x1800..0x1800 + marks).for_each(|pfn| m.set(pfn, Page { flags: poison, ..USED }));
        let info = VmcoreInfo::new(m.info.as_bytes());
        let said = Worth::open(&info, &mut m.ram()).unwrap_err().to_string();
        let want = format!("{} of {PAGES} pages without a fault are not what", marks + 7);
        assert!(said.contains(&want), "{said}");
    }
}

/// Reads that one open may take, whatever symbols and types say.
const MOST_READS: u64 = 400_000;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Noise in symbols and types: a bounded number of reads, and VMCOREINFO's verdicts or
    /// none at all.
    #[test]
    fn hostile_symbols_and_types(
        patches in proptest::collection::vec((0u64..0x1_2000, any::<u64>()), 1..8),
        small in proptest::collection::vec((0u64..0x1_2000, any::<u8>()), 0..8),
    ) {
        for m in [&*OLD, &*NEW] {
            let mut ram = m.ram();
            ram.patches = patches
                .iter()
                .map(|(at, w)| (DATA + 0x1_0000 + at, w.to_le_bytes().to_vec()))
                .chain(small.iter().map(|(at, b)| (DATA + 0x1_0000 + at, vec![*b])))
                .collect();
            let info = VmcoreInfo::new(m.info.as_bytes());
            let worth = Worth::open(&info, &mut ram);
            prop_assert!(ram.reads.get() < MOST_READS, "{} reads", ram.reads.get());
            // What BTF alone knows may make free pages doubtful, and no more.
            let Ok(worth) = worth else { continue };
            let mut got = vec![Class::Offline; usize::try_from(PAGES).unwrap()];
            WorthReader::new(&worth, &mut ram).classes(Pfn(0), &mut got);
            let mut want = vec![Class::Offline; got.len()];
            WorthReader::new(&open(m, &mut m.ram()), &mut m.ram()).classes(Pfn(0), &mut want);
            for (pfn, (got, want)) in got.iter().zip(&want).enumerate() {
                prop_assert!(got == want || *got == Class::Kernel, "{:#x} {:?}", pfn, got);
            }
        }
    }
}
