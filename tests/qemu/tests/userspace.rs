//! User space from a dead kernel's dump: processes on a machine that really panicked, their
//! pages in memory and everywhere that a kernel can put them; and what `lifeboat` makes of
//! them, held against what the machine said of itself right before.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lifeboat_qemu::cycle::{Plan, Said, host, text};
use lifeboat_qemu::error::{Context as _, Res, ensure, run};
use lifeboat_qemu::judges;
use lifeboat_qemu::live::{Live, Program, Remains, SWAPFILE, TWINS};
use lifeboat_qemu::pattern::mix;
use lifeboat_qemu::provision::{self, Victim};
use lifeboat_qemu::record::{Area, Contents, Process, Record, State, hash};
use lifeboat_qemu::usercore::{Report, Terms, UserCore, Verdict, compare};
use lifeboat_qemu::usergdb::{self, opened};
use serde_json::Value;

/// For a capture under emulation.
const LIMIT: Duration = Duration::from_secs(300);

/// Set, what a run left is kept, and judged again by the next one without another panic:
/// for whoever works on what reads a dump.
const AGAIN: &str = "LIFEBOAT_AGAIN";

/// How many damages a dump is given, other than 6: for whoever looks for a false page.
const DAMAGES: &str = "LIFEBOAT_DAMAGES";

/// Where `lifeboat` must have found pages, by its own words.
const PLACES: [&str; 10] = [
    "present",
    "file",
    "huge",
    "shmem",
    "shmem-swap",
    "swap-cache",
    "swap",
    "same-filled",
    "zram",
    "untouched",
];

/// A dead machine's dump, and what is known of it.
struct Dead {
    victim: Victim,
    left: Remains,
    record: Record,
    dump: String,
    key: String,
}

impl Dead {
    /// Boots, swaps, records, panics, captures, pulls.
    fn new(victim: Victim, name: &'static str) -> Res<Self> {
        let before = again().then(|| Remains::again(victim, name)).transpose()?.flatten();
        let left = before.map_or_else(|| die(victim, name), Ok)?;
        let record = left.recorded()?;
        println!("swap devices: {:?}", record.swaps);
        let dump = text(&left.work.join(PULLED));
        Ok(Self { victim, record, dump, key: text(&left.identity), left })
    }

    /// A command on the dump.
    fn ask(&self, command: &str, more: &[&str]) -> Res<Said> {
        ask(&self.dump, &self.key, command, more)
    }

    fn json(&self, command: &str, more: &[&str]) -> Res<Value> {
        let said = self.ask(command, &[more, &["--json"]].concat())?;
        println!("lifeboat {command}: {:.2} s", said.took.as_secs_f64());
        serde_json::from_str(&said.good()?).ctx(format_args!("{command} --json"))
    }

    /// Takes a process's core; some of its pages may be holes.
    fn core(&self, pid: u32) -> Res<(PathBuf, Report)> {
        let core = self.left.work.join(format!("core.{pid}"));
        let report = report_of(&core);
        let (pid, out, told) = (pid.to_string(), text(&core), text(&report));
        let said = self.ask("core", &["--pid", &pid, "-o", &out, "--report", &told, "--force"])?;
        ensure(matches!(said.code, 0 | 3), format_args!("core --pid {pid}:\n{}", said.all))?;
        let bytes = fs::metadata(&core).ctx(core.display())?.len();
        println!(
            "core of {pid}: {bytes} bytes in {:.2} s, {:.0} MB/s",
            said.took.as_secs_f64(),
            bytes as f64 / 1e6 / said.took.as_secs_f64().max(1e-6)
        );
        Ok((core, Report::read(&report)?))
    }
}

/// Where the report of a core `core.PID` is kept.
fn report_of(core: &Path) -> PathBuf {
    let mut name = core.as_os_str().to_owned();
    name.push(".json");
    name.into()
}

fn again() -> bool {
    std::env::var_os(AGAIN).is_some()
}

/// The dump's file in the work folder.
const PULLED: &str = "pulled.lifeboat";

/// A life and a death.
fn die(victim: Victim, name: &'static str) -> Res<Remains> {
    let mut live = Live::boot(Plan { victim, whole: false, ..Plan::named(name) })?;
    live.gcore()?;
    live.freeze()?;
    live.to_partitions()?;
    if victim.has_zswap() {
        println!("{}", live.to_zswap()?);
    }
    println!("{}", live.to_zram()?);
    print!("{}", live.to_file()?);
    live.lab.arm("")?;
    let crash = live.crash()?;
    live.lab.come_back(&crash, LIMIT)?;
    let to = text(&live.lab.work.join(PULLED));
    host(&["pull", &live.lab.volume(), "-o", &to])?.good()?;
    Ok(live.remains())
}

/// A command on a dump.
fn ask(dump: &str, key: &str, command: &str, more: &[&str]) -> Res<Said> {
    host(&[&[command, dump, "-i", key], more].concat())
}

/// Every page of every core, by kind; and in how many places `lifeboat` found them.
fn pages(dead: &Dead) -> Res<(Verdict, BTreeMap<String, u64>)> {
    let (mut all, mut places) = (Verdict::default(), BTreeMap::new());
    for process in &dead.record.processes {
        let (core, report) = dead.core(process.pid)?;
        ensure(report.all_mappings, format_args!("mappings of {} are lost", process.pid))?;
        let moving = dead.left.program("spin")?;
        let moving = (moving.pid == process.pid).then(|| moving.fact("moving")).transpose()?;
        let terms = Terms { record: &dead.record, lost_swap: SWAPFILE, moving };
        let core = UserCore::open(&core)?;
        let verdict = compare(&core, process, &report, &terms)?;
        let (name, _, _) = process.facts()?;
        println!("{name} ({}): {:?}\n{}", process.pid, report.pages, verdict.table());
        add(&mut all, &verdict);
        for (place, pages) in &report.pages {
            *places.entry(place.clone()).or_insert(0) += pages;
        }
        if let Some(program) = dead.left.programs.iter().find(|p| p.pid == process.pid) {
            println!("  {} pages have their names", named(program, &core, &report)?);
        }
    }
    println!("all processes: {places:?}\n{}", all.table());
    Ok((all, places))
}

fn add(all: &mut Verdict, one: &Verdict) {
    for (kind, t) in &one.kinds {
        let sum = all.kinds.entry(kind.clone()).or_default();
        sum.equal += t.equal;
        sum.holes += t.holes;
        sum.different += t.different;
        sum.silent += t.silent;
        sum.unknown += t.unknown;
    }
    for (reason, n) in &one.reasons {
        *all.reasons.entry(reason.clone()).or_default() += n;
    }
    all.unexcused.extend(one.unexcused.iter().cloned());
    all.wrong.extend(one.wrong.iter().cloned());
}

/// Pages of a program's regions begin with their own names: what the recorder had no part in.
fn named(program: &Program, core: &UserCore, report: &Report) -> Res<u64> {
    let mut found = 0;
    let mut page = [0u8; 4096];
    for region in &program.regions {
        for n in 0..region.pages {
            let Some(name) = program.page_name(region, n) else { continue };
            let at = region.at + n * 4096;
            if !core.page(at, &mut page)? {
                ensure(report.why(at).is_some(), format_args!("{name} is silently missing"))?;
                continue;
            }
            let head = page.get(..64).unwrap_or_default();
            let said = head.split(|b| *b == 0).next().unwrap_or_default();
            ensure(
                said == name.as_bytes(),
                format_args!("{at:#x} is {:?}, not {name}", String::from_utf8_lossy(said)),
            )?;
            found += 1;
        }
    }
    Ok(found)
}

/// Every kind of place must have been met, or the test proves nothing: as the guest tells,
/// and as `lifeboat` does, since a page that is swapped out may be in memory all the same.
fn every_place(all: &Verdict, places: &BTreeMap<String, u64>, dead: &Dead) -> Res<()> {
    let record = &dead.record;
    let zswap = dead.victim.has_zswap().then_some("zswap");
    for place in PLACES.into_iter().chain(zswap) {
        ensure(places.contains_key(place), format_args!("no page came from {place}"))?;
    }
    for place in ["private, present", "shared, present", "file, present", "untouched"] {
        ensure(all.equal(place) > 0, format_args!("no page is {place}"))?;
    }
    // The harness's own partition is not asked for: others have a higher priority.
    let asked = |s: &&String| s.starts_with("/dev/vdb") || s.starts_with("/dev/zram");
    let asked: Vec<&String> = record.swaps.iter().filter(asked).collect();
    ensure(asked.len() == 4, format_args!("swap devices are {:?}", record.swaps))?;
    for swap in asked {
        let place = format!("private, in {swap}");
        ensure(all.equal(&place) > 0, format_args!("no page is {place}"))?;
    }
    ensure(all.equal("shared, away") > 0, "no page of shared memory was swapped out")?;
    let lost = all.kinds.get(&format!("private, in {SWAPFILE}"));
    ensure(lost.is_some_and(|t| t.equal > 0), "no page of the swap file is in the swap cache")?;
    let holes = lost.map_or(0, |t| t.holes);
    let told = all.reasons.get("in a swap file whose disk was not captured");
    ensure(
        holes > 0 && told == Some(&holes),
        format_args!("{holes} pages are in the swap file only; reasons are {:?}", all.reasons),
    )
}

/// By its name a process gives the same core as by its number.
fn by_name(dead: &Dead) -> Res<()> {
    let (pid, dir) = (dead.left.program("single")?.pid, dead.left.work.join("cores"));
    let said = dead.ask("core", &["--comm", "single", "-o", &text(&dir), "--force"])?;
    ensure(matches!(said.code, 0 | 3), format_args!("core --comm single:\n{}", said.all))?;
    let named = dir.join(format!("core.single.{pid}"));
    let (by_name, by_pid) =
        (fs::read(&named), fs::read(dead.left.work.join(format!("core.{pid}"))));
    let same = by_name.ctx(named.display())? == by_pid.ctx("the core by its number")?;
    ensure(same, "the core by name is another one than that by number")
}

/// gdb opens the cores; and they are what gdb took of the living processes.
fn by_gdb(dead: &Dead) -> Res<()> {
    let core = |p: &Program| dead.left.work.join(format!("core.{}", p.pid));
    let open = |name: &str, program: &'static str| -> Res<usergdb::Opened> {
        Ok(opened(&core(dead.left.program(name)?), &dead.left.tree, program))
    };
    let single = dead.left.program("single")?;
    let frames = usergdb::check_single(&open("single", "bin/single")?, single)?;
    let swapped = usergdb::swapped_frames(&frames, dead.record.process(single.pid)?);
    println!("single: {} frames, locals of {swapped} on pages swapped out", frames.len());
    ensure(swapped > 0, "no known local was swapped out")?;
    let multi = dead.left.program("multi")?;
    let threads = usergdb::check_multi(&open("multi", "bin/multi")?, multi)?;
    println!("multi: {threads} threads with their chains, locals and vector registers");
    let spin = dead.left.program("spin")?;
    let told = Report::read(&report_of(&core(spin)))?.problems;
    if told.iter().any(|p| p.contains("just entering or leaving the kernel")) {
        // A timer's interrupt, at the very moment of the panic: one run of hundreds.
        println!("spin: its registers were lost in its CPU, and told so");
    } else {
        usergdb::check_spin(&open("spin", "bin/spin")?, spin)?;
        println!("spin: stands in its loop");
    }
    for (name, program) in TWINS.iter().zip(["bin/single", "bin/multi"]) {
        let taken = dead.left.work.join(format!("{name}.gcore"));
        dead.left.take(&format!("/{name}.gcore"), &taken)?;
        let twin = opened(&taken, &dead.left.tree, program);
        let report = Report::read(&report_of(&core(dead.left.program(name)?)))?;
        let common = usergdb::same_as_gcore(&open(name, program)?, &twin, &report)?;
        println!("{name}, beside gdb's own core: {common:?}");
    }
    Ok(())
}

/// All objects of the interpreter are in its core.
fn python(dead: &Dead) -> Res<()> {
    const HEAD: &[u8] = b"live-python-object-";
    let program = dead.left.program("python")?;
    let path = dead.left.work.join(format!("core.{}", program.pid));
    let bytes = fs::read(&path).ctx(path.display())?;
    let mut found = BTreeSet::new();
    for at in memfind(&bytes, HEAD) {
        let text = bytes.get(at + HEAD.len()..at + HEAD.len() + 15).unwrap_or_default();
        let text = String::from_utf8_lossy(text).into_owned();
        let Some((number, sum)) = text.split_once('-') else { continue };
        if let (Ok(n), Ok(sum)) = (number.parse::<u64>(), u64::from_str_radix(sum, 16))
            && sum == n * 2_654_435_761 % (1 << 32)
        {
            found.insert(n);
        }
    }
    let objects = program.fact("objects")?;
    println!("python: {} of {objects} objects", found.len());
    ensure(found.iter().copied().eq(0..objects), "objects of the interpreter are missing")
}

/// Places where `needle` begins.
fn memfind<'a>(bytes: &'a [u8], needle: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let first = needle.first().copied().unwrap_or(0);
    let starts = bytes.iter().enumerate().filter(move |(_, b)| **b == first);
    starts.map(|(at, _)| at).filter(|at| bytes.get(*at..).is_some_and(|r| r.starts_with(needle)))
}

/// All tasks, as a judge and we must see them alike: one text each.
fn tasks(json: &Value) -> Res<BTreeSet<String>> {
    let mut out = BTreeSet::new();
    for process in json.get("processes").and_then(Value::as_array).ctx("`processes`")? {
        let threads = process.get("threads").and_then(Value::as_array).ctx("`threads`")?;
        for thread in threads {
            let one = || {
                let number = |of: &Value, key: &str| of.get(key).and_then(Value::as_u64);
                let word = |key: &str| thread.get(key).and_then(Value::as_str);
                let (tid, pid) = (number(thread, "tid")?, number(process, "pid")?);
                let (parent, cpu) = (number(process, "ppid")?, number(thread, "cpu")?);
                let (state, comm) = (word("state")?, word("comm")?);
                Some(format!("{tid} of {pid} child of {parent} {state} cpu {cpu} {comm}"))
            };
            out.insert(one().ctx(format_args!("a task in {process}"))?);
        }
    }
    // The idle tasks have number 0; drgn does not list them.
    out.retain(|t| !t.starts_with("0 of 0 "));
    Ok(out)
}

/// `ps` says what drgn says, task by task, and what the guest said of itself; with symbols
/// and types from a vmlinux it says the same.
fn ps(dead: &Dead, judge: &Value, vmlinux: &Path) -> Res<()> {
    let json = dead.json("ps", &[])?;
    let aided = dead.json("ps", &["--vmlinux", &text(vmlinux)])?;
    ensure(aided == json, "ps says something else by --vmlinux")?;
    let (ours, theirs) = (tasks(&json)?, tasks(judge)?);
    let differ: Vec<&String> = ours.symmetric_difference(&theirs).collect();
    ensure(differ.is_empty(), format_args!("ps and drgn differ: {differ:#?}"))?;
    println!("ps: {} tasks and threads as drgn has them", ours.len());
    for process in &dead.record.processes {
        let (name, state, parent) = process.facts()?;
        // What ran was told of while it was looked at.
        let state = if name == "spin" { "R" } else { &state };
        let start = format!("{} of {} child of {parent} {state} cpu ", process.pid, process.pid);
        let there = ours.iter().any(|t| t.starts_with(&start) && t.ends_with(&name));
        ensure(there, format_args!("ps has no `{start}… {name}`"))?;
    }
    Ok(())
}

/// A line of a memory map, as all must see it alike.
fn line(start: u64, end: u64, perms: &str, offset: u64, path: &str) -> String {
    format!("{start:x}-{end:x} {perms} {offset:x} {path}")
}

fn lines(maps: &Value, path: fn(&str) -> &str) -> Res<Vec<String>> {
    let one = |m: &Value| {
        let number = |key: &str| m.get(key).and_then(Value::as_u64);
        let word = |key: &str| m.get(key).and_then(Value::as_str);
        let (perms, path) = (word("flags")?, path(word("name").unwrap_or_default()));
        Some(line(number("start")?, number("end")?, perms, number("offset")?, path))
    };
    let all = maps.as_array().ctx("a list of areas")?;
    all.iter().map(|m| one(m).ctx(format_args!("an area in {m}"))).collect()
}

/// What the guest's own `/proc/PID/maps` said; the page of old system calls is no area.
fn recorded(process: &Process, path: fn(&str) -> &str) -> Vec<String> {
    let areas = process.areas.iter().filter(|a| a.name != "[vsyscall]");
    areas.map(|a| line(a.start, a.end, &a.perms, a.offset, path(&a.name))).collect()
}

/// What drgn names as the kernel does: files with a directory.
fn plain(path: &str) -> &str {
    if path.starts_with("/live/") && !path.ends_with(" (deleted)") { path } else { "" }
}

/// `maps` says what the guest and drgn say.
fn maps(dead: &Dead, judge: &Value) -> Res<()> {
    let mut count = 0;
    for process in &dead.record.processes {
        let pid = process.pid.to_string();
        let json = dead.json("maps", &["--pid", &pid])?;
        let ours = lines(json.get("maps").ctx("`maps`")?, |p| p)?;
        let was = recorded(process, |p| p);
        ensure(ours == was, format_args!("maps of {pid}: {ours:#?}\nwere {was:#?}"))?;
        let theirs = judge.pointer(&format!("/maps/{pid}")).ctx("drgn's maps")?;
        let (theirs, was) = (lines(theirs, plain)?, recorded(process, plain));
        ensure(theirs == was, format_args!("drgn's maps of {pid}: {theirs:#?}\nwere {was:#?}"))?;
        count += ours.len();
    }
    println!("maps: {count} areas as the guest and drgn had them");
    Ok(())
}

/// `libs` names every file that a process ran; with its build id, where the page that has it
/// is in memory.
fn libs(dead: &Dead) -> Res<()> {
    let (mut known, mut away) = (BTreeSet::new(), BTreeSet::new());
    for process in &dead.record.processes {
        let json = dead.json("libs", &["--pid", &process.pid.to_string()])?;
        let listed = json.get("libs").and_then(Value::as_array).ctx("`libs`")?;
        let ran = |a: &&Area| a.name.starts_with("/live/") && a.offset == 0 && a.is_file();
        for area in process.areas.iter().filter(ran) {
            let inside = area.name.strip_prefix("/live/").unwrap_or_default();
            let Ok(id) = build_id(&dead.left.tree.join(inside)) else { continue };
            let ours = listed
                .iter()
                .find(|l| l.get("path").and_then(Value::as_str) == Some(&*area.name))
                .ctx(format_args!("{} in {json}", area.name))?;
            let ours = ours.get("build_id").ctx("`build_id`")?.as_str();
            let first = area.pages.first().filter(|p| p.at == area.start);
            let there = first.is_some_and(|p| p.state != State::Away);
            ensure(
                ours == there.then_some(&*id),
                format_args!("build id of {inside}: {ours:?}, not {id}, in memory: {there}"),
            )?;
            if there {
                known.insert(id)
            } else {
                away.insert(id)
            };
        }
    }
    println!("libs: build ids of {} files, {} not in memory", known.len(), away.len());
    // The C library, the loader, a program.
    ensure(known.len() >= 3, "no page cache held the files")
}

/// `extract` gives a file back as the page cache had it.
fn extracted(dead: &Dead) -> Res<()> {
    let shared = dead.left.program("shared")?;
    let process = dead.record.process(shared.pid)?;
    let area = process.areas.iter().find(|a| a.name == "/live/data/shared").ctx("its file")?;
    let out = dead.left.work.join("extracted");
    dead.ask("extract", &["--path", "/live/data/shared", "-o", &text(&out), "--force"])?.good()?;
    let bytes = fs::read(&out).ctx(out.display())?;
    ensure(bytes.len() as u64 == area.end - area.start, "the file's length")?;
    for (page, known) in bytes.chunks(4096).zip(&area.pages) {
        let same = Contents::Known(hash(page)) == known.contents;
        ensure(same, format_args!("the extracted file differs at {:#x}", known.at))?;
    }
    println!("extract: {} bytes as they were", bytes.len());
    Ok(())
}

fn build_id(file: &Path) -> Res<String> {
    let said = run(Command::new("readelf").arg("-n").arg(file))?;
    let id = said.lines().find_map(|l| l.trim().strip_prefix("Build ID: "));
    id.map(str::to_owned).ctx(format_args!("the build id of {}", file.display()))
}

/// For a command on a damaged dump: it may find less, not take longer.
const BOUND: Duration = Duration::from_secs(60);

/// Damages a copy of the dump; `case` says how and where.
fn damage(dump: &mut Vec<u8>, case: u64) {
    let len = dump.len() as u64;
    let mut state = case;
    let mut place = |most: u64| {
        state = mix(state);
        // What stands first is found broken at once.
        usize::try_from((1 << 20) + state % (most - (1 << 20))).unwrap_or(0)
    };
    match case % 3 {
        0 => {
            for _ in 0..40 {
                if let Some(byte) = dump.get_mut(place(len)) {
                    *byte ^= 0x5a;
                }
            }
        }
        1 => dump.truncate(place(len)),
        _ => {
            let from = place(len - (4 << 20));
            dump.get_mut(from..from + (4 << 20)).unwrap_or_default().fill(0);
        }
    }
}

/// Of a damaged dump the commands tell nothing false, say what is missing, and end in time;
/// where they cannot do anything, they say what would help.
fn damaged(dead: &Dead) -> Res<()> {
    let whole = fs::read(&dead.dump).ctx(&dead.dump)?;
    let bad = dead.left.work.join("damaged");
    let single = dead.left.program("single")?;
    let process = dead.record.process(single.pid)?;
    let terms = Terms { record: &dead.record, lost_swap: SWAPFILE, moving: None };
    let hurt = text(&bad);
    let mut served = 0;
    let asked = std::env::var(DAMAGES).ok().and_then(|n| n.parse().ok());
    for case in 0..asked.unwrap_or(6) {
        let mut bytes = whole.clone();
        damage(&mut bytes, case);
        fs::write(&bad, &bytes).ctx(bad.display())?;
        let ps = ask(&hurt, &dead.key, "ps", &["--json"])?;
        let (core, report) = (bad.with_extension("core"), bad.with_extension("json"));
        let pid = single.pid.to_string();
        let (out, told) = (text(&core), text(&report));
        let args = ["--pid", &pid, "-o", &out, "--report", &told, "--force"];
        let taken = ask(&hurt, &dead.key, "core", &args)?;
        for said in [&ps, &taken] {
            ensure(
                said.took < BOUND
                    && (matches!(said.code, 0 | 3) || said.code == 1 && said.all.contains("hint:")),
                format_args!(
                    "damage {case}: exit {} after {:?}\n{}",
                    said.code, said.took, said.all
                ),
            )?;
        }
        println!("damage {case}: ps exits with {}, core with {}", ps.code, taken.code);
        if matches!(taken.code, 0 | 3) {
            let core = UserCore::open(&core)?;
            let report = Report::read(&report)?;
            let told = report.all_mappings || taken.code == 3;
            ensure(told, format_args!("damage {case}: mappings are lost, and the exit code is 0"))?;
            let verdict = compare(&core, process, &report, &terms)?;
            let equal = verdict.equal("");
            println!("  {equal} pages equal; holes: {:?}", verdict.reasons);
            verdict.honest()?;
            served += equal;
        }
    }
    ensure(served > 0, "no damaged dump gave any page")
}

/// All of it, on one machine.
fn back_from_the_dead(victim: Victim, name: &'static str) -> Res<()> {
    let dead = Dead::new(victim, name)?;
    let (all, places) = pages(&dead)?;
    all.check()?;
    every_place(&all, &places, &dead)?;
    by_name(&dead)?;
    by_gdb(&dead)?;
    python(&dead)?;
    if victim.has_symbols() {
        by_drgn(&dead)?;
    }
    libs(&dead)?;
    extracted(&dead)?;
    damaged(&dead)?;
    if again() {
        return Ok(());
    }
    fs::remove_dir_all(&dead.left.work).ctx(dead.left.work.display())
}

/// Tasks and memory maps beside a judge's, who has the debug kernel.
fn by_drgn(dead: &Dead) -> Res<()> {
    let elf = dead.left.work.join("vmcore.elf");
    let out = text(&elf);
    host(&["export", "vmcore", &dead.dump, "-i", &dead.key, "-o", &out, "--force"])?.good()?;
    let vmlinux = provision::vmlinux(&dead.left.kernel)?;
    let pids: Vec<u32> = dead.record.processes.iter().map(|p| p.pid).collect();
    let judge = judges::userland_by_drgn(&elf, &vmlinux, &pids)?;
    ps(dead, &judge, &vmlinux)?;
    maps(dead, &judge)
}

#[test]
fn processes_of_6_1_come_back() -> Res<()> {
    back_from_the_dead(Victim::Cloud61, "userspace-6.1")
}

#[test]
fn processes_of_6_12_come_back() -> Res<()> {
    back_from_the_dead(Victim::Cloud612, "userspace-6.12")
}

#[test]
fn processes_in_zswap_of_6_1_come_back() -> Res<()> {
    back_from_the_dead(Victim::Generic61, "zswap-6.1")
}

#[test]
fn processes_in_zswap_of_6_12_come_back() -> Res<()> {
    back_from_the_dead(Victim::Generic612, "zswap-6.12")
}
