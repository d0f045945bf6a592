//! The power goes at 20 random moments of a real capture; then the partition is read.
//!
//! One machine is stopped when its crash kernel has found the disks, and kept: each kill
//! goes on from there, on a copy of memory and disk. Every fourth disk also loses what
//! its write cache held, in any order and torn within a write.

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::{BuildHasher as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lifeboat_qemu::chunks;
use lifeboat_qemu::console::Line;
use lifeboat_qemu::cycle::{BOOT, Ground, Lab, MIB, Plan, Snapshot, host, text};
use lifeboat_qemu::disk::{Disk, copy_sparse};
use lifeboat_qemu::error::{Context as _, Res, ensure};
use lifeboat_qemu::evidence::{Recovered, recovered};
use lifeboat_qemu::guest;
use lifeboat_qemu::machine::{Bus, Machine, Saved, Setup};
use lifeboat_qemu::pattern::mix;
use lifeboat_qemu::vmcore::{MemoryMap, same_bytes};
use lifeboat_qemu::writelog::{Replayed, replay};

const KILLS: u32 = 20;
const MEMORY_MIB: u64 = 512;

/// What every kill begins with.
struct Scene {
    ground: Ground,
    initramfs: PathBuf,
    saved: Saved,
    was: Snapshot,
    map: MemoryMap,
    /// The dump that was there before.
    older: PathBuf,
}

impl Scene {
    fn new() -> Res<Self> {
        let plan = Plan { memory_mib: MEMORY_MIB, ..Plan::named("kills") };
        let mut lab = Lab::new(&plan)?;
        lab.arm("")?;
        let crash = lab.crash()?;
        lab.wait_reboot(&crash, BOOT)?;
        let older = lab.work.join("older");
        host(&["pull", &lab.volume(), "-o", &text(&older)])?.good()?;
        old_bytes(&lab.disk, &older)?;
        lab.settle()?;
        lab.arm("")?;
        let crash = lab.crash()?;
        lab.wait_console(&crash, BOOT, "lifeboat: devices:")?;
        let Lab { ground, machine, map, .. } = lab;
        let saved = machine.save(&ground.work)?;
        let was = Snapshot {
            ram: saved.ram.clone(),
            swap: ground.work.join("swap.copy"),
            paused: Duration::ZERO,
        };
        ground.disk.save(ground.disk.swap, &was.swap)?;
        let initramfs = guest::initramfs(&ground.kernel, Bus::Virtio, &[], &ground.work)?;
        Ok(Self { ground, initramfs, saved, was, map, older })
    }

    /// A copy of the disk as it was when the machine was stopped.
    fn disk(&self, name: &str) -> Res<Disk> {
        let from = &self.ground.disk;
        let path = self.ground.work.join(name);
        let len = fs::metadata(&from.path).ctx(from.path.display())?.len();
        copy_sparse(&from.path, 0, len, &path)?;
        Ok(Disk { path, ..from.clone() })
    }

    fn start(&self, disk: &Disk, log: Option<&Path>) -> Res<Machine> {
        let work = self.ground.work.join("kill");
        fs::create_dir_all(&work).ctx(work.display())?;
        let setup = Setup::of(&self.ground.kernel.vmlinuz, &self.initramfs, disk, &work);
        let mut machine = Machine::start(&Setup {
            memory_mib: MEMORY_MIB,
            log,
            saved: Some(&self.saved),
            ..setup
        })?;
        machine.resume()?;
        Ok(machine)
    }
}

/// Puts the older dump's bytes all over the free space, as dumps that were cleared leave
/// theirs: none of them may show up in the new one.
fn old_bytes(disk: &Disk, older: &Path) -> Res<()> {
    let bytes = fs::read(older).ctx(older.display())?;
    let (mut at, end) = (MIB + bytes.len() as u64, disk.dump.len - 2 * MIB);
    while at + (bytes.len() as u64) < end {
        at = at.next_multiple_of(4096);
        disk.write(disk.dump.start + at, &bytes)?;
        at += bytes.len() as u64;
    }
    Ok(())
}

/// What became of one kill.
struct Fate {
    state: String,
    chunks: usize,
    found: Recovered,
    lost: Option<Replayed>,
}

#[test]
fn twenty_kills_at_random_moments() -> Res<()> {
    let seed = std::env::var("LIFEBOAT_SEED").ok().and_then(|s| s.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| RandomState::new().build_hasher().finish());
    println!("LIFEBOAT_SEED={seed} plays this again, as far as machines repeat themselves");
    let mut state = seed;
    let mut random = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(state)
    };
    let scene = Scene::new()?;
    let whole = whole_run(&scene)?;
    for mark in &whole {
        println!("{:6.2} s  {}", mark.at, mark.text);
    }
    let (from, to) = (whole.first().map_or(0.0, |m| m.at), whole.last().map_or(0.0, |m| m.at));
    let (mut capturing, mut complete, mut pages) = (0, 0, 0);
    for kill in 0..KILLS {
        let within = f64::from(u16::try_from(random() % 1000).unwrap_or(0)) / 1000.0;
        let part = (f64::from(kill) + within) / f64::from(KILLS);
        let moment = from + (to * 1.05 - from) * part;
        let lossy = kill % 4 == 3;
        let (disk, last) = cut(&scene, &whole, moment, lossy)?;
        let lost = if lossy { Some(weaken(&scene, &disk, &mut random)?) } else { None };
        let fate = examine(&scene, &disk, lost)?;
        match fate.state.as_str() {
            "capturing" => capturing += 1,
            "complete" => complete += 1,
            // The head is durable before PID 1 says so.
            "none yet" | "not begun" => {
                let early =
                    ["devices", "sources", "guard", "order", "filter"].contains(&last.as_str());
                ensure(early, format_args!("after `{last}` the dump is {}", fate.state))?;
            }
            other => ensure(false, format_args!("a killed dump is `{other}`"))?,
        }
        pages += fate.found.memory.equal;
        row(kill, moment, &fate, &last);
    }
    println!(
        "{KILLS} kills: {capturing} capturing, {complete} complete; {pages} pages equal, 0 false"
    );
    ensure(capturing >= KILLS / 2, "most kills were to hit the capture itself")?;
    ensure(pages > 0, "no page was recovered in any of them")?;
    fs::remove_dir_all(&scene.ground.work).ctx("the work folder")
}

fn row(kill: u32, moment: f64, fate: &Fate, last: &str) {
    let disk = match fate.lost {
        None => "as written".to_owned(),
        Some(l) => format!("lost {} sectors of {} unflushed writes", l.lost, l.unflushed),
    };
    println!(
        "{kill:2}  {moment:6.2} s  after `{last}`  {}: {} chunks, {} pages equal, {} stated missing, {} MiB of swap equal; {disk}",
        fate.state,
        fate.chunks,
        fate.found.memory.equal,
        fate.found.memory.missing,
        fate.found.swap / MIB,
    );
}

/// A line that the capturer said: what it begins with, and when, in seconds after the
/// machine went on.
struct Mark {
    text: String,
    at: f64,
}

/// The capturer's lines since the machine went on at `resumed`.
fn marks(machine: &Machine, resumed: Duration) -> Vec<Mark> {
    let lines: Vec<Line> = machine.console.since(0);
    let said = lines.iter().filter_map(|l| Some((l.at, l.text.split_once("lifeboat: ")?.1)));
    let begins = |text: &str| {
        let text = text.split(": ").next().unwrap_or_default();
        text.split(|c: char| c.is_ascii_digit()).next().unwrap_or_default().trim().to_owned()
    };
    let since = |at: Duration| at.saturating_sub(resumed).as_secs_f64();
    said.map(|(at, text)| Mark { text: begins(text), at: since(at) }).collect()
}

/// One run to its end, which must be whole: the lines that it said, from the guard on.
fn whole_run(scene: &Scene) -> Res<Vec<Mark>> {
    let disk = scene.disk("disk.kill")?;
    let machine = scene.start(&disk, None)?;
    let resumed = machine.start.elapsed();
    machine.console.wait(0, BOOT, "the end", |l| l.contains("lifeboat: done after"))?;
    let mut all = marks(&machine, resumed);
    drop(machine);
    all.retain(|m| !["devices", "sources"].contains(&m.text.as_str()));
    let fate = examine(scene, &disk, None)?;
    ensure(fate.state == "complete", "the whole run is not complete")?;
    ensure(fate.found.memory.missing == 0, "the whole run lacks pages")?;
    ensure(all.len() > 5, "the capturer said too little")?;
    Ok(all)
}

/// Runs from the saved state and cuts the power at this moment of the whole run. The
/// machine is as fast as its host is idle, so the moment is counted from the line before
/// it, at this run's own speed. Gives the disk and the last line that was said.
fn cut(scene: &Scene, whole: &[Mark], moment: f64, lossy: bool) -> Res<(Disk, String)> {
    let disk = scene.disk("disk.kill")?;
    let log = scene.ground.work.join("write.log");
    if lossy {
        fs::File::create(&log).ctx(log.display())?;
    }
    let mut machine = scene.start(&disk, lossy.then_some(log.as_path()))?;
    let resumed = machine.start.elapsed();
    let before = whole.iter().rev().find(|m| m.at <= moment).ctx("a line before the moment")?;
    let begins = format!("lifeboat: {}", before.text);
    let line = machine.console.wait(0, BOOT, &begins, |l| l.contains(&begins))?.1;
    let speed = line.at.saturating_sub(resumed).as_secs_f64() / before.at.max(0.001);
    let rest = (moment - before.at) * speed.clamp(0.2, 1.2);
    std::thread::sleep(Duration::from_secs_f64(rest));
    machine.cut_power()?;
    let last = marks(&machine, resumed).pop();
    Ok((disk, last.map_or_else(|| "devices".to_owned(), |m| m.text)))
}

/// The disk again, as its write cache may have left it.
fn weaken(scene: &Scene, disk: &Disk, random: &mut impl FnMut() -> u64) -> Res<Replayed> {
    let fresh = scene.disk("disk.kill")?;
    ensure(fresh.path == disk.path, "another disk")?;
    replay(&scene.ground.work.join("write.log"), &disk.path, random)
}

/// Reads the partition as a field engineer would.
fn examine(scene: &Scene, disk: &Disk, lost: Option<Replayed>) -> Res<Fate> {
    let volume = format!("{}:lifeboat", disk.path.display());
    let listed = host(&["list", &volume, "--json"])?;
    let json: serde_json::Value = serde_json::from_str(&listed.out)
        .map_err(|e| std::io::Error::other(format!("{e}: {}", listed.all)))
        .ctx("list --json")?;
    let found = |number: u64| {
        let dumps = json.pointer("/volumes/0/dumps").and_then(|d| d.as_array());
        let mut all = dumps.into_iter().flatten();
        all.find(|d| d.get("number").and_then(serde_json::Value::as_u64) == Some(number))
    };
    let state = |number: u64| {
        let state = found(number).and_then(|d| d.get("state")).and_then(|s| s.as_str());
        state.unwrap_or("none yet").to_owned()
    };
    ensure(state(1) == "complete", format_args!("the older dump is {}", state(1)))?;
    let at = |name: &str| scene.ground.work.join(name);
    let again = at("older.again");
    host(&["pull", &volume, "--dump", "1", "-o", &text(&again), "--force"])?.good()?;
    same_bytes(&again, &scene.older)?;
    disk.check_fillers()?;
    let mut fate = Fate { state: state(2), chunks: 0, found: Recovered::default(), lost };
    if fate.state == "none yet" {
        return Ok(fate);
    }
    // Slot written, header not yet: an old dump's lies there. It must not pass as the new one.
    let dump = found(2).cloned().unwrap_or_default();
    if dump.get("damage").is_some_and(|d| d.to_string().contains("the slot tells of dump")) {
        ensure(fate.state == "damaged", format_args!("another dump's bytes are {}", fate.state))?;
        "not begun".clone_into(&mut fate.state);
        return Ok(fate);
    }
    let pulled = at("killed");
    let said = host(&["pull", &volume, "--dump", "2", "-o", &text(&pulled), "--force"])?;
    if said.code == 1 && said.all.contains("no readable header") {
        "none yet".clone_into(&mut fate.state);
        return Ok(fate);
    }
    let wanted = if fate.state == "complete" { 0 } else { 3 };
    ensure(said.code == wanted, format_args!("pull: exit {}\n{}", said.code, said.all))?;
    fate.chunks = chunks::walk(&pulled)?.len();
    let said = host(&["verify", &text(&pulled), "-i", &text(&scene.ground.identity)])?;
    // A disk that lost some writes of its cache and kept later ones has gaps in the midst.
    let torn = fate.lost.is_some_and(|l| l.lost > 0) && said.code == 1;
    ensure(torn || said.code == wanted, format_args!("verify: exit {}\n{}", said.code, said.all))?;
    if fate.chunks > 0 {
        fate.found = recovered(&pulled, &scene.ground.identity, &scene.map, &scene.was, false)?;
    }
    Ok(fate)
}
