//! An open dump as the dead machine that it is of, for [`lifeboat_inquest`].

use lifeboat_format::{PAGE, Pfn};
use lifeboat_inquest::{Hole, Machine, SwapDevice};

use crate::dump::{DumpError, OpenDump, Page, PageSource as _, page_of};

/// Memory and swap of an open dump, through the dump's own cache of 32 MiB.
#[derive(Debug)]
pub struct DumpMachine<'d> {
    dump: &'d OpenDump,
    swaps: Vec<SwapDevice>,
    /// Their numbers in the dump, in the same order.
    numbers: Vec<u16>,
}

impl<'d> DumpMachine<'d> {
    /// Reads nothing but the dump's tables, which are here already.
    #[must_use]
    pub fn new(dump: &'d OpenDump) -> Self {
        let devices = &dump.meta().swap;
        let swaps = devices.iter().map(|d| {
            let value = |key: &str| {
                let line =
                    d.text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
                line.map(str::to_owned)
            };
            let path = value("path").unwrap_or_default();
            SwapDevice {
                name: path.strip_prefix("/dev/").unwrap_or(&path).to_owned(),
                bytes: d.bytes,
                uuid: value("uuid"),
                partuuid: value("partuuid"),
            }
        });
        Self { dump, swaps: swaps.collect(), numbers: devices.iter().map(|d| d.index).collect() }
    }
}

/// Fills `out`, or says what is in the page's place.
fn fill(page: Result<Page, DumpError>, out: &mut [u8; PAGE]) -> Result<(), Hole> {
    match page {
        Ok(Page::Data(bytes)) => *out = *bytes,
        // These pages were read, and held nothing else.
        Ok(Page::Zero) => out.fill(0),
        Ok(Page::Fill(word)) => *out = page_of(word),
        Ok(Page::Unreadable) => return Err(Hole::Unreadable),
        Ok(Page::Excluded) => return Err(Hole::Excluded),
        Ok(Page::NotCaptured) => return Err(Hole::NotCaptured),
        Err(_) => return Err(Hole::Damaged),
    }
    Ok(())
}

impl Machine for DumpMachine<'_> {
    fn memory(&self, pfn: Pfn, out: &mut [u8; PAGE]) -> Result<(), Hole> {
        fill(self.dump.memory().page(pfn), out)
    }

    fn swap(&self, device: usize, page: u64, out: &mut [u8; PAGE]) -> Result<(), Hole> {
        let number = self.numbers.get(device).ok_or(Hole::SwapNotCaptured)?;
        let space = self.dump.swap(*number).map_err(|_| Hole::SwapNotCaptured)?;
        fill(space.page(Pfn(page)), out)
    }

    fn swaps(&self) -> &[SwapDevice] {
        &self.swaps
    }
}
