//! Several targets and what becomes of them, the ring's policies, several recipients.

use std::fs;
use std::process::Command;
use std::time::Duration;

use lifeboat_qemu::cycle::{Crash, Ground, Lab, MIB, Plan, Snapshot, host, text};
use lifeboat_qemu::disk::{blank, partitioned};
use lifeboat_qemu::error::{Context as _, Res, ensure, run};
use lifeboat_qemu::evidence::recovered;
use lifeboat_qemu::vmcore::same_bytes;

const LIMIT: Duration = Duration::from_secs(300);

/// Id of a volume, as `volume=` takes it.
fn id_of(volume: &str) -> Res<String> {
    let said = host(&["list", volume, "--json"])?.good()?;
    let json: serde_json::Value =
        serde_json::from_str(&said).map_err(std::io::Error::other).ctx("list --json")?;
    let id = json.pointer("/volumes/0/volume/id").and_then(|v| v.as_str());
    id.map(str::to_owned).ctx("the volume's id")
}

fn print(lab: &Lab, crash: &Crash) {
    for l in lab.init_lines(crash) {
        println!("[{:8.3}] {}", l.at.as_secs_f64(), l.text);
    }
}

/// Pulls from these volumes; everything must be there and equal.
fn whole(lab: &Lab, was: &Snapshot, volumes: &[&str]) -> Res<()> {
    let pulled = lab.work.join("pulled");
    let out = text(&pulled);
    let mut args = vec!["pull", "-o", &out, "--force"];
    let (first, more) = volumes.split_first().ctx("a volume")?;
    args.push(first);
    for with in more {
        args.extend(["--with", with]);
    }
    host(&args)?.good()?;
    host(&["verify", &out, "-i", &text(&lab.identity)])?.good()?;
    let found = recovered(&pulled, &lab.identity, &lab.map, was, false)?;
    found.memory.check()?;
    println!("{} pages equal, 0 missing; {} bytes of swap equal", found.memory.equal, found.swap);
    same_bytes(&pulled.with_extension("swap"), &was.swap).map(drop)
}

/// The first target, a whole disk named by its volume's id, dies while memory is
/// captured: the rest goes to the second, and both parts are one dump. The second
/// alone still has the log and the notes, and says what it lacks.
#[test]
fn a_target_that_dies_midway() -> Res<()> {
    let plan = Plan { second: true, ..Plan::named("dies") };
    let ground = Ground::new(&plan)?;
    let second = text(&ground.second());
    blank(&ground.second(), 512 * MIB)?;
    host(&["format", &second, "--label", "whole disk"])?.good()?;
    let id = id_of(&second)?;
    let mut lab = Lab::boot(&plan, ground)?;
    print!("{}", lab.arm(&format!("--target volume={id} --target partlabel=lifeboat"))?);
    let crash = lab.crash()?;
    let was = lab.snapshot()?;
    lab.wait_console(&crash, LIMIT, "lifeboat: memory, kernel pages:")?;
    lab.machine.kill_second()?;
    lab.wait_console(&crash, LIMIT, "lifeboat: done after")?;
    print(&lab, &crash);
    let lines = lab.init_lines(&crash);
    let said = |what: &str| lines.iter().any(|l| l.text.contains(what));
    ensure(said("FAILED at byte"), "the disk did not fail")?;
    lab.machine.cut_power()?;
    let first = lab.volume();
    whole(&lab, &was, &[&second, &first])?;
    whole(&lab, &was, &[&first, &second])?;

    let alone = lab.work.join("alone");
    let said = host(&["pull", &first, "-o", &text(&alone)])?;
    println!("the second alone: exit {}\n{}", said.code, said.all);
    ensure(said.code == 3, "a dump without its first part is not whole")?;
    let key = text(&lab.identity);
    let log = host(&["export", "log", &text(&alone), "-i", &key])?.good()?;
    ensure(log.contains("sysrq: Trigger a crash"), "the log is not in the second part")?;
    let notes = text(&lab.work.join("notes"));
    host(&["export", "notes", &text(&alone), "-i", &key, "-o", &notes])?.good()?;
    let found = recovered(&alone, &lab.identity, &lab.map, &was, true)?;
    println!(
        "the second alone: {} equal, {} stated missing",
        found.memory.equal, found.memory.missing
    );
    ensure(found.memory.missing > 0, "pages of the dead disk are not missing")?;
    lab.disk.check_fillers().map(drop)
}

/// The first target fails its guard, the second is too small: the dump begins there and
/// goes on on the third.
#[test]
fn a_target_refused_and_one_too_small() -> Res<()> {
    let plan = Plan { second: true, dump_mib: 80, ..Plan::named("refused") };
    let ground = Ground::new(&plan)?;
    let parts = partitioned(&ground.second(), &[("foreign", 64), ("small", 80)])?;
    let at = |label: &str| format!("{}:{label}", ground.second().display());
    let small = at("small");
    for volume in [&at("foreign"), &small] {
        host(&["format", volume])?.good()?;
    }
    let (path, foreign) = (ground.second(), parts.first().ctx("a partition")?.start);
    let mut lab = Lab::boot(&plan, ground)?;
    lab.arm(
        "--force --target partlabel=foreign --target partlabel=small --target partlabel=lifeboat",
    )?;
    let file = fs::OpenOptions::new().write(true).open(&path).ctx(path.display())?;
    let put = std::os::unix::fs::FileExt::write_all_at;
    put(&file, b"_BHRfS_M", foreign + 0x10040).ctx("a foreign signature")?;
    let before = fs::read(&path).ctx(path.display())?;
    let crash = lab.crash()?;
    let was = lab.snapshot()?;
    lab.wait_console(&crash, LIMIT, "lifeboat: done after")?;
    print(&lab, &crash);
    let lines = lab.init_lines(&crash);
    ensure(lines.iter().any(|l| l.text.contains("refused")), "the first was not refused")?;
    lab.machine.cut_power()?;
    let after = fs::read(&path).ctx(path.display())?;
    let end = usize::try_from(foreign + 64 * MIB).unwrap_or(0);
    ensure(before.get(..end) == after.get(..end), "the refused target was written")?;
    whole(&lab, &was, &[&small, &lab.volume()])?;
    lab.disk.check_fillers().map(drop)
}

/// `keep-latest` on a volume that holds one dump: the second one drops the first, and is
/// whole.
#[test]
fn keep_latest_drops_the_oldest() -> Res<()> {
    let profile = &[("[volume]", "policy = \"keep-latest\"")];
    let mut lab = Lab::new(&Plan { dump_mib: 144, profile, ..Plan::named("keep-latest") })?;
    lab.arm("--force")?;
    let crash = lab.crash()?;
    lab.wait_reboot(&crash, LIMIT)?;
    lab.settle()?;
    lab.arm("--force")?;
    let crash = lab.crash()?;
    let was = lab.snapshot()?;
    lab.wait_console(&crash, LIMIT, "lifeboat: done after")?;
    print(&lab, &crash);
    lab.machine.cut_power()?;
    let listed = host(&["list", &lab.volume()])?.good()?;
    print!("{listed}");
    ensure(!listed.contains("dump 1 ") && listed.contains("dump 2 "), "the first was not dropped")?;
    whole(&lab, &was, &[&lab.volume()])
}

/// Three recipients of three kinds; each identity opens the dump alone.
#[test]
fn any_of_three_recipients_opens_it() -> Res<()> {
    let mut plan = Plan::named("recipients");
    let ground = Ground::new(&plan)?;
    let mut keys = vec![ground.identity.clone()];
    let mut site = format!("[keys]\nrecipients = [\n  \"{}\",\n", ground.recipient);
    for kind in ["ed25519", "rsa"] {
        let key = ground.work.join(format!("ssh-{kind}"));
        run(Command::new("ssh-keygen").args(["-q", "-N", "", "-t", kind, "-f"]).arg(&key))?;
        let public = key.with_extension("pub");
        let line = fs::read_to_string(&public).ctx(public.display())?;
        site.push_str(&format!("  \"{}\",\n", line.trim()));
        keys.push(key);
    }
    site.push_str("]\n");
    plan.files = vec![("image/site.toml", site.into_bytes())];
    let mut lab = Lab::boot(&plan, ground)?;
    let armed = lab.try_arm_for("--site /image/site.toml", "")?;
    ensure(armed.code == 0, format_args!("arm: {}", armed.text))?;
    let crash = lab.crash()?;
    lab.wait_console(&crash, LIMIT, "lifeboat: done after")?;
    print(&lab, &crash);
    lab.machine.cut_power()?;
    for key in &keys {
        let said = host(&["verify", &lab.volume(), "-i", &text(key)])?;
        println!("{}: exit {}", key.display(), said.code);
        said.good()?;
    }
    Ok(())
}
