//! Phases and their times.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

pub(crate) use lifeboat_format::PhaseId as Phase;
use lifeboat_format::commit::MAX_PHASES;

/// How long a phase may take, in seconds; `None` for those that take as long as there
/// are bytes and are held by the deadline of the whole run. Each is many times what
/// the phase takes on a healthy machine, so that only a hang meets it.
pub(crate) fn limit_s(phase: Phase, device_wait_s: u32) -> Option<u32> {
    match phase {
        Phase::Kernel | Phase::Mounts => Some(60),
        Phase::Devices => Some(device_wait_s.saturating_add(60)),
        Phase::Sources | Phase::Guard => Some(60),
        Phase::Head | Phase::Commit => Some(120),
        Phase::Memory | Phase::Swap => None,
    }
}

/// Which phase runs, since when, and how long the others took.
pub(crate) struct Journal {
    start: Instant,
    kernel_ms: u32,
    phase: AtomicU8,
    entered_ms: AtomicU64,
    times: [AtomicU32; MAX_PHASES],
    /// Counts anything that shows that the capture goes on.
    progress: AtomicU64,
}

impl Journal {
    /// Starts the clock. The kernel's own time is what CLOCK_MONOTONIC shows now.
    pub(crate) fn start() -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let kernel_ms = u64::try_from(now.tv_sec).unwrap_or(0) * 1000
            + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000;
        Self {
            start: Instant::now(),
            kernel_ms: u32::try_from(kernel_ms).unwrap_or(u32::MAX),
            phase: AtomicU8::new(Phase::Kernel as u8),
            entered_ms: AtomicU64::new(0),
            times: [const { AtomicU32::new(0) }; MAX_PHASES],
            progress: AtomicU64::new(0),
        }
    }

    /// Milliseconds since PID 1 started.
    pub(crate) fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The phase that runs.
    pub(crate) fn phase(&self) -> Phase {
        Phase::from_u8(self.phase.load(Ordering::Relaxed)).unwrap_or(Phase::Kernel)
    }

    /// Ends the phase that runs and begins another.
    pub(crate) fn enter(&self, phase: Phase) {
        self.close();
        self.phase.store(phase as u8, Ordering::Relaxed);
        self.moved(1);
    }

    fn close(&self) {
        let now = self.elapsed_ms();
        let since = self.entered_ms.swap(now, Ordering::Relaxed);
        let spent = u32::try_from(now.saturating_sub(since)).unwrap_or(u32::MAX);
        let phase = self.phase.load(Ordering::Relaxed);
        if let Some(slot) = self.times.get(usize::from(phase)) {
            slot.fetch_add(spent, Ordering::Relaxed);
        }
    }

    /// Milliseconds since the phase that runs was entered.
    pub(crate) fn phase_ms(&self) -> u64 {
        self.elapsed_ms().saturating_sub(self.entered_ms.load(Ordering::Relaxed))
    }

    /// Says that something went forward.
    pub(crate) fn moved(&self, by: u64) {
        self.progress.fetch_add(by, Ordering::Relaxed);
    }

    /// The counter behind [`Journal::moved`].
    pub(crate) fn progress(&self) -> u64 {
        self.progress.load(Ordering::Relaxed)
    }

    /// Times of all phases so far, for the commit record.
    pub(crate) fn times(&self) -> [(u8, u32); MAX_PHASES] {
        let running = self.phase.load(Ordering::Relaxed);
        let mut out = [(0u8, 0u32); MAX_PHASES];
        let ids = (1..=u8::MAX).map_while(Phase::from_u8);
        for (to, id) in out.iter_mut().zip(ids) {
            let id = id as u8;
            let mut ms = self.times.get(usize::from(id)).map_or(0, |t| t.load(Ordering::Relaxed));
            if id == Phase::Kernel as u8 {
                ms = self.kernel_ms;
            }
            if id == running {
                ms = ms.saturating_add(u32::try_from(self.phase_ms()).unwrap_or(u32::MAX));
            }
            *to = (id, ms);
        }
        out
    }
}
