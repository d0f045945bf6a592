//! The input: vmcores of at least 4 GiB of realistic memory, from a guest that
//! really panicked, made once and kept in the cache.

pub(crate) mod cache;
pub(crate) mod core;
pub(crate) mod disk;
pub(crate) mod guest;
pub(crate) mod survey;
pub(crate) mod wide;

use std::fs;
use std::path::{Path, PathBuf};

use lifeboat_qemu::error::{Context as _, Res};
use lifeboat_qemu::paths::workspace;
use lifeboat_qemu::provision::{Kernel, Victim, kernel};

use self::cache::Key;
use crate::shm::Folder;

/// Changed when the way of making changes and the orders do not.
const LAYOUT: u32 = 2;

/// Which guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    /// 6.1 with few duplicate pages, the ordinary case.
    Few,
    /// 6.1 with many duplicate pages.
    Many,
    /// 6.12, filled as [`Variant::Few`], for the filter.
    Few612,
}

/// What the guest's memory is filled with, in MiB.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spec {
    /// The machine's memory, reservation included.
    pub memory_mib: u64,
    /// Anonymous pages that were touched and hold zeros.
    pub zero_mib: u64,
    /// Bytes without order.
    pub random_mib: u64,
    /// A heap of records and pointers.
    pub table_mib: u64,
    /// Interpreters with a heap each.
    pub heaps: u64,
    /// Size of each.
    pub heap_mib: u64,
    /// A log.
    pub log_mib: u64,
    /// Copied files.
    pub copies_mib: u64,
}

impl Variant {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Few, Self::Many, Self::Few612];

    /// Its name on the command line and in tables.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Few => "few",
            Self::Many => "many",
            Self::Few612 => "few-6.12",
        }
    }

    fn victim(self) -> Victim {
        match self {
            Self::Few | Self::Many => Victim::Cloud61,
            Self::Few612 => Victim::Cloud612,
        }
    }

    /// What it is filled with.
    #[must_use]
    pub(crate) fn spec(self) -> Spec {
        let few = Spec {
            // 4 GiB of it are dumped: the reservation and the low 1 MiB are not.
            memory_mib: 4304,
            zero_mib: 270,
            random_mib: 410,
            table_mib: 300,
            heaps: 2,
            heap_mib: 265,
            log_mib: 190,
            copies_mib: 110,
        };
        match self {
            Self::Few | Self::Few612 => few,
            Self::Many => Spec { copies_mib: 760, ..few },
        }
    }
}

/// A vmcore, ready to use.
#[derive(Debug, Clone)]
pub(crate) struct Input {
    /// Which.
    pub variant: Variant,
    /// The file.
    pub vmcore: PathBuf,
    /// What is in it.
    pub description: String,
    /// Pages of memory in it.
    pub pages: u64,
    /// Those that are zero.
    pub zero: u64,
}

impl Input {
    /// Bytes that a capture without zero pages has to store.
    #[must_use]
    pub(crate) fn data(&self) -> f64 {
        ((self.pages - self.zero) * 4096) as f64
    }
}

/// The vmcore of a variant, made if it is not in the cache.
///
/// # Errors
/// When packages, the guest or a file fails.
pub(crate) fn get(variant: Variant) -> Res<Input> {
    let guests = workspace().join("tests/guest");
    let (image, disk_key) = disk::image()?;
    let victim = kernel(variant.victim())?;
    let spec = variant.spec();
    let mut key = Key::of(variant.name());
    let kernel = victim.dir.file_name().ctx("the kernel's folder")?.to_string_lossy();
    key.add(&LAYOUT.to_string()).add(&disk_key.folder()).add(&kernel);
    key.add(&format!("{} {}", spec.memory_mib, guest::CRASHKERNEL));
    for program in ["init.c", "fill.c", "heap.py"] {
        key.add_file(&guests.join(program))?;
    }
    for order in guest::orders(&spec) {
        key.add(&order);
    }
    let dir = cache::keep(&key, |new| make(variant, &victim, &image, new))?;
    let text = dir.join("description.txt");
    let description = fs::read_to_string(&text).ctx(text.display())?;
    let counts = fs::read_to_string(dir.join("pages")).ctx("the counts of pages")?;
    let mut counts = counts.split_whitespace().filter_map(|n| n.parse().ok());
    let mut next = || counts.next().ctx("a count of pages");
    let (pages, zero) = (next()?, next()?);
    Ok(Input { variant, vmcore: dir.join("vmcore"), description, pages, zero })
}

fn make(variant: Variant, victim: &Kernel, image: &Path, new: &Path) -> Res<()> {
    eprintln!("making the input `{}` (a guest under emulation, minutes; kept)", variant.name());
    let spec = variant.spec();
    let work = Folder::new("guest", (spec.memory_mib + 512) << 20)?;
    let disk = new.join("disk.img");
    disk::copy(image, &disk)?;
    let crashed = guest::crash(&spec, victim, disk.clone(), &work.path)?;
    fs::remove_file(&disk).ctx(disk.display())?;
    let ram = core::Ram::open(crashed.machine.ram()?)?;
    let map = ram.map(crashed.elfcorehdr)?;
    let vmcore = new.join("vmcore");
    ram.write(&map, &vmcore)?;
    drop((crashed.machine, ram));
    let mut text = format!(
        "{}: Linux {}, {} MiB, crashkernel={}, panicked by sysrq\n",
        variant.name(),
        victim.release,
        spec.memory_mib,
        guest::CRASHKERNEL
    );
    for fact in &crashed.facts {
        text.push_str(&format!("  {fact}\n"));
    }
    let pages = survey::pages(&vmcore)?;
    text.push_str(&pages.to_string());
    fs::write(new.join("pages"), format!("{} {}", pages.pages, pages.zero)).ctx("the counts")?;
    fs::write(new.join("description.txt"), text).ctx("the description")
}
