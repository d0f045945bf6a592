//! Taking memory out of a dump again, against what bounds it: one zstd decompression
//! on every core, and a plain write of as many bytes. What comes out is compared with
//! what went in, page by page.
//!
//! Into memory, writing takes the CPUs that decompression wants too; so both stand beside
//! an export to the disk of the build folder as well, where a write is done when it is on
//! the disk, as an export is.
//!
//! The dump beside the bounds holds every page, as the bare decompression does: one that
//! holds identical pages once has less to decompress, and has a row of its own.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Instant;

use lifeboat_qemu::error::{Context as _, Res, ensure};
use lifeboat_qemu::paths::{self, Scrap};
use lifeboat_qemu::vmcore::Core;

use crate::bare::{self, Chunks, Codec};
use crate::input::Variant;
use crate::lab::{Lab, named};
use crate::measure::{Go, Run, Series, compete, program};
use crate::ours::Mode;
use crate::table;

pub(crate) fn run(lab: &mut Lab) -> Res<()> {
    let (input, path) = lab.input(Variant::Few)?;
    let (dump, once) = (lab.work.path.join("dump"), lab.work.path.join("dump.once"));
    let elf = lab.work.path.join("export.elf");
    let disk = &paths::work(DISK)?.join("out");
    let _scraps = [&dump, &once, &elf, disk].map(|file| Scrap(file.clone()));
    let zstd = Mode::of("zstd", Some(1));
    for (mode, dump) in [(zstd, &dump), (zstd.dedup(), &once)] {
        lab.ours.capture(&mode, &path, dump).keep()?;
        lab.ours.verify(dump)?;
    }
    lab.ours.export("elf", &once, &elf).keep()?;
    let (pages, bytes) = (same_pages(&path, &elf)?, allocated(&elf)?);
    fs::remove_file(&elf).ctx(elf.display())?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (threads, target) = (format!("bare zstd decompression, {cores} threads"), lab.out());
    let (packed, to) = (&Chunks::load(&path)?.packed(1)?, &target);
    let unzstd: Go<'_> = Box::new(move || bare::run(Codec::Unzstd, cores, packed));
    let plain: Go<'_> = Box::new(move || plain_write(bytes, to, Way::Cache));
    let synced: Go<'_> = Box::new(move || plain_write(bytes, disk, Way::CacheAndSync));
    let direct: Go<'_> = Box::new(move || plain_write(bytes, disk, Way::Direct));
    let out = lab.out();
    let contenders = vec![
        (threads.clone(), unzstd),
        (PLAIN.to_owned(), plain),
        program("export elf", lab.ours.export("elf", &dump, &out)),
        (SYNCED.to_owned(), synced),
        (DIRECT.to_owned(), direct),
        program(TO_DISK, lab.ours.export("elf", &dump, disk)),
        program("export elf, identical pages once", lab.ours.export("elf", &once, &out)),
        program("export kdump-zstd", lab.ours.export("kdump-zstd", &dump, &out)),
        program("export kdump (zlib)", lab.ours.export("kdump", &dump, &out)),
    ];
    let all = compete(lab.rounds, contenders)?;
    let (bound, write) = (named(&all, &threads)?, named(&all, PLAIN)?);
    table::title("export of the dump (zstd 1)");
    println!("{pages} pages of an exported ELF file compared with the input, all equal");
    println!("the disk is that of {}", disk.display());
    table::runs(&all, input.data(), &[("unzstd", bound), ("write", write)]);
    let elf = named(&all, "export elf")?;
    println!();
    let slower = |write: &Series| bound.wall().max(write.wall()).max(1e-9);
    let ratio = elf.wall() / slower(write);
    table::at_most("elf, time to the slower of both bounds, in memory", ratio, 1.0);
    let both = bound.wall() + write.wall();
    println!(
        "  elf, time to both one behind the other, in memory: {:.3}",
        elf.wall() / both.max(1e-9)
    );
    let elf = named(&all, TO_DISK)?;
    for (what, write) in [("through the cache", SYNCED), ("direct", DIRECT)] {
        let what = format!("elf, time to the slower of both bounds, disk {what}");
        table::at_most(&what, elf.wall() / slower(named(&all, write)?), 1.0);
    }
    Ok(())
}

/// The work folder on the disk.
const DISK: &str = "bench-export";
const PLAIN: &str = "plain write of the ELF's bytes";
const SYNCED: &str = "plain write to disk, and fsync";
const DIRECT: &str = "plain write to disk, O_DIRECT";
const TO_DISK: &str = "export elf to disk";
/// Bytes of one write: more than a disk's queue takes at once.
const PIECE: usize = 4 << 20;
/// Where buffers of O_DIRECT begin.
const ALIGN: usize = 4096;

/// How bytes are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Into the page cache.
    Cache,
    /// The same, and out of it.
    CacheAndSync,
    /// Past it.
    Direct,
}

/// Writes so many bytes, whole pages that are not zero, and removes the file.
fn plain_write(bytes: u64, to: &Path, way: Way) -> Res<Run> {
    let buf: Vec<u8> = (0..=250).map(|n| n | 1).cycle().take(PIECE + ALIGN).collect();
    let buf = buf.get(buf.as_ptr().align_offset(ALIGN)..).unwrap_or_default();
    let flags = if way == Way::Direct { nix::libc::O_DIRECT } else { 0 };
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).custom_flags(flags);
    let start = Instant::now();
    let mut file = options.open(to).ctx(to.display())?;
    let mut left = bytes;
    while left > 0 {
        let n = PIECE.min(usize::try_from(left).unwrap_or(usize::MAX));
        file.write_all(buf.get(..n).unwrap_or_default()).ctx(to.display())?;
        left -= n as u64;
    }
    if way != Way::Cache {
        file.sync_all().ctx(to.display())?;
    }
    let wall = start.elapsed().as_secs_f64();
    let out = file.metadata().ctx(to.display())?.len();
    fs::remove_file(to).ctx(to.display())?;
    Ok(Run { wall, out, ..Run::default() })
}

/// Bytes that a file holds: holes are not written.
fn allocated(path: &Path) -> Res<u64> {
    use std::os::unix::fs::MetadataExt as _;
    Ok(fs::metadata(path).ctx(path.display())?.blocks() * 512)
}

/// Every page of `a` must be in `b` and equal, and no others; gives their number.
fn same_pages(a: &Path, b: &Path) -> Res<u64> {
    let (a, b) = (Core::open(a)?, Core::open(b)?);
    ensure(a.memory() == b.memory(), "the export holds other ranges of memory than the input")?;
    let (mut x, mut y) = (vec![0u8; 1 << 20], vec![0u8; 1 << 20]);
    let mut pages = 0;
    for range in a.memory() {
        let mut at = range.start;
        while at < range.end {
            let want = usize::try_from(range.end - at).unwrap_or(usize::MAX).min(x.len());
            let got = a.read(at, x.get_mut(..want).unwrap_or_default())?;
            let mut have = 0;
            while have < got {
                let n = b.read(at + have as u64, y.get_mut(have..got).unwrap_or_default())?;
                ensure(n > 0, format_args!("the export lacks {:#x}", at + have as u64))?;
                have += n;
            }
            ensure(
                got > 0 && x.get(..got) == y.get(..got),
                format_args!("pages differ from {at:#x} on"),
            )?;
            pages += got as u64 / 4096;
            at += got as u64;
        }
    }
    Ok(pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_written_in_every_way_and_nothing_stays() {
        let to = paths::work("bench-plain-write").unwrap().join("out");
        for way in [Way::Cache, Way::CacheAndSync, Way::Direct] {
            for bytes in [8192, 2 * PIECE as u64 + 4096] {
                assert_eq!(plain_write(bytes, &to, way).unwrap().out, bytes, "{way:?}");
                assert!(!to.exists());
            }
        }
    }
}
