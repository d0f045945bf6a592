//! What one input costs: heap by a counting allocator, and wall time.
//!
//! zstd's own memory is C's and not counted; its decompressor takes a fixed 160 KiB.

use std::time::{Duration, Instant};

use peak_alloc::PeakAlloc;

use crate::Target;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// Longest that one input may take in the replay. The fuzzer's own limit is longer,
/// because instrumented code is slower.
pub const MAX_TIME: Duration = Duration::from_secs(5);

/// What one input cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cost {
    /// Most heap at a time beyond what was there before, bytes.
    pub heap: usize,
    /// Wall time.
    pub time: Duration,
}

/// Runs a target on one input.
///
/// # Panics
/// When the target does, or when it took more heap than it may.
#[must_use]
pub fn run(target: &Target, data: &[u8]) -> Cost {
    HEAP.reset_peak_usage();
    let (before, start) = (HEAP.current_usage(), Instant::now());
    (target.run)(data);
    let cost = Cost { heap: HEAP.peak_usage().saturating_sub(before), time: start.elapsed() };
    assert!(
        cost.heap <= target.max_heap,
        "{}: an input of {} bytes took {} bytes of heap, more than {}",
        target.name,
        data.len(),
        cost.heap,
        target.max_heap
    );
    cost
}
