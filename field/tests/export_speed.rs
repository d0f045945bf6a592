//! How fast exports are, beside what bounds them: decompressing the same chunks and
//! nothing else, opening their seals and nothing else, writing the same bytes and
//! nothing else. By hand, with a vmcore of some gigabytes and a directory in RAM:
//!
//! ```text
//! LIFEBOAT_VMCORE=vmcore LIFEBOAT_OUT=/dev/shm/x cargo test --release -p lifeboat --test export_speed -- --ignored --nocapture
//! ```
//! Wall time, and the time of all CPUs, which other work on the machine changes less.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "test code, helpers included"
)]

mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use lifeboat_crypt::Opener;
use lifeboat_field::dump::{Decoder, OpenDump};
use lifeboat_field::export::{Options, elf, kdump};
use lifeboat_format::chunk::{HEADER_LEN, MAX_RAW};
use lifeboat_format::{ChunkHeader, Codec, IndexEntry, Pfn};
use lifeboat_sources::vmcore::Vmcore;
use lifeboat_sources::{MemoryReader, OldMemory};
use support::{Machine, Setup, standard, take};

const ROUNDS: usize = 3;

/// Memory from a file; now and then a page that cannot be read, if asked for.
struct FromFile<'m>(&'m Vmcore, Mutex<Vec<MemoryReader>>, bool);

impl Machine for FromFile<'_> {
    fn page(&self, _: Option<u16>, page: u64, out: &mut [u8]) -> bool {
        if self.2 && page.is_multiple_of(1000) {
            return false;
        }
        let mut reader = self.1.lock().unwrap().pop().unwrap_or_else(|| self.0.reader().unwrap());
        let mut good = true;
        reader.read_pages(Pfn(page), out, &mut |_| good = false).unwrap();
        self.1.lock().unwrap().push(reader);
        good
    }
}

/// Seconds of CPU that this process has taken: user and system, in 10 ms.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    // Fields 14 and 15 of proc(5), in clock ticks of 10 ms.
    fields[11..13].iter().map(|f| f.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

/// Runs `work` for each item, on all CPUs, each with a state of its own.
fn spread<S>(items: usize, make: impl Fn() -> S + Sync, work: impl Fn(&mut S, usize) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().unwrap().get() {
            scope.spawn(|| {
                let mut state = make();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= items {
                        break;
                    }
                    work(&mut state, n);
                }
            });
        }
    });
}

struct Bench<'a> {
    opener: Opener,
    dir: &'a Path,
    /// Header, sealed payload, opened payload of every chunk of memory.
    chunks: Vec<(ChunkHeader, Vec<u8>, Vec<u8>)>,
}

impl<'a> Bench<'a> {
    fn new(dump: &OpenDump, opener: Opener, dir: &'a Path) -> Self {
        let read = |e: &IndexEntry| {
            let mut head = [0; HEADER_LEN];
            let src = dump.file().source();
            src.read_exact_at(e.offset.0, &mut head).unwrap();
            let mut sealed = vec![0; e.stored_len as usize];
            src.read_exact_at(e.offset.0 + HEADER_LEN as u64, &mut sealed).unwrap();
            let header = ChunkHeader::decode(&head).unwrap();
            let mut open = sealed.clone();
            opener.open(&header, &mut open).unwrap();
            (header, sealed, open)
        };
        let chunks = dump.memory().entries().iter().map(read).collect();
        Self { opener, dir, chunks }
    }

    fn file(&self) -> File {
        let path = self.dir.join("out");
        let _ = std::fs::remove_file(&path);
        File::options().read(true).write(true).create_new(true).open(path).unwrap()
    }

    fn zstd(&self) {
        let make = || (zstd::bulk::Decompressor::new().unwrap(), vec![0u8; MAX_RAW]);
        spread(self.chunks.len(), make, |(zstd, buf), n| {
            let (header, _, open) = &self.chunks[n];
            if header.codec == Codec::Zstd {
                zstd.decompress_to_buffer(open, buf).unwrap();
            }
        });
    }

    fn gcm(&self) {
        spread(self.chunks.len(), Vec::new, |buf: &mut Vec<u8>, n| {
            let (header, sealed, _) = &self.chunks[n];
            buf.clear();
            buf.extend_from_slice(sealed);
            self.opener.open(header, buf).unwrap();
        });
    }

    /// As many bytes of data pages as there are, in pieces of a full chunk.
    fn write(&self, bytes: u64) {
        let (file, piece) = (self.file(), vec![0x5au8; 64 * 4096]);
        file.set_len(bytes).unwrap();
        let n = usize::try_from(bytes / piece.len() as u64).unwrap();
        spread(n, || (), |(), n| file.write_all_at(&piece, (n * piece.len()) as u64).unwrap());
    }

    fn decode(&self) {
        spread(self.chunks.len(), Decoder::new, |decoder, n| {
            let mut sealed = self.chunks[n].1.clone();
            decoder.decode(&self.opener, self.chunks[n].0, &mut sealed).unwrap();
        });
    }
}

fn measure(name: &str, dump: &OpenDump, opener: Opener, dir: &Path) {
    let bench = Bench::new(dump, opener, dir);
    let data: u64 = bench.chunks.iter().map(|c| u64::from(c.0.data_pages) * 4096).sum();
    let kdump = |how| {
        kdump::write(dump, &bench.file(), how, &Options::default()).unwrap();
    };
    let verify = || {
        let verdict = dump.file().verify(Some(&bench.opener), &|_| ());
        assert!(verdict.is_sound(), "{:?}", verdict.findings);
    };
    let cases: [(&str, &dyn Fn()); 8] = [
        ("bare zstd", &|| bench.zstd()),
        ("bare AES-GCM", &|| bench.gcm()),
        ("bare write", &|| bench.write(data)),
        ("decode", &|| bench.decode()),
        ("elf", &|| drop(elf::write(dump, &bench.file(), &Options::default()).unwrap())),
        ("kdump zlib", &|| kdump(kdump::Compression::Zlib)),
        ("kdump zstd", &|| kdump(kdump::Compression::Zstd)),
        ("verify", &verify),
    ];
    let mut times = vec![Vec::new(); cases.len()];
    for _ in 0..ROUNDS {
        for ((_, run), times) in cases.iter().zip(&mut times) {
            let (start, before) = (Instant::now(), cpu());
            run();
            times.push((start.elapsed().as_secs_f64(), cpu() - before));
        }
    }
    println!("{name}: {} chunks, {:.0} MB of data pages", bench.chunks.len(), data as f64 / 1e6);
    for ((what, _), mut times) in cases.iter().zip(times) {
        times.sort_by(|a, b| a.1.total_cmp(&b.1));
        let (wall, cpu) = times[ROUNDS / 2];
        let rate = data as f64 / 1e6;
        println!(
            "  {what:13} wall {wall:6.2} s  {:6.0} MB/s   cpu {cpu:6.2} s  {:6.0} MB/s and core",
            rate / wall,
            rate / cpu
        );
    }
    std::fs::remove_file(dir.join("out")).unwrap();
}

#[test]
#[ignore = "needs LIFEBOAT_VMCORE and LIFEBOAT_OUT"]
fn export_speed() {
    let dir = PathBuf::from(std::env::var_os("LIFEBOAT_OUT").unwrap());
    let path = std::env::var_os("LIFEBOAT_VMCORE").unwrap();
    let vmcore = Vmcore::open_file(Path::new(&path)).unwrap();
    for (name, layered, bad, dedup) in [
        ("by address", false, false, false),
        ("by layers", true, false, false),
        ("by layers, with holes", true, true, false),
        ("by layers, with holes, copies once", true, true, true),
    ] {
        let machine = FromFile(&vmcore, Mutex::new(Vec::new()), bad);
        let taken = take(&Setup {
            ranges: vmcore.ranges().to_vec(),
            swap: vec![],
            elfcorehdr: vmcore.elfcorehdr().to_vec(),
            notes: vmcore.notes().to_vec(),
            layered,
            dedup,
            ..standard(&machine)
        });
        println!("{:?}", taken.record.memory);
        let identity = taken.identity.unwrap();
        let dump = support::open(taken.bytes, Some(&identity)).unwrap();
        let opener = dump.file().opener(Some(&identity)).unwrap();
        measure(name, &dump, opener, &dir);
    }
}
