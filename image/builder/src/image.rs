//! Joining the parts to an image directory.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use lifeboat_format::bootcfg::MAX_LEN;
use lifeboat_profile::{Profile, Site, lower};

use crate::contents::{self, Made};
use crate::digest::{self, Digest};
use crate::failure::{Failure, Step as _};
use crate::kernel::{self, Kernel};
use crate::manifest;
use crate::needs::Needs;
use crate::place::{Cache, Scratch, replace_dir};
use crate::programs::{self, Programs};
use crate::report::{Report, mib};
use crate::sbom;

/// Version of the builder and of what it builds.
const LIFEBOAT: &str = env!("CARGO_PKG_VERSION");

/// Reads a board's profile: a name in `board/`, or a directory.
pub(crate) fn profile(root: &Path, board: &str) -> Result<Profile, Failure> {
    let dir =
        if board.contains('/') { PathBuf::from(board) } else { root.join("board").join(board) };
    if !dir.exists() {
        let there = fs::read_dir(root.join("board")).into_iter().flatten().flatten();
        let mut there: Vec<String> =
            there.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        there.sort();
        return Err(Failure::new(format!("there is no board {board}"))
            .hint(format!("boards are: {}", there.join(", "))));
    }
    // Every defect of a profile brings its own hint.
    Profile::load(&dir).map_err(|e| Failure::new(format!("profile of board {board}\n{e}")))
}

/// Builds the image of a board into `out/NAME`.
pub(crate) fn build(
    root: &Path,
    cache: &Cache,
    board: &str,
    out: &Path,
    report: &Report,
) -> Result<(), Failure> {
    let profile = profile(root, board)?;
    report.line("profile", &format!("{} ({})", profile.name, profile.crashkernel()));
    if !profile.encrypt {
        report.line(
            "WARNING",
            "encrypt = \"none\": dumps of this board lie in the clear on their disks",
        );
    }
    let kernel = kernel::build(root, cache, &profile, report)?;
    let programs = programs::build(root)?;
    report.line("programs", &format!("lifeboat-init and lifeboat, {}", programs.rustc));
    let commit = commit(root);
    let version = image_version(&kernel, commit.as_deref());
    let (initramfs, unpacked, list) = initramfs(root, &profile, &programs, &version)?;
    report
        .line("initramfs", &format!("{}, unpacked {}", mib(initramfs.len() as u64), mib(unpacked)));

    let needs = Needs::of(&profile, unpacked)?;
    needs.check(&profile)?;
    report.line("needs", &needs.text());

    fs::create_dir_all(out).step(|| out.display().to_string())?;
    let stage = Scratch::new(out.join(format!(".{}.new", profile.name)))?;
    let put = |name: &str, data: &[u8], mode: u32| write(&stage.dir.join(name), data, mode);
    put("vmlinuz", &read(&kernel.bzimage)?, 0o644)?;
    put("initramfs.cpio.zst", &initramfs, 0o644)?;
    put("board.toml", profile.flattened().as_bytes(), 0o644)?;
    put("config", &read(&kernel.config)?, 0o644)?;
    put("lifeboat", &read(&programs.lifeboat)?, 0o755)?;
    put("lifeboat-init", &read(&programs.init)?, 0o755)?;
    let crates = programs::linked(root)?;
    put("sbom.cdx.json", &pretty(&sbom::cyclonedx(&version, &kernel, &crates))?, 0o644)?;
    budget(&profile, &stage.dir, report)?;

    let outputs = digests(&stage.dir)?;
    let mut inputs = BTreeMap::from([("initramfs/contents.list".to_owned(), list)]);
    for name in ["Cargo.lock", "rust-toolchain.toml", ".cargo/config.toml"] {
        inputs.insert(name.to_owned(), digest::file(&root.join(name))?);
    }
    let facts = manifest::Facts {
        version: &version,
        commit: commit.as_deref(),
        profile: &profile,
        kernel: &kernel,
        rustc: &programs.rustc,
        inputs,
        outputs: &outputs,
        unpacked,
        needs: &needs,
    };
    put("manifest.json", &pretty(&manifest::json(&facts))?, 0o644)?;
    let sums: String =
        digests(&stage.dir)?.iter().map(|(n, d)| format!("{}  {n}\n", d.sha256)).collect();
    put("SHA256SUMS", sums.as_bytes(), 0o644)?;
    let done = out.join(&profile.name);
    replace_dir(&stage.dir, &done)?;
    report.line("image", &done.display().to_string());
    if !profile.missing().is_empty() {
        report.line("note", &format!("needed when arming: {}", profile.missing().join(", ")));
    }
    Ok(())
}

/// Fails if kernel and initramfs exceed the board's budget.
pub(crate) fn budget(profile: &Profile, dir: &Path, report: &Report) -> Result<(), Failure> {
    let size = |name: &str| digest::file(&dir.join(name)).map(|d| d.size);
    let (kernel, initramfs) = (size("vmlinuz")?, size("initramfs.cpio.zst")?);
    let allowed = u64::from(profile.image_budget_mib) << 20;
    let text = format!(
        "{} of {} MiB allowed (kernel {}, initramfs {})",
        mib(kernel + initramfs),
        profile.image_budget_mib,
        mib(kernel),
        mib(initramfs)
    );
    if kernel + initramfs > allowed {
        return Err(Failure::new(format!("the image is too large: {text}"))
            .hint("leave drivers out, or raise reservation.image_budget_mib, and with it crashkernel_mib if the board is short of memory"));
    }
    report.line("size", &text);
    Ok(())
}

/// The compressed archive, its size unpacked, and the digest of its list.
fn initramfs(
    root: &Path,
    profile: &Profile,
    programs: &Programs,
    version: &str,
) -> Result<(Vec<u8>, u64, Digest), Failure> {
    let mut made = Made::new();
    made.insert("init", read(&programs.init)?);
    if profile.missing().is_empty() {
        made.insert("image.conf", orders(profile, version)?);
    }
    let list = read(&root.join("initramfs/contents.list"))?;
    let text = String::from_utf8_lossy(&list);
    let archive = contents::archive(&text, &made)?;
    Ok((contents::compress(&archive)?, archive.len() as u64, digest::bytes(&list)))
}

/// The boot configuration of a profile that can stand alone.
fn orders(profile: &Profile, version: &str) -> Result<Vec<u8>, Failure> {
    let mut orders = lower(profile, &Site::default()).map_err(|e| Failure::new(e.to_string()))?;
    orders.image = heapless::String::try_from(version).unwrap_or_default();
    let mut text: Box<heapless::String<MAX_LEN>> = Box::default();
    orders.write(text.as_mut(), false).map_err(|_| {
        Failure::new("the boot configuration exceeds 64 KiB").hint("name fewer recipients")
    })?;
    Ok(text.as_bytes().to_vec())
}

/// At most 63 bytes, the field of a dump's header.
fn image_version(kernel: &Kernel, commit: Option<&str>) -> String {
    let commit = commit.and_then(|c| c.get(..10)).map(|c| format!(" {c}")).unwrap_or_default();
    let mut text = format!("lifeboat {LIFEBOAT}{commit} linux {}", kernel.version);
    text.truncate(63);
    text
}

/// The commit that is checked out; `None` outside of git.
fn commit(root: &Path) -> Option<String> {
    let out = Command::new("git").arg("-C").arg(root).args(["rev-parse", "HEAD"]).output().ok()?;
    let text = String::from_utf8(out.stdout).ok()?;
    (out.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}

/// Name and digest of every file of a directory.
fn digests(dir: &Path) -> Result<BTreeMap<String, Digest>, Failure> {
    let mut out = BTreeMap::new();
    for path in digest::files_below(dir)? {
        out.insert(path.to_string_lossy().into_owned(), digest::file(&dir.join(&path))?);
    }
    Ok(out)
}

fn pretty(value: &serde_json::Value) -> Result<Vec<u8>, Failure> {
    let mut out = serde_json::to_vec_pretty(value).map_err(|e| Failure::new(e.to_string()))?;
    out.push(b'\n');
    Ok(out)
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).step(|| path.display().to_string())
}

fn write(path: &Path, data: &[u8], mode: u32) -> Result<(), Failure> {
    fs::write(path, data).step(|| path.display().to_string())?;
    let mode = fs::Permissions::from_mode(mode);
    fs::set_permissions(path, mode).step(|| path.display().to_string())
}
