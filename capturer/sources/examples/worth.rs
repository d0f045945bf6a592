//! Says by class how many pages a vmcore holds, and how fast that was found out.
//!
//! usage: worth VMCORE [MAP]
//!
//! MAP is written with one digit for each pfn from 0 on: the number of its class
//! (`Class::ALL`), `.` where the vmcore has no memory. `tests/checkers/worth.py`
//! prints and writes the same through drgn, for comparing.

use std::error::Error;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use lifeboat_format::{PageRange, Pfn};
use lifeboat_sources::memory::{MemoryReader, OldMemory};
use lifeboat_sources::notes;
use lifeboat_sources::vmcore::Vmcore;
use lifeboat_sources::vmcoreinfo::VmcoreInfo;
use lifeboat_sources::worth::{Class, Worth, WorthReader};

type Res<T> = Result<T, Box<dyn Error>>;

/// Pages of one order.
const STEP: usize = 1 << 15;
/// How often all of memory is looked at, for the speed.
const PASSES: u32 = 8;

fn main() -> Res<()> {
    let mut args = std::env::args().skip(1);
    let vmcore = args.next().ok_or("usage: worth VMCORE [MAP]")?;
    let memory = Vmcore::open_file(Path::new(&vmcore))?;
    let info = notes::vmcoreinfo(memory.notes()).ok_or("no VMCOREINFO")?;
    let began = cpu_time()?;
    let worth = Worth::open(&VmcoreInfo::new(info), &mut memory.reader()?)?;
    let took = cpu_time()?.saturating_sub(began);
    eprintln!("{} (in {took:?} of CPU time)", worth.describe());
    let mut reader = WorthReader::new(&worth, memory.reader()?);
    let counts = match args.next() {
        Some(path) => {
            let mut map = BufWriter::new(File::create(path)?);
            let counts = pass(memory.ranges(), &mut reader, &mut map)?;
            map.flush()?;
            counts
        }
        None => pass(memory.ranges(), &mut reader, &mut std::io::sink())?,
    };
    for (class, count) in Class::ALL.iter().zip(counts) {
        println!("{:13} {count}", class.name());
    }
    eprintln!("{} pages in doubt", reader.doubts());
    speed(memory.ranges(), &mut reader)
}

/// Counts the pages of each class, and writes the map.
fn pass(
    ranges: &[PageRange],
    reader: &mut WorthReader<'_, MemoryReader>,
    map: &mut impl Write,
) -> Res<[u64; Class::ALL.len()]> {
    let mut classes = vec![Class::Kernel; STEP];
    let mut counts = [0u64; Class::ALL.len()];
    let mut at = 0;
    for range in ranges {
        (at..range.start.0).try_for_each(|_| map.write_all(b"."))?;
        at = range.start.0;
        while at < range.end.0 {
            let count = usize::try_from(range.end.0 - at)?.min(STEP);
            let part = classes.get_mut(..count).ok_or("buffer")?;
            reader.classes(Pfn(at), part);
            for class in &*part {
                *counts.get_mut(*class as usize).ok_or("class")? += 1;
            }
            let digits: Vec<u8> = part.iter().map(|c| b'0' + *c as u8).collect();
            map.write_all(&digits)?;
            at += count as u64;
        }
    }
    Ok(counts)
}

/// Pages a second, by the clock and by what was used of a CPU.
fn speed(ranges: &[PageRange], reader: &mut WorthReader<'_, MemoryReader>) -> Res<()> {
    let mut classes = vec![Class::Kernel; STEP];
    let (wall, cpu) = (Instant::now(), cpu_time()?);
    let mut pages = 0;
    for range in (0..PASSES).flat_map(|_| ranges) {
        let mut at = range.start.0;
        while at < range.end.0 {
            let count = usize::try_from(range.end.0 - at)?.min(STEP);
            reader.classes(Pfn(at), classes.get_mut(..count).ok_or("buffer")?);
            at += count as u64;
            pages += count as u64;
        }
    }
    let (wall, cpu) = (wall.elapsed(), cpu_time()?.saturating_sub(cpu));
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let rate = |time: Duration| pages as f64 / time.as_secs_f64() / 1e6;
    eprintln!(
        "{pages} pages: {:.1} million a second, {:.1} million a second of CPU time",
        rate(wall),
        rate(cpu)
    );
    Ok(())
}

/// What this thread has used of a CPU, the kernel's part included; in steps of a tick.
fn cpu_time() -> Res<Duration> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(Duration::from_nanos(text.split(' ').next().ok_or("schedstat")?.parse()?))
}
