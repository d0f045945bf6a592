//! The dead machine's memory and swap as the engine reads them: their pages, and where each
//! of memory goes.

use std::io;

use lifeboat_engine::{PageRead, Place, PlaceRead, ReadFault};
use lifeboat_format::{PageRange, Pfn};
use lifeboat_sources::swapread::SwapReader;
use lifeboat_sources::worth::{self, Verdict};
use lifeboat_sources::{MemoryReader, ReadError};

/// Which page of a read from `first` on a page is.
fn nth(first: Pfn, pfn: Pfn) -> usize {
    usize::try_from(pfn.0.saturating_sub(first.0)).unwrap_or(usize::MAX)
}

fn fault(error: ReadError) -> ReadFault {
    ReadFault(io::Error::from_raw_os_error(error.errno()))
}

/// Pages of old memory. Reading them, and failing to, allocates nothing.
pub struct Memory(pub MemoryReader);

impl PageRead for Memory {
    fn read(
        &mut self,
        first: Pfn,
        buf: &mut [u8],
        bad: &mut dyn FnMut(usize),
    ) -> Result<(), ReadFault> {
        let read = self.0.read_pages(first, buf, &mut |pfn| bad(nth(first, pfn)));
        read.map(drop).map_err(fault)
    }
}

/// Pages of the selected swap device. Reading them, and failing to, allocates nothing.
pub struct Swap(pub SwapReader);

impl PageRead for Swap {
    fn read(
        &mut self,
        first: Pfn,
        buf: &mut [u8],
        bad: &mut dyn FnMut(usize),
    ) -> Result<(), ReadFault> {
        let read = self.0.read_pages(first, buf, &mut |pfn| bad(nth(first, pfn)));
        read.map(drop).map_err(fault)
    }

    fn ahead(&mut self, span: PageRange) {
        self.0.ahead(span);
    }
}

/// What becomes of each page, by the dead kernel's own records.
pub struct Places<'w>(pub worth::Places<'w, MemoryReader>);

impl PlaceRead for Places<'_> {
    fn places(&mut self, first: Pfn, out: &mut [Place]) {
        let mut verdicts = [Verdict::Excluded; 32];
        let mut at = first.0;
        for part in out.chunks_mut(verdicts.len()) {
            let verdicts = verdicts.get_mut(..part.len()).unwrap_or_default();
            self.0.places(Pfn(at), verdicts);
            for (place, verdict) in part.iter_mut().zip(verdicts) {
                *place = match verdict {
                    Verdict::Layer(layer) => Place::In(*layer),
                    Verdict::Excluded => Place::Out,
                };
            }
            at += part.len() as u64;
        }
    }
}
