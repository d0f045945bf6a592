//! The kernel's source: fetched or found, verified, and laid out as a tree with our driver in it.

use std::path::{Path, PathBuf};
use std::process::Command;

use lifeboat_profile::KernelSource;
use serde::Serialize;

use crate::digest::{self, Key};
use crate::failure::{Failure, Step as _};
use crate::place::Cache;
use crate::run;

/// What is recorded of a source.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Origin {
    /// `package`, `path` or `tarball`.
    pub(crate) kind: &'static str,
    /// Package or file name; never a path of this machine.
    pub(crate) name: String,
    /// The package's version, or the kernel's own.
    pub(crate) version: String,
    /// In bytes, of the tarball or of all files.
    pub(crate) size: u64,
    /// Of the tarball, or over the names and contents of all files.
    pub(crate) sha256: String,
    /// Who vouches for it.
    pub(crate) verified_by: &'static str,
}

/// A verified source.
pub(crate) struct Source {
    pub(crate) origin: Origin,
    at: At,
}

enum At {
    Tarball(PathBuf),
    Tree(PathBuf),
}

/// Finds, fetches and verifies.
pub(crate) fn obtain(cache: &Cache, wanted: &KernelSource) -> Result<Source, Failure> {
    match wanted {
        KernelSource::Package(name) => package(cache, name),
        KernelSource::Tarball { path, sha256 } => tarball(path, sha256),
        KernelSource::Path(path) => tree(path),
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

/// An installed package is used if its files are as dpkg recorded them; otherwise
/// apt downloads it and checks the archive's signatures.
fn package(cache: &Cache, name: &str) -> Result<Source, Failure> {
    run::need(&["dpkg-query", "dpkg", "apt-get", "dpkg-deb", "tar"])?;
    let installed = installed_version(name);
    let (path, version) = match installed {
        Some(version) => {
            let path = PathBuf::from(format!("/usr/src/{name}.tar.xz"));
            let changed = run::said(Command::new("dpkg").args(["--verify", name]))?;
            if changed.contains(&file_name(&path)) {
                return Err(Failure::new(format!(
                    "{} is not what the package {name} brought",
                    path.display()
                ))
                .hint(format!("apt-get install --reinstall {name}")));
            }
            (path, version)
        }
        None => download(cache, name)?,
    };
    let found = digest::file(&path)?;
    let origin = Origin {
        kind: "package",
        name: name.to_owned(),
        version,
        size: found.size,
        sha256: found.sha256,
        // The same word for both ways, so that both give the same manifest.
        verified_by: "apt",
    };
    Ok(Source { origin, at: At::Tarball(path) })
}

fn installed_version(name: &str) -> Option<String> {
    let format = "${db:Status-Abbrev} ${Version}";
    let text = run::output(Command::new("dpkg-query").args(["-W", "-f", format, name])).ok()?;
    text.strip_prefix("ii ").map(|v| v.trim().to_owned())
}

fn download(cache: &Cache, name: &str) -> Result<(PathBuf, String), Failure> {
    let policy = run::output(Command::new("apt-cache").args(["policy", name]).env("LC_ALL", "C"))?;
    let candidate = policy.lines().find_map(|l| l.trim().strip_prefix("Candidate: "));
    let version = candidate.filter(|v| *v != "(none)").ok_or_else(|| {
        Failure::new(format!("apt knows no package {name}"))
            .hint("apt-get update, or name another source in the profile's [kernel]")
    })?;
    let key = format!("{name}_{}", version.replace([':', '~', '/'], "_"));
    let dir = cache.entry("package", &key, |dir| {
        let log = dir.join("apt.log");
        let what = format!("{name}={version}");
        let mut get = Command::new("apt-get");
        get.args(["download", "-q", &what]).current_dir(dir);
        run::logged(&mut get, "apt-get download", &log).map_err(|e| {
            e.hint("apt-get update; without a network, install the package or name a path or tarball in the profile")
        })?;
        let debs = digest::files_below(dir)?;
        let deb = debs.iter().find(|p| p.extension().is_some_and(|e| e == "deb"));
        let deb = dir.join(deb.ok_or_else(|| Failure::new("apt-get download left no .deb"))?);
        let mut unpack = Command::new("dpkg-deb");
        unpack.arg("-x").arg(&deb).arg(dir.join("unpacked"));
        run::logged(&mut unpack, "dpkg-deb", &log)?;
        let from = dir.join(format!("unpacked/usr/src/{name}.tar.xz"));
        std::fs::rename(&from, dir.join("source.tar.xz")).step(|| from.display().to_string())?;
        std::fs::remove_file(&deb).step(|| deb.display().to_string())?;
        std::fs::remove_dir_all(dir.join("unpacked")).step(|| dir.display().to_string())
    })?;
    Ok((dir.join("source.tar.xz"), version.to_owned()))
}

fn tarball(path: &Path, sha256: &str) -> Result<Source, Failure> {
    let found = digest::file(path)?;
    if found.sha256 != sha256 {
        return Err(Failure::new(format!(
            "{} has sha256 {}, the profile says {sha256}",
            path.display(),
            found.sha256
        ))
        .hint("get the file again; if it is a new version, take its sha256 from the publisher's signed list"));
    }
    let origin = Origin {
        kind: "tarball",
        name: file_name(path),
        version: String::new(),
        size: found.size,
        sha256: found.sha256,
        verified_by: "sha256 of the profile",
    };
    Ok(Source { origin, at: At::Tarball(path.to_path_buf()) })
}

fn tree(path: &Path) -> Result<Source, Failure> {
    let mut key = Key::new("kernel tree");
    let mut size = 0;
    for name in digest::files_below(path)? {
        let found = digest::file(&path.join(&name))?;
        size += found.size;
        key.add(&name.to_string_lossy(), found.sha256.as_bytes());
    }
    let origin = Origin {
        kind: "path",
        name: file_name(path),
        version: String::new(),
        size,
        sha256: key.finish(),
        verified_by: "nobody: a tree on the building machine",
    };
    Ok(Source { origin, at: At::Tree(path.to_path_buf()) })
}

/// Our part of the kernel: the files laid over the tree, and the patch that hooks them in.
pub(crate) struct Overlay {
    dir: PathBuf,
    patch: PathBuf,
    /// Workspace-relative names and digests, sorted.
    pub(crate) files: Vec<(String, digest::Digest)>,
}

impl Overlay {
    pub(crate) fn read(root: &Path) -> Result<Self, Failure> {
        let dir = root.join("image/linux/oldmem");
        let patch = root.join("image/linux/hook-lifeboat.patch");
        let mut files = Vec::new();
        for name in digest::files_below(&dir)? {
            let found = digest::file(&dir.join(&name))?;
            files.push((format!("image/linux/oldmem/{}", name.display()), found));
        }
        files.push(("image/linux/hook-lifeboat.patch".to_owned(), digest::file(&patch)?));
        Ok(Self { dir, patch, files })
    }
}

/// Lays the tree out in `to`, which must not exist, with the overlay in it.
pub(crate) fn lay_out(
    cache: &Cache,
    source: &Source,
    overlay: &Overlay,
    to: &Path,
    log: &Path,
) -> Result<(), Failure> {
    run::need(&["tar", "xz", "cp", "patch"])?;
    let mut copy = Command::new("cp");
    match &source.at {
        At::Tree(path) => copy.arg("-a").arg(path),
        // Links are enough: whatever changes a file below replaces it.
        At::Tarball(path) => copy.arg("-al").arg(unpacked(cache, path, &source.origin.sha256)?),
    };
    run::logged(copy.arg(to), "copying the kernel tree", log)?;
    let mut ours = Command::new("cp");
    ours.args(["-r", "--remove-destination"]).arg(overlay.dir.join(".")).arg(to);
    run::logged(&mut ours, "copying the driver", log)?;
    let mut patch = Command::new("patch");
    patch
        .args(["-p1", "--no-backup-if-mismatch", "--fuzz=2", "-i"])
        .arg(&overlay.patch)
        .arg("-d")
        .arg(to);
    run::logged(&mut patch, "image/linux/hook-lifeboat.patch", log)
        .map_err(|e| e.hint("the patch is made for Linux 6.12; another source may need another"))
}

fn unpacked(cache: &Cache, tarball: &Path, sha256: &str) -> Result<PathBuf, Failure> {
    let key = sha256.get(..32).unwrap_or(sha256);
    cache.entry("tree", key, |dir| {
        let log = dir.with_extension("log");
        let mut tar = Command::new("tar");
        tar.args(["--strip-components=1", "--no-same-owner", "-xf"])
            .arg(tarball)
            .arg("-C")
            .arg(dir);
        run::logged(&mut tar, "unpacking the kernel source", &log)
    })
}

/// The version that the kernel's Makefile states, such as `6.12.117`.
pub(crate) fn kernel_version(tree: &Path) -> Result<String, Failure> {
    let path = tree.join("Makefile");
    let text = std::fs::read_to_string(&path).step(|| path.display().to_string())?;
    let field = |name: &str| {
        let line = text.lines().find(|l| l.split_whitespace().next() == Some(name));
        line.and_then(|l| l.split_once('=')).map(|(_, v)| v.trim().to_owned())
    };
    match (field("VERSION"), field("PATCHLEVEL"), field("SUBLEVEL"), field("EXTRAVERSION")) {
        (Some(a), Some(b), Some(c), extra) => {
            Ok(format!("{a}.{b}.{c}{}", extra.unwrap_or_default()))
        }
        _ => Err(Failure::new(format!("{} is not a kernel's Makefile", path.display()))
            .hint("the source in the profile's [kernel] must be a Linux tree")),
    }
}
