//! A thread that holds the deadlines, of the run and of each phase, and feeds the watchdog.
//!
//! It touches no disk and takes no lock that the capture holds, so it runs on
//! when the capture hangs. At every turn it looks at the machine's memory too.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lifeboat_format::bootcfg::{BootConfig, Watchdog as Choice};
use lifeboat_sys::watchdog::Watchdog;

use crate::console::say;
use crate::cost;
use crate::phase::{self, Journal, Phase};
use crate::power::Power;

/// Until the configuration is read: reading it takes well under a second.
const EARLY_DEADLINE_MS: u64 = 120_000;
const TICK: Duration = Duration::from_millis(200);
/// Bytes of the thread's stack.
const STACK: usize = 128 << 10;

struct Shared {
    start: Instant,
    deadline_ms: AtomicU64,
    /// The phase that runs, and when it must be over; `u64::MAX` for no limit of its own.
    phase: AtomicU8,
    phase_deadline_ms: AtomicU64,
    progress: AtomicU64,
    watchdog: Mutex<Option<Watchdog>>,
}

impl Shared {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Handle of the supervisor.
pub(crate) struct Supervisor {
    shared: Arc<Shared>,
}

impl Supervisor {
    /// Starts the thread.
    pub(crate) fn start(journal: &Journal) -> Result<Self, std::io::Error> {
        let shared = Arc::new(Shared {
            start: Instant::now(),
            deadline_ms: AtomicU64::new(EARLY_DEADLINE_MS),
            phase: AtomicU8::new(journal.phase() as u8),
            phase_deadline_ms: AtomicU64::new(u64::MAX),
            progress: AtomicU64::new(journal.progress()),
            watchdog: Mutex::new(None),
        });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("supervisor".into()).stack_size(STACK);
        thread.spawn(move || watch(&theirs))?;
        Ok(Self { shared })
    }

    /// Sets the deadline of the whole run, in seconds from the start.
    pub(crate) fn set_deadline(&self, seconds: u32) {
        self.shared.deadline_ms.store(u64::from(seconds) * 1000, Ordering::Relaxed);
    }

    /// Begins a phase, with its limit.
    pub(crate) fn enter(&self, journal: &Journal, phase: Phase, config: &BootConfig) {
        journal.enter(phase);
        let limit = phase::limit_s(phase, config.device_wait_s);
        let until = limit.map_or(u64::MAX, |s| self.shared.now_ms() + u64::from(s) * 1000);
        self.shared.phase.store(phase as u8, Ordering::Relaxed);
        self.shared.phase_deadline_ms.store(until, Ordering::Relaxed);
        self.moved(journal, 1);
    }

    /// Milliseconds that are left before the capture must come to its end, so that
    /// committing it still fits: a tenth of the deadline, at most 60 s, is kept for that.
    pub(crate) fn capture_ms_left(&self) -> u64 {
        let deadline = self.shared.deadline_ms.load(Ordering::Relaxed);
        let tail = (deadline / 10).min(60_000);
        deadline.saturating_sub(tail).saturating_sub(self.shared.now_ms())
    }

    /// Nanoseconds since the start, by a clock that may be calibrated badly.
    pub(crate) fn nanos(&self) -> u64 {
        u64::try_from(self.shared.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Passes on that something moved: the watchdog is fed only then.
    pub(crate) fn moved(&self, journal: &Journal, by: u64) {
        journal.moved(by);
        self.shared.progress.store(journal.progress(), Ordering::Relaxed);
    }

    /// Starts the watchdog that the configuration asks for.
    pub(crate) fn start_watchdog(&self, config: &BootConfig) {
        let path = match &config.watchdog {
            Choice::None => None,
            Choice::Auto => find_watchdog(),
            Choice::Device(path) => Some(PathBuf::from(path.as_str())),
        };
        let Some(path) = path else { return };
        match Watchdog::start(&path, config.watchdog_timeout_s) {
            Ok(dog) => {
                if let Ok(mut slot) = self.shared.watchdog.lock() {
                    *slot = Some(dog);
                }
            }
            Err(e) => say!("watchdog {}: {e}; going on without it", path.display()),
        }
    }

    /// For the console.
    pub(crate) fn watchdog_text(&self) -> String {
        match self.shared.watchdog.lock().ok().and_then(|w| w.as_ref().map(Watchdog::timeout_s)) {
            Some(seconds) => format!("{seconds} s"),
            None => "none".to_owned(),
        }
    }
}

/// The first watchdog that is hardware, else the first at all.
fn find_watchdog() -> Option<PathBuf> {
    let mut names: Vec<_> =
        std::fs::read_dir("/sys/class/watchdog").ok()?.flatten().map(|e| e.file_name()).collect();
    names.sort();
    let is_hardware = |name: &std::ffi::OsString| {
        let file = Path::new("/sys/class/watchdog").join(name).join("identity");
        std::fs::read_to_string(file).is_ok_and(|id| !id.contains("Software"))
    };
    let best = names.iter().find(|n| is_hardware(n)).or(names.first())?;
    Some(Path::new("/dev").join(best))
}

fn watch(shared: &Shared) {
    let mut fed_at = u64::MAX;
    let mut last_feed = Instant::now();
    loop {
        Power::watch();
        std::thread::sleep(TICK);
        cost::look();
        let now = shared.now_ms();
        if now >= shared.deadline_ms.load(Ordering::Relaxed) {
            say!("DEADLINE: {now} ms since the start and not done");
            Power::give_up();
        }
        if now >= shared.phase_deadline_ms.load(Ordering::Relaxed) {
            let phase = Phase::from_u8(shared.phase.load(Ordering::Relaxed));
            say!("DEADLINE: phase {} hangs", phase.map_or("?", Phase::name));
            Power::give_up();
        }
        let progress = shared.progress.load(Ordering::Relaxed);
        if progress != fed_at && last_feed.elapsed() >= Duration::from_secs(1) {
            fed_at = progress;
            last_feed = Instant::now();
            if let Ok(dog) = shared.watchdog.lock()
                && let Some(dog) = dog.as_ref()
            {
                let _ = dog.feed();
            }
        }
    }
}
