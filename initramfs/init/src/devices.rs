//! Waiting for disks: until the targets are there, with a deadline.

use std::time::{Duration, Instant};

use lifeboat_format::bootcfg::{BootConfig, SwapPlan};
use lifeboat_sources::blockdev::{self, Block};

use crate::console::say;
use crate::phase::Journal;
use crate::supervisor::Supervisor;

/// How often sysfs is looked at.
const POLL: Duration = Duration::from_millis(50);
/// With `swap auto` nobody knows how many disks will come: the list must have been
/// the same for this long. Counted from the last change, so it is no fixed sleep.
const SETTLED: Duration = Duration::from_millis(500);

/// What appeared.
pub(crate) struct Devices {
    pub(crate) all: Vec<Block>,
    /// Targets, as (place in the profile's list, device), in order of that list.
    pub(crate) targets: Vec<(usize, Block)>,
}

/// Waits for the first-named target that appears and, with `swap auto`, until no
/// further disk does; at the deadline goes on with what is there.
pub(crate) fn wait(config: &BootConfig, journal: &Journal, supervisor: &Supervisor) -> Devices {
    let start = Instant::now();
    let limit = Duration::from_secs(u64::from(config.device_wait_s));
    let mut changed = Instant::now();
    let mut seen = 0u64;
    loop {
        let all = blockdev::enumerate().unwrap_or_default();
        let mark = fingerprint(&all);
        if mark != seen {
            seen = mark;
            changed = Instant::now();
        }
        // Waiting is what this phase does, and it has a deadline of its own: the
        // watchdog is for what hangs, such as a read of a partition table.
        supervisor.moved(journal, 1);
        let targets = matching(config, &all);
        let swap_there = match &config.swap {
            SwapPlan::None => true,
            SwapPlan::Auto => changed.elapsed() >= SETTLED,
            SwapPlan::List(list) => list.iter().all(|s| blockdev::find(&all, s).is_ok()),
        };
        // The first choice, or whatever there is once things are quiet.
        let first = targets.iter().any(|(at, _)| *at == 0);
        let target_there = first || (!targets.is_empty() && changed.elapsed() >= SETTLED);
        if (target_there && swap_there) || start.elapsed() >= limit {
            return Devices { all, targets };
        }
        std::thread::sleep(POLL);
    }
}

fn matching(config: &BootConfig, all: &[Block]) -> Vec<(usize, Block)> {
    let find = |(at, selector)| Some((at, blockdev::find(all, selector).ok()?.clone()));
    config.targets.iter().enumerate().filter_map(find).collect()
}

/// Says which targets are not there, or not one alone.
pub(crate) fn tell_missing(config: &BootConfig, devices: &Devices) {
    for (at, selector) in config.targets.iter().enumerate() {
        if devices.targets.iter().all(|(found, _)| *found != at)
            && let Err(why) = blockdev::find(&devices.all, selector)
        {
            say!("devices: target {why}");
        }
    }
}

fn fingerprint(all: &[Block]) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hash = DefaultHasher::new();
    for block in all {
        block.path.hash(&mut hash);
        block.len.hash(&mut hash);
    }
    hash.finish() | 1
}
