//! Holds swapped-out pages, as they come from an exported vmcore and swap images, against the
//! record that a guest of the QEMU tests wrote of them right before its panic.
//!
//! `swapcheck VMCORE RECORD [NAME=IMAGE[:PARTUUID]]...`, where VMCORE may be
//! `ram:FILE:ADDRESS:LENGTH`, memory as QEMU keeps it in a file and its VMCOREINFO note.
//! The record has a line `page ADDRESS S PAGEMAP HASH` for each page (`tests/guest/record.c`).
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::time::Instant;

use lifeboat_inquest::swapped::{SwapEntry, Swapped};
use lifeboat_inquest::{Hole, Kernel, Machine, PAGE, Pfn, SwapDevice};

struct Files {
    core: File,
    /// First page, pages, place in the file.
    loads: Vec<(u64, u64, u64)>,
    images: Vec<File>,
    swaps: Vec<SwapDevice>,
}

impl Machine for Files {
    fn memory(&self, pfn: Pfn, out: &mut [u8; PAGE]) -> Result<(), Hole> {
        let load =
            self.loads.iter().find(|(first, count, _)| pfn.0 >= *first && pfn.0 - first < *count);
        let (first, _, at) = load.ok_or(Hole::NotCaptured)?;
        self.core.read_exact_at(out, at + (pfn.0 - first) * PAGE as u64).map_err(|_| Hole::Damaged)
    }

    fn swap(&self, device: usize, page: u64, out: &mut [u8; PAGE]) -> Result<(), Hole> {
        let image = self.images.get(device).ok_or(Hole::NotCaptured)?;
        image.read_exact_at(out, page * PAGE as u64).map_err(|_| Hole::NotCaptured)
    }

    fn swaps(&self) -> &[SwapDevice] {
        &self.swaps
    }
}

fn le(bytes: &[u8], at: usize, len: usize) -> u64 {
    let mut raw = [0; 8];
    if let (Some(to), Some(from)) = (raw.get_mut(..len), bytes.get(at..at + len)) {
        to.copy_from_slice(from);
    }
    u64::from_le_bytes(raw)
}

fn mix(x: u64) -> u64 {
    let mut h = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    h ^ (h >> 31)
}

fn open(args: &[String]) -> Result<(Files, Vec<u8>), Box<dyn Error>> {
    let first = args.first().ok_or("no vmcore")?;
    if let Some(ram) = first.strip_prefix("ram:") {
        return open_ram(ram, args);
    }
    let mut core = File::open(first)?;
    let mut head = vec![0; 1 << 20];
    let mut len = 0;
    while len < head.len() {
        match core.read(head.get_mut(len..).unwrap_or_default())? {
            0 => break,
            n => len += n,
        }
    }
    let (phoff, count) = (le(&head, 32, 8), le(&head, 56, 2));
    let (mut loads, mut notes) = (Vec::new(), Vec::new());
    for n in 0..count {
        let at = usize::try_from(phoff + n * 56)?;
        let (kind, offset, phys, size) =
            (le(&head, at, 4), le(&head, at + 8, 8), le(&head, at + 24, 8), le(&head, at + 32, 8));
        if kind == 4 {
            notes = vec![0; usize::try_from(size)?];
            core.read_exact_at(&mut notes, offset)?;
        } else if kind == 1 {
            loads.push((phys / PAGE as u64, size / PAGE as u64, offset));
        }
    }
    let (images, swaps) = devices(args)?;
    Ok((Files { core, loads, images, swaps }, notes))
}

/// Memory of a machine that QEMU keeps in a file, and where its VMCOREINFO note lies:
/// `PATH:ADDRESS:LENGTH`, as `/sys/kernel/vmcoreinfo` tells it.
fn open_ram(ram: &str, args: &[String]) -> Result<(Files, Vec<u8>), Box<dyn Error>> {
    let mut words = ram.split(':');
    let mut word = || words.next().ok_or("ram:PATH:ADDRESS:LENGTH");
    let (path, at, len) = (word()?, word()?, word()?);
    let core = File::open(path)?;
    let mut notes = vec![0; usize::from_str_radix(len, 16)?];
    core.read_exact_at(&mut notes, u64::from_str_radix(at.trim_start_matches("0x"), 16)?)?;
    let loads = vec![(0, core.metadata()?.len() / PAGE as u64, 0)];
    let (images, swaps) = devices(args)?;
    Ok((Files { core, loads, images, swaps }, notes))
}

fn devices(args: &[String]) -> Result<(Vec<File>, Vec<SwapDevice>), Box<dyn Error>> {
    let (mut images, mut swaps) = (Vec::new(), Vec::new());
    for arg in args.get(2..).unwrap_or_default() {
        let (name, rest) = arg.split_once('=').ok_or("NAME=IMAGE")?;
        let (path, uuid) = rest.split_once(':').unwrap_or((rest, ""));
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        let partuuid = Some(uuid.to_owned()).filter(|u| !u.is_empty());
        swaps.push(SwapDevice { name: name.to_owned(), bytes, uuid: None, partuuid });
        images.push(file);
    }
    Ok((images, swaps))
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (files, notes) = open(&args)?;
    let began = Instant::now();
    let kernel = Kernel::open(&files, &notes)?;
    let swapped = Swapped::open(&kernel)?;
    println!("opened in {:.3} s", began.elapsed().as_secs_f64());
    for area in swapped.areas() {
        println!("{area:?}");
    }
    println!("problems: {:#?}", swapped.problems());
    println!("modules: {:?}", kernel.module_faults());
    let record = fs::read(args.get(1).ok_or("no record")?)?;
    let record = String::from_utf8_lossy(&record);
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let mut out = [0; PAGE];
    let (mut asked, began) = (0u64, Instant::now());
    for line in record.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let ["page", at, "S", entry, hash] = words.as_slice() else { continue };
        let entry = u64::from_str_radix(entry, 16)?;
        // Documentation/admin-guide/mm/pagemap.rst: bits 0-4 type, 5-54 offset.
        let entry =
            SwapEntry { area: u8::try_from(entry & 31)?, offset: entry >> 5 & ((1 << 50) - 1) };
        asked += 1;
        let got = match swapped.page(entry, &mut out) {
            Ok(whence) => {
                let own = out.chunks_exact(8).fold(0, |h, w| mix(h ^ le(w, 0, 8)));
                let verdict = match u64::from_str_radix(hash, 16) {
                    Ok(known) if known == own => "equal",
                    Ok(_) => "DIFFERENT",
                    Err(_) => "unknown",
                };
                if verdict == "DIFFERENT" {
                    println!("{at} {entry:?}: {whence:?} differs");
                }
                format!("area {} {whence:?}: {verdict}", entry.area)
            }
            Err(hole) => format!("area {} hole: {hole}", entry.area),
        };
        *counts.entry(got).or_default() += 1;
    }
    let took = began.elapsed().as_secs_f64();
    for (what, count) in counts {
        println!("{count:8} {what}");
    }
    println!("{asked} pages in {took:.3} s, {:.0} MB/s", asked as f64 * PAGE as f64 / 1e6 / took);
    Ok(())
}
