//! Partition tables of a disk or of a disk's image: GPT, and by way of [`crate::mbr`]
//! the older kind.
//!
//! As the kernel does (`block/partitions/efi.c`), GPT counts only where the master
//! boot record says so with an entry of type 0xee; header and entries must match
//! their CRC-32, and the backup at the end of the disk is used where the primary is
//! bad. Where the size of a logical block is not known (an image), 512 and 4096 are
//! tried. Allocates at most [`MAX_TABLE`] bytes and the list of partitions.

use std::io;

use lifeboat_format::crc32;

use crate::bytes::{guid_text, id16, le16, le32, le64};
use crate::mbr;

/// Most bytes of a table of entries: 8192 entries of 128 bytes; common is 16 KiB.
pub const MAX_TABLE: usize = 1 << 20;
/// Largest logical block, bytes.
const MAX_BLOCK: usize = 4096;
/// Least bytes of an entry, and characters of its name.
const ENTRY: usize = 128;

/// Reads bytes of a disk at an offset, all that were asked for.
pub type ReadAt<'a> = dyn FnMut(u64, &mut [u8]) -> io::Result<()> + 'a;

/// A partition. Offsets and lengths are bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Number, as in the kernel's device name.
    pub number: u32,
    /// First byte on the disk.
    pub start: u64,
    /// Length.
    pub len: u64,
    /// Type: a GUID in lower case, or `0x82` in an MSDOS table.
    pub type_id: String,
    /// Its own GUID in lower case, or `diskid-NN`: what `PARTUUID=` means.
    pub uuid: String,
    /// Name; empty in an MSDOS table.
    pub label: String,
}

/// Kind of a partition table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableKind {
    /// GPT.
    Gpt,
    /// GPT, of which only the backup is good.
    GptBackup,
    /// MSDOS.
    Msdos,
}

/// A partition table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its kind.
    pub kind: TableKind,
    /// Logical block size in bytes that it was read with.
    pub block: u32,
    /// GUID or signature of the disk.
    pub disk: String,
    /// Its partitions, in the order of their numbers.
    pub partitions: Vec<Partition>,
}

/// Why a partition table cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// Reading failed.
    #[error("cannot read the partition table: {0}")]
    Io(#[from] io::Error),
    /// The master boot record announces a GPT, and neither copy is good.
    #[error(
        "the GPT is damaged (primary: {primary}; backup: {backup})\nhint: `sgdisk --verify` says more; where one copy is good, sgdisk can restore the other"
    )]
    Damaged {
        /// What is wrong with the primary.
        primary: &'static str,
        /// What is wrong with the backup.
        backup: &'static str,
    },
    /// The block size is not one that disks have.
    #[error("a logical block of {0} bytes is not supported\nhint: 512 to 4096 are")]
    Block(u32),
}

/// Reads the partition table of a disk of `len` bytes. `block` is its logical block
/// size where that is known. `None` where there is no table.
///
/// # Errors
/// [`TableError`].
pub fn parse(
    read_at: &mut ReadAt<'_>,
    len: u64,
    block: Option<u32>,
) -> Result<Option<Table>, TableError> {
    let sizes: &[u32] = match block {
        Some(512) => &[512],
        Some(1024) => &[1024],
        Some(2048) => &[2048],
        Some(4096) => &[4096],
        Some(other) => return Err(TableError::Block(other)),
        None => &[512, 4096],
    };
    let mut sector = [0u8; 512];
    if len < 4096 {
        return Ok(None);
    }
    read_at(0, &mut sector)?;
    if !mbr::is_boot_record(&sector) {
        return Ok(None);
    }
    if !mbr::is_protective(&sector) {
        // Images of MSDOS disks are of 512-byte blocks, as far as one knows.
        return Ok(mbr::parse(read_at, &sector, len, block.unwrap_or(512)));
    }
    let (mut primary, mut backup) = ("not there", "not there");
    for (is_backup, why) in [(false, &mut primary), (true, &mut backup)] {
        for block in sizes {
            let lba = if is_backup { (len / u64::from(*block)).saturating_sub(1) } else { 1 };
            match read_gpt(read_at, len, *block, lba) {
                Ok(table) => {
                    let kind = if is_backup { TableKind::GptBackup } else { TableKind::Gpt };
                    return Ok(Some(Table { kind, ..table }));
                }
                // What a header says of itself tells more than that there is none.
                Err("no signature") if *why != "not there" => {}
                Err(what) => *why = what,
            }
        }
    }
    Err(TableError::Damaged { primary, backup })
}

/// Reads the header at `lba` and its entries.
fn read_gpt(
    read_at: &mut ReadAt<'_>,
    len: u64,
    block: u32,
    lba: u64,
) -> Result<Table, &'static str> {
    let size = u64::from(block);
    let mut raw = [0u8; MAX_BLOCK];
    let block_len = usize::try_from(block).map_err(|_| "block size")?;
    let header = raw.get_mut(..block_len).ok_or("block size")?;
    let at = lba.checked_mul(size).filter(|at| at.checked_add(size).is_some_and(|e| e <= len));
    read_at(at.ok_or("beyond the end")?, header).map_err(|_| "cannot be read")?;
    if !header.starts_with(b"EFI PART") {
        return Err("no signature");
    }
    let short = "header too short";
    let header_len = le32(header, 12).and_then(|n| usize::try_from(n).ok()).ok_or(short)?;
    if !(92..=block_len).contains(&header_len) {
        return Err("header size");
    }
    let want = le32(header, 16).ok_or(short)?;
    header.get_mut(16..20).ok_or(short)?.fill(0);
    if crc32(header.get(..header_len).ok_or(short)?) != want {
        return Err("checksum of the header");
    }
    if le64(header, 24) != Some(lba) {
        return Err("header is for another place");
    }
    let count = le32(header, 80).ok_or(short)?;
    let entry = le32(header, 84).and_then(|n| usize::try_from(n).ok()).ok_or(short)?;
    // The kernel and UEFI: 128 times a power of two.
    if !(ENTRY..=MAX_BLOCK).contains(&entry) || !entry.is_power_of_two() {
        return Err("size of an entry");
    }
    let table_len = usize::try_from(count).ok().and_then(|c| c.checked_mul(entry));
    let table_len = table_len.filter(|l| *l <= MAX_TABLE).ok_or("number of entries")?;
    let table_at = le64(header, 72).and_then(|l| l.checked_mul(size));
    let table_at = table_at
        .filter(|at| at.checked_add(table_len as u64).is_some_and(|e| e <= len))
        .ok_or("place of the entries")?;
    let mut table = vec![0u8; table_len];
    read_at(table_at, &mut table).map_err(|_| "entries cannot be read")?;
    if Some(crc32(&table)) != le32(header, 88) {
        return Err("checksum of the entries");
    }
    let disk = id16(header, 56).map(guid_text).ok_or(short)?;
    let partitions = (1u32..)
        .zip(table.chunks_exact(entry))
        .filter_map(|(number, raw)| read_entry(number, raw, size, len))
        .collect();
    Ok(Table { kind: TableKind::Gpt, block, disk, partitions })
}

/// One entry; `None` when it is unused or reaches over the end of the disk.
fn read_entry(number: u32, raw: &[u8], block: u64, len: u64) -> Option<Partition> {
    let type_id = id16(raw, 0).filter(|t| *t != [0; 16])?;
    let (first, last) = (le64(raw, 32)?, le64(raw, 40)?);
    let start = first.checked_mul(block)?;
    let end = last.checked_add(1)?.checked_mul(block)?;
    if end <= start || end > len {
        return None;
    }
    let name = (0..36).map_while(|i| le16(raw, 56 + 2 * i).filter(|c| *c != 0));
    let label = char::decode_utf16(name)
        .map(|c| c.ok().filter(|c| !c.is_control()).unwrap_or('\u{fffd}'))
        .collect();
    Some(Partition {
        number,
        start,
        len: end - start,
        type_id: guid_text(type_id),
        uuid: id16(raw, 16).map(guid_text)?,
        label,
    })
}

#[cfg(test)]
#[path = "gpt_tests.rs"]
pub(crate) mod tests;
