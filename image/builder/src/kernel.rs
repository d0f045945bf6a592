//! Configuring and building the kernel, once for each set of inputs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lifeboat_profile::Profile;

use crate::digest::Key;
use crate::failure::{Failure, Step as _};
use crate::kconfig::{self, Fragment};
use crate::place::Cache;
use crate::report::Report;
use crate::run;
use crate::source::{self, Origin, Overlay};

/// What a build must not take from the machine or the clock (config/kernel/README.md).
const ENVIRONMENT: &[(&str, &str)] = &[
    ("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 1970"),
    ("KBUILD_BUILD_USER", "lifeboat"),
    ("KBUILD_BUILD_HOST", "lifeboat"),
    ("KBUILD_BUILD_VERSION", "1"),
    ("SOURCE_DATE_EPOCH", "0"),
    ("LC_ALL", "C"),
    ("TZ", "UTC"),
];
/// What would change the build from outside.
const UNSET: &[&str] = &[
    "LOCALVERSION",
    "KCFLAGS",
    "KAFLAGS",
    "KCPPFLAGS",
    "CROSS_COMPILE",
    "MAKEFLAGS",
    "CC",
    "LD",
    "LLVM",
];
const TOOLS: &[&str] = &["make", "gcc", "ld", "flex", "bison", "bc", "zstd", "cp"];

/// A built kernel.
pub(crate) struct Kernel {
    pub(crate) bzimage: PathBuf,
    pub(crate) config: PathBuf,
    /// Such as `6.12.117`.
    pub(crate) version: String,
    pub(crate) origin: Origin,
    pub(crate) overlay: Overlay,
    pub(crate) fragments: Vec<Fragment>,
    /// Tool → version, of what makes the kernel's bytes.
    pub(crate) tools: Vec<(&'static str, String)>,
}

/// Builds the kernel of a profile, or finds it in the cache.
pub(crate) fn build(
    root: &Path,
    cache: &Cache,
    profile: &Profile,
    report: &Report,
) -> Result<Kernel, Failure> {
    run::need(TOOLS)?;
    let source = source::obtain(cache, &profile.kernel).step(|| "kernel source".to_owned())?;
    report.line("source", &format!("{} {}", source.origin.name, source.origin.version));
    let overlay = Overlay::read(root)?;
    let fragments = kconfig::read(root, &profile.fragments)?;
    let mut tools = Vec::new();
    for tool in ["gcc", "ld", "zstd"] {
        tools.push((tool, run::version(tool)?));
    }
    let mut key = Key::new("kernel 1");
    key.add("source", source.origin.sha256.as_bytes());
    for (name, found) in &overlay.files {
        key.add(name, found.sha256.as_bytes());
    }
    for fragment in &fragments {
        key.add("fragment", fragment.text.as_bytes());
    }
    for (name, value) in ENVIRONMENT.iter().copied() {
        key.add(name, value.as_bytes());
    }
    for (tool, version) in &tools {
        key.add(tool, version.as_bytes());
    }
    let key = key.finish();
    let key = key.get(..32).unwrap_or(&key);
    let mut built = false;
    let dir = cache.entry("kernel", key, |out| {
        built = true;
        make(cache, &source, &overlay, &fragments, out, report)
    })?;
    if !built {
        report.line("kernel", &format!("from the cache ({key})"));
    }
    let path = dir.join("version");
    let version = fs::read_to_string(&path).step(|| path.display().to_string())?;
    Ok(Kernel {
        bzimage: dir.join("bzImage"),
        config: dir.join("config"),
        version,
        origin: source.origin,
        overlay,
        fragments,
        tools,
    })
}

/// One build, in a directory that is thrown away; leaves bzImage, config and version in `out`.
fn make(
    cache: &Cache,
    source: &source::Source,
    overlay: &Overlay,
    fragments: &[Fragment],
    out: &Path,
    report: &Report,
) -> Result<(), Failure> {
    let name = out.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let work = cache.scratch(&name)?;
    let (tree, obj) = (work.dir.join("tree"), work.dir.join("obj"));
    // Outlives the work, so that a failure can be looked at.
    let log = out.with_extension("log");
    source::lay_out(cache, source, overlay, &tree, &log).step(|| "kernel tree".to_owned())?;
    let version = source::kernel_version(&tree)?;
    report.line("tree", &format!("Linux {version} with the driver in it"));
    fs::create_dir_all(&obj).step(|| obj.display().to_string())?;
    run::logged(&mut kbuild(&tree, &obj, &["tinyconfig"]), "make tinyconfig", &log)?;
    let path = obj.join(".config");
    let mut config = fs::read_to_string(&path).step(|| path.display().to_string())?;
    for fragment in fragments {
        config.push_str(&fragment.text);
        config.push('\n');
    }
    fs::write(&path, config).step(|| path.display().to_string())?;
    run::logged(&mut kbuild(&tree, &obj, &["olddefconfig"]), "make olddefconfig", &log)?;
    let config = fs::read_to_string(&path).step(|| path.display().to_string())?;
    kconfig::check(fragments, &config)?;
    let on = kconfig::symbols(&config).values().filter(|v| **v != "n").count();
    report
        .line("config", &format!("{on} options on, all as asked; building (5 to 10 CPU minutes)"));
    let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let jobs = format!("-j{jobs}");
    run::logged(&mut kbuild(&tree, &obj, &[&jobs, "bzImage"]), "make bzImage", &log)?;
    let image = obj.join("arch/x86/boot/bzImage");
    fs::copy(&image, out.join("bzImage")).step(|| image.display().to_string())?;
    fs::write(out.join("config"), config).step(|| "config".to_owned())?;
    fs::write(out.join("version"), version).step(|| "version".to_owned())?;
    report.line("kernel", "built");
    Ok(())
}

fn kbuild(tree: &Path, obj: &Path, goals: &[&str]) -> Command {
    let mut make = Command::new("make");
    for name in UNSET {
        make.env_remove(name);
    }
    make.envs(ENVIRONMENT.iter().copied());
    make.arg("-C").arg(tree).arg(format!("O={}", obj.display()));
    make.args(["ARCH=x86_64", "LOCALVERSION="]).args(goals);
    make
}
