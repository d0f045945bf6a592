//! Where a dump's bytes come from.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// The bytes of one dump: a pulled file, or a window in a volume. Byte 0 is the
/// dump's first byte.
pub trait ReadAt: Send + Sync {
    /// Bytes that there are.
    fn len(&self) -> u64;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buf` from byte `off`.
    ///
    /// # Errors
    /// The device's; `UnexpectedEof` behind the end, `NotFound` in a hole.
    fn read_exact_at(&self, off: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Told that these bytes will be read soon, so that a slow medium works while the
    /// reader decodes. A hint: what cannot be fetched early is read when it is asked for.
    fn will_read(&self, off: u64, len: u64) {
        let _ = (off, len);
    }

    /// Where byte `off` lies in a part that is not here: the end of the hole.
    fn hole(&self, off: u64) -> Option<u64> {
        let _ = off;
        None
    }
}

/// A window of a file or block device, read with `pread(2)`.
#[derive(Debug)]
pub struct FileWindow {
    file: File,
    base: u64,
    len: u64,
}

impl FileWindow {
    /// The `len` bytes of `file` from byte `base`.
    #[must_use]
    pub fn new(file: File, base: u64, len: u64) -> Self {
        Self { file, base, len }
    }

    /// All of a file or block device.
    ///
    /// # Errors
    /// When its length cannot be told.
    pub fn whole(mut file: File) -> io::Result<Self> {
        // Not fstat: that gives 0 for a block device.
        let len = file.seek(SeekFrom::End(0))?;
        Ok(Self { file, base: 0, len })
    }
}

impl ReadAt for FileWindow {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, off: u64, buf: &mut [u8]) -> io::Result<()> {
        let fits = off.checked_add(buf.len() as u64).is_some_and(|end| end <= self.len);
        match self.base.checked_add(off) {
            Some(at) if fits => self.file.read_exact_at(buf, at),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn will_read(&self, off: u64, len: u64) {
        let len = len.min(self.len.saturating_sub(off));
        if let Some(at) = self.base.checked_add(off) {
            fetch_early(&self.file, at, len);
        }
    }
}

/// Has the kernel begin to read a stretch of a file into its cache.
pub(super) fn fetch_early(file: &File, at: u64, len: u64) {
    if let Some(len) = NonZeroU64::new(len) {
        // Only a hint: a file that takes none is read all the same.
        let _ = rustix::fs::fadvise(file, at, Some(len), rustix::fs::Advice::WillNeed);
    }
}

/// The first bytes of another one.
pub(super) struct Prefix {
    src: Arc<dyn ReadAt>,
    len: u64,
}

impl Prefix {
    /// The first `len` bytes of `src`, if there are so many.
    pub(super) fn new(src: Arc<dyn ReadAt>, len: u64) -> Self {
        let len = len.min(src.len());
        Self { src, len }
    }
}

impl ReadAt for Prefix {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, off: u64, buf: &mut [u8]) -> io::Result<()> {
        match off.checked_add(buf.len() as u64) {
            Some(end) if end <= self.len => self.src.read_exact_at(off, buf),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn will_read(&self, off: u64, len: u64) {
        self.src.will_read(off, len);
    }

    fn hole(&self, off: u64) -> Option<u64> {
        self.src.hole(off).map(|end| end.min(self.len))
    }
}

impl ReadAt for Vec<u8> {
    fn len(&self) -> u64 {
        self.as_slice().len() as u64
    }

    fn read_exact_at(&self, off: u64, buf: &mut [u8]) -> io::Result<()> {
        let from = usize::try_from(off)
            .ok()
            .and_then(|at| self.get(at..)?.get(..buf.len()))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(from);
        Ok(())
    }
}
