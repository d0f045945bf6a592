//! The victim's initramfs: guest init, victim program, modules, image under test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cpio::Archive;
use crate::error::{Context as _, Res, run};
use crate::machine::Bus;
use crate::paths::{image, lock_cache, workspace};
use crate::provision::{Kernel, load_order};

/// Files of the image directory that go into the guest.
const IMAGE_FILES: [&str; 6] =
    ["vmlinuz", "initramfs.cpio.zst", "board.toml", "manifest.json", "SHA256SUMS", "config"];

/// Builds a guest program from `tests/guest` into `dir`; the C compiler is there
/// for the kernel's sake anyway.
///
/// # Errors
/// When it does not compile.
pub fn compile(name: &str, dir: &Path) -> Res<PathBuf> {
    build(name, dir, &["-static"])
}

/// Builds a guest program that takes this machine's C library at run time.
///
/// # Errors
/// When it does not compile.
pub fn compile_dynamic(name: &str, dir: &Path) -> Res<PathBuf> {
    build(name, dir, &[])
}

fn build(name: &str, dir: &Path, how: &[&str]) -> Res<PathBuf> {
    let source = workspace().join("tests/guest").join(name).with_extension("c");
    let to = dir.join(name);
    run(Command::new("gcc")
        .args(how)
        .args(["-pthread", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&to)
        .arg(&source))?;
    Ok(to)
}

/// Writes the initramfs for a victim `kernel` whose disk hangs on `bus`, with
/// `extra` files (path within the guest, contents), and gives its path.
///
/// # Errors
/// When the image is missing or a program does not compile.
pub fn initramfs(
    kernel: &Kernel,
    bus: Bus,
    extra: &[(&'static str, Vec<u8>)],
    work: &Path,
) -> Res<PathBuf> {
    let _held = lock_cache()?;
    let mut archive = Archive::new();
    for dir in ["dev", "proc", "sys", "run", "tmp", "etc", "bin"] {
        archive.dir(dir);
    }
    archive.copy("init", &compile("init", work)?)?;
    archive.copy("bin/victim", &compile("victim", work)?)?;
    archive.dir("lb/modules");
    for (at, file) in load_order(&kernel.modules, bus.modules())?.iter().enumerate() {
        archive.copy(&format!("lb/modules/{at:02}-{file}"), &kernel.modules.join(file))?;
    }
    let image = image()?;
    archive.copy("bin/lifeboat", &image.join("lifeboat"))?;
    for file in IMAGE_FILES {
        let name = format!("image/{file}");
        if extra.iter().all(|(changed, _)| *changed != name) {
            archive.copy(&name, &image.join(file))?;
        }
    }
    for (name, data) in extra {
        archive.file(name, data);
    }
    let path = work.join("guest.cpio");
    fs::write(&path, archive.finish()).ctx(path.display())?;
    Ok(path)
}
