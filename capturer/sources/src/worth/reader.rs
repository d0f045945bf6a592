//! Reads `struct page`s block by block and says what each page holds.
//!
//! A block is 1024 pages at a multiple of 1024: no free block of the buddy allocator
//! reaches over its edge, so each is decided by itself, in whatever order the workers
//! come. What a page is depends on the dead kernel's memory alone, never on what was
//! asked before: every page is in exactly one layer, however often it is asked for.

use lifeboat_format::{PAGE, Pfn};

use crate::memory::PhysRead;
use crate::paging::{ReadVirt as _, SpanReader};

use super::Worth;
use super::class::{Class, Seen};
use super::layout::{MAX_SIZE, PageLayout};

/// Pages in a block, the largest of the buddy allocator's.
pub(super) const BLOCK: usize = 1024;
/// Pages of the largest compound page, a hugetlb page of 1 GiB.
const MAX_COMPOUND: u64 = 1 << 18;
/// Heads outside of a block that are looked up for it. A block lies within one
/// compound page or has all of its own, so one is enough.
const MAX_HEADS: u32 = 1;

/// Says which page is what, for one worker: a reader of memory and two fixed buffers.
#[derive(Debug)]
pub struct WorthReader<'w, R> {
    worth: &'w Worth,
    memory: SpanReader<R>,
    /// The block's `struct page`s.
    raw: Vec<u8>,
    /// What they say.
    classes: Vec<Class>,
    /// First pfn of the block in the buffers; `None` before the first one.
    block: Option<u64>,
    /// The last section that was looked up, and whether it has `struct page`s.
    section: Option<(u64, bool)>,
    doubts: u64,
    poison: u64,
}

impl<'w, R: PhysRead> WorthReader<'w, R> {
    /// Allocates 65 KiB (for a `struct page` of 64 bytes); nothing is allocated later.
    #[must_use]
    pub fn new(worth: &'w Worth, memory: R) -> Self {
        Self {
            worth,
            memory: SpanReader::new(worth.space, memory),
            raw: vec![0; BLOCK * worth.layout.size],
            classes: vec![Class::Kernel; BLOCK],
            block: None,
            section: None,
            doubts: 0,
            poison: 0,
        }
    }

    /// The memory that it reads.
    pub(super) fn memory(&mut self) -> &mut R {
        self.memory.memory()
    }

    /// What each page from `first` on holds. Pages that have no `struct page`, or one that
    /// cannot be read or says what cannot be, are the kernel's.
    pub fn classes(&mut self, first: Pfn, out: &mut [Class]) {
        self.each(first, out, |class| class);
    }

    /// `struct page`s so far that said what cannot be, or could not be read. A page
    /// that was asked for twice may count twice.
    #[must_use]
    pub fn doubts(&self) -> u64 {
        self.doubts
    }

    /// `struct page`s so far that were marked faulty. Of a hugetlb page it is the first one
    /// alone, however many pages that makes [`Class::Poison`].
    pub(super) fn poison(&self) -> u64 {
        self.poison
    }

    pub(super) fn each<T>(&mut self, first: Pfn, out: &mut [T], map: impl Fn(Class) -> T) {
        let mut pfn = first.0;
        let mut rest = out;
        while !rest.is_empty() {
            let inside = usize::try_from(pfn % BLOCK as u64).unwrap_or_default();
            let count = rest.len().min(BLOCK - inside);
            self.load(pfn - inside as u64);
            let (now, later) = rest.split_at_mut(count);
            let known = self.classes.get(inside..inside + count).unwrap_or_default();
            for (to, class) in now.iter_mut().zip(known) {
                *to = map(*class);
            }
            rest = later;
            // Behind the last pfn there is nothing, and nothing is what is said of it.
            pfn = pfn.saturating_add(count as u64);
        }
    }

    /// Makes `block` the one in the buffers.
    fn load(&mut self, block: u64) {
        if self.block == Some(block) {
            return;
        }
        self.block = Some(block);
        self.classes.fill(Class::Kernel);
        let Some(addr) = self.worth.sections.page_addr(block, self.worth.layout.size) else {
            return;
        };
        if !self.has_pages(block) {
            return;
        }
        let mut raw = std::mem::take(&mut self.raw);
        self.fill(addr, &mut raw);
        let mut classes = std::mem::take(&mut self.classes);
        self.judge(block, &raw, &mut classes);
        self.raw = raw;
        self.classes = classes;
    }

    fn has_pages(&mut self, pfn: u64) -> bool {
        let number = pfn >> self.worth.sections.shift;
        if let Some((known, usable)) = self.section
            && known == number
        {
            return usable;
        }
        let usable = self.is_usable(number);
        self.section = Some((number, usable));
        usable
    }

    fn is_usable(&mut self, section: u64) -> bool {
        self.worth.sections.is_usable(&self.worth.space, self.memory.memory(), section)
    }

    /// Reads `out.len()` bytes of vmemmap, at once, and page by page where that fails.
    /// What cannot be read is all ones, which no `struct page` is.
    fn fill(&mut self, addr: u64, out: &mut [u8]) {
        if self.memory.read_virt(addr, out).is_ok() {
            return;
        }
        let mut at = addr;
        let mut rest = out;
        while !rest.is_empty() {
            let inside = usize::try_from(at % PAGE as u64).unwrap_or_default();
            let count = rest.len().min(PAGE - inside);
            let (now, later) = rest.split_at_mut(count);
            if self.memory.read_virt(at, now).is_err() {
                now.fill(0xff);
            }
            rest = later;
            at = at.saturating_add(count as u64);
        }
    }

    /// What each `struct page` of the block says; each page is looked at once.
    fn judge(&mut self, block: u64, raw: &[u8], classes: &mut [Class]) {
        let worth = self.worth;
        let layout = &worth.layout;
        let size = layout.size;
        let mut heads = Heads { last: None, left: MAX_HEADS };
        // Pages before this one are inside of a free block.
        let mut free_to = 0;
        for at in 0..BLOCK {
            let page = raw.get(at * size..(at + 1) * size).unwrap_or_default();
            let next = raw.get((at + 1) * size..(at + 2) * size).unwrap_or_default();
            let found = if at < free_to {
                layout.is_free_inside(page).then_some(Class::Free)
            } else {
                match layout.look(page, next) {
                    Seen::Own(class) => Some(class),
                    Seen::Doubt => None,
                    Seen::Buddy(order) => {
                        let end = free_end(at, order, layout.orders);
                        free_to = end.unwrap_or(free_to);
                        end.map(|_| Class::Free)
                    }
                    Seen::Tail(head) => self.head_of(block, at, head, raw, classes, &mut heads),
                }
            };
            let poison = layout.is_poison(page);
            self.doubts += u64::from(found.is_none() && !poison);
            self.poison += u64::from(poison);
            let mut class = found.unwrap_or(Class::Kernel);
            if class == Class::Free && !worth.free {
                class = Class::Kernel;
            }
            if poison {
                class = Class::Poison;
            }
            if let Some(slot) = classes.get_mut(at) {
                *slot = class;
            }
        }
    }

    /// What a compound page's first page says, whose `struct page` is at `addr`; page
    /// `at` of `block` is a further one of it. Compound pages lie at a multiple of
    /// their size (`prep_compound_page()` gets them from the buddy allocator or from
    /// aligned ranges), so their head does so for every size that reaches this page.
    fn head_of(
        &mut self,
        block: u64,
        at: usize,
        addr: u64,
        raw: &[u8],
        classes: &[Class],
        heads: &mut Heads,
    ) -> Option<Class> {
        let layout = &self.worth.layout;
        let size = layout.size;
        let head = self.worth.sections.pfn_of(addr, size)?;
        let pfn = block + at as u64;
        let distance = pfn.checked_sub(head).filter(|d| (1..MAX_COMPOUND).contains(d))?;
        if !head.is_multiple_of((distance + 1).next_power_of_two()) {
            return None;
        }
        if let Some(index) = head.checked_sub(block) {
            let index = usize::try_from(index).ok()?;
            let page = raw.get(index * size..(index + 1) * size)?;
            // A free page is no head, see `PageLayout::look`.
            let class = classes.get(index).copied()?;
            if class == Class::Poison {
                return head_class(layout, raw.get(index * size..(index + 2) * size)?);
            }
            return layout.is_head(page).then_some(class);
        }
        if let Some((known, class)) = heads.last
            && known == head
        {
            return class;
        }
        heads.left = heads.left.checked_sub(1)?;
        let class = self.far_head(head, addr);
        heads.last = Some((head, class));
        class
    }

    /// A head outside of the block.
    fn far_head(&mut self, head: u64, addr: u64) -> Option<Class> {
        if !self.is_usable(head >> self.worth.sections.shift) {
            return None;
        }
        let worth = self.worth;
        let mut both = [0; 2 * MAX_SIZE];
        let both = both.get_mut(..2 * worth.layout.size)?;
        self.fill(addr, both);
        head_class(&worth.layout, both)
    }
}

/// What the first page of a compound page, in front of the second, makes of the others.
/// A fault of a hugetlb page is marked on its first page, whichever it is of
/// (`folio_set_hugetlb_hwpoison()`, `mm/memory-failure.c`): none of them is to be read.
fn head_class(layout: &PageLayout, both: &[u8]) -> Option<Class> {
    let (page, next) = both.split_at_checked(layout.size)?;
    match layout.look(page, next) {
        Seen::Own(Class::Huge) if layout.is_poison(page) => Some(Class::Poison),
        Seen::Own(class) if layout.is_head(page) => Some(class),
        _ => None,
    }
}

/// The head that was looked up outside of a block, and how many more may be.
struct Heads {
    last: Option<(u64, Option<Class>)>,
    left: u32,
}

/// Where a free block that begins at page `at` ends; `None` where it cannot begin there.
fn free_end(at: usize, order: u64, orders: u32) -> Option<usize> {
    let order = u32::try_from(order).ok().filter(|o| *o < orders)?;
    let pages = 1usize.checked_shl(order)?;
    let end = at.checked_add(pages).filter(|end| *end <= BLOCK)?;
    at.is_multiple_of(pages).then_some(end)
}
