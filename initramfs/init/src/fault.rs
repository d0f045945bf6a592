//! Faults that tests ask for when arming (`--dangerously-inject-fault`), at the
//! start of a named phase: `panic@memory`, `hang@swap`, `oom@memory`.

use lifeboat_format::bootcfg::BootConfig;

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
        "oom" => exhaust(),
        _ => say!("unknown fault `{what}`: ignored"),
    }
}

/// Takes all memory, so that the kernel has to give up.
fn exhaust() {
    let mut hoard: Vec<Vec<u8>> = Vec::new();
    loop {
        hoard.push(vec![0xa5; 1 << 20]);
    }
}
