//! `lifeboat format`: makes a partition ours, after looking what it is now.

use lifeboat_format::SlotState;
use lifeboat_format::superblock::{MIN_VOLUME, SLOTS};
use lifeboat_sink::{Volume, VolumeError};

use crate::cli::Format;
use crate::device::{self, Access, Window, inuse, signature};
use crate::ui::{Context as _, Ended, Failure, Outcome, bytes, hex, now};

/// Formats DEV. `--force` overrides what lies on the device; nothing overrides
/// that somebody uses it now.
pub(crate) fn run(args: &Format) -> Ended {
    if args.max_dumps == 0 || args.max_dumps > SLOTS {
        return Err(Failure::usage(format!("--max-dumps is from 1 to {SLOTS}")));
    }
    if args.label.len() > 64 || args.label.chars().any(char::is_control) {
        return Err(Failure::usage("--label is at most 64 bytes, without control characters"));
    }
    let window = device::for_format(&args.dev, args.partition.as_deref())?;
    refuse_in_use(&window)?;
    if window.len < MIN_VOLUME {
        return Err(Failure::new(format!(
            "{} has {}; a dump volume needs at least {}",
            window.name,
            bytes(window.len),
            bytes(MIN_VOLUME)
        ))
        .hint("give it a larger partition: half of the memory is a fair start"));
    }
    if !args.force {
        refuse_contents(&window)?;
    }
    let access = if window.rdev.is_some() { Access::Exclusive } else { Access::Write };
    let window = window.reopen(access)?;
    let mut id = [0u8; 16];
    getrandom::fill(&mut id).map_err(|e| Failure::new(format!("no random numbers: {e}")))?;
    let volume =
        Volume::format(window.dev()?, window.placement(), args.max_dumps, &args.label, id, now())
            .context(&window.name)?;
    volume.guard().context(format!("{} after formatting", window.name))?;
    let sb = volume.superblock();
    crate::ui::say!("formatted {}", window.name);
    crate::ui::say!("  volume     {}", hex(&sb.volume_id));
    crate::ui::say!("  partition  {} at byte {}", bytes(sb.part_len), sb.part_start.0);
    crate::ui::say!(
        "  for dumps  {}, at most {}",
        bytes(sb.data_end().0 - sb.data_start().0),
        sb.max_dumps
    );
    Ok(Outcome::Good)
}

fn refuse_in_use(window: &Window) -> Result<(), Failure> {
    let why = match window.rdev {
        Some(rdev) => inuse::block_device(rdev),
        None => inuse::file(&window.path),
    };
    match why {
        None => Ok(()),
        Some(why) => Err(Failure::new(format!("{} cannot be formatted: {why}", window.name))
            .hint("name a partition that nothing uses; --force does not override this")),
    }
}

fn refuse_contents(window: &Window) -> Result<(), Failure> {
    match Volume::open(window.dev()?, window.placement()) {
        Ok(volume) => refuse_dumps(window, &volume)?,
        Err(VolumeError::NotOurs) => {}
        Err(VolumeError::Superblock(why)) => {
            return Err(Failure::new(format!(
                "{} holds a damaged Lifeboat volume: {why}",
                window.name
            ))
            .hint("save it with dd if its dumps matter, then use --force"));
        }
        Err(other) => return Err(Failure::of(&other).context(&window.name)),
    }
    let seen = signature::find(window).context(&window.name)?;
    if seen.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!("{} holds {}", window.name, seen.join(" and ")))
        .hint("if this is the right partition, clear it with `wipefs -a` or use --force; what is there is lost"))
}

fn refuse_dumps<D: lifeboat_sink::BlockDev>(
    window: &Window,
    volume: &Volume<D>,
) -> Result<(), Failure> {
    let dumps = volume.dumps();
    let broken = volume.slots().iter().filter(|s| s.is_err()).count();
    if dumps.is_empty() && broken == 0 {
        return Ok(());
    }
    let unpulled = dumps.iter().filter(|(_, r)| !r.pulled).count();
    let open = dumps.iter().filter(|(_, r)| r.state == SlotState::Capturing).count();
    Err(Failure::new(format!(
        "{} is a Lifeboat volume with {} dumps ({unpulled} never pulled, {open} not finished, {broken} slots damaged)",
        window.name,
        dumps.len()
    ))
    .hint("fetch them with `lifeboat pull`, or give them up with --force"))
}
