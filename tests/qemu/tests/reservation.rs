//! The reservation: small, and the same for a machine of any size.

use std::time::Duration;

use lifeboat_qemu::cycle::Plan;
use lifeboat_qemu::error::{Res, ensure};
use lifeboat_qemu::phases;
use lifeboat_qemu::reservation::{Captured, capture, plan};

/// For a capture of 64 GiB on a slow machine.
const LIMIT: Duration = Duration::from_secs(400);
fn captured(plan: &Plan) -> Res<Captured> {
    let all = capture(plan, LIMIT)?;
    println!("{} MiB of memory, crashkernel={}: {}", plan.memory_mib, plan.crashkernel, all.peak);
    print!("{}", phases::table(&phases::of_lab(&all.lab, &all.crash, Duration::ZERO)));
    ensure(all.peak.workers == 2, "not two workers")?;
    Ok(all)
}

/// 48 MiB do for 64 GiB, and the capture takes no more of them than on 1 GiB.
#[test]
fn a_guest_of_64_gib_in_48_mib() -> Res<()> {
    let large = captured(&plan("64g-in-48m", 65536))?.peak;
    let small = captured(&plan("1g-in-48m", 1024))?.peak;
    println!("1 GiB: {small}\n64 GiB: {large}");
    // Names, notes and paths differ by a few hundred bytes from run to run.
    let same = large.fixed.abs_diff(small.fixed) <= 64;
    ensure(same, "what PID 1 takes for good depends on the machine's size")?;
    // Pages that the kernel gives out one by one: some are touched in one run only.
    ensure(large.init <= small.init + 1024, "PID 1 grows with the machine")?;
    ensure(large.machine <= small.machine + 2048, "the crash kernel grows with the machine")
}
