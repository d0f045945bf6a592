//! The static programs: PID 1 and the host command.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{Failure, Step as _};
use crate::run;

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// The packages that are in an image.
pub(crate) const PACKAGES: [&str; 2] = ["lifeboat-init", "lifeboat"];

/// Where they are.
pub(crate) struct Programs {
    pub(crate) init: PathBuf,
    pub(crate) lifeboat: PathBuf,
    /// `rustc --version`.
    pub(crate) rustc: String,
}

/// Builds them in a target directory of their own, with no path of this machine in them.
pub(crate) fn build(root: &Path) -> Result<Programs, Failure> {
    let target = root.join("target/image");
    std::fs::create_dir_all(&target).step(|| target.display().to_string())?;
    let sysroot = run::output(rust("rustc", root).args(["--print", "sysroot"]))?;
    let home = std::env::var("CARGO_HOME").ok().filter(|h| !h.is_empty());
    let home = home.or_else(|| std::env::var("HOME").ok().map(|h| format!("{h}/.cargo")));
    let home = home.ok_or_else(|| Failure::new("neither CARGO_HOME nor HOME is set"))?;
    // rustc uses the last that fits: the target directory lies within the checkout.
    let maps = [
        (sysroot.trim().to_owned(), "/rust"),
        (home, "/cargo"),
        (root.display().to_string(), "/lifeboat"),
        (target.display().to_string(), "/target"),
    ];
    if let Some((odd, _)) = maps.iter().find(|(from, _)| from.contains(['"', '\\', ' '])) {
        return Err(Failure::new(format!("`{odd}` has a space or quote in it"))
            .hint("build in a directory without"));
    }
    let rust_maps = maps.iter().map(|(from, to)| format!("\"--remap-path-prefix={from}={to}\""));
    let rust_maps = rust_maps.collect::<Vec<_>>().join(",");
    let c_maps = maps.iter().rev().map(|(from, to)| format!("-ffile-prefix-map={from}={to}"));
    let c_maps = c_maps.collect::<Vec<_>>().join(" ");
    // One by one: built together, PID 1 would get what only the host command asks of the
    // crates that they share (age's plugins).
    for package in PACKAGES {
        let mut cargo = rust("cargo", root);
        cargo.args(["build", "--release", "--locked", "-p", package]);
        cargo.args(["--target", TARGET, "--target-dir"]).arg(&target);
        // Joined to the flags of .cargo/config.toml, which make the programs static.
        cargo.arg("--config").arg(format!("target.{TARGET}.rustflags=[{rust_maps}]"));
        cargo.env("CFLAGS", &c_maps).env("SOURCE_DATE_EPOCH", "0");
        let log = target.join(format!("build-{package}.log"));
        run::logged(&mut cargo, "cargo build", &log).map_err(|e| {
            e.hint(format!("run the same with `cargo build --release -p {package}`"))
        })?;
    }
    let dir = target.join(TARGET).join("release");
    Ok(Programs {
        init: dir.join("lifeboat-init"),
        lifeboat: dir.join("lifeboat"),
        rustc: run::version_in("rustc", root)?,
    })
}

/// A Rust tool, free of what a surrounding `cargo run` or a user's shell puts in the way.
fn rust(tool: &str, root: &Path) -> Command {
    let mut command = Command::new(tool);
    command.current_dir(root);
    for name in [
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_TARGET_DIR",
        "CARGO_BUILD_TARGET",
        "RUSTC_WRAPPER",
    ] {
        command.env_remove(name);
    }
    command
}

/// A crate that is linked into the programs.
pub(crate) struct Linked {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) licence: String,
    /// Of the crate file, as Cargo.lock has it; `None` for our own.
    pub(crate) sha256: Option<String>,
}

/// The crates of the programs, sorted, without those that only run while building.
pub(crate) fn linked(root: &Path) -> Result<Vec<Linked>, Failure> {
    let mut tree = rust("cargo", root);
    tree.args(["tree", "--locked", "--target", TARGET, "-e", "normal,no-proc-macro"]);
    tree.args(["--prefix", "none", "--no-dedupe", "-f", "{p}|{l}"]);
    for package in PACKAGES {
        tree.args(["-p", package]);
    }
    let text = run::output(&mut tree)?;
    let path = root.join("Cargo.lock");
    let lock = std::fs::read_to_string(&path).step(|| path.display().to_string())?;
    let lock: toml::Table =
        toml::from_str(&lock).map_err(|e| Failure::new(format!("Cargo.lock: {}", e.message())))?;
    let mut lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    lines.sort_unstable();
    lines.dedup();
    let mut out: Vec<Linked> = Vec::new();
    for line in lines {
        let (package, licence) = line.split_once('|').unwrap_or((line, ""));
        let mut words = package.split_whitespace();
        let (Some(name), Some(version)) = (words.next(), words.next()) else { continue };
        let version = version.trim_start_matches('v');
        let sha256 = checksum(&lock, name, version);
        out.push(Linked {
            name: name.to_owned(),
            version: version.to_owned(),
            licence: licence.replace(" / ", " OR ").replace('/', " OR "),
            sha256,
        });
    }
    out.dedup_by(|a, b| a.name == b.name && a.version == b.version);
    Ok(out)
}

fn checksum(lock: &toml::Table, name: &str, version: &str) -> Option<String> {
    let text = |p: &toml::Value, key: &str| p.get(key).and_then(|v| v.as_str()).map(str::to_owned);
    let packages = lock.get("package")?.as_array()?;
    let same = |p: &&toml::Value| {
        text(p, "name").as_deref() == Some(name) && text(p, "version").as_deref() == Some(version)
    };
    packages.iter().find(same).and_then(|p| text(p, "checksum"))
}
