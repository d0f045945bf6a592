//! A machine with processes worth bringing back, and everywhere that their pages can be:
//! swap partitions with priorities, zswap in three ways, zram in two, a swap file, the
//! swap cache, huge pages, shared memory. `tests/guest` has the programs and the recorder.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cycle::{Crash, Ground, Lab, MIB, ORDER, Plan};
use crate::disk::{Part, blank, copy_sparse, partitioned};
use crate::error::{Context as _, Res, ensure, run};
use crate::kinds::modules;
use crate::provision::{self, Kernel, Victim};
use crate::record::Record;
use crate::{guest, paths};

/// Partitions of the second disk, in MiB: the programs' file system, two swap devices,
/// room for the record and for the cores that gdb takes.
const PARTS: [(&str, u64); 4] = [("live", 320), ("swap-a", 8), ("swap-b", 64), ("record", 24)];
/// Modules beside those of the disk. What is not there is built in.
const MODULES: [&str; 9] =
    ["crc32c_generic", "ext4", "zstd", "lz4", "lzo", "lzo_rle", "zsmalloc", "zbud", "zram"];
/// What the programs print when they are ready.
const TOLD: &str = "LB live ";
/// The swap file, as the dead kernel knew it.
pub const SWAPFILE: &str = "/live/swapfile";
/// Objects of the Python program.
const OBJECTS: u64 = 20000;
/// Programs of which gdb takes a core in the guest, before anything is swapped out.
pub const TWINS: [&str; 2] = ["single", "multi"];

/// Pages that a program filled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// Its name; one with a dot in front has pages without names.
    pub name: String,
    /// First address.
    pub at: u64,
    /// Number of pages.
    pub pages: u64,
}

/// What a program told of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Its name.
    pub name: String,
    /// Its process number.
    pub pid: u32,
    facts: Vec<(String, u64)>,
    /// What it filled.
    pub regions: Vec<Region>,
}

impl Program {
    /// Reads its line of facts.
    ///
    /// # Errors
    /// When the program failed, or the line is not of that form.
    pub fn parse(said: &str) -> Res<Self> {
        let parse = || {
            let line = said.lines().find_map(|l| l.strip_prefix(TOLD))?;
            let mut words = line.split_whitespace();
            let name = words.next()?.to_owned();
            let mut out = Self { name, pid: 0, facts: Vec::new(), regions: Vec::new() };
            for word in words {
                let (key, value) = word.split_once('=')?;
                match key {
                    "pid" => out.pid = value.parse().ok()?,
                    "region" => {
                        let mut parts = value.split(':');
                        let name = parts.next()?.to_owned();
                        let mut number = || u64::from_str_radix(parts.next()?, 16).ok();
                        out.regions.push(Region { name, at: number()?, pages: number()? });
                    }
                    _ => out.facts.push((key.to_owned(), u64::from_str_radix(value, 16).ok()?)),
                }
            }
            (out.pid != 0).then_some(out)
        };
        parse().ctx(format_args!("what a program tells of itself in `{said}`"))
    }

    /// A fact that it told.
    ///
    /// # Errors
    /// When it told none of this name.
    pub fn fact(&self, key: &str) -> Res<u64> {
        let found = self.facts.iter().find(|(k, _)| k == key).map(|(_, v)| *v);
        found.ctx(format_args!("{key}, told by {}", self.name))
    }

    fn region(&self, name: &str) -> Res<&Region> {
        let found = self.regions.iter().find(|r| r.name == name);
        found.ctx(format_args!("region {name} of {}", self.name))
    }

    /// The name that page `n` of a region begins with; `None` where it has none, see
    /// `tests/guest/live.h`.
    #[must_use]
    pub fn page_name(&self, region: &Region, n: u64) -> Option<String> {
        let named = !region.name.starts_with('.') && !matches!(n % 8, 5 | 6);
        named.then(|| format!("{}/{}/{n:06}", self.name, region.name))
    }
}

/// What is left when the machine is dead: all that its dump is held against.
#[derive(Debug, Clone)]
pub struct Remains {
    /// The work folder.
    pub work: PathBuf,
    /// A copy of the programs' file system as a folder: gdb's sysroot.
    pub tree: PathBuf,
    /// The kernel that died.
    pub kernel: Kernel,
    /// File of the secret key.
    pub identity: PathBuf,
    /// The programs.
    pub programs: Vec<Program>,
    /// The second disk.
    second: PathBuf,
    /// Its partitions, see [`PARTS`].
    parts: Vec<Part>,
}

/// Where the programs' lines of facts are kept, in the work folder.
const FACTS: &str = "facts";

impl Remains {
    /// What an earlier run left in its work folder; `None`: nothing. Its machine must have
    /// died.
    ///
    /// # Errors
    /// When what it left is not of the form that it should have.
    pub fn again(victim: Victim, name: &str) -> Res<Option<Self>> {
        let work = paths::target().join("qemu").join(name);
        let Ok(facts) = fs::read_to_string(work.join(FACTS)) else { return Ok(None) };
        let mut start = MIB;
        let parts = PARTS.map(|(_, mib)| {
            let part = Part { start, len: mib * MIB };
            start += part.len;
            part
        });
        Ok(Some(Self {
            tree: work.join("tree"),
            kernel: provision::kernel(victim)?,
            identity: work.join("identity.txt"),
            programs: facts.lines().map(Program::parse).collect::<Res<_>>()?,
            second: work.join("second.img"),
            parts: parts.to_vec(),
            work,
        }))
    }

    /// A program by its name.
    ///
    /// # Errors
    /// When there is none.
    pub fn program(&self, name: &str) -> Res<&Program> {
        self.programs.iter().find(|p| p.name == name).ctx(format_args!("program {name}"))
    }

    /// The record that the guest wrote.
    ///
    /// # Errors
    /// When it is not whole.
    pub fn recorded(&self) -> Res<Record> {
        let part = self.parts.get(3).ctx("the record's partition")?;
        Record::read(&self.second, *part)
    }

    /// Takes a file out of the programs' file system, as the dead machine left it.
    ///
    /// # Errors
    /// When it is not there.
    pub fn take(&self, file: &str, to: &Path) -> Res<()> {
        let part = self.parts.first().ctx("the programs' partition")?;
        let image = self.work.join("live.ext4");
        if !image.is_file() {
            copy_sparse(&self.second, part.start, part.len, &image)?;
            // The journal is played back; exit code 1 says that it was.
            let done = Command::new("/usr/sbin/e2fsck").arg("-fp").arg(&image).output();
            let code = done.ctx("e2fsck")?.status.code();
            ensure(matches!(code, Some(0 | 1)), format_args!("e2fsck ended with {code:?}"))?;
        }
        let order = format!("dump {file} {}", to.display());
        run(Command::new("/usr/sbin/debugfs").args(["-R", &order]).arg(&image))?;
        ensure(to.is_file(), format_args!("debugfs did not give {file}"))
    }
}

/// The machine while it lives.
#[derive(Debug)]
pub struct Live {
    /// The machine.
    pub lab: Lab,
    remains: Remains,
}

impl Live {
    /// Boots the machine and starts the programs; nothing is stopped or swapped out yet.
    ///
    /// # Errors
    /// When any of it fails.
    pub fn boot(plan: Plan) -> Res<Self> {
        let ground = Ground::new(&plan)?;
        let tree = ground.work.join("tree");
        plant(&tree, &ground.work)?;
        let parts = disk(&ground, &tree)?;
        let mut files = modules(&ground.kernel, &MODULES)?;
        for (name, place) in [("record", "bin/record"), ("fill", "bin/fill")] {
            let program = guest::compile(name, &ground.work)?;
            files.push((place, fs::read(&program).ctx(program.display())?));
        }
        let remains = Remains {
            work: ground.work.clone(),
            tree,
            kernel: ground.kernel.clone(),
            identity: ground.identity.clone(),
            programs: Vec::new(),
            second: ground.second(),
            parts,
        };
        let plan = Plan { second: true, files, ..plan };
        let lab = Lab::boot(&plan, ground)?;
        let mut live = Self { lab, remains };
        live.prepare()?;
        live.start()?;
        Ok(live)
    }

    fn program(&self, name: &str) -> Res<&Program> {
        self.remains.program(name)
    }

    /// Starts a program, and keeps what it tells of itself.
    fn run(&mut self, order: &str) -> Res<Program> {
        let said = self.lab.machine.must(&format!("start {order}"), ORDER)?;
        let program = Program::parse(&said)?;
        let line = said.lines().find(|l| l.starts_with(TOLD)).unwrap_or_default();
        let file = self.remains.work.join(FACTS);
        let before = fs::read_to_string(&file).unwrap_or_default();
        fs::write(&file, format!("{before}{line}\n")).ctx(file.display())?;
        self.remains.programs.push(program.clone());
        Ok(program)
    }

    /// A program of the recorder.
    fn record(&mut self, order: &str) -> Res<String> {
        self.lab.machine.must(&format!("exec /bin/record {order}"), ORDER)
    }

    fn put(&mut self, file: &str, word: &str) -> Res<()> {
        self.record(&format!("put {file} {word}")).map(drop)
    }

    fn prepare(&mut self) -> Res<()> {
        for mount in [
            "/dev/disk/by-partlabel/live /live ext4",
            "proc /live/proc proc",
            "tmpfs /live/tmp tmpfs",
            "cgroup /cgroup cgroup2",
        ] {
            self.lab.machine.must(&format!("exec /bin/fill mount {mount}"), ORDER)?;
        }
        self.put("/cgroup/cgroup.subtree_control", "+memory")?;
        self.put("/proc/sys/vm/nr_hugepages", "6")?;
        self.record("swapon /dev/disk/by-partlabel/swap-a 30")?;
        self.record("swapon /dev/disk/by-partlabel/swap-b 20").map(drop)
    }

    fn start(&mut self) -> Res<()> {
        let python = format!("/usr/bin/python3.11 -S -E /live.py {OBJECTS}");
        for program in ["/bin/single", "/bin/multi", "/bin/shared /tmp /data", "/bin/huge", &python]
        {
            let enter = "/bin/record enter /cgroup/live /bin/fill chroot /live";
            self.run(&format!("{enter} {program}"))?;
        }
        Ok(())
    }

    /// Numbers of all processes, the child of `shared` included, in the order of the record.
    fn pids(&self) -> Res<Vec<u32>> {
        let mut pids: Vec<u32> = self.remains.programs.iter().map(|p| p.pid).collect();
        pids.push(u32::try_from(self.program("shared")?.fact("child")?).unwrap_or(0));
        Ok(pids)
    }

    /// Lets gdb in the guest take cores of the programs in [`TWINS`].
    ///
    /// # Errors
    /// When gdb fails.
    pub fn gcore(&mut self) -> Res<()> {
        for name in TWINS {
            let pid = self.program(name)?.pid;
            let gdb = format!("/bin/gdb -nx -batch -p {pid} -x /{name}.gdb");
            self.lab.machine.must(&format!("exec /bin/fill chroot /live {gdb}"), ORDER)?;
        }
        self.record("sync /live").map(drop)
    }

    /// Stops the programs, looks at what they hold, and starts the one that runs on.
    ///
    /// # Errors
    /// When the guest does not do it.
    pub fn freeze(&mut self) -> Res<()> {
        let list = words(&self.pids()?);
        self.record(&format!("stop {list}"))?;
        self.record(&format!("watch /run/seen {list}")).map(drop)
    }

    fn pageout(&mut self, program: &str, regions: &[&str]) -> Res<()> {
        for name in regions {
            let (pid, region) =
                (self.program(program)?.pid, self.program(program)?.region(name)?.clone());
            let len = region.pages * 4096;
            self.record(&format!("pageout {pid} {:x} {len:x}", region.at))?;
        }
        Ok(())
    }

    fn pageout_named(&mut self, program: &str, area: &str) -> Res<()> {
        let pid = self.program(program)?.pid;
        self.record(&format!("pageout {pid} {area}")).map(drop)
    }

    /// Sends pages to the two partitions, brings some back into the swap cache.
    ///
    /// # Errors
    /// When the guest does not do it.
    pub fn to_partitions(&mut self) -> Res<()> {
        self.pageout("single", &["disk"])?;
        self.pageout_named("single", "[stack]")?;
        let stacks: Vec<String> =
            (1..self.program("multi")?.fact("threads")?).map(|n| format!(".stack{n}")).collect();
        let stacks: Vec<&str> = stacks.iter().map(String::as_str).collect();
        self.pageout("multi", &stacks)?;
        self.pageout("shared", &["sysv", "tmpfs", "zero"])?;
        self.pageout("huge", &["thpout"])?;
        // What was written stays in the swap cache until somebody needs memory. This takes
        // it from there, and other pages with it, those of two owners too.
        self.record("reclaim /cgroup/live 24M")?;
        let (pid, at) = (self.program("single")?.pid, self.program("single")?.region("disk")?.at);
        // Each touch brings eight pages back: page-cluster is 3.
        self.record(&format!("touch {pid} {at:x} 200000 20")).map(drop)
    }

    /// Sends pages to zswap in front of the partitions: by its default, by zstd, by lz4.
    ///
    /// # Errors
    /// When the guest does not do it.
    pub fn to_zswap(&mut self) -> Res<String> {
        const PARAMETERS: &str = "/sys/module/zswap/parameters";
        self.put(&format!("{PARAMETERS}/enabled"), "1")?;
        let said = ["compressor", "zpool"]
            .map(|p| self.lab.machine.must(&format!("cat {PARAMETERS}/{p}"), ORDER));
        let mut ways = String::new();
        for line in said {
            ways.push_str(line?.trim());
            ways.push(' ');
        }
        self.pageout("single", &["zswap1"])?;
        for (compressor, region) in [("zstd", "zswap2"), ("lz4", "zswap3")] {
            self.put(&format!("{PARAMETERS}/compressor"), compressor)?;
            self.pageout("single", &[region])?;
        }
        self.pageout_named("python", "[heap]")?;
        self.put(&format!("{PARAMETERS}/enabled"), "0")?;
        Ok(format!("zswap: default {}then zstd, lz4", ways))
    }

    /// Sends pages to two zram devices, by lzo-rle and by zstd; by lz4 where the kernel was
    /// built without lzo, as Debian's 6.12.
    ///
    /// # Errors
    /// When the guest does not do it.
    pub fn to_zram(&mut self) -> Res<String> {
        const OFFERED: &str = "cat /sys/block/zram0/comp_algorithm";
        self.lab.machine.must("cat /sys/class/zram-control/hot_add", ORDER)?;
        let offered = self.lab.machine.must(OFFERED, ORDER)?;
        let quick = if offered.contains("lzo-rle") { "lzo-rle" } else { "lz4" };
        for (n, algorithm, size, region) in [(0, quick, "8M", "zram1"), (1, "zstd", "32M", "zram2")]
        {
            self.put(&format!("/sys/block/zram{n}/comp_algorithm"), algorithm)?;
            self.put(&format!("/sys/block/zram{n}/disksize"), size)?;
            self.record(&format!("mkswap /dev/zram{n}"))?;
            self.record(&format!("swapon /dev/zram{n} {}", 50 + n))?;
            self.pageout("single", &[region])?;
        }
        self.pageout("multi", &["work"])?;
        Ok(format!("zram: {quick}, zstd"))
    }

    /// Pages in the swap cache, in KiB.
    fn swap_cached(&mut self) -> Res<u64> {
        let said = self.lab.machine.must("cat /proc/meminfo", ORDER)?;
        let line = said.lines().find_map(|l| l.strip_prefix("SwapCached:"));
        let kib = line.and_then(|l| l.split_whitespace().next()?.parse().ok());
        kib.ctx("SwapCached of /proc/meminfo")
    }

    /// Makes pages that were written leave the swap cache, those of the last device first:
    /// 2 MiB at least. The kernel takes pages of files as long as it has many.
    fn empty_swap_cache(&mut self) -> Res<()> {
        let before = self.swap_cached()?;
        for _ in 0..64 {
            self.record("reclaim /cgroup/live 2M")?;
            if self.swap_cached()? + 2048 <= before {
                return Ok(());
            }
        }
        ensure(false, format_args!("{before} KiB stay in the swap cache"))
    }

    /// Sends pages to a swap file, and takes Python's program out of the page cache.
    ///
    /// # Errors
    /// When the guest does not do it, or the file is of one piece.
    pub fn to_file(&mut self) -> Res<String> {
        let said = self.record(&format!("swapfile {SWAPFILE} 32 /live/other"))?;
        self.record(&format!("swapon {SWAPFILE} 70"))?;
        self.pageout("single", &["file"])?;
        self.empty_swap_cache()?;
        // This stays in the swap cache.
        self.pageout("shared", &["cow"])?;
        self.pageout_named("python", "/live/usr/bin/python3.11")?;
        Ok(said)
    }

    /// Starts the program that runs on, writes the record, and lets the machine die.
    ///
    /// # Errors
    /// When the guest does not do it.
    pub fn crash(&mut self) -> Res<Crash> {
        let mut pids = self.pids()?;
        let spin = self.run("/bin/fill chroot /live /bin/spin")?.pid;
        self.record(&format!("watch /run/seen {spin}"))?;
        pids.push(spin);
        let order = format!("write /dev/disk/by-partlabel/record /run/seen {}", words(&pids));
        print!("{}", self.record(&order)?);
        self.lab.crash()
    }

    /// What is left of it; the machine is gone then.
    #[must_use]
    pub fn remains(self) -> Remains {
        self.remains
    }
}

fn words(pids: &[u32]) -> String {
    pids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
}

/// Copies a file of this machine to its place in the tree, and gives that.
fn copy(from: &Path, tree: &Path) -> Res<PathBuf> {
    let to = tree.join(from.strip_prefix("/").unwrap_or(from));
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir).ctx(dir.display())?;
    }
    fs::copy(from, &to).ctx(from.display())?;
    Ok(to)
}

/// Copies the libraries that a program needs, and its loader.
fn libraries(program: &Path, tree: &Path) -> Res<()> {
    let said = run(Command::new("ldd").arg(program))?;
    ensure(!said.contains("not found"), format_args!("{} lacks:\n{said}", program.display()))?;
    let paths = said.split_whitespace().filter(|w| w.starts_with('/'));
    paths.map(Path::new).try_for_each(|path| copy(path, tree).map(drop))
}

/// Makes the file system that the programs live in.
fn plant(tree: &Path, work: &Path) -> Res<()> {
    for dir in ["bin", "tmp", "proc", "data", "usr/bin", "usr/lib/python3.11"] {
        fs::create_dir_all(tree.join(dir)).ctx(dir)?;
    }
    for name in ["single", "multi", "shared", "huge", "spin"] {
        let program = guest::compile_dynamic(name, work)?;
        libraries(&program, tree)?;
        fs::copy(&program, tree.join("bin").join(name)).ctx(name)?;
    }
    let python = Path::new("/usr/bin/python3.11");
    copy(python, tree)?;
    libraries(python, tree)?;
    let library = Path::new("/usr/lib/python3.11");
    for folder in [library.to_path_buf(), library.join("encodings")] {
        for entry in fs::read_dir(&folder).ctx(folder.display())?.filter_map(Result::ok) {
            if entry.path().extension().is_some_and(|e| e == "py") {
                copy(&entry.path(), tree)?;
            }
        }
    }
    let script = paths::workspace().join("tests/guest/live.py");
    fs::copy(&script, tree.join("live.py")).ctx(script.display())?;
    let gdb = provision::small_gdb()?;
    libraries(&gdb, tree)?;
    fs::copy(&gdb, tree.join("bin/gdb")).ctx(gdb.display())?;
    for name in TWINS {
        let order = format!("gcore /{name}.gcore\n");
        fs::write(tree.join(format!("{name}.gdb")), order).ctx(name)?;
    }
    Ok(())
}

/// Makes the second disk.
fn disk(ground: &Ground, tree: &Path) -> Res<Vec<Part>> {
    let image = ground.second();
    let parts = partitioned(&image, &PARTS)?;
    let live = parts.first().ctx("the programs' partition")?;
    // Nothing is written later by itself: a write of zeros would kill this disk.
    let options = format!("offset={},lazy_itable_init=0,lazy_journal_init=0,nodiscard", live.start);
    run(Command::new("/usr/sbin/mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-E", &options, "-d"])
        .arg(tree)
        .arg(&image)
        .arg(format!("{}M", live.len / MIB)))?;
    for (part, (label, _)) in parts.iter().zip(PARTS).filter(|(_, (l, _))| l.starts_with("swap")) {
        let scratch = ground.work.join(label);
        blank(&scratch, part.len)?;
        run(Command::new("/usr/sbin/mkswap").args(["-L", label]).arg(&scratch))?;
        let header = fs::read(&scratch).ctx(scratch.display())?;
        let file = OpenOptions::new().write(true).open(&image).ctx(image.display())?;
        let first = header.get(..4096).ctx("a swap header")?;
        file.write_all_at(first, part.start).ctx(image.display())?;
        fs::remove_file(&scratch).ctx(scratch.display())?;
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_tells_is_read() {
        let said = "LB live single pid=77 seed=51e61e depth=18 region=disk:7f0000001000:1800\n";
        let program = Program::parse(said).unwrap();
        assert_eq!((program.pid, program.fact("depth").unwrap()), (77, 24));
        let region = program.region("disk").unwrap().clone();
        assert_eq!((region.at, region.pages), (0x7f00_0000_1000, 0x1800));
        assert_eq!(program.page_name(&region, 9).unwrap(), "single/disk/000009");
        assert_eq!(program.page_name(&region, 13), None);
        Program::parse("LB FAILED mmap: no memory\n").unwrap_err();
        Program::parse("LB live single pid=77 region=disk\n").unwrap_err();
    }
}
