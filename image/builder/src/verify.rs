//! `manifest-check`: is an image directory what its manifest and sums say?

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::digest::{self, Digest};
use crate::failure::{Failure, Step as _};
use crate::manifest::SCHEMA;

/// Checks every file of `dir` against `manifest.json` and `SHA256SUMS`, and that
/// there is no other; gives the number of files.
pub(crate) fn image(dir: &Path) -> Result<usize, Failure> {
    let read = |name: &str| {
        let path = dir.join(name);
        std::fs::read_to_string(&path).step(|| path.display().to_string())
    };
    let manifest: Value = serde_json::from_str(&read("manifest.json")?)
        .map_err(|e| Failure::new(format!("manifest.json: {e}")).hint("build the image anew"))?;
    if manifest.get("schema").and_then(Value::as_u64) != Some(u64::from(SCHEMA)) {
        return Err(Failure::new("manifest.json has another schema than this builder knows")
            .hint("check it with the builder of its own version"));
    }
    let outputs = manifest.get("outputs").cloned().unwrap_or_default();
    let outputs: BTreeMap<String, Digest> = serde_json::from_value(outputs).map_err(|e| {
        Failure::new(format!("manifest.json, outputs: {e}")).hint("build the image anew")
    })?;
    let sums = read("SHA256SUMS")?;
    let sums: BTreeMap<&str, &str> =
        sums.lines().filter_map(|l| l.split_once("  ")).map(|(sum, name)| (name, sum)).collect();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for path in digest::files_below(dir)? {
        let name = path.to_string_lossy().into_owned();
        if name == "SHA256SUMS" {
            continue;
        }
        let found = digest::file(&dir.join(&path))?;
        seen += 1;
        if sums.get(name.as_str()) != Some(&found.sha256.as_str()) {
            wrong.push(format!("{name}: not as in SHA256SUMS"));
        }
        if name != "manifest.json" && outputs.get(&name) != Some(&found) {
            wrong.push(format!("{name}: not as in manifest.json"));
        }
    }
    let absent = sums.keys().copied().chain(outputs.keys().map(String::as_str));
    let absent = absent.filter(|name| !dir.join(name).is_file());
    wrong.extend(absent.map(|name| format!("{name}: missing")));
    wrong.sort();
    wrong.dedup();
    if outputs.is_empty() {
        wrong.push("manifest.json lists no files".to_owned());
    }
    if wrong.is_empty() {
        return Ok(seen);
    }
    Err(Failure::new(format!("{}\n  | {}", dir.display(), wrong.join("\n  | ")))
        .hint("copy the image again, or build it anew"))
}
