//! What a disk with a volatile write cache may hold when the power goes: the log of
//! QEMU's `blklogwrites` driver (docs: the Linux kernel's dm-log-writes), replayed in part.
//!
//! Everything that a finished flush covers is there; of what came after it, any sectors
//! may be and any may not. The log gives a write its place when it is submitted, so a
//! write that was still in flight at a flush counts as covered: this is that much
//! kinder than a real disk.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::error::{Context as _, Res, ensure};

const SECTOR: u64 = 512;
const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;

/// One entry of the log.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// First sector that is written.
    sector: u64,
    /// How many.
    sectors: u64,
    flags: u64,
    /// Byte of the log where the data lies.
    data: u64,
}

/// What was replayed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Writes in the log.
    pub writes: usize,
    /// Flushes.
    pub flushes: usize,
    /// Writes behind the last flush.
    pub unflushed: usize,
    /// Sectors of those that were lost.
    pub lost: u64,
}

/// Applies the log to `disk`, which is as it was when the log began. `random` decides
/// what is lost of the writes behind the last flush: half of them whole, and of every
/// other a random set of sectors.
///
/// # Errors
/// When a file fails, or the log is not one.
pub fn replay(log: &Path, disk: &Path, mut random: impl FnMut() -> u64) -> Res<Replayed> {
    let file = File::open(log).ctx(log.display())?;
    let entries = read(&file)?;
    let to = OpenOptions::new().write(true).open(disk).ctx(disk.display())?;
    let flushed = entries.iter().rposition(|e| e.flags & FLUSH != 0).map_or(0, |at| at + 1);
    let mut done = Replayed {
        flushes: entries.iter().filter(|e| e.flags & FLUSH != 0).count(),
        ..Replayed::default()
    };
    for (number, entry) in entries.iter().enumerate().filter(|(_, e)| e.sectors > 0) {
        done.writes += 1;
        let safe = number < flushed || entry.flags & FUA != 0;
        done.unflushed += usize::from(!safe);
        // 0: all of it is lost, 1: any of its sectors, 2 and 3: nothing.
        let fate = if safe { 3 } else { random() % 4 };
        let mut bytes = vec![0u8; usize::try_from(entry.sectors * SECTOR).unwrap_or(0)];
        file.read_exact_at(&mut bytes, entry.data).ctx(log.display())?;
        for (n, sector) in (0u64..).zip(bytes.chunks_exact(512)) {
            if fate == 0 || (fate == 1 && random().is_multiple_of(2)) {
                done.lost += 1;
                continue;
            }
            to.write_all_at(sector, (entry.sector + n) * SECTOR).ctx(disk.display())?;
        }
    }
    Ok(done)
}

/// All whole entries of a log. Its first block, with magic and count, is written at a
/// flush only and lags behind when QEMU was killed, so the entries themselves are
/// followed; the file was empty at the start.
fn read(file: &File) -> Res<Vec<Entry>> {
    let len = file.metadata().ctx("the write log")?.len();
    let word = |at: u64| {
        let mut bytes = [0u8; 8];
        file.read_exact_at(&mut bytes, at).map(|()| u64::from_le_bytes(bytes)).ctx("the write log")
    };
    if len == 0 {
        return Ok(Vec::new());
    }
    let magic = word(0)?;
    ensure(
        magic == MAGIC || magic == 0,
        format_args!("the write log of {len} bytes begins with {magic:#x}"),
    )?;
    let (mut at, mut out) = (SECTOR, Vec::new());
    while at + SECTOR <= len {
        let (sector, sectors, flags) = (word(at)?, word(at + 8)?, word(at + 16)?);
        if sectors == 0 && flags == 0 {
            break;
        }
        ensure(flags < 32 && sectors < 1 << 20, format_args!("no write log at byte {at}"))?;
        let data = if flags & DISCARD == 0 { sectors * SECTOR } else { 0 };
        if at + SECTOR + data > len {
            break;
        }
        if flags & DISCARD == 0 {
            out.push(Entry { sector, sectors, flags, data: at + SECTOR });
        }
        at += SECTOR + data;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(sector: u64, data: &[u8], flags: u64) -> Vec<u8> {
        let mut bytes = vec![0u8; 512];
        for (at, word) in [sector, data.len() as u64 / 512, flags].into_iter().enumerate() {
            bytes[at * 8..at * 8 + 8].copy_from_slice(&word.to_le_bytes());
        }
        bytes.extend(data);
        bytes
    }

    #[test]
    fn what_was_flushed_is_there_and_what_was_not_may_be_lost() {
        let dir = tempfile::tempdir().unwrap();
        let (log, disk) = (dir.path().join("log"), dir.path().join("disk"));
        let mut bytes = vec![0u8; 512];
        bytes[..8].copy_from_slice(&MAGIC.to_le_bytes());
        bytes.extend(entry(0, &[1; 1024], 0));
        bytes.extend(entry(0, &[], FLUSH));
        bytes.extend(entry(4, &[2; 512], 0));
        bytes.extend(entry(6, &[3; 512], FUA));
        std::fs::write(&log, &bytes).unwrap();
        std::fs::write(&disk, [9u8; 4096]).unwrap();
        let done = replay(&log, &disk, || 0).unwrap();
        assert_eq!(done, Replayed { writes: 3, flushes: 1, unflushed: 1, lost: 1 });
        let now = std::fs::read(&disk).unwrap();
        assert!(now[..1024].iter().all(|b| *b == 1) && now[2048..2560].iter().all(|b| *b == 9));
        assert!(now[3072..3584].iter().all(|b| *b == 3));
        replay(&log, &disk, || 3).unwrap();
        assert!(std::fs::read(&disk).unwrap()[2048..2560].iter().all(|b| *b == 2));
        // A log whose last entry was torn gives the ones before it.
        std::fs::write(&log, &bytes[..bytes.len() - 100]).unwrap();
        assert_eq!(replay(&log, &disk, || 3).unwrap().writes, 2);
    }
}
