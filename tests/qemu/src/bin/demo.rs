//! `make demo`: from panic to opened dump, step by step, with sizes and times.
//!
//! The same harness as the tests', shown slowly: nothing here is prepared, and a
//! step that fails ends the demo.

#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use argh::FromArgs;
use lifeboat_qemu::cycle::{Crash, DUMP_DEV, Ground, Lab, ORDER, Plan, Snapshot, host, text};
use lifeboat_qemu::error::{Context as _, Res, ensure, run};
use lifeboat_qemu::evidence::{self, Exports};
use lifeboat_qemu::paths::{BOARD, image, workspace};
use lifeboat_qemu::phases;
use lifeboat_qemu::provision;
use lifeboat_qemu::reservation::{self, SEARCH};
use lifeboat_qemu::revived;

const CAPTURE: Duration = Duration::from_secs(600);
const STEPS: usize = 7;

/// Shows the whole path from a panic to an opened dump, in QEMU.
#[derive(FromArgs)]
struct Args {
    /// only measure: capture phases and host commands, in one table
    #[argh(switch)]
    bench: bool,
    /// only search: the smallest crashkernel= in which a guest of so many MiB is captured
    #[argh(option)]
    smallest_reservation: Option<u64>,
}

fn main() -> ExitCode {
    let args: Args = argh::from_env();
    let done = match args.smallest_reservation {
        Some(mib) => smallest(mib),
        None if args.bench => bench(),
        None => demo(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("\nFAILED: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Says which step begins.
fn step(number: usize, title: &str) {
    println!("\n── {number}/{STEPS} {title} ──");
}

/// A command as a person would type it, with its output indented and its time.
fn show(args: &[&str]) -> Res<()> {
    let said = host(args)?;
    let took = said.took.as_secs_f64();
    println!("$ {}   ({took:.1} s)", said.command);
    indent(&said.good()?);
    Ok(())
}

fn indent(text: &str) {
    for line in text.lines() {
        println!("    {line}");
    }
}

fn demo() -> Res<()> {
    let start = Instant::now();
    step(1, "the image: kernel, initramfs, programs");
    build_image()?;
    let plan = Plan::named("demo");
    step(2, "a disk with swap, dump partition and fillers");
    let ground = make_disk(&plan)?;
    step(3, "a stock Debian kernel, swapping processes, armed");
    let mut lab = boot_and_arm(&plan, ground)?;
    step(4, "panic");
    let (crash, was) = panic(&mut lab)?;
    step(5, "the crash kernel captures and reboots");
    capture(&mut lab, &crash, &was)?;
    step(6, "on the host: list, pull, verify, export, open");
    let exports = take_out(&lab)?;
    compare(&lab, &exports, &was)?;
    for line in evidence::judged(&lab, &exports, Some(&was))? {
        println!("{line}");
    }
    step(7, "a process, back from memory and swap: core file, gdb");
    for line in revived::victim(&lab, &exports)? {
        println!("{line}");
    }
    println!(
        "\nDone in {:.0} s. Everything is in {}",
        start.elapsed().as_secs_f64(),
        lab.work.display()
    );
    Ok(())
}

fn build_image() -> Res<()> {
    let start = Instant::now();
    let built = Command::new("cargo")
        .args(["run", "--release", "-q", "-p", "lifeboat-builder", "--", "image", "--board", BOARD])
        .current_dir(workspace())
        .status()
        .ctx("cargo")?;
    ensure(built.success(), "the image could not be built")?;
    println!("out/{BOARD}, {:.1} s:", start.elapsed().as_secs_f64());
    let mut files: Vec<_> =
        fs::read_dir(image()?).ctx("the image")?.filter_map(Result::ok).collect();
    files.sort_by_key(std::fs::DirEntry::file_name);
    for file in files {
        println!(
            "    {:>9} KiB  {}",
            size(&file.path())?.div_ceil(1024),
            file.file_name().to_string_lossy()
        );
    }
    Ok(())
}

fn make_disk(plan: &Plan) -> Res<Ground> {
    let start = Instant::now();
    let ground = Ground::new(plan)?;
    println!(
        "victim kernel {}, disk and key made in {:.1} s",
        ground.kernel.release,
        start.elapsed().as_secs_f64()
    );
    println!("$ lifeboat keygen -o identity.txt; lifeboat format disk.img:lifeboat");
    let table = run(Command::new("/usr/sbin/sgdisk").arg("--print").arg(&ground.disk.path))?;
    indent(table.split_once("Number").map_or(&*table, |(_, rows)| rows));
    show(&["list", &ground.volume()])?;
    Ok(ground)
}

fn boot_and_arm(plan: &Plan, ground: Ground) -> Res<Lab> {
    let mut lab = Lab::boot(plan, ground)?;
    println!(
        "Linux {} is up after {:.1} s, {} MiB, crashkernel={}",
        lab.kernel.release,
        lab.booted.at.as_secs_f64(),
        plan.memory_mib,
        plan.crashkernel
    );
    println!(
        "victim: pid {}, {} pages of known words at {:#x}, {} kB of them in swap (smaps)",
        lab.facts.pid, lab.facts.pages, lab.facts.heap, lab.facts.swapped_kb
    );
    println!("$ cat /proc/swaps");
    indent(&lab.machine.must("cat /proc/swaps", ORDER)?);
    println!("$ lifeboat arm --image /image --recipient {}", lab.recipient);
    let armed = lab.arm("")?;
    indent(&armed);
    Ok(lab)
}

fn panic(lab: &mut Lab) -> Res<(Crash, Snapshot)> {
    println!("$ echo c > /proc/sysrq-trigger");
    let crash = lab.crash()?;
    println!(
        "the crash kernel's first line came {:.2} s later; the machine is stopped there,",
        (crash.first - crash.panicked).as_secs_f64()
    );
    let was = lab.snapshot()?;
    println!(
        "its RAM and its swap partition are copied ({:.1} s), and it goes on",
        was.paused.as_secs_f64()
    );
    Ok((crash, was))
}

/// Waits for the capture and the clean boot behind it; gives the seconds from the
/// panic to the end of the capture.
fn capture(lab: &mut Lab, crash: &Crash, was: &Snapshot) -> Res<f64> {
    let done = lab.wait_console(crash, CAPTURE, "lifeboat: done after")?;
    let since = |at: Duration| (at - crash.panicked - was.paused).as_secs_f64();
    for line in lab.init_lines(crash) {
        println!("  {:6.2} s  {}", since(line.at), line.text);
    }
    let back = lab.wait_reboot(crash, CAPTURE)?;
    println!("\n{}", phases::table(&phases::of_lab(lab, crash, was.paused)));
    println!("clean boot {:.1} s after the panic:", since(back.at));
    println!("$ lifeboat list {DUMP_DEV}");
    indent(&lab.machine.must(&format!("exec /bin/lifeboat list {DUMP_DEV}"), ORDER)?);
    lab.power_off()?;
    Ok(since(done.at))
}

fn take_out(lab: &Lab) -> Res<Exports> {
    show(&["list", &lab.volume()])?;
    let exports = evidence::export_all(lab, true)?;
    let files = [&exports.dump, &exports.elf, &exports.kdump, &exports.swap];
    for (name, took) in &exports.times {
        println!("$ lifeboat {name}   ({:.1} s)", took.as_secs_f64());
    }
    for file in files {
        println!(
            "    {:>9} KiB  {}",
            size(file)?.div_ceil(1024),
            file.file_name().unwrap_or_default().to_string_lossy()
        );
    }
    show(&["verify", &text(&exports.dump)])?;
    Ok(exports)
}

fn compare(lab: &Lab, exports: &Exports, was: &Snapshot) -> Res<()> {
    let (pages, swap) = evidence::bit_exact(lab, exports, was)?;
    println!(
        "memory against the copy of RAM: {} pages compared, {} equal, {} different",
        pages.compared, pages.equal, pages.different
    );
    println!("swap against the copy of the partition: {swap} bytes compared, all equal");
    println!("fillers: {} bytes unchanged", lab.disk.check_fillers()?);
    let (memory, swapped) = evidence::patterns(lab, exports)?;
    println!("planted pages: {memory} found in memory, {swapped} in swap, none lost");
    provision::vmlinux(&lab.kernel).map(drop)
}

/// Figures in one table. A machine without KVM: only ratios mean something.
fn bench() -> Res<()> {
    // As it is shipped: what the board leaves out is left out.
    let plan = Plan { whole: false, ..Plan::named("bench") };
    let mut lab = Lab::new(&plan)?;
    lab.arm("")?;
    let crash = lab.crash()?;
    let was = Snapshot { paused: Duration::ZERO, ram: "".into(), swap: "".into() };
    let seconds = capture(&mut lab, &crash, &was)?;
    let exports = evidence::export_all(&lab, true)?;
    println!("\n{:<44} {:>8}", "measured (QEMU without KVM, 1 GiB guest)", "seconds");
    println!("{:<44} {seconds:>8.2}", "panic to the end of the capture");
    for (name, took) in &exports.times {
        println!("{:<44} {:>8.2}", format!("host: {name}"), took.as_secs_f64());
    }
    Ok(())
}

/// Halves the range of reservations until the smallest that works is known: a capture
/// that is complete and verified, by two workers. A failure that the console does not blame
/// on memory ends the search.
fn smallest(memory_mib: u64) -> Res<()> {
    let (mut fails, mut works) = SEARCH;
    let try_one = |mib: u64| -> Res<bool> {
        let plan =
            Plan { crashkernel: format!("{mib}M"), ..reservation::plan("smallest", memory_mib) };
        let captured = reservation::capture(&plan, "--dangerously-ignore-size", CAPTURE)?;
        match &captured {
            Ok(all) => println!("crashkernel={mib}M works: {}", all.peak),
            Err(line) => println!("crashkernel={mib}M is too small: {line}"),
        }
        Ok(captured.is_ok())
    };
    ensure(try_one(works)?, format_args!("not even {works} MiB work"))?;
    while works - fails > 1 {
        let middle = u64::midpoint(fails, works);
        if try_one(middle)? { works = middle } else { fails = middle }
    }
    println!("\nsmallest reservation for {memory_mib} MiB of memory: crashkernel={works}M");
    Ok(())
}

fn size(path: &Path) -> Res<u64> {
    Ok(fs::metadata(path).ctx(path.display())?.len())
}
