//! Physical pages of the dead machine, the last ones kept; and its kernel's page tables.
//!
//! Memory: at most [`SHARDS`] times [`SLOTS`] pages, 16 MiB, and 256 KiB of translations.

use std::sync::{Mutex, MutexGuard, PoisonError};

use lifeboat_format::{PAGE, Pfn, PhysAddr};
use lifeboat_sources::memory::{PhysRead, Unreadable};
use lifeboat_sources::paging::{AddressSpace, PagingError};

use crate::machine::{Hole, Machine};

use super::Fault;

/// Parts of the caches, each behind a lock of its own.
const SHARDS: usize = 16;
/// Pages that each part keeps, each in one place only.
const SLOTS: usize = 256;
/// Translations that each part keeps.
const ENTRIES: usize = 1024;
/// log2 of a page's bytes.
const SHIFT: u32 = PAGE.trailing_zeros();
/// Most bits of a physical address (`Documentation/arch/x86/x86_64/5level-paging.rst`).
const PHYS_BITS: u32 = 52;

/// A page that was read.
struct Slot {
    pfn: u64,
    bytes: [u8; PAGE],
}

/// Some pages and translations.
#[derive(Default)]
struct Shard {
    pages: Vec<Option<Box<Slot>>>,
    /// Virtual page, physical page. Number 0 is no kernel's: user space begins there.
    spots: Vec<(u64, u64)>,
}

/// Where the kernel sees all of physical memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Direct {
    /// Virtual address of physical address 0.
    pub(super) from: u64,
    /// The first address behind it.
    pub(super) to: u64,
}

/// Physical memory and the kernel's page tables.
pub(super) struct Pages<'m> {
    pub(super) machine: &'m dyn Machine,
    pub(super) space: AddressSpace,
    /// Known once symbols are.
    pub(super) direct: Option<Direct>,
    shards: [Mutex<Shard>; SHARDS],
}

impl<'m> Pages<'m> {
    pub(super) fn new(machine: &'m dyn Machine, space: AddressSpace) -> Self {
        let shards = std::array::from_fn(|_| Mutex::default());
        Self { machine, space, direct: None, shards }
    }

    /// The part for a page number, and the place within it.
    fn shard(&self, number: u64) -> (Option<MutexGuard<'_, Shard>>, usize) {
        let at = usize::try_from(number % SHARDS as u64).unwrap_or(0);
        // A panic elsewhere leaves whole entries here.
        let shard = self.shards.get(at).map(|s| s.lock().unwrap_or_else(PoisonError::into_inner));
        (shard, usize::try_from(number / SHARDS as u64 % (1 << 20)).unwrap_or(0))
    }

    /// Bytes of one physical page, from `inside` on; they may not reach over its end.
    pub(super) fn page(&self, pfn: Pfn, inside: usize, buf: &mut [u8]) -> Result<(), Hole> {
        if self.held(pfn, inside, buf) {
            return Ok(());
        }
        // Not under the lock: decoding a chunk takes a while.
        let mut slot = Box::new(Slot { pfn: pfn.0, bytes: [0; PAGE] });
        self.machine.memory(pfn, &mut slot.bytes)?;
        copy(&slot.bytes, inside, buf).ok_or(Hole::Malformed)?;
        let (shard, at) = self.shard(pfn.0);
        if let Some(mut shard) = shard {
            if shard.pages.is_empty() {
                shard.pages.resize_with(SLOTS, || None);
            }
            if let Some(place) = shard.pages.get_mut(at % SLOTS) {
                *place = Some(slot);
            }
        }
        Ok(())
    }

    fn held(&self, pfn: Pfn, inside: usize, buf: &mut [u8]) -> bool {
        let (shard, at) = self.shard(pfn.0);
        let Some(shard) = shard else { return false };
        let slot = shard.pages.get(at % SLOTS).and_then(Option::as_ref);
        slot.filter(|slot| slot.pfn == pfn.0)
            .and_then(|slot| copy(&slot.bytes, inside, buf))
            .is_some()
    }

    /// Bytes of physical memory, over page boundaries.
    pub(super) fn phys(&self, addr: PhysAddr, buf: &mut [u8]) -> Result<(), Fault> {
        let mut at = addr.0;
        let mut rest = buf;
        while !rest.is_empty() {
            let inside = usize::try_from(at % PAGE as u64).unwrap_or(0);
            let count = rest.len().min(PAGE - inside);
            let (now, later) = rest.split_at_mut(count);
            self.page(Pfn(at >> SHIFT), inside, now).map_err(|why| Fault { addr: at, why })?;
            rest = later;
            at = at.checked_add(count as u64).ok_or(Fault::malformed(at))?;
        }
        Ok(())
    }

    /// The physical address of a kernel address.
    pub(super) fn translate(&self, addr: u64) -> Result<PhysAddr, Fault> {
        if let Some(direct) = self.direct
            && (direct.from..direct.to).contains(&addr)
        {
            let phys = addr - direct.from;
            let sane = phys >> PHYS_BITS == 0;
            return sane.then_some(PhysAddr(phys)).ok_or(Fault::malformed(addr));
        }
        let page = addr >> SHIFT;
        let inside = addr % PAGE as u64;
        let (shard, at) = self.shard(page);
        let known = shard.as_ref().and_then(|s| s.spots.get(at % ENTRIES)).copied();
        drop(shard);
        if let Some((_, pfn)) = known.filter(|(of, _)| *of == page && page != 0) {
            return Ok(PhysAddr(pfn << SHIFT | inside));
        }
        let mut reader = Reader::new(self);
        let found = self.space.translate(&mut reader, addr);
        let phys = found.map_err(|source| reader.fault(addr, &source))?;
        let (shard, at) = self.shard(page);
        if let Some(mut shard) = shard {
            if shard.spots.is_empty() {
                shard.spots.resize(ENTRIES, (0, 0));
            }
            if let Some(place) = shard.spots.get_mut(at % ENTRIES) {
                *place = (page, phys.0 >> SHIFT);
            }
        }
        Ok(phys)
    }

    /// Bytes at a kernel address, over page boundaries.
    pub(super) fn virt(&self, addr: u64, buf: &mut [u8]) -> Result<(), Fault> {
        let mut at = addr;
        let mut rest = buf;
        while !rest.is_empty() {
            let inside = usize::try_from(at % PAGE as u64).unwrap_or(0);
            let count = rest.len().min(PAGE - inside);
            let (now, later) = rest.split_at_mut(count);
            let phys = self.translate(at)?;
            self.page(Pfn(phys.0 >> SHIFT), inside, now).map_err(|why| Fault { addr: at, why })?;
            rest = later;
            at = match at.checked_add(count as u64) {
                Some(next) => next,
                None if rest.is_empty() => break,
                None => return Err(Fault::malformed(at)),
            };
        }
        Ok(())
    }
}

fn copy(page: &[u8; PAGE], inside: usize, buf: &mut [u8]) -> Option<()> {
    buf.copy_from_slice(page.get(inside..inside.checked_add(buf.len())?)?);
    Some(())
}

/// The pages as the parsers of `lifeboat-sources` read them; keeps the last reason.
pub(super) struct Reader<'a, 'm> {
    pages: &'a Pages<'m>,
    last: Option<Hole>,
}

impl<'a, 'm> Reader<'a, 'm> {
    pub(super) fn new(pages: &'a Pages<'m>) -> Self {
        Self { pages, last: None }
    }

    /// What became of a translation.
    fn fault(&self, addr: u64, source: &PagingError) -> Fault {
        let why = match source {
            PagingError::NotMapped { .. } => Hole::NotMapped,
            PagingError::Unreadable { .. } => self.last.unwrap_or(Hole::NotCaptured),
            _ => Hole::Malformed,
        };
        Fault { addr, why }
    }
}

impl PhysRead for Reader<'_, '_> {
    fn read_phys(&mut self, addr: PhysAddr, buf: &mut [u8]) -> Result<(), Unreadable> {
        self.pages.phys(addr, buf).map_err(|fault| {
            self.last = Some(fault.why);
            Unreadable { addr: PhysAddr(fault.addr) }
        })
    }
}
