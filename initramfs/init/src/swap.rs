//! Swap devices as the engine sees them.

use lifeboat_engine::{PageRead, ReadFault};
use lifeboat_format::bootcfg::BootConfig;
use lifeboat_format::{PageRange, Pfn};
use lifeboat_sources::swap::{self, SwapDevice, SwapReader};

use crate::Failure;
use crate::console::say;
use crate::devices::Devices;

/// A swap device that is captured.
pub(crate) struct SwapSource {
    index: u16,
    device: SwapDevice,
    text: String,
}

/// What is captured, and whether something that was asked for is not.
pub(crate) struct Swaps {
    pub(crate) list: Vec<SwapSource>,
    pub(crate) missing: bool,
}

impl Swaps {
    /// Finds the devices that the configuration asks for. What cannot be had is told.
    pub(crate) fn open(config: &BootConfig, devices: &Devices) -> Self {
        let target = devices.targets.first().map(|(_, block)| block.name.as_str());
        let plan = swap::plan(&devices.all, &config.swap, target);
        for problem in &plan.problems {
            say!("sources: {problem}");
        }
        let list = (0u16..)
            .zip(plan.devices)
            .map(|(index, device)| SwapSource { index, text: device.text(), device })
            .collect();
        Self { list, missing: !plan.problems.is_empty() }
    }

    /// Pages of all devices.
    pub(crate) fn pages(&self) -> u64 {
        self.list.iter().map(SwapSource::pages).fold(0, u64::saturating_add)
    }
}

impl SwapSource {
    pub(crate) fn index(&self) -> u16 {
        self.index
    }

    pub(crate) fn name(&self) -> std::path::Display<'_> {
        self.device.block.path.display()
    }

    pub(crate) fn pages(&self) -> u64 {
        self.device.pages()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.device.block.len
    }

    pub(crate) fn describe(&self) -> &str {
        &self.text
    }

    pub(crate) fn range(&self) -> PageRange {
        PageRange::new(0, self.pages())
    }

    pub(crate) fn reader(&self) -> Result<Box<dyn PageRead + Send>, Failure> {
        Ok(Box::new(Reader(self.device.reader()?)))
    }
}

struct Reader(SwapReader);

impl PageRead for Reader {
    fn read(
        &mut self,
        first: Pfn,
        buf: &mut [u8],
        bad: &mut dyn FnMut(usize),
    ) -> Result<(), ReadFault> {
        let mut tell = |pfn: Pfn| {
            bad(usize::try_from(pfn.0.saturating_sub(first.0)).unwrap_or(usize::MAX));
        };
        self.0
            .read_pages(first, buf, &mut tell)
            .map(|_| ())
            .map_err(|e| ReadFault(std::io::Error::other(e)))
    }
}
