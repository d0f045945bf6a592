//! The filter under test, applied to a vmcore: what each page is, and which are kept.

use std::path::Path;

use lifeboat_format::exclude::{Exclude, Kind};
use lifeboat_format::{Pfn, PhysAddr};
use lifeboat_qemu::error::{Context as _, Failure, Res};
use lifeboat_sources::OldMemory as _;
use lifeboat_sources::notes;
use lifeboat_sources::paging::{AddressSpace, ReadVirt as _, SpanReader};
use lifeboat_sources::vmcore::Vmcore;
use lifeboat_sources::vmcoreinfo::VmcoreInfo;
use lifeboat_sources::worth::{Class, Places, Verdict, Worth, WorthReader};

/// A page of memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Page {
    /// Its number.
    pub(crate) pfn: u64,
    /// What it is.
    pub(crate) class: Class,
    /// Whether it is all zero.
    pub(crate) zero: bool,
    /// Whether it is on a list of reclaim.
    pub(crate) lru: bool,
}

/// All pages of a vmcore.
#[derive(Debug)]
pub(crate) struct Memory {
    core: Vmcore,
    worth: Worth,
    /// In order.
    pub(crate) pages: Vec<Page>,
    /// What the classifier says of itself.
    pub(crate) described: String,
}

impl Memory {
    /// Looks at every page.
    ///
    /// # Errors
    /// When the vmcore cannot be read.
    pub(crate) fn open(path: &Path) -> Res<Self> {
        let core = Vmcore::open_file(path).map_err(Failure::check)?;
        let info = notes::vmcoreinfo(core.notes()).ctx("VMCOREINFO")?;
        let info = VmcoreInfo::new(info);
        let mut reader = core.reader().map_err(Failure::check)?;
        let worth = Worth::open(&info, &mut reader).map_err(Failure::check)?;
        let described = worth.describe().to_string();
        let mut pages = Vec::new();
        let ranges: Vec<_> = core.ranges().to_vec();
        let mut classes = vec![Class::Kernel; 1024];
        for range in ranges {
            for first in (range.start.0..range.end.0).step_by(classes.len()) {
                let count = usize::try_from(range.end.0 - first).unwrap_or(usize::MAX);
                let part = classes.len().min(count);
                let part = classes.get_mut(..part).unwrap_or_default();
                WorthReader::new(&worth, &mut reader).classes(Pfn(first), part);
                for (pfn, class) in (first..).zip(part) {
                    pages.push(Page { pfn, class: *class, zero: false, lru: false });
                }
            }
        }
        let mut bytes = [0u8; 4096];
        for page in &mut pages {
            let addr = PhysAddr(page.pfn * 4096);
            reader.read_phys(addr, &mut bytes).map_err(Failure::check)?;
            page.zero = bytes.iter().all(|b| *b == 0);
        }
        let space = AddressSpace::new(&info).map_err(Failure::check)?;
        let mut spans = SpanReader::new(space, &mut reader);
        let number = |key: &str| info.number(key).map(i64::cast_unsigned).ctx(key);
        let (bit, size) = (number("PG_lru")?, info.size("page").ctx("SIZE(page)")?);
        let base = vmemmap(&described)?;
        for page in pages.iter_mut().filter(|p| p.class == Class::Shmem) {
            let mut flags = [0u8; 8];
            let at = base + page.pfn * size;
            spans.read_virt(at, &mut flags).map_err(Failure::check)?;
            page.lru = u64::from_le_bytes(flags) >> bit & 1 == 1;
        }
        Ok(Self { core, worth, pages, described })
    }

    /// What one page is, in the vmcore or not.
    ///
    /// # Errors
    /// When the vmcore cannot be read.
    pub(crate) fn class(&self, pfn: u64) -> Res<Class> {
        let reader = self.core.reader().map_err(Failure::check)?;
        let mut class = [Class::Kernel];
        WorthReader::new(&self.worth, reader).classes(Pfn(pfn), &mut class);
        Ok(class[0])
    }

    /// Whether each page is kept when these words are left out. Zeros are left out where
    /// `zero` is among them.
    ///
    /// # Errors
    /// When the words are none.
    pub(crate) fn kept(&self, words: &str) -> Res<Vec<bool>> {
        let exclude = Exclude::parse(words).map_err(Failure::check)?;
        let zero = words.split(',').any(|w| w == Kind::Zero.word());
        let reader = self.core.reader().map_err(Failure::check)?;
        let mut places = Places::new(&self.worth, exclude, reader);
        let mut out = Vec::with_capacity(self.pages.len());
        for page in &self.pages {
            let mut verdict = [Verdict::Excluded];
            places.places(Pfn(page.pfn), &mut verdict);
            out.push(verdict != [Verdict::Excluded] && !(zero && page.zero));
        }
        Ok(out)
    }
}

/// Where `struct page` number 0 lies, as the classifier says.
fn vmemmap(described: &str) -> Res<u64> {
    let word = described.split_once("from 0x").and_then(|(_, rest)| rest.split(' ').next());
    word.and_then(|w| u64::from_str_radix(w, 16).ok()).ctx("vmemmap's address")
}
