//! Pages that zswap and zram keep compressed, in each of their pools, as an older and a newer
//! kernel do; and what becomes of them where that is damaged.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests are tests too")]

mod dead;

use dead::DIRECT;
use dead::types::Age;
use dead::world::{DEVICE, Page, World, pattern};
use lifeboat_inquest::swapped::{SwapEntry, Swapped, Whence};
use lifeboat_inquest::{Hole, Kernel, PAGE};
use proptest::prelude::*;

const AGES: [Age; 2] = [Age::Old, Age::New];
const PAGES: u64 = 20_000;

fn entry(area: u8, offset: u64) -> SwapEntry {
    SwapEntry { area, offset }
}

fn answer(world: &World, notes: &[u8], entry: SwapEntry) -> Result<(Page, Whence), Hole> {
    let kernel = Kernel::open(&world.dead, notes).unwrap();
    let swapped = Swapped::open(&kernel).unwrap();
    assert_eq!(swapped.problems(), [""; 0]);
    let mut out = [0xee; PAGE];
    swapped.page(entry, &mut out).map(|whence| (out, whence))
}

fn lz4(page: &Page) -> Vec<u8> {
    lz4_flex::block::compress(page)
}

fn zstd(page: &Page) -> Vec<u8> {
    zstd::bulk::compress(page, 3).unwrap()
}

/// "abcd" and 4092 zeros, by the instruction of LZO-RLE: two runs of 2046.
fn rle() -> (Page, Vec<u8>) {
    let mut page = [0; PAGE];
    page[..4].copy_from_slice(b"abcd");
    let run = [0x18 | 2, 0xfc, 0xff, 255];
    (page, [&[17, 1, 21][..], b"abcd", &run, &run, &[0x11, 0, 0]].concat())
}

/// A zram device of 4096 pages as area 0, and its table.
fn on_zram(age: Age, codecs: &[&str]) -> (World, dead::world::Pool, u64) {
    let mut world = World::new(age);
    let pool = world.pool();
    let (disk, table) = world.zram(pool, 4096, codecs);
    let bdev = world.bdev(disk, "zram0", 4096, None);
    world.area(0, DEVICE, 4096, bdev, &[(0, 4096, 0)]);
    (world, pool, table)
}

/// Bits of the flags of a page of zram: the same word over and over, written back.
fn bits(age: Age) -> (u64, u64) {
    if age == Age::Old { (1 << 14, 1 << 15) } else { (1 << 13, 1 << 14) }
}

#[test]
fn zram_of_every_kind() {
    for age in AGES {
        let (mut world, pool, table) = on_zram(age, &["lz4", "zstd"]);
        // Objects of 1360 bytes on four pages: number 3 and 6 straddle two of them.
        let zspage = world.zspage(pool, 77, 1360, 4);
        let mut want = Vec::new();
        for number in 0..12 {
            let page = pattern(number);
            let packed = lz4(&page);
            assert!(packed.len() <= 1352, "{}", packed.len());
            let handle = world.object(&zspage, number, &packed);
            world.slot(table, 10 + number, handle, packed.len() as u64);
            want.push((10 + number, page, Whence::Zram));
        }
        // One that could not be compressed.
        let huge = world.zspage(pool, 254, PAGE as u64, 1);
        let handle = world.object(&huge, 0, &pattern(90));
        world.slot(table, 40, handle, PAGE as u64);
        want.push((40, pattern(90), Whence::Zram));
        // One word, and none at all.
        let (same, _) = bits(age);
        world.slot(table, 41, 0x0123_4567_89ab_cdef, same);
        let mut words = [0; PAGE];
        for word in words.chunks_exact_mut(8) {
            word.copy_from_slice(&0x0123_4567_89ab_cdefu64.to_le_bytes());
        }
        want.push((41, words, Whence::SameFilled));
        want.push((42, [0; PAGE], Whence::SameFilled));
        if age == Age::New {
            // Recompressed by the second codec.
            let packed = zstd(&pattern(91));
            let handle = world.object(&zspage, 11, &packed);
            world.slot(table, 43, handle, packed.len() as u64 | 1 << 19);
            want.push((43, pattern(91), Whence::Zram));
            want.remove(11);
        }
        let notes = world.bury();
        for (offset, page, whence) in want {
            let found = answer(&world, &notes, entry(0, offset));
            assert_eq!(found, Ok((page, whence)), "{age:?} {offset}");
        }
    }
}

#[test]
fn zram_by_lzo_rle() {
    for age in AGES {
        let (mut world, pool, table) = on_zram(age, &["lzo-rle"]);
        let zspage = world.zspage(pool, 1, 48, 1);
        let (page, packed) = rle();
        let handle = world.object(&zspage, 5, &packed);
        world.slot(table, 9, handle, packed.len() as u64);
        let notes = world.bury();
        assert_eq!(answer(&world, &notes, entry(0, 9)), Ok((page, Whence::Zram)));
    }
}

#[test]
fn damage_of_zram_is_told() {
    for age in AGES {
        let (mut world, pool, table) = on_zram(age, &["lz4"]);
        let zspage = world.zspage(pool, 77, 1360, 4);
        let packed = lz4(&pattern(1));
        let good = world.object(&zspage, 1, &packed);
        let torn = world.object(&zspage, 2, &vec![0xff; packed.len()]);
        let len = packed.len() as u64;
        let (_, written_back) = bits(age);
        let lost = world.object(&zspage, 4, &packed);
        for (offset, handle, flags) in [
            (1, torn, len),
            (2, good + 1, len),
            (3, good, 0),
            (4, good, 1353),
            (5, good, len | written_back),
            (6, 0xdead_0000_0000_0100, len),
            (7, lost, len),
        ] {
            world.slot(table, offset, handle, flags);
        }
        // Another object's handle stands at its place.
        world.dead.put(lost, world.dead.get(good));
        let notes = world.bury();
        let got: Vec<Hole> =
            (1..8).map(|n| answer(&world, &notes, entry(0, n)).unwrap_err()).collect();
        let (bad, elsewhere) = (Hole::Malformed, Hole::SwapNotCaptured);
        let want = [Hole::Undecodable, bad, bad, bad, elsewhere, got[5], bad];
        assert_eq!(got, want, "{age:?}");
        assert!(matches!(got[5], Hole::NotMapped | Hole::Malformed), "{:?}", got[5]);
    }
}

#[test]
fn zram_with_what_is_not_read() {
    for age in AGES {
        let (mut world, pool, table) = on_zram(age, &["deflate"]);
        let zspage = world.zspage(pool, 77, 1360, 4);
        let handle = world.object(&zspage, 1, &[1; 100]);
        world.slot(table, 1, handle, 100);
        let notes = world.bury();
        assert_eq!(answer(&world, &notes, entry(0, 1)), Err(Hole::Unsupported));
    }
    // A dictionary.
    let (mut world, pool, table) = on_zram(Age::New, &["zstd"]);
    let zspage = world.zspage(pool, 77, 1360, 4);
    let packed = zstd(&pattern(1));
    let handle = world.object(&zspage, 1, &packed);
    world.slot(table, 1, handle, packed.len() as u64);
    let notes = world.bury();
    assert_eq!(answer(&world, &notes, entry(0, 1)), Ok((pattern(1), Whence::Zram)));
    let info = world.dead.get(world.symbol("swap_info"));
    let bdev = world.dead.get(world.dead.at(info, "swap_info_struct.bdev"));
    let disk = world.dead.get(world.dead.at(bdev, "block_device.bd_disk"));
    let zram = world.dead.get(world.dead.at(disk, "gendisk.private_data"));
    let params = world.dead.at(zram, "zram.params");
    world.dead.put(world.dead.at(params, "zcomp_params.dict_sz"), 4096);
    assert_eq!(answer(&world, &notes, entry(0, 1)), Err(Hole::Unsupported));
}

/// A captured device as area 1, which has something else in every place.
fn before_disk(age: Age) -> World {
    let mut world = World::new(age);
    let device = world.captured("vda2", PAGES, None);
    let disk = world.disk("vda");
    let bdev = world.bdev(disk, "vda2", PAGES, None);
    world.area(1, DEVICE, PAGES, bdev, &[(0, PAGES, 0)]);
    for page in [5, 6, 16_484] {
        world.write(device, page, &pattern(5000 + page));
    }
    world
}

#[test]
fn zswap_in_zsmalloc() {
    for age in AGES {
        let mut world = before_disk(age);
        let pool = world.pool();
        let zspage = world.zspage(pool, 77, 1360, 4);
        let (by_lz4, by_zstd) = (
            world.zswap_pool("zsmalloc", "lz4", pool.0, false),
            world.zswap_pool("zsmalloc", "zstd", pool.0, false),
        );
        for (number, offset) in [(3, 5), (6, 16_484)] {
            let packed = lz4(&pattern(number));
            let handle = world.object(&zspage, number, &packed);
            world.zswap(entry(1, offset), by_lz4, handle, packed.len());
        }
        let packed = zstd(&pattern(99));
        let handle = world.object(&zspage, 7, &packed);
        world.zswap(entry(1, 777), by_zstd, handle, packed.len());
        let notes = world.bury();
        for (offset, number) in [(5, 3), (16_484, 6), (777, 99)] {
            let found = answer(&world, &notes, entry(1, offset));
            assert_eq!(found, Ok((pattern(number), Whence::Zswap)), "{age:?} {offset}");
        }
        // What zswap does not have, or wrote back, is on the device.
        let found = answer(&world, &notes, entry(1, 6));
        assert_eq!(found, Ok((pattern(5006), Whence::Disk { device: 0 })));
    }
}

#[test]
fn zswap_in_zbud_with_its_header() {
    for age in AGES {
        let mut world = before_disk(age);
        let evictable = age == Age::Old;
        let pool = world.zswap_pool("zbud", "lz4", 0, evictable);
        let pfn = world.dead.page();
        let header = DIRECT + pfn.0 * PAGE as u64;
        for (first, offset) in [(true, 5), (false, 6)] {
            let mut bytes = lz4(&pattern(offset));
            let len = bytes.len();
            if evictable {
                bytes.splice(0..0, entry(1, offset).val().to_le_bytes());
            }
            let chunks = bytes.len().div_ceil(64) as u64;
            let (field, handle) = if first {
                ("zbud_header.first_chunks", header + 64)
            } else {
                ("zbud_header.last_chunks", header + PAGE as u64 - chunks * 64)
            };
            world.dead.set(header, field, chunks);
            world.dead.bytes(handle, &bytes);
            world.zswap(entry(1, offset), pool, handle, len);
        }
        let notes = world.bury();
        for offset in [5, 6] {
            let found = answer(&world, &notes, entry(1, offset));
            assert_eq!(found, Ok((pattern(offset), Whence::Zswap)), "{age:?} {offset}");
        }
        // A header of another entry, or fewer chunks than the object takes.
        if evictable {
            world.dead.put(header + 64, entry(1, 8).val());
        } else {
            world.dead.set(header, "zbud_header.first_chunks", 1);
        }
        assert_eq!(answer(&world, &notes, entry(1, 5)), Err(Hole::Malformed), "{age:?}");
    }
}

#[test]
fn zswap_in_z3fold() {
    for age in AGES {
        let mut world = before_disk(age);
        let pool = world.zswap_pool("z3fold", "lz4", 0, false);
        let pfn = world.dead.page();
        let header = DIRECT + pfn.0 * PAGE as u64;
        // The numbers of the three may be turned round.
        world.dead.set(header, "z3fold_header.first_num", 2);
        world.dead.set(header, "z3fold_header.start_middle", 24);
        for (buddy, offset) in [(1, 5), (2, 6), (3, 7)] {
            let packed = lz4(&pattern(offset));
            let chunks = packed.len().div_ceil(64) as u64;
            assert!(chunks <= 20, "{chunks}");
            let at = match buddy {
                1 => 128,
                2 => 24 * 64,
                _ => PAGE as u64 - chunks * 64,
            };
            world.dead.bytes(header + at, &packed);
            let number = (buddy + 2) & 3;
            let low = if buddy == 3 { chunks << 2 | number } else { number };
            let handle = world.dead.room(8, 8);
            world.dead.put(handle, header | low);
            world.zswap(entry(1, offset), pool, handle, packed.len());
        }
        // One with a page for itself.
        let alone = DIRECT + world.dead.page().0 * PAGE as u64;
        let packed = lz4(&pattern(8));
        world.dead.bytes(alone, &packed);
        world.zswap(entry(1, 8), pool, alone | 1, packed.len());
        let notes = world.bury();
        for offset in 5..9 {
            let found = answer(&world, &notes, entry(1, offset));
            assert_eq!(found, Ok((pattern(offset), Whence::Zswap)), "{age:?} {offset}");
        }
    }
}

#[test]
fn zswap_of_one_word_and_in_a_circle() {
    let mut world = before_disk(Age::Old);
    world.zswap(entry(1, 5), 0, 0x5555_5555_5555_5555, 0);
    let looped = world.zswap(entry(1, 6), 0, 0, 0);
    let notes = world.bury();
    let found = answer(&world, &notes, entry(1, 5));
    assert_eq!(found, Ok(([0x55; PAGE], Whence::SameFilled)));
    world.dead.set(looped, "rb_node.rb_right", looped);
    assert_eq!(answer(&world, &notes, entry(1, 900)), Err(Hole::Malformed));
    // A newer kernel has no such thing: an entry without a length is damage, and so is one
    // of another page.
    let mut world = before_disk(Age::New);
    world.zswap(entry(1, 5), 0, 0x5555_5555_5555_5555, 0);
    let other = world.zswap(entry(1, 6), 0, 0, 0);
    world.dead.put(other, entry(1, 7).val());
    let notes = world.bury();
    assert_eq!(answer(&world, &notes, entry(1, 5)), Err(Hole::Malformed));
    assert_eq!(answer(&world, &notes, entry(1, 6)), Err(Hole::Malformed));
}

/// One of everything, for damage.
fn everything(age: Age) -> (World, Vec<u8>, Vec<(SwapEntry, Page)>) {
    let (mut world, pool, table) = on_zram(age, &["lz4", "zstd"]);
    let zspage = world.zspage(pool, 77, 1360, 4);
    let device = world.captured("vda2", PAGES, None);
    let disk = world.disk("vda");
    let bdev = world.bdev(disk, "vda2", PAGES, None);
    world.area(1, DEVICE, PAGES, bdev, &[(0, 100, 0), (100, PAGES - 100, 100)]);
    let zswap = world.zswap_pool("zsmalloc", "lz4", pool.0, false);
    let mut want = Vec::new();
    for number in 0..10 {
        let packed = lz4(&pattern(number));
        let handle = world.object(&zspage, number, &packed);
        if number < 5 {
            world.slot(table, number + 1, handle, packed.len() as u64);
            want.push((entry(0, number + 1), pattern(number)));
        } else {
            world.zswap(entry(1, number), zswap, handle, packed.len());
            want.push((entry(1, number), pattern(number)));
        }
    }
    world.cache(entry(1, 50), 1 << 2 | 1 << 10, &pattern(50));
    want.push((entry(1, 50), pattern(50)));
    world.write(device, 300, &pattern(300));
    want.push((entry(1, 300), pattern(300)));
    let notes = world.bury();
    (world, notes, want)
}

#[test]
fn everything_is_there_before_the_damage() {
    for age in AGES {
        let (world, notes, want) = everything(age);
        for (entry, page) in want {
            assert_eq!(answer(&world, &notes, entry).unwrap().0, page, "{age:?} {entry:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Words of the machine's objects are overwritten: each question still has an answer.
    #[test]
    fn wild_words_end_in_holes(
        old in any::<bool>(),
        words in proptest::collection::vec((any::<prop::sample::Index>(), 0u8..5, any::<u64>()), 1..40),
    ) {
        let (mut world, notes, want) = everything(if old { Age::Old } else { Age::New });
        // Where something is: most of the rest is zeros.
        let busy: Vec<u64> = (0x80_0000..0x100_0000u64)
            .step_by(8)
            .map(|at| DIRECT + at)
            .filter(|at| world.dead.get(*at) != 0)
            .collect();
        for (at, how, value) in words {
            let at = busy[at.index(busy.len())];
            let new = match how {
                0 => value,
                1 => at,
                2 => busy[usize::try_from(value % busy.len() as u64).unwrap()],
                3 => world.dead.get(at) ^ 1 << (value % 64),
                _ => value % 4096,
            };
            world.dead.put(at, new);
        }
        let Ok(kernel) = Kernel::open(&world.dead, &notes) else { return Ok(()) };
        let Ok(swapped) = Swapped::open(&kernel) else { return Ok(()) };
        let mut out = [0; PAGE];
        for (entry, _) in want {
            // A page of something else is possible where the words still fit together.
            let _ = swapped.page(entry, &mut out);
        }
    }
}
