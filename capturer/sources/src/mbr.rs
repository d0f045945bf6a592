//! MSDOS partition tables, as the kernel reads them (`block/partitions/msdos.c`):
//! four primary partitions and a chain of logical ones. Block numbers are in units
//! of the logical block; a partition's `PARTUUID` is `signature-NN`, hexadecimal.

use crate::bytes::le32;
use crate::gpt::{Partition, ReadAt, Table, TableKind};

/// Longest chain of logical partitions; the kernel stops there too.
pub const MAX_LOGICAL: u32 = 100;

struct Entry {
    kind: u8,
    start: u64,
    blocks: u64,
}

impl Entry {
    fn is_extended(&self) -> bool {
        matches!(self.kind, 0x05 | 0x0f | 0x85)
    }
}

fn entry(sector: &[u8; 512], index: usize) -> Option<Entry> {
    let raw = sector.get(446 + 16 * index..446 + 16 * (index + 1))?;
    let kind = *raw.get(4)?;
    let (start, blocks) = (u64::from(le32(raw, 8)?), u64::from(le32(raw, 12)?));
    (blocks != 0).then_some(Entry { kind, start, blocks })
}

/// Whether a sector ends with the signature of a boot record.
#[must_use]
pub fn is_boot_record(sector: &[u8; 512]) -> bool {
    sector.ends_with(&[0x55, 0xaa])
}

/// Whether a boot record announces a GPT: an entry of type 0xee that begins at block 1.
#[must_use]
pub fn is_protective(sector: &[u8; 512]) -> bool {
    (0..4).filter_map(|i| entry(sector, i)).any(|e| e.kind == 0xee && e.start == 1)
}

/// The partitions of the boot record `sector`. `None` where its entries are not those
/// of a partition table (the boot sector of a filesystem has the same signature).
pub(crate) fn parse(
    read_at: &mut ReadAt<'_>,
    sector: &[u8; 512],
    len: u64,
    block: u32,
) -> Option<Table> {
    // The kernel: a boot indicator is 0 or 0x80.
    let flag = |i: usize| sector.get(446 + 16 * i).is_some_and(|b| b & 0x7f == 0);
    if !(0..4).all(flag) {
        return None;
    }
    let signature = le32(sector, 440)?;
    let mut table = Table {
        kind: TableKind::Msdos,
        block,
        disk: format!("{signature:08x}"),
        partitions: Vec::new(),
    };
    for (number, e) in (1u32..).zip(0..4).filter_map(|(n, i)| Some((n, entry(sector, i)?))) {
        add(&mut table, signature, number, &e, 0, len);
    }
    let extended = (0..4).filter_map(|i| entry(sector, i)).find(Entry::is_extended);
    if let Some(extended) = extended {
        logical(read_at, &mut table, signature, &extended, len);
    }
    Some(table)
}

/// Adds a partition that lies within the disk and is not extended.
fn add(table: &mut Table, signature: u32, number: u32, e: &Entry, base: u64, len: u64) -> bool {
    let block = u64::from(table.block);
    // 32-bit numbers of blocks of at most 4096 bytes: nothing overflows.
    let (start, size) = ((base + e.start) * block, e.blocks * block);
    if e.is_extended() || start + size > len {
        return false;
    }
    table.partitions.push(Partition {
        number,
        start,
        len: size,
        type_id: format!("{:#04x}", e.kind),
        uuid: format!("{signature:08x}-{number:02x}"),
        label: String::new(),
    });
    true
}

/// Follows the chain of logical partitions, at most [`MAX_LOGICAL`] links.
fn logical(
    read_at: &mut ReadAt<'_>,
    table: &mut Table,
    signature: u32,
    extended: &Entry,
    len: u64,
) {
    let block = u64::from(table.block);
    let end = extended.start + extended.blocks;
    let (mut this, mut size) = (extended.start, extended.blocks);
    let mut number = 5;
    for _ in 0..MAX_LOGICAL {
        let mut sector = [0u8; 512];
        let at = this * block;
        if at.saturating_add(512) > len
            || read_at(at, &mut sector).is_err()
            || !is_boot_record(&sector)
        {
            return;
        }
        let mut next = None;
        for (i, e) in (0..4).filter_map(|i| Some((i, entry(&sector, i)?))) {
            if e.is_extended() {
                next = next.or(Some((extended.start + e.start, e.blocks)));
                continue;
            }
            // The third and fourth entry sometimes hold garbage.
            let strange = i >= 2 && (e.start + e.blocks > size || this + e.start + e.blocks > end);
            if !strange && add(table, signature, number, &e, this, len) {
                number += 1;
            }
        }
        match next {
            Some((start, blocks)) => (this, size) = (start, blocks),
            None => return,
        }
    }
}
