//! Pages of files that the dead kernel had in memory.
//!
//! A file's `struct address_space` has them by number in an xarray (`i_pages`). An entry is
//! the `struct page` of the page, or of the first page of a folio that the page belongs to
//! (one entry for all of it with CONFIG_XARRAY_MULTI, one each without); or a value: of
//! shared memory, where it was swapped to (`swp_to_radix_entry()`), of any other file, when
//! the page was evicted (`mm/workingset.c`), and then it is not in memory.
//!
//! hugetlbfs counts in huge pages before commit a08c7193e4f1, and in pages since: what the
//! folio says of its own number decides.
//!
//! That a page is the file's is checked on the page: its folio must name the file as its
//! mapping, and hold what was read from disk (`PG_uptodate`).

use crate::kernel::{Fault, Field, Kernel, KernelError};
use crate::machine::Hole;
use crate::walk::{Entry, Item, xa_load, xarray};
use crate::{PAGE, Pfn};

use super::{TypeFields, type_name};

/// Most pages of a folio: 1 GiB.
const MAX_FOLIO: u64 = 1 << 18;

/// Most pages of a file that are counted.
const MAX_HELD: u64 = 1 << 26;

/// Most nodes that a look ahead takes: as many as [`MAX_FOLIO`] pages can have, and more.
const MAX_NODES: usize = 1 << 13;

/// What a file's pages are backed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// A disk, network or pseudo file system.
    Disk,
    /// Memory and swap: tmpfs, memfd, System V and shared anonymous memory.
    Shmem,
    /// Huge pages of so many pages.
    Huge(u64),
}

/// The pages of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// Address of its `struct address_space`.
    pub addr: u64,
    /// Address of its `struct inode`.
    pub inode: u64,
    /// Its number in its file system.
    pub number: u64,
    /// Bytes of the file.
    pub size: u64,
    /// What it is backed by.
    pub backing: Backing,
}

/// Where a page of a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cached {
    /// In memory.
    Page(Pfn),
    /// On swap: a `swp_entry_t`.
    Swap(u64),
    /// Nowhere, and it is zeros: shared memory or huge pages that nobody touched.
    Untouched,
}

/// What must be known once to find any file's pages.
#[derive(Debug)]
pub struct Cache<'k, 'm> {
    kernel: &'k Kernel<'m>,
    f_mapping: Field,
    host: Field,
    i_pages: u64,
    a_ops: Field,
    i_mapping: Field,
    i_ino: Field,
    i_size: Field,
    i_sb: Field,
    s_fs_info: Field,
    /// `hugetlbfs_sb_info.hstate`, `hstate.order`; none without huge pages.
    order: Option<(Field, Field)>,
    types: TypeFields,
    page: PageFields,
    /// `shmem_aops`
    shmem: Option<u64>,
}

/// Members of `struct page`, which `struct folio` shares.
#[derive(Debug, Clone, Copy)]
struct PageFields {
    flags: Field,
    mapping: Field,
    index: Field,
    compound_head: Field,
    uptodate: u32,
}

impl<'k, 'm> Cache<'k, 'm> {
    /// Looks the members up.
    ///
    /// # Errors
    /// [`KernelError`].
    pub fn new(kernel: &'k Kernel<'m>) -> Result<Self, KernelError> {
        let uptodate = kernel.enumerator("PG_uptodate").and_then(|n| u32::try_from(n).ok());
        let odd = KernelError::Odd { what: "the number of PG_uptodate", value: 0 };
        let order = || {
            let hstate = kernel.field("hugetlbfs_sb_info", "hstate").ok()?;
            Some((hstate, kernel.field("hstate", "order").ok()?))
        };
        let page = |path| kernel.field("page", path);
        let space = |path| kernel.field("address_space", path);
        let inode = |path| kernel.field("inode", path);
        Ok(Self {
            kernel,
            f_mapping: kernel.field("file", "f_mapping")?,
            host: space("host")?,
            i_pages: space("i_pages")?.offset,
            a_ops: space("a_ops")?,
            i_mapping: inode("i_mapping")?,
            i_ino: inode("i_ino")?,
            i_size: inode("i_size")?,
            i_sb: inode("i_sb")?,
            s_fs_info: kernel.field("super_block", "s_fs_info")?,
            order: order(),
            types: TypeFields::new(kernel)?,
            page: PageFields {
                flags: page("flags")?,
                mapping: page("mapping")?,
                index: kernel.field_of("page", &["index", "__folio_index"])?,
                compound_head: page("compound_head")?,
                uptodate: uptodate.filter(|n| *n < 32).ok_or(odd)?,
            },
            shmem: kernel.symbol("shmem_aops"),
        })
    }

    /// The pages of an open or mapped file, by the address of its `struct file`.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn of_file(&self, file: u64) -> Result<Mapping, Fault> {
        self.mapping(self.kernel.get(file, self.f_mapping)?)
    }

    /// The pages of a file, by the address of its `struct inode`.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn of_inode(&self, inode: u64) -> Result<Mapping, Fault> {
        self.mapping(self.kernel.get(inode, self.i_mapping)?)
    }

    fn mapping(&self, addr: u64) -> Result<Mapping, Fault> {
        let k = self.kernel;
        let inode = k.get(addr, self.host)?;
        let sb = k.get(inode, self.i_sb)?;
        let kind = type_name(k, &self.types, sb)?;
        let ops = k.get(addr, self.a_ops)?;
        let backing = match kind.as_slice() {
            b"hugetlbfs" => Backing::Huge(self.huge_pages(sb)?),
            b"tmpfs" | b"devtmpfs" if self.shmem.is_none_or(|s| s == ops) => Backing::Shmem,
            _ if self.shmem == Some(ops) => Backing::Shmem,
            _ => Backing::Disk,
        };
        let (number, size) = (k.get(inode, self.i_ino)?, k.get(inode, self.i_size)?);
        Ok(Mapping { addr, inode, number, size, backing })
    }

    /// Pages of a huge page of a file system.
    fn huge_pages(&self, sb: u64) -> Result<u64, Fault> {
        let malformed = Fault::malformed(sb);
        let (hstate, order) = self.order.ok_or(malformed)?;
        let info = self.kernel.get(sb, self.s_fs_info)?;
        let order = self.kernel.get(self.kernel.get(info, hstate)?, order)?;
        (order <= 18).then(|| 1 << order).ok_or(malformed)
    }

    /// Where page number `index` of a file is.
    ///
    /// # Errors
    /// [`Hole::FileOnly`] for a page that only the disk has, [`Hole::NotMapped`] for one
    /// behind the end of the file, and others for what is damaged.
    pub fn find(&self, of: &Mapping, index: u64) -> Result<Cached, Hole> {
        // The last page may reach behind the end.
        if index >= of.size.div_ceil(PAGE as u64) {
            return Err(Hole::NotMapped);
        }
        let array = of.addr.checked_add(self.i_pages).ok_or(Hole::Malformed)?;
        let load = |index| xa_load(self.kernel, array, index).map_err(|d| d.hole());
        match of.backing {
            Backing::Huge(pages) => {
                // In pages an entry stands for all of a huge page; in huge pages, for one.
                let here = load(index)?.filter(|i| i.count >= pages);
                let found = match here {
                    Some(item) => Some(item),
                    None => load(index / pages.max(1))?.filter(|i| i.count == 1),
                };
                match found {
                    Some(Item { entry: Entry::Pointer(page), .. }) => {
                        self.part(of, page, index % pages.max(1), None)
                    }
                    Some(_) => Err(Hole::Malformed),
                    None => Ok(Cached::Untouched),
                }
            }
            Backing::Shmem => match load(index)? {
                Some(Item { entry: Entry::Pointer(page), .. }) => self.page(of, page, index),
                // Of a folio that was swapped out as one, the entry is its first page's; the
                // offset is in the low bits of a `swp_entry_t`.
                Some(Item { entry: Entry::Value(swap), index: first, .. }) => {
                    Ok(Cached::Swap(swap.saturating_add(index.saturating_sub(first))))
                }
                None => Ok(Cached::Untouched),
            },
            Backing::Disk => match load(index)?.map(|i| i.entry) {
                Some(Entry::Pointer(page)) => self.page(of, page, index),
                Some(Entry::Value(_)) | None => Err(Hole::FileOnly),
            },
        }
    }

    /// How many pages from `first` on are not in memory, looked at at most 1 GiB ahead, and
    /// whether they are zeros or which hole; `None` if that must be looked at page by page.
    #[must_use]
    pub fn gap(&self, of: &Mapping, first: u64) -> Option<(u64, Result<(), Hole>)> {
        let pages = of.size.div_ceil(PAGE as u64);
        if first >= pages {
            return Some((u64::MAX - first, Err(Hole::NotMapped)));
        }
        let what = match of.backing {
            Backing::Disk => Err(Hole::FileOnly),
            Backing::Shmem => Ok(()),
            Backing::Huge(pages) => {
                // As good as one step for each huge page.
                let left = pages.max(1) - first % pages.max(1);
                return match self.find(of, first) {
                    Ok(Cached::Untouched) => Some((left, Ok(()))),
                    Ok(_) => None,
                    Err(why) => Some((left, Err(why))),
                };
            }
        };
        let array = of.addr.checked_add(self.i_pages)?;
        let is_page = |i: &&Item| what.is_ok() || matches!(i.entry, Entry::Pointer(_));
        let (mut gap, mut meaning) = (0, what);
        // Mostly there is something near; only where there is not, it pays to look further.
        for reach in [512, MAX_FOLIO] {
            let last = first.saturating_add(reach).min(pages) - 1;
            let found = xarray(self.kernel, array, first..=last, MAX_NODES);
            // What lies between might be where the array is damaged: it is not known then.
            meaning = found.damage.first().map_or(what, |d| Err(d.hole()));
            let next = found.items.iter().filter(is_page).map(|i| i.index.max(first)).min();
            gap = next.unwrap_or(last + 1) - first;
            if next.is_some() {
                break;
            }
        }
        (gap > 0).then_some((gap, meaning))
    }

    /// How many pages of a file are in memory, of its first 2^26 (256 GiB). Looked at 1 GiB at
    /// a time, so that this takes 8 MiB at most.
    #[must_use]
    pub fn held(&self, of: &Mapping) -> u64 {
        let Some(array) = of.addr.checked_add(self.i_pages) else { return 0 };
        let scale = if let Backing::Huge(pages) = of.backing { pages.max(1) } else { 1 };
        let pages = of.size.div_ceil(PAGE as u64).min(MAX_HELD);
        let mut held = 0u64;
        let mut first = 0;
        while first < pages {
            let last = (first + MAX_FOLIO).min(pages) - 1;
            let found = xarray(self.kernel, array, first..=last, MAX_NODES);
            for item in found.items.iter().filter(|i| matches!(i.entry, Entry::Pointer(_))) {
                let (from, end) = (item.index, item.index.saturating_add(item.count));
                let here = end.min(last + 1).saturating_sub(from.max(first));
                // An entry of huge pages may be one of them, see above.
                held = held.saturating_add(if item.count == 1 { scale } else { here });
            }
            first = last + 1;
        }
        held.min(pages)
    }

    /// Page `index` of a file, in the folio that begins with `struct page` `head`.
    fn page(&self, of: &Mapping, head: u64, index: u64) -> Result<Cached, Hole> {
        let first = self.kernel.get(head, self.page.index).map_err(|f| f.why)?;
        let inside = index.checked_sub(first).filter(|n| *n < MAX_FOLIO);
        self.part(of, head, inside.ok_or(Hole::Malformed)?, Some(self.page.uptodate))
    }

    /// Page number `inside` of a folio, if it is the file's.
    fn part(
        &self,
        of: &Mapping,
        head: u64,
        inside: u64,
        uptodate: Option<u32>,
    ) -> Result<Cached, Hole> {
        let get = |page, field| self.kernel.get(page, field).map_err(|f: Fault| f.why);
        let first = self.kernel.pfn_of(head).ok_or(Hole::Malformed)?;
        if get(head, self.page.mapping)? != of.addr {
            return Err(Hole::Malformed);
        }
        let flags = get(head, self.page.flags)?;
        if uptodate.is_some_and(|bit| flags >> bit & 1 == 0) {
            return match of.backing {
                // Room that was reserved by fallocate(2), and is cleared when it is touched.
                Backing::Shmem => Ok(Cached::Untouched),
                // It was on its way from the disk.
                _ => Err(Hole::FileOnly),
            };
        }
        let pfn = first.0.checked_add(inside).map(Pfn).ok_or(Hole::Malformed)?;
        if inside > 0 && uptodate.is_some() {
            // Pages of a folio know their first one. (Those of hugetlb may share one page of
            // such knowledge, with CONFIG_HUGETLB_PAGE_OPTIMIZE_VMEMMAP.)
            let known = get(self.kernel.page_struct(pfn), self.page.compound_head)?;
            if known != head | 1 {
                return Err(Hole::Malformed);
            }
        }
        Ok(Cached::Page(pfn))
    }

    /// Fills `out` with page number `index` of a file, if it is in memory; bytes behind the
    /// end of the file are zeros. Gives whether it was there, or is on swap.
    ///
    /// # Errors
    /// As [`Cache::find`], and what is wrong with the page in the dump.
    pub fn read(&self, of: &Mapping, index: u64, out: &mut [u8; PAGE]) -> Result<Cached, Hole> {
        let found = self.find(of, index)?;
        match found {
            Cached::Page(pfn) => self.kernel.machine().memory(pfn, out)?,
            Cached::Untouched => out.fill(0),
            Cached::Swap(_) => {}
        }
        Ok(found)
    }
}
