//! PID 1 of the crash kernel: takes the dump and restarts the machine.
//!
//! It never returns. It runs phases in a fixed order ([`phase::Phase`]), prints
//! one plain line for each, and whatever goes wrong ends in the profile's
//! failure action: by an error, by the panic hook, by the supervisor thread when
//! the deadline passes, by a hardware watchdog when nothing moves, and by
//! `panic=` on the command line when the kernel itself gives up. It refuses to
//! write to a volume whose guard does not hold, and to trust anything that it
//! reads from old memory.
#![forbid(unsafe_code)]

mod capture;
mod config;
mod console;
mod cost;
mod devices;
mod fault;
mod head;
mod led;
mod limits;
mod mounts;
mod pages;
mod phase;
mod places;
mod pool;
mod power;
mod supervisor;
mod swap;
mod target;

use lifeboat_engine::EngineError;
use lifeboat_format::bootcfg::BootConfig;
use lifeboat_sys::{Sealing, seal};

use console::say;
use led::StatusLed;
use phase::{Journal, Phase};
use power::Power;
use supervisor::Supervisor;

/// Sealed when the pages begin: what runs from then on has all the memory that it needs.
#[global_allocator]
static HEAP: Sealing = Sealing;

fn main() -> ! {
    seal::lean();
    let journal = Journal::start();
    power::install_hooks();
    say!("Lifeboat {} in the crash kernel", env!("CARGO_PKG_VERSION"));
    let result = run(&journal);
    match &result {
        Ok(action) => {
            say!("done after {} ms: {}", journal.elapsed_ms(), power::name(*action));
            Power::end(*action)
        }
        Err(why) => {
            say!("FAILED in phase {}: {}", journal.phase().name(), why);
            let action = power::failure_action();
            say!("after {} ms: {}", journal.elapsed_ms(), power::name(action));
            Power::end(action)
        }
    }
}

/// A failure that ends the run before the first page. Its text is one console line (or a
/// few).
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A failure that ends the run.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("{0}")]
    Early(Failure),
    /// Behind the seal: nothing in it was allocated for it.
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("a worker failed")]
    Worker,
}

impl From<Failure> for End {
    fn from(why: Failure) -> Self {
        Self::Early(why)
    }
}

fn run(journal: &Journal) -> Result<lifeboat_format::bootcfg::Action, End> {
    let (supervisor, config, led) = begin(journal)?;
    capture::run(&config, journal, &supervisor)?;
    led.set(false);
    Ok(config.action)
}

/// Up to the first word of the configuration.
fn begin(journal: &Journal) -> Result<(Supervisor, Box<BootConfig>, StatusLed), Failure> {
    journal.enter(Phase::Mounts);
    mounts::mount_all()?;
    Power::prepare();
    cost::prepare();
    let supervisor = Supervisor::start(journal)?;
    let config = config::load()?;
    power::set_failure_action(config.failure);
    supervisor.set_deadline(config.deadline_s);
    supervisor.start_watchdog(&config);
    let led = StatusLed::open(config.led.as_ref());
    led.set(true);
    say!(
        "mounts: board {}, deadline {} s, watchdog {}",
        config.board,
        config.deadline_s,
        supervisor.watchdog_text()
    );
    fault::inject(&config, Phase::Mounts);
    Ok((supervisor, config, led))
}
