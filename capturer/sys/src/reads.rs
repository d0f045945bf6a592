//! Reading a few files from front to back, ahead of who wants the bytes: io_uring, polled
//! where the device can, and plain `pread(2)` where io_uring is missing.
//!
//! A queue belongs to one thread and has a few buffers, whatever the number of files. It
//! keeps them all in flight, in order; what arrived is copied out, and the buffer goes on
//! to the next stretch. A read that fails, or comes back short, is not tried again here:
//! the caller is told which bytes are missing and knows better what to do about them.
//! After `new` nothing is allocated.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use io_uring::{IoUring, opcode, types};

use crate::AlignedBuf;
use crate::queue::{QueueMode, make_ring};

/// Reads are whole pages, which suits O_DIRECT on every device.
const PAGE: u32 = 4096;

/// A file to read.
#[derive(Debug)]
pub struct Source {
    /// Open for reading, with O_DIRECT for [`QueueMode::Polled`].
    pub file: File,
    /// What the caller would like; see [`ReadQueue::mode`] for what it got.
    pub want: QueueMode,
}

/// Bytes that a queue could not give: they may be tried again in smaller pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ahead {
    /// How many, from the offset that was asked for on; not 0.
    pub missing: usize,
}

/// A stretch of the file in a buffer, or on its way there.
#[derive(Debug, Clone, Copy)]
struct Window {
    offset: u64,
    len: u32,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Flying,
    /// So many bytes from the start arrived, whole pages.
    Arrived(u32),
}

/// Files, buffers, and a ring for each way of completion.
pub struct ReadQueue {
    // The rings are dropped first; Drop leaks the buffers if a read may still come.
    rings: [Option<IoUring>; 2],
    files: Vec<(File, QueueMode)>,
    bufs: Vec<AlignedBuf>,
    windows: Vec<Option<Window>>,
    /// The file that is read, and the ring that was chosen for it.
    at: usize,
    by: Option<usize>,
    /// Where the next window begins, and where reading ends.
    next: u64,
    end: u64,
    requests: u64,
    /// A ring does not work: what it was given is never heard of again, and from then on
    /// reads are plain ones.
    broken: bool,
}

/// Places in [`ReadQueue::rings`].
const PLAIN: usize = 0;
const POLLED: usize = 1;

impl ReadQueue {
    /// A queue over `sources` with `depth` buffers (1 to 64) of `buf_len` bytes (rounded up
    /// to whole pages).
    #[must_use]
    pub fn new(sources: Vec<Source>, depth: usize, buf_len: usize) -> Self {
        let depth = depth.clamp(1, 64);
        let buf_len = buf_len.clamp(4096, 16 << 20).next_multiple_of(4096);
        let bufs: Vec<AlignedBuf> = (0..depth).map(|_| AlignedBuf::new(buf_len)).collect();
        let fds: Vec<i32> = sources.iter().map(|s| s.file.as_raw_fd()).collect();
        let ring = |mode| {
            let wanted = sources.iter().any(|s| s.want == mode);
            // SAFETY: the ring's reads go to these buffers alone, which stay with the queue
            // while any is in flight, and for good if that cannot be known.
            let make = || unsafe { make_ring(&bufs, &fds, mode == QueueMode::Polled).ok() };
            wanted.then(make).flatten()
        };
        let rings = [ring(QueueMode::Uring), ring(QueueMode::Polled)];
        let got = |want| match want {
            QueueMode::Uring if rings[PLAIN].is_some() => want,
            QueueMode::Polled if rings[POLLED].is_some() => want,
            _ => QueueMode::Pwrite,
        };
        Self {
            files: sources.into_iter().map(|s| (s.file, got(s.want))).collect(),
            rings,
            bufs,
            windows: vec![None; depth],
            at: 0,
            by: None,
            next: 0,
            end: 0,
            requests: 0,
            broken: false,
        }
    }

    /// How file `index` is read.
    #[must_use]
    pub fn mode(&self, index: usize) -> QueueMode {
        match self.files.get(index) {
            Some((_, mode)) if !self.broken => *mode,
            _ => QueueMode::Pwrite,
        }
    }

    /// File `index`, for reads past the queue.
    #[must_use]
    pub fn file(&self, index: usize) -> Option<&File> {
        self.files.get(index).map(|(file, _)| file)
    }

    /// Read requests issued so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests
    }

    fn ring(&mut self) -> Option<&mut IoUring> {
        self.rings.get_mut(self.by?)?.as_mut()
    }

    /// From here on file `index` is read, bytes `start` to `end`, ascending; both multiples
    /// of 4096. Waits for what is still on its way.
    pub fn ahead(&mut self, index: usize, start: u64, end: u64) {
        while self.is_flying() && !self.broken {
            self.reap();
        }
        self.at = index;
        self.by = match self.mode(index) {
            QueueMode::Pwrite => None,
            QueueMode::Uring => Some(PLAIN),
            QueueMode::Polled => Some(POLLED),
        };
        if !self.broken {
            self.windows.iter_mut().for_each(|w| *w = None);
            (self.next, self.end) = (start, end.max(start));
            self.fill();
        }
    }

    fn is_flying(&self) -> bool {
        self.windows.iter().flatten().any(|w| w.state == State::Flying)
    }

    /// Starts reads as long as there are buffers.
    fn fill(&mut self) {
        while self.next < self.end
            && self.mode(self.at) != QueueMode::Pwrite
            && let Some(free) = self.windows.iter().position(Option::is_none)
        {
            let Some(buf) = self.bufs.get(free) else { return };
            let (ptr, room) = (buf.as_ptr().cast_mut(), buf.len() as u64);
            let (offset, len) = (self.next, room.min(self.end - self.next));
            let (Ok(len32), Ok(number), Ok(file)) =
                (u32::try_from(len), u16::try_from(free), u32::try_from(self.at))
            else {
                return;
            };
            let entry = opcode::ReadFixed::new(types::Fixed(file), ptr, len32, number)
                .offset(offset)
                .build()
                .user_data(free as u64);
            if let Some(window) = self.windows.get_mut(free) {
                *window = Some(Window { offset, len: len32, state: State::Flying });
            }
            self.next += len;
            self.requests += 1;
            if self.start(&entry).is_err() {
                self.broken = true;
            }
        }
    }

    fn start(&mut self, entry: &io_uring::squeue::Entry) -> io::Result<()> {
        let ring = self.ring().ok_or(io::ErrorKind::NotFound)?;
        // SAFETY: the buffer is registered and stays where it is; its window says that it
        // is in flight, so that nobody looks at its bytes before they have arrived.
        unsafe { ring.submission().push(entry) }.map_err(|_| io::ErrorKind::WouldBlock)?;
        loop {
            match ring.submit() {
                Ok(_) => return Ok(()),
                Err(e) if e.raw_os_error() == Some(libc::EINTR) => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Waits for at least one read.
    fn reap(&mut self) {
        let waited = self.ring().map(|ring| ring.submit_and_wait(1));
        match waited {
            Some(Ok(_)) => {}
            Some(Err(e)) if e.raw_os_error() == Some(libc::EINTR) => {}
            _ => self.broken = true,
        }
        self.collect();
    }

    fn collect(&mut self) {
        let Some(ring) = self.by.and_then(|by| self.rings.get_mut(by)?.as_mut()) else { return };
        for done in ring.completion() {
            let index = usize::try_from(done.user_data()).unwrap_or(usize::MAX);
            let Some(Some(window)) = self.windows.get_mut(index) else { continue };
            let got = u32::try_from(done.result()).unwrap_or(0).min(window.len);
            window.state = State::Arrived(got - got % PAGE);
            // A device that cannot be polled after all.
            if done.result() == -libc::EOPNOTSUPP
                && let Some((_, mode)) = self.files.get_mut(self.at)
            {
                *mode = QueueMode::Pwrite;
            }
        }
    }

    /// Copies bytes from `offset` of the file that is read to `buf`: at least a page and at
    /// most all of it; gives how many. Both are whole pages. Waits for them.
    ///
    /// Without a ring, `buf` must be at an address that is a multiple of 4096 for a file
    /// with O_DIRECT.
    ///
    /// # Errors
    /// [`Ahead`] for bytes that could not be read, or that are not among those announced.
    pub fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<usize, Ahead> {
        let all = Ahead { missing: buf.len() };
        if self.broken || self.mode(self.at) == QueueMode::Pwrite && self.find(offset).is_none() {
            self.requests += 1;
            let (file, _) = self.files.get(self.at).ok_or(all)?;
            let got = file.read_at(buf, offset).unwrap_or(0).min(buf.len());
            let pages = got - got % PAGE as usize;
            return if pages == 0 { Err(all) } else { Ok(pages) };
        }
        self.drop_before(offset);
        let index = self.find(offset).ok_or(all)?;
        loop {
            let window = self.windows.get(index).copied().flatten().ok_or(all)?;
            let skip = usize::try_from(offset - window.offset).map_err(|_| all)?;
            let left = (window.len as usize - skip).min(buf.len());
            match window.state {
                State::Flying if !self.broken => self.reap(),
                State::Arrived(good) if good as usize > skip => {
                    let take = left.min(good as usize - skip);
                    let from = self.bufs.get(index).and_then(|b| b.get(skip..skip + take));
                    let to = buf.get_mut(..take).ok_or(all)?;
                    to.copy_from_slice(from.ok_or(all)?);
                    self.drop_before(offset + take as u64);
                    return Ok(take);
                }
                _ => return Err(Ahead { missing: left }),
            }
        }
    }

    /// The window that `offset` lies in.
    fn find(&self, offset: u64) -> Option<usize> {
        let inside = |w: &Window| w.offset <= offset && offset < w.offset + u64::from(w.len);
        self.windows.iter().position(|w| w.as_ref().is_some_and(inside))
    }

    /// Frees the buffers of all that lies before `offset`, for what comes.
    fn drop_before(&mut self, offset: u64) {
        let over = |w: &Window| w.state != State::Flying && w.offset + u64::from(w.len) <= offset;
        for window in &mut self.windows {
            if window.as_ref().is_some_and(over) {
                *window = None;
            }
        }
        self.fill();
    }
}

impl Drop for ReadQueue {
    fn drop(&mut self) {
        // A device that hangs must not hold up the end: what may still be written to is
        // leaked, and the ring with it.
        if self.is_flying() {
            std::mem::forget(std::mem::take(&mut self.rings));
            std::mem::forget(std::mem::take(&mut self.bufs));
        }
    }
}

#[cfg(test)]
#[path = "reads_tests.rs"]
mod tests;
