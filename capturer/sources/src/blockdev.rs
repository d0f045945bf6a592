//! Block devices by sysfs, with the partition table read from the disk itself.
//!
//! sysfs tells name, size and start of each partition, and in its uevent the GPT label
//! (`PARTNAME`); the UUID and the type it does not tell in 6.12
//! (`part_uevent()`, `block/partitions/core.c`). So the table is read, and its
//! partitions are matched with the kernel's by start and length.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use lifeboat_format::bootcfg::Selector;
use lifeboat_format::{BLOCK, Superblock};
use rustix::fs::OFlags;

use crate::gpt::{self, Table};
use crate::swap::{self, Signature};

/// Most block devices that are looked at.
pub const MAX_BLOCKS: usize = 4096;
/// sysfs counts sectors of 512 bytes, whatever the device's block size.
const SECTOR: u64 = 512;
/// Longest attribute that is read, bytes.
const MAX_ATTRIBUTE: usize = 4096;

/// A disk or a partition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Block {
    /// The kernel's name, such as `nvme0n1p3`.
    pub name: String,
    /// Its node, `/dev/nvme0n1p3`.
    pub path: PathBuf,
    /// Name of its disk; its own name when it is a disk.
    pub disk: String,
    /// Number of the partition; `None` for a disk.
    pub partition: Option<u32>,
    /// First byte on the disk, 0 for a disk.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// Logical block size of the disk, bytes.
    pub logical_block: u32,
    /// Label of a GPT partition.
    pub partlabel: Option<String>,
    /// What `PARTUUID=` means, lower case.
    pub partuuid: Option<String>,
    /// Type GUID in lower case, or `0x82` in an MSDOS table.
    pub parttype: Option<String>,
    /// Worldwide name or serial number of the disk: the same on every path to it.
    pub disk_id: Option<String>,
    /// A disk on which the kernel found partitions.
    pub has_partitions: bool,
    /// A disk's partition table that cannot be read.
    pub table_error: Option<String>,
}

/// Why a selector gives no device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FindError {
    /// Nothing matches.
    #[error(
        "{selector}: no such device among {seen}\nhint: the disk may be missing, or its driver, or the partition was renamed"
    )]
    Missing {
        /// What was looked for.
        selector: String,
        /// Names of what there is.
        seen: String,
    },
    /// Several match.
    #[error(
        "{selector}: {found} all match\nhint: name the partition by its partuuid, or rename all but one"
    )]
    Ambiguous {
        /// What was looked for.
        selector: String,
        /// Names of what matches.
        found: String,
    },
}

/// All block devices with a size, sorted by name, and at most [`MAX_BLOCKS`].
///
/// # Errors
/// sysfs cannot be read. A single device that fails is left out, and a partition
/// table that fails is in [`Block::table_error`].
pub fn enumerate() -> io::Result<Vec<Block>> {
    enumerate_in(Path::new("/sys"), Path::new("/dev"))
}

/// [`enumerate`], with sysfs and the device nodes in other places.
///
/// # Errors
/// As [`enumerate`].
pub fn enumerate_in(sys: &Path, dev: &Path) -> io::Result<Vec<Block>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(sys.join("class/block"))?.take(MAX_BLOCKS) {
        names.push(entry?.path());
    }
    names.sort_unstable();
    let mut blocks: Vec<Block> = names.iter().filter_map(|p| read_block(p, dev)).collect();
    let disks: Vec<String> =
        blocks.iter().filter(|b| b.partition.is_some()).map(|b| b.disk.clone()).collect();
    for block in blocks.iter_mut().filter(|b| b.partition.is_none()) {
        block.has_partitions = disks.contains(&block.name);
    }
    for disk in disks_of(&blocks) {
        let table = read_table(&disk);
        for block in blocks.iter_mut().filter(|b| b.disk == disk.name) {
            match &table {
                Ok(Some(table)) => describe(block, table),
                Ok(None) => {}
                Err(e) if block.partition.is_none() => block.table_error = Some(e.clone()),
                Err(_) => {}
            }
        }
    }
    Ok(blocks)
}

fn disks_of(blocks: &[Block]) -> Vec<Block> {
    blocks.iter().filter(|b| b.has_partitions).cloned().collect()
}

/// An attribute's text without the line's end. Bounded, whatever sysfs would give.
fn attribute(dir: &Path, name: &str) -> Option<String> {
    let file = File::open(dir.join(name)).ok()?;
    let mut buf = vec![0u8; MAX_ATTRIBUTE];
    let n = file.read_at(&mut buf, 0).ok()?;
    buf.truncate(n);
    Some(String::from_utf8_lossy(&buf).trim_end().to_owned())
}

fn number(dir: &Path, name: &str) -> Option<u64> {
    attribute(dir, name)?.parse().ok()
}

fn read_block(link: &Path, dev: &Path) -> Option<Block> {
    let dir = fs::canonicalize(link).ok()?;
    let name = link.file_name()?.to_str()?.to_owned();
    // Memory of this kernel, and the hidden halves of NVMe multipath (no node).
    if ["ram", "zram"].iter().any(|p| name.starts_with(p)) || number(&dir, "hidden") == Some(1) {
        return None;
    }
    let len = number(&dir, "size")?.checked_mul(SECTOR).filter(|len| *len > 0)?;
    let partition = match attribute(&dir, "partition") {
        Some(text) => Some(text.parse().ok()?),
        None => None,
    };
    let disk_dir = if partition.is_some() { dir.parent()?.to_owned() } else { dir.clone() };
    let start = if partition.is_some() { number(&dir, "start")?.checked_mul(SECTOR)? } else { 0 };
    start.checked_add(len)?;
    let uevent = attribute(&dir, "uevent").unwrap_or_default();
    let label = uevent.lines().find_map(|l| l.strip_prefix("PARTNAME="));
    let block = number(&disk_dir, "queue/logical_block_size").and_then(|n| n.try_into().ok());
    Some(Block {
        // A slash in a device's name is an exclamation mark in sysfs (cciss!c0d0).
        path: dev.join(name.replace('!', "/")),
        disk: disk_dir.file_name()?.to_str()?.to_owned(),
        partition,
        start,
        len,
        logical_block: block.unwrap_or(512),
        partlabel: label.map(str::to_owned),
        disk_id: ["wwid", "device/wwid", "serial"]
            .iter()
            .find_map(|a| attribute(&disk_dir, a).filter(|v| !v.is_empty())),
        name,
        ..Block::default()
    })
}

fn read_table(disk: &Block) -> Result<Option<Table>, String> {
    let mut reader = DiskReader::open(&disk.path).map_err(|e| e.to_string())?;
    let mut read = |at: u64, buf: &mut [u8]| reader.read_at(at, buf);
    gpt::parse(&mut read, disk.len, Some(disk.logical_block)).map_err(|e| e.to_string())
}

/// Adds what the table says of a partition at the same place.
fn describe(block: &mut Block, table: &Table) {
    let same = |p: &&gpt::Partition| p.start == block.start && p.len == block.len;
    let Some(found) = block.partition.and_then(|_| table.partitions.iter().find(same)) else {
        return;
    };
    block.partuuid = Some(found.uuid.clone());
    block.parttype = Some(found.type_id.clone());
    if !found.label.is_empty() {
        block.partlabel = Some(found.label.clone());
    }
}

/// The one device that a selector names. Of several paths to one disk (the same
/// worldwide name, the same place) the first is taken.
///
/// # Errors
/// [`FindError`], which lists what there is.
pub fn find<'b>(blocks: &'b [Block], selector: &Selector) -> Result<&'b Block, FindError> {
    let matches: Vec<&Block> = blocks.iter().filter(|b| is_match(b, selector)).collect();
    let names = |list: &[&Block]| {
        let names: Vec<String> = list.iter().map(|b| b.path.display().to_string()).collect();
        if names.is_empty() { "no disks at all".to_owned() } else { names.join(", ") }
    };
    let selector = || selector.to_string();
    match matches.split_first() {
        None => {
            let seen = names(&blocks.iter().collect::<Vec<_>>());
            Err(FindError::Missing { selector: selector(), seen })
        }
        Some((first, others)) if others.iter().all(|o| same_place(first, o)) => Ok(first),
        Some(_) => Err(FindError::Ambiguous { selector: selector(), found: names(&matches) }),
    }
}

fn same_place(a: &Block, b: &Block) -> bool {
    a.disk_id.is_some() && (&a.disk_id, a.start, a.len) == (&b.disk_id, b.start, b.len)
}

fn is_match(block: &Block, selector: &Selector) -> bool {
    let swap = |test: &dyn Fn(&swap::SwapHeader) -> bool| matches!(swap::probe(block), Ok(Some(Signature::Swap(h))) if test(&h));
    match selector {
        Selector::PartLabel(v) => block.partlabel.as_deref() == Some(v),
        Selector::PartUuid(v) => block.partuuid.as_deref() == Some(v),
        Selector::PartType(v) => block.parttype.as_deref() == Some(v),
        Selector::Label(v) => !block.has_partitions && swap(&|h| h.label == **v),
        Selector::Uuid(v) => !block.has_partitions && swap(&|h| h.uuid == **v),
        Selector::Volume(v) => !block.has_partitions && is_volume(block, v),
        Selector::Path(v) => {
            let path = Path::new(&**v);
            block.path == path || fs::canonicalize(path).is_ok_and(|real| block.path == real)
        }
    }
}

/// Whether a block device begins with a superblock of the volume that `id` names, or
/// ends with its copy: that such a volume is refused later is told, and one that is
/// not found would only be missing.
fn is_volume(block: &Block, id: &str) -> bool {
    let Ok(mut reader) = DiskReader::open(&block.path) else { return false };
    let ends = [0, Superblock::backup_at(block.len - block.len % BLOCK as u64).0];
    ends.into_iter().any(|at| {
        let mut bytes = [0u8; BLOCK];
        reader.read_at(at, &mut bytes).is_ok()
            && Superblock::decode(&bytes).is_ok_and(|sb| {
                let (pairs, rest) = id.as_bytes().as_chunks::<2>();
                rest.is_empty()
                    && pairs.len() == sb.volume_id.len()
                    && pairs
                        .iter()
                        .zip(sb.volume_id)
                        .all(|(p, b)| format!("{b:02x}").as_bytes() == p)
            })
    })
}

/// Opens a device or file read-only, with `O_DIRECT` where that is possible; whether
/// it was.
///
/// # Errors
/// It cannot be opened at all.
pub fn open_direct(path: &Path) -> io::Result<(File, bool)> {
    let flags = i32::try_from(OFlags::DIRECT.bits()).map_err(|_| io::ErrorKind::Unsupported)?;
    match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => Ok((file, true)),
        // tmpfs and some drivers know no direct I/O.
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => Ok((File::open(path)?, false)),
        Err(e) => Err(e),
    }
}

/// Reads any bytes of a device by aligned direct reads.
#[derive(Debug)]
pub struct DiskReader {
    file: File,
    bounce: Vec<u8>,
    skip: usize,
}

/// Bytes read at once; a multiple of every logical block size.
const BOUNCE: usize = 64 << 10;
/// Alignment that every device is content with.
const ALIGN: usize = 4096;

impl DiskReader {
    /// Opens a device. Allocates 68 KiB.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let (file, _) = open_direct(path)?;
        let bounce = vec![0u8; BOUNCE + ALIGN];
        let skip = bounce.as_ptr().addr().wrapping_neg() % ALIGN;
        Ok(Self { file, bounce, skip })
    }

    /// Fills `buf` from byte `offset` of the device on.
    ///
    /// # Errors
    /// The device's error, or the end of the device.
    pub fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = io::ErrorKind::UnexpectedEof;
        let mut at = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            let inside = usize::try_from(at % ALIGN as u64).map_err(|_| end)?;
            let want = (inside + rest.len()).next_multiple_of(ALIGN).min(BOUNCE);
            let aligned = self.bounce.get_mut(self.skip..self.skip + want).ok_or(end)?;
            let n = self.file.read_at(aligned, at - inside as u64)?;
            let got = aligned.get(inside..n.min(want)).filter(|g| !g.is_empty()).ok_or(end)?;
            let len = got.len().min(rest.len());
            let (now, later) = rest.split_at_mut_checked(len).ok_or(end)?;
            now.copy_from_slice(got.get(..len).ok_or(end)?);
            rest = later;
            at = at.checked_add(len as u64).ok_or(end)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "blockdev_tests.rs"]
pub(crate) mod tests;
