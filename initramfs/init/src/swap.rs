//! Swap devices as the engine sees them.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use lifeboat_engine::{PageRead, ReadFault};
use lifeboat_format::bootcfg::BootConfig;
use lifeboat_format::{PageRange, Pfn};
use lifeboat_join::Swap;
use lifeboat_sources::swap::{self, SwapDevice};
use lifeboat_sources::swapread::{ReadAhead, SwapReader};
use lifeboat_sys::QueueMode;

use crate::console::say;
use crate::devices::Devices;
use crate::limits::Limits;

/// Most bytes of a read: a batch of the engine.
const MOST: usize = 128 << 10;

/// A swap device that is captured.
pub(crate) struct SwapSource {
    device: SwapDevice,
    limits: Limits,
    /// Read requests of all workers, and how they were made.
    requests: AtomicU64,
    mode: AtomicU8,
}

/// What is captured, and whether something that was asked for is not.
pub(crate) struct Swaps {
    pub(crate) list: Vec<SwapSource>,
    pub(crate) missing: bool,
}

impl Swaps {
    /// Finds the devices that the configuration asks for. What cannot be had is told.
    pub(crate) fn open(config: &BootConfig, devices: &Devices) -> Self {
        let target = devices.targets.first().map(|block| block.name.as_str());
        let on = config.swap_on.as_deref().unwrap_or_default();
        let plan = swap::plan(&devices.all, &config.swap, on, target);
        for problem in &plan.problems {
            say!("sources: {problem}");
        }
        let missing = !plan.problems.is_empty();
        let list = plan
            .devices
            .into_iter()
            .map(|device| SwapSource {
                limits: Limits::of(&device.block.disk),
                device,
                requests: AtomicU64::new(0),
                mode: AtomicU8::new(0),
            })
            .collect();
        Self { list, missing }
    }

    /// Pages of all devices.
    pub(crate) fn pages(&self) -> u64 {
        self.list.iter().map(SwapSource::pages).fold(0, u64::saturating_add)
    }

    /// The disks that are read, by the kernel's names.
    pub(crate) fn disk_names(&self) -> impl Iterator<Item = &str> {
        self.list.iter().map(|s| &*s.device.block.disk)
    }

    /// How one of `workers` reads ahead, all of them within `budget` bytes.
    pub(crate) fn read_ahead(&self, budget: usize, workers: usize) -> ReadAhead {
        let all = self.list.iter().map(|s| s.limits).reduce(Limits::and).unwrap_or_default();
        let shape = all.shape(budget / workers.max(1), MOST);
        ReadAhead { depth: shape.depth, len: shape.len }
    }

    /// One worker's reader of all devices.
    pub(crate) fn reader(&self, ahead: ReadAhead) -> Reader<'_> {
        let devices = self.list.iter().map(|s| (&s.device, s.limits.mode()));
        let inner = Swap(SwapReader::open(devices, ahead));
        Reader { inner, swaps: self, at: 0, told: 0 }
    }
}

impl SwapSource {
    pub(crate) fn name(&self) -> std::path::Display<'_> {
        self.device.block.path.display()
    }

    pub(crate) fn pages(&self) -> u64 {
        self.device.pages()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.device.block.len
    }

    pub(crate) fn text(&self) -> String {
        self.device.text()
    }

    pub(crate) fn range(&self) -> PageRange {
        PageRange::new(0, self.pages())
    }

    /// Says how it was read.
    pub(crate) fn report(&self) {
        let how = match self.mode.load(Ordering::Relaxed) {
            POLLED => "io_uring, polled",
            URING => "io_uring by interrupt",
            _ => "pread",
        };
        let requests = self.requests.load(Ordering::Relaxed);
        say!("swap: {} was read in {requests} requests ({how})", self.name());
    }
}

const URING: u8 = 1;
const POLLED: u8 = 2;

/// One worker's reader.
pub(crate) struct Reader<'s> {
    inner: Swap,
    swaps: &'s Swaps,
    at: usize,
    /// Requests that were counted already.
    told: u64,
}

impl Reader<'_> {
    /// Reads the device at place `index` of the list from here on.
    pub(crate) fn select(&mut self, index: usize) {
        self.at = index;
        self.inner.0.select(index);
    }

    fn count(&mut self) {
        let Some(source) = self.swaps.list.get(self.at) else { return };
        let requests = self.inner.0.requests();
        source.requests.fetch_add(requests - self.told, Ordering::Relaxed);
        self.told = requests;
        let mode = match self.inner.0.mode() {
            QueueMode::Pwrite => 0,
            QueueMode::Uring => URING,
            QueueMode::Polled => POLLED,
        };
        source.mode.store(mode, Ordering::Relaxed);
    }
}

impl PageRead for Reader<'_> {
    fn read(
        &mut self,
        first: Pfn,
        buf: &mut [u8],
        bad: &mut dyn FnMut(usize),
    ) -> Result<(), ReadFault> {
        let read = self.inner.read(first, buf, bad);
        self.count();
        read
    }

    fn ahead(&mut self, span: PageRange) {
        self.inner.ahead(span);
    }
}
