//! Pages that were swapped out: by a swap entry to the page, wherever it is.
//!
//! A swapped page is in one place that counts, and older copies may lie in others. They are
//! looked at in the order in which the kernel itself does (`do_swap_page()`,
//! `swap_read_folio()`): the swap cache, because a page there may be newer than all others;
//! the kernel's notes of pages that are all zeros; zswap; then the block device under the swap
//! area, which is a captured one or zram. Where the dead kernel keeps one of them in a way
//! that is not known, what comes after it is not looked at: an older copy would be a page
//! that pretends.
//!
//! | module | what it knows |
//! |---|---|
//! | `entry` | how a swap entry is packed |
//! | `area` | `swap_info`: the swap areas, their extents and their pages of zeros |
//! | `device` | what lies under an area, and which captured device it is |
//! | `crypt` | what dm-crypt encrypted, with the key that the dump holds |
//! | `cache` | the swap cache |
//! | `zswap`, `zpool` | compressed pages before a device, and the pools that they are in |
//! | `zram` | compressed pages as a device |
//! | `zsmalloc` | the allocator of both |
//! | `codec`, `lzo` | how a page is decompressed |

mod area;
mod cache;
mod codec;
mod crypt;
mod device;
mod entry;
mod lzo;
mod zpool;
mod zram;
mod zsmalloc;
mod zswap;

use std::cmp::Ordering;
use std::collections::BTreeMap;

use lifeboat_format::PAGE;
use lifeboat_sources::swap::{Signature, detect};

use crate::kernel::{Fault, Field, Kernel, KernelError};
use crate::machine::Hole;
use crate::mm;
use crate::walk::{self, Entry};

use area::Extents;
use cache::SwapCache;
use crypt::Crypt;
use device::Devices;
use zpool::Zpools;
use zram::Zram;
use zsmalloc::Zsmalloc;
use zswap::Zswap;

pub use area::Area;
pub use codec::{Codec, CodecError};
pub use device::{Device, Under};
pub use entry::SwapEntry;
pub use lzo::LzoError;

/// Deepest that a red-black tree is followed: one of 2^63 nodes is no deeper.
const MAX_DEPTH: usize = 128;
/// log2 of the pages that share an address space of the swap cache, and later a tree of
/// zswap (`SWAP_ADDRESS_SPACE_SHIFT`, kernel commit 4b3ef9daa4fc): a macro, so the numbers of
/// spaces that the kernel counted must fit it ([`Area`]).
const SPACE_SHIFT: u32 = 14;
/// Offset within those.
const SPACE_MASK: u64 = (1 << SPACE_SHIFT) - 1;

/// Where a page was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Whence {
    /// In memory, in the swap cache.
    SwapCache,
    /// On a captured swap device: an index into [`crate::Machine::swaps`].
    Disk {
        /// Which.
        device: usize,
    },
    /// Compressed in memory by zswap.
    Zswap,
    /// On a captured device that dm-crypt encrypted: an index into [`crate::Machine::swaps`].
    Encrypted {
        /// Which.
        device: usize,
    },
    /// On a zram device.
    Zram,
    /// Nowhere: the kernel noted that it is one word over and over.
    SameFilled,
}

/// The way to all swapped-out pages of a dead kernel. Shared by threads.
#[derive(Debug)]
pub struct Swapped<'k, 'm> {
    kernel: &'k Kernel<'m>,
    areas: Vec<Option<Area>>,
    extents: Extents,
    /// Of areas that are [`Under::Unlocked`], by their number.
    crypts: BTreeMap<u8, Crypt>,
    cache: Option<SwapCache>,
    zswap: Known<Zswap>,
    zpools: Option<Zpools>,
    zsmalloc: Option<Zsmalloc>,
    zram: Option<Zram>,
    problems: Vec<String>,
}

/// What is known of a part that a kernel may lack.
#[derive(Debug)]
enum Known<T> {
    Absent,
    There(T),
    /// It is there, and too different.
    Strange,
}

impl<'k, 'm> Swapped<'k, 'm> {
    /// Finds the swap areas, and what lies before and under them.
    ///
    /// # Errors
    /// [`KernelError`]: nothing can be known of any swap area. A part that is missing or
    /// strange is no error, but one of [`Swapped::problems`].
    pub fn open(kernel: &'k Kernel<'m>) -> Result<Self, KernelError> {
        let mut problems = Vec::new();
        let devices = Devices::new(kernel)?;
        let mut areas = area::areas(kernel, &devices, &mut problems)?;
        let extents = Extents::new(kernel)?;
        let crypts = unlock(kernel, &devices, &extents, &mut areas, &mut problems);
        let mut tell = |what: &str, why: KernelError| problems.push(format!("{what}: {why}"));
        let cache = SwapCache::new(kernel).map_err(|why| tell("swap cache", why)).ok();
        let zswap = match Zswap::new(kernel) {
            Ok(Some(zswap)) => Known::There(zswap),
            Ok(None) => Known::Absent,
            Err(why) => {
                tell("zswap", why);
                Known::Strange
            }
        };
        let on_zram = areas.iter().flatten().filter_map(|area| area.device.as_ref());
        let on_zram = on_zram.filter(|d| matches!(d.under, Under::Zram { .. })).count() > 0;
        let zram = match Zram::new(kernel) {
            Ok(zram) => Some(zram),
            Err(why) => {
                // A module that nobody swaps to may be missing without loss.
                if on_zram {
                    tell("zram", why);
                }
                None
            }
        };
        Ok(Self {
            kernel,
            areas,
            extents,
            crypts,
            cache,
            zswap,
            zpools: Zpools::new(kernel).ok(),
            zsmalloc: Zsmalloc::new(kernel).ok(),
            zram,
            problems,
        })
    }

    /// The swap areas in use, for a report.
    pub fn areas(&self) -> impl Iterator<Item = &Area> {
        self.areas.iter().flatten()
    }

    /// What could not be understood, for a report.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// Fills `out` with the page that a swap entry stands for, and says where it was.
    ///
    /// # Errors
    /// The [`Hole`] in its place; `out` is then of no meaning.
    pub fn page(&self, entry: SwapEntry, out: &mut [u8; PAGE]) -> Result<Whence, Hole> {
        let area = self.areas.get(usize::from(entry.area)).and_then(Option::as_ref);
        let area = area.ok_or(Hole::Malformed)?;
        // Page 0 is the header.
        if entry.offset == 0 || entry.offset >= area.pages {
            return Err(Hole::Malformed);
        }
        let cache = self.cache.as_ref().ok_or(Hole::Unsupported)?;
        let Some(cached) = cache.find(self.kernel, area, entry)? else {
            return self.beneath(area, entry, out);
        };
        match cache::read(self.kernel, cached, out) {
            Ok(()) => Ok(Whence::SwapCache),
            // The capture may have left the cache out; what is under it is then the same.
            Err(hole) if cached.clean => self.beneath(area, entry, out).map_err(|_| hole),
            Err(hole) => Err(hole),
        }
    }

    /// The page where the swap cache does not have it.
    fn beneath(&self, area: &Area, entry: SwapEntry, out: &mut [u8; PAGE]) -> Result<Whence, Hole> {
        if area.is_zeros(self.kernel, entry.offset)? {
            out.fill(0);
            return Ok(Whence::SameFilled);
        }
        match &self.zswap {
            Known::Absent => {}
            Known::Strange => return Err(Hole::Unsupported),
            Known::There(zswap) => {
                let zpools = self.zpools.as_ref();
                if let Some(whence) = zswap.page(self.kernel, zpools, area, entry, out)? {
                    return Ok(whence);
                }
            }
        }
        let device = area.device.as_ref().ok_or(elsewhere(area))?;
        let place = |first: u64| {
            let page = self.extents.page(self.kernel, area, entry.offset)?;
            page.checked_add(first).ok_or(Hole::Malformed)
        };
        match device.under {
            Under::Captured(device) => {
                self.kernel.machine().swap(device, place(0)?, out)?;
                Ok(Whence::Disk { device })
            }
            Under::Zram { disk, first } => {
                let zram = self.zram.as_ref().ok_or(Hole::Unsupported)?;
                zram.page(self.kernel, self.zsmalloc.as_ref(), disk, place(first)?, out)
            }
            Under::Unlocked(device) => {
                let crypt = self.crypts.get(&area.number).ok_or(Hole::Encrypted)?;
                crypt.page(self.kernel.machine(), place(0)?, out)?;
                Ok(Whence::Encrypted { device })
            }
            Under::Encrypted => Err(Hole::Encrypted),
            Under::NotCaptured => Err(elsewhere(area)),
        }
    }
}

impl mm::SwapIn for Swapped<'_, '_> {
    fn swap_in(&self, entry: mm::SwapEntry, out: &mut [u8; PAGE]) -> Result<(), Hole> {
        self.page(entry.into(), out).map(drop)
    }
}

/// The hole that a structure leaves which cannot be read. A pointer that leads nowhere is
/// damage of whatever it was read from, not a page that the process never had.
fn why(fault: Fault) -> Hole {
    if fault.why == Hole::NotMapped { Hole::Malformed } else { fault.why }
}

/// The hole of an area whose device was not captured.
fn elsewhere(area: &Area) -> Hole {
    if area.is_file { Hole::SwapFileNotCaptured } else { Hole::SwapNotCaptured }
}

/// Opens encrypted areas whose device and key the dump has. That it is the right key shows
/// the swap header, which must say how many pages the area has.
fn unlock(
    kernel: &Kernel<'_>,
    devices: &Devices,
    extents: &Extents,
    areas: &mut [Option<Area>],
    problems: &mut Vec<String>,
) -> BTreeMap<u8, Crypt> {
    let mut crypts = BTreeMap::new();
    for area in areas.iter_mut().flatten() {
        let locked = area.device.as_ref().filter(|d| d.under == Under::Encrypted);
        let Some(at) = locked.map(|device| device.at) else { continue };
        let number = area.number;
        let crypt = match Crypt::open(kernel, devices, at) {
            Ok(crypt) => crypt,
            Err(why) => {
                problems.push(format!("swap area {number} is encrypted: {why}"));
                continue;
            }
        };
        let mut first = [0; PAGE];
        let read = extents
            .page(kernel, area, 0)
            .and_then(|page| crypt.page(kernel.machine(), page, &mut first));
        let opens = match detect(&first) {
            Some(Signature::Swap(header)) if read.is_ok() => {
                let pages = u64::from(header.last_page) + 1;
                // A file whose last blocks cannot be used is shorter than its header says.
                pages == area.pages || (area.is_file && pages > area.pages)
            }
            _ => false,
        };
        if !opens {
            problems.push(format!("swap area {number} is encrypted: its key does not open it"));
            continue;
        }
        if let Some(device) = &mut area.device {
            device.under = Under::Unlocked(crypt.device());
        }
        crypts.insert(number, crypt);
    }
    crypts
}

/// A pointer of an XArray; `None` where it has none there, or a value instead.
fn load(kernel: &Kernel<'_>, array: u64, index: u64) -> Result<Option<u64>, Hole> {
    let found = walk::xa_load(kernel, array, index).map_err(|damage| match damage.hole() {
        Hole::NotMapped => Hole::Malformed,
        hole => hole,
    });
    match found? {
        Some(item) => match item.entry {
            Entry::Pointer(at) => Ok(Some(at)),
            Entry::Value(_) => Ok(None),
        },
        None => Ok(None),
    }
}

/// Down a red-black tree from `top` to the node that is wanted; `order` says of a node
/// whether that, by comparison, lies before or behind the wanted one.
///
/// # Errors
/// The [`Hole`] where the tree cannot be read; [`Hole::Malformed`] where it is deeper than any
/// is: it leads in a circle.
fn search(
    kernel: &Kernel<'_>,
    top: u64,
    [left, right]: [Field; 2],
    mut order: impl FnMut(u64) -> Result<Ordering, Hole>,
) -> Result<Option<u64>, Hole> {
    let mut at = top;
    for _ in 0..MAX_DEPTH {
        if at == 0 {
            return Ok(None);
        }
        let side = match order(at)? {
            Ordering::Equal => return Ok(Some(at)),
            Ordering::Greater => left,
            Ordering::Less => right,
        };
        at = kernel.get(at, side).map_err(why)?;
    }
    Err(Hole::Malformed)
}

/// A NUL-terminated text of at most `most` bytes.
fn text(kernel: &Kernel<'_>, addr: u64, most: usize) -> Result<String, Fault> {
    let bytes = kernel.string(addr, most)?;
    Ok(String::from_utf8_lossy(&bytes).replace(char::is_control, "\u{fffd}"))
}

/// One word over and over.
fn fill(out: &mut [u8; PAGE], word: u64) {
    for chunk in out.chunks_exact_mut(8) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
}
