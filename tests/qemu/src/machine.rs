//! One virtual machine: QEMU without KVM, its RAM in a file, two serial ports
//! (the kernel's console and the host's orders) and a QMP socket.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::console::{Console, Line};
use crate::disk::{Disk, copy_sparse};
use crate::error::{Context as _, Failure, Res, ensure};
use crate::paths::{Scrap, sweep};
use crate::qmp::{Qmp, connect};

/// How the disk hangs on the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    /// virtio-blk on PCI, two queues (a poll queue needs the second).
    Virtio,
    /// NVMe.
    Nvme,
    /// SATA on q35's own AHCI.
    Ahci,
}

impl Bus {
    /// Modules the victim may have to load; those built in are skipped.
    #[must_use]
    pub fn modules(self) -> &'static [&'static str] {
        match self {
            Self::Virtio => &["virtio_pci", "virtio_blk"],
            Self::Nvme => &["nvme"],
            // The checksums are asked for by name when sd_mod starts.
            Self::Ahci => &["crct10dif_generic", "crc64_rocksoft_generic", "ahci", "sd_mod"],
        }
    }

    fn device(self) -> &'static str {
        match self {
            Self::Virtio => "virtio-blk-pci,id=disk,drive=d0,num-queues=2",
            Self::Nvme => "nvme,id=disk,drive=d0,serial=lifeboat",
            Self::Ahci => "ide-hd,id=disk,drive=d0,bus=ide.0",
        }
    }
}

/// What to start.
#[derive(Debug)]
pub struct Setup<'a> {
    /// The victim kernel.
    pub vmlinuz: &'a Path,
    /// Its initramfs.
    pub initramfs: &'a Path,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Whether that memory is QEMU's own and not a file: larger than the host's, as long
    /// as the guest does not touch it. It cannot be copied.
    pub sparse: bool,
    /// Its CPUs.
    pub cpus: u32,
    /// Size of the crash kernel's reservation, as `crashkernel=` takes it.
    pub crashkernel: &'a str,
    /// How the disk is attached.
    pub bus: Bus,
    /// The disk.
    pub disk: &'a Disk,
    /// A second disk on virtio, which [`Machine::kill_second`] can make die.
    pub second: Option<&'a Path>,
    /// File that logs every write and flush to the disk (see [`crate::writelog`]).
    pub log: Option<&'a Path>,
    /// A stopped machine to go on with; nothing is booted then.
    pub saved: Option<&'a Saved>,
    /// A sector of the disk that cannot be read, of 512 bytes; not together with `log`.
    pub bad_sector: Option<u64>,
    /// Whether the machine has an i6300esb watchdog that resets it.
    pub watchdog: bool,
    /// Folder for logs and sockets.
    pub work: &'a Path,
}

impl<'a> Setup<'a> {
    /// A machine like those of most tests: 1 GiB, 2 CPUs, a reservation of 64 MiB, one
    /// virtio disk.
    #[must_use]
    pub fn of(vmlinuz: &'a Path, initramfs: &'a Path, disk: &'a Disk, work: &'a Path) -> Self {
        Self {
            vmlinuz,
            initramfs,
            memory_mib: 1024,
            sparse: false,
            cpus: 2,
            crashkernel: "64M",
            bus: Bus::Virtio,
            disk,
            second: None,
            log: None,
            saved: None,
            bad_sector: None,
            watchdog: false,
            work,
        }
    }
}

/// A machine that was stopped, without its disk: memory and the state of all devices.
#[derive(Debug, Clone)]
pub struct Saved {
    /// The machine's memory.
    pub ram: PathBuf,
    /// QEMU's migration stream.
    pub state: PathBuf,
}

/// A running machine; dropped, it is killed.
#[derive(Debug)]
pub struct Machine {
    child: Child,
    qmp: Qmp,
    orders: UnixStream,
    /// `None` where memory is in no file.
    ram: Option<Scrap>,
    ram_bytes: u64,
    /// The first serial port: victim's kernel, crash kernel and its PID 1.
    pub console: Console,
    /// The second serial port: the guest's answers.
    pub control: Console,
    /// When it was started.
    pub start: Instant,
}

/// What a program in the guest printed, and its exit code.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Exit code; 128 + signal if it was killed.
    pub code: i32,
    /// Stdout and stderr.
    pub text: String,
}

impl Machine {
    /// Starts QEMU. The machine runs at once.
    ///
    /// # Errors
    /// When QEMU does not start.
    pub fn start(setup: &Setup<'_>) -> Res<Self> {
        let work = setup.work;
        ensure(
            setup.log.is_none() || setup.bad_sector.is_none(),
            "a disk cannot be logged and have a bad sector",
        )?;
        let ram_bytes = setup.memory_mib << 20;
        let ram = (!setup.sparse).then(|| Scrap(ram_file(work, ram_bytes)));
        if let (Some(saved), Some(ram)) = (setup.saved, &ram) {
            copy_sparse(&saved.ram, 0, ram_bytes, &ram.0)?;
        }
        let (qmp, serial) = (work.join("qmp.sock"), work.join("control.sock"));
        for old in [&qmp, &serial] {
            let _ = fs::remove_file(old);
        }
        let errors = File::create(work.join("qemu.log")).ctx("qemu.log")?;
        let mut command = qemu(setup, ram.as_ref().map(|r| &*r.0));
        command
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", qmp.display()))
            .arg("-serial")
            .arg("stdio")
            .arg("-serial")
            .arg(format!("unix:{},server=on,wait=on", serial.display()));
        let start = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .ctx("qemu-system-x86_64\nhint: scripts/bootstrap.sh")?;
        let output = child.stdout.take().ctx("QEMU's output")?;
        let log = |name: &str| File::create(work.join(name)).ctx(name);
        let orders = connect(&serial)?;
        let answers = orders.try_clone().ctx("the second serial port")?;
        let mut machine = Self {
            qmp: Qmp::connect(&qmp)?,
            console: Console::follow("console", start, output, log("console.log")?),
            control: Console::follow("control port", start, answers, log("control.log")?),
            orders,
            child,
            ram,
            ram_bytes,
            start,
        };
        if let Some(saved) = setup.saved {
            machine.restore(&saved.state)?;
        }
        Ok(machine)
    }

    /// Takes over a saved machine; it stands still until [`Machine::resume`].
    fn restore(&mut self, state: &Path) -> Res<()> {
        self.share_ram()?;
        let from = json!({ "uri": format!("exec:cat '{}'", state.display()) });
        self.qmp.run("migrate-incoming", from)?;
        self.await_status("query-status", &["paused"])
    }

    /// Memory lies in a file: it is not to be in the stream too.
    fn share_ram(&mut self) -> Res<()> {
        let capability = json!({ "capability": "x-ignore-shared", "state": true });
        let all = json!({ "capabilities": [capability] });
        self.qmp.run("migrate-set-capabilities", all).map(drop)
    }

    fn await_status(&mut self, query: &str, wanted: &[&str]) -> Res<()> {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let now = self.qmp.run(query, json!({}))?;
            let status = now.get("status").and_then(Value::as_str).unwrap_or("none").to_owned();
            if wanted.contains(&status.as_str()) {
                return Ok(());
            }
            ensure(
                status != "failed" && Instant::now() < end,
                format_args!("{query}: {now}, and not {wanted:?}"),
            )?;
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops the machine for good and keeps its memory and the state of its devices in
    /// `dir`; the disk is left as it is.
    ///
    /// # Errors
    /// When QEMU refuses, or a file fails.
    pub fn save(mut self, dir: &Path) -> Res<Saved> {
        let saved = Saved { ram: dir.join("saved.ram"), state: dir.join("saved.state") };
        self.pause()?;
        self.share_ram()?;
        let to = json!({ "uri": format!("exec:cat > '{}'", saved.state.display()) });
        self.qmp.run("migrate", to)?;
        self.await_status("query-migrate", &["completed"])?;
        self.save_ram(&saved.ram)?;
        Ok(saved)
    }

    /// Makes the second disk die: from now on, every request to it fails.
    ///
    /// # Errors
    /// When QEMU refuses.
    pub fn kill_second(&mut self) -> Res<()> {
        // blkdebug changes its state at a write of zeros, which no guest here sends.
        // What it prints goes to the console; that the disk is dead shows in the capture.
        let zeros = json!({ "command-line": "qemu-io d1 \"write -z 0 4k\"" });
        self.qmp.run("human-monitor-command", zeros).map(drop)
    }

    /// Kills QEMU with a signal that it cannot catch, as a power cut would.
    ///
    /// # Errors
    /// When it is gone already.
    pub fn cut_power(&mut self) -> Res<()> {
        self.child.kill().ctx("QEMU")?;
        self.child.wait().ctx("QEMU").map(drop)
    }

    /// Waits until the guest's init is ready, from line `mark` of the control port on.
    ///
    /// # Errors
    /// When it is not within `limit`.
    pub fn wait_ready(&self, mark: usize, limit: Duration) -> Res<Line> {
        let found =
            self.control.wait(mark, limit, "the guest's init", |l| l.starts_with("LB ready"));
        Ok(found?.1)
    }

    /// Gives the guest an order and waits for its end.
    ///
    /// # Errors
    /// When there is no answer within `limit`.
    pub fn order(&mut self, order: &str, limit: Duration) -> Res<Answer> {
        let mark = self.control.mark();
        self.send(order)?;
        let (end, line) =
            self.control.wait(mark, limit, &format!("the end of `{order}`"), |l| {
                l.starts_with("LB exit ")
            })?;
        let lines = self.control.since(mark);
        let text: String = lines.iter().take(end - mark).map(|l| format!("{}\n", l.text)).collect();
        let code = line.text.rsplit(' ').next().and_then(|n| n.parse().ok()).unwrap_or(-1);
        Ok(Answer { code, text })
    }

    /// Like [`Machine::order`], and the exit code must be 0; gives the output.
    ///
    /// # Errors
    /// When it is not.
    pub fn must(&mut self, order: &str, limit: Duration) -> Res<String> {
        let answer = self.order(order, limit)?;
        ensure(
            answer.code == 0,
            format_args!("in the guest, `{order}` ended with {}:\n{}", answer.code, answer.text),
        )?;
        Ok(answer.text)
    }

    /// Sends an order without waiting for an answer.
    ///
    /// # Errors
    /// When QEMU is gone.
    pub fn send(&mut self, order: &str) -> Res<()> {
        writeln!(self.orders, "{order}").ctx("the second serial port")
    }

    /// Stops the machine's CPUs.
    ///
    /// # Errors
    /// When QEMU refuses.
    pub fn pause(&mut self) -> Res<()> {
        self.qmp.run("stop", json!({})).map(drop)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When QEMU refuses.
    pub fn resume(&mut self) -> Res<()> {
        self.qmp.run("cont", json!({})).map(drop)
    }

    /// Lets the disk do at most this many bytes a second; 0: as fast as it can.
    ///
    /// # Errors
    /// When QEMU refuses.
    pub fn throttle(&mut self, bytes_per_second: u64) -> Res<()> {
        let limits = json!({ "device": "d0", "bps": bytes_per_second, "bps_rd": 0, "bps_wr": 0,
            "iops": 0, "iops_rd": 0, "iops_wr": 0 });
        self.qmp.run("block_set_io_throttle", limits).map(drop)
    }

    /// The file that is the machine's memory; it goes with the machine.
    ///
    /// # Errors
    /// When its memory is in no file.
    pub fn ram(&self) -> Res<&Path> {
        self.ram.as_ref().map(|r| &*r.0).ctx("the memory of a sparse machine is in no file")
    }

    /// Asks the guest for memory, so that it keeps no more than this many bytes.
    ///
    /// # Errors
    /// When QEMU refuses, or the guest does not do it within a minute.
    pub fn balloon(&mut self, keep: u64) -> Res<()> {
        self.qmp.run("balloon", json!({ "value": keep }))?;
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let now = self.qmp.run("query-balloon", json!({}))?;
            if now.get("actual").and_then(Value::as_u64).is_some_and(|a| a <= keep) {
                return Ok(());
            }
            ensure(Instant::now() < end, format_args!("the balloon stays small: {now}"))?;
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Copies the machine's memory to a file, holes kept.
    ///
    /// # Errors
    /// When a file fails, or the memory is in none.
    pub fn save_ram(&self, to: &Path) -> Res<()> {
        copy_sparse(self.ram()?, 0, self.ram_bytes, to)
    }

    /// Waits for QEMU to end, which it does at a power-off.
    ///
    /// # Errors
    /// When it still runs after `limit`.
    pub fn wait_off(&mut self, limit: Duration) -> Res<()> {
        let end = Instant::now() + limit;
        while Instant::now() < end {
            if self.child.try_wait().ctx("QEMU")?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err(Failure::check(format_args!("the machine is still on after {} s", limit.as_secs())))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// RAM in memory where there is room for it, the tests' own needs and a second machine.
fn ram_file(work: &Path, bytes: u64) -> PathBuf {
    let room = rustix::fs::statvfs("/dev/shm").map_or(0, |s| s.f_bavail * s.f_frsize);
    sweep("lifeboat");
    if room >= 3 * bytes && bytes <= 2 << 30 {
        let name = work.file_name().unwrap_or_default().to_string_lossy().into_owned();
        return Path::new("/dev/shm").join(format!("lifeboat-{}-{name}", std::process::id()));
    }
    work.join("ram")
}

fn qemu(setup: &Setup<'_>, ram: Option<&Path>) -> Command {
    let mib = setup.memory_mib;
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-nodefaults", "-display", "none", "-accel", "tcg", "-cpu", "max"]).args([
        "-smp",
        &setup.cpus.to_string(),
        "-m",
        &format!("{mib}M"),
    ]);
    let backend = match ram {
        // Not reserved: the host need not have as much.
        None => format!("memory-backend-ram,id=ram,size={mib}M,reserve=off"),
        Some(path) => {
            let path = path.display();
            format!("memory-backend-file,id=ram,size={mib}M,share=on,mem-path={path}")
        }
    };
    command
        .args(["-machine", "q35,memory-backend=ram", "-object", &backend])
        .arg("-drive")
        .arg(first_drive(setup))
        .args(["-device", setup.bus.device()])
        .arg("-kernel")
        .arg(setup.vmlinuz)
        .arg("-initrd")
        .arg(setup.initramfs)
        .arg("-append")
        .arg(format!(
            "console=ttyS0 loglevel=4 crashkernel={} panic=30 init_on_alloc=0",
            setup.crashkernel
        ));
    if let Some(path) = setup.second {
        command.arg("-drive").arg(second_drive(path));
        command.args(["-device", "virtio-blk-pci,id=second,drive=d1,num-queues=2"]);
    }
    // A guest that has its driver gives memory back when it is told to.
    command.args(["-device", "virtio-balloon-pci,id=balloon"]);
    if setup.watchdog {
        command.args(["-device", "i6300esb", "-action", "watchdog=reset"]);
    }
    if setup.saved.is_some() {
        command.args(["-incoming", "defer"]);
    }
    command
}

fn first_drive(setup: &Setup<'_>) -> String {
    let path = setup.disk.path.display();
    match (setup.log, setup.bad_sector) {
        (None, None) => format!("if=none,id=d0,format=raw,file={path},throttling.bps-total=0"),
        (None, Some(sector)) => format!(
            "if=none,id=d0,format=raw,file.driver=blkdebug,file.image.driver=file,\
             file.image.filename={path},file.inject-error.0.event=none,\
             file.inject-error.0.iotype=read,file.inject-error.0.sector={sector},\
             file.inject-error.0.errno=5,file.inject-error.0.once=off"
        ),
        (Some(log), _) => format!(
            "if=none,id=d0,driver=blklogwrites,log-sector-size=512,file.driver=file,\
             file.filename={path},log.driver=file,log.filename={}",
            log.display()
        ),
    }
}

/// A raw disk under blkdebug: a write of zeros takes it to state 2, and from the next
/// write there on everything fails with EIO.
fn second_drive(path: &Path) -> String {
    format!(
        "if=none,id=d1,format=raw,file.driver=blkdebug,file.image.driver=file,\
         file.image.filename={},file.set-state.0.event=pwritev_zero,file.set-state.0.state=1,\
         file.set-state.0.new_state=2,file.inject-error.0.event=pwritev,\
         file.inject-error.0.state=2,file.inject-error.0.errno=5,file.inject-error.0.once=off",
        path.display()
    )
}
