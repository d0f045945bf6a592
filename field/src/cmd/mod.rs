//! The subcommands, one module each, and what they share.

pub(crate) mod capture;
pub(crate) mod clear;
pub(crate) mod export;
pub(crate) mod format;
pub(crate) mod frames;
pub(crate) mod inquest;
pub(crate) mod keyareas;
pub(crate) mod keygen;
pub(crate) mod list;
pub(crate) mod opened;
pub(crate) mod pull;
pub(crate) mod rekey;
pub(crate) mod scan;
pub(crate) mod summary;
pub(crate) mod verify;
pub(crate) mod volumes;

use lifeboat_sink::{FileDev, Volume, VolumeError};

use crate::cli::Which;
use crate::device::Window;
use crate::ui::{Context as _, Failure, hex};
use summary::Summary;

/// Prints JSON on stdout.
pub(crate) fn print_json(value: &serde_json::Value) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).context("JSON")?;
    crate::ui::say!("{text}");
    Ok(())
}

/// The dump that the user means.
///
/// # Errors
/// When the volume holds none, or not that number.
pub(crate) fn choose(
    name: &str,
    mut dumps: Vec<Summary>,
    which: Which,
) -> Result<Summary, Failure> {
    // Numbers are those of the first volume that holds any: dumps are in their order.
    let volume = |d: &Summary| d.laid.as_ref().map_or(0, volumes::Laid::volume);
    let first = dumps.first().map_or(0, volume);
    dumps.retain(|d| volume(d) == first);
    let numbers: Vec<String> = dumps.iter().map(|d| d.number.to_string()).collect();
    let none = dumps.is_empty();
    let found = match which {
        Which::Latest => dumps.pop(),
        Which::Number(n) => dumps.into_iter().find(|d| d.number == n),
    };
    found.ok_or_else(|| {
        if none {
            Failure::new(format!("{name} holds no dump"))
                .hint("no crash was captured since it was formatted, or all dumps were cleared")
        } else {
            Failure::new(format!("{name} holds no such dump"))
                .hint(format!("it holds {}", numbers.join(", ")))
        }
    })
}

/// What to say of the parts of a dump that the given volumes do not hold.
pub(crate) fn absent_words(dump: &Summary) -> Vec<String> {
    let where_ = |a: &volumes::Absent| {
        a.volume.map_or("is on a volume that nothing names".to_owned(), |id| {
            format!("is on volume {}: name its device too", hex(&id))
        })
    };
    let words = |a: &volumes::Absent| match a.to {
        Some(to) => format!(
            "a part of {} is not here: bytes {} to {to}; it {}",
            dump.name,
            a.from,
            where_(a)
        ),
        None => {
            format!("{} goes on behind byte {}: the next part {}", dump.name, a.from, where_(a))
        }
    };
    dump.absent.iter().map(words).collect()
}

/// The volume of a window that was opened for writing, if slots may be written:
/// its guard holds, or it is an image file whose only fault is that it was
/// copied away from its disk.
///
/// # Errors
/// The guard's.
pub(crate) fn writable(window: &Window) -> Result<Volume<FileDev>, Failure> {
    let volume = Volume::open(window.dev()?, window.placement()).context(&window.name)?;
    let strange = volumes::slot_faults(&volume);
    if let Some(why) = strange.iter().find(|w| w.contains(volumes::ROLLED_BACK)) {
        return Err(Failure::new(format!("{}: {why}", window.name))
            .hint("save the volume with dd, then look what `lifeboat list --scan` finds"));
    }
    match volume.guard() {
        Ok(()) => Ok(volume),
        Err(VolumeError::Moved { .. }) if window.rdev.is_none() => Ok(volume),
        Err(e) => Err(Failure::of(&e).context(&window.name)),
    }
}
