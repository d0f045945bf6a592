//! The reservation: small, and the same for a machine of any size.

use std::time::Duration;

use lifeboat_qemu::cycle::Plan;
use lifeboat_qemu::error::{Failure, Res, ensure};
use lifeboat_qemu::phases;
use lifeboat_qemu::reservation::{Peak, SEARCH, capture, plan, stated};

/// For a capture of 64 GiB on a slow machine.
const LIMIT: Duration = Duration::from_secs(400);

/// Captures, and holds what was taken against what the image's manifest says.
fn captured(plan: &Plan) -> Res<Peak> {
    let all = capture(plan, "", LIMIT)?.map_err(Failure::check)?;
    println!("{} MiB of memory, crashkernel={}: {}", plan.memory_mib, plan.crashkernel, all.peak);
    print!("{}", phases::table(&phases::of_lab(&all.lab, &all.crash, Duration::ZERO)));
    let peak = all.peak;
    let (fixed, whole) = stated(peak.workers)?;
    ensure(
        peak.fixed <= fixed,
        format_args!("PID 1 holds {} KiB, the manifest says {fixed}", peak.fixed),
    )?;
    let taken = peak.machine + peak.uncounted(SEARCH.1);
    println!("{taken} KiB of the reservation taken, {whole} stated");
    ensure(taken <= whole, "more of the reservation is taken than the manifest says")?;
    Ok(peak)
}

/// 48 MiB do for 64 GiB, and the capture takes no more of them than on 1 GiB.
#[test]
fn a_guest_of_64_gib_in_48_mib() -> Res<()> {
    let large = captured(&plan("64g-in-48m", 65536))?;
    let small = captured(&plan("1g-in-48m", 1024))?;
    println!("1 GiB: {small}\n64 GiB: {large}");
    // In KiB. Names, notes and paths differ by a few hundred bytes from run to run. A block
    // of 64 KiB has a mapping of its own (`seal` in capturer/sys), so one such block more
    // is over this; one bit a page would be 2 MiB more.
    let same = large.fixed.abs_diff(small.fixed) <= 64;
    ensure(same, "what PID 1 takes for good depends on the machine's size")?;
    // Pages that the kernel gives out one by one: some are touched in one run only.
    ensure(large.init <= small.init + 1024, "PID 1 grows with the machine")?;
    ensure(large.machine <= small.machine + 2048, "the crash kernel grows with the machine")
}
