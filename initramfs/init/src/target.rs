//! The target: the first volume of the profile's list that passes its guard.

use std::fs::File;
use std::path::Path;

use lifeboat_format::bootcfg::BootConfig;
use lifeboat_sink::{FileDev, Placement, Plan, Volume};
use lifeboat_sources::blockdev::Block;
use lifeboat_sys::{QueueMode, WriteQueue};

use crate::Failure;
use crate::console::say;

/// Writes in flight at most; Linux caps a kdump kernel's queues at 64.
const DEPTH: usize = 8;
/// Bytes of a write.
const WRITE: usize = 512 << 10;

/// A volume that may be written, and where the dump goes on it.
pub(crate) struct Target {
    pub(crate) block: Block,
    pub(crate) volume: Volume<FileDev>,
    pub(crate) plan: Plan,
}

/// Tries the targets in the order of the profile. All failures are told, none is final
/// until the last.
pub(crate) fn choose(config: &BootConfig, found: &[(usize, Block)]) -> Result<Target, Failure> {
    if found.is_empty() {
        let names: Vec<String> = config.targets.iter().map(ToString::to_string).collect();
        return Err(format!(
            "no dump partition appeared within {} s (looked for {})",
            config.device_wait_s,
            names.join(", ")
        )
        .into());
    }
    let mut last: Failure = "no target".into();
    for (_, block) in found {
        match open(block) {
            Ok((volume, plan)) => {
                return Ok(Target { block: block.clone(), volume, plan });
            }
            Err(why) => {
                say!("guard: {} refused: {why}", block.path.display());
                last = format!("{} refused: {why}", block.path.display()).into();
            }
        }
    }
    Err(last)
}

fn open(block: &Block) -> Result<(Volume<FileDev>, Plan), Failure> {
    let file = FileDev::open_file(&block.path, true, true)?;
    let dev = FileDev::new(file, 0, block.len);
    let volume = Volume::open(dev, Placement { start: block.start, len: block.len })?;
    volume.guard()?;
    let plan = volume.plan()?;
    Ok((volume, plan))
}

/// The queue of writes to the target: polled if its disk has poll queues.
pub(crate) fn queue(block: &Block) -> Result<WriteQueue, Failure> {
    let file = FileDev::open_file(&block.path, true, true)?;
    let want = if has_poll_queues(&block.disk) { QueueMode::Polled } else { QueueMode::Uring };
    Ok(write_queue(file, want))
}

fn write_queue(file: File, want: QueueMode) -> WriteQueue {
    WriteQueue::new(file, want, DEPTH, WRITE)
}

/// Whether the block layer polls this disk (`queue/io_poll`,
/// Documentation/ABI/stable/sysfs-block). Without poll queues IOPOLL completes by
/// interrupt on some kernels and fails on others (commit 73e59d3eeca4).
fn has_poll_queues(disk: &str) -> bool {
    let file = Path::new("/sys/class/block").join(disk).join("queue/io_poll");
    std::fs::read_to_string(file).is_ok_and(|text| text.trim() == "1")
}
