//! Checks that a `struct page` is laid out as VMCOREINFO says, against what is known
//! of any running kernel: its text is reserved and its tables are its own, the heads
//! of the free lists are free blocks of that order, and a sample over all memory says
//! nothing that cannot be.

use lifeboat_format::{PAGE, Pfn};

use crate::bytes::{le32, le64};
use crate::memory::PhysRead;
use crate::paging::{ReadVirt as _, SpanReader};

use super::class::{Class, Seen};
use super::facts::Facts;
use super::layout::MAX_SIZE;
use super::owners::{Members, Owners};
use super::reader::{BLOCK, WorthReader};
use super::{Worth, WorthError, lists};

/// Pages of the kernel's text that are looked at, and every how many.
const TEXT_PAGES: u64 = 64;
const TEXT_STEP: u64 = 4;
/// Page flags among which `PG_reserved` is (bit 10 to 14 so far), and none of what is
/// above the flags: node, zone and, from bit 30 on, the last CPU (`page-flags-layout.h`).
const FLAGS: u64 = 0x00ff_ffff;

/// Blocks that are looked at, about: 4 MiB of `struct page`s.
const BLOCKS: u64 = 64;

/// What the checks saw.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checked {
    /// `struct page`s in the sample over all of memory.
    pub pages: u64,
    /// Of these, how many said what cannot be.
    pub doubts: u64,
    /// Free blocks that were found by the allocator's own lists and are such by their
    /// `struct page`. With none, free pages are not told from the kernel's.
    pub lists: u64,
}

pub(super) fn all(
    worth: &Worth,
    info: &Facts<'_>,
    memory: &mut impl PhysRead,
    sections: &[u64],
) -> Result<(Checked, Owners), WorthError> {
    let lists = lists::follow(worth, info, memory)?;
    let (checked, owners) = sample(worth, info, memory, blocks(worth, sections))?;
    own_tables(worth, info, memory)?;
    Ok((Checked { lists, ..checked }, owners))
}

/// First pages of some blocks out of each section of the sample: [`BLOCKS`] in all, or all
/// there are, not always at the same place in a section.
fn blocks(worth: &Worth, sections: &[u64]) -> impl Iterator<Item = u64> {
    let shift = worth.sections.shift;
    let count = (1u64 << shift) / BLOCK as u64;
    // Both powers of two, so that no block comes twice.
    let each = (BLOCKS / (sections.len() as u64).max(1)).max(1).next_power_of_two().min(count);
    (0u64..).zip(sections).flat_map(move |(n, section)| {
        (0..each).map(move |k| {
            let block = (n * 7 + k * (count / each)) % count;
            (section << shift) + block * BLOCK as u64
        })
    })
}

/// One page in a hundred may be odd: a section need not be memory to its end. Nor are
/// more than that marked faulty in a machine that ran.
fn sample(
    worth: &Worth,
    info: &Facts<'_>,
    memory: &mut impl PhysRead,
    blocks: impl Iterator<Item = u64>,
) -> Result<(Checked, Owners), WorthError> {
    let members = Members::new(info);
    let mut owners = Owners::default();
    let mut reader = WorthReader::new(worth, memory);
    let mut classes = [Class::Kernel; BLOCK];
    let mut pages = 0;
    for first in blocks {
        reader.classes(Pfn(first), &mut classes);
        pages += BLOCK as u64;
        if let Some(members) = &members {
            owners.look(worth, reader.memory(), members, first, &classes);
        }
    }
    let (doubts, poison) = (reader.doubts(), reader.poison());
    for (what, bad) in [("struct pages", doubts), ("pages without a fault", poison)] {
        if bad > pages / 100 {
            return Err(WorthError::Nonsense { what, bad, of: pages });
        }
    }
    Ok((Checked { pages, doubts, lists: 0 }, owners))
}

/// A page's `struct page`, by the kernel's own page tables.
pub(super) fn struct_page<'b>(
    worth: &Worth,
    memory: &mut impl PhysRead,
    pfn: u64,
    what: &'static str,
    buf: &'b mut [u8; MAX_SIZE],
) -> Result<&'b [u8], WorthError> {
    let size = worth.layout.size;
    let odd = WorthError::NotKernel { what, pfn };
    let at = worth.sections.page_addr(pfn, size).ok_or(odd)?;
    let buf = buf.get_mut(..size).ok_or(odd)?;
    let mut reader = SpanReader::new(worth.space, memory);
    reader.read_virt(at, buf).map_err(|source| WorthError::unread(what, source))?;
    Ok(buf)
}

/// The pages of the kernel's text: in use, mapped by nobody, nobody's cache, and all
/// with the same one flag, `PG_reserved` (`reserve_bootmem_region()`, `mm/mm_init.c`). Gives that flag.
pub(super) fn text(
    worth: &Worth,
    info: &Facts<'_>,
    memory: &mut impl PhysRead,
) -> Result<u64, WorthError> {
    let what = "the kernel's text";
    let start = info.info().symbol("_stext").ok_or(WorthError::Missing("SYMBOL(_stext)"))?;
    let mut common = FLAGS;
    let mut last = 0;
    for n in 0..TEXT_PAGES {
        let odd = WorthError::Odd { what: "SYMBOL(_stext)", value: start };
        let addr = start.checked_add(n * TEXT_STEP * PAGE as u64).ok_or(odd)?;
        let phys = worth
            .space
            .translate(memory, addr)
            .map_err(|source| WorthError::Paging { what, source })?;
        let pfn = phys.pfn().0;
        let mut buf = [0; MAX_SIZE];
        let page = struct_page(worth, memory, pfn, what, &mut buf)?;
        let layout = &worth.layout;
        let is_kernel = layout.look(page, &[]) == Seen::Own(Class::Kernel)
            && le64(page, layout.mapping) == Some(0)
            && le32(page, layout.mapcount) == Some(u32::MAX)
            && le32(page, layout.refcount).is_some_and(|count| count > 0);
        let flags = le64(page, layout.flags).unwrap_or_default();
        if !is_kernel || flags & layout.known_flags() != 0 {
            return Err(WorthError::NotKernel { what, pfn });
        }
        common &= flags;
        last = pfn;
    }
    if common.count_ones() == 1 {
        Ok(common)
    } else {
        Err(WorthError::NotKernel { what, pfn: last })
    }
}

/// Pages that the kernel was using when it died: its top page table, its log, the
/// table of sections, and the `struct page`s themselves.
fn own_tables(
    worth: &Worth,
    info: &Facts<'_>,
    memory: &mut impl PhysRead,
) -> Result<(), WorthError> {
    let pages = [
        ("the top page table", info.info().symbol("init_top_pgt")),
        ("the kernel's log", info.info().symbol("prb")),
        ("the name of the kernel", info.info().symbol("init_uts_ns")),
        ("the table of nodes", info.info().symbol("node_data")),
        ("the table of sections", Some(worth.sections.roots)),
    ];
    for (what, addr) in pages {
        // An older kernel may lack one; where it is there, it must be mapped.
        let Some(addr) = addr else { continue };
        let phys = worth
            .space
            .translate(memory, addr)
            .map_err(|source| WorthError::Paging { what, source })?;
        must_be_kernel(worth, memory, phys.pfn().0, what)?;
        // So must be the page that holds the struct page which says so.
        let what = "vmemmap";
        let at = worth.sections.page_addr(phys.pfn().0, worth.layout.size);
        let at = at.ok_or(WorthError::NotKernel { what, pfn: phys.pfn().0 })?;
        let phys = worth
            .space
            .translate(memory, at)
            .map_err(|source| WorthError::Paging { what, source })?;
        must_be_kernel(worth, memory, phys.pfn().0, what)?;
    }
    Ok(())
}

pub(super) fn must_be_kernel(
    worth: &Worth,
    memory: &mut impl PhysRead,
    pfn: u64,
    what: &'static str,
) -> Result<(), WorthError> {
    let mut class = [Class::Free];
    WorthReader::new(worth, memory).classes(Pfn(pfn), &mut class);
    if class == [Class::Kernel] { Ok(()) } else { Err(WorthError::NotKernel { what, pfn }) }
}
