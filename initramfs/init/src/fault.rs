//! Faults that tests ask for when arming (`--dangerously-inject-fault`), at the
//! start of a named phase: `panic@memory`, `hang@swap`, `oom@memory`, `alloc@memory`.

use lifeboat_format::bootcfg::BootConfig;
use lifeboat_sys::seal;

use crate::console::say;
use crate::phase::Phase;

/// Does what the configuration asks for in this phase; mostly nothing.
pub(crate) fn inject(config: &BootConfig, phase: Phase) {
    let Some((what, when)) = config.fault.split_once('@') else { return };
    if when != phase.name() {
        return;
    }
    say!("injecting {what} in phase {when}, as ordered");
    match what {
        #[allow(clippy::panic, reason = "this is the panic that the test asks for")]
        "panic" => panic!("ordered by the boot configuration"),
        "hang" => loop {
            std::thread::sleep(std::time::Duration::from_secs(3600));
        },
        "oom" => seal::exhaust(),
        "alloc" => {
            drop(std::hint::black_box(vec![0u8; 4242]));
            say!("memory was allocated, and nobody minded");
        }
        _ => say!("unknown fault `{what}`: ignored"),
    }
}
