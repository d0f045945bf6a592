//! How the disks are driven: polled, by interrupt, and without io_uring. The crash
//! kernel's own interrupt counters and requests tell which it was, and the dump opens
//! whichever it was.

use std::time::Duration;

use lifeboat_qemu::cycle::{Lab, Plan, host, text};
use lifeboat_qemu::error::{Context as _, Res, ensure};
use lifeboat_qemu::machine::Bus;

const LIMIT: Duration = Duration::from_secs(400);

/// The crash kernel's first line is waited for, and the command line has one word for us.
const LOUD: &[(&str, &str)] = &[("loglevel", "7")];

/// What PID 1 told of its disks.
#[derive(Debug)]
struct Seen {
    writes: u64,
    written_by: String,
    /// MiB of all layers and of swap.
    written: u64,
    reads: u64,
    read_by: String,
    /// Pages of swap that could not be read.
    unreadable: u64,
    interrupts: u64,
}

/// The number in front of `word`, such as 7 in `…, 7 MiB written`.
fn before(line: &str, word: &str) -> Res<u64> {
    let (front, _) = line.split_once(word).ctx(format_args!("`{word}` in `{line}`"))?;
    let number = front.trim_end().rsplit(' ').next().and_then(|n| n.parse().ok());
    number.ctx(format_args!("a number before `{word}` in `{line}`"))
}

fn in_brackets(line: &str) -> Res<String> {
    let (_, rest) = line.split_once('(').ctx(line)?;
    Ok(rest.split(')').next().unwrap_or_default().to_owned())
}

/// Crashes, captures, and proves that the dump is whole but for `holes` pages of swap.
fn capture(plan: &Plan, holes: u64) -> Res<Seen> {
    let mut lab = Lab::new(plan)?;
    lab.arm("")?;
    let crash = lab.crash()?;
    let lines = lab.come_back(&crash, LIMIT)?;
    let line = |what: &str| {
        lines.iter().find(|l| l.contains(what)).ctx(format_args!("a line with `{what}`"))
    };
    let (disks, swap) = (line("lifeboat: disks:")?, line(" was read in ")?);
    let mut written = 0;
    for layer in lines.iter().filter(|l| l.contains(" MiB written, ")) {
        written += before(layer, " MiB written, ")?;
    }
    let seen = Seen {
        writes: before(disks, " writes (")?,
        written_by: in_brackets(disks)?,
        written,
        reads: before(swap, " requests (")?,
        read_by: in_brackets(swap)?,
        unreadable: before(line("swap, all pages: complete")?, " unreadable")?,
        interrupts: before(disks, " interrupts ")?,
    };
    println!("{seen:#?}");
    line("lifeboat: memory: peak")?;
    let (dump, key) = (text(&lab.work.join("pulled")), text(&lab.identity));
    host(&["pull", &lab.volume(), "-o", &dump])?.good()?;
    host(&["verify", &dump, "-i", &key])?.good()?;
    ensure(
        seen.unreadable == holes,
        format_args!("{} pages of swap, not {holes}", seen.unreadable),
    )?;
    // 128 MiB of swap, in reads of at most 128 KiB; a dump of some MiB, of at most 512 KiB.
    ensure(seen.reads >= 1024 && seen.writes >= 30, "fewer requests than there are bytes")?;
    ensure(seen.written >= 20, "a dump of 1 GiB in less than 20 MiB")?;
    std::fs::remove_dir_all(&lab.work).ctx(lab.work.display())?;
    Ok(seen)
}

fn polled(seen: &Seen) -> Res<()> {
    ensure(seen.written_by == "io_uring, polled", &seen.written_by)?;
    ensure(seen.read_by == "io_uring, polled", &seen.read_by)?;
    ensure(seen.interrupts == 0, format_args!("{} interrupts while polling", seen.interrupts))
}

/// Where nothing is polled, the same counters move: not one for each request, because a
/// device may report several at once.
fn interrupted(seen: &Seen) -> Res<()> {
    let requests = seen.writes + seen.reads;
    ensure(
        seen.interrupts >= requests / 8,
        format_args!("{} interrupts in {requests} requests: what was counted?", seen.interrupts),
    )
}

#[test]
fn nvme_is_polled() -> Res<()> {
    polled(&capture(&Plan { bus: Bus::Nvme, ..Plan::named("polled-nvme") }, 0)?)
}

/// virtio-blk has a poll queue only where the crash kernel has two CPUs: one more than it
/// leaves out.
#[test]
fn virtio_is_polled() -> Res<()> {
    polled(&capture(&Plan { cpus: 3, ..Plan::named("polled-virtio") }, 0)?)
}

#[test]
fn without_poll_queues_there_are_interrupts() -> Res<()> {
    for (bus, name, append) in [
        (Bus::Nvme, "interrupts-nvme", "nvme.poll_queues=0"),
        (Bus::Virtio, "interrupts-virtio", "virtio_blk.poll_queues=0"),
    ] {
        let plan = Plan { bus, cpus: 3, append, profile: LOUD, ..Plan::named(name) };
        let seen = capture(&plan, 0)?;
        ensure(seen.written_by == "io_uring, interrupts", &seen.written_by)?;
        ensure(seen.read_by == "io_uring by interrupt", &seen.read_by)?;
        interrupted(&seen)?;
    }
    Ok(())
}

/// A kernel that refuses io_uring altogether.
#[test]
fn without_io_uring_there_are_system_calls() -> Res<()> {
    let plan = Plan {
        bus: Bus::Nvme,
        append: "sysctl.kernel.io_uring_disabled=2",
        profile: LOUD,
        ..Plan::named("no-io-uring")
    };
    let seen = capture(&plan, 0)?;
    ensure(seen.written_by == "pwrite" && seen.read_by == "pread", format_args!("{seen:?}"))?;
    interrupted(&seen)
}

/// One page of the swap partition cannot be read: it alone is lost, of a read of many.
#[test]
fn a_bad_sector_of_swap_costs_one_page() -> Res<()> {
    // Far behind what the victim uses.
    let bad_swap = Some(30_000);
    let plan = Plan { bus: Bus::Nvme, bad_swap, ..Plan::named("bad-swap") };
    let seen = capture(&plan, 1)?;
    ensure(seen.read_by == "io_uring, polled", &seen.read_by)?;
    ensure(seen.reads > 1024, "a read that failed was not tried again in pieces")
}
