//! The dead machine's memory as the engine reads it: its pages, and where each goes.

use std::io;

use lifeboat_engine::{PageRead, Place, PlaceRead, ReadFault};
use lifeboat_format::Pfn;
use lifeboat_sources::MemoryReader;
use lifeboat_sources::worth::{self, Verdict};

/// Pages of old memory. Reading them, and failing to, allocates nothing.
pub struct Memory(pub MemoryReader);

impl PageRead for Memory {
    fn read(
        &mut self,
        first: Pfn,
        buf: &mut [u8],
        bad: &mut dyn FnMut(usize),
    ) -> Result<(), ReadFault> {
        let mut tell = |pfn: Pfn| {
            bad(usize::try_from(pfn.0.saturating_sub(first.0)).unwrap_or(usize::MAX));
        };
        let read = self.0.read_pages(first, buf, &mut tell);
        read.map(|_| ()).map_err(|e| ReadFault(io::Error::from_raw_os_error(e.errno())))
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
