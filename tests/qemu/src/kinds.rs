//! A machine that has pages of every kind: free, cached, private to a file system,
//! dirty, anonymous, huge, shared, merged, swapped out and in, poisoned, ballooned.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::cycle::{BOOT, Ground, Lab, MIB, ORDER, Plan};
use crate::disk::blank;
use crate::error::{Context as _, Res, ensure, run};
use crate::guest;
use crate::provision::{self, Kernel};

/// Memory that the guest gives back before it dies.
const BALLOON: u64 = 24 * MIB;

/// A machine with pages of every kind, ready to crash.
#[derive(Debug)]
pub struct Kinds {
    /// The machine and what belongs to it.
    pub lab: Lab,
    /// Page frame number of a page that was reported as faulty.
    pub poisoned: u64,
    /// One that was taken out of use as if it were about to fail.
    pub offlined: u64,
}

/// Boots it and lets it make all those pages.
///
/// # Errors
/// When any of it fails.
pub fn prepare(plan: Plan) -> Res<Kinds> {
    let ground = Ground::new(&plan)?;
    blank(&ground.second(), 128 * MIB)?;
    run(Command::new("/usr/sbin/mke2fs").args(["-q", "-t", "ext4"]).arg(ground.second()))?;
    let program = guest::compile("pages", &ground.work)?;
    let mut files = modules(&ground.kernel, &["crc32c_generic", "ext4", "virtio_balloon"])?;
    files.push(("bin/pages", fs::read(&program).ctx(program.display())?));
    let plan = Plan { second: true, files, ..plan };
    let memory = plan.memory_mib * MIB;
    let mut lab = Lab::boot(&plan, ground)?;
    let said = lab.machine.must("start /bin/pages /dev/vdb", ORDER)?;
    lab.machine.balloon(memory - BALLOON)?;
    let fact = |key: &str| {
        let word = said.split_whitespace().find_map(|w| w.strip_prefix(key)?.strip_prefix("=0x"));
        word.and_then(|w| u64::from_str_radix(w, 16).ok()).ctx(format_args!("{key} in {said}"))
    };
    Ok(Kinds { poisoned: fact("poisoned")?, offlined: fact("offlined")?, lab })
}

/// Modules and what they need, as files for the guest to load behind those of its disk.
///
/// # Errors
/// When one cannot be read, or there are more than names for them.
pub fn modules(kernel: &Kernel, wanted: &[&str]) -> Res<Vec<(&'static str, Vec<u8>)>> {
    const NAMES: [&str; 16] = [
        "lb/modules/x00.ko",
        "lb/modules/x01.ko",
        "lb/modules/x02.ko",
        "lb/modules/x03.ko",
        "lb/modules/x04.ko",
        "lb/modules/x05.ko",
        "lb/modules/x06.ko",
        "lb/modules/x07.ko",
        "lb/modules/x08.ko",
        "lb/modules/x09.ko",
        "lb/modules/x10.ko",
        "lb/modules/x11.ko",
        "lb/modules/x12.ko",
        "lb/modules/x13.ko",
        "lb/modules/x14.ko",
        "lb/modules/x15.ko",
    ];
    let order = provision::load_order(&kernel.modules, wanted)?;
    // Those of the disk are loaded already.
    let order: Vec<_> = order
        .iter()
        .filter(|m| !m.starts_with("virtio.") && !m.starts_with("virtio_ring"))
        .collect();
    ensure(order.len() <= NAMES.len(), format_args!("more modules than names: {order:?}"))?;
    let read = |file: &Path| fs::read(file).ctx(file.display());
    NAMES
        .iter()
        .zip(order)
        .map(|(name, file)| Ok((*name, read(&kernel.modules.join(file))?)))
        .collect()
}

/// Panics the machine, waits for its clean boot and switches it off; prints what PID 1 said.
///
/// # Errors
/// When the capture does not end well.
pub fn panic(lab: &mut Lab) -> Res<()> {
    lab.arm("")?;
    let crash = lab.crash()?;
    lab.come_back(&crash, BOOT).map(drop)
}
