//! The block device under a swap area, and which of the captured ones it is.

use lifeboat_format::PAGE;
use lifeboat_sources::swap::{Signature, detect};

use crate::kernel::{Fault, Field, Kernel, KernelError};
use crate::machine::{Hole, Machine, SwapDevice};

use super::text;

/// Bytes of a sector, as the block layer counts.
const SECTOR: u64 = 512;
/// Sectors of a page.
const SECTORS: u64 = PAGE as u64 / SECTOR;
/// Longest name of a device that is read, bytes (`DISK_NAME_LEN` is 32).
const NAME: usize = 64;
/// Longest UUID of a partition, bytes (`PARTITION_META_INFO_UUIDLTH`).
const UUID: usize = 37;
/// Most targets of one mapping that are looked at.
const MAX_TARGETS: u64 = 256;

/// What lies under a swap area.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Under {
    /// A captured device: an index into [`Machine::swaps`].
    Captured(usize),
    /// zram: the address of its `struct gendisk`, and the page where a partition of it
    /// begins.
    Zram {
        /// Address of the `struct gendisk`.
        disk: u64,
        /// First page of the partition, 0 for the whole device.
        first: u64,
    },
    /// A mapping that encrypts (`dm-crypt`), whose key or device the dump does not have.
    Encrypted,
    /// One whose key and device the dump has: an index into [`Machine::swaps`].
    Unlocked(usize),
    /// A device that was not captured, or none that can be told apart from others.
    NotCaptured,
}

/// The block device that a swap area lies on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its name in the dead kernel, such as `vda2` or `dm-0`; empty where that is lost.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// UUID of its partition, lower case with hyphens, where the table has one.
    pub partuuid: Option<String>,
    /// What it is.
    pub under: Under,
    /// Address of its `struct block_device`.
    pub(super) at: u64,
}

/// A part of a mapping.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    /// First sector, and sectors.
    pub(super) begin: u64,
    pub(super) len: u64,
    /// What the target's driver knows of it.
    pub(super) private: u64,
    encrypts: bool,
}

/// Where block devices keep what, by BTF.
#[derive(Debug)]
pub(super) struct Devices {
    first: Field,
    sectors: Field,
    disk: Field,
    name: Field,
    meta: Field,
    uuid: Field,
    operations: Field,
    disk_name: Field,
    private: Field,
    zram: Option<u64>,
    mapper: Option<Mapper>,
}

/// Where the device mapper keeps what; a module often.
#[derive(Debug, Clone, Copy)]
struct Mapper {
    map: Field,
    count: Field,
    targets: Field,
    target: u64,
    begin: Field,
    len: Field,
    private: Field,
    kind: Field,
    /// The type of targets that encrypt, where dm-crypt is loaded.
    crypt: Option<u64>,
}

impl Mapper {
    fn new(kernel: &Kernel<'_>) -> Result<Self, KernelError> {
        Ok(Self {
            map: kernel.field("mapped_device", "map")?,
            count: kernel.field("dm_table", "num_targets")?,
            targets: kernel.field("dm_table", "targets")?,
            target: kernel.size("dm_target")?,
            begin: kernel.field("dm_target", "begin")?,
            len: kernel.field("dm_target", "len")?,
            private: kernel.field("dm_target", "private")?,
            kind: kernel.field("dm_target", "type")?,
            crypt: kernel.symbol("crypt_target"),
        })
    }

    /// The parts of a mapping, by its `struct mapped_device`; 256 of them at most.
    fn targets(self, kernel: &Kernel<'_>, mapped: u64) -> Result<Vec<Target>, Fault> {
        let table = kernel.get(mapped, self.map)?;
        let count = kernel.get(table, self.count)?.min(MAX_TARGETS);
        let targets = kernel.get(table, self.targets)?;
        let mut all = Vec::new();
        for number in 0..count {
            let target = targets.wrapping_add(number.wrapping_mul(self.target));
            let kind = kernel.get(target, self.kind)?;
            all.push(Target {
                begin: kernel.get(target, self.begin)?,
                len: kernel.get(target, self.len)?,
                private: kernel.get(target, self.private)?,
                encrypts: self.crypt == Some(kind),
            });
        }
        Ok(all)
    }
}

impl Devices {
    /// From the dead kernel's symbols and types.
    ///
    /// # Errors
    /// [`KernelError`].
    pub(super) fn new(kernel: &Kernel<'_>) -> Result<Self, KernelError> {
        let bdev = |path| kernel.field("block_device", path);
        let disk = |path| kernel.field("gendisk", path);
        Ok(Self {
            first: bdev("bd_start_sect")?,
            sectors: bdev("bd_nr_sectors")?,
            disk: bdev("bd_disk")?,
            name: bdev("bd_device.kobj.name")?,
            meta: bdev("bd_meta_info")?,
            uuid: kernel.field("partition_meta_info", "uuid")?,
            operations: disk("fops")?,
            disk_name: disk("disk_name")?,
            private: disk("private_data")?,
            zram: kernel.symbol("zram_devops"),
            mapper: Mapper::new(kernel).ok(),
        })
    }

    /// What the `struct block_device` at `bdev` is. With `pages`, a swap area of so many
    /// pages fills it, and its header must say the same.
    pub(super) fn describe(&self, kernel: &Kernel<'_>, bdev: u64, pages: Option<u64>) -> Device {
        let read = || {
            let sectors = kernel.get(bdev, self.sectors)?;
            let name = text(kernel, kernel.get(bdev, self.name)?, NAME)?;
            Ok::<_, Fault>((name, sectors.saturating_mul(SECTOR)))
        };
        let (name, bytes) = read().unwrap_or_default();
        let partuuid = self.partuuid(kernel, bdev);
        let lost = partuuid.is_err();
        let partuuid = partuuid.unwrap_or_default();
        let mut device = Device { name, bytes, partuuid, under: Under::NotCaptured, at: bdev };
        device.under = match self.special(kernel, bdev) {
            Ok(Some(under)) => under,
            // A UUID that is lost is not the same as none: another device might fit by its size.
            Ok(None) if !lost => {
                find(kernel.machine(), &device, pages).map_or(Under::NotCaptured, Under::Captured)
            }
            _ => Under::NotCaptured,
        };
        device
    }

    fn partuuid(&self, kernel: &Kernel<'_>, bdev: u64) -> Result<Option<String>, Fault> {
        let meta = kernel.get(bdev, self.meta)?;
        if meta == 0 {
            return Ok(None);
        }
        let at = meta.checked_add(self.uuid.offset).ok_or(Fault::malformed(meta))?;
        let uuid = text(kernel, at, UUID)?.to_lowercase();
        Ok(Some(uuid).filter(|u| !u.is_empty()))
    }

    /// Devices whose pages are not simply on a disk.
    fn special(&self, kernel: &Kernel<'_>, bdev: u64) -> Result<Option<Under>, Fault> {
        let disk = kernel.get(bdev, self.disk)?;
        let name = disk.checked_add(self.disk_name.offset).ok_or(Fault::malformed(disk))?;
        let name = text(kernel, name, NAME)?;
        let operations = kernel.get(disk, self.operations)?;
        if self.zram == Some(operations) || (self.zram.is_none() && name.starts_with("zram")) {
            let first = kernel.get(bdev, self.first)?;
            let whole = first.is_multiple_of(SECTORS);
            let zram = Under::Zram { disk, first: first / SECTORS };
            return Ok(Some(if whole { zram } else { Under::NotCaptured }));
        }
        if name.starts_with("dm-") {
            let crypt = self.targets(kernel, bdev)?.iter().any(|target| target.encrypts);
            return Ok(crypt.then_some(Under::Encrypted));
        }
        Ok(None)
    }

    /// The parts of the mapping whose `struct block_device` is at `bdev`; none where the
    /// device mapper is not known.
    pub(super) fn targets(&self, kernel: &Kernel<'_>, bdev: u64) -> Result<Vec<Target>, Fault> {
        let Some(mapper) = self.mapper else { return Ok(Vec::new()) };
        let disk = kernel.get(bdev, self.disk)?;
        mapper.targets(kernel, kernel.get(disk, self.private)?)
    }
}

/// Which captured device it is.
///
/// The UUID of the partition decides where both have one. Names are the crash kernel's, which
/// may have found disks in another order: they decide only between devices of the same size
/// whose swap headers fit. Where two are left, neither is taken: a page of the wrong device
/// would be wrong without a sign of it.
fn find(machine: &dyn Machine, device: &Device, pages: Option<u64>) -> Option<usize> {
    let all = || machine.swaps().iter().enumerate();
    let size = |d: &SwapDevice| d.bytes / PAGE as u64 == device.bytes / PAGE as u64;
    let fits = |number: usize| pages.is_none_or(|pages| header_says(machine, number, pages));
    let same = |d: &SwapDevice| match (&d.partuuid, &device.partuuid) {
        (Some(a), Some(b)) => Some(a.eq_ignore_ascii_case(b)),
        _ => None,
    };
    let known = all().find(|(_, d)| same(d) == Some(true));
    if let Some((number, captured)) = known {
        return (size(captured) && fits(number)).then_some(number);
    }
    let left: Vec<_> = all().filter(|(n, d)| same(d).is_none() && size(d) && fits(*n)).collect();
    match left.as_slice() {
        [(only, _)] => Some(*only),
        several => {
            let mut named = several.iter().filter(|(_, d)| d.name == device.name);
            let first = named.next().map(|(number, _)| *number);
            first.filter(|_| named.next().is_none())
        }
    }
}

/// Whether a captured device begins with the header of a swap area of so many pages. One that
/// cannot be read is no contradiction.
fn header_says(machine: &dyn Machine, device: usize, pages: u64) -> bool {
    let mut first = [0; PAGE];
    match machine.swap(device, 0, &mut first) {
        Ok(()) => match detect(&first) {
            // `setup_swap_map()`, `read_swap_header()`: as many pages as the last one's
            // number says, and one for the header.
            Some(Signature::Swap(header)) => {
                header.page_size as usize == PAGE && u64::from(header.last_page) + 1 == pages
            }
            _ => false,
        },
        Err(Hole::NotCaptured | Hole::Damaged | Hole::Unreadable) => true,
        Err(_) => false,
    }
}

#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;
