//! Packages by name, unpacked and never installed.
//!
//! Victim kernels come from the machine's own Debian sources. crash 8.0.6 is
//! in a later release: a private apt folder gets the same sources with the
//! release's name replaced, so no server's name stands in this project, and
//! apt checks the signatures with the keys of `debian-archive-keyring`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Context as _, Failure, Res, ensure, run};

/// One package at one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Name of the binary package.
    pub name: String,
    /// Its full version.
    pub version: String,
}

/// The package that the meta package `meta` stands for, at its newest version.
///
/// # Errors
/// When apt does not know `meta`.
pub fn resolve(meta: &str) -> Res<Package> {
    let hint = format!("package behind {meta}\nhint: apt-get update");
    let depends = run(Command::new("apt-cache").args(["depends", meta]))?;
    let name = depends
        .lines()
        .filter_map(|l| l.trim().strip_prefix("Depends: "))
        .find(|n| n.starts_with("linux-image-"))
        .ctx(&hint)?
        .to_owned();
    candidate(&name)
}

/// A package at its newest version.
///
/// # Errors
/// When apt does not know it.
pub fn candidate(name: &str) -> Res<Package> {
    let policy = run(Command::new("apt-cache").args(["policy", name]))?;
    let version = policy.lines().find_map(|l| l.trim().strip_prefix("Candidate: "));
    let version = version.ctx(format_args!("package {name}\nhint: apt-get update"))?.to_owned();
    Ok(Package { name: name.to_owned(), version })
}

/// Downloads one package at exactly this version into `dir`.
///
/// # Errors
/// When apt does not have that version any more, or the download fails.
pub fn download(package: &Package, dir: &Path) -> Res<PathBuf> {
    fs::create_dir_all(dir).ctx(dir.display())?;
    let wanted = format!("{}={}", package.name, package.version);
    let result = run(Command::new("apt-get")
        .args(["-q", "-o", "APT::Sandbox::User=root", "download", &wanted])
        .current_dir(dir));
    if let Err(why) = result {
        return Err(Failure::check(format_args!("{why}\nhint: apt-get update, then again")));
    }
    let prefix = format!("{}_", package.name);
    let entries = fs::read_dir(dir).ctx(dir.display())?;
    entries
        .filter_map(Result::ok)
        .map(|e| e.path())
        .find(|p| {
            let name = p.file_name().unwrap_or_default().to_string_lossy().into_owned();
            name.starts_with(&prefix) && name.ends_with(".deb")
        })
        .ctx(format_args!("the downloaded file of {wanted}"))
}

/// Unpacks only the files matching `patterns` (of `tar --wildcards`) into `to`.
/// With `first_only`, stops reading the package after the first match.
///
/// # Errors
/// When nothing matches or the package cannot be read.
pub fn unpack(deb: &Path, to: &Path, patterns: &[&str], first_only: bool) -> Res<()> {
    fs::create_dir_all(to).ctx(to.display())?;
    let mut reader = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(deb)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ctx("dpkg-deb")?;
    let pipe = reader.stdout.take().ctx("dpkg-deb's output")?;
    let mut tar = Command::new("tar");
    tar.args(["-x", "--no-same-owner", "--wildcards", "-C"]).arg(to);
    if first_only {
        tar.arg("--occurrence=1");
    }
    let output = tar.args(patterns).stdin(pipe).output().ctx("tar")?;
    // It holds the pipe's other end; dpkg-deb would wait for it for ever.
    drop(tar);
    // dpkg-deb dies of a broken pipe when tar has what it wants; tar's word counts.
    let _ = reader.wait();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure(output.status.success(), format_args!("unpacking {}: {said}", deb.display()))
}

/// Like [`unpack`], but takes what there is: a pattern may match nothing.
///
/// # Errors
/// When the package cannot be read.
pub fn unpack_some(deb: &Path, to: &Path, patterns: &[&str]) -> Res<()> {
    let listed = run(Command::new("dpkg-deb").arg("--contents").arg(deb))?;
    ensure(!listed.is_empty(), format_args!("{} is empty", deb.display()))?;
    match unpack(deb, to, patterns, false) {
        Err(Failure::Check(text)) if text.contains("Not found in archive") => Ok(()),
        other => other,
    }
}

/// Makes a private apt folder for Debian's release `suite`, from this machine's sources.
///
/// # Errors
/// When no Debian source is configured or the release's lists cannot be had.
pub fn private_root(root: &Path, suite: &str) -> Res<PathBuf> {
    for dir in ["lists/partial", "cache/archives/partial", "etc"] {
        fs::create_dir_all(root.join(dir)).ctx(root.display())?;
    }
    fs::write(root.join("etc/status"), "").ctx("an empty package state")?;
    let os = fs::read_to_string("/etc/os-release").ctx("/etc/os-release")?;
    let here = os
        .lines()
        .find_map(|l| l.strip_prefix("VERSION_CODENAME="))
        .ctx("VERSION_CODENAME in /etc/os-release")?
        .trim_matches('"');
    let mut found = false;
    for (file, name) in source_files()? {
        let text = fs::read_to_string(&file).ctx(file.display())?;
        let rewritten = if name.ends_with(".sources") {
            rewrite_stanzas(&text, here, suite)
        } else {
            rewrite_lines(&text, here, suite)
        };
        found |= !rewritten.is_empty();
        fs::write(root.join("etc").join(&name), rewritten).ctx(name)?;
    }
    ensure(found, format_args!("no source of Debian {here} is configured\nhint: apt-get update"))?;
    let config = root.join("etc/apt.conf");
    let d = root.display();
    let text = format!(
        "Dir::Etc::sourcelist \"/dev/null\";\nDir::Etc::sourceparts \"{d}/etc\";\n\
         Dir::State::lists \"{d}/lists\";\nDir::State::status \"{d}/etc/status\";\n\
         Dir::Cache \"{d}/cache\";\nAPT::Sandbox::User \"root\";\n\
         APT::Install-Recommends \"0\";\n"
    );
    fs::write(&config, text).ctx(config.display())?;
    run(Command::new("apt-get").args(["-q", "update"]).env("APT_CONFIG", &config))?;
    Ok(config)
}

fn source_files() -> Res<Vec<(PathBuf, String)>> {
    let mut files = vec![(PathBuf::from("/etc/apt/sources.list"), "main.list".to_owned())];
    let parts = Path::new("/etc/apt/sources.list.d");
    for entry in fs::read_dir(parts).ctx(parts.display())?.filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".sources") || name.ends_with(".list") {
            files.push((entry.path(), name));
        }
    }
    files.retain(|(path, _)| path.is_file());
    Ok(files)
}

/// deb822 stanzas whose suites name the release `here`, renamed to `to`.
fn rewrite_stanzas(text: &str, here: &str, to: &str) -> String {
    let mut out = String::new();
    for stanza in text.split("\n\n") {
        let suites = |l: &&str| l.starts_with("Suites:");
        if !stanza.lines().find(suites).is_some_and(|l| l.contains(here)) {
            continue;
        }
        for line in stanza.lines().filter(|l| !l.starts_with('#')) {
            let renamed = if suites(&line) { line.replace(here, to) } else { line.to_owned() };
            out.push_str(&renamed);
            out.push('\n');
        }
        out.push('\n');
    }
    out
}

/// One-line sources of the release `here`, renamed to `to`.
fn rewrite_lines(text: &str, here: &str, to: &str) -> String {
    let ours = |l: &&str| l.starts_with("deb ") && l.split(' ').any(|w| w.starts_with(here));
    text.lines().filter(ours).map(|l| l.replace(here, to) + "\n").collect()
}

/// Downloads `name` and all that it depends on from the release behind `config`.
///
/// # Errors
/// When apt refuses.
pub fn download_tree(config: &Path, root: &Path, name: &str) -> Res<Vec<PathBuf>> {
    run(Command::new("apt-get")
        .args(["-q", "-y", "--download-only", "install", name])
        .env("APT_CONFIG", config)
        .env("DEBIAN_FRONTEND", "noninteractive"))?;
    let dir = root.join("cache/archives");
    let entries = fs::read_dir(&dir).ctx(dir.display())?;
    let debs: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|e| e == "deb"))
        .collect();
    ensure(!debs.is_empty(), format_args!("apt downloaded nothing for {name}"))?;
    Ok(debs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_renamed_and_strangers_left_out() {
        let text = "Types: deb\n# old\nURIs: mirror\nSuites: bookworm bookworm-updates\n\n\
                    Types: deb\nURIs: other\nSuites: nodistro\n";
        assert_eq!(
            rewrite_stanzas(text, "bookworm", "trixie"),
            "Types: deb\nURIs: mirror\nSuites: trixie trixie-updates\n\n"
        );
        let lines = "# x\ndeb mirror bookworm main\ndeb mirror2 bookworm-security main\n\
                     deb other stable main\n";
        assert_eq!(
            rewrite_lines(lines, "bookworm", "trixie"),
            "deb mirror trixie main\ndeb mirror2 trixie-security main\n"
        );
    }
}
