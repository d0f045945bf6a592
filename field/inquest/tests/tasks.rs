//! Tasks, processes and their pages, of whole and of damaged machines.

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test falls over where it is wrong"
)]

mod machine;

use lifeboat_inquest::mm::{self, Spot, SwapEntry, SwapIn, Tables};
use lifeboat_inquest::tasks::{self, Pages, Process};
use lifeboat_inquest::walk::Damage;
use lifeboat_inquest::{Hole, PAGE, PhysAddr};
use machine::people::{ARGS, TEXT, make, map, swap};
use machine::{DIRECT, IMAGE, Ram, open, pfn};

fn by_number(processes: &[Process], pid: u32) -> &Process {
    processes.iter().find(|p| p.leader.tgid == pid).unwrap()
}

#[test]
fn everything_of_everyone() {
    let made = make();
    let (ram, notes) = made.world.finish();
    let kernel = open(&ram, &notes);
    let found = tasks::tasks(&kernel);
    assert!(found.is_whole(), "{:?}", found.damage);
    let seen: Vec<(u32, u64)> = found.items.iter().map(|t| (t.pid, t.addr)).collect();
    assert_eq!(seen, made.tasks);
    let states: String = found.items.iter().map(|t| t.state).collect();
    assert_eq!(states, "ISRDZ");
    let all = tasks::processes(&kernel, &found.items, None).unwrap();
    assert_eq!(all.len(), 3);
    let cat = by_number(&all, 100);
    assert_eq!(cat.threads.len(), 3);
    assert!(cat.threads[1].on_cpu && cat.threads[1].comm == "cat worker");
    assert_eq!((cat.ppid, cat.uid, cat.euid), (Ok(1), Ok(1000), Ok(1001)));
    assert_eq!(cat.start_ns, Ok(100_000_000_000));
    let pages = Pages { file: 3, anon: 995, swap: 7, shmem: 20 };
    assert_eq!(cat.pages, Some(Ok(pages)));
    assert_eq!(cat.command.as_ref().unwrap().args, ["cat", "-n", "a file"]);
    assert_eq!(cat.command.as_ref().unwrap().lost, None);
    let worker = by_number(&all, 1);
    assert!(worker.leader.kernel && worker.mm.is_none() && worker.command.is_none());
    assert!(by_number(&all, 200).pages.is_none());
}

#[test]
fn a_title_that_reaches_into_the_environment() {
    let mut made = make();
    made.world.write(made.args, b"postgres: checkpointer\0HOME=/\0");
    // The environment begins where the arguments end.
    made.world.put(made.mm + 16 + 7 * 16, ARGS + 14);
    made.world.put(made.mm + 16 + 8 * 16, ARGS + 30);
    let (ram, notes) = made.world.finish();
    let kernel = open(&ram, &notes);
    let found = tasks::tasks(&kernel);
    let all = tasks::processes(&kernel, &found.items, None).unwrap();
    assert_eq!(by_number(&all, 100).command.as_ref().unwrap().args, ["postgres: checkpointer"]);
}

#[test]
fn one_damaged_list_costs_nothing() {
    // The list of processes ends in the wild behind the first one, from either end.
    let mut made = make();
    made.world.put(made.head, 0x10);
    made.world.put(made.head + 8, 0x18);
    let tasks = made.tasks.clone();
    let (ram, notes) = made.world.finish();
    let kernel = open(&ram, &notes);
    let found = tasks::tasks(&kernel);
    assert_eq!(found.items.iter().map(|t| (t.pid, t.addr)).collect::<Vec<_>>(), tasks);
    assert_eq!(found.damage, [Damage::Odd(0x10)]);
    // The table of numbers is gone instead.
    let mut made = make();
    let namespace = made.world.symbols.iter().find(|(_, n)| n == "init_pid_ns").unwrap().0;
    made.world.put(namespace + 32, 0xdead_0000_0000_0002);
    let (ram, notes) = made.world.finish();
    let kernel = open(&ram, &notes);
    let found = tasks::tasks(&kernel);
    assert_eq!(found.items.iter().map(|t| (t.pid, t.addr)).collect::<Vec<_>>(), tasks);
    assert_eq!(found.damage.len(), 1);
}

#[test]
fn a_lost_task_costs_itself() {
    let made = make();
    let lost = made.tasks[2].1;
    let (mut ram, notes) = made.world.finish();
    ram.bad.insert(pfn(lost), Hole::Unreadable);
    let kernel = open(&ram, &notes);
    let found = tasks::tasks(&kernel);
    let seen: Vec<u32> = found.items.iter().map(|t| t.pid).collect();
    assert_eq!(seen, [1, 100, 102, 200]);
    assert!(!found.is_whole());
}

#[test]
fn what_a_process_lost_is_said_not_zero() {
    let made = make();
    let (mut ram, notes) = made.world.finish();
    ram.bad.insert(pfn(made.args), Hole::Excluded);
    let kernel = open(&ram, &notes);
    let found = tasks::tasks(&kernel);
    let all = tasks::processes(&kernel, &found.items, None).unwrap();
    let command = by_number(&all, 100).command.clone().unwrap();
    assert_eq!((command.args.len(), command.lost), (0, Some(Hole::Excluded)));
    // Its address space is overwritten.
    let mut made = make();
    made.world.write(made.mm, &[0xa5; 400]);
    let (ram, notes) = made.world.finish();
    let kernel = open(&ram, &notes);
    let found = tasks::tasks(&kernel);
    let all = tasks::processes(&kernel, &found.items, None).unwrap();
    let cat = by_number(&all, 100);
    assert!(matches!(cat.pages, Some(Err(_))));
    assert!(cat.command.clone().unwrap().lost.is_some());
}

/// A page that was swapped out, by what it says of itself.
struct Swapped;

impl SwapIn for Swapped {
    fn swap_in(&self, entry: SwapEntry, out: &mut [u8; PAGE]) -> Result<(), Hole> {
        assert_eq!(entry, SwapEntry { ty: 1, offset: 0x1234 });
        out[..14].copy_from_slice(b"dog\0-x\0a bone\0");
        Ok(())
    }
}

#[test]
fn arguments_that_are_swapped_out() {
    let mut made = make();
    let pgd = made.world.get(made.mm + 32);
    map(&mut made.world, pgd, ARGS, 1, swap(1, 0x1234));
    let (ram, notes) = made.world.finish();
    let kernel = open(&ram, &notes);
    let found = tasks::tasks(&kernel);
    let all = tasks::processes(&kernel, &found.items, None).unwrap();
    let command = by_number(&all, 100).command.clone().unwrap();
    assert_eq!(command.lost, Some(Hole::Swapped));
    assert_eq!(command.to_string(), "<swapped out>");
    let all = tasks::processes(&kernel, &found.items, Some(&Swapped)).unwrap();
    assert_eq!(by_number(&all, 100).command.as_ref().unwrap().args, ["dog", "-x", "a bone"]);
}

#[test]
fn every_kind_of_entry() {
    let mut made = make();
    let pgd = made.world.get(made.mm + 32);
    let world = &mut made.world;
    let page = |n: u64| TEXT + n * 4096;
    let inverted = |phys: u64| !phys & 0x000f_ffff_ffff_f000;
    map(world, pgd, page(0), 1, 0x8000_0000_0080_0067);
    // Nobody may touch it, but it is there; `mprotect(PROT_NONE)` and NUMA balancing.
    map(world, pgd, page(1), 1, inverted(0x80_1000) | 1 << 63 | 0x120);
    map(world, pgd, page(2), 1, swap(0, 77));
    // Under migration: its page is locked, and bit 34 says that it is young.
    map(world, pgd, page(3), 1, swap(25, 0x802 | 1 << 34));
    map(world, pgd, page(4), 1, swap(24, 0x803));
    map(world, pgd, page(5), 1, swap(30, 1));
    map(world, pgd, page(6), 1, swap(27, 0x804));
    // Bits that a CPU set in an entry that is none.
    map(world, pgd, page(7), 1, 0x60);
    world.page_flags(0x802, 1);
    world.page_flags(0x803, 1 << 20);
    let large = TEXT + (1 << 21);
    map(world, pgd, large, 2, 0x80_0000 | 0xe7);
    // A huge page that was just being split.
    map(world, pgd, large + (1 << 21), 2, inverted(0x60_0000) & !0x1f_ffff | 0xa0);
    map(world, pgd, large + (2 << 21), 2, swap(25, 0x802));
    map(world, pgd, TEXT + (1 << 30), 3, 0xe7);
    // What cannot be.
    map(world, pgd, TEXT + (1 << 39), 4, 0xe7);
    let lost = TEXT + (2 << 30);
    map(world, pgd, lost, 2, 0x7_ffff_f000 | 0x67);
    let (ram, notes) = made.world.finish();
    let kernel = open(&ram, &notes);
    let tables = Tables::open(&kernel, made.mm).unwrap();
    let spot = |addr| tables.look(addr).spot.map_err(|f| f.why);
    let present = |phys, size| Ok(Spot::Present { phys: PhysAddr(phys), size });
    assert_eq!(spot(page(0) + 5), present(0x80_0005, 4096));
    assert_eq!(spot(page(1)), present(0x80_1000, 4096));
    assert_eq!(spot(page(2)), Ok(Spot::Swap(SwapEntry { ty: 0, offset: 77 })));
    assert_eq!(spot(page(3) + 1), Ok(Spot::Migration { phys: PhysAddr(0x80_2001) }));
    assert_eq!(spot(page(4)), Ok(Spot::Poisoned));
    assert_eq!(spot(page(5)), Ok(Spot::Marker(1)));
    assert_eq!(spot(page(6)), Ok(Spot::Special(SwapEntry { ty: 27, offset: 0x804 })));
    assert_eq!(spot(page(7)), Ok(Spot::None));
    assert_eq!(spot(page(8)), Ok(Spot::None));
    assert_eq!(spot(large + 0x1234), present(0x80_1234, 1 << 21));
    assert_eq!(tables.look(large + 0x1000).left, (1 << 21) - 0x1000);
    assert_eq!(spot(large + (1 << 21) + 7), present(0x60_0007, 1 << 21));
    assert_eq!(spot(large + (2 << 21) + 0x1000), Ok(Spot::Migration { phys: PhysAddr(0x80_3000) }));
    assert_eq!(spot(TEXT + (1 << 30) + 0x999), present(0x999, 1 << 30));
    assert_eq!(spot(TEXT + (1 << 39)), Err(Hole::Malformed));
    assert_eq!(spot(lost), Err(Hole::NotCaptured));
    assert_eq!(spot(1 << 47), Err(Hole::Malformed));
    assert_eq!(spot(u64::MAX), Err(Hole::Malformed));
    let counts = mm::count(&tables, TEXT, TEXT + (3 << 21));
    assert_eq!((counts.present, counts.swap, counts.migration), (2 + 1024, 1, 1));
    assert_eq!((counts.marked, counts.special, counts.none), (2, 1, 505));
    assert_eq!(mm::count(&tables, lost, lost + (1 << 21)).lost, 512);
    // A gap of terabytes is one answer.
    let reads = ram.reads.load(std::sync::atomic::Ordering::Relaxed);
    let counts = mm::count(&tables, 1 << 40, 1 << 45);
    assert_eq!(counts.none, ((1u64 << 45) - (1 << 40)) / 4096);
    assert!(ram.reads.load(std::sync::atomic::Ordering::Relaxed) - reads < 10);
    // Bytes over the boundary of two pages, the second of which is nobody's to read.
    let mut bytes = [0; 16];
    assert!(mm::read(&tables, None, page(0) + 4090, &mut bytes).is_ok());
    let fault = mm::read(&tables, None, page(1) + 4090, &mut bytes).unwrap_err();
    assert_eq!((fault.addr, fault.why), (page(2), Hole::Swapped));
}

/// Without the number of swap devices, an entry of one looks like a page that is being moved:
/// here its offset is the number of a locked page.
#[test]
fn a_lost_number_of_swap_devices_is_not_none() {
    let mut made = make();
    let world = &mut made.world;
    let count = world.alloc_page();
    world.symbols.retain(|(_, name)| name != "nr_swapfiles");
    world.symbols.insert((IMAGE + (count - DIRECT), "nr_swapfiles".to_owned()));
    world.put32(count, 2);
    let pgd = world.get(made.mm + 32);
    map(world, pgd, TEXT, 1, swap(0, 0x802));
    world.page_flags(0x802, 1);
    let (mut ram, notes) = made.world.finish();
    let look = |ram: &Ram| {
        let kernel = open(ram, &notes);
        Tables::open(&kernel, made.mm).unwrap().look(TEXT).spot.map_err(|f| f.why)
    };
    assert_eq!(look(&ram), Ok(Spot::Swap(SwapEntry { ty: 0, offset: 0x802 })));
    ram.bad.insert(pfn(count), Hole::Damaged);
    assert_eq!(look(&ram), Err(Hole::Damaged));
}

#[test]
fn mappings_by_the_tree() {
    let mut made = make();
    let world = &mut made.world;
    let leaf = world.alloc_page();
    let top = made.mm + 16 + 8;
    world.put(top, leaf | 1 << 3 | 4 | 2);
    let mut vma = |n: u64, start: u64, end: u64, flags: u64, file: u64| {
        let at = world.alloc(128);
        for (n, value) in [start, end, flags, 3, file].into_iter().enumerate() {
            world.put(at + n as u64 * 8, value);
        }
        // The gap before it, then itself.
        world.put(leaf + 8 + n * 16, start - 1);
        world.put(leaf + 128 + (n * 2 + 1) * 8, at);
        world.put(leaf + 8 + n * 16 + 8, end - 1);
        at
    };
    let text = vma(0, TEXT, TEXT + 0x5000, 0x75, 0xffff_8880_0012_3400);
    let heap = vma(1, TEXT + 0x1000_0000, TEXT + 0x1002_1000, 0x73, 0);
    let stack = vma(2, ARGS - 0x1000, ARGS + 0x3000, 0x0173, 0);
    let wild = vma(3, ARGS + 0x10_0000, ARGS + 0x20_0000, 0xf3, 0);
    // A file's mapping knows how its pages are filled.
    made.world.put(text + 6 * 8, 0xffff_ffff_8100_0000);
    // Overwritten: it ends before it begins.
    made.world.put(wild, u64::MAX - 4095);
    made.world.put(made.mm + 16 + 2 * 16, TEXT + 0x1000_0000);
    made.world.put(made.mm + 16 + 3 * 16, TEXT + 0x1001_0000);
    made.world.put(made.mm + 16 + 4 * 16, ARGS + 0x2000);
    let (ram, notes) = made.world.finish();
    let kernel = open(&ram, &notes);
    let found = mm::vmas(&kernel, made.mm);
    let shown: Vec<_> = found
        .items
        .iter()
        .map(|v| (v.addr, v.start, v.flags.text(), v.file, v.name.as_deref()))
        .collect();
    let want = [
        (text, TEXT, "r-xp".to_owned(), Some(0xffff_8880_0012_3400), None),
        (heap, TEXT + 0x1000_0000, "rw-p".to_owned(), None, Some("[heap]")),
        (stack, ARGS - 0x1000, "rw-p".to_owned(), None, Some("[stack]")),
    ];
    assert_eq!(shown, want);
    assert_eq!(found.items[0].offset, 3 * 4096);
    let zeros: Vec<bool> = found.items.iter().map(|v| v.anonymous).collect();
    assert_eq!(zeros, [false, true, true]);
    assert_eq!(found.damage, [Damage::Odd(wild)]);
}

/// One table in all slots of the table above, three times over: 2^35 pages, of which each
/// table is looked at once.
#[test]
fn tables_that_lead_to_one_another_are_counted_once() {
    let mut made = make();
    let pgd = made.world.get(made.mm + 32);
    let tables: Vec<u64> = (0..3).map(|_| made.world.alloc_page()).collect();
    let entry = |table: u64| (table - DIRECT) | 0x67;
    for n in 0..512 {
        made.world.put(tables[0] + n * 8, entry(tables[1]));
        made.world.put(tables[1] + n * 8, entry(tables[2]));
        made.world.put(tables[2] + n * 8, if n < 2 { 0x80_0067 } else { 0 });
    }
    for n in 0..256 {
        made.world.put(pgd + n * 8, entry(tables[0]));
    }
    let (ram, notes) = made.world.finish();
    let kernel = open(&ram, &notes);
    let tables = Tables::open(&kernel, made.mm).unwrap();
    let all = mm::count(&tables, 0, 1 << 47);
    assert_eq!((all.present, all.none, all.lost), (1 << 27, (1 << 35) - (1 << 27), 0));
    // Ends that lie within tables; and the kernel's half.
    let some = mm::count(&tables, 0x1000, (3 << 21) + 0x1000);
    assert_eq!((some.present, some.none), (6, 3 * 512 - 6));
    assert_eq!(mm::count(&tables, (1 << 47) - 0x2000, (1 << 47) + 0x3000).lost, 3);
    assert_eq!(mm::count(&tables, 1 << 63, (1 << 63) + 0x1000).lost, 1);
    assert_eq!(mm::count(&tables, 0x2000, 0x1000), mm::Counts::default());
}

/// Every process's list of threads is the same long list.
#[test]
fn one_list_of_threads_for_all_has_an_end() {
    use machine::types::{PID, SIGNAL, TGID, THREAD_HEAD, THREAD_NODE};
    let mut made = make();
    let world = &mut made.world;
    let threads: Vec<u64> = (0..400).map(|_| world.alloc_page()).collect();
    for (n, task) in (0..).zip(&threads) {
        world.put32(task + PID, 1000 + n);
        world.put32(task + TGID, 100);
        let next = threads.get(n as usize + 1).unwrap_or(&threads[0]);
        world.put(task + THREAD_NODE, next + THREAD_NODE);
    }
    for (_, task) in &made.tasks {
        let signal = world.get(task + SIGNAL);
        world.put(signal + THREAD_HEAD, threads[0] + THREAD_NODE);
        world.put(signal + THREAD_HEAD + 8, threads[399] + THREAD_NODE);
    }
    let (ram, notes) = made.world.finish();
    let kernel = open(&ram, &notes);
    let endless = |most| {
        let damage = tasks::at_most(&kernel, most).damage;
        damage.iter().any(|d| matches!(d, Damage::Endless(_)))
    };
    assert!(!endless(1000));
    // Room for the three leaders, the first one's list, and half of the second's.
    assert!(endless(300));
    assert_eq!(tasks::at_most(&kernel, 300).items.len(), made.tasks.len() + 400);
}

/// Hundreds of processes with one long command line.
#[test]
fn command_lines_have_a_limit_together() {
    let mut made = make();
    let pgd = made.world.get(made.mm + 32);
    made.world.write(made.args, &[b'x'; 4096]);
    for n in 0..16 {
        map(&mut made.world, pgd, ARGS + n * 4096, 1, (made.args - DIRECT) | 0x67);
    }
    made.world.put(made.mm + 16 + 6 * 16, ARGS + 0x1_0000);
    let (ram, notes) = made.world.finish();
    let kernel = open(&ram, &notes);
    let one = tasks::tasks(&kernel).items.into_iter().find(|t| t.pid == 100).unwrap();
    let alike = |n| tasks::Task { pid: n, tgid: n, ..one.clone() };
    let many: Vec<tasks::Task> = (1..=1100).map(alike).collect();
    let all = tasks::processes(&kernel, &many, None).unwrap();
    let lens = |p: &Process| p.command.as_ref().unwrap().args.iter().map(String::len).sum();
    let lens: Vec<usize> = all.iter().map(lens).collect();
    assert_eq!((lens[0], lens[1000], lens[1099]), (0x1_0000, 0x1_0000, 0));
    assert!(lens.iter().sum::<usize>() <= 64 << 20);
    assert_eq!(all[1099].command.as_ref().unwrap().lost, Some(Hole::Malformed));
}

/// A leaf that has one object in all of its slots.
#[test]
fn one_mapping_is_one_whatever_leads_to_it() {
    let mut made = make();
    let world = &mut made.world;
    let (leaf, vma) = (world.alloc_page(), world.alloc(128));
    world.put(made.mm + 24, leaf | 1 << 3 | 4 | 2);
    for (n, value) in [TEXT, TEXT + 0x1000, 0x75].into_iter().enumerate() {
        world.put(vma + n as u64 * 8, value);
    }
    for n in 0..16 {
        if n < 15 {
            world.put(leaf + 8 + n * 8, (n + 1) << 32);
        }
        world.put(leaf + 128 + n * 8, vma);
    }
    let (ram, notes) = made.world.finish();
    let kernel = open(&ram, &notes);
    let found = mm::vmas(&kernel, made.mm);
    assert_eq!(found.items.iter().map(|v| v.addr).collect::<Vec<_>>(), [vma]);
    assert!(found.damage.contains(&Damage::Circle(vma)));
}

mod mutated {
    use super::*;
    use proptest::prelude::*;
    use std::sync::atomic::Ordering;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// Words of the kernel's objects and of its tables are overwritten: nothing fails
        /// over, and all of it ends soon.
        #[test]
        fn a_machine_whose_memory_is_overwritten(
            words in proptest::collection::vec((any::<u32>(), any::<u64>(), 0u8..4), 1..200),
        ) {
            let made = make();
            let nodes: Vec<u64> = made.tasks.iter().map(|(_, at)| *at).collect();
            let mm = made.mm;
            let (mut ram, notes) = made.world.finish();
            let top = nodes.iter().max().unwrap() - DIRECT + 0x1_0000;
            for (place, value, kind) in words {
                let span = top - machine::OBJECTS;
                let at = machine::OBJECTS + u64::from(place) % (span / 8) * 8;
                let value = match kind {
                    // Wild; into the objects; a task; low bits changed.
                    0 => value,
                    1 => DIRECT + machine::OBJECTS + value % span,
                    2 => nodes[usize::try_from(value % 5).unwrap()] + value % 512,
                    _ => {
                        let at = usize::try_from(at).unwrap();
                        let old: [u8; 8] = ram.bytes[at..at + 8].try_into().unwrap();
                        u64::from_le_bytes(old) ^ value & 0xff
                    }
                };
                let at = usize::try_from(at).unwrap();
                ram.bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
            }
            let kernel = open(&ram, &notes);
            let before = ram.reads.load(Ordering::Relaxed);
            let found = tasks::tasks(&kernel);
            let all = tasks::processes(&kernel, &found.items, None).unwrap();
            for command in all.iter().filter_map(|p| p.command.as_ref()) {
                let _ = command.to_string();
            }
            let found = mm::vmas(&kernel, mm);
            if let Ok(tables) = Tables::open(&kernel, mm) {
                for vma in &found.items {
                    let _ = mm::count(&tables, vma.start, vma.end.min(vma.start + (1 << 30)));
                }
            }
            // 16 MiB of memory, of which the cache keeps all: a walk without an end would
            // ask for pages that are not there, again and again.
            prop_assert!(ram.reads.load(Ordering::Relaxed) - before < 100_000);
        }
    }
}
