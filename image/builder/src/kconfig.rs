//! Kernel configuration fragments: what they ask for, and whether it came out so.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::digest::{self, Digest};
use crate::failure::{Failure, Step as _};

/// A fragment as read.
pub(crate) struct Fragment {
    /// Name for the manifest: relative to the checkout, or the file's own.
    pub(crate) name: String,
    pub(crate) text: String,
    pub(crate) digest: Digest,
}

/// Reads the fragments of a profile, in order.
pub(crate) fn read(root: &Path, names: &[PathBuf]) -> Result<Vec<Fragment>, Failure> {
    let mut out = Vec::new();
    for name in names {
        let own = name.components().count() == 1;
        let relative = format!("config/kernel/{}.config", name.display());
        let path = if own { root.join(&relative) } else { name.clone() };
        let bytes = std::fs::read(&path)
            .step(|| format!("fragment {}", path.display()))
            .map_err(|e| e.hint("fragments are named in the profile's [kernel]; those there are: ls config/kernel"))?;
        let shown = path.file_name().map(|n| n.to_string_lossy().into_owned());
        out.push(Fragment {
            name: if own { relative } else { shown.unwrap_or_default() },
            digest: digest::bytes(&bytes),
            text: String::from_utf8(bytes)
                .map_err(|_| Failure::new(format!("{} is not text", path.display())))?,
        });
    }
    Ok(out)
}

/// Symbol → value (`n` for “is not set”), of fragments or of a finished `.config`.
pub(crate) fn symbols(text: &str) -> BTreeMap<&str, &str> {
    let mut out = BTreeMap::new();
    for line in text.lines().map(str::trim) {
        let off = line.strip_prefix("# ").and_then(|l| l.strip_suffix(" is not set"));
        let pair = off.map(|name| (name, "n")).or_else(|| line.split_once('='));
        if let Some((name, value)) = pair
            && name.starts_with("CONFIG_")
        {
            out.insert(name, value);
        }
    }
    out
}

/// Fails if any symbol did not come out as the fragments ask, listing all of them.
pub(crate) fn check(fragments: &[Fragment], config: &str) -> Result<(), Failure> {
    let all: String = fragments.iter().flat_map(|f| [f.text.as_str(), "\n"]).collect();
    let got = symbols(config);
    let mut wrong = Vec::new();
    for (name, asked) in symbols(&all) {
        // A symbol that is invisible has no line at all: off.
        let found = got.get(name).copied().unwrap_or("n");
        if found != asked {
            let by = fragments.iter().rev().find(|f| symbols(&f.text).contains_key(name));
            let by = by.map(|f| f.name.as_str()).unwrap_or_default();
            wrong.push(format!("\n  | {name}={asked} ({by}) came out as {found}"));
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!("{} kernel options did not come out as asked:{}", wrong.len(), wrong.concat()))
        .hint("a dependency is missing or the symbol was renamed: look it up with `make menuconfig`, key /"))
}
