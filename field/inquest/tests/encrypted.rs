//! Swap that dm-crypt encrypted: opened by the key in the dead kernel's memory, or told.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests are tests too")]

mod dead;

use aes::Aes256;
use aes::cipher::{Array, BlockCipherEncrypt, KeyInit};
use dead::types::Age;
use dead::world::{DEVICE, Page, World, pattern};
use lifeboat_inquest::swapped::{SwapEntry, Swapped, Under, Whence};
use lifeboat_inquest::{Hole, Kernel, PAGE};

/// Pages of the mapping, and of the device beneath before its first one.
const PAGES: u64 = 4096;
const BEFORE: u64 = 4;
const ENTRY: SwapEntry = SwapEntry { area: 0, offset: 9 };

/// How a device is encrypted.
#[derive(Clone)]
struct How {
    cipher: &'static str,
    sector: u64,
    large: bool,
    iv_offset: u64,
    key: [u8; 64],
}

fn usual() -> How {
    let mut key = [0; 64];
    key.iter_mut().zip(0u8..).for_each(|(to, n)| *to = n.wrapping_mul(37));
    How { cipher: "aes-xts-plain64", sector: 512, large: false, iv_offset: 0, key }
}

/// AES-256-XTS of one unit, written after the standard: P ↦ E(P ⊕ T) ⊕ T, T ↦ 2T.
fn encrypt(key: &[u8; 64], number: u64, unit: &mut [u8]) {
    let data = Aes256::new_from_slice(&key[..32]).unwrap();
    let mut tweak = [0; 16];
    tweak[..8].copy_from_slice(&number.to_le_bytes());
    let mut tweak = Array::from(tweak);
    Aes256::new_from_slice(&key[32..]).unwrap().encrypt_block(&mut tweak);
    let mut tweak: [u8; 16] = tweak.into();
    for bytes in unit.chunks_exact_mut(16) {
        bytes.iter_mut().zip(tweak).for_each(|(b, t)| *b ^= t);
        let mut block = Array::try_from(&bytes[..]).unwrap();
        data.encrypt_block(&mut block);
        bytes.copy_from_slice(&block);
        bytes.iter_mut().zip(tweak).for_each(|(b, t)| *b ^= t);
        let mut carry = 0;
        for byte in &mut tweak {
            (*byte, carry) = (*byte << 1 | carry, *byte >> 7);
        }
        tweak[0] ^= carry * 0x87;
    }
}

fn encrypted(how: &How, page: u64, plain: &Page) -> Page {
    let mut out = *plain;
    let step = how.sector / 512;
    for (n, unit) in (0..).zip(out.chunks_exact_mut(usize::try_from(how.sector).unwrap())) {
        let number = page * 8 + n * step + how.iv_offset;
        encrypt(&how.key, if how.large { number / step } else { number }, unit);
    }
    out
}

/// A dead kernel that swapped to it, and how; the device's name in the dump.
fn world(age: Age, how: &How, name: &str, encrypts: bool) -> World {
    let mut world = World::new(age);
    let device = world.captured(name, PAGES + BEFORE, None);
    let mut header = [0; PAGE];
    header[1024] = 1;
    header[1028..1032].copy_from_slice(&4095u32.to_le_bytes());
    header[PAGE - 10..].copy_from_slice(b"SWAPSPACE2");
    world.write(device, BEFORE, &encrypted(how, 0, &header));
    world.write(device, BEFORE + 9, &encrypted(how, 9, &pattern(9)));
    let disk = world.disk("vda");
    let under = world.bdev(disk, "vda5", PAGES + BEFORE, None);
    let disk = world.disk("dm-0");
    let bdev = world.bdev(disk, "dm-0", PAGES, None);
    let kind = if encrypts { world.symbol("crypt_target") } else { disk };
    let d = &mut world.dead;
    let [mapped, table, targets, config, dev] =
        ["mapped_device", "dm_table", "dm_target", "crypt_config", "dm_dev"]
            .map(|record| d.object(record));
    let cipher = d.text(how.cipher);
    d.set(targets, "dm_target.type", kind);
    d.set(targets, "dm_target.len", PAGES * 8);
    d.set(targets, "dm_target.private", config);
    d.set(table, "dm_table.num_targets", 1);
    d.set(table, "dm_table.targets", targets);
    d.set(mapped, "mapped_device.map", table);
    d.set(disk, "gendisk.private_data", mapped);
    d.set(dev, "dm_dev.bdev", under);
    for (path, value) in [
        ("crypt_config.dev", dev),
        ("crypt_config.start", BEFORE * 8),
        ("crypt_config.cipher_string", cipher),
        ("crypt_config.iv_offset", how.iv_offset),
        ("crypt_config.sector_size", how.sector),
        ("crypt_config.cipher_flags", u64::from(how.large) << 1),
        ("crypt_config.key_size", 64),
        ("crypt_config.key_parts", 1),
    ] {
        d.set(config, path, value);
    }
    let key = d.at(config, "crypt_config.key");
    d.bytes(key, &how.key);
    world.area(0, DEVICE, PAGES, bdev, &[(0, PAGES, 0)]);
    world
}

fn open(world: &mut World) -> (Result<(Page, Whence), Hole>, Under, String) {
    let notes = world.bury();
    let kernel = Kernel::open(&world.dead, &notes).unwrap();
    let swapped = Swapped::open(&kernel).unwrap();
    let mut out = [0; PAGE];
    let found = swapped.page(ENTRY, &mut out).map(|whence| (out, whence));
    let under = swapped.areas().next().unwrap().device.as_ref().unwrap().under;
    (found, under, swapped.problems().join("\n"))
}

#[test]
fn the_key_in_memory_opens_it() {
    for age in [Age::Old, Age::New] {
        for (sector, large, iv_offset) in
            [(512, false, 0), (512, false, 77), (4096, true, 0), (4096, false, 0), (2048, true, 8)]
        {
            let how = How { sector, large, iv_offset, ..usual() };
            let (found, under, problems) = open(&mut world(age, &how, "vdz", true));
            let want = Ok((pattern(9), Whence::Encrypted { device: 0 }));
            assert_eq!(found, want, "{age:?} {sector} {large} {problems}");
            assert_eq!((under, problems.as_str()), (Under::Unlocked(0), ""));
        }
    }
}

#[test]
fn what_stays_closed_says_why() {
    let age = Age::New;
    // Another key, as after `luksSuspend`: the header does not come out.
    let mut wiped = world(age, &usual(), "vdz", true);
    let info = wiped.dead.get(wiped.symbol("swap_info"));
    let mut at = wiped.dead.get(wiped.dead.at(info, "swap_info_struct.bdev"));
    for step in [
        "block_device.bd_disk",
        "gendisk.private_data",
        "mapped_device.map",
        "dm_table.targets",
        "dm_target.private",
    ] {
        at = wiped.dead.get(wiped.dead.at(at, step));
    }
    let key = wiped.dead.at(at, "crypt_config.key");
    wiped.dead.bytes(key, &[0; 64]);
    let (found, under, problems) = open(&mut wiped);
    assert_eq!((found, under), (Err(Hole::Encrypted), Under::Encrypted));
    assert!(problems.contains("its key does not open it"), "{problems}");
    // A cipher that is not read; a device that is not there.
    let how = How { cipher: "serpent-xts-plain64", ..usual() };
    let (found, _, problems) = open(&mut world(age, &how, "vdz", true));
    assert_eq!(found, Err(Hole::Encrypted));
    assert!(problems.contains("serpent-xts-plain64 is not read"), "{problems}");
    let mut other = world(age, &usual(), "vdz", true);
    other.dead.swaps.clear();
    other.dead.disks.clear();
    let (found, _, problems) = open(&mut other);
    assert_eq!(found, Err(Hole::Encrypted));
    assert!(problems.contains("vda5, was not captured"), "{problems}");
    // A mapping that does not encrypt is a device like others, and not here.
    let (found, under, problems) = open(&mut world(age, &usual(), "vdz", false));
    assert_eq!((found, under), (Err(Hole::SwapNotCaptured), Under::NotCaptured));
    assert_eq!(problems, "");
}

#[test]
fn no_key_is_ever_printed() {
    let mut world = world(Age::New, &usual(), "vdz", true);
    let notes = world.bury();
    let kernel = Kernel::open(&world.dead, &notes).unwrap();
    let swapped = Swapped::open(&kernel).unwrap();
    let text = format!("{swapped:?}");
    assert!(text.contains("Crypt"), "it is there at all");
    let key = usual().key;
    let listed: Vec<String> = key[1..4].iter().map(u8::to_string).collect();
    assert!(!text.contains(&listed.join(", ")), "{text}");
}
