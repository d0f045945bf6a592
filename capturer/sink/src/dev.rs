//! A block device, partition or image file, addressed from the volume's start.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Mutex;

use lifeboat_sys::AlignedBuf;

/// Bytes that a [`FileDev`] moves at a time.
const BOUNCE: usize = 256 << 10;

/// What a volume needs of the thing it lies on. Offsets and lengths in bytes.
pub trait BlockDev {
    /// Length of the volume.
    fn len(&self) -> u64;

    /// Whether there is nothing at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buf` from `off`.
    ///
    /// # Errors
    /// The device's, `UnexpectedEof` behind the end.
    fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Writes `buf` at `off`; both `off` and the length are multiples of 4096.
    ///
    /// # Errors
    /// The device's, `InvalidInput` behind the end or out of alignment.
    fn write_at(&self, off: u64, buf: &[u8]) -> io::Result<()>;

    /// Makes what was written durable.
    ///
    /// # Errors
    /// The device's.
    fn flush(&self) -> io::Result<()>;
}

impl<T: BlockDev + ?Sized> BlockDev for &T {
    fn len(&self) -> u64 {
        (**self).len()
    }
    fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<()> {
        (**self).read_at(off, buf)
    }
    fn write_at(&self, off: u64, buf: &[u8]) -> io::Result<()> {
        (**self).write_at(off, buf)
    }
    fn flush(&self) -> io::Result<()> {
        (**self).flush()
    }
}

/// A window of a file or block device. All I/O goes through an aligned bounce
/// buffer in whole blocks, so that it works with O_DIRECT and without.
#[derive(Debug)]
pub struct FileDev {
    file: File,
    base: u64,
    len: u64,
    bounce: Mutex<AlignedBuf>,
}

impl FileDev {
    /// The `len` bytes of `file` from `base`, a multiple of 512.
    #[must_use]
    pub fn new(file: File, base: u64, len: u64) -> Self {
        Self { file, base, len, bounce: Mutex::new(AlignedBuf::new(BOUNCE)) }
    }

    /// Opens a block device or file, with O_DIRECT if `direct`, for writing if `write`.
    ///
    /// # Errors
    /// Those of `open(2)`.
    pub fn open_file(path: &Path, write: bool, direct: bool) -> io::Result<File> {
        let flags = if direct { O_DIRECT } else { 0 };
        OpenOptions::new().read(true).write(write).custom_flags(flags).open(path)
    }

    /// The file underneath.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where the window starts in the file, in bytes.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.base
    }
}

/// `O_DIRECT` on x86-64 (`include/uapi/asm-generic/fcntl.h`).
const O_DIRECT: i32 = 0o40000;

/// A thread failed while it held the device's buffer.
fn poisoned<T>(_: T) -> io::Error {
    io::ErrorKind::Other.into()
}

impl BlockDev for FileDev {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = off.checked_add(buf.len() as u64).filter(|end| *end <= self.len);
        if end.is_none() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bounce = self.bounce.lock().map_err(poisoned)?;
        let block = lifeboat_format::BLOCK as u64;
        let (mut off, mut buf) = (off, buf);
        while !buf.is_empty() {
            // Whole blocks around what is wanted; the last block of a device may be short.
            let start = off - off % block;
            let skip = usize::try_from(off - start).map_err(poisoned)?;
            let span = (skip + buf.len()).next_multiple_of(4096).min(BOUNCE);
            let span = span.min(usize::try_from(self.len - start).unwrap_or(span));
            let space = bounce.get_mut(..span).ok_or(io::ErrorKind::InvalidInput)?;
            self.file.read_exact_at(space, self.base + start)?;
            let take = (span - skip).min(buf.len());
            let (now, rest) = buf.split_at_mut(take);
            now.copy_from_slice(space.get(skip..skip + take).ok_or(io::ErrorKind::InvalidInput)?);
            buf = rest;
            off += take as u64;
        }
        Ok(())
    }

    fn write_at(&self, off: u64, buf: &[u8]) -> io::Result<()> {
        let block = lifeboat_format::BLOCK as u64;
        let end = off.checked_add(buf.len() as u64).filter(|end| *end <= self.len);
        if end.is_none() || !off.is_multiple_of(block) || !buf.len().is_multiple_of(4096) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut bounce = self.bounce.lock().map_err(poisoned)?;
        let mut at = self.base + off;
        for part in buf.chunks(BOUNCE) {
            let space = bounce.get_mut(..part.len()).ok_or(io::ErrorKind::InvalidInput)?;
            space.copy_from_slice(part);
            self.file.write_all_at(space, at)?;
            at += part.len() as u64;
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}
