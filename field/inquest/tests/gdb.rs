//! Core files of a living process, opened by gdb beside those that `gcore` makes of it.
//!
//! What is compared: everything that gdb says. What is ours of it: notes and pages as the
//! writer lays them out. Registers and XSAVE areas come out of gcore's file, memory through
//! `/proc/PID/mem`, which no ptrace is needed for.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "test code, helpers included"
)]

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lifeboat_inquest::elfcore::notes::{FileMapping, Info, Status, Thread};
use lifeboat_inquest::elfcore::{
    Ahead, CoreError, Mapping, Options, Origin, Pages, Process, Report, write,
};
use lifeboat_inquest::{Hole, PAGE};
use lifeboat_sources::notes::Notes;

const PAGE64: u64 = PAGE as u64;
/// `__NR_pause`, where all threads end up.
const PAUSE: &str = "34 ";
const THREADS: usize = 4;
/// Bytes of a stretch that is not looked at page by page.
const STRETCH: u64 = 1 << 20;
/// Most bytes of a file that gcore may write.
const MOST: u64 = 1 << 30;

struct Victim {
    child: Child,
    dir: tempfile::TempDir,
    /// Long stretches of no file's that it never touched. gcore reads them, and then there are
    /// pages of zeros in all of them: so this is looked at before.
    untouched: Vec<(u64, u64)>,
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Victim {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("victim");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/victim/victim.c");
        let mut gcc = Command::new("gcc");
        gcc.args(["-g", "-O1", "-pthread", "-o"]).arg(&program).arg(source);
        assert!(gcc.status().unwrap().success());
        let child = Command::new(&program).stdin(Stdio::null()).spawn().unwrap();
        let mut this = Self { child, dir, untouched: Vec::new() };
        let begun = Instant::now();
        while !this.sleeps() {
            assert!(begun.elapsed() < Duration::from_secs(60), "the victim never got to sleep");
            std::thread::sleep(Duration::from_millis(20));
        }
        this.untouched = this.look_around();
        this
    }

    fn look_around(&self) -> Vec<(u64, u64)> {
        let pagemap = File::open(self.proc("pagemap")).unwrap();
        let mut all = Vec::new();
        for (start, end, ..) in self.maps().into_iter().filter(|m| !m.4) {
            let mut raw = vec![0; ((end - start) / PAGE64) as usize * 8];
            pagemap.read_exact_at(&mut raw, start / PAGE64 * 8).unwrap();
            // Neither present nor swapped.
            let bare: Vec<bool> = raw.chunks(8).map(|c| c[7] & 0xc0 == 0).collect();
            let mut at = start;
            for run in bare.chunk_by(|a, b| a == b) {
                let end = at + run.len() as u64 * PAGE64;
                if run[0] && end - at >= STRETCH {
                    all.push((at, end));
                }
                at = end;
            }
        }
        all
    }

    fn proc(&self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.child.id().to_string()).join(name)
    }

    /// Whether all threads are where they stay.
    fn sleeps(&self) -> bool {
        let tasks: Vec<_> = fs::read_dir(self.proc("task")).unwrap().collect();
        let call = |t: &std::io::Result<fs::DirEntry>| {
            fs::read_to_string(t.as_ref().unwrap().path().join("syscall")).unwrap()
        };
        tasks.len() == THREADS && tasks.iter().all(|t| call(t).starts_with(PAUSE))
    }

    fn program(&self) -> PathBuf {
        self.dir.path().join("victim")
    }

    /// What `gcore` makes of it.
    fn gcore(&self) -> PathBuf {
        let base = self.dir.path().join("theirs");
        // It writes out what was only reserved: a process with more of that than the one here
        // would fill the disk.
        let mut gcore = Command::new("prlimit");
        gcore.arg(format!("--fsize={MOST}")).args(["gcore", "-o"]);
        gcore.arg(&base).arg(self.child.id().to_string());
        let out = gcore.output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        self.dir.path().join(format!("theirs.{}", self.child.id()))
    }

    /// Lines of `/proc/PID/maps`: start, end, flags, offset in bytes, inode, path.
    fn maps(&self) -> Vec<(u64, u64, u32, u64, bool, Vec<u8>)> {
        let text = fs::read_to_string(self.proc("maps")).unwrap();
        let line = |l: &str| {
            let mut words = l.split_whitespace();
            let (start, end) = words.next().unwrap().split_once('-').unwrap();
            let flags = words.next().unwrap().bytes().zip([(b'r', 4), (b'w', 2), (b'x', 1)]);
            let flags = flags.map(|(have, (letter, bit))| u32::from(have == letter) * bit).sum();
            let hex = |t: &str| u64::from_str_radix(t, 16).unwrap();
            let offset = hex(words.next().unwrap());
            let file = words.nth(1).unwrap() != "0";
            let path = words.next().unwrap_or_default().as_bytes().to_vec();
            (hex(start), hex(end), flags, offset, file, path)
        };
        text.lines().map(line).filter(|m| !m.5.starts_with(b"[vsyscall]")).collect()
    }

    /// The process, with the registers that gcore's file has.
    fn process(&self, theirs: &[u8]) -> Process {
        let mut process =
            Process { auxv: fs::read(self.proc("auxv")).unwrap(), ..Process::default() };
        for (start, end, flags, offset, file, path) in self.maps() {
            process.mappings.push(Mapping { start, end, flags });
            if file {
                process.files.push(FileMapping { start, end, page: offset / PAGE64, path });
            }
        }
        for note in Notes::new(notes_of(theirs)) {
            let word = |at: usize| u32::from_le_bytes(note.desc[at..at + 4].try_into().unwrap());
            match note.kind {
                1 => {
                    let register = |n: usize| {
                        let at = 112 + n * 8;
                        u64::from_le_bytes(note.desc[at..at + 8].try_into().unwrap())
                    };
                    let status = Status {
                        pid: word(32),
                        registers: std::array::from_fn(register),
                        ..Status::default()
                    };
                    process.threads.push(Thread { status, ..Thread::default() });
                }
                2 => process.threads.last_mut().unwrap().fp = Some(note.desc.to_vec()),
                0x202 => process.threads.last_mut().unwrap().xstate = Some(note.desc.to_vec()),
                _ => {}
            }
        }
        let pid = self.child.id();
        let name = b"victim".to_vec();
        let args = fs::read(self.proc("cmdline")).unwrap();
        process.info = Info { pid, name, args, state: 1, ..Info::default() };
        process
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Program headers: kind, flags, offset, address, bytes in the file, bytes in memory.
fn headers(core: &[u8]) -> Vec<(u32, u32, u64, u64, u64, u64)> {
    let at = u64_at(core, 32) as usize;
    let count = u16::from_le_bytes(core[56..58].try_into().unwrap());
    let one = |n: usize| {
        let h = &core[at + n * 56..][..56];
        let word = |at: usize| u32::from_le_bytes(h[at..at + 4].try_into().unwrap());
        (word(0), word(4), u64_at(h, 8), u64_at(h, 16), u64_at(h, 32), u64_at(h, 40))
    };
    (0..usize::from(count)).map(one).collect()
}

fn notes_of(core: &[u8]) -> &[u8] {
    let (_, _, offset, _, len, _) = headers(core).into_iter().find(|h| h.0 == 4).unwrap();
    &core[offset as usize..][..len as usize]
}

/// Memory of a process, but for some pages.
struct Living {
    mem: File,
    untouched: Vec<(u64, u64)>,
    holes: Vec<u64>,
}

impl Living {
    fn new(victim: &Victim, holes: Vec<u64>) -> Self {
        let mem = File::open(victim.proc("mem")).unwrap();
        Self { mem, untouched: victim.untouched.clone(), holes }
    }
}

impl Pages for Living {
    fn page(&self, addr: u64, out: &mut [u8; PAGE]) -> Result<Origin, Hole> {
        if self.holes.contains(&addr) {
            return Err(Hole::Damaged);
        }
        self.mem.read_exact_at(out, addr).map_err(|_| Hole::Unsupported)?;
        Ok(Origin::Present)
    }

    fn ahead(&self, start: u64, end: u64) -> (u64, Ahead) {
        match self.untouched.iter().find(|(_, to)| *to > start) {
            Some((from, to)) if *from <= start => (end.min(*to), Ahead::Untouched),
            Some((from, _)) => (end.min(*from), Ahead::Look),
            None => (end, Ahead::Look),
        }
    }
}

/// What gdb says to some commands; the name of the core file left out.
fn gdb(program: &Path, core: &Path, commands: &[&str]) -> String {
    let mut gdb = Command::new("gdb");
    gdb.args(["-batch", "-nx", "-ex", "set pagination off", "-ex", "set print thread-events off"]);
    // Not what arguments were on entry: whether that is known depends on the compiler.
    gdb.args(["-ex", "set print entry-values no"]);
    gdb.arg("-ex").arg(format!("core-file {}", core.display()));
    for command in commands {
        gdb.args(["-ex", command]);
    }
    let out = gdb.arg(program).env("DEBUGINFOD_URLS", "").output().unwrap();
    let mut text = String::from_utf8_lossy(&out.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&out.stderr));
    text.replace(&core.display().to_string(), "CORE")
}

fn write_ours(
    victim: &Victim,
    process: &Process,
    holes: Vec<u64>,
    threads: usize,
) -> (PathBuf, Report) {
    let path = victim.dir.path().join(format!("ours-{threads}-{}", holes.len()));
    let file = File::create(&path).unwrap();
    let options = Options { threads, ..Options::default() };
    let report = write(&file, process, &Living::new(victim, holes), &options).unwrap();
    assert_eq!(file.metadata().unwrap().len(), report.len);
    (path, report)
}

/// Address of a symbol, by gdb.
fn address(victim: &Victim, core: &Path, expression: &str) -> u64 {
    let said = gdb(&victim.program(), core, &[&format!("output/x (long){expression}")]);
    let hex = said.rsplit("0x").next().unwrap().trim().to_owned();
    u64::from_str_radix(&hex, 16).unwrap()
}

#[test]
fn gdb_sees_what_it_sees_in_a_core_of_gcore() {
    let victim = Victim::start();
    let theirs = victim.gcore();
    let process = victim.process(&fs::read(&theirs).unwrap());
    assert_eq!(process.threads.len(), THREADS);
    assert!(process.threads.iter().all(|t| t.fp.is_some() && t.xstate.is_some()));
    let (ours, report) = write_ours(&victim, &process, vec![], 0);
    let commands = [
        "info threads",
        "thread apply all bt full",
        "thread apply all info registers",
        "thread apply all info registers float",
        "thread apply all info registers vector",
        "thread apply all p mine",
        "p *list->next->next",
        "p list->next->next->next->text",
        "p table[7][3]@8",
        "p table[10][0]@8",
        "p table[50][0]@8",
        "p table[61][4090]@12",
        "p reserved[20480]",
        "p reserved[20479]",
        "p reserved[(64L << 20) - 1]",
        "info auxv",
        "info proc mappings",
        "info proc exe",
        "info sharedlibrary",
    ];
    let (mine, other) =
        (gdb(&victim.program(), &ours, &commands), gdb(&victim.program(), &theirs, &commands));
    assert_eq!(mine, other);
    // Not only alike: right.
    for right in [
        "deep (depth=0, word=0x",
        "local = \"main at depth 7",
        "= 42",
        "= 3000",
        "value = 33",
        "0x600df00d",
        "= 77 'M'",
    ] {
        assert!(mine.contains(right), "{right} is missing in:\n{mine}");
    }
    assert_eq!(
        mine.matches("in main ()").count() + mine.matches("in main at").count(),
        1,
        "{mine}"
    );
    // What was only reserved is in neither file nor holes.
    assert!(report.len < 64 << 20, "{report:?}");
    assert!(fs::metadata(&ours).unwrap().blocks() * 512 < 8 << 20);
    assert!(report.pages[&Origin::Untouched] > (64 << 20) / PAGE64 - 16);
    assert_eq!(report.lost_pages(), report.missing.get(&Hole::Unsupported).copied().unwrap_or(0));
}

/// Of a page that is missing, gdb says so; all around it is there.
#[test]
fn a_hole_is_not_zeros() {
    let victim = Victim::start();
    let theirs = victim.gcore();
    let process = victim.process(&fs::read(&theirs).unwrap());
    let table = address(&victim, &theirs, "table");
    let (ours, report) = write_ours(&victim, &process, vec![table + 20 * PAGE64], 2);
    assert_eq!(report.missing[&Hole::Damaged], 1);
    let hole = report.holes.iter().find(|h| h.why == Hole::Damaged).unwrap();
    assert_eq!((hole.start, hole.end), (table + 20 * PAGE64, table + 21 * PAGE64));
    let said = gdb(
        &victim.program(),
        &ours,
        &["p/d table[19][4095]", "p/d table[20][0]", "p/d table[20][4095]", "p/d table[21][0]"],
    );
    assert!(said.contains("$1 = 18"), "{said}");
    assert_eq!(said.matches("Cannot access memory at address").count(), 2, "{said}");
    assert!(said.contains("= 21"), "{said}");
    let core = fs::read(&ours).unwrap();
    let inside = |h: &&(u32, u32, u64, u64, u64, u64)| h.3 <= hole.start && hole.start < h.3 + h.5;
    assert_eq!(headers(&core).iter().filter(|h| h.0 == 1).find(inside), None);
}

/// The file does not depend on how many threads fetch the pages.
#[test]
fn threads_do_not_change_a_byte() {
    let victim = Victim::start();
    let process = victim.process(&fs::read(victim.gcore()).unwrap());
    let (one, report) = write_ours(&victim, &process, vec![], 1);
    let (many, again) = write_ours(&victim, &process, vec![], 7);
    assert_eq!(report, again);
    assert!(fs::read(one).unwrap() == fs::read(many).unwrap());
}

/// Every other page is missing; of the rest, each 32nd holds its number.
struct Numbered;

impl Pages for Numbered {
    fn page(&self, addr: u64, out: &mut [u8; PAGE]) -> Result<Origin, Hole> {
        let page = addr / PAGE64;
        if page.is_multiple_of(2) {
            return Err(Hole::NotCaptured);
        }
        out.fill(0);
        if page % 64 == 63 {
            out[..8].copy_from_slice(&page.to_le_bytes());
        }
        Ok(Origin::Present)
    }
}

/// More segments than a header can count: readelf and gdb find all of them.
#[test]
fn very_many_segments() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("core");
    let pages = 2 * 65_600;
    let mapping = Mapping { start: 1 << 32, end: (1 << 32) + pages * PAGE64, flags: 6 };
    let process = Process { mappings: vec![mapping], ..Process::default() };
    let report =
        write(File::create(&path).unwrap(), &process, &Numbered, &Options::default()).unwrap();
    assert_eq!((report.segments, report.missing_pages()), (pages / 2, pages / 2));
    let out = Command::new("readelf").arg("-hlW").arg(&path).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(text.contains(&format!("({})", pages / 2 + 1)), "{}", &text[..2000]);
    let lines = text.lines().filter(|l| l.trim_start().starts_with("LOAD"));
    assert_eq!(lines.count() as u64, pages / 2);
    let last = (1u64 << 32) + (pages - 1) * PAGE64;
    let said = gdb(Path::new("/bin/true"), &path, &[&format!("p/x *(long *){last:#x}")]);
    assert!(said.contains(&format!("= {:#x}", last / PAGE64)), "{said}");
}

/// Page tables that lead everywhere end at the limit, and what is behind it is a hole.
#[test]
fn looking_has_an_end() {
    let mapping = Mapping { start: 0x1000, end: 1 << 47, flags: 6 };
    let process = Process { mappings: vec![mapping], ..Process::default() };
    let options = Options { most_pages: 1000, ..Options::default() };
    let out = tempfile::tempfile().unwrap();
    let report = write(&out, &process, &Numbered, &options).unwrap();
    assert_eq!(report.held_pages(), 500);
    assert_eq!(report.missing[&Hole::Malformed], (1 << 35) - 1 - 1000);
}

/// Page tables that tell of a page at a time, and never of one that is there.
struct Meagre(AtomicU64);

impl Pages for Meagre {
    fn page(&self, _: u64, _: &mut [u8; PAGE]) -> Result<Origin, Hole> {
        Err(Hole::NotMapped)
    }

    fn ahead(&self, start: u64, _: u64) -> (u64, Ahead) {
        self.0.fetch_add(1, Ordering::Relaxed);
        (start + PAGE64, Ahead::Hole(Hole::NotCaptured))
    }
}

#[test]
fn steps_have_an_end_too() {
    let mapping = Mapping { start: 0x1000, end: 1 << 32, flags: 6 };
    let process = Process { mappings: vec![mapping], ..Process::default() };
    let options = Options { most_pages: 1000, ..Options::default() };
    let pages = Meagre(AtomicU64::new(0));
    let report = write(tempfile::tempfile().unwrap(), &process, &pages, &options).unwrap();
    assert_eq!(pages.0.load(Ordering::Relaxed), 1000);
    assert_eq!(report.missing[&Hole::NotCaptured], 1000);
    assert_eq!(report.missing[&Hole::Malformed], (1 << 20) - 1 - 1000);
}

#[test]
fn mappings_that_cannot_be_are_refused() {
    for (start, end) in [(0x2000, 0x1000), (0x1000, 0x1000), (0x1001, 0x3000), (0x1000, 0x3001)] {
        let process =
            Process { mappings: vec![Mapping { start, end, flags: 4 }], ..Process::default() };
        let out = tempfile::tempfile().unwrap();
        let failed = write(&out, &process, &Numbered, &Options::default());
        assert!(matches!(failed, Err(CoreError::Mapping { .. })), "{start:#x} {failed:?}");
    }
    let twice = vec![Mapping { start: 0x1000, end: 0x3000, flags: 4 }; 2];
    let process = Process { mappings: twice, ..Process::default() };
    let out = tempfile::tempfile().unwrap();
    assert!(write(&out, &process, &Numbered, &Options::default()).is_err());
}
