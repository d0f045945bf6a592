//! The subcommands, one module each, and what they share.

pub(crate) mod clear;
pub(crate) mod export;
pub(crate) mod format;
pub(crate) mod frames;
pub(crate) mod keygen;
pub(crate) mod list;
pub(crate) mod opened;
pub(crate) mod pull;
pub(crate) mod summary;
pub(crate) mod verify;

use lifeboat_sink::{FileDev, Volume, VolumeError};

use crate::cli::Which;
use crate::device::Window;
use crate::ui::{Context as _, Failure};
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
pub(crate) fn choose<'a>(
    name: &str,
    dumps: &'a [Summary],
    which: Which,
) -> Result<&'a Summary, Failure> {
    let numbers: Vec<String> = dumps.iter().map(|d| d.number.to_string()).collect();
    let found = match which {
        Which::Latest => dumps.last(),
        Which::Number(n) => dumps.iter().find(|d| d.number == n),
    };
    found.ok_or_else(|| {
        if dumps.is_empty() {
            Failure::new(format!("{name} holds no dump"))
                .hint("no crash was captured since it was formatted, or all dumps were cleared")
        } else {
            Failure::new(format!("{name} holds no such dump"))
                .hint(format!("it holds {}", numbers.join(", ")))
        }
    })
}

/// The volume of a window that was opened for writing, if slots may be written:
/// its guard holds, or it is an image file whose only fault is that it was
/// copied away from its disk.
///
/// # Errors
/// The guard's.
pub(crate) fn writable(window: &Window) -> Result<Volume<FileDev>, Failure> {
    let volume = Volume::open(window.dev()?, window.placement()).context(&window.name)?;
    match volume.guard() {
        Ok(()) => Ok(volume),
        Err(VolumeError::Moved { .. }) if window.rdev.is_none() => Ok(volume),
        Err(e) => Err(Failure::of(&e).context(&window.name)),
    }
}
