//! The fuzzer: libFuzzer's `main` around the target that `LIFEBOAT_FUZZ_TARGET` names;
//! `list` prints all of them, each with its longest input and its bound on heap, bytes.
//! Built and run by `scripts/fuzz.sh`.
#![no_main]
#![forbid(unsafe_code)]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use lifeboat_fuzz::{TARGETS, Target, measure, target};

/// The target, looked up once.
fn chosen() -> &'static Target {
    static CHOSEN: OnceLock<&'static Target> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        let name = std::env::var("LIFEBOAT_FUZZ_TARGET").unwrap_or_default();
        if name == "list" {
            for t in TARGETS {
                println!("{} {} {}", t.name, t.max_len, t.max_heap);
            }
            std::process::exit(0);
        }
        target(&name).unwrap_or_else(|| {
            let known: Vec<_> = TARGETS.iter().map(|t| t.name).collect();
            eprintln!("`{name}` is no target\nhint: set LIFEBOAT_FUZZ_TARGET to one of {known:?}");
            std::process::exit(2)
        })
    })
}

fuzz_target!(
    // Before libFuzzer takes an exit for a finding.
    init: {
        chosen();
    },
    |data: &[u8]| {
        let _ = measure::run(chosen(), data);
    }
);
