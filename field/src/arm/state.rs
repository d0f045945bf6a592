//! What the running kernel says of kexec, and our own note of what was armed.

use std::fs;
use std::io;
use std::path::Path;

use serde_json::Value;

use crate::ui::{Context as _, Failure};

/// Our note, without secrets.
pub(crate) const NOTE: &str = "/run/lifeboat/armed.json";

/// Bytes that `crashkernel=` reserved; `None` for a kernel without kexec
/// (Documentation/ABI/testing/sysfs-kernel-kexec…, `/sys/kernel/kexec_crash_size`).
pub(crate) fn reservation() -> Option<u64> {
    number("kexec_crash_size")
}

/// Whether a crash kernel is loaded.
pub(crate) fn loaded() -> Option<bool> {
    number("kexec_crash_loaded").map(|n| n != 0)
}

fn number(name: &str) -> Option<u64> {
    fs::read_to_string(Path::new("/sys/kernel").join(name)).ok()?.trim().parse().ok()
}

/// Keeps the note.
pub(crate) fn write(note: &Value) -> Result<(), Failure> {
    let path = Path::new(NOTE);
    let dir = path.parent().unwrap_or(Path::new("/run"));
    fs::create_dir_all(dir).context(dir.display())?;
    let text = serde_json::to_string_pretty(note).context("JSON")?;
    let fresh = path.with_extension("json.new");
    fs::write(&fresh, text).context(fresh.display())?;
    fs::rename(&fresh, path).context(path.display())
}

/// Reads the note; `None` when there is none.
pub(crate) fn read() -> Result<Option<Value>, Failure> {
    match fs::read(NOTE) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).context(NOTE),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).context(NOTE),
    }
}

/// Removes the note.
pub(crate) fn remove() -> Result<(), Failure> {
    match fs::remove_file(NOTE) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).context(NOTE),
        _ => Ok(()),
    }
}
