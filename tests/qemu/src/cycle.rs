//! The whole path, step by step: a victim that swaps and is armed, its panic,
//! the capture, the clean boot behind it.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::console::Line;
use crate::disk::Disk;
use crate::error::{Context as _, Res, both, ensure, run};
use crate::machine::{Answer, Bus, Machine, Setup};
use crate::pattern::Facts;
use crate::provision::{self, Kernel, Victim};
use crate::vmcore::MemoryMap;
use crate::{guest, paths};

/// Bytes of a MiB.
pub const MIB: u64 = 1 << 20;
/// For one order in the guest.
pub const ORDER: Duration = Duration::from_secs(60);
/// For a boot, slow machines and a second test beside it included.
pub const BOOT: Duration = Duration::from_secs(180);
/// What makes the crash kernel say everything, its first line included.
pub const VERBOSE: &str = "loglevel=7";
/// The dump partition as the guest sees it.
pub const DUMP_DEV: &str = "/dev/disk/by-partlabel/lifeboat";

/// What to build and boot.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Name of the work folder.
    pub name: &'static str,
    /// Which kernel.
    pub victim: Victim,
    /// How the disk is attached.
    pub bus: Bus,
    /// The guest's memory in MiB.
    pub memory_mib: u64,
    /// Whether it is not in a file: may be more than the host has, cannot be copied.
    pub sparse: bool,
    /// The guest's CPUs.
    pub cpus: u32,
    /// `crashkernel=`.
    pub crashkernel: String,
    /// Size of the dump partition in MiB.
    pub dump_mib: u64,
    /// Keys of the board profile with other values, in the guest's copy of the image:
    /// a vendor's shorter deadlines, without another build. An empty value drops the key.
    /// `("[section]", "key = value")` adds a key.
    pub profile: &'static [(&'static str, &'static str)],
    /// Whether nothing is left out, so that all of memory can be compared. If not, the
    /// board's own `exclude` counts, or the one in `profile`.
    pub whole: bool,
    /// What is appended to the crash kernel's command line, one word.
    pub append: &'static str,
    /// A page of the swap partition that the disk cannot read.
    pub bad_swap: Option<u64>,
    /// Whether there is a watchdog device.
    pub watchdog: bool,
    /// Whether the machine has a second disk, `second.img` of the work folder.
    pub second: bool,
    /// Whether the host formats the dump partition.
    pub format: bool,
    /// Files for the guest beside the usual ones.
    pub files: Vec<(&'static str, Vec<u8>)>,
}

impl Plan {
    /// A 6.1 guest of 1 GiB with a virtio disk and a reservation of 64 MiB.
    #[must_use]
    pub fn named(name: &'static str) -> Self {
        Self {
            name,
            victim: Victim::Cloud61,
            bus: Bus::Virtio,
            memory_mib: 1024,
            sparse: false,
            cpus: 2,
            crashkernel: "64M".to_owned(),
            dump_mib: 512,
            profile: &[],
            whole: true,
            append: VERBOSE,
            bad_swap: None,
            watchdog: false,
            second: false,
            format: true,
            files: Vec::new(),
        }
    }
}

/// What is there before the machine runs: a kernel to crash, a disk, a key.
#[derive(Debug)]
pub struct Ground {
    /// The work folder.
    pub work: PathBuf,
    /// The victim's kernel.
    pub kernel: Kernel,
    /// Its disk.
    pub disk: Disk,
    /// File of the secret key; it never enters the guest.
    pub identity: PathBuf,
    /// Its public half.
    pub recipient: String,
}

impl Ground {
    /// Fetches the kernel, makes disk and key.
    ///
    /// # Errors
    /// When any of it fails.
    pub fn new(plan: &Plan) -> Res<Self> {
        let work = paths::work(plan.name)?;
        let kernel = provision::kernel(plan.victim)?;
        let disk = Disk::create(&work.join("disk.img"), 128 * MIB, plan.dump_mib * MIB)?;
        let identity = work.join("identity.txt");
        host(&["keygen", "-o", &text(&identity)])?.good()?;
        let recipient = public_half(&identity)?;
        let ground = Self { work, kernel, disk, identity, recipient };
        if plan.format {
            host(&["format", &ground.volume(), "--label", "qemu"])?.good()?;
        }
        Ok(ground)
    }

    /// The second disk.
    #[must_use]
    pub fn second(&self) -> PathBuf {
        self.work.join("second.img")
    }

    /// The dump partition within the disk image, as `lifeboat` takes it.
    #[must_use]
    pub fn volume(&self) -> String {
        format!("{}:lifeboat", self.disk.path.display())
    }
}

/// A running victim and all that belongs to it.
#[derive(Debug)]
pub struct Lab {
    /// What was there before.
    pub ground: Ground,
    /// The machine.
    pub machine: Machine,
    /// What the victim program told of itself.
    pub facts: Facts,
    /// The guest's memory map.
    pub map: MemoryMap,
    /// When its init was ready.
    pub booted: Line,
    /// What arming appends to the crash kernel's command line.
    append: &'static str,
}

/// How long a victim may take to its first boot before it is started again.
const FIRST_BOOT: Duration = Duration::from_secs(60);

/// Starts the machine and waits for its init. Once in some hundred starts a stock
/// kernel does not get through its first boot under emulation, silent and busy; that
/// is before anything of ours runs, so it is started again, twice at most, and told.
///
/// # Errors
/// When QEMU does not start, or the third boot fails too.
pub fn start_victim(setup: &Setup<'_>) -> Res<(Machine, Line)> {
    for _ in 0..2 {
        let machine = Machine::start(setup)?;
        match machine.wait_ready(0, FIRST_BOOT) {
            Ok(booted) => return Ok((machine, booted)),
            Err(why) => println!("the victim's first boot failed, starting it again: {why}"),
        }
    }
    let machine = Machine::start(setup)?;
    let booted = machine.wait_ready(0, BOOT)?;
    Ok((machine, booted))
}

/// A lab stands on its ground: `lab.disk` is the ground's.
impl std::ops::Deref for Lab {
    type Target = Ground;

    fn deref(&self) -> &Ground {
        &self.ground
    }
}

impl Lab {
    /// Makes disk and key, boots the victim, turns swap on, starts the processes.
    ///
    /// # Errors
    /// When any of it fails.
    pub fn new(plan: &Plan) -> Res<Self> {
        Self::boot(plan, Ground::new(plan)?)
    }

    /// Boots the victim on ground that is there.
    ///
    /// # Errors
    /// When any of it fails.
    pub fn boot(plan: &Plan, ground: Ground) -> Res<Self> {
        let mut extra = image_copy(plan, &ground.work)?;
        extra.extend(plan.files.iter().cloned());
        let initramfs = guest::initramfs(&ground.kernel, plan.bus, &extra, &ground.work)?;
        let second = plan.second.then(|| ground.second());
        let setup = Setup::of(&ground.kernel.vmlinuz, &initramfs, &ground.disk, &ground.work);
        let (mut machine, booted) = start_victim(&Setup {
            memory_mib: plan.memory_mib,
            sparse: plan.sparse,
            cpus: plan.cpus,
            crashkernel: &plan.crashkernel,
            bus: plan.bus,
            second: second.as_deref(),
            bad_sector: plan.bad_swap.map(|page| ground.disk.swap.start / 512 + page * 8),
            watchdog: plan.watchdog,
            ..setup
        })?;
        machine.must("swapon /dev/disk/by-partlabel/swap", ORDER)?;
        machine.must("read /dev/disk/by-partlabel/filler1", ORDER)?;
        machine.must("start /bin/victim 0x5eed 256", ORDER)?;
        let said = machine.must("start /bin/victim 0x1badb002 8192", ORDER)?;
        let facts = Facts::parse(&said)?;
        ensure(facts.swapped_kb > 0, format_args!("nothing was swapped out: {said}"))?;
        let map = MemoryMap::parse(&machine.must("cat /proc/iomem", ORDER)?);
        Ok(Self { ground, machine, facts, map, booted, append: plan.append })
    }

    /// What the victim needs before each further crash: its swap and something in it, and
    /// pages in the page cache.
    ///
    /// # Errors
    /// When the guest does not do it.
    pub fn settle(&mut self) -> Res<()> {
        self.machine.must("swapon /dev/disk/by-partlabel/swap", ORDER)?;
        self.machine.must("read /dev/disk/by-partlabel/filler1", ORDER)?;
        self.machine.must("start /bin/victim 0x1badb002 8192", ORDER)?;
        // The reservation is elsewhere at every boot.
        self.map = MemoryMap::parse(&self.machine.must("cat /proc/iomem", ORDER)?);
        Ok(())
    }

    /// Arms the crash kernel in the guest, with `more` arguments.
    ///
    /// # Errors
    /// When the guest does not answer; the exit code is the caller's to judge.
    pub fn try_arm(&mut self, more: &str) -> Res<Answer> {
        let recipient = format!("--recipient {}", self.recipient);
        self.try_arm_for(&recipient, more)
    }

    /// Arms for other recipients: `who` is `--recipient …` or `--site …`.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub fn try_arm_for(&mut self, who: &str, more: &str) -> Res<Answer> {
        let append = self.append;
        let order =
            format!("exec /bin/lifeboat arm --image /image --cmdline-append {append} {who} {more}");
        self.machine.order(&order, ORDER)
    }

    /// Arms it, and that must succeed; gives what `arm` printed.
    ///
    /// # Errors
    /// When `arm` fails.
    pub fn arm(&mut self, more: &str) -> Res<String> {
        let answer = self.try_arm(more)?;
        ensure(answer.code == 0, format_args!("arm ended with {}: {}", answer.code, answer.text))?;
        Ok(answer.text)
    }

    /// Panics the guest and waits for the crash kernel's first console line.
    ///
    /// # Errors
    /// When it does not come.
    pub fn crash(&mut self) -> Res<Crash> {
        let (console, control) = (self.machine.console.mark(), self.machine.control.mark());
        self.machine.send("crash")?;
        let (_, line) =
            self.machine.control.wait(control, ORDER, "the crash", |l| l == "LB crashing")?;
        let (at, first) =
            self.machine.console.wait(console, BOOT, "the crash kernel's first line", |l| {
                l.contains("Linux version ") && l.contains("lifeboat")
            })?;
        Ok(Crash { console: at, control, panicked: line.at, first: first.at })
    }

    /// Stops the machine, copies RAM and swap, and lets it go on. Gives the copies
    /// and how long that took.
    ///
    /// # Errors
    /// When a copy fails.
    pub fn snapshot(&mut self) -> Res<Snapshot> {
        let start = Instant::now();
        self.machine.pause()?;
        let snapshot = Snapshot {
            ram: self.work.join("ram.copy"),
            swap: self.work.join("swap.copy"),
            paused: Duration::ZERO,
        };
        self.machine.save_ram(&snapshot.ram)?;
        self.disk.save(self.disk.swap, &snapshot.swap)?;
        self.machine.resume()?;
        Ok(Snapshot { paused: start.elapsed(), ..snapshot })
    }

    /// Waits for a console line of the crash kernel's PID 1.
    ///
    /// # Errors
    /// When it does not come.
    pub fn wait_console(&self, crash: &Crash, limit: Duration, text: &str) -> Res<Line> {
        let found = self
            .machine
            .console
            .wait(crash.console, limit, &format!("`{text}`"), |l| l.contains(text));
        Ok(found?.1)
    }

    /// Waits until the guest's init runs again, its disk not yet asked for.
    ///
    /// # Errors
    /// When the machine does not come back within `limit`.
    pub fn wait_restart(&self, crash: &Crash, limit: Duration) -> Res<Line> {
        let control = &self.machine.control;
        Ok(control.wait(crash.control, limit, "the next boot", |l| l == "LB booting")?.1)
    }

    /// Waits for the clean boot behind the crash.
    ///
    /// # Errors
    /// When the machine does not come back within `limit`.
    pub fn wait_reboot(&self, crash: &Crash, limit: Duration) -> Res<Line> {
        self.machine.wait_ready(crash.control, limit)
    }

    /// Waits for the end of a capture and the clean boot behind it, each within `limit`;
    /// switches the machine off. Gives the lines that PID 1 wrote, and prints them.
    ///
    /// # Errors
    /// When any of that does not come.
    pub fn come_back(&mut self, crash: &Crash, limit: Duration) -> Res<Vec<String>> {
        self.wait_console(crash, limit, "lifeboat: done after")?;
        self.wait_reboot(crash, limit)?;
        let lines: Vec<String> = self.init_lines(crash).into_iter().map(|l| l.text).collect();
        lines.iter().for_each(|line| println!("{line}"));
        self.power_off()?;
        Ok(lines)
    }

    /// Lines that PID 1 in the crash kernel wrote.
    #[must_use]
    pub fn init_lines(&self, crash: &Crash) -> Vec<Line> {
        let mut lines = self.machine.console.since(crash.console);
        lines.retain(|l| l.text.contains("lifeboat: "));
        lines
    }

    /// Switches the guest off.
    ///
    /// # Errors
    /// When it stays on.
    pub fn power_off(&mut self) -> Res<()> {
        self.machine.send("poweroff")?;
        self.machine.wait_off(BOOT)
    }
}

/// Marks of a crash in the logs.
#[derive(Debug, Clone, Copy)]
pub struct Crash {
    /// Line of the console with the crash kernel's first words.
    pub console: usize,
    /// Place in the control port's log before the crash.
    pub control: usize,
    /// When the guest was told to crash.
    pub panicked: Duration,
    /// When the crash kernel first spoke.
    pub first: Duration,
}

/// Copies of what was there at the crash.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The machine's memory.
    pub ram: PathBuf,
    /// The swap partition.
    pub swap: PathBuf,
    /// How long the machine stood still.
    pub paused: Duration,
}

/// What a host command printed, and its exit code.
#[derive(Debug)]
pub struct Said {
    /// The command line.
    pub command: String,
    /// Exit code, -1 when killed.
    pub code: i32,
    /// Stdout.
    pub out: String,
    /// Stdout and stderr.
    pub all: String,
    /// How long it took.
    pub took: Duration,
}

impl Said {
    /// The exit code must be 0; gives stdout.
    ///
    /// # Errors
    /// When it is not.
    pub fn good(self) -> Res<String> {
        ensure(
            self.code == 0,
            format_args!("`{}` ended with {}:\n{}", self.command, self.code, self.all),
        )?;
        Ok(self.out)
    }
}

/// Runs the host command under test.
///
/// # Errors
/// When it cannot be started.
pub fn host(args: &[&str]) -> Res<Said> {
    let start = Instant::now();
    let output = Command::new(paths::lifeboat()?)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .ctx("lifeboat")?;
    Ok(Said {
        command: format!("lifeboat {}", args.join(" ")),
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        all: both(&output),
        took: start.elapsed(),
    })
}

/// A path as an argument.
#[must_use]
pub fn text(path: &Path) -> String {
    path.display().to_string()
}

/// The `age1…` line that `keygen` leaves in an identity file as a comment.
///
/// # Errors
/// When the file cannot be read or has none.
pub fn public_half(identity: &Path) -> Res<String> {
    let file = fs::read_to_string(identity).ctx(identity.display())?;
    let found = file.split_whitespace().find(|w| w.starts_with("age1"));
    found.map(str::to_owned).ctx("the public key in the identity file")
}

/// The guest's own files of the image, where the plan changes them.
fn image_copy(plan: &Plan, work: &Path) -> Res<Vec<(&'static str, Vec<u8>)>> {
    let image = paths::image()?;
    let mut wanted = plan.profile.to_vec();
    if plan.whole {
        wanted.push(("exclude", "[]"));
    }
    let profile = fs::read_to_string(image.join("board.toml")).ctx("board.toml")?;
    let mut hits = 0;
    let mut changed = String::new();
    let mut list = false;
    for line in profile.lines() {
        // The rest of a list that was replaced.
        if list {
            list = line != "]";
            continue;
        }
        let key = line.split_once(" = ").map_or(line, |(k, _)| k.trim());
        match wanted.iter().find(|(k, _)| *k == key) {
            Some((section, added)) if section.starts_with('[') => {
                hits += 1;
                let _ = writeln!(changed, "{line}\n{added}");
            }
            Some((_, "")) => {
                hits += 1;
                list = line.ends_with(" = [");
            }
            Some((_, value)) => {
                hits += 1;
                list = line.ends_with(" = [");
                let _ = writeln!(changed, "{key} = {value}");
            }
            None => {
                let _ = writeln!(changed, "{line}");
            }
        }
    }
    for (section, added) in wanted.iter().filter(|(k, _)| k.starts_with('[')) {
        if !changed.lines().any(|l| l == *section) {
            hits += 1;
            let _ = writeln!(changed, "\n{section}\n{added}");
        }
    }
    ensure(hits == wanted.len(), "board.toml does not name each changed key once")?;
    let file = work.join("board.toml");
    fs::write(&file, &changed).ctx(file.display())?;
    let sum = run(Command::new("sha256sum").arg(&file))?;
    let sum = sum.split(' ').next().unwrap_or_default();
    let sums = fs::read_to_string(image.join("SHA256SUMS")).ctx("SHA256SUMS")?;
    let sums: String = sums
        .lines()
        .map(|l| {
            if l.ends_with(" board.toml") {
                format!("{sum}  board.toml\n")
            } else {
                format!("{l}\n")
            }
        })
        .collect();
    Ok(vec![("image/board.toml", changed.into_bytes()), ("image/SHA256SUMS", sums.into_bytes())])
}
