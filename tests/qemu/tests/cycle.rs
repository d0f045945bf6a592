//! The whole cycle, bit for bit, on every kind of machine of the issue.

mod hostile;

use std::path::Path;
use std::time::{Duration, Instant};

use lifeboat_qemu::chunks::{self, Kind};
use lifeboat_qemu::cycle::{DUMP_DEV, Lab, ORDER, Plan, host};
use lifeboat_qemu::error::{Context as _, Res, ensure};
use lifeboat_qemu::evidence;
use lifeboat_qemu::machine::Bus;
use lifeboat_qemu::provision::Victim;
use lifeboat_qemu::vmcore::{Core, compare};

/// For a capture of 8 GiB on a slow machine.
const CAPTURE: Duration = Duration::from_secs(400);

/// Panics the machine, and compares all that comes out with what was there.
fn cycle(plan: &Plan, judges: bool) -> Res<Lab> {
    let start = Instant::now();
    let mut lab = Lab::new(plan)?;
    println!("victim {} ready after {:.1} s", lab.kernel.release, lab.booted.at.as_secs_f64());
    println!("{:?}", lab.facts);
    print!("{}", lab.arm("")?);
    let crash = lab.crash()?;
    let was = lab.snapshot()?;
    let done = lab.wait_console(&crash, CAPTURE, "lifeboat: done after")?;
    let back = lab.wait_reboot(&crash, CAPTURE)?;
    for line in lab.init_lines(&crash) {
        println!("[{:8.3}] {}", line.at.as_secs_f64(), line.text);
    }
    let paused = was.paused;
    println!(
        "panic to first line {:.2} s, to the end of the capture {:.2} s, to the clean boot {:.2} s",
        (crash.first - crash.panicked).as_secs_f64(),
        (done.at - crash.panicked - paused).as_secs_f64(),
        (back.at - crash.panicked - paused).as_secs_f64()
    );
    let listed = lab.machine.must(&format!("exec /bin/lifeboat list {DUMP_DEV}"), ORDER)?;
    ensure(listed.contains("complete"), format_args!("no complete dump in:\n{listed}"))?;
    lab.power_off()?;
    print!("{}", host(&["list", &lab.volume()])?.good()?);

    let exports = evidence::export_all(&lab, judges)?;
    for (name, took) in &exports.times {
        println!("{name}: {:.1} s", took.as_secs_f64());
    }
    let said = lab.init_lines(&crash);
    layers(&exports.dump, plan, said.iter().any(|l| l.text.contains("order: by worth;")))?;
    let (pages, swap) = evidence::bit_exact(&lab, &exports, &was)?;
    println!(
        "memory: {} pages compared, {} equal, {} different, {} missing ({} more below 1 MiB)",
        pages.compared, pages.equal, pages.different, pages.missing, pages.beyond
    );
    println!("swap: {swap} bytes compared, all equal");
    println!("filler: {} bytes unchanged", lab.disk.check_fillers()?);
    let (memory, swapped) = evidence::patterns(&lab, &exports)?;
    println!("planted pages: {memory} in memory, {swapped} in swap, none lost");
    if judges {
        for line in evidence::judged(&lab, &exports, Some(&was))? {
            println!("{line}");
        }
    }
    println!("the whole cycle took {:.0} s", start.elapsed().as_secs_f64());
    Ok(lab)
}

/// Memory lies in the order that the plan asks for.
fn layers(dump: &Path, plan: &Plan, said: bool) -> Res<()> {
    let all = chunks::walk(dump)?;
    println!("layers: {}", chunks::table(&all));
    let by_worth = plan.profile != BY_ADDRESS;
    ensure(said == by_worth, "the capturer says another order than was asked for")?;
    if by_worth {
        chunks::by_worth(&all)?;
        for kind in [Kind::Kernel, Kind::User, Kind::Swap, Kind::Cache, Kind::Free] {
            ensure(chunks::sum(&all, kind).pages > 0, format_args!("no page is {kind:?}"))?;
        }
        // The filler that the victim read is 8 MiB of page cache.
        return ensure(chunks::sum(&all, Kind::Cache).pages >= 2048, "page cache was missed");
    }
    ensure(chunks::sum(&all, Kind::Memory).pages > 0, "no memory by address")?;
    ensure(chunks::sum(&all, Kind::Kernel).chunks == 0, "layers where none were asked for")
}

/// A profile that does not trust the dead kernel's records.
const BY_ADDRESS: &[(&str, &str)] = &[("[capture]", "order = \"address\"")];

/// What is large and of no more use.
fn tidy(lab: Lab) -> Res<()> {
    let work = lab.work.clone();
    drop(lab);
    std::fs::remove_dir_all(&work).ctx(work.display())
}

#[test]
fn cycle_6_1_1g_virtio_judged() -> Res<()> {
    let lab = cycle(&Plan::named("6.1-1g-virtio"), true)?;
    hostile::host_errors(&lab)?;
    tidy(lab)
}

#[test]
fn cycle_6_12_1g_virtio_judged() -> Res<()> {
    let plan = Plan { victim: Victim::Cloud612, ..Plan::named("6.12-1g-virtio") };
    tidy(cycle(&plan, true)?)
}

#[test]
fn cycle_6_1_8g_virtio() -> Res<()> {
    tidy(cycle(&Plan { memory_mib: 8192, ..Plan::named("6.1-8g-virtio") }, false)?)
}

#[test]
fn cycle_6_1_1g_nvme() -> Res<()> {
    // In plain order of address, the only one that does so.
    let plan = Plan { bus: Bus::Nvme, profile: BY_ADDRESS, ..Plan::named("6.1-1g-nvme") };
    tidy(cycle(&plan, false)?)
}

#[test]
fn cycle_6_1_1g_ahci() -> Res<()> {
    let plan = Plan { bus: Bus::Ahci, victim: Victim::Generic61, ..Plan::named("6.1-1g-ahci") };
    tidy(cycle(&plan, false)?)
}

#[test]
fn cycle_6_12_8g_nvme() -> Res<()> {
    let plan = Plan {
        victim: Victim::Cloud612,
        bus: Bus::Nvme,
        memory_mib: 8192,
        ..Plan::named("6.12-8g-nvme")
    };
    tidy(cycle(&plan, false)?)
}

#[test]
fn cycle_6_12_1g_ahci() -> Res<()> {
    let plan = Plan { victim: Victim::Cloud612, bus: Bus::Ahci, ..Plan::named("6.12-1g-ahci") };
    tidy(cycle(&plan, false)?)
}

/// The second source of memory, chosen by the profile.
#[test]
fn cycle_6_1_1g_virtio_from_proc_vmcore() -> Res<()> {
    let profile = &[("source", "\"vmcore\"")];
    let lab = cycle(&Plan { profile, ..Plan::named("proc-vmcore") }, false)?;
    let listed = host(&["list", &lab.volume()])?.good()?;
    ensure(listed.contains("/proc/vmcore"), format_args!("another source in:\n{listed}"))?;
    tidy(lab)
}

/// Pages that the driver cannot read are missing in the export; all others are there.
#[test]
fn bad_pages_are_holes_and_nothing_else_is() -> Res<()> {
    const BAD: [u64; 3] = [0x400_1000, 0x400_2000, 0x800_0000];
    let plan = Plan {
        append: "oldmem.fault=0x4001000,0x4002000,0x8000000",
        profile: &[("loglevel", "7")],
        ..Plan::named("bad-pages")
    };
    let mut lab = Lab::new(&plan)?;
    lab.arm("")?;
    let crash = lab.crash()?;
    let was = lab.snapshot()?;
    lab.wait_reboot(&crash, CAPTURE)?;
    lab.power_off()?;
    let listed = host(&["list", &lab.volume()])?.good()?;
    ensure(listed.contains(" 3 unreadable"), format_args!("not 3 bad pages in:\n{listed}"))?;
    let exports = evidence::export_all(&lab, false)?;
    let core = Core::open(&exports.elf)?;
    let pages = compare(&core, &lab.map, &was.ram)?;
    println!("{pages:x?}");
    ensure(pages.missing == 3 && pages.different == 0, "other pages are missing or differ")?;
    ensure(pages.equal + 3 == pages.compared, "the counts do not add up")?;
    let held = |at: &u64| core.memory().iter().any(|m| m.contains(at));
    ensure(!BAD.iter().any(held), "a page that could not be read is in the vmcore")?;
    tidy(lab)
}

/// A dump that nobody pulled is kept; the next crash gets its own place.
#[test]
fn the_second_crash_leaves_the_first_dump_alone() -> Res<()> {
    let mut lab = Lab::new(&Plan::named("twice"))?;
    for round in 1..=2 {
        lab.arm("")?;
        let crash = lab.crash()?;
        lab.wait_reboot(&crash, CAPTURE)?;
        lab.machine.must("swapon /dev/disk/by-partlabel/swap", ORDER)?;
        let said = lab.machine.must(&format!("exec /bin/lifeboat list {DUMP_DEV}"), ORDER)?;
        let complete =
            said.lines().filter(|l| l.starts_with("dump ") && l.contains("complete")).count();
        ensure(complete == round, format_args!("after crash {round}:\n{said}"))?;
    }
    lab.power_off()?;
    for number in ["1", "2"] {
        host(&["verify", &lab.volume(), "--dump", number])?.good()?;
    }
    tidy(lab)
}
