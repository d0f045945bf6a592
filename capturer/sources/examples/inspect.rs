//! Shows what this crate reads of a crashed machine: `inspect VMCORE`, or `inspect auto`
//! within a crash kernel. Prints kernel, memory ranges, notes and the end of the log.
#![forbid(unsafe_code)]

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use lifeboat_format::bootcfg::MemorySource;
use lifeboat_format::{PAGE, Pfn};
use lifeboat_sources::memory::{AnyMemory, OldMemory, open_auto};
use lifeboat_sources::notes::{self, Notes};
use lifeboat_sources::paging::{AddressSpace, VirtReader};
use lifeboat_sources::vmcore::Vmcore;
use lifeboat_sources::vmcoreinfo::VmcoreInfo;
use lifeboat_sources::{blockdev, kmsg, swap};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let what = args.next().ok_or("usage: inspect VMCORE|auto|oldmem|vmcore [all]")?;
    let proc = |which| open_auto(which).map(|(memory, _)| memory);
    let memory = match &*what {
        "auto" => proc(MemorySource::Auto)?,
        "oldmem" => proc(MemorySource::Oldmem)?,
        "vmcore" => proc(MemorySource::Vmcore)?,
        path => AnyMemory::Vmcore(Vmcore::open_file(Path::new(path))?),
    };
    println!("source {}", memory.kind().name());
    for r in memory.ranges() {
        println!("memory pfn {:#x}..{:#x}, {} pages", r.start.0, r.end.0, r.pages());
    }
    println!("notes {} bytes, {} lost", memory.notes().len(), memory.notes_lost());
    for note in Notes::new(memory.notes()) {
        println!(
            "note {:?} type {} of {} bytes",
            note.name.escape_ascii().to_string(),
            note.kind,
            note.desc.len()
        );
    }
    read_all(&memory)?;
    if what == "auto" {
        devices()?;
    }
    log(&memory, args.next().is_some())
}

/// Reads every page once, as a capture does.
fn read_all(memory: &AnyMemory) -> Result<(), Box<dyn Error>> {
    let (mut reader, mut buf) = (memory.reader()?, vec![0u8; 256 * PAGE]);
    let (mut pages, mut bad, mut sum) = (0u64, 0u64, 0u64);
    let began = Instant::now();
    for range in memory.ranges() {
        let mut at = range.start.0;
        while at < range.end.0 {
            let count = usize::try_from(range.end.0 - at)?.min(256);
            let part = buf.get_mut(..count * PAGE).ok_or("buffer")?;
            bad += reader.read_pages(Pfn(at), part, &mut |p| println!("bad page {:#x}", p.0))?;
            let (words, _) = part.as_chunks::<8>();
            // Depends on the order, so that two sources can be compared.
            sum = words.iter().fold(sum, |s, w| s.rotate_left(7) ^ u64::from_le_bytes(*w));
            pages += count as u64;
            at += count as u64;
        }
    }
    println!("read {pages} pages, {bad} bad, sum {sum:016x}, in {:?}", began.elapsed());
    Ok(())
}

fn devices() -> Result<(), Box<dyn Error>> {
    let blocks = blockdev::enumerate()?;
    for b in &blocks {
        println!(
            "block {} {}+{} label {:?} uuid {:?} type {:?} {:?}",
            b.name, b.start, b.len, b.partlabel, b.partuuid, b.parttype, b.table_error
        );
    }
    let plan = swap::plan(&blocks, &lifeboat_format::bootcfg::SwapPlan::Auto, &[], None);
    for d in &plan.devices {
        println!("swap {} {:?}", d.block.name, d.header);
    }
    for p in &plan.problems {
        println!("{p}");
    }
    Ok(())
}

fn log(memory: &AnyMemory, all: bool) -> Result<(), Box<dyn Error>> {
    let info = notes::vmcoreinfo(memory.notes()).ok_or("no VMCOREINFO")?;
    let info = VmcoreInfo::new(info);
    println!("osrelease {:?}, build id {:?}", info.osrelease(), info.build_id());
    let mut reader = memory.reader()?;
    let began = Instant::now();
    let mut virt = VirtReader::new(AddressSpace::new(&info)?, &mut reader);
    let mut buf = vec![0u8; 1 << 20];
    let done = kmsg::render(&info, &mut virt, &mut buf)?;
    println!("log: {done:?} in {:?}", began.elapsed());
    let text = std::str::from_utf8(buf.get(..done.len).unwrap_or_default())?;
    let skip = if all { 0 } else { text.lines().count().saturating_sub(12) };
    text.lines().skip(skip).for_each(|line| println!("{line}"));
    println!("reason: {}", kmsg::panic_reason(text));
    Ok(())
}
