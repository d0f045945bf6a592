//! What is known of a dead kernel, from its memory alone.

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test falls over where it is wrong"
)]

mod machine;

use lifeboat_inquest::kernel::{Aids, KernelError};
use lifeboat_inquest::{Fault, Hole, Kernel, Pfn, PhysAddr};
use machine::btf::STRUCT;
use machine::{DIRECT, IMAGE, KALLSYMS, Ram, VMALLOC, VMEMMAP, World, open, pfn, types};

#[test]
fn symbols_members_and_numbers() {
    let mut world = World::new();
    let at = world.var("a_variable", 8);
    let twice = [world.var("twice", 8), world.var("twice", 8)];
    let (ram, notes) = world.finish();
    let kernel = open(&ram, &notes);
    assert_eq!(kernel.symbol("a_variable"), Some(at));
    assert_eq!(kernel.symbol("a_variabl"), None);
    // Any of two would be a guess.
    assert_eq!(kernel.symbol("twice"), None);
    assert_eq!(kernel.symbols("twice"), twice);
    let field = |path| kernel.field("sample", path);
    assert_eq!(field("first").map(|f| (f.offset, f.size, f.bits)), Ok((0, 8, None)));
    assert_eq!(field("deep").map(|f| (f.offset, f.size, f.bytes, f.length)), Ok((16, 0, 48, 3)));
    let high = field("deep[2].high").unwrap();
    assert_eq!((high.offset, high.size, high.bits), (16 + 32 + 4, 2, Some((3, 7))));
    for none in ["deep[3]", "deep[0].none", "none", "first.x", "", "deep[", "first[0]"] {
        assert!(matches!(field(none), Err(KernelError::NoField { .. })), "{none}");
        // The same from what was kept.
        assert!(field(none).is_err(), "{none}");
    }
    assert_eq!(kernel.field("nothing", "x"), Err(KernelError::NoRecord("nothing".to_owned())));
    assert_eq!(kernel.size("sample"), Ok(64));
    assert_eq!(kernel.size("alias_t"), Ok(48));
    assert!(kernel.size("nothing").is_err());
    assert_eq!(kernel.enumerator("MM_SHMEMPAGES"), Some(3));
    assert_eq!(kernel.enumerator("MM_NONE"), None);
    assert_eq!(kernel.field_of("sample", &["older", "first"]).map(|f| f.offset), Ok(0));
    let errors = [field("none"), kernel.field("nothing", "x")];
    assert!(errors.iter().all(|e| e.clone().unwrap_err().to_string().contains("\nhint: ")));
}

#[test]
fn numbers_of_each_size_and_bit_fields() {
    let mut world = World::new();
    let at = world.alloc(128);
    world.put(at, 0xfedc_ba98_7654_3210);
    world.put(at + 16 + 32 + 4, 0x7f << 3 | 0b101);
    let (ram, notes) = world.finish();
    let kernel = open(&ram, &notes);
    assert_eq!(kernel.u8(at), Ok(0x10));
    assert_eq!(kernel.u16(at), Ok(0x3210));
    assert_eq!(kernel.u32(at), Ok(0x7654_3210));
    assert_eq!(kernel.u64(at), Ok(0xfedc_ba98_7654_3210));
    let high = kernel.field("sample", "deep[2].high").unwrap();
    assert_eq!(kernel.get(at, high), Ok(0x7f));
    assert_eq!(kernel.get_signed(at, high), Ok(-1));
    let whole = kernel.field("sample", "deep").unwrap();
    assert_eq!(kernel.get(at, whole).map_err(|f| f.why), Err(Hole::Malformed));
    assert_eq!(kernel.get(u64::MAX - 3, high).map_err(|f| f.why), Err(Hole::Malformed));
}

#[test]
fn addresses() {
    let mut world = World::new();
    let first = world.alloc_page();
    let second = world.alloc_page();
    world.write(first + 4090, b"a name that");
    let (mut ram, notes) = world.finish();
    ram.bad.insert(pfn(first) + 7, Hole::Excluded);
    let kernel = open(&ram, &notes);
    assert_eq!(second, first + 4096);
    // Over the boundary of a page, and with no NUL where it ends.
    assert_eq!(kernel.string(first + 4090, 11).unwrap(), b"a name that");
    assert_eq!(kernel.string(first + 4090, 64).unwrap(), b"a name that");
    assert_eq!(kernel.string(first + 4090, 3).unwrap(), b"a n");
    assert_eq!(kernel.phys(first), Ok(PhysAddr(first - DIRECT)));
    assert_eq!(kernel.phys(IMAGE + 0x1234), Ok(PhysAddr(0x1234)));
    assert_eq!(kernel.direct(PhysAddr(0x5000)), DIRECT + 0x5000);
    assert_eq!(kernel.page_struct(Pfn(3)), VMEMMAP + 192);
    assert_eq!(kernel.pfn_of(VMEMMAP + 192), Some(Pfn(3)));
    for none in [VMEMMAP + 193, VMEMMAP - 64, 0, u64::MAX] {
        assert_eq!(kernel.pfn_of(none), None, "{none:#x}");
    }
    let why = |addr| kernel.u64(addr).map_err(|f: Fault| f.why);
    assert_eq!(why(first + 7 * 4096), Err(Hole::Excluded));
    assert_eq!(why(DIRECT + machine::MEMORY), Err(Hole::NotCaptured));
    assert_eq!(why(VMALLOC), Err(Hole::NotMapped));
    assert_eq!(why(0x1234_5678_9abc_def0), Err(Hole::Malformed));
    assert_eq!(kernel.u64(u64::MAX - 2).map_err(|f| f.why), Err(Hole::NotMapped));
    let area = |cpu| kernel.per_cpu(0x1000, cpu);
    assert_eq!(area(1).unwrap() - area(0).unwrap(), 0x1_0000);
    assert_eq!(area(8192).map_err(|f| f.why), Err(Hole::Malformed));
    assert_eq!(kernel.possible_cpus(), Ok(vec![0, 1]));
}

/// The tail of a module's BTF goes on where vmlinux's ends.
fn module_btf() -> Vec<u8> {
    let base = types::vmlinux().build();
    let mut all = types::vmlinux();
    let inner = all.int("module_int", 4);
    all.record(STRUCT, "of_module", 24, &[("number", inner, 64), ("pointer", inner, 128)]);
    let all = all.build();
    let word = |raw: &[u8], at: usize| u32::from_le_bytes(raw[at..at + 4].try_into().unwrap());
    let parts = |raw: &[u8]| {
        let (types, names) = (word(raw, 12) as usize, word(raw, 20) as usize);
        (raw[24..24 + types].to_vec(), raw[24 + types..24 + types + names].to_vec())
    };
    let ((base_types, base_names), (types, names)) = (parts(&base), parts(&all));
    let (types, names) = (&types[base_types.len()..], &names[base_names.len()..]);
    let len = |part: &[u8]| u32::try_from(part.len()).unwrap();
    let head = [0x1_eb9f, 24, 0, len(types), len(types), len(names)].map(u32::to_le_bytes).concat();
    [&head, types, names].concat()
}

#[test]
fn modules_bring_their_own() {
    let mut world = World::new();
    let find = |world: &World, name: &str| {
        world.symbols.iter().find(|(_, n)| n == name).map(|(at, _)| *at).unwrap()
    };
    let (modules, btfs) = (find(&world, "modules"), find(&world, "btf_modules"));
    // Two symbols, one of another module's.
    let (module, kallsyms) = (world.alloc(128), world.alloc(32));
    let (symtab, strtab) = (world.alloc(72), world.alloc(64));
    world.write(strtab, b"\0zram_index\0printk\0");
    for (n, (name, shndx, value)) in
        [(0u64, 0, 0u64), (1, 4, 0xffff_ffff_c000_1230), (12, 0, 0)].into_iter().enumerate()
    {
        let at = symtab + n as u64 * 24;
        world.put(at, name | shndx << 48);
        world.put(at + 8, value);
    }
    world.put(kallsyms, symtab);
    world.put32(kallsyms + 8, 3);
    world.put(kallsyms + 16, strtab);
    world.put(module + 96, kallsyms);
    world.add_tail(modules, module + 8);
    // One module whose types are lost, and one whose are not.
    let raw = module_btf();
    let data = world.alloc(raw.len() as u64);
    world.write(data, &raw);
    for from in [0x10, data] {
        let (entry, btf) = (world.alloc(40), world.alloc(64));
        world.put(btf + 8, from);
        world.put32(btf + 32, u32::try_from(raw.len()).unwrap());
        world.put(entry + 32, btf);
        world.add_tail(btfs, entry + 8);
    }
    let (ram, notes) = world.finish();
    let kernel = open(&ram, &notes);
    assert_eq!(kernel.symbol("zram_index"), Some(0xffff_ffff_c000_1230));
    assert_eq!(kernel.symbol("printk"), None);
    assert_eq!(kernel.size("of_module"), Ok(24));
    let field = kernel.field("of_module", "pointer").unwrap();
    assert_eq!((field.offset, field.size), (16, 4));
    assert!(matches!(kernel.field("of_module", "none"), Err(KernelError::NoField { .. })));
    assert_eq!(kernel.module_faults().len(), 1, "{:?}", kernel.module_faults());
}

/// Hundreds of modules that all lead to one table of symbols.
#[test]
fn one_table_of_symbols_for_all_modules() {
    const COUNT: u64 = 1 << 13;
    const MODULES: u64 = 200;
    let mut world = World::new();
    let head = world.symbols.iter().find(|(_, n)| n == "modules").map(|(at, _)| *at).unwrap();
    let (kallsyms, strtab) = (world.alloc(32), world.alloc(64));
    world.write(strtab, b"\0shared\0");
    let symtab = world.alloc(COUNT * 24);
    for n in 0..COUNT {
        world.put(symtab + n * 24, 1 | 4 << 48);
        world.put(symtab + n * 24 + 8, 0xffff_ffff_c000_0000);
    }
    world.put(kallsyms, symtab);
    world.put32(kallsyms + 8, u32::try_from(COUNT).unwrap());
    world.put(kallsyms + 16, strtab);
    for _ in 0..MODULES {
        let module = world.alloc(128);
        world.put(module + 96, kallsyms);
        world.add_tail(head, module + 8);
    }
    let (ram, notes) = world.finish();
    let kernel = open(&ram, &notes);
    assert_eq!(kernel.symbols("shared"), [0xffff_ffff_c000_0000]);
    // A million of them, and of the modules behind it is said that they are not read.
    assert_eq!(kernel.module_faults().len() as u64, MODULES - (1 << 20) / COUNT);
}

/// A table of CPUs that begins with the last word of all.
#[test]
fn addresses_end_where_they_end() {
    let mut world = World::new();
    world.symbols.retain(|(_, name)| name != "__per_cpu_offset");
    world.symbols.insert((u64::MAX - 7, "__per_cpu_offset".to_owned()));
    let (ram, notes) = world.finish();
    let kernel = open(&ram, &notes);
    assert!(kernel.per_cpu(0x1000, 0).is_err());
    assert!(kernel.per_cpu(0x1000, 1).is_err());
}

#[test]
fn what_is_missing_is_named() {
    let (ram, notes) = World::new().finish();
    let none = Kernel::open(&ram, b"").unwrap_err();
    assert_eq!(none, KernelError::NoVmcoreInfo);
    // Without its types, and with somebody's help.
    let world = World::new();
    let types = world.types.build();
    let (mut bare, notes_too) = world.finish();
    let btf = bare.bytes.windows(4).position(|w| w == [0x9f, 0xeb, 1, 0]).unwrap();
    bare.bytes[btf] = 0;
    let error = Kernel::open(&bare, &notes_too).unwrap_err();
    assert!(matches!(error, KernelError::Types(_)), "{error}");
    assert!(error.to_string().contains("--btf"), "{error}");
    assert_eq!(error.to_string().matches("hint: ").count(), 1, "{error}");
    let mut aids = Aids::none();
    aids.btf = Some(types);
    let helped = Kernel::open_with(&bare, &notes_too, &aids).unwrap();
    assert_eq!(helped.size("page"), Ok(64));
    // The same where a page of them is lost.
    bare.bad.insert(btf as u64 / 4096, Hole::Damaged);
    let error = Kernel::open(&bare, &notes_too).unwrap_err();
    assert!(error.to_string().contains("in a damaged part of the dump"), "{error}");
    assert!(error.to_string().contains("\nhint: `--btf FILE`"), "{error}");
    assert_eq!(Kernel::open_with(&bare, &notes_too, &aids).unwrap().size("page"), Ok(64));
    // Symbols of a file: they must be that kernel's.
    let symbols = open(&ram, &notes);
    let at = symbols.symbol("init_uts_ns").unwrap();
    let all = ["page_offset_base", "vmalloc_base", "vmemmap_base", "__start_BTF", "__stop_BTF"];
    let mut list: Vec<(String, u64)> =
        all.iter().map(|n| ((*n).to_owned(), symbols.symbol(n).unwrap())).collect();
    list.push(("init_uts_ns".to_owned(), at + 8));
    let mut aids = Aids::none();
    aids.symbols = Some(list.clone());
    assert!(matches!(Kernel::open_with(&ram, &notes, &aids), Err(KernelError::Odd { .. })));
    list.last_mut().unwrap().1 = at;
    aids.symbols = Some(list);
    assert_eq!(Kernel::open_with(&ram, &notes, &aids).unwrap().size("page"), Ok(64));
}

#[test]
fn witnesses_that_differ_are_refused() {
    // The direct map is not where the variable says.
    let mut world = World::new();
    let at = world.symbols.iter().find(|(_, n)| n == "page_offset_base").unwrap().0;
    world.put(at, DIRECT + (1 << 30));
    let (ram, notes) = world.finish();
    assert!(Kernel::open(&ram, &notes).is_err());
    // `struct page` has another size.
    let (ram, notes) = World::new().finish();
    // In place: notes are no text, and their lengths are to stay right.
    let (says, lies) = (b"SIZE(page)=64", b"SIZE(page)=56");
    let at = notes.windows(says.len()).position(|w| w == says).unwrap();
    let mut other = notes;
    other[at..at + lies.len()].copy_from_slice(lies);
    let error = Kernel::open(&ram, &other).unwrap_err();
    assert_eq!(error, KernelError::Odd { what: "SIZE(page)", value: 56 });
}

/// Symbols before and behind those that a kernel needs, some pages of names each.
const MANY: u64 = 1600;

/// Address of one of them.
fn many(n: u64) -> u64 {
    IMAGE + n * 8 + if n < MANY { 0 } else { 0x20_0000 }
}

fn with_many() -> World {
    let mut world = World::new();
    world.symbols.extend((0..2 * MANY).map(|n| (many(n), format!("symbol_{n}"))));
    // VMCOREINFO knows these: two of them must be there.
    world.symbols.retain(|(_, name)| name != "_stext" && name != "prb");
    for (at, name) in [(0x3f_0000, "_stext"), (0x3f_0008, "prb")] {
        world.symbols.insert((IMAGE + at, name.to_owned()));
    }
    world
}

/// Loses a page of the tables of symbols, by its number; page 1 is the first one of names, 20
/// the first one of addresses.
fn lose(ram: &mut Ram, page: u64) {
    ram.bad.insert(KALLSYMS / 4096 + page, Hole::Damaged);
}

/// Which of the many a kernel has, each of them in its place.
fn served(kernel: &Kernel<'_>) -> Vec<u64> {
    let there = |n: &u64| match kernel.symbol(&format!("symbol_{n}")) {
        Some(at) => {
            assert_eq!(at, many(*n), "{n}");
            true
        }
        None => false,
    };
    (0..2 * MANY).filter(there).collect()
}

#[test]
fn names_before_and_behind_a_hole_are_served() {
    for (sequences, page) in [(false, 2), (true, 2), (false, 1), (false, 4)] {
        let mut world = with_many();
        world.sequences = sequences;
        let (mut ram, notes) = world.finish();
        assert_eq!(open(&ram, &notes).damage(), Vec::<String>::new());
        lose(&mut ram, page);
        let kernel = open(&ram, &notes);
        let there = served(&kernel);
        let lost = 2 * MANY - there.len() as u64;
        // A name takes 4 to 7 bytes, and up to 255 names lie before the next marker.
        assert!((4096 / 7..4096 / 4 + 256).contains(&lost), "{lost}");
        let told = kernel.damage();
        assert!(told[0].starts_with(&format!("symbols: {lost} of 32")), "{told:?}");
        // One hole: all before it are there, and all from a marker on.
        let first = (0..).zip(&there).find(|(n, there)| n != *there);
        let (first, behind) = first.map_or((0, 0), |(n, there)| (n, *there));
        assert_eq!(behind, first + lost, "page {page}");
        let symbol = format!("symbol_{}", first + 9);
        let error = kernel.need(&symbol).unwrap_err();
        let lost = u32::try_from(lost).unwrap();
        assert_eq!(error, KernelError::LostSymbol { name: symbol, lost });
        assert!(error.to_string().contains("\nhint: `--vmlinux FILE`"), "{error}");
        assert!(kernel.known("none").is_err());
        assert_eq!(kernel.known("nr_cpu_ids").unwrap(), kernel.symbol("nr_cpu_ids"));
    }
}

#[test]
fn names_whose_addresses_are_lost_are_told() {
    let mut world = with_many();
    world.symbols.insert((many(0) + 1, "twice".to_owned()));
    world.symbols.insert((many(3199) + 1, "twice".to_owned()));
    let (mut ram, notes) = world.finish();
    let symbols = open(&ram, &notes).symbols("twice").len();
    assert_eq!(symbols, 2);
    for page in [22, 23] {
        lose(&mut ram, page);
    }
    let kernel = open(&ram, &notes);
    let there = served(&kernel).len() as u64;
    assert_eq!(there, served(&kernel).last().unwrap() + 1);
    // Of two the second one's address is lost: the first one is not the only one for that.
    assert_eq!(kernel.symbols("twice").len(), 1);
    assert_eq!(kernel.symbol("twice"), None);
    assert!(matches!(kernel.need("twice"), Err(KernelError::LostSymbol { .. })));
    // That there is no such symbol is not certain, even where no name is lost.
    assert!(matches!(kernel.need("symbol_3199"), Err(KernelError::LostSymbol { .. })));
}

#[test]
fn what_cannot_do_without_a_lost_symbol_says_so() {
    let (mut ram, notes) = with_many().finish();
    lose(&mut ram, 3);
    // Its value may be anything: where it would be by default is a guess.
    let error = Kernel::open(&ram, &notes).unwrap_err();
    assert!(
        matches!(&error, KernelError::LostSymbol { name, .. } if name == "page_offset_base"),
        "{error}"
    );
    assert!(error.to_string().contains("\nhint: `--vmlinux FILE`"), "{error}");
    // Tokens, their index, and the markers where they are needed.
    for pages in [&[16][..], &[18], &[0], &[2, 15]] {
        let (mut ram, notes) = with_many().finish();
        pages.iter().for_each(|page| lose(&mut ram, *page));
        let error = Kernel::open(&ram, &notes).unwrap_err();
        assert!(matches!(error, KernelError::Symbols(_)), "{pages:?}: {error}");
        assert!(error.to_string().contains("\nhint: `--vmlinux FILE`"), "{error}");
    }
    // Markers are of no use where no name is lost.
    let (mut ram, notes) = with_many().finish();
    lose(&mut ram, 15);
    assert_eq!(served(&open(&ram, &notes)).len() as u64, 2 * MANY);
}

#[test]
fn markers_that_differ_from_the_names_are_refused() {
    // One that leads to the middle of a name, in front of the hole and behind it; and one
    // that leads nowhere.
    for (marker, to) in [(1, None), (10, None), (4, Some(0xffff_fff0u32))] {
        let (mut ram, notes) = with_many().finish();
        lose(&mut ram, 2);
        let markers = (2 * MANY).div_ceil(256) * 4;
        let at = KALLSYMS + 0x1_0000 - markers.next_multiple_of(8) + marker * 4;
        let at = usize::try_from(at).unwrap();
        let old = u32::from_le_bytes(ram.bytes[at..at + 4].try_into().unwrap());
        let new = to.unwrap_or(old + 1);
        ram.bytes[at..at + 4].copy_from_slice(&new.to_le_bytes());
        let error = Kernel::open(&ram, &notes).unwrap_err();
        assert!(matches!(error, KernelError::Symbols(_)), "{error}");
    }
}
