//! How the machine ends: reboot, power-off or halt, and what happens if even that hangs.
//!
//! An orderly `reboot(2)` runs every driver's shutdown, which can hang on the
//! very disk that failed. So it gets 15 seconds; then `b` goes to
//! `/proc/sysrq-trigger`, which resets the machine at once
//! (`emergency_restart`, kernel drivers/tty/sysrq.c). Failures skip the orderly way.

use std::fs::File;
use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, Instant};

use lifeboat_format::bootcfg::Action;
use lifeboat_sys::seal;
use nix::sys::reboot::{RebootMode, reboot};

use crate::console::say;

static SYSRQ: OnceLock<File> = OnceLock::new();
static FAILURE: AtomicU8 = AtomicU8::new(0);
/// When the orderly end began.
static ENDING: OnceLock<Instant> = OnceLock::new();
/// Whether the supervisor's thread looks at that.
static WATCHED: AtomicBool = AtomicBool::new(false);

/// How long the orderly end may take.
const ORDERLY: Duration = Duration::from_secs(15);

/// Name of an action for the console.
pub(crate) fn name(action: Action) -> &'static str {
    match action {
        Action::Reboot => "rebooting",
        Action::Poweroff => "powering off",
        Action::Halt => "halting",
    }
}

/// What to do on failure; `Reboot` until the configuration says otherwise.
pub(crate) fn failure_action() -> Action {
    match FAILURE.load(Ordering::Relaxed) {
        1 => Action::Poweroff,
        2 => Action::Halt,
        _ => Action::Reboot,
    }
}

/// Sets what to do on failure.
pub(crate) fn set_failure_action(action: Action) {
    let code = match action {
        Action::Reboot => 0,
        Action::Poweroff => 1,
        Action::Halt => 2,
    };
    FAILURE.store(code, Ordering::Relaxed);
}

/// The ends of the run.
pub(crate) struct Power;

impl Power {
    /// Opens `/proc/sysrq-trigger` while opening files still works.
    pub(crate) fn prepare() {
        match File::options().write(true).open("/proc/sysrq-trigger") {
            Ok(file) => {
                let _ = SYSRQ.set(file);
            }
            Err(e) => say!("no emergency reset ({e}); reboot(2) alone must do"),
        }
    }

    /// Ends the machine in an orderly way, by force if that takes over 15 seconds. That is
    /// seen to by the supervisor, because no thread can be started behind the seal; a run
    /// that failed before there was one starts its own.
    pub(crate) fn end(action: Action) -> ! {
        let _ = ENDING.set(Instant::now());
        if !WATCHED.load(Ordering::Relaxed) {
            let _ = std::thread::Builder::new().name("last-resort".into()).spawn(|| {
                std::thread::sleep(ORDERLY);
                Self::force(Action::Reboot)
            });
        }
        // What the console was told must be out before the UART is reset. With the
        // last resort running, a console that never drains cannot hold us.
        let _ = rustix::termios::tcdrain(std::io::stderr());
        Self::orderly(action);
        Self::force(action)
    }

    /// Called by the supervisor at every turn: forces the end that takes too long.
    pub(crate) fn watch() {
        WATCHED.store(true, Ordering::Relaxed);
        if ENDING.get().is_some_and(|since| since.elapsed() >= ORDERLY) {
            Self::force(Action::Reboot);
        }
    }

    fn orderly(action: Action) {
        let mode = match action {
            Action::Reboot => RebootMode::RB_AUTOBOOT,
            Action::Poweroff => RebootMode::RB_POWER_OFF,
            Action::Halt => RebootMode::RB_HALT_SYSTEM,
        };
        let Err(e) = reboot(mode);
        say!("reboot(2) failed: {e}");
    }

    /// Ends the machine at once, as the configuration says for failures.
    pub(crate) fn give_up() -> ! {
        let action = failure_action();
        say!("{}", name(action));
        Self::force(action)
    }

    /// Ends the machine at once: no driver is asked.
    pub(crate) fn force(action: Action) -> ! {
        let key: &[u8] = match action {
            Action::Reboot => b"b",
            Action::Poweroff => b"o",
            Action::Halt => b"",
        };
        // tcdrain() could hang here for good; 200 ms empty any UART's FIFO.
        std::thread::sleep(Duration::from_millis(200));
        loop {
            if let (Some(mut sysrq), false) = (SYSRQ.get(), key.is_empty()) {
                let _ = sysrq.write_all(key);
                // Power-off by sysrq is done by a worker of the kernel.
                std::thread::sleep(Duration::from_secs(5));
            }
            Self::orderly(action);
            std::thread::sleep(Duration::from_secs(1));
            if let Some(mut sysrq) = SYSRQ.get().filter(|_| action != Action::Halt) {
                let _ = sysrq.write_all(b"b");
            }
        }
    }
}

/// What goes wrong beyond any error value prints one line and ends the machine: a panic
/// of any thread, and memory that is taken behind the seal.
pub(crate) fn install_hooks() {
    std::panic::set_hook(Box::new(|info| {
        let text = info.payload_as_str().unwrap_or("no message");
        let (file, line) = info.location().map_or(("?", 0), |l| (l.file(), l.line()));
        say!("PANIC in PID 1 at {file}:{line}: {text}");
        Power::give_up()
    }));
    seal::on_breach(|bytes| {
        say!("BREACH: {bytes} bytes were allocated behind the seal, a defect of Lifeboat");
        Power::give_up()
    });
}
