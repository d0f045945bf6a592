//! What a finished dump must show on the host: exports that equal the memory and
//! the swap that were there, and judges that agree.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cycle::{Lab, Snapshot, host, text};
use crate::error::{Context as _, Res, ensure};
use crate::judges::{self, starts_with};
use crate::provision;
use crate::vmcore::{Core, Count, MemoryMap, compare, compare_telling, same_bytes, same_bytes_but};

/// Files that were taken out of a dump, and how long each step took.
#[derive(Debug)]
pub struct Exports {
    /// The pulled dump.
    pub dump: PathBuf,
    /// ELF vmcore.
    pub elf: PathBuf,
    /// kdump-compressed vmcore.
    pub kdump: PathBuf,
    /// Swap image.
    pub swap: PathBuf,
    /// Name and time of each host command.
    pub times: Vec<(&'static str, Duration)>,
}

/// Pulls, verifies without and with the key, and exports everything.
///
/// # Errors
/// When a command fails.
pub fn export_all(lab: &Lab, kdump: bool) -> Res<Exports> {
    let at = |name: &str| lab.work.join(name);
    let mut out = Exports {
        dump: at("pulled.lifeboat"),
        elf: at("vmcore.elf"),
        kdump: at("vmcore.kdump"),
        swap: at("swap.img"),
        times: Vec::new(),
    };
    let (dump, key, volume) = (text(&out.dump), text(&lab.identity), lab.volume());
    let (elf, compressed, swap) = (text(&out.elf), text(&out.kdump), text(&out.swap));
    let mut steps: Vec<(&'static str, Vec<&str>)> = vec![
        ("pull", vec!["pull", &volume, "-o", &dump]),
        ("verify", vec!["verify", &dump]),
        ("verify -i", vec!["verify", &dump, "-i", &key]),
        ("export vmcore", vec!["export", "vmcore", &dump, "-i", &key, "-o", &elf]),
        ("export swap", vec!["export", "swap", &dump, "-i", &key, "-o", &swap]),
    ];
    if kdump {
        let args =
            vec!["export", "vmcore", &dump, "-i", &key, "-o", &compressed, "--format", "kdump"];
        steps.push(("export kdump", args));
    }
    for (name, args) in steps {
        let said = host(&args)?;
        out.times.push((name, said.took));
        said.good()?;
    }
    Ok(out)
}

/// Bit-exactness: every page and every byte of swap. Gives the pages counted and
/// the bytes of swap.
///
/// # Errors
/// At the first difference in kind.
pub fn bit_exact(lab: &Lab, exports: &Exports, was: &Snapshot) -> Res<(Count, u64)> {
    let count = compare(&Core::open(&exports.elf)?, &lab.map, &was.ram)?;
    count.check()?;
    Ok((count, same_bytes(&exports.swap, &was.swap)?))
}

/// What a dump that is not whole gave back.
#[derive(Debug, Clone, Copy, Default)]
pub struct Recovered {
    /// Pages of memory.
    pub memory: Count,
    /// Bytes of swap that are there, all equal.
    pub swap: u64,
}

/// Exports memory and swap of a dump that may lack anything, and compares: no page may
/// differ from what was there, and each page that is missing must be listed as missing.
/// `damaged`: chunks that do not open are expected, and left out.
///
/// # Errors
/// With the first false or silently missing page, or when a command fails.
pub fn recovered(
    dump: &Path,
    identity: &Path,
    map: &MemoryMap,
    was: &Snapshot,
    damaged: bool,
) -> Res<Recovered> {
    let (dump_text, key) = (text(dump), text(identity));
    let mut out = Recovered::default();
    let (core, list) = (dump.with_extension("core"), dump.with_extension("missing"));
    let export = |what: &str, to: &Path| {
        let (to, list) = (text(to), text(&list));
        let tail = ["-i", &key, "-o", &to, "--missing", &list, "--force"];
        let skip: &[&str] = if damaged { &["--skip-damaged"] } else { &[] };
        host(&[&["export", what, &dump_text], &tail[..], skip].concat())
    };
    let said = export("vmcore", &core)?;
    match said.code {
        0 | 3 => {
            let stated = missing(&list)?;
            let mut unstated = None;
            out.memory = compare_telling(&Core::open(&core)?, map, &was.ram, |at| {
                if !stated_at(&stated, at) {
                    unstated.get_or_insert(at);
                }
            })?;
            ensure(out.memory.different == 0, format_args!("false pages: {:x?}", out.memory))?;
            ensure(unstated.is_none(), format_args!("silently missing: page {unstated:x?}"))?;
        }
        // Nothing of memory had come.
        _ => ensure(said.all.contains("holds no"), format_args!("{}", said.all))?,
    }
    let swap = dump.with_extension("swap");
    let said = export("swap", &swap)?;
    match said.code {
        0 | 3 => out.swap = same_bytes_but(&swap, &was.swap, &missing(&list)?)?,
        _ => ensure(said.all.contains("no swap"), format_args!("{}", said.all))?,
    }
    Ok(out)
}

/// Whether one of the ascending ranges holds this byte.
fn stated_at(ranges: &[Range<u64>], at: u64) -> bool {
    let behind = ranges.partition_point(|r| r.start <= at);
    ranges.get(behind.wrapping_sub(1)).is_some_and(|r| r.contains(&at))
}

/// The list that `export --missing` writes, in bytes.
fn missing(list: &Path) -> Res<Vec<Range<u64>>> {
    let lines = fs::read_to_string(list).ctx(list.display())?;
    let mut out = Vec::new();
    for line in lines.lines() {
        let mut words = line.split(' ').map(str::parse::<u64>);
        match (words.next(), words.next()) {
            (Some(Ok(start)), Some(Ok(end))) => out.push(start..end),
            _ => return None.ctx(format_args!("a range in `{line}`")),
        }
    }
    out.sort_by_key(|r| r.start);
    Ok(out)
}

/// The victim's known pages, each in memory or in swap. Gives how many were found
/// in each; a page can be in both.
///
/// # Errors
/// When one is in neither, or none is in swap.
pub fn patterns(lab: &Lab, exports: &Exports) -> Res<(u64, u64)> {
    let pages = usize::try_from(lab.facts.pages).unwrap_or(0);
    let mut found = vec![false; pages];
    let memory = lab.facts.find(&exports.elf, &mut found)?;
    let swap = lab.facts.find(&exports.swap, &mut found)?;
    let lost = found.iter().filter(|f| !**f).count();
    ensure(lost == 0, format_args!("{lost} of {pages} planted pages are nowhere"))?;
    let least = lab.facts.swapped_kb / 4;
    ensure(swap >= least, format_args!("{swap} planted pages in swap, smaps told {least}"))?;
    Ok((memory, swap))
}

/// drgn, crash and gdb on both vmcores. Gives lines worth showing.
///
/// # Errors
/// When a judge cannot open one, or two disagree.
pub fn judged(lab: &Lab, exports: &Exports, was: Option<&Snapshot>) -> Res<Vec<String>> {
    let vmlinux = provision::vmlinux(&lab.kernel)?;
    ensure(starts_with(&exports.kdump, b"KDUMP   ")?, "the kdump file has no KDUMP signature")?;
    let mut shown = Vec::new();
    for (kind, path) in [("ELF", &exports.elf), ("kdump-compressed", &exports.kdump)] {
        let drgn = judges::by_drgn(path, &vmlinux, &lab.facts)?;
        drgn.check()?;
        let crash = judges::by_crash(path, &vmlinux, &lab.facts, &lab.work)?;
        crash.check()?;
        let tasks = judges::same_tasks(&drgn, &crash)?;
        shown.push(format!("{kind}: drgn and crash list the same {tasks} tasks"));
        if kind == "ELF" {
            shown.extend(drgn.excerpt.iter().map(|l| format!("  drgn   {l}")));
            shown.extend(crash.excerpt.iter().map(|l| format!("  crash  {l}")));
            let gdb = judges::by_gdb(path, &vmlinux, &lab.kernel.release)?;
            shown.extend(gdb.iter().map(|l| format!("  gdb    {l}")));
        }
    }
    if let Some(was) = was {
        let (compared, equal) = compare_kdump(lab, &exports.kdump, &vmlinux, was)?;
        ensure(
            compared == equal && compared > 0,
            format_args!("kdump-compressed, read by drgn: {equal} of {compared} pages are equal"),
        )?;
        shown.push(format!("kdump-compressed, read by drgn: {equal} of {compared} pages equal"));
    }
    Ok(shown)
}

fn compare_kdump(lab: &Lab, kdump: &Path, vmlinux: &Path, was: &Snapshot) -> Res<(u64, u64)> {
    judges::compare_by_drgn(kdump, vmlinux, &was.ram, &lab.map.expected())
}
