//! `lifeboat clear`: gives up a dump.

use super::summary;
use crate::cli::Clear;
use crate::device::{self, Access};
use crate::ui::{Context as _, Ended, Failure, Outcome, bytes};
use lifeboat_format::SlotState;

/// Marks the slot as cleared. Refuses a dump that nobody pulled, without `--force`.
pub(crate) fn run(args: &Clear) -> Ended {
    let window = device::find_volume(&args.dev, args.partition.as_deref())?;
    let (_, dumps) = summary::of_volume(&window)?;
    let dump = super::choose(&window.name, &dumps, args.dump)?;
    let Some((slot, record)) = dump.slot else {
        return Err(Failure::new(format!("{} has no slot", window.name)));
    };
    if !record.pulled && !args.force {
        return Err(Failure::new(format!(
            "dump {} of {} was never pulled",
            record.number, window.name
        ))
        .hint("fetch it with `lifeboat pull`, or give it up with --force"));
    }
    let window = window.reopen(Access::Write)?;
    let mut volume = super::writable(&window)?;
    volume.update(slot, |r| r.state = SlotState::Cleared).context(&window.name)?;
    let extent = record.extent();
    crate::ui::say!(
        "cleared dump {} of {}: {} free again",
        record.number,
        window.name,
        bytes(extent.end - extent.start)
    );
    Ok(Outcome::Good)
}
