//! What an image needs of its reservation: the sum that the manifest states, and that the
//! build holds against `reservation.crashkernel_mib`.
//!
//! What a worker takes is asked of the code that makes one, for this profile's chunks and
//! codec; table and buffers are the profile's; stacks and the rest of PID 1 are the figures
//! below. What the kernel takes cannot be asked without booting it: it was
//! measured in QEMU, and `tests/qemu/tests/reservation.rs` fails when it no longer holds.

use lifeboat_profile::Profile;
use serde_json::{Value, json};

use crate::failure::Failure;

/// Of the reservation, in KiB, what the kernel takes for itself at its highest, less what
/// is told apart below: text and data, page structs, per-CPU memory, slabs, the drivers'
/// queues, page tables, and the watermark below which it does not give memory away. With
/// two CPUs, 20,668 KiB were measured in 41 MiB, 21,304 in 48 MiB.
const KERNEL_KIB: u64 = 22 << 10;
/// For each CPU of the crash kernel, in KiB: its per-CPU memory and its idle thread.
const CPU_KIB: u64 = 512;
/// What PID 1 takes beside what it is asked for, in KiB: the boot configuration, devices,
/// readers, the thread that supervises, and the C library's heap between them.
const INIT_KIB: u64 = 1536;
/// A worker's stack in KiB: `STACK` of `initramfs/init/src/pool.rs`.
const STACK_KIB: u64 = 256;

/// All of it, in KiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Needs {
    kernel: u64,
    cpus: u64,
    initramfs: u64,
    workers: u64,
    worker: u64,
    dedup: u64,
    buffers: u64,
}

impl Needs {
    /// Of a profile whose initramfs is `unpacked` bytes long.
    pub(crate) fn of(profile: &Profile, unpacked: u64) -> Result<Self, Failure> {
        let worker = lifeboat_join::worker_memory(&profile.codec, profile.chunk_pages);
        let worker =
            worker.ok_or_else(|| Failure::new("zstd does not say what memory it needs"))?;
        // Every CPU that is let in may be there, and has a worker then.
        let workers = if profile.workers == 0 { profile.cpus } else { profile.workers };
        Ok(Self {
            kernel: KERNEL_KIB,
            cpus: u64::from(profile.cpus) * CPU_KIB,
            initramfs: unpacked.div_ceil(1024),
            workers: u64::from(workers),
            worker: (worker as u64).div_ceil(1024) + STACK_KIB,
            dedup: u64::from(profile.dedup_kib),
            buffers: u64::from(profile.buffers_kib),
        })
    }

    /// What PID 1 holds for good when the pages begin, in KiB.
    pub(crate) fn fixed(&self) -> u64 {
        self.workers * self.worker + self.dedup + self.buffers + INIT_KIB
    }

    /// The smallest `crashkernel=` that the image is meant for, in MiB.
    pub(crate) fn mib(&self) -> u64 {
        (self.kernel + self.cpus + self.initramfs + self.fixed()).div_ceil(1024)
    }

    /// For the manifest.
    pub(crate) fn json(&self) -> Value {
        json!({
            "kernel_kib": self.kernel,
            "cpus_kib": self.cpus,
            "initramfs_unpacked_kib": self.initramfs,
            "workers": self.workers,
            "worker_kib": self.worker,
            "dedup_kib": self.dedup,
            "buffers_kib": self.buffers,
            "init_other_kib": INIT_KIB,
            "init_fixed_kib": self.fixed(),
            "crashkernel_mib": self.mib(),
        })
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        format!(
            "{} MiB: kernel {} KiB, {} KiB for its CPUs, unpacked initramfs {} KiB, {} workers of {} KiB, table of pages {} KiB, buffers {} KiB, the rest of PID 1 {INIT_KIB} KiB",
            self.mib(),
            self.kernel,
            self.cpus,
            self.initramfs,
            self.workers,
            self.worker,
            self.dedup,
            self.buffers
        )
    }

    /// Fails if the reservation of the board is smaller.
    pub(crate) fn check(&self, profile: &Profile) -> Result<(), Failure> {
        let reserved = u64::from(profile.crashkernel_mib);
        if self.mib() <= reserved {
            return Ok(());
        }
        Err(Failure::new(format!(
            "the reservation of {reserved} MiB is too small for this image, which needs {}",
            self.text()
        ))
        .hint("raise reservation.crashkernel_mib, or lower kernel.cpus, capture.workers, capture.chunk_pages, capture.dedup_kib or the highest level of capture.codec"))
    }
}
