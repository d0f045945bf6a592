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
use machine::{DIRECT, IMAGE, VMALLOC, VMEMMAP, World, open, pfn, types};

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
