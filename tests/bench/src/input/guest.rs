//! The guest whose memory is the input: a stock Debian kernel that fills its memory
//! with what servers hold, loads a crash kernel, and really panics.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lifeboat_qemu::cpio::Archive;
use lifeboat_qemu::cycle::{ORDER, start_victim};
use lifeboat_qemu::disk::Disk;
use lifeboat_qemu::error::{Context as _, Res};
use lifeboat_qemu::guest::compile;
use lifeboat_qemu::machine::{Bus, Machine, Setup};
use lifeboat_qemu::paths::workspace;
use lifeboat_qemu::provision::{Kernel, load_order};

use super::Spec;

/// For one step of filling, under emulation and beside other work.
const FILL: Duration = Duration::from_secs(900);
/// The reservation: a stock kernel has to start in it, no more.
pub(crate) const CRASHKERNEL: &str = "192M";
/// Command line of the kernel that starts after the panic: only its first lines count.
const CRASH_CMDLINE: &str =
    "console=ttyS0,115200 earlyprintk=serial,ttyS0,115200 loglevel=7 nr_cpus=1 reset_devices";

/// A machine that stands still in the first lines of its crash kernel.
#[derive(Debug)]
pub(crate) struct Crashed {
    /// The machine; its memory is [`Machine::ram`].
    pub machine: Machine,
    /// Physical address of the elfcorehdr.
    pub elfcorehdr: u64,
    /// What the guest said of its memory, for the description.
    pub facts: Vec<String>,
}

/// The steps that fill a guest, one order a line, as they are part of the key.
#[must_use]
pub(crate) fn orders(spec: &Spec) -> Vec<String> {
    let mut all = vec![
        "exec /bin/fill mount /dev/disk/by-partlabel/data /data ext4".to_owned(),
        format!("kexec /boot/vmlinuz /boot/initrd {CRASH_CMDLINE}"),
        format!("start /bin/fill zero {}", spec.zero_mib),
        format!("start /bin/fill random {} 7001", spec.random_mib),
        format!("start /bin/fill table {} 7002", spec.table_mib),
    ];
    all.push("exec /bin/fill copy 1 /lb/heap.py /data/heap.py".to_owned());
    all.extend((0..spec.heaps).map(|part| {
        format!(
            "start /bin/fill chroot /data /usr/bin/python3.11 /heap.py {} {part}",
            spec.heap_mib
        )
    }));
    all.push(format!("exec /bin/fill log {} /data/daemon.log 7003", spec.log_mib));
    // What was copied is read a second time, so that both are in memory.
    all.push(format!("exec /bin/fill copy {} /data/usr/lib /tmp/copy", spec.copies_mib));
    // What does not fit drops what was read first: the kernel itself keeps some memory free.
    all.push("exec /bin/fill read /data/usr /data/src".to_owned());
    all
}

/// Boots the guest, fills its memory from `disk`, which it writes to, and lets it panic.
/// Its memory is a file in `work`.
///
/// # Errors
/// When any of it fails.
pub(crate) fn crash(spec: &Spec, kernel: &Kernel, disk: PathBuf, work: &Path) -> Res<Crashed> {
    // Only the path is used of it.
    let none = lifeboat_qemu::disk::Part { start: 0, len: 0 };
    let disk = Disk { path: disk, swap: none, dump: none, fillers: [none, none] };
    let initramfs = initramfs(kernel, work)?;
    let (mut machine, _) = start_victim(&Setup {
        memory_mib: spec.memory_mib,
        crashkernel: CRASHKERNEL,
        ..Setup::of(&kernel.vmlinuz, &initramfs, &disk, work)
    })?;
    let mut facts = Vec::new();
    for order in orders(spec) {
        let said = machine.must(&order, FILL)?;
        let told = said.lines().filter(|l| l.starts_with("LB fill") || l.starts_with("LB heap"));
        facts.extend(told.map(|l| l.trim_start_matches("LB ").to_owned()));
    }
    let meminfo = machine.must("cat /proc/meminfo", ORDER)?;
    facts.push(summary(&meminfo));
    let mark = machine.console.mark();
    machine.send("crash")?;
    let (_, line) = machine.console.wait(mark, FILL, "the crash kernel's command line", |l| {
        l.contains("Command line:") && l.contains("elfcorehdr=")
    })?;
    machine.pause()?;
    let elfcorehdr = address(&line.text).ctx(format_args!("elfcorehdr in `{}`", line.text))?;
    Ok(Crashed { machine, elfcorehdr, facts })
}

/// `elfcorehdr=0x…` of a command line.
fn address(line: &str) -> Option<u64> {
    let (_, behind) = line.split_once("elfcorehdr=0x")?;
    let digits: String = behind.chars().take_while(char::is_ascii_hexdigit).collect();
    u64::from_str_radix(&digits, 16).ok()
}

/// The lines of `/proc/meminfo` that say what memory is used for, on one line, in MiB.
fn summary(meminfo: &str) -> String {
    let wanted = ["MemTotal", "MemFree", "Cached", "AnonPages", "Mapped", "Shmem", "Slab"];
    let mut out = vec!["meminfo (MiB):".to_owned()];
    for line in meminfo.lines() {
        let Some((name, rest)) = line.split_once(':') else { continue };
        let kib = rest.split_whitespace().next().and_then(|n| n.parse::<u64>().ok());
        if let Some(kib) = kib.filter(|_| wanted.contains(&name)) {
            out.push(format!("{name} {}", kib / 1024));
        }
    }
    out.join(" ")
}

fn initramfs(kernel: &Kernel, work: &Path) -> Res<PathBuf> {
    let mut archive = Archive::new();
    for dir in ["dev", "proc", "sys", "run", "tmp", "etc", "bin", "data"] {
        archive.dir(dir);
    }
    archive.copy("init", &compile("init", work)?)?;
    archive.copy("bin/fill", &compile("fill", work)?)?;
    archive.copy("lb/heap.py", &workspace().join("tests/guest/heap.py"))?;
    archive.dir("lb/modules");
    let needs: Vec<&str> = Bus::Virtio.modules().iter().copied().chain(["ext4"]).collect();
    for (at, file) in load_order(&kernel.modules, &needs)?.iter().enumerate() {
        archive.copy(&format!("lb/modules/{at:02}-{file}"), &kernel.modules.join(file))?;
    }
    archive.copy("boot/vmlinuz", &kernel.vmlinuz)?;
    archive.file("boot/initrd", &Archive::new().finish());
    let path = work.join("guest.cpio");
    fs::write(&path, archive.finish()).ctx(path.display())?;
    Ok(path)
}
