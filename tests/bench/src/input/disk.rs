//! The disk that the guest reads: programs, libraries, archives and text of
//! Debian's packages, as one ext4 file system in a partition. The packages are
//! named here and fetched at the version that apt offers; those versions are part
//! of the disk's key.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lifeboat_qemu::apt::{self, Package};
use lifeboat_qemu::disk::partitioned;
use lifeboat_qemu::error::{Context as _, Failure, Res, ensure, run};

use super::cache::{self, Key};

/// Python and what it needs to run in the guest.
const PYTHON: &[&str] = &[
    "libc6",
    "libcrypt1",
    "libexpat1",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "libssl3",
    "python3.11-minimal",
    "zlib1g",
];
/// What a server has in its page cache: databases, containers, run-times,
/// compilers, and a browser and an office for their compressed archives.
const PROGRAMS: &[&str] = &[
    "containerd",
    "cpp-12",
    "docker.io",
    "erlang-base",
    "firefox-esr",
    "g++-12",
    "gcc-12",
    "git",
    "golang-1.19-go",
    "libclang-cpp15",
    "libllvm15",
    "libperl5.36",
    "libreoffice-core",
    "libruby3.1",
    "libstd-rust-1.63",
    "libwireshark16",
    "mariadb-server-core",
    "openjdk-17-jre-headless",
    "perl-modules-5.36",
    "php8.2-cli",
    "postgresql-15",
    "samba-libs",
    "systemd",
    "udev",
];
/// Source text: the package with the kernel's tree, and the folders of it that are taken.
const TEXT: (&str, &[&str]) = (
    "linux-source-6.1",
    &["Documentation", "drivers/gpu", "drivers/net", "fs", "include", "kernel", "mm", "net"],
);
/// Changed when the steps below are.
const LAYOUT: u32 = 1;
/// Room on the file system for what the guest writes, in MiB.
const SPARE_MIB: u64 = 512;

/// The disk image, made if it is not in the cache; gives the key too.
///
/// # Errors
/// When apt or mke2fs fails.
pub(crate) fn image() -> Res<(PathBuf, Key)> {
    let packages = packages()?;
    let mut key = Key::of("disk");
    key.add(&LAYOUT.to_string());
    for package in &packages {
        key.add(&format!("{}={}", package.name, package.version));
    }
    key.add(&TEXT.1.join(" "));
    let dir = cache::keep(&key, |new| build(&packages, new))?;
    Ok((dir.join("disk.img"), key))
}

/// All packages at the versions that apt offers now.
fn packages() -> Res<Vec<Package>> {
    let names: Vec<&str> = PYTHON.iter().chain(PROGRAMS).copied().chain([TEXT.0]).collect();
    let said = run(Command::new("apt-cache").arg("policy").args(&names))?;
    let mut out: Vec<Package> = Vec::new();
    let mut name = None;
    for line in said.lines() {
        if let Some(head) = line.strip_suffix(':').filter(|l| !l.starts_with(' ')) {
            name = Some(head.to_owned());
        } else if let (Some(version), Some(of)) =
            (line.trim().strip_prefix("Candidate: "), name.take_if(|_| line.contains("Candidate")))
        {
            out.push(Package { name: of, version: version.to_owned() });
        }
    }
    for wanted in &names {
        ensure(
            out.iter().any(|p| p.name == *wanted && p.version != "(none)"),
            format_args!("apt offers no {wanted}\nhint: apt-get update"),
        )?;
    }
    Ok(out)
}

fn build(packages: &[Package], new: &Path) -> Res<()> {
    let (debs, tree) = (new.join("debs"), new.join("tree"));
    // A merged /usr, as every Debian 12 has: packages still name the old folders.
    for dir in ["bin", "sbin", "lib", "lib64"] {
        fs::create_dir_all(tree.join("usr").join(dir)).ctx(dir)?;
        std::os::unix::fs::symlink(format!("usr/{dir}"), tree.join(dir)).ctx(dir)?;
    }
    for package in packages {
        let deb = apt::download(package, &debs.join(&package.name))?;
        unpack(&deb, &tree)?;
        fs::remove_file(&deb).ctx(deb.display())?;
    }
    text(&tree)?;
    let bytes = run(Command::new("du").args(["-s", "--block-size=1M"]).arg(&tree))?;
    let mib: u64 =
        bytes.split_whitespace().next().and_then(|n| n.parse().ok()).ctx("the tree's size")?;
    let mib = mib + mib / 12 + SPARE_MIB;
    let image = new.join("disk.img");
    let parts = partitioned(&image, &[("data", mib), ("rest", 8)])?;
    let start = parts.first().ctx("the data partition")?.start;
    // Nothing of the file system hangs on chance, and nothing is written later by itself.
    let options = format!(
        "offset={start},lazy_itable_init=0,lazy_journal_init=0,nodiscard,\
         hash_seed=6c696665-626f-6174-2062-656e63682e31,root_owner=0:0"
    );
    run(Command::new("/usr/sbin/mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-d"])
        .arg(&tree)
        .args(["-E", &options])
        .arg(&image)
        .arg(format!("{mib}M")))?;
    fs::remove_dir_all(&tree).ctx(tree.display())?;
    fs::remove_dir_all(&debs).ctx(debs.display())
}

/// Unpacks a whole package over the tree, through its links to folders.
fn unpack(deb: &Path, tree: &Path) -> Res<()> {
    pipe(
        Command::new("dpkg-deb").arg("--fsys-tarfile").arg(deb),
        Command::new("tar")
            .args(["-x", "--no-same-owner", "--keep-directory-symlink", "-C"])
            .arg(tree),
        deb,
    )
}

/// Takes the source text out of its archive, which the tree need not keep.
fn text(tree: &Path) -> Res<()> {
    let archive = tree.join("usr/src").join(TEXT.0).with_extension("1.tar.xz");
    let to = tree.join("src");
    fs::create_dir_all(&to).ctx(to.display())?;
    let mut tar = Command::new("tar");
    tar.args(["-x", "--no-same-owner", "--strip-components=1", "-C"]).arg(&to);
    tar.args(TEXT.1.iter().map(|d| format!("{}/{d}", TEXT.0)));
    pipe(Command::new("xz").args(["-d", "-c", "-T0"]).arg(&archive), &mut tar, &archive)?;
    fs::remove_file(&archive).ctx(archive.display())
}

/// Runs two programs, the first one's output into the second; both must succeed.
fn pipe(from: &mut Command, to: &mut Command, what: &Path) -> Res<()> {
    let mut first = from.stdout(Stdio::piped()).spawn().ctx(what.display())?;
    let output = first.stdout.take().ctx("its output")?;
    let last = to.stdin(output).status().ctx(what.display())?;
    // Nobody but us holds the pipe's reading end now.
    to.stdin(Stdio::null());
    let first = first.wait().ctx(what.display())?;
    if first.success() && last.success() {
        return Ok(());
    }
    Err(Failure::check(format_args!("{}: {first}, {last}", what.display())))
}

/// A copy for one run: the guest writes to it.
///
/// # Errors
/// When either file fails.
pub(crate) fn copy(image: &Path, to: &Path) -> Res<()> {
    let len = File::open(image).and_then(|f| f.metadata()).ctx(image.display())?.len();
    lifeboat_qemu::disk::copy_sparse(image, 0, len, to)
}
