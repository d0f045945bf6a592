//! What the builder says while it works: one line a step, with the time since the start.

use std::time::Instant;

/// Prints steps to standard output.
pub(crate) struct Report {
    start: Instant,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now() }
    }

    pub(crate) fn line(&self, step: &str, text: &str) {
        println!("[{:6.1} s] {step:<10} {text}", self.start.elapsed().as_secs_f64());
    }
}

/// A size for people.
pub(crate) fn mib(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(100) >> 20;
    format!("{}.{:02} MiB", tenths / 100, tenths % 100)
}
