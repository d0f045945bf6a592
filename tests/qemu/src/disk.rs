//! The victim's disk: a GPT with a swap partition, the dump partition and a
//! filler of known bytes on either side of it, which nobody may touch.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Context as _, Res, ensure, run};

const MIB: u64 = 1 << 20;
/// Size of each filler, in bytes.
pub const FILLER: u64 = 8 * MIB;

/// A partition: byte range of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub len: u64,
}

/// The disk as a raw file.
#[derive(Debug, Clone)]
pub struct Disk {
    /// The file.
    pub path: PathBuf,
    /// PARTLABEL `swap`.
    pub swap: Part,
    /// PARTLABEL `lifeboat`.
    pub dump: Part,
    /// PARTLABELs `filler1` and `filler2`, before and behind the dump partition.
    pub fillers: [Part; 2],
}

impl Disk {
    /// Makes a disk with partitions of these sizes in bytes (multiples of 1 MiB),
    /// a swap header and the fillers' bytes. The dump partition stays all zero.
    ///
    /// # Errors
    /// When `sgdisk` or `mkswap` fails.
    pub fn create(path: &Path, swap: u64, dump: u64) -> Res<Self> {
        let mut at = MIB;
        let mut next = |len| {
            let part = Part { start: at, len };
            at += len;
            part
        };
        let (swap, before, dump, after) = (next(swap), next(FILLER), next(dump), next(FILLER));
        let file = File::create(path).ctx(path.display())?;
        file.set_len(after.start + after.len + MIB).ctx(path.display())?;
        let mut sgdisk = Command::new("/usr/sbin/sgdisk");
        sgdisk.args(["--clear", "--set-alignment=1"]);
        let named = [
            (swap, "swap", "8200"),
            (before, "filler1", "8300"),
            (dump, "lifeboat", "8300"),
            (after, "filler2", "8300"),
        ];
        for (number, (part, label, kind)) in (1..).zip(named) {
            let (first, last) = (part.start / 512, (part.start + part.len) / 512 - 1);
            sgdisk.arg(format!("--new={number}:{first}:{last}"));
            sgdisk.arg(format!("--change-name={number}:{label}"));
            sgdisk.arg(format!("--typecode={number}:{kind}"));
        }
        run(sgdisk.arg(path))?;
        let disk = Self { path: path.into(), swap, dump, fillers: [before, after] };
        disk.write_swap_header()?;
        for part in disk.fillers {
            file.write_all_at(&filler(part.len), part.start).ctx("the filler")?;
        }
        Ok(disk)
    }

    fn write_swap_header(&self) -> Res<()> {
        let scratch = self.path.with_extension("mkswap");
        File::create(&scratch).and_then(|f| f.set_len(self.swap.len)).ctx(scratch.display())?;
        run(Command::new("/usr/sbin/mkswap").arg(&scratch))?;
        let header = head(&scratch, 0, 4096)?;
        let file = OpenOptions::new().write(true).open(&self.path).ctx(self.path.display())?;
        file.write_all_at(&header, self.swap.start).ctx("the swap header")?;
        fs::remove_file(&scratch).ctx(scratch.display())
    }

    /// Whether both fillers are byte for byte what they were; gives their bytes' number.
    ///
    /// # Errors
    /// When they are not.
    pub fn check_fillers(&self) -> Res<u64> {
        for part in self.fillers {
            let now = self.read(part)?;
            ensure(now == filler(part.len), "a filler partition beside the dump was changed")?;
        }
        Ok(self.fillers.iter().map(|p| p.len).sum())
    }

    /// All bytes of a partition.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self, part: Part) -> Res<Vec<u8>> {
        head(&self.path, part.start, part.len)
    }

    /// Puts bytes somewhere, as a careless tool would.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, at: u64, bytes: &[u8]) -> Res<()> {
        let file = OpenOptions::new().write(true).open(&self.path).ctx(self.path.display())?;
        file.write_all_at(bytes, at).ctx(self.path.display())
    }

    /// Copies a partition into a file of its own, holes kept.
    ///
    /// # Errors
    /// When either file fails.
    pub fn save(&self, part: Part, to: &Path) -> Res<()> {
        copy_sparse(&self.path, part.start, part.len, to)
    }
}

/// The fillers' known bytes: each word of 8 is its offset, scrambled.
fn filler(len: u64) -> Vec<u8> {
    (0..len / 8).flat_map(|i| crate::pattern::mix(i).to_le_bytes()).collect()
}

fn head(path: &Path, start: u64, len: u64) -> Res<Vec<u8>> {
    let mut file = File::open(path).ctx(path.display())?;
    file.seek(SeekFrom::Start(start)).ctx(path.display())?;
    let mut bytes = Vec::new();
    file.take(len).read_to_end(&mut bytes).ctx(path.display())?;
    Ok(bytes)
}

/// Copies `len` bytes of `from`, at `start`, to the file `to`, leaving holes where
/// the source has holes.
///
/// # Errors
/// When either file fails.
pub fn copy_sparse(from: &Path, start: u64, len: u64, to: &Path) -> Res<()> {
    use rustix::fs::SeekFrom as Seek;
    let source = File::open(from).ctx(from.display())?;
    let mut target = File::create(to).ctx(to.display())?;
    target.set_len(len).ctx(to.display())?;
    let (mut at, end) = (start, start + len);
    let mut buf = vec![0u8; 1 << 20];
    while at < end {
        let Ok(data) = rustix::fs::seek(&source, Seek::Data(at)) else { break };
        if data >= end {
            break;
        }
        let hole = rustix::fs::seek(&source, Seek::Hole(data)).ctx("SEEK_HOLE")?.min(end);
        at = data;
        target.seek(SeekFrom::Start(data - start)).ctx(to.display())?;
        while at < hole {
            let want = usize::try_from(hole - at).unwrap_or(usize::MAX).min(buf.len());
            let part = buf.get_mut(..want).unwrap_or_default();
            source.read_exact_at(part, at).ctx(from.display())?;
            target.write_all(part).ctx(to.display())?;
            at += want as u64;
        }
    }
    Ok(())
}

/// Makes a disk that holds nothing, of `len` bytes.
///
/// # Errors
/// When the file cannot be made.
pub fn blank(path: &Path, len: u64) -> Res<()> {
    let file = File::create(path).ctx(path.display())?;
    file.set_len(len).ctx(path.display())
}

/// Makes a disk with a GPT of partitions of these names and MiB, all zero.
///
/// # Errors
/// When `sgdisk` fails.
pub fn partitioned(path: &Path, parts: &[(&str, u64)]) -> Res<Vec<Part>> {
    let all: u64 = parts.iter().map(|(_, mib)| mib * MIB).sum();
    blank(path, all + 2 * MIB)?;
    let (mut at, mut made) = (MIB, Vec::new());
    let mut sgdisk = Command::new("/usr/sbin/sgdisk");
    sgdisk.args(["--clear", "--set-alignment=1"]);
    for (number, (label, mib)) in (1..).zip(parts) {
        let part = Part { start: at, len: mib * MIB };
        at += part.len;
        sgdisk.arg(format!("--new={number}:{}:{}", part.start / 512, at / 512 - 1));
        sgdisk.arg(format!("--change-name={number}:{label}"));
        made.push(part);
    }
    run(sgdisk.arg(path))?;
    Ok(made)
}
