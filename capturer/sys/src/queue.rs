//! A queue of large O_DIRECT writes: io_uring, polled where the device can, with
//! plain `pwrite(2)` where io_uring is missing.
//!
//! `RWF_HIPRI` on synchronous writes has been ignored since Linux 5.19 (commit
//! 9650b453a3d4), so polling means `IORING_SETUP_IOPOLL`. Whether a device has
//! poll queues is the caller's knowledge (`queue/io_poll` in sysfs): without
//! them IOPOLL completes by interrupt on some kernels and fails on others.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use io_uring::{IoUring, opcode, squeue, types};

use crate::AlignedBuf;

/// How writes reach the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueMode {
    /// One `pwrite(2)` at a time.
    Pwrite,
    /// io_uring, completed by interrupt.
    Uring,
    /// io_uring with IOPOLL.
    Polled,
}

/// A write that holds its buffer: until it *and every write before it* is done, so
/// that after a failure nothing behind the first lost byte is gone from memory.
#[derive(Debug, Clone, Copy)]
struct Write {
    /// Bytes.
    len: u32,
    /// Byte offset in the file.
    offset: u64,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Flying,
    Done,
    Failed,
}

/// Buffers and the ring that writes them. Everything is allocated in `new`.
pub struct WriteQueue {
    // The ring is dropped first: no write is in flight when the buffers go
    // (drain_quietly in Drop waits for them).
    ring: Option<IoUring>,
    file: File,
    bufs: Vec<AlignedBuf>,
    /// The write that holds each buffer, if one does.
    busy: Vec<Option<Write>>,
    mode: QueueMode,
    requests: u64,
    buf_len: usize,
    stall: Option<Duration>,
    /// Set on every write; see [`WriteQueue::hand_over`].
    flags: squeue::Flags,
}

impl WriteQueue {
    /// A queue over `file` with `depth` buffers of `buf_len` bytes (a multiple of 4096).
    ///
    /// `want` is what the caller would like; a ring that cannot be made falls
    /// back to [`QueueMode::Pwrite`], and [`WriteQueue::mode`] tells.
    #[must_use]
    pub fn new(file: File, want: QueueMode, depth: usize, buf_len: usize) -> Self {
        let depth = depth.clamp(1, 64);
        let buf_len = buf_len.clamp(4096, 16 << 20).next_multiple_of(4096);
        let bufs: Vec<AlignedBuf> = (0..depth).map(|_| AlignedBuf::new(buf_len)).collect();
        let mut queue = Self {
            ring: None,
            file,
            busy: vec![None; depth],
            bufs,
            mode: QueueMode::Pwrite,
            requests: 0,
            buf_len,
            stall: None,
            flags: squeue::Flags::empty(),
        };
        if want != QueueMode::Pwrite
            && let Ok(ring) = queue.make_ring(want == QueueMode::Polled)
        {
            queue.ring = Some(ring);
            queue.mode = want;
        }
        queue
    }

    fn make_ring(&self, polled: bool) -> io::Result<IoUring> {
        let entries = u32::try_from(self.bufs.len().next_power_of_two()).unwrap_or(64);
        let mut builder = IoUring::builder();
        if polled {
            builder.setup_iopoll();
        }
        let ring = builder.build(entries)?;
        ring.submitter().register_files(&[self.file.as_raw_fd()])?;
        let vecs: Vec<libc::iovec> = self
            .bufs
            .iter()
            .map(|b| libc::iovec { iov_base: b.as_ptr().cast_mut().cast(), iov_len: b.len() })
            .collect();
        // SAFETY: the buffers live as long as the ring: `self` owns both, never
        // reallocates them, and Drop waits for all writes before freeing either.
        unsafe { ring.submitter().register_buffers(&vecs)? };
        Ok(ring)
    }

    /// Gives up waiting for a write after `limit`, with `TimedOut`; for where there is
    /// another device to go on with. Without it a wait ends when the device's driver
    /// ends it, or with the caller's own deadline. No effect on plain `pwrite`.
    pub fn set_stall_limit(&mut self, limit: Duration) {
        self.stall = Some(limit);
    }

    /// Leaves every write to a thread of the kernel (`IOSQE_ASYNC`,
    /// `include/uapi/linux/io_uring.h`) instead of trying it within the submission: for
    /// files without O_DIRECT, where the try is a copy into the page cache that the caller
    /// would wait for. Nothing for O_DIRECT, which only starts the device. No effect on
    /// plain `pwrite`.
    pub fn hand_over(&mut self) {
        self.flags = squeue::Flags::ASYNC;
    }

    /// Buffers that hold bytes on their way to the device, as far as the last call of
    /// this queue saw, and all buffers: a hint at how far the device is behind, without a
    /// system call. Plain `pwrite` writes while the caller waits: it always says none.
    #[must_use]
    pub fn busy(&self) -> (usize, usize) {
        (self.busy.iter().flatten().count(), self.bufs.len())
    }

    /// What the queue uses.
    #[must_use]
    pub fn mode(&self) -> QueueMode {
        self.mode
    }

    /// Write requests issued so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// Bytes in a buffer.
    #[must_use]
    pub fn buf_len(&self) -> usize {
        self.buf_len
    }

    /// Number of a buffer that no write holds; waits for one.
    ///
    /// # Errors
    /// Of a write that failed; then and ever after, until [`WriteQueue::salvage`].
    pub fn take(&mut self) -> io::Result<usize> {
        loop {
            if let Some(free) = self.busy.iter().position(Option::is_none) {
                return Ok(free);
            }
            if !self.is_flying() {
                return Err(self.broken());
            }
            self.reap(1)?;
        }
    }

    fn is_flying(&self) -> bool {
        self.busy.iter().flatten().any(|w| w.state == State::Flying)
    }

    fn broken(&self) -> io::Error {
        let failed = self.busy.iter().flatten().find(|w| w.state == State::Failed);
        let at = failed.map_or(0, |w| w.offset);
        io::Error::other(format!("an earlier write at byte {at} failed"))
    }

    /// After a failure: gives every buffer whose bytes are not known to be on the
    /// device, or lie behind such a one, as (byte offset in the file, bytes), in order
    /// of offset and without gaps. Writes in flight are not waited for: a device
    /// that hangs must not hold up the next one.
    pub fn salvage(&self, mut each: impl FnMut(u64, &[u8])) {
        let mut last = None;
        loop {
            let next = self
                .busy
                .iter()
                .zip(&self.bufs)
                .filter_map(|(w, buf)| Some((w.as_ref()?, buf)))
                .filter(|(w, _)| last.is_none_or(|at| w.offset > at))
                .min_by_key(|(w, _)| w.offset);
            let Some((write, buf)) = next else { return };
            last = Some(write.offset);
            if let Some(bytes) = buf.get(..write.len as usize) {
                each(write.offset, bytes);
            }
        }
    }

    /// The bytes of buffer `index`; empty while a write holds it.
    pub fn bytes(&mut self, index: usize) -> &mut [u8] {
        match (self.busy.get(index), self.bufs.get_mut(index)) {
            (Some(None), Some(buf)) => buf,
            _ => &mut [],
        }
    }

    /// Starts writing the first `len` bytes of buffer `index` at file offset `offset`.
    ///
    /// # Errors
    /// `EINVAL` for a buffer that is in flight or too short; otherwise those of the
    /// write (at once for `pwrite`, of an earlier one for io_uring).
    pub fn submit(&mut self, index: usize, len: usize, offset: u64) -> io::Result<()> {
        let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
        let (Some(None), Some(buf)) = (self.busy.get(index), self.bufs.get(index)) else {
            return Err(invalid());
        };
        let bytes = buf.get(..len).ok_or_else(invalid)?;
        let len32 = u32::try_from(len).map_err(|_| invalid())?;
        let write = |state| Some(Write { len: len32, offset, state });
        self.requests += 1;
        let Some(ring) = &mut self.ring else {
            let done = self.file.write_all_at(bytes, offset);
            if let (Err(_), Some(slot)) = (&done, self.busy.get_mut(index)) {
                *slot = write(State::Failed);
            }
            return done;
        };
        let index16 = u16::try_from(index).map_err(|_| invalid())?;
        let entry = opcode::WriteFixed::new(types::Fixed(0), buf.as_ptr(), len32, index16)
            .offset(offset)
            .build()
            .flags(self.flags)
            .user_data(index as u64);
        // SAFETY: the buffer is registered, stays where it is, and is marked busy
        // so that nobody changes its bytes until its completion is reaped.
        let pushed = unsafe { ring.submission().push(&entry) };
        if let Some(slot) = self.busy.get_mut(index) {
            *slot = write(if pushed.is_ok() { State::Flying } else { State::Failed });
        }
        pushed.map_err(|_| io::Error::from_raw_os_error(libc::EBUSY))?;
        loop {
            match ring.submit() {
                Ok(_) => break,
                Err(e) if e.raw_os_error() == Some(libc::EINTR) => {}
                Err(e) => return Err(e),
            }
        }
        // What is done by now, without waiting: else every buffer would seem busy until
        // there is none left to take.
        self.collect()
    }

    /// Waits until no write is in flight.
    ///
    /// # Errors
    /// The first failure among them.
    pub fn drain(&mut self) -> io::Result<()> {
        while self.is_flying() {
            self.reap(1)?;
        }
        if self.busy.iter().any(Option::is_some) { Err(self.broken()) } else { Ok(()) }
    }

    /// Makes all finished writes durable (`fdatasync(2)`; IOPOLL rings cannot flush).
    ///
    /// # Errors
    /// Those of the writes in flight and of the flush.
    pub fn flush(&mut self) -> io::Result<()> {
        self.drain()?;
        self.file.sync_data()
    }

    fn reap(&mut self, want: usize) -> io::Result<()> {
        let Some(ring) = &mut self.ring else { return Ok(()) };
        match self.stall {
            None => match ring.submit_and_wait(want) {
                Ok(_) => {}
                Err(e) if e.raw_os_error() == Some(libc::EINTR) => return Ok(()),
                Err(e) => return Err(e),
            },
            Some(limit) => wait_at_most(ring, self.mode, limit)?,
        }
        self.collect()
    }

    /// Takes note of the writes that are done.
    fn collect(&mut self) -> io::Result<()> {
        let Some(ring) = &mut self.ring else { return Ok(()) };
        let mut first_error = None;
        for done in ring.completion() {
            let index = usize::try_from(done.user_data()).unwrap_or(usize::MAX);
            let Some(Some(write)) = self.busy.get_mut(index) else { continue };
            let Write { len, offset, .. } = *write;
            // A short write, or one that was given back: finish it the plain way, it is rare.
            let missing = match u32::try_from(done.result()) {
                Ok(n) if n == len => None,
                Ok(n) => Some(Ok(n)),
                Err(_) if was_given_back(-done.result()) => Some(Ok(0)),
                Err(_) => Some(Err(io::Error::from_raw_os_error(-done.result()))),
            };
            let bytes = self.bufs.get(index);
            let result = match missing {
                None => Ok(()),
                Some(Err(e)) => Err(e),
                Some(Ok(n)) => match bytes.and_then(|b| b.get(n as usize..len as usize)) {
                    Some(rest) => self.file.write_all_at(rest, offset + u64::from(n)),
                    None => Err(io::Error::from_raw_os_error(libc::EIO)),
                },
            };
            write.state = if result.is_ok() { State::Done } else { State::Failed };
            if let Err(e) = result {
                first_error.get_or_insert(e);
            }
        }
        self.retire();
        first_error.map_or(Ok(()), Err)
    }
}

impl WriteQueue {
    /// Frees the buffers of all writes that are done, up to the first that is not.
    fn retire(&mut self) {
        let open = self.busy.iter().flatten().filter(|w| w.state != State::Done);
        let first = open.map(|w| w.offset).min().unwrap_or(u64::MAX);
        for slot in &mut self.busy {
            if slot.is_some_and(|w| w.state == State::Done && w.offset < first) {
                *slot = None;
            }
        }
    }

    /// Gives up on the device without waiting for it: the ring and the buffers that
    /// the kernel may still read are leaked.
    pub fn abandon(mut self) {
        if self.is_flying() {
            std::mem::forget(self.ring.take());
            std::mem::forget(std::mem::take(&mut self.bufs));
        }
        self.busy.clear();
    }

    fn flying(&self) -> usize {
        self.busy.iter().flatten().filter(|w| w.state == State::Flying).count()
    }
}

impl Drop for WriteQueue {
    fn drop(&mut self) {
        // The kernel may still read the buffers: wait, whatever the results.
        while self.is_flying() {
            let before = self.flying();
            let failed = self.reap(1).is_err();
            if failed && self.flying() == before {
                // The ring itself is broken; leaking is the only safe end.
                std::mem::forget(std::mem::take(&mut self.bufs));
                break;
            }
        }
    }
}

/// Whether a write was not tried: the kernel cancels what waits in the io-wq of a thread
/// when that thread ends (`io_uring_cancel_generic()`, io_uring/io_uring.c).
fn was_given_back(errno: i32) -> bool {
    matches!(errno, libc::ECANCELED | libc::EAGAIN | libc::EINTR)
}

/// Waits for one completion, but not longer than `limit`.
fn wait_at_most(ring: &mut IoUring, mode: QueueMode, limit: Duration) -> io::Result<()> {
    let start = Instant::now();
    // Short enough that a signal or a timer that is lost costs little.
    let slice = types::Timespec::from(limit.min(Duration::from_secs(1)));
    while ring.completion().is_empty() {
        // A polling ring looks at the device once and comes back: it takes no timeout.
        let waited = if mode == QueueMode::Polled {
            ring.submit_and_wait(0)
        } else {
            ring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&slice))
        };
        match waited {
            Ok(_) => {}
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINTR | libc::ETIME)) => {}
            Err(e) => return Err(e),
        }
        if start.elapsed() >= limit && ring.completion().is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no write was finished within {} s", limit.as_secs()),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
