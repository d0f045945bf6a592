//! Swapped-out pages of two dead kernels, an older and a newer one, from every place that they
//! may be in; and what becomes of them where the kernel's structures are damaged.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests are tests too")]

mod dead;

use std::error::Error;

use dead::types::Age;
use dead::world::{DEVICE, DIRTY, Page, SWAPCACHE, UPTODATE, USED, World, pattern};
use dead::{DIRECT, Dead};
use lifeboat_inquest::swapped::{SwapEntry, Swapped, Under, Whence};
use lifeboat_inquest::{Hole, Kernel, PAGE};

type Outcome = Result<(), Box<dyn Error>>;

const AGES: [Age; 2] = [Age::Old, Age::New];
/// Pages of the swap device: more than the 2^14 that share a space of the cache.
const PAGES: u64 = 20_000;
const THERE: u64 = UPTODATE | SWAPCACHE;

fn entry(area: u8, offset: u64) -> SwapEntry {
    SwapEntry { area, offset }
}

/// What a dead kernel has for an entry.
fn ask(world: &mut World, entry: SwapEntry) -> Result<(Page, Whence), Hole> {
    let notes = world.bury();
    answer(&world.dead, &notes, entry)
}

fn answer(dead: &Dead, notes: &[u8], entry: SwapEntry) -> Result<(Page, Whence), Hole> {
    let kernel = Kernel::open(dead, notes).unwrap();
    let swapped = Swapped::open(&kernel).unwrap();
    assert_eq!(swapped.problems(), [""; 0]);
    let mut out = [0xee; PAGE];
    swapped.page(entry, &mut out).map(|whence| (out, whence))
}

/// A kernel with one captured swap device as area 0.
fn on_disk(age: Age) -> World {
    let mut world = World::new(age);
    let uuid = "0badcafe-0002-4000-8000-00c0ffee0001";
    let device = world.captured("vdb2", PAGES, Some(uuid));
    let disk = world.disk("vda");
    let bdev = world.bdev(disk, "vda2", PAGES, Some(uuid));
    world.area(0, DEVICE, PAGES, bdev, &[(0, PAGES, 0)]);
    for page in [7, 9, 16_484] {
        world.write(device, page, &pattern(page));
    }
    world
}

#[test]
fn pages_of_a_captured_device() {
    for age in AGES {
        let mut world = on_disk(age);
        let notes = world.bury();
        for page in [7, 9, 16_484] {
            let found = answer(&world.dead, &notes, entry(0, page));
            assert_eq!(found, Ok((pattern(page), Whence::Disk { device: 0 })), "{age:?} {page}");
        }
        for wrong in [entry(0, 0), entry(0, PAGES), entry(1, 7), entry(31, 7)] {
            assert_eq!(answer(&world.dead, &notes, wrong), Err(Hole::Malformed), "{wrong:?}");
        }
        let kernel = Kernel::open(&world.dead, &notes).unwrap();
        let swapped = Swapped::open(&kernel).unwrap();
        let areas: Vec<_> = swapped.areas().collect();
        assert_eq!((areas.len(), areas[0].priority, areas[0].pages), (1, -2, PAGES));
        let device = areas[0].device.as_ref().unwrap();
        assert_eq!((device.name.as_str(), device.under), ("vda2", Under::Captured(0)));
    }
}

/// Where the UUID of a partition is lost, another device of the same size is not taken for it.
#[test]
fn a_lost_uuid_is_not_none() {
    for age in AGES {
        let mut world = World::new(age);
        let device = world.captured("vdc", PAGES, None);
        world.write(device, 7, &pattern(7));
        let disk = world.disk("vda");
        let bdev = world.bdev(disk, "vda2", PAGES, None);
        world.area(0, DEVICE, PAGES, bdev, &[(0, PAGES, 0)]);
        let lost = world.dead.page();
        let notes = world.bury();
        let ask = |dead: &Dead| answer(dead, &notes, entry(0, 7));
        assert_eq!(ask(&world.dead), Ok((pattern(7), Whence::Disk { device: 0 })), "{age:?}");
        // There is one, but the dump lacks it.
        let meta = DIRECT + lost.0 * PAGE as u64;
        world.dead.set(bdev, "block_device.bd_meta_info", meta);
        world.dead.lost.push(lost.0);
        assert_eq!(ask(&world.dead), Err(Hole::SwapNotCaptured), "{age:?}");
    }
}

/// Of two disks of one size and one kind of header, one was captured: whose pages it has, nobody
/// can tell; unless the table of partitions does.
#[test]
fn one_device_is_not_two_areas() {
    const UUID: &str = "0badcafe-0002-4000-8000-00c0ffee0001";
    for age in AGES {
        for known in [None, Some(UUID)] {
            let mut world = World::new(age);
            let device = world.captured("vdc", PAGES, known);
            world.write(device, 7, &pattern(7));
            for (number, name, uuid) in [(0, "vdb", None), (1, "vdc", known)] {
                let disk = world.disk(name);
                let bdev = world.bdev(disk, name, PAGES, uuid);
                world.area(number, DEVICE, PAGES, bdev, &[(0, PAGES, 0)]);
            }
            let notes = world.bury();
            let kernel = Kernel::open(&world.dead, &notes).unwrap();
            let swapped = Swapped::open(&kernel).unwrap();
            let ask = |area| {
                let mut out = [0xee; PAGE];
                swapped.page(entry(area, 7), &mut out).map(|whence| (out, whence))
            };
            let lost = Err(Hole::SwapNotCaptured);
            let there = Ok((pattern(7), Whence::Disk { device: 0 }));
            assert_eq!(ask(0), lost, "{age:?}");
            assert_eq!(ask(1), if known.is_some() { there } else { lost }, "{age:?}");
            let told = swapped.problems().iter().filter(|p| p.contains("another area's")).count();
            assert_eq!(told, if known.is_some() { 1 } else { 2 });
        }
    }
}

#[test]
fn the_swap_cache_comes_first() {
    for age in AGES {
        // Beyond the first 64 MiB the two kernels count differently.
        for offset in [7, 16_484] {
            let entry = entry(0, offset);
            let mut world = on_disk(age);
            world.cache(entry, THERE | DIRTY, &pattern(1000));
            assert_eq!(ask(&mut world, entry), Ok((pattern(1000), Whence::SwapCache)), "{age:?}");
            // Still being read: the device has it.
            let mut world = on_disk(age);
            world.cache(entry, SWAPCACHE, &pattern(1000));
            let device = Ok((pattern(offset), Whence::Disk { device: 0 }));
            assert_eq!(ask(&mut world, entry), device, "{age:?}");
            // Another's page in its place.
            let mut world = on_disk(age);
            let pfn = world.cache(entry, THERE, &pattern(1000));
            let other = SwapEntry { area: 3, ..entry };
            world.dead.set(Dead::struct_page(pfn), "page.private", other.val());
            assert_eq!(ask(&mut world, entry), Err(Hole::Malformed), "{age:?}");
            // Lost: the device has the same only if nothing was written since.
            for (flags, want) in [(THERE, device), (THERE | DIRTY, Err(Hole::Unreadable))] {
                let mut world = on_disk(age);
                let pfn = world.cache(entry, flags, &pattern(1000));
                world.dead.lost.push(pfn.0);
                assert_eq!(ask(&mut world, entry), want, "{age:?} {flags:#x}");
            }
        }
    }
}

#[test]
fn a_large_folio_of_the_swap_cache() {
    for age in AGES {
        for tail_is_its_own in [true, false] {
            let mut world = on_disk(age);
            let head = world.cache(entry(0, 64), THERE | DIRTY, &pattern(1));
            let pfn = world.dead.page();
            assert_eq!(pfn.0, head.0 + 1, "pages are handed out in order");
            world.dead.bytes(DIRECT + pfn.0 * PAGE as u64, &pattern(2));
            let page = Dead::struct_page(head);
            let mark = if tail_is_its_own { 0 } else { page | 1 };
            world.dead.set(Dead::struct_page(pfn), "page.compound_head", mark);
            world.cache_at(entry(0, 65), page);
            let found = ask(&mut world, entry(0, 65));
            if tail_is_its_own {
                assert_eq!(found, Err(Hole::Malformed));
            } else {
                assert_eq!(found, Ok((pattern(2), Whence::SwapCache)));
            }
        }
    }
}

#[test]
fn pages_of_zeros_that_were_never_written() {
    let mut world = on_disk(Age::New);
    let info = world.dead.get(world.symbol("swap_info"));
    let bits = world.dead.get(world.dead.at(info, "swap_info_struct.zeromap"));
    world.dead.put(bits + 16_484 / 64 * 8, 1 << (16_484 % 64));
    let notes = world.bury();
    let zeros = answer(&world.dead, &notes, entry(0, 16_484));
    assert_eq!(zeros, Ok(([0; PAGE], Whence::SameFilled)));
    let other = answer(&world.dead, &notes, entry(0, 9)).unwrap();
    assert_eq!(other, (pattern(9), Whence::Disk { device: 0 }));
}

#[test]
fn a_swap_file_lies_in_pieces() {
    for age in AGES {
        let mut world = World::new(age);
        // A file system on a device that happens to be captured.
        let device = world.captured("vdb", 4096, None);
        let disk = world.disk("vdb");
        let bdev = world.bdev(disk, "vdb", 4096, None);
        let pieces = [(0, 10, 500), (10, 50, 2000), (60, 1, 77), (61, 300, 1000), (361, 5, 3000)];
        world.area(0, USED, 366, bdev, &pieces);
        for (offset, page) in [(1, 501), (9, 509), (10, 2000), (60, 77), (61, 1000), (365, 3004)] {
            world.write(device, page, &pattern(offset));
        }
        let notes = world.bury();
        for offset in [1, 9, 10, 60, 61, 365] {
            let found = answer(&world.dead, &notes, entry(0, offset));
            assert_eq!(found, Ok((pattern(offset), Whence::Disk { device })), "{offset}");
        }
        // One whose device was not captured.
        let mut world = World::new(age);
        let disk = world.disk("vda");
        let bdev = world.bdev(disk, "vda1", 9999, None);
        world.area(0, USED, 366, bdev, &pieces);
        let notes = world.bury();
        assert_eq!(answer(&world.dead, &notes, entry(0, 9)), Err(Hole::SwapFileNotCaptured));
        // One that its file system moves around.
        world.area(0, USED | 256, 366, bdev, &pieces);
        assert_eq!(answer(&world.dead, &notes, entry(0, 9)), Err(Hole::SwapFileNotCaptured));
    }
}

#[test]
fn trees_that_lead_in_a_circle_end() {
    for age in AGES {
        let mut world = on_disk(age);
        let notes = world.bury();
        let info = world.dead.get(world.symbol("swap_info"));
        let top = world.dead.get(world.dead.at(info, "swap_info_struct.swap_extent_root"));
        // The extent is of other pages, and its right branch is itself.
        world.dead.put(top + 24, 0);
        world.dead.put(top + 32, 1);
        world.dead.set(top, "rb_node.rb_right", top);
        assert_eq!(answer(&world.dead, &notes, entry(0, 9)), Err(Hole::Malformed), "{age:?}");
        // A node of the cache that is its own child.
        let mut world = on_disk(age);
        world.cache(entry(0, 9), THERE, &pattern(1));
        let notes = world.bury();
        let space = world.dead.get(world.symbol("swapper_spaces"));
        let head = space + 8 + 8;
        let node = world.dead.get(head) & !3;
        world.dead.put(node + 40, node | 2);
        assert_eq!(answer(&world.dead, &notes, entry(0, 9)), Err(Hole::Malformed), "{age:?}");
        // Fewer spaces than the area's size gives: it is split in another way.
        let mut world = on_disk(age);
        let notes = world.bury();
        let counts = world.symbol("nr_swapper_spaces");
        world.dead.bytes(counts, &1u32.to_le_bytes());
        assert_eq!(answer(&world.dead, &notes, entry(0, 9)), Err(Hole::Malformed), "{age:?}");
    }
}

#[test]
fn a_kernel_with_another_swap_cache_gives_nothing_old() -> Outcome {
    let mut world = on_disk(Age::New);
    let notes = world.bury_without("swapper_spaces");
    let kernel = Kernel::open(&world.dead, &notes)?;
    let swapped = Swapped::open(&kernel)?;
    assert!(swapped.problems().iter().any(|p| p.contains("swapper_spaces")));
    let mut out = [0; PAGE];
    assert_eq!(swapped.page(entry(0, 9), &mut out), Err(Hole::Unsupported));
    Ok(())
}
