//! What the rules of the house are checked against: the checkout's own files and
//! what cargo knows of its crates.
//!
//! The rules themselves are tests, in `tests/rules.rs`. A file counts if git would
//! show it: tracked, or new and not ignored.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Top of the checkout.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn output(program: &str, args: &[&str]) -> Result<Vec<u8>, String> {
    let out = Command::new(program).args(args).current_dir(root()).output();
    let out = out.map_err(|e| format!("{program}: {e}"))?;
    if out.status.success() {
        Ok(out.stdout)
    } else {
        Err(format!("{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr)))
    }
}

/// Every file of the checkout that git would show, relative to its top.
///
/// # Errors
/// Git cannot be run, or this is no repository.
pub fn files() -> Result<Vec<String>, String> {
    let list = output("git", &["ls-files", "-z", "--cached", "--others", "--exclude-standard"])?;
    let names = list.split(|b| *b == 0).filter(|n| !n.is_empty());
    let names = names.map(|n| String::from_utf8_lossy(n).into_owned());
    // Removed, but not yet committed so.
    Ok(names.filter(|n| root().join(n).is_file()).collect())
}

/// The text of a file; bytes that are no text become replacement characters.
///
/// # Errors
/// It cannot be read.
pub fn text(name: &str) -> Result<String, String> {
    let bytes = std::fs::read(root().join(name)).map_err(|e| format!("{name}: {e}"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The features with which a dependency is built into a program of the workspace.
///
/// # Errors
/// Cargo cannot be run.
pub fn features(program: &str, dependency: &str) -> Result<Vec<String>, String> {
    let wanted = ["tree", "--locked", "-p", program, "-e", "no-dev", "--prefix", "none"];
    let tree = output("cargo", &[&wanted[..], &["-f", "{lib} {f}"]].concat())?;
    let tree = String::from_utf8_lossy(&tree).into_owned();
    let line = tree.lines().find_map(|l| l.strip_prefix(dependency)?.strip_prefix(' '));
    let line = line.ok_or_else(|| format!("{program} has no {dependency}"))?;
    Ok(line.split([',', ' ']).map(str::to_owned).collect())
}

/// A crate of the workspace.
#[derive(Debug)]
pub struct Crate {
    /// Its name.
    pub name: String,
    /// `Cargo.toml`, relative to the top.
    pub manifest: String,
    /// The roots of its libraries and programs, relative to the top.
    pub roots: Vec<String>,
    /// Workspace crates that it needs to be built and run, without those for its tests.
    pub needs: Vec<String>,
}

/// A field of an object; null if it has none.
fn field<'v>(of: &'v Value, name: &str) -> &'v Value {
    of.get(name).unwrap_or(&Value::Null)
}

/// The crates of the workspace, as cargo sees them.
///
/// # Errors
/// Cargo cannot be run, or says what this does not understand.
pub fn crates() -> Result<Vec<Crate>, String> {
    let json = output("cargo", &["metadata", "--format-version", "1", "--no-deps", "--locked"])?;
    let metadata: Value = serde_json::from_slice(&json).map_err(|e| e.to_string())?;
    let top = field(&metadata, "workspace_root").as_str().unwrap_or_default().to_owned();
    let relative = |path: &Value| {
        let path = path.as_str().unwrap_or_default();
        path.strip_prefix(&top).unwrap_or(path).trim_start_matches('/').to_owned()
    };
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let packages = list(field(&metadata, "packages"));
    let names: Vec<&str> = packages.iter().filter_map(|p| field(p, "name").as_str()).collect();
    let mut out = Vec::new();
    for package in &packages {
        let linked = |target: &&Value| {
            list(field(target, "kind")).iter().any(|k| matches!(k.as_str(), Some("lib" | "bin")))
        };
        let needs = list(field(package, "dependencies"));
        let needs = needs.iter().filter(|d| field(d, "kind").as_str() != Some("dev"));
        let needs = needs.filter_map(|d| field(d, "name").as_str()).filter(|d| names.contains(d));
        let targets = list(field(package, "targets"));
        out.push(Crate {
            name: field(package, "name").as_str().unwrap_or_default().to_owned(),
            manifest: relative(field(package, "manifest_path")),
            roots: targets.iter().filter(linked).map(|t| relative(field(t, "src_path"))).collect(),
            needs: needs.map(str::to_owned).collect(),
        });
    }
    Ok(out)
}
