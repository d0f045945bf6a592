//! Taking memory out of a dump again, against what bounds it: one zstd decompression
//! on every core, and a plain write of as many bytes. What comes out is compared with
//! what went in, page by page.
//!
//! The dump beside the bounds holds every page, as the bare decompression does: one that
//! holds identical pages once has less to decompress, and has a row of its own.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use lifeboat_qemu::error::{Context as _, Res, ensure};
use lifeboat_qemu::paths::Scrap;
use lifeboat_qemu::vmcore::Core;

use crate::bare::{self, Chunks, Codec};
use crate::input::Variant;
use crate::lab::{Lab, named};
use crate::measure::{Go, Run, compete, program};
use crate::ours::Mode;
use crate::table;

pub(crate) fn run(lab: &mut Lab) -> Res<()> {
    let (input, path) = lab.input(Variant::Few)?;
    let (dump, once) = (lab.work.path.join("dump"), lab.work.path.join("dump.once"));
    let elf = lab.work.path.join("export.elf");
    let _scraps = [&dump, &once, &elf].map(|file| Scrap(file.clone()));
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
    let plain: Go<'_> = Box::new(move || plain_write(bytes, to));
    let out = lab.out();
    let contenders = vec![
        (threads.clone(), unzstd),
        ("plain write of the ELF's bytes".to_owned(), plain),
        program("export elf", lab.ours.export("elf", &dump, &out)),
        program("export elf, identical pages once", lab.ours.export("elf", &once, &out)),
        program("export kdump-zstd", lab.ours.export("kdump-zstd", &dump, &out)),
        program("export kdump (zlib)", lab.ours.export("kdump", &dump, &out)),
    ];
    let all = compete(lab.rounds, contenders)?;
    let bound = named(&all, &threads)?;
    let write = named(&all, "plain write of the ELF's bytes")?;
    table::title("export of the dump (zstd 1)");
    println!("{pages} pages of an exported ELF file compared with the input, all equal");
    table::runs(&all, input.data(), &[("unzstd", bound), ("write", write)]);
    let slower = bound.wall().max(write.wall());
    let elf = named(&all, "export elf")?.wall();
    println!();
    table::at_most("elf, time to the slower of both bounds", elf / slower.max(1e-9), 1.0);
    let both = bound.wall() + write.wall();
    println!("  elf, time to both bounds one behind the other: {:.3}", elf / both.max(1e-9));
    Ok(())
}

/// Writes so many bytes of a buffer that is not zero, and removes the file.
fn plain_write(bytes: u64, to: &Path) -> Res<Run> {
    let buf: Vec<u8> = (0..1u32 << 20).map(|n| (n % 251) as u8 | 1).collect();
    let start = Instant::now();
    let mut file = File::create(to).ctx(to.display())?;
    let mut left = bytes;
    while left > 0 {
        let n = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        file.write_all(buf.get(..n).unwrap_or_default()).ctx(to.display())?;
        left -= n as u64;
    }
    let wall = start.elapsed().as_secs_f64();
    fs::remove_file(to).ctx(to.display())?;
    Ok(Run { wall, out: bytes, ..Run::default() })
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
