//! The page filter against its peers, page by page, on kernels that really panicked; and
//! dumps with pages left out, opened by everybody.

mod kept;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lifeboat_qemu::cycle::{Plan, host, text};
use lifeboat_qemu::error::{Context as _, Res, ensure};
use lifeboat_qemu::kinds::{self, Kinds};
use lifeboat_qemu::peer::{Makedumpfile, held};
use lifeboat_qemu::provision::{self, Victim};
use lifeboat_qemu::{evidence, judges};
use lifeboat_sources::worth::Class;

use kept::{Memory, Page};

/// makedumpfile's levels, in our words. It leaves out offline and faulty pages at each.
const LEVELS: [(u8, &str); 6] = [
    (1, "zero"),
    (2, "cache"),
    (4, "cache-private"),
    (8, "user"),
    (16, "free"),
    (31, "zero,cache-private,user,free"),
];

/// For a capture under emulation.
const LIMIT: Duration = Duration::from_secs(300);

/// A machine with pages of every kind panics, and all of its memory is captured.
fn full(victim: Victim, name: &'static str) -> Res<(Kinds, PathBuf)> {
    let mut kinds = kinds::prepare(Plan { victim, ..Plan::named(name) })?;
    kinds::panic(&mut kinds.lab)?;
    let lab = &kinds.lab;
    let elf = lab.work.join("full.elf");
    let key = text(&lab.identity);
    host(&["export", "vmcore", &lab.volume(), "-i", &key, "-o", &text(&elf)])?.good()?;
    Ok((kinds, elf))
}

/// Every kind must be there, or nothing is compared; but faulty pages, which no capture
/// reads: they are marked, and in no vmcore.
fn every_kind(kinds: &Kinds, memory: &Memory) -> Res<()> {
    println!("{}", memory.described);
    ensure(memory.described.contains("; BTF confirms "), "BTF was not used")?;
    for class in Class::ALL {
        let count = memory.pages.iter().filter(|p| p.class == class).count();
        println!("{:13} {count}", class.name());
        let there = class != Class::Poison;
        ensure(
            (count > 0) == there || class == Class::SwapCache,
            format_args!("{count} pages are {}", class.name()),
        )?;
    }
    for pfn in [kinds.poisoned, kinds.offlined] {
        ensure(pfn != 0, "this kernel marks no faulty pages")?;
        let class = memory.class(pfn)?;
        ensure(class == Class::Poison, format_args!("{pfn:#x} is {class:?}"))?;
    }
    Ok(())
}

/// Which pages are kept, by makedumpfile and by us, must be the same, but for these:
///
/// * Shared memory and the swap cache are page cache to makedumpfile (levels 2 and 4);
///   we keep them as long as the memory of processes is kept. At level 8 both keep them,
///   at 31 neither does.
/// * Shared memory that is on its way to a list of reclaim (a batch of at most 31 pages
///   for each CPU and list) is nobody's to makedumpfile, and goes with the rest here.
fn explained(level: u8, page: &Page, ours: bool) -> Option<&'static str> {
    let shared = matches!(page.class, Class::Shmem | Class::SwapCache);
    match (level, ours) {
        (2 | 4, true) if shared => Some("shared memory and swap cache, kept as a process's"),
        (31, false) if page.class == Class::Shmem && !page.lru => Some("shared, on no list yet"),
        _ => None,
    }
}

/// Compares one level; prints the differences by kind, and fails at one that no kind explains.
fn compare(memory: &Memory, level: u8, words: &str, peer: &Path) -> Res<()> {
    let all = held(peer)?;
    let ours = memory.kept(&format!("{words},offline,hwpoison"))?;
    ensure(ours.len() <= all.len(), "makedumpfile knows of less memory")?;
    let mut kinds: Vec<(&str, u64)> = Vec::new();
    let (mut same, mut kept, mut unexplained) = (0u64, 0u64, Vec::new());
    for (n, (page, ours)) in memory.pages.iter().zip(&ours).enumerate() {
        use lifeboat_qemu::peer::Held;
        let pfn = page.pfn;
        let theirs = all.get(usize::try_from(pfn).unwrap_or(usize::MAX)).copied();
        let theirs = theirs.unwrap_or(Held::Nothing);
        ensure(theirs != Held::Nothing, format_args!("pfn {pfn:#x} is no memory to makedumpfile"))?;
        // Level 1 keeps one page for all zeros; else the first page lies there, whatever it is.
        let theirs = theirs == Held::Data || (theirs == Held::Zero && level & 1 == 0);
        kept += u64::from(*ours);
        if theirs == *ours {
            same += 1;
            continue;
        }
        match explained(level, page, *ours) {
            Some(kind) => match kinds.iter_mut().find(|(k, _)| *k == kind) {
                Some((_, count)) => *count += 1,
                None => kinds.push((kind, 1)),
            },
            None => unexplained.push(n),
        }
    }
    println!(
        "level {level:2} = {words}: {kept} pages kept, {same} the same, differences {kinds:?}"
    );
    let shown: Vec<String> = unexplained
        .iter()
        .take(20)
        .filter_map(|n| memory.pages.get(*n).map(|p| format!("{p:x?} kept {:?}", ours.get(*n))))
        .collect();
    ensure(
        unexplained.is_empty(),
        format_args!(
            "level {level}: {} pages differ without a reason: {shown:#?}",
            unexplained.len()
        ),
    )?;
    // A batch of each of 2 CPUs on 5 lists; they are drained when they are full.
    let waiting = kinds.iter().find(|(k, _)| k.starts_with("shared, on no"));
    ensure(waiting.is_none_or(|(_, count)| *count <= 2 * 5 * 31), "too many pages on no list")
}

/// Compares all levels.
fn levels(memory: &Memory, elf: &Path) -> Res<()> {
    let peer = Makedumpfile::get()?;
    println!("makedumpfile {}", peer.version);
    for (level, words) in LEVELS {
        let out = elf.with_extension(format!("d{level}"));
        peer.filter(level, elf, &out)?;
        compare(memory, level, words, &out)?;
        fs::remove_file(&out).ctx(out.display())?;
    }
    Ok(())
}

#[test]
fn kept_pages_are_makedumpfiles_on_6_1() -> Res<()> {
    let (kinds, elf) = full(Victim::Generic61, "filter-6.1")?;
    let memory = Memory::open(&elf)?;
    every_kind(&kinds, &memory)?;
    levels(&memory, &elf)?;
    tidy(kinds)
}

/// makedumpfile's versions disagree on 6.12: here drgn judges, which walks the lists of
/// the page allocator and takes every type from DWARF.
#[test]
fn kept_pages_are_what_drgn_says_on_6_12() -> Res<()> {
    let (kinds, elf) = full(Victim::Cloud612, "filter-6.12")?;
    let memory = Memory::open(&elf)?;
    every_kind(&kinds, &memory)?;
    let vmlinux = provision::vmlinux(&kinds.lab.kernel)?;
    let start = Instant::now();
    let map = judges::classes_by_drgn(&elf, &vmlinux, &kinds.lab.work)?;
    println!("drgn looked at every page in {:.1} s", start.elapsed().as_secs_f64());
    let mut differ = Vec::new();
    for page in &memory.pages {
        let digit = usize::try_from(page.pfn).ok().and_then(|pfn| map.get(pfn));
        let theirs = digit.and_then(|d| Class::ALL.get(usize::from(d.wrapping_sub(b'0'))));
        if theirs != Some(&page.class) {
            differ.push((page.pfn, page.class, theirs));
        }
    }
    let shown: Vec<_> = differ.iter().take(20).collect();
    println!("{} pages compared, {} differ", memory.pages.len(), differ.len());
    ensure(differ.is_empty(), format_args!("{} pages differ: {shown:x?}", differ.len()))?;
    // The version that is right on this kernel says the same.
    levels(&memory, &elf)?;
    tidy(kinds)
}

/// A dump without some pages: nothing false in it, every page that is not there is told,
/// and everybody opens it.
fn left_out(plan: Plan, said: &str) -> Res<()> {
    let mut kinds = kinds::prepare(plan)?;
    let lab = &mut kinds.lab;
    lab.arm("")?;
    let crash = lab.crash()?;
    let was = lab.snapshot()?;
    let lines = lab.come_back(&crash, LIMIT)?;
    ensure(lines.iter().any(|l| l.ends_with(said)), format_args!("no line `{said}`"))?;

    let exports = evidence::export_all(lab, true)?;
    let (dump, key) = (text(&exports.dump), text(&lab.identity));
    let verified = host(&["verify", &dump, "-i", &key])?.good()?;
    print!("{verified}");
    let excluded = excluded(&verified)?;
    let found = evidence::recovered(&exports.dump, &lab.identity, &lab.map, &was, false)?;
    println!("{excluded} pages left out; {:x?}", found.memory);
    // What the kernel reserves below 1 MiB may be left out, and is not compared.
    let missing = found.memory.missing;
    ensure(missing > 0 && missing <= excluded, "other pages are missing than were left out")?;
    ensure(found.memory.equal + missing == found.memory.compared, "pages differ")?;
    let listed = host(&["list", &lab.volume()])?.good()?;
    let told = format!(" {excluded} excluded");
    ensure(listed.contains(&told), format_args!("`list` does not tell{told}:\n{listed}"))?;
    let vmlinux = provision::vmlinux(&lab.kernel)?;
    for line in evidence::judged(lab, &exports, None)?.iter().filter(|l| !l.starts_with(' ')) {
        println!("{line}");
    }
    let (list, elf) = (lab.work.join("list"), text(&exports.elf));
    let options = ["-i", &key, "-o", &elf, "--force", "--missing", &text(&list)];
    host(&[&["export", "vmcore", &dump], &options[..]].concat())?.good()?;
    let page = first_excluded(&list, lab.map.expected().as_slice())?;
    // A page that was left out is told as such where the format can, and never as zeros.
    for (core, by_crash, by_drgn) in [
        (&exports.elf, "read error", "could not find physical memory segment"),
        (&exports.kdump, "page excluded", "Excluded page"),
    ] {
        let crash = judges::read_by_crash(core, &vmlinux, page, &lab.work)?;
        let drgn = judges::read_by_drgn(core, &vmlinux, page)?;
        println!("{}\n  {crash}\n  {drgn}", core.display());
        ensure(crash.contains(by_crash) && drgn.contains(by_drgn), "a page that is not there")?;
    }
    tidy(kinds)
}

#[test]
fn a_dump_with_the_default_left_out() -> Res<()> {
    let plan = Plan {
        victim: Victim::Cloud612,
        // The board's own words, as they are shipped.
        whole: false,
        ..Plan::named("left-out-default")
    };
    left_out(plan, "filter: left out: zero,free,offline,hwpoison")
}

/// Little but the kernel's own memory, in order of address.
#[test]
fn a_dump_without_free_cache_and_user_pages() -> Res<()> {
    let plan = Plan {
        victim: Victim::Cloud61,
        profile: &[
            ("exclude", "[\"free\", \"cache\", \"user\"]"),
            ("[capture]", "order = \"address\""),
        ],
        whole: false,
        ..Plan::named("left-out-lean")
    };
    left_out(plan, "filter: left out: zero,free,cache,user")
}

/// The number before `excluded` in a report.
fn excluded(report: &str) -> Res<u64> {
    let words: Vec<&str> = report.split_whitespace().collect();
    let at = words.iter().position(|w| w.starts_with("excluded")).ctx("excluded pages")?;
    let before = at.checked_sub(1).and_then(|at| words.get(at));
    before.and_then(|w| w.parse().ok()).ctx(format_args!("their number in {report}"))
}

/// Address of a page that was left out and that was memory.
fn first_excluded(list: &Path, memory: &[std::ops::Range<u64>]) -> Res<u64> {
    let lines = fs::read_to_string(list).ctx(list.display())?;
    let starts = lines.lines().filter_map(|l| l.split(' ').next()?.parse::<u64>().ok());
    let mut inside = starts.filter(|at| *at > 16 << 20 && memory.iter().any(|m| m.contains(at)));
    inside.next().ctx("a page that was left out")
}

/// What is large and of no more use.
fn tidy(kinds: Kinds) -> Res<()> {
    let work = kinds.lab.work.clone();
    drop(kinds);
    fs::remove_dir_all(&work).ctx(work.display())
}
