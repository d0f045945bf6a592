//! `lifeboat clear`: gives up a dump.

use lifeboat_format::SlotState;

use super::{summary, volumes};
use crate::cli::Clear;
use crate::device::Access;
use crate::ui::{Context as _, Ended, Failure, Outcome, bytes, hex, warn};

/// Marks the slots of all its parts as cleared, those on DEV last: a clear that is cut
/// short leaves the dump there to be cleared again. Refuses a dump that nobody pulled,
/// without `--force`.
pub(crate) fn run(args: &Clear) -> Ended {
    let opened = volumes::open(&args.dev, args.partition.as_deref(), &args.with)?;
    let dump = super::choose(&args.dev, summary::of_volumes(&opened)?, args.dump)?;
    let Some(laid) = &dump.laid else {
        return Err(Failure::new(format!("{} has no slot", dump.name))
            .hint("this command works on the dump partition or an image of it"));
    };
    if let Some(why) = dump.header.as_ref().and_then(|h| laid.contradicts(h)) {
        return Err(Failure::new(format!("{}: {why}", dump.title()))
            .hint("save the volume with dd before anything writes to it"));
    }
    if !laid.is_pulled() && !args.force {
        return Err(Failure::new(format!("{} was never pulled", dump.title()))
            .hint("fetch it with `lifeboat pull`, or give it up with --force"));
    }
    let mut free = 0;
    for part in laid.parts.iter().rev() {
        let Some(slot) = part.slot else { continue };
        let window = part.window.reopen(Access::Write)?;
        let mut volume = super::writable(&window)?;
        volume.update(slot, |r| r.state = SlotState::Cleared).context(&window.name)?;
        let extent = part.record.extent();
        free += extent.end - extent.start;
    }
    let parts = match laid.parts.len() {
        0 | 1 => String::new(),
        n => format!(" ({n} parts)"),
    };
    crate::ui::say!("cleared {}{parts}: {} free again", dump.title(), bytes(free));
    for absent in dump.absent.iter().filter_map(|a| a.volume) {
        warn(format!("volume {} still holds a part of it: clear that too", hex(&absent)));
    }
    Ok(Outcome::Good)
}
