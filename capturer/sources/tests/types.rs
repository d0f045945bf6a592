//! BTF and kallsyms, from tables that the tests write, and from noise.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "a test may fail by panicking"
)]
mod machine;

use std::cell::Cell;

use lifeboat_sources::btf::{Array, Btf, BtfError, Hits, Kind, MAX_NAME, Place};
use lifeboat_sources::kallsyms::{Kallsyms, KallsymsError};
use lifeboat_sources::paging::{Image, PagingError, ReadVirt};
use lifeboat_sources::vmcoreinfo::VmcoreInfo;
use machine::btf::{CONST, FWD, Form, PTR, STRUCT, Symbols, TYPEDEF, Types, UNION};
use proptest::prelude::*;

const BASE: u64 = 0xffff_ffff_8260_0123;

/// Counts reads.
struct Counted<'a>(Image<'a>, &'a Cell<u64>);

impl ReadVirt for Counted<'_> {
    fn read_virt(&mut self, addr: u64, buf: &mut [u8]) -> Result<(), PagingError> {
        self.1.set(self.1.get() + 1);
        self.0.read_virt(addr, buf)
    }
}

/// More than ten times what was seen, and far below one for each type or member.
const MOST_READS: u64 = 200;

fn open(bytes: &[u8]) -> Result<Btf<Image<'_>>, BtfError> {
    Btf::open(Image { base: BASE, bytes }, BASE, bytes.len() as u64)
}

/// A struct with everything in it, among others.
fn types() -> Types {
    let mut t = Types::new();
    let int = t.int("int", 4);
    let long = t.int("long unsigned int", 8);
    let pointer = t.plain(PTR, "", 0);
    for n in 0..300 {
        t.record(STRUCT, &format!("other{n}"), 8, &[("lru", long, 0)]);
    }
    let inner = t.record(STRUCT, "", 16, &[("deep", long, 64), ("shared", long, 0)]);
    let name = t.plain(TYPEDEF, "inner_t", inner);
    let read_only = t.plain(CONST, "", name);
    let array = t.array(long, 3);
    let both = t.array(array, 5);
    let union = t.record(UNION, "", 16, &[("one", long, 0), ("", read_only, 0), ("two", int, 0)]);
    t.record(
        STRUCT,
        "page",
        200,
        &[("flags", long, 0), ("", union, 64), ("next", pointer, 192), ("grid", both, 256)],
    );
    t.bits("bits", 8, &[("low", int, 0, 3), ("high", int, 3, 5), ("whole", long, 64, 0)]);
    t.enumeration("pageflags", false, &[("PG_locked", 0), ("PG_lru", 4), ("__NR_PAGEFLAGS", 25)]);
    t.enumeration("signed", true, &[("MINUS", -5)]);
    t.enumeration64("wide", &[("BIG", 1 << 40), ("NEGATIVE", -(1 << 40))]);
    t.plain(FWD, "elsewhere", 0);
    t.record(STRUCT, "twice", 4, &[]);
    t.record(STRUCT, "twice", 8, &[]);
    t
}

#[test]
fn types_members_and_values_are_found() {
    let bytes = types().build();
    let mut btf = open(&bytes).unwrap();
    let wanted = [
        (Kind::Struct, "page"),
        (Kind::Struct, "bits"),
        (Kind::Enum, "pageflags"),
        (Kind::Enum, "signed"),
        (Kind::Enum, "wide"),
        (Kind::Struct, "twice"),
        (Kind::Union, "page"),
        (Kind::Struct, "elsewhere"),
        (Kind::Fwd, "elsewhere"),
        (Kind::Struct, "pag"),
        (Kind::Struct, ""),
    ];
    let hits = btf.find(&wanted).unwrap();
    let only: Vec<bool> = hits.iter().map(|h| h.only().is_some()).collect();
    assert_eq!(only, [true, true, true, true, true, false, false, false, true, false, false]);
    assert_eq!((hits[5].count, hits[6]), (2, Hits::default()));
    let [page, bits, flags, signed, wide] = [0, 1, 2, 3, 4].map(|n| hits[n].first);

    let mut byte = |name| btf.member(page, name).unwrap().and_then(Place::byte);
    assert_eq!(byte("flags"), Some(0));
    // Within records without a name, one behind a typedef and `const`.
    assert_eq!(
        (byte("one"), byte("two"), byte("shared"), byte("deep")),
        (Some(8), Some(8), Some(8), Some(16))
    );
    assert_eq!((byte("next"), byte("lru"), byte(""), byte("fla")), (Some(24), None, None, None));

    let grid = btf.member(page, "grid").unwrap().unwrap();
    let ty = btf.by_id(grid.ty).unwrap();
    let Array { element, length } = btf.array(&ty).unwrap().unwrap();
    assert_eq!((length, btf.size(element).unwrap()), (5, Some(24)));
    assert_eq!((btf.size(grid.ty).unwrap(), btf.size(page).unwrap()), (Some(120), Some(200)));
    assert_eq!(btf.size(3).unwrap(), Some(8), "a pointer");
    assert_eq!((btf.size(0).unwrap(), btf.bare(0).unwrap()), (None, None), "void");

    let low = btf.member(bits, "high").unwrap().unwrap();
    assert_eq!((low.bit, low.bits, low.byte()), (3, 5, None));
    let whole = btf.member(bits, "whole").unwrap().unwrap();
    assert_eq!((whole.bits, whole.byte()), (0, Some(8)));

    assert_eq!(btf.enumerator(flags, "PG_lru").unwrap(), Some(4));
    assert_eq!(btf.enumerator(flags, "PG_none").unwrap(), None);
    assert_eq!(btf.enumerator(signed, "MINUS").unwrap(), Some(-5));
    assert_eq!(btf.enumerator(wide, "BIG").unwrap(), Some(1 << 40));
    assert_eq!(btf.enumerator(wide, "NEGATIVE").unwrap(), Some(-(1 << 40)));
    assert!(btf.enumerator(page, "PG_lru").is_err(), "a struct has no enumerators");
    assert!(btf.member(flags, "PG_lru").is_err(), "an enumeration has no members");
}

#[test]
fn each_type_is_found_by_its_number_as_the_walk_gives_it() {
    let bytes = types().build();
    let mut btf = open(&bytes).unwrap();
    let mut all = Vec::new();
    btf.walk(|ty| all.push(*ty)).unwrap();
    assert_eq!(btf.count().unwrap() as usize, all.len());
    for ty in all.iter().rev() {
        assert_eq!(btf.by_id(ty.id).unwrap(), *ty);
    }
    let last = all.last().unwrap();
    assert_eq!(btf.name(last.name).unwrap(), "twice");
    assert_eq!(btf.name(0).unwrap(), "");
    for id in [0, last.id + 1, u32::MAX] {
        assert_eq!(btf.by_id(id).unwrap_err(), BtfError::NoType { id });
    }
    assert!(btf.name(u32::MAX).is_err());
}

#[test]
fn names_and_types_longer_than_a_window() {
    let mut t = Types::new();
    let long = t.int("long", 8);
    let hostile = "x".repeat(200_000);
    t.record(STRUCT, &hostile, 8, &[]);
    let names: Vec<String> = (0..20_000).map(|n| format!("member{n}")).collect();
    let members: Vec<(&str, u32, u32)> =
        (0..9000u32).map(|n| (names[n as usize].as_str(), long, n * 64)).collect();
    let big = t.record(STRUCT, "big", 8 * 9000, &members);
    let last = t.record(STRUCT, "behind", 8, &[]);
    let bytes = t.build();
    let mut btf = open(&bytes).unwrap();
    let wanted = [(Kind::Struct, "big"), (Kind::Struct, "behind"), (Kind::Struct, &*hostile)];
    let hits = btf.find(&wanted).unwrap();
    assert_eq!((hits[0].only(), hits[1].only(), hits[2].only()), (Some(big), Some(last), None));
    let place = btf.member(big, "member8999").unwrap().unwrap();
    assert_eq!(place.byte(), Some(8 * 8999));
    let name = btf.by_id(2).unwrap().name;
    assert_eq!(btf.name(name), Err(BtfError::Name { offset: name }), "over {MAX_NAME} bytes");
}

#[test]
fn circles_end() {
    let mut t = Types::new();
    let long = t.int("long", 8);
    // Types 2 and 3 are names of each other; 4 has itself within; 5 has two of itself.
    t.plain(TYPEDEF, "a", 3);
    t.plain(TYPEDEF, "b", 2);
    t.record(STRUCT, "within", 8, &[("", 4, 0)]);
    t.record(STRUCT, "double", 8, &[("", 5, 0), ("", 5, 64), ("last", long, 128)]);
    t.array(6, 2);
    let wide: Vec<(&str, u32, u32)> = (0..60_000).map(|_| ("", 2, 0)).collect();
    t.record(STRUCT, "wide", 8, &wide);
    let bytes = t.build();
    let reads = Cell::new(0);
    let counted = Counted(Image { base: BASE, bytes: &bytes }, &reads);
    let mut btf = Btf::open(counted, BASE, bytes.len() as u64).unwrap();
    assert_eq!(btf.bare(2), Err(BtfError::Endless { id: 2 }));
    assert_eq!(btf.size(3), Err(BtfError::Endless { id: 3 }));
    assert_eq!(btf.size(6), Err(BtfError::Endless { id: 6 }));
    for (id, name) in [(4, "x"), (5, "x"), (7, "x"), (5, "last")] {
        assert!(matches!(btf.member(id, name), Err(BtfError::Endless { .. })), "{id}");
    }
    assert!(reads.get() < MOST_READS, "{} reads", reads.get());
}

#[test]
fn a_header_that_cannot_be_is_refused() {
    let good = types().build();
    assert!(open(&good).is_ok());
    for (at, value) in [
        (0, 0x9eu8), // magic
        (2, 2),      // version
        (3, 1),      // flags
        (4, 23),     // length of the header
        (5, 2),      // the same, 512 and more
        (11, 1),     // where types begin
        (15, 1),     // how long they are
        (19, 1),     // where names begin
        (23, 1),     // how long they are
    ] {
        let mut bad = good.clone();
        bad[at] = value;
        let opened = open(&bad);
        assert!(matches!(opened, Err(BtfError::Header { .. })), "byte {at}: {opened:?}");
    }
    // Names that lie over the types.
    let mut bad = good.clone();
    bad[16..20].copy_from_slice(&0u32.to_le_bytes());
    assert!(open(&bad).is_err());
    for len in [0, 23, 1 << 40, u64::MAX] {
        let image = Image { base: BASE, bytes: &good };
        assert!(Btf::open(image, BASE, len).is_err(), "{len}");
    }
    // A type of a kind that is not known, and one that reaches over the end.
    let mut bad = good.clone();
    bad[24 + 7] = 20;
    assert_eq!(open(&bad).unwrap().count(), Err(BtfError::Kind { id: 1, kind: 20 }));
    let mut t = Types::new();
    t.record(STRUCT, "a", 8, &[]);
    let mut bad = t.build();
    bad[24 + 4] = 1;
    assert_eq!(open(&bad).unwrap().count(), Err(BtfError::Type { id: 1 }));
    let said = open(&bad).unwrap().count().unwrap_err().to_string();
    assert!(said.contains("\nhint: "), "{said}");
}

/// Tables of symbols as a kernel has them, in one image; gives VMCOREINFO too.
fn kallsyms(form: Form, symbols: &[(u64, &str)]) -> (String, Vec<u8>) {
    let base = symbols.first().map_or(0, |(at, _)| *at);
    let base = if base < 1 << 31 { symbols[1].0 } else { base };
    let t = Symbols::new(form, base, symbols);
    let mut bytes = Vec::new();
    let mut info = String::new();
    let mut put = |name: &str, part: &[u8]| {
        info += &format!("SYMBOL(kallsyms_{name})={:x}\n", BASE + bytes.len() as u64);
        bytes.extend(part);
    };
    put("names", &t.names);
    put("num_syms", &t.count.to_le_bytes());
    put("token_index", &t.index);
    if form == Form::Absolute {
        put("addresses", &t.addresses);
    } else {
        put("offsets", &t.addresses);
        put("relative_base", &t.base.to_le_bytes());
    }
    // The last: behind its page there is nothing.
    put("token_table", &t.tokens);
    let end = (BASE + bytes.len() as u64).next_multiple_of(4096);
    bytes.resize(usize::try_from(end - BASE).unwrap(), 0);
    for (address, name) in symbols.iter().filter(|(_, n)| ["_stext", "prb"].contains(n)) {
        info += &format!("SYMBOL({name})={address:x}\n");
    }
    (info, bytes)
}

fn symbols() -> Vec<(u64, String)> {
    let mut all: Vec<(u64, String)> =
        (0..5000).map(|n| (0xffff_ffff_8110_0000 + n * 64, format!("symbol_{n}"))).collect();
    all.push((0xffff_ffff_8100_0000, "_stext".to_owned()));
    all.push((0xffff_ffff_8260_0000, "prb".to_owned()));
    all.push((0xffff_ffff_8260_0010, "__start_BTF".to_owned()));
    all.push((0xffff_ffff_8260_0020, "x".repeat(500)));
    all.push((0xffff_ffff_8260_0030, "symbol_7".to_owned()));
    all.sort();
    all
}

#[test]
fn symbols_are_found_however_addresses_are_told() {
    for form in [Form::Absolute, Form::Relative, Form::PerCpu] {
        let mut all = symbols();
        if form != Form::Relative {
            all.insert(0, (0x2_0000, "a_per_cpu_variable".to_owned()));
        }
        let list: Vec<(u64, &str)> = all.iter().map(|(at, name)| (*at, name.as_str())).collect();
        let (info, bytes) = kallsyms(form, &list);
        let info = VmcoreInfo::new(info.as_bytes());
        let mut image = Image { base: BASE, bytes: &bytes };
        let long = "x".repeat(500);
        let wanted = ["__start_BTF", "symbol_4999", "symbol_7", "none", &long];
        let (table, hits) = Kallsyms::open(&info, &mut image, &wanted).unwrap();
        let only: Vec<Option<u64>> = hits.iter().map(|h| h.only()).collect();
        let at = |name: &str| list.iter().find(|(_, n)| *n == name).map(|(at, _)| *at);
        assert_eq!(only, [at(wanted[0]), at(wanted[1]), None, None, at(&long)], "{form:?}");
        assert_eq!((hits[2].count, hits[3].count), (2, 0));
        assert_eq!(table.find(&mut image, &wanted).unwrap(), hits);
        // All of them, in order.
        let mut seen = Vec::new();
        table
            .walk(image, |s| {
                assert_eq!(s.kind, b'T');
                seen.push((s.number, String::from_utf8(s.name.to_vec()).unwrap()));
                true
            })
            .unwrap();
        assert_eq!(seen.len(), list.len());
        for ((number, name), (at, want)) in seen.iter().zip(&list) {
            assert_eq!(name, want);
            assert_eq!(table.address(image, *number).unwrap(), *at, "{form:?} {name}");
        }
        assert!(table.address(image, table.count()).is_err());
        let mut few = 0;
        table
            .walk(image, |_| {
                few += 1;
                few < 3
            })
            .unwrap();
        assert_eq!(few, 3);
    }
}

#[test]
fn symbols_that_contradict_vmcoreinfo_are_refused() {
    let all = symbols();
    let list: Vec<(u64, &str)> = all.iter().map(|(at, name)| (*at, name.as_str())).collect();
    let (info, bytes) = kallsyms(Form::Relative, &list);
    let image = Image { base: BASE, bytes: &bytes };
    let open = |info: &str| Kallsyms::open(&VmcoreInfo::new(info.as_bytes()), image, &[]).map(drop);
    assert_eq!(open(&info), Ok(()));
    let other = info.replace("SYMBOL(prb)=ffffffff82600000", "SYMBOL(prb)=ffffffff82600008");
    assert!(matches!(open(&other), Err(KallsymsError::Contradiction(_))));
    // One witness is too few.
    let one: String =
        info.lines().filter(|l| !l.contains("(prb)")).map(|l| format!("{l}\n")).collect();
    assert_eq!(open(&one), Err(KallsymsError::Unconfirmed));
    for name in ["names", "num_syms", "token_index", "token_table", "relative_base"] {
        let line = format!("SYMBOL(kallsyms_{name})");
        let less: String =
            info.lines().filter(|l| !l.starts_with(&line)).map(|l| format!("{l}\n")).collect();
        assert!(matches!(open(&less), Err(KallsymsError::Missing(_))), "{name}");
    }
    for cut in [1, 100, bytes.len() / 2, bytes.len() - 4096] {
        let image = Image { base: BASE, bytes: &bytes[..cut] };
        let info = VmcoreInfo::new(info.as_bytes());
        assert!(Kallsyms::open(&info, image, &[]).is_err(), "cut at {cut}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever is put over sound types: no panic, bounded reads, and names that end.
    #[test]
    fn hostile_types(
        patches in proptest::collection::vec((any::<prop::sample::Index>(), any::<u32>()), 0..12),
        len in any::<prop::sample::Index>(), cut in any::<bool>(),
    ) {
        let mut bytes = types().build();
        for (at, word) in patches {
            let at = at.index(bytes.len() - 4) / 4 * 4;
            bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        let len = if cut { len.index(bytes.len()) } else { bytes.len() };
        let reads = Cell::new(0);
        let counted = Counted(Image { base: BASE, bytes: &bytes }, &reads);
        let Ok(mut btf) = Btf::open(counted, BASE, len as u64) else { return Ok(()) };
        let Ok(count) = btf.count() else { return Ok(()) };
        prop_assert!(count as usize <= bytes.len() / 12);
        let _ = btf.find(&[(Kind::Struct, "page"), (Kind::Enum, "pageflags")]);
        for id in (0..=count + 1).step_by(7).chain(count.saturating_sub(30)..=count) {
            let _ = (btf.size(id), btf.bare(id), btf.member(id, "deep"));
            let Ok(ty) = btf.by_id(id) else { continue };
            if let Ok(name) = btf.name(ty.name) {
                prop_assert!(name.len() <= MAX_NAME && !name.contains('\0'));
            }
            let _ = (btf.member_at(&ty, 0), btf.enumerator_at(&ty, ty.vlen), btf.array(&ty));
        }
        prop_assert!(reads.get() < MOST_READS, "{} reads", reads.get());
    }

    #[test]
    fn noise_is_no_btf(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(mut btf) = open(&bytes) {
            let _ = btf.count();
        }
    }

    #[test]
    fn hostile_symbols(
        patches in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12)
    ) {
        let all: Vec<(u64, String)> = symbols().into_iter().step_by(50).collect();
        let mut list: Vec<(u64, &str)> =
            all.iter().map(|(at, name)| (*at, name.as_str())).collect();
        list.push((0xffff_ffff_8260_0000, "prb"));
        let (info, mut bytes) = kallsyms(Form::PerCpu, &list);
        for (at, byte) in patches {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let info = VmcoreInfo::new(info.as_bytes());
        let image = Image { base: BASE, bytes: &bytes };
        if let Ok((table, _)) = Kallsyms::open(&info, image, &["symbol_7"]) {
            let mut seen = 0;
            let _ = table.walk(image, |_| { seen += 1; true });
            prop_assert!(seen <= table.count());
        }
    }

    #[test]
    fn types_round_trip(members in proptest::collection::vec(("[a-z]{1,12}", 0u32..5000), 1..40)) {
        let mut t = Types::new();
        let long = t.int("long", 8);
        let list: Vec<(&str, u32, u32)> =
            members.iter().map(|(name, at)| (name.as_str(), long, at * 8)).collect();
        t.record(STRUCT, "it", 40_000, &list);
        let bytes = t.build();
        let mut btf = open(&bytes).unwrap();
        let id = btf.find(&[(Kind::Struct, "it")]).unwrap()[0].only().unwrap();
        for (name, _) in &members {
            // Of members with the same name, the first.
            let want = members.iter().find(|(n, _)| n == name).map(|(_, at)| u64::from(*at));
            prop_assert_eq!(btf.member(id, name).unwrap().and_then(Place::byte), want);
        }
    }
}
