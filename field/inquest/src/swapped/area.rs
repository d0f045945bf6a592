//! Swap areas: the kernel's `swap_info`, one for each `swapon` (`mm/swapfile.c`).

use std::cmp::Ordering;

use crate::kernel::{Fault, Field, Kernel, KernelError};
use crate::machine::Hole;
use crate::mm;

use super::device::{Device, Devices, Under};
use super::{SPACE_SHIFT, search, why};

/// A swap area in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Area {
    /// Its number: [`super::SwapEntry::area`].
    pub number: u8,
    /// Priority; the highest is filled first.
    pub priority: i64,
    /// Pages that it has, with the one of the header.
    pub pages: u64,
    /// Pages of it in use, where known.
    pub used: Option<u64>,
    /// Whether it is a file of a file system, not a block device.
    pub is_file: bool,
    /// Address of the `struct file` that was given to `swapon`: of the swap file, or of the
    /// device's node. 0 where that is lost.
    pub file: u64,
    /// The block device that its pages lie on; `None` where a file system moves them itself.
    pub device: Option<Device>,
    /// Top of the tree of extents.
    extents: u64,
    /// Bits for pages that are all zeros and nowhere, where the kernel has them.
    zeros: Option<u64>,
}

/// Where the kernel keeps swap areas, by symbols and BTF.
#[derive(Debug)]
struct Layout {
    flags: Field,
    priority: Field,
    pages: Field,
    used: Option<Field>,
    extents: Field,
    bdev: Field,
    file: Field,
    zeros: Option<Field>,
    is_used: u64,
    is_device: u64,
    is_moved: u64,
}

/// Where an extent keeps what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extents {
    node: Field,
    left: Field,
    right: Field,
    first: Field,
    count: Field,
    block: Field,
}

impl Extents {
    /// From the dead kernel's types.
    ///
    /// # Errors
    /// [`KernelError`].
    pub(super) fn new(kernel: &Kernel<'_>) -> Result<Self, KernelError> {
        let field = |path| kernel.field("swap_extent", path);
        Ok(Self {
            node: field("rb_node")?,
            left: kernel.field("rb_node", "rb_left")?,
            right: kernel.field("rb_node", "rb_right")?,
            first: field("start_page")?,
            count: field("nr_pages")?,
            block: field("start_block")?,
        })
    }

    /// Which page of the device an offset is (`offset_to_swap_extent()`): a swap file's
    /// extents, or the one of a device. Blocks are of a page each.
    ///
    /// # Errors
    /// The [`Hole`] where the tree does not tell.
    pub(super) fn page(&self, kernel: &Kernel<'_>, area: &Area, offset: u64) -> Result<u64, Hole> {
        let get = |object, field| kernel.get(object, field).map_err(why);
        let mut inside = 0;
        let found = search(kernel, area.extents, [self.left, self.right], |at| {
            let extent = at.wrapping_sub(self.node.offset);
            let (first, count) = (get(extent, self.first)?, get(extent, self.count)?);
            let end = first.checked_add(count).ok_or(Hole::Malformed)?;
            Ok(match offset {
                before if before < first => Ordering::Greater,
                behind if behind >= end => Ordering::Less,
                _ => {
                    inside = offset - first;
                    Ordering::Equal
                }
            })
        })?;
        let extent = found.ok_or(Hole::Malformed)?.wrapping_sub(self.node.offset);
        get(extent, self.block)?.checked_add(inside).ok_or(Hole::Malformed)
    }
}

impl Area {
    /// Which of the parts of 64 MiB that an area's cache is split into (`SWAP_ADDRESS_SPACE_SHIFT`) an
    /// offset is in. The kernel's own count of them must be what that size gives: a kernel
    /// that splits otherwise is not misread.
    ///
    /// # Errors
    /// [`Hole::Malformed`].
    pub(super) fn space(&self, offset: u64, count: u64) -> Result<u64, Hole> {
        let want = self.pages.div_ceil(1 << SPACE_SHIFT);
        // A file whose last blocks cannot be used shrinks after the parts are made.
        let most = want + u64::from(self.is_file);
        let number = offset >> SPACE_SHIFT;
        ((want..=most).contains(&count) && number < count).then_some(number).ok_or(Hole::Malformed)
    }

    /// Whether the page is all zeros and was therefore never written
    /// (`swap_info_struct.zeromap`, kernel commit 0ca0c24e3211).
    pub(super) fn is_zeros(&self, kernel: &Kernel<'_>, offset: u64) -> Result<bool, Hole> {
        let Some(bits) = self.zeros else { return Ok(false) };
        let at = bits.checked_add(offset / 8).ok_or(Hole::Malformed)?;
        let byte = kernel.u8(at).map_err(why)?;
        Ok(byte >> (offset % 8) & 1 == 1)
    }
}

impl Layout {
    fn new(kernel: &Kernel<'_>) -> Result<Self, KernelError> {
        let field = |path| kernel.field("swap_info_struct", path);
        let flag = |name: &'static str| {
            let value = kernel.enumerator(name).and_then(|v| u64::try_from(v).ok());
            value.ok_or(KernelError::Odd { what: name, value: u64::MAX })
        };
        Ok(Self {
            flags: field("flags")?,
            priority: field("prio")?,
            pages: field("max")?,
            used: field("inuse_pages").ok().filter(|f| f.size > 0),
            extents: field("swap_extent_root.rb_node")?,
            bdev: field("bdev")?,
            file: field("swap_file")?,
            zeros: field("zeromap").ok(),
            is_used: flag("SWP_USED")?,
            is_device: flag("SWP_BLKDEV")?,
            is_moved: flag("SWP_FS_OPS")?,
        })
    }
}

/// All swap areas by number, `None` where there is none, and what was wrong with the rest.
///
/// # Errors
/// [`KernelError`]: nothing can be known of any.
pub(super) fn areas(
    kernel: &Kernel<'_>,
    devices: &Devices,
    problems: &mut Vec<String>,
) -> Result<Vec<Option<Area>>, KernelError> {
    let layout = Layout::new(kernel)?;
    let count = mm::swapfiles(kernel)?;
    let table = kernel.need("swap_info")?;
    let mut all = Vec::new();
    for number in 0..u8::try_from(count).unwrap_or(0) {
        match area(kernel, &layout, devices, table, number) {
            Ok(area) => all.push(area),
            Err(fault) => {
                problems.push(format!("swap area {number}: {fault}"));
                all.push(None);
            }
        }
    }
    contested(kernel, &mut all, problems);
    Ok(all)
}

/// One device is under one area only. What was taken for several, by its size and header, is
/// left to the one that it is under by the UUID of its partition, if any: the others lie on
/// devices that were not captured.
fn contested(kernel: &Kernel<'_>, all: &mut [Option<Area>], problems: &mut Vec<String>) {
    let swaps = kernel.machine().swaps();
    let under = |area: &Area| match area.device.as_ref()?.under {
        Under::Captured(number) if !area.is_file => Some(number),
        _ => None,
    };
    for number in 0..swaps.len() {
        let claims = all.iter().flatten().filter(|a| under(a) == Some(number)).count();
        let known = swaps.get(number).is_some_and(|d| d.partuuid.is_some());
        for area in all.iter_mut().flatten().filter(|a| claims > 1 && under(a) == Some(number)) {
            let Some(device) = &mut area.device else { continue };
            if !(known && device.partuuid.is_some()) {
                device.under = Under::NotCaptured;
                problems.push(format!(
                    "swap area {}: the captured device of its size is another area's, or cannot be told from it",
                    area.number
                ));
            }
        }
    }
}

fn area(
    kernel: &Kernel<'_>,
    layout: &Layout,
    devices: &Devices,
    table: u64,
    number: u8,
) -> Result<Option<Area>, Fault> {
    let info = kernel.u64(table.wrapping_add(u64::from(number) * 8))?;
    if info == 0 {
        return Ok(None);
    }
    let flags = kernel.get(info, layout.flags)?;
    if flags & layout.is_used == 0 {
        return Ok(None);
    }
    let is_file = flags & layout.is_device == 0;
    let pages = kernel.get(info, layout.pages)?;
    let bdev = kernel.get(info, layout.bdev)?;
    let moved = flags & layout.is_moved != 0 || bdev == 0;
    // A device's header says how many pages it has; a file's lies within the file system.
    let fills = (!is_file).then_some(pages);
    let zeros = match layout.zeros {
        Some(field) => Some(kernel.get(info, field)?).filter(|bits| *bits != 0),
        None => None,
    };
    Ok(Some(Area {
        number,
        priority: kernel.get_signed(info, layout.priority)?,
        pages,
        used: layout.used.and_then(|field| kernel.get(info, field).ok()),
        is_file,
        file: kernel.get(info, layout.file).unwrap_or(0),
        device: (!moved).then(|| devices.describe(kernel, bdev, fills)),
        extents: kernel.get(info, layout.extents)?,
        zeros,
    }))
}
