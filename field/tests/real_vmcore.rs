//! A real vmcore, made a dump by the real engine, exported, and compared page by
//! page with the file that it came from. The QEMU tests do this with every part in
//! its place; this one is for trying the exporters on any vmcore by hand:
//!
//! ```text
//! LIFEBOAT_VMCORE=vmcore LIFEBOAT_OUT=dir cargo nextest run -p lifeboat --run-ignored only real_vmcore
//! ```
//! It leaves `dump`, `elf`, `kdump-zlib` and `kdump-zstd` in the directory, and the
//! last three once more, `-holes`, of a dump in which no page whose pfn is a multiple
//! of 1000 could be read.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "test code, helpers included"
)]

mod support;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

use lifeboat_field::dump::OpenDump;
use lifeboat_field::export::{Options, elf, kdump};
use lifeboat_format::Pfn;
use lifeboat_sources::vmcore::Vmcore;
use lifeboat_sources::{MemoryReader, OldMemory};
use support::{Machine, Setup, Taken, standard, take};

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

fn timed<T>(what: &str, f: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let out = f();
    eprintln!("{what}: {:.2} s", start.elapsed().as_secs_f64());
    out
}

fn dump_of(vmcore: &Vmcore, machine: &FromFile<'_>) -> Taken {
    take(&Setup {
        ranges: vmcore.ranges().to_vec(),
        swap: vec![],
        elfcorehdr: vmcore.elfcorehdr().to_vec(),
        notes: vmcore.notes().to_vec(),
        ..standard(machine)
    })
}

fn export_all(dir: &Path, dump: &OpenDump, suffix: &str) {
    let create = |name: &str| {
        let path = dir.join(format!("{name}{suffix}"));
        File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap()
    };
    let options = Options::default();
    let r = timed("elf", || elf::write(dump, &create("elf"), &options).unwrap());
    eprintln!("{} bytes, {} missing", r.len, r.missing_pages());
    for (name, how) in
        [("kdump-zlib", kdump::Compression::Zlib), ("kdump-zstd", kdump::Compression::Zstd)]
    {
        let r = timed(name, || kdump::write(dump, &create(name), how, &options).unwrap());
        eprintln!("{} bytes, {} missing", r.len, r.missing_pages());
    }
}

#[test]
#[ignore = "needs LIFEBOAT_VMCORE and LIFEBOAT_OUT"]
fn real_vmcore() {
    let dir = PathBuf::from(std::env::var_os("LIFEBOAT_OUT").unwrap());
    let path = std::env::var_os("LIFEBOAT_VMCORE").unwrap();
    let vmcore = Vmcore::open_file(Path::new(&path)).unwrap();
    let machine = FromFile(&vmcore, Mutex::new(Vec::new()), false);
    let taken = timed("capture", || dump_of(&vmcore, &machine));
    let dump = taken.open().unwrap();
    std::fs::write(dir.join("dump"), &taken.bytes).unwrap();
    let opener = dump.file().opener(taken.identity.as_ref()).unwrap();
    let v = timed("verify", || dump.file().verify(Some(&opener), &|_| {}));
    assert!(v.is_sound(), "{:?}", v.findings);
    export_all(&dir, &dump, "");
    let holed = FromFile(&vmcore, Mutex::new(Vec::new()), true);
    export_all(&dir, &dump_of(&vmcore, &holed).open().unwrap(), "-holes");
    // The ELF file once more through the capturer's own reader.
    let back = Vmcore::open_file(&dir.join("elf")).unwrap();
    assert_eq!(back.ranges(), vmcore.ranges());
    assert_eq!(back.notes(), vmcore.notes());
    let again = FromFile(&back, Mutex::new(Vec::new()), false);
    let (mut a, mut b, mut equal) = (vec![0; 4096], vec![0; 4096], 0u64);
    for page in vmcore.ranges().iter().flat_map(|r| r.start.0..r.end.0) {
        assert!(machine.page(None, page, &mut a) && again.page(None, page, &mut b));
        assert_eq!(a, b, "page {page:#x}");
        equal += 1;
    }
    eprintln!("{equal} pages equal");
}
