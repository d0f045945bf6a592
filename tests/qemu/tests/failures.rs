//! What can go wrong on the machine: each ends in a clear console line and a
//! reboot within the deadline, and writes nothing where it must not.

use std::process::Command;
use std::time::Duration;

use lifeboat_qemu::chunks::{self, Kind};
use lifeboat_qemu::cycle::{BOOT, Crash, DUMP_DEV, Lab, MIB, ORDER, Plan, Snapshot, host, text};
use lifeboat_qemu::error::{Context as _, Res, ensure, run};
use lifeboat_qemu::{bootconf, evidence, judges, provision};

/// Short deadlines: 30 s for the whole run, 8 s for a disk to appear; no watchdog,
/// which would be first.
const SHORT: &[(&str, &str)] =
    &[("deadline_s", "30"), ("device_wait_s", "8"), ("device", "\"none\""), ("timeout_s", "")];
/// The deadline, the next boot, and a slow machine.
const LIMIT: Duration = Duration::from_secs(150);

/// Crashes, waits for `line` and for the next boot; prints what was said and when.
fn crash_and_return(lab: &mut Lab, line: &str) -> Res<()> {
    let crash = lab.crash()?;
    returns(lab, &crash, line)
}

fn returns(lab: &Lab, crash: &Crash, line: &str) -> Res<()> {
    let said = lab.wait_console(crash, LIMIT, line)?;
    let back = lab.wait_restart(crash, LIMIT)?;
    for l in lab.init_lines(crash) {
        println!("[{:8.3}] {}", l.at.as_secs_f64(), l.text);
    }
    println!(
        "`{line}` {:.1} s and the next boot {:.1} s after the crash",
        (said.at - crash.panicked).as_secs_f64(),
        (back.at - crash.panicked).as_secs_f64()
    );
    lab.wait_reboot(crash, LIMIT).map(drop)
}

/// Runs `fails` and checks that dump partition and fillers are what they were.
fn untouched(lab: &mut Lab, fails: impl FnOnce(&mut Lab) -> Res<()>) -> Res<()> {
    let before = lab.disk.read(lab.disk.dump)?;
    fails(lab)?;
    lab.power_off()?;
    let after = lab.disk.read(lab.disk.dump)?;
    let differing = before.iter().zip(&after).filter(|(a, b)| a != b).count();
    ensure(
        differing == 0 && before.len() == after.len(),
        format_args!("{differing} bytes of the dump partition were written"),
    )?;
    println!("dump partition: {} bytes unchanged", after.len());
    println!("filler: {} bytes unchanged", lab.disk.check_fillers()?);
    Ok(())
}

#[test]
fn no_superblock() -> Res<()> {
    let plan = Plan { format: false, dump_mib: 64, ..Plan::named("no-superblock") };
    let mut lab = Lab::new(&plan)?;
    let refused = lab.try_arm("")?;
    println!("arm: exit {}: {}", refused.code, refused.text);
    ensure(refused.code == 1 && refused.text.contains("hint:"), "arm took a bare partition")?;
    untouched(&mut lab, |lab| {
        lab.arm("--force")?;
        crash_and_return(lab, "lifeboat: FAILED in phase guard")
    })
}

#[test]
fn a_foreign_signature_since_arming() -> Res<()> {
    let mut lab = Lab::new(&Plan { dump_mib: 64, ..Plan::named("foreign") })?;
    lab.arm("")?;
    // Where btrfs puts its superblock: 64 KiB, magic at 64 bytes.
    lab.disk.write(lab.disk.dump.start + 0x10040, b"_BHRfS_M")?;
    untouched(&mut lab, |lab| crash_and_return(lab, "lifeboat: FAILED in phase guard"))
}

#[test]
fn a_partition_too_small_for_the_dump() -> Res<()> {
    // Room for the kernel's memory and some of the programs'.
    let mut lab = Lab::new(&Plan { dump_mib: 40, ..Plan::named("too-small") })?;
    let answer = lab.try_arm("--force")?;
    println!("{}", answer.text);
    let crash = lab.crash()?;
    let was = lab.snapshot()?;
    returns(&lab, &crash, "lifeboat: commit:")?;
    let listed = lab.machine.order(&format!("exec /bin/lifeboat list {DUMP_DEV}"), ORDER)?;
    println!("list: exit {}\n{}", listed.code, listed.text);
    ensure(listed.code == 3, "a dump that did not fit must be listed as partial or incomplete")?;
    lab.power_off()?;
    println!("filler: {} bytes unchanged", lab.disk.check_fillers()?);
    let said = host(&["verify", &lab.volume(), "-i", &lab.identity.display().to_string()])?;
    println!("verify: exit {}\n{}", said.code, said.all);
    ensure(said.code == 3, "what did fit must be sound, and known to be incomplete")?;
    least_is_lost(&lab, &crash, &was)
}

/// Of a dump that did not fit, what is worth most is there and opens.
fn least_is_lost(lab: &Lab, crash: &Crash, was: &Snapshot) -> Res<()> {
    let pulled = lab.work.join("pulled.lifeboat");
    let said = host(&["pull", &lab.volume(), "-o", &text(&pulled)])?;
    ensure(said.code == 3, format_args!("pull: exit {}\n{}", said.code, said.all))?;
    let all = chunks::walk(&pulled)?;
    println!("layers: {}", chunks::table(&all));
    chunks::by_worth(&all)?;
    let lines = lab.init_lines(crash);
    let whole = lines.iter().any(|l| l.text.contains("memory, kernel pages: complete"));
    ensure(whole, "the kernel's own memory is not complete")?;
    ensure(chunks::sum(&all, Kind::User).pages > 0, "no memory of programs")?;
    for kind in [Kind::Swap, Kind::Cache, Kind::Free] {
        ensure(chunks::sum(&all, kind).pages == 0, format_args!("{kind:?} before User was done"))?;
    }
    let found = evidence::recovered(&pulled, &lab.identity, &lab.map, was, false)?;
    let m = found.memory;
    println!("{} pages equal, {} different, {} stated missing", m.equal, m.different, m.missing);
    let (elf, vmlinux) = (pulled.with_extension("core"), provision::vmlinux(&lab.kernel)?);
    let drgn = judges::by_drgn(&elf, &vmlinux, &lab.facts)?;
    let crash = judges::by_crash(&elf, &vmlinux, &lab.facts, &lab.work)?;
    drgn.check()?;
    crash.check()?;
    println!("drgn and crash list the same {} tasks", judges::same_tasks(&drgn, &crash)?);
    Ok(())
}

#[test]
fn a_partition_that_shrank() -> Res<()> {
    let mut lab = Lab::new(&Plan { dump_mib: 64, ..Plan::named("shrank") })?;
    lab.arm("")?;
    let (first, last) = (lab.disk.dump.start / 512, (lab.disk.dump.start + 32 * MIB) / 512 - 1);
    let number = format!("--new=3:{first}:{last}");
    repartition(&lab, &["--delete=3", "--set-alignment=1", &number, "--change-name=3:lifeboat"])?;
    untouched(&mut lab, |lab| crash_and_return(lab, "lifeboat: FAILED in phase guard"))
}

#[test]
fn a_partition_that_vanished() -> Res<()> {
    let mut lab = Lab::new(&Plan { dump_mib: 64, profile: SHORT, ..Plan::named("vanished") })?;
    lab.arm("")?;
    repartition(&lab, &["--delete=3"])?;
    untouched(&mut lab, |lab| crash_and_return(lab, "lifeboat: FAILED in phase guard"))
}

/// Changes the partition table behind the running guest's back.
fn repartition(lab: &Lab, args: &[&str]) -> Res<()> {
    run(Command::new("/usr/sbin/sgdisk").args(args).arg(&lab.disk.path)).map(drop)
}

/// Loads the image with this boot configuration by hand, and crashes.
fn with_boot_conf(name: &'static str, conf: &str, line: &str) -> Res<()> {
    let files = vec![("image/bad.cpio", bootconf::initramfs(conf)?)];
    let mut lab = Lab::new(&Plan { dump_mib: 64, files, ..Plan::named(name) })?;
    untouched(&mut lab, |lab| {
        let order = format!("kexec /image/vmlinuz /image/bad.cpio {}", bootconf::CMDLINE);
        lab.machine.must(&order, ORDER)?;
        crash_and_return(lab, line)
    })
}

#[test]
fn no_recipients() -> Res<()> {
    let conf = bootconf::sealed("lifeboat-boot 1\ntarget partlabel=lifeboat\nencrypt age\n");
    with_boot_conf("no-recipients", &conf, "no recipient")
}

#[test]
fn arm_refuses_without_recipients() -> Res<()> {
    let mut lab = Lab::new(&Plan { dump_mib: 64, ..Plan::named("arm-no-recipients") })?;
    let answer = lab.machine.order("exec /bin/lifeboat arm --image /image", ORDER)?;
    println!("arm: exit {}: {}", answer.code, answer.text);
    ensure(answer.code == 1 && answer.text.contains("recipient"), "armed for nobody")?;
    ensure(answer.text.contains("hint:"), "no hint")?;
    let status = lab.machine.order("exec /bin/lifeboat status", ORDER)?;
    ensure(status.code == 1, format_args!("something is armed:\n{}", status.text))?;
    lab.power_off()
}

#[test]
fn a_corrupt_boot_configuration() -> Res<()> {
    let good = bootconf::sealed("lifeboat-boot 1\ntarget partlabel=lifeboat\nencrypt none\n");
    let corrupt = good.replace("partlabel=lifeboat", "partlabel=lifebost");
    with_boot_conf("corrupt-conf", &corrupt, "boot.conf")
}

#[test]
fn no_boot_configuration_at_all() -> Res<()> {
    with_boot_conf("empty-conf", "", "boot.conf")
}

/// Arms with a fault and short deadlines, crashes, and must come back in time.
fn with_fault(name: &'static str, fault: &str, line: &str) -> Res<()> {
    let mut lab = Lab::new(&Plan { dump_mib: 256, profile: SHORT, ..Plan::named(name) })?;
    lab.arm(&format!("--dangerously-inject-fault {fault}"))?;
    crash_and_return(&mut lab, line)?;
    after_a_failure(&mut lab)
}

/// The dump is there and incomplete, the next one could be taken, the fillers stand.
fn after_a_failure(lab: &mut Lab) -> Res<()> {
    let listed = lab.machine.order(&format!("exec /bin/lifeboat list {DUMP_DEV}"), ORDER)?;
    println!("list: exit {}\n{}", listed.code, listed.text);
    ensure(listed.code == 3, "an unfinished capture must be listed as incomplete")?;
    ensure(listed.text.contains("never committed"), "an unfinished capture must be known as one")?;
    lab.power_off()?;
    println!("filler: {} bytes unchanged", lab.disk.check_fillers()?);
    Ok(())
}

#[test]
fn panic_in_pid_1() -> Res<()> {
    with_fault("panic", "panic@memory", "lifeboat: PANIC in PID 1")
}

/// Memory is taken behind the seal: the run ends there, and says why.
#[test]
fn an_allocation_behind_the_seal() -> Res<()> {
    with_fault("alloc", "alloc@memory", "lifeboat: BREACH: 4242 bytes were allocated")
}

#[test]
fn hang_of_pid_1() -> Res<()> {
    with_fault("hang", "hang@memory", "lifeboat: DEADLINE")
}

#[test]
fn a_phase_that_hangs() -> Res<()> {
    // The deadline of the run stays at an hour: the limit of the phase itself strikes.
    let profile = &[("device", "\"none\""), ("timeout_s", "")];
    let mut lab = Lab::new(&Plan { dump_mib: 64, profile, ..Plan::named("phase") })?;
    lab.arm("--dangerously-inject-fault hang@guard")?;
    untouched(&mut lab, |lab| crash_and_return(lab, "lifeboat: DEADLINE: phase guard hangs"))
}

#[test]
fn exhausted_memory() -> Res<()> {
    with_fault("oom", "oom@memory", "panic_on_oom is enabled")
}

#[test]
fn hang_of_pid_1_with_a_watchdog() -> Res<()> {
    // The deadline stays at an hour: only the watchdog can bring it back.
    let plan = Plan {
        dump_mib: 256,
        watchdog: true,
        profile: &[("timeout_s", "20")],
        ..Plan::named("watchdog")
    };
    let mut lab = Lab::new(&plan)?;
    lab.arm("--dangerously-inject-fault hang@memory")?;
    crash_and_return(&mut lab, "injecting hang")?;
    after_a_failure(&mut lab)
}

#[test]
fn a_disk_that_hangs() -> Res<()> {
    let plan = Plan { dump_mib: 256, profile: SHORT, ..Plan::named("hung-disk") };
    let mut lab = Lab::new(&plan)?;
    lab.arm("")?;
    let crash = lab.crash()?;
    lab.wait_console(&crash, BOOT, "lifeboat: head:")?;
    lab.machine.throttle(1)?;
    lab.wait_console(&crash, LIMIT, "lifeboat: DEADLINE")?;
    // The machine resets itself here, its disk still hung. QEMU's reset, unlike a
    // mainboard's, waits for the disk's requests: only now may they move again.
    lab.wait_console(&crash, LIMIT, "sysrq: Resetting")?;
    lab.machine.throttle(0)?;
    let back = lab.wait_restart(&crash, LIMIT)?;
    for l in lab.init_lines(&crash) {
        println!("[{:8.3}] {}", l.at.as_secs_f64(), l.text);
    }
    println!("the next boot {:.1} s after the crash", (back.at - crash.panicked).as_secs_f64());
    lab.wait_reboot(&crash, LIMIT)?;
    after_a_failure(&mut lab)
}

#[test]
fn a_reservation_that_is_too_small() -> Res<()> {
    let plan =
        Plan { crashkernel: "24M".to_owned(), profile: SHORT, ..Plan::named("tiny-reservation") };
    let mut lab = Lab::new(&plan)?;
    let refused = lab.try_arm("")?;
    println!("arm: exit {}: {}", refused.code, refused.text);
    ensure(refused.code == 1 && refused.text.contains("hint:"), "arm took half of the memory")?;
    lab.arm("--dangerously-ignore-size")?;
    let crash = lab.crash()?;
    let back = lab.wait_restart(&crash, LIMIT).ctx_log(&lab, &crash)?;
    let shown = lab.machine.console.since(crash.console);
    let telling = |t: &str| t.contains("lifeboat: ") || t.contains("panic") || t.contains("emory:");
    for l in shown.iter().filter(|l| telling(&l.text)) {
        println!("[{:8.3}] {}", l.at.as_secs_f64(), l.text);
    }
    println!("the next boot {:.1} s after the crash", (back.at - crash.panicked).as_secs_f64());
    lab.wait_reboot(&crash, LIMIT)?;
    lab.power_off()?;
    println!("filler: {} bytes unchanged", lab.disk.check_fillers()?);
    Ok(())
}

/// Adds the console's last lines to a failure.
trait WithLog<T> {
    fn ctx_log(self, lab: &Lab, crash: &Crash) -> Res<T>;
}

impl<T> WithLog<T> for Res<T> {
    fn ctx_log(self, lab: &Lab, crash: &Crash) -> Self {
        let lines = lab.machine.console.since(crash.console);
        let tail: Vec<&str> = lines.iter().rev().take(30).rev().map(|l| l.text.as_str()).collect();
        self.or_else(|why| None.ctx(format_args!("{why}\n{}", tail.join("\n"))))
    }
}
