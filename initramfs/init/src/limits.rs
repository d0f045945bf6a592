//! How a disk likes its requests: from its queue's limits in sysfs
//! (`Documentation/ABI/stable/sysfs-block`) to a size and a number of buffers.
//!
//! It reads and reckons; it opens no device.

use std::path::Path;

use lifeboat_format::PAGE;
use lifeboat_sys::QueueMode;

/// What a request may be, from `/sys/class/block/DISK/queue`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Bytes of a request, and of a stripe that none may cross.
    bytes: usize,
    /// Pieces of memory in a request.
    segments: usize,
    /// Requests that the block layer keeps.
    requests: usize,
    /// Whether the block layer polls this disk.
    poll: bool,
}

/// Buffers for one queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// How many.
    pub(crate) depth: usize,
    /// Bytes of each, whole pages.
    pub(crate) len: usize,
}

/// Most bytes of a write. Half a MiB keeps every disk at its full rate, and more of them
/// in flight do a disk more good than larger ones.
const MOST: usize = 512 << 10;
/// The block layer caps the queues of a kdump kernel here (`blk_mq_alloc_tag_set()`,
/// block/blk-mq.c).
const KDUMP_REQUESTS: usize = 64;

impl Default for Limits {
    /// What any disk can do.
    fn default() -> Self {
        Self { bytes: 128 << 10, segments: 32, requests: 32, poll: false }
    }
}

impl Limits {
    /// Those of `disk`. What sysfs does not say is taken to be small.
    pub(crate) fn of(disk: &str) -> Self {
        let queue = Path::new("/sys/class/block").join(disk).join("queue");
        Self::read(&queue)
    }

    fn read(queue: &Path) -> Self {
        let number = |name: &str| -> Option<usize> {
            std::fs::read_to_string(queue.join(name)).ok()?.trim().parse().ok()
        };
        let known = Self::default();
        let bytes = |name| number(name).map_or(known.bytes, |kib| kib.max(4) << 10);
        // In sectors of 512 bytes; 0 for none.
        let stripe = number("chunk_sectors").filter(|n| *n > 0).map_or(usize::MAX, |n| n << 9);
        Self {
            bytes: bytes("max_sectors_kb").min(bytes("max_hw_sectors_kb")).min(stripe),
            segments: number("max_segments").map_or(known.segments, |n| n.max(1)),
            requests: number("nr_requests").unwrap_or(known.requests).clamp(2, KDUMP_REQUESTS),
            // Without poll queues IOPOLL completes by interrupt on some kernels and fails
            // on others (commit 73e59d3eeca4).
            poll: number("io_poll") == Some(1),
        }
    }

    /// The best way that the disk has.
    pub(crate) fn mode(&self) -> QueueMode {
        if self.poll { QueueMode::Polled } else { QueueMode::Uring }
    }

    /// What does for both disks: buffers are theirs in turns.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.min(other.bytes),
            segments: self.segments.min(other.segments),
            requests: self.requests.min(other.requests),
            poll: self.poll && other.poll,
        }
    }

    /// Buffers of `budget` bytes in all, none over `most`: each can be one request. The
    /// pages of a buffer may lie all apart, so that each is a segment; and a request that
    /// has to be split is not polled any more (`bio_split_rw()`, block/blk-merge.c, calls
    /// `bio_clear_polled()`). Powers of two, for stripes and erase blocks are such.
    pub(crate) fn shape(&self, budget: usize, most: usize) -> Shape {
        // At least four at a time: one is filled, one is done, and two keep the disk busy.
        let len = self.bytes.min(self.segments * PAGE).min(most).min(budget / 4).max(PAGE);
        let len = 1 << len.ilog2();
        Shape { depth: (budget / len).clamp(2, self.requests), len }
    }

    /// For writes.
    pub(crate) fn writes(&self, budget: usize) -> Shape {
        self.shape(budget, MOST)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that fails shall panic")]

    use super::*;

    fn limits(files: &[(&str, &str)]) -> Limits {
        let dir = std::env::temp_dir().join(format!("lifeboat-limits-{:p}", files));
        std::fs::create_dir_all(&dir).unwrap();
        for (name, value) in files {
            std::fs::write(dir.join(name), format!("{value}\n")).unwrap();
        }
        let limits = Limits::read(&dir);
        std::fs::remove_dir_all(&dir).unwrap();
        limits
    }

    /// What real queues say, and what becomes of it.
    #[test]
    fn a_request_fits_the_queue() {
        let kib = |n: usize| n << 10;
        for (disk, files, depth, len) in [
            (
                "NVMe in QEMU",
                [("max_sectors_kb", "512"), ("max_hw_sectors_kb", "512"), ("max_segments", "127")],
                12,
                kib(256),
            ),
            (
                "virtio-blk",
                [
                    ("max_sectors_kb", "1280"),
                    ("max_hw_sectors_kb", "2147483647"),
                    ("max_segments", "254"),
                ],
                6,
                kib(512),
            ),
            (
                "AHCI",
                [
                    ("max_sectors_kb", "1280"),
                    ("max_hw_sectors_kb", "32767"),
                    ("max_segments", "168"),
                ],
                6,
                kib(512),
            ),
            (
                "a small controller",
                [("max_sectors_kb", "32"), ("max_hw_sectors_kb", "32"), ("max_segments", "4")],
                64,
                kib(16),
            ),
        ] {
            let limits = limits(&[&files[..], &[("nr_requests", "64")]].concat());
            assert_eq!(limits.writes(3 << 20), Shape { depth, len }, "{disk}");
            assert_eq!(limits.mode(), QueueMode::Uring);
        }
    }

    #[test]
    fn no_request_crosses_a_stripe() {
        let files = [("max_sectors_kb", "512"), ("max_segments", "128"), ("chunk_sectors", "256")];
        assert_eq!(limits(&files).writes(3 << 20).len, 128 << 10);
        let none =
            [("max_hw_sectors_kb", "512"), ("max_sectors_kb", "512"), ("chunk_sectors", "0")];
        assert_eq!(limits(&none).writes(3 << 20).len, 128 << 10);
    }

    #[test]
    fn what_is_unknown_is_small_and_a_tight_budget_is_kept() {
        let none = limits(&[]);
        assert_eq!(none.writes(3 << 20), Shape { depth: 24, len: 128 << 10 });
        assert_eq!(none.writes(256 << 10), Shape { depth: 4, len: 64 << 10 });
        assert_eq!(none.writes(0), Shape { depth: 2, len: 4096 });
        let polled = limits(&[("io_poll", "1"), ("nr_requests", "1023")]);
        assert_eq!((polled.mode(), polled.requests), (QueueMode::Polled, 64));
        assert_eq!(polled.and(none).mode(), QueueMode::Uring);
    }
}
