//! What the tests need and the project does not ship: victim kernels with
//! their modules and debug symbols, crash, drgn. Fetched by name, kept in the
//! cache, each folder renamed into place when it is whole.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::apt::{self, Package};
use crate::error::{Context as _, Res, ensure, run};
use crate::paths::{cache, lock_cache};

/// drgn as on the Python package index; pinned, since it is a judge.
const DRGN: &str = "0.3.0";
/// Debian's release that carries crash 8.0.6, and the version that must be found there.
const CRASH: (&str, &str) = ("trixie", "8.0.6");
/// Modules that may be needed to reach a disk and a file system on it, to swap to
/// compressed memory, and the libraries they may want.
const MODULE_PATHS: [&str; 17] = [
    "./lib/modules/*/kernel/block/t10-pi.ko*",
    "./lib/modules/*/kernel/drivers/virtio/virtio*",
    "./lib/modules/*/kernel/drivers/block/virtio_blk.ko*",
    "./lib/modules/*/kernel/drivers/[n]vme/*",
    "./lib/modules/*/kernel/drivers/ata/*ahci.ko*",
    "./lib/modules/*/kernel/drivers/ata/libata.ko*",
    "./lib/modules/*/kernel/drivers/scsi/s[cd]*",
    "./lib/modules/*/kernel/fs/ext4/*",
    "./lib/modules/*/kernel/fs/jbd2/*",
    "./lib/modules/*/kernel/fs/mbcache.ko*",
    "./lib/modules/*/kernel/lib/*",
    "./lib/modules/*/kernel/crypto/*crc*",
    "./lib/modules/*/kernel/arch/x86/crypto/*crc*",
    "./lib/modules/*/kernel/drivers/block/zram/*",
    "./lib/modules/*/kernel/mm/*",
    "./lib/modules/*/kernel/crypto/lz*",
    "./lib/modules/*/kernel/crypto/zstd*",
];

/// A stock kernel to crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// Debian 12's 6.1 for clouds: virtio and NVMe, no AHCI.
    Cloud61,
    /// Debian 12's 6.1 for everything.
    Generic61,
    /// 6.12 for clouds: virtio, NVMe and AHCI.
    Cloud612,
    /// 6.12 for everything.
    Generic612,
}

impl Victim {
    fn meta(self) -> &'static str {
        match self {
            Self::Cloud61 => "linux-image-cloud-amd64",
            Self::Generic61 => "linux-image-amd64",
            Self::Cloud612 => "linux-image-6.12-cloud-amd64",
            Self::Generic612 => "linux-image-6.12-amd64",
        }
    }

    /// A debug package of a cloud flavour is a third of the generic one's size.
    #[must_use]
    pub fn has_symbols(self) -> bool {
        !matches!(self, Self::Generic61 | Self::Generic612)
    }

    /// Kernels for clouds are built without zswap.
    #[must_use]
    pub fn has_zswap(self) -> bool {
        matches!(self, Self::Generic61 | Self::Generic612)
    }
}

/// A victim kernel, ready to boot.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Its release, as `uname -r` says.
    pub release: String,
    /// The bootable image.
    pub vmlinuz: PathBuf,
    /// Its modules, uncompressed, in one folder.
    pub modules: PathBuf,
    /// The folder of all this; its name tells package version and layout.
    pub dir: PathBuf,
    package: Package,
}

/// Fetches a victim kernel, or finds it in the cache.
///
/// # Errors
/// When apt cannot give it.
pub fn kernel(victim: Victim) -> Res<Kernel> {
    let _held = lock_cache()?;
    let package = apt::resolve(victim.meta())?;
    let release = package.name.strip_prefix("linux-image-").ctx("the kernel's release")?.to_owned();
    // A rebuilt package keeps its release: the version belongs to the key, and so
    // does what is unpacked of it.
    let key = format!("{release}_{}_m3", package.version.replace(':', "_"));
    let dir = cache()?.join("kernels").join(key);
    if !dir.join("vmlinuz").is_file() {
        install(&dir, |new| {
            let deb = apt::download(&package, new)?;
            let boot = format!("./boot/vmlinuz-{release}");
            apt::unpack(&deb, new, &[&boot], true)?;
            apt::unpack_some(&deb, new, &MODULE_PATHS)?;
            flatten_modules(new)?;
            fs::rename(new.join(&boot), new.join("vmlinuz")).ctx("vmlinuz")?;
            fs::remove_file(&deb).ctx(deb.display())
        })?;
    }
    Ok(Kernel { vmlinuz: dir.join("vmlinuz"), modules: dir.join("modules"), release, dir, package })
}

/// The `vmlinux` with DWARF of exactly this kernel, fetched at first use.
///
/// # Errors
/// When the archive has no debug package of this very version.
pub fn vmlinux(kernel: &Kernel) -> Res<PathBuf> {
    let _held = lock_cache()?;
    let path = kernel.dir.join("vmlinux");
    if path.is_file() {
        return Ok(path);
    }
    let package = Package {
        name: format!("{}-dbg", kernel.package.name),
        version: kernel.package.version.clone(),
    };
    let temp = kernel.dir.join("dbg.new");
    remove(&temp)?;
    let deb = apt::download(&package, &temp)?;
    let inside = format!("./usr/lib/debug/boot/vmlinux-{}", kernel.release);
    apt::unpack(&deb, &temp, &[&inside], true)?;
    fs::rename(temp.join(&inside), &path).ctx(path.display())?;
    remove(&temp)?;
    Ok(path)
}

/// A program of another Debian release, with its own libraries and dynamic loader.
#[derive(Debug, Clone)]
pub struct Tool(Vec<PathBuf>);

impl Tool {
    /// What starts it: its loader, the loader's arguments, the program.
    #[must_use]
    pub fn words(&self) -> &[PathBuf] {
        &self.0
    }

    /// A command that starts it.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut words = self.0.iter();
        let mut command = Command::new(words.next().map_or(Path::new(""), PathBuf::as_path));
        command.args(words);
        command
    }
}

/// Fetches the program `name` and its libraries from Debian's release `suite`, or finds
/// them in `folder` of the cache.
///
/// # Errors
/// When apt cannot give them.
pub fn packaged(name: &str, suite: &str, folder: &str) -> Res<Tool> {
    let _held = lock_cache()?;
    let dir = cache()?.join(folder);
    let (lib, program) = (dir.join("lib"), dir.join("bin").join(name));
    if !program.is_file() {
        install(&dir, |new| {
            let root = new.join("apt");
            let config = apt::private_root(&root, suite)?;
            let wanted = [&*format!("./usr/bin/{name}"), "./usr/lib/x86_64-linux-gnu/*.so*"];
            for deb in apt::download_tree(&config, &root, name)? {
                let file = deb.file_name().unwrap_or_default().to_string_lossy();
                // The interpreter of its scripts is not needed.
                if !file.contains("perl") {
                    apt::unpack_some(&deb, new, &wanted)?;
                }
            }
            fs::rename(new.join("usr/bin"), new.join("bin")).ctx("its bin")?;
            fs::rename(new.join("usr/lib/x86_64-linux-gnu"), new.join("lib")).ctx("its lib")?;
            remove(&new.join("usr"))?;
            remove(&root)
        })?;
    }
    Ok(Tool(vec![lib.join("ld-linux-x86-64.so.2"), "--library-path".into(), lib, program]))
}

/// Fetches the smallest gdb, which needs libraries that this machine has for its own, or
/// finds it in the cache.
///
/// # Errors
/// When apt cannot give it.
pub fn small_gdb() -> Res<PathBuf> {
    let _held = lock_cache()?;
    let package = apt::candidate("gdb-minimal")?;
    let key = format!("{}-{}", package.name, package.version.replace(':', "_"));
    let dir = cache()?.join(key);
    let program = dir.join("usr/bin/gdb");
    if !program.is_file() {
        install(&dir, |new| {
            let deb = apt::download(&package, new)?;
            apt::unpack(&deb, new, &["./usr/bin/gdb"], true)?;
            fs::remove_file(&deb).ctx(deb.display())
        })?;
    }
    Ok(program)
}

/// Fetches crash 8.0.6, or finds it in the cache.
///
/// # Errors
/// When apt cannot give it.
pub fn crash() -> Res<Tool> {
    let (suite, version) = CRASH;
    let crash = packaged("crash", suite, &format!("crash-{version}"))?;
    let said = run(crash.command().arg("--version"))?;
    ensure(
        said.contains(&format!("crash {version}")),
        format_args!("not crash {version}: {said}"),
    )?;
    Ok(crash)
}

/// Fetches drgn into a virtual environment, or finds it there; gives its folder.
///
/// # Errors
/// When Python or pip fails.
pub fn drgn() -> Res<PathBuf> {
    let _held = lock_cache()?;
    let dir = cache()?.join(format!("drgn-{DRGN}"));
    let stamp = dir.join("ok");
    if !stamp.is_file() {
        // A virtual environment knows its own path: built in place, stamped when whole.
        remove(&dir)?;
        run(Command::new("/usr/bin/python3").args(["-m", "venv"]).arg(&dir))?;
        run(Command::new(dir.join("bin/pip")).args([
            "install",
            "--quiet",
            "--only-binary=:all:",
            &format!("drgn=={DRGN}"),
        ]))?;
        fs::write(&stamp, DRGN).ctx(stamp.display())?;
    }
    Ok(dir.join("bin/drgn"))
}

/// Makes a folder beside its place and renames it when `fill` has succeeded.
///
/// # Errors
/// When it cannot be made, or `fill` fails; nothing is kept then.
pub fn install(dir: &Path, fill: impl FnOnce(&Path) -> Res<()>) -> Res<()> {
    let new = dir
        .with_file_name(format!("{}.new", dir.file_name().unwrap_or_default().to_string_lossy()));
    remove(&new)?;
    fs::create_dir_all(&new).ctx(new.display())?;
    fill(&new).inspect_err(|_| drop(remove(&new)))?;
    remove(dir)?;
    fs::rename(&new, dir).ctx(dir.display())
}

fn remove(dir: &Path) -> Res<()> {
    if dir.exists() {
        fs::remove_dir_all(dir).ctx(dir.display())?;
    }
    Ok(())
}

/// Moves every module under `dir/lib` into `dir/modules`, uncompressed.
fn flatten_modules(dir: &Path) -> Res<()> {
    let flat = dir.join("modules");
    fs::create_dir_all(&flat).ctx(flat.display())?;
    let mut pending = vec![dir.join("lib")];
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(&folder).ctx(folder.display())?.filter_map(Result::ok) {
            let path = entry.path();
            if path.is_dir() {
                pending.push(path);
            } else {
                fs::rename(&path, flat.join(entry.file_name())).ctx(path.display())?;
            }
        }
    }
    for entry in fs::read_dir(&flat).ctx(flat.display())?.filter_map(Result::ok) {
        if entry.path().extension().is_some_and(|e| e == "xz") {
            run(Command::new("xz").arg("-d").arg(entry.path()))?;
        }
    }
    remove(&dir.join("lib"))
}

/// The modules to load so that `wanted` work, in order, as file names in `dir`.
/// Of `wanted`, what is not there is built into the kernel.
///
/// # Errors
/// When a module that another depends on is missing, or `modinfo` cannot read one.
pub fn load_order(dir: &Path, wanted: &[&str]) -> Res<Vec<String>> {
    let mut order = Vec::new();
    for name in wanted {
        if find(dir, name).is_some() {
            visit(dir, name, &mut order)?;
        }
    }
    Ok(order)
}

/// The file of a module: names take `-` and `_` for the same.
fn find(dir: &Path, name: &str) -> Option<String> {
    [name.to_owned(), name.replace('_', "-"), name.replace('-', "_")]
        .map(|n| format!("{n}.ko"))
        .into_iter()
        .find(|f| dir.join(f).is_file())
}

fn visit(dir: &Path, name: &str, order: &mut Vec<String>) -> Res<()> {
    let file = find(dir, name).ctx(format_args!("module {name} in {}", dir.display()))?;
    if order.contains(&file) {
        return Ok(());
    }
    let depends = run(Command::new("modinfo").args(["-F", "depends"]).arg(dir.join(&file)))?;
    for dep in depends.trim().split(',').filter(|d| !d.is_empty()) {
        visit(dir, dep, order)?;
    }
    order.push(file);
    Ok(())
}
