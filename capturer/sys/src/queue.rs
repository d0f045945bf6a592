//! A queue of large O_DIRECT writes: io_uring, polled where the device can, with
//! plain `pwrite(2)` where io_uring is missing.
//!
//! `RWF_HIPRI` on synchronous writes has been ignored since Linux 5.19 (commit
//! 9650b453a3d4), so polling means `IORING_SETUP_IOPOLL`. Whether a device has
//! poll queues is the caller's knowledge (`queue/io_poll` in sysfs): without
//! them IOPOLL completes by interrupt on some kernels and fails on others.
//!
//! One set of buffers serves one device after the other. The way to each is a [`Lane`],
//! made beforehand; after `new` and `lane` nothing is allocated.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use io_uring::{IoUring, opcode, squeue, types};

use crate::AlignedBuf;

/// How writes, or reads, reach the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueMode {
    /// One system call at a time.
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

/// The way to one device: its file, and a ring that knows the queue's buffers.
pub struct Lane {
    ring: Option<IoUring>,
    file: File,
    /// How the ring was made.
    mode: QueueMode,
    /// The kernel refused a request of the ring for this file: writes are plain ones.
    refused: bool,
    /// Of the queue whose buffers the ring knows.
    queue: u64,
}

/// Buffers and the ring that writes them.
pub struct WriteQueue {
    // The ring is dropped first: no write is in flight when the buffers go (Drop waits).
    lane: Lane,
    bufs: Vec<AlignedBuf>,
    /// The write that holds each buffer, if one does.
    busy: Vec<Option<Write>>,
    requests: u64,
    buf_len: usize,
    stall: Option<Duration>,
    /// Set on every write; see [`WriteQueue::hand_over`].
    flags: squeue::Flags,
    /// Whether a device was left that may still read the buffers.
    haunted: bool,
}

/// Number of the next queue: a lane belongs to one.
static NEXT: AtomicU64 = AtomicU64::new(0);

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
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self {
            lane: Lane::new(&bufs, number, file, want),
            busy: vec![None; depth],
            bufs,
            requests: 0,
            buf_len,
            stall: None,
            flags: squeue::Flags::empty(),
            haunted: false,
        }
    }

    /// The way to a further device, for [`WriteQueue::switch`] of this queue; `want` as in
    /// [`WriteQueue::new`]. It takes a ring of the kernel, but no further buffers.
    #[must_use]
    pub fn lane(&self, file: File, want: QueueMode) -> Lane {
        Lane::new(&self.bufs, self.lane.queue, file, want)
    }

    /// Gives up waiting for a write after `limit`, with `TimedOut`; for where there is
    /// another device to go on with. With `None`, as at first, a wait ends when the device's
    /// driver ends it, or with the caller's own deadline. No effect on plain `pwrite`.
    pub fn set_stall_limit(&mut self, limit: Option<Duration>) {
        self.stall = limit;
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

    /// What the queue uses: plain `pwrite` also for a file that turned out not to be one
    /// that can be polled.
    #[must_use]
    pub fn mode(&self) -> QueueMode {
        if self.lane.refused { QueueMode::Pwrite } else { self.lane.mode }
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
    /// Of a write that failed; then and ever after, until [`WriteQueue::switch`].
    pub fn take(&mut self) -> io::Result<usize> {
        loop {
            if let Some(free) = self.busy.iter().position(Option::is_none) {
                return Ok(free);
            }
            if !self.is_flying() {
                return Err(broken());
            }
            self.reap(1)?;
        }
    }

    fn is_flying(&self) -> bool {
        self.flying() > 0
    }

    fn flying(&self) -> usize {
        self.busy.iter().flatten().filter(|w| w.state == State::Flying).count()
    }

    /// The lowest byte offset in the file that a buffer holds because its bytes are not
    /// known to be on the device; what lies behind it is all still in memory.
    #[must_use]
    pub fn held(&self) -> Option<u64> {
        self.busy.iter().flatten().map(|w| w.offset).min()
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
        let (Some(slot @ None), true) = (self.busy.get_mut(index), len <= self.buf_len) else {
            return Err(invalid());
        };
        let len = u32::try_from(len).map_err(|_| invalid())?;
        *slot = Some(Write { len, offset, state: State::Failed });
        self.start(index)?;
        // What is done by now, without waiting: else every buffer would seem busy until
        // there is none left to take.
        self.collect()
    }

    /// Makes the write that holds buffer `index`, and that does not fly.
    fn start(&mut self, index: usize) -> io::Result<()> {
        let (Some(Some(write)), Some(buf)) = (self.busy.get_mut(index), self.bufs.get(index))
        else {
            return Err(invalid());
        };
        self.requests += 1;
        let Some(ring) = &mut self.lane.ring else {
            let bytes = buf.get(..write.len as usize).ok_or_else(invalid)?;
            self.lane.file.write_all_at(bytes, write.offset)?;
            write.state = State::Done;
            self.retire();
            return Ok(());
        };
        let number = u16::try_from(index).map_err(|_| invalid())?;
        let entry = opcode::WriteFixed::new(types::Fixed(0), buf.as_ptr(), write.len, number)
            .offset(write.offset)
            .build()
            .flags(self.flags)
            .user_data(index as u64);
        // SAFETY: the buffer is registered, stays where it is, and is marked busy so that
        // nobody changes its bytes until its completion is reaped, or the lane left: then
        // the device may get other bytes than those meant, and the caller has none there.
        let pushed = unsafe { ring.submission().push(&entry) };
        pushed.map_err(|_| io::Error::from_raw_os_error(libc::EBUSY))?;
        write.state = State::Flying;
        loop {
            match ring.submit() {
                Ok(_) => return Ok(()),
                Err(e) if e.raw_os_error() == Some(libc::EINTR) => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Waits until no write is in flight.
    ///
    /// # Errors
    /// The first failure among them.
    pub fn drain(&mut self) -> io::Result<()> {
        while self.is_flying() {
            self.reap(1)?;
        }
        if self.busy.iter().any(Option::is_some) { Err(broken()) } else { Ok(()) }
    }

    /// Makes all finished writes durable (`fdatasync(2)`; IOPOLL rings cannot flush).
    ///
    /// # Errors
    /// Those of the writes in flight and of the flush.
    pub fn flush(&mut self) -> io::Result<()> {
        self.drain()?;
        self.lane.file.sync_data()
    }

    /// Leaves the device, without waiting for what it may still do, for that of `to`, and
    /// makes every write there that holds its buffer. `place` gives the new offset and
    /// length of a write at its old ones, or `None` for one that is not wanted any more;
    /// writes keep their order.
    ///
    /// The device that is left may still read buffers that are then used for other bytes:
    /// it must hold nothing of worth at the offsets of those writes.
    ///
    /// # Errors
    /// `EINVAL` for a lane of another queue, which is then as before; otherwise those of
    /// the writes, and what the new device may not have is held as ever.
    pub fn switch(
        &mut self,
        to: Lane,
        mut place: impl FnMut(u64, usize) -> Option<(u64, usize)>,
    ) -> io::Result<()> {
        if to.queue != self.lane.queue {
            return Err(invalid());
        }
        let mut left = std::mem::replace(&mut self.lane, to);
        if self.is_flying() {
            std::mem::forget(left.ring.take());
            self.haunted = true;
        }
        for slot in &mut self.busy {
            *slot = slot.and_then(|w| {
                let (offset, len) = place(w.offset, w.len as usize)?;
                let len = u32::try_from(len).ok()?.min(w.len);
                Some(Write { len, offset, state: State::Failed })
            });
        }
        let mut from = 0;
        while let Some((index, offset)) = self.next_from(from) {
            self.start(index)?;
            from = offset.saturating_add(1);
        }
        self.collect()
    }

    /// The write with the lowest offset that is not below `from`.
    fn next_from(&self, from: u64) -> Option<(usize, u64)> {
        let held = self.busy.iter().enumerate();
        held.filter_map(|(n, w)| Some((n, w.as_ref()?.offset)))
            .filter(|(_, at)| *at >= from)
            .min_by_key(|(_, at)| *at)
    }

    fn reap(&mut self, want: usize) -> io::Result<()> {
        let Some(ring) = &mut self.lane.ring else { return Ok(()) };
        match self.stall {
            None => match ring.submit_and_wait(want) {
                Ok(_) => {}
                Err(e) if e.raw_os_error() == Some(libc::EINTR) => return Ok(()),
                Err(e) => return Err(e),
            },
            Some(limit) => wait_at_most(ring, self.lane.mode, limit)?,
        }
        self.collect()
    }

    /// Takes note of the writes that are done.
    fn collect(&mut self) -> io::Result<()> {
        let Some(ring) = &mut self.lane.ring else { return Ok(()) };
        let mut first_error = None;
        for done in ring.completion() {
            let index = usize::try_from(done.user_data()).unwrap_or(usize::MAX);
            let Some(Some(write)) = self.busy.get_mut(index) else { continue };
            let Write { len, offset, .. } = *write;
            // A device that cannot be polled after all.
            self.lane.refused |= done.result() == -libc::EOPNOTSUPP;
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
                    Some(rest) => self.lane.file.write_all_at(rest, offset + u64::from(n)),
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

    /// Frees the buffers of all writes that are done, up to the first that is not.
    fn retire(&mut self) {
        let open = self.busy.iter().flatten().filter(|w| w.state != State::Done);
        let first = open.map(|w| w.offset).min();
        for slot in &mut self.busy {
            let done = slot.is_some_and(|w| w.state == State::Done);
            if done && slot.is_some_and(|w| first.is_none_or(|first| w.offset < first)) {
                *slot = None;
            }
        }
    }
}

impl Drop for WriteQueue {
    fn drop(&mut self) {
        // The kernel may still read the buffers: wait, whatever the results.
        while self.is_flying() {
            let before = self.flying();
            let failed = self.reap(1).is_err();
            if failed && self.flying() == before {
                // The ring itself is broken, or the device hangs; leaking is the only safe end.
                std::mem::forget(self.lane.ring.take());
                self.haunted = true;
                break;
            }
        }
        if self.haunted {
            // What else came to lie there would go to that device.
            std::mem::forget(std::mem::take(&mut self.bufs));
        }
    }
}

impl Lane {
    fn new(bufs: &[AlignedBuf], queue: u64, file: File, want: QueueMode) -> Self {
        let ring = match want {
            QueueMode::Pwrite => None,
            // SAFETY: only a write of this very queue uses the ring, and the queue keeps its
            // buffers until none flies.
            _ => unsafe { make_ring(bufs, &[file.as_raw_fd()], want == QueueMode::Polled).ok() },
        };
        let mode = if ring.is_some() { want } else { QueueMode::Pwrite };
        Self { ring, file, mode, refused: false, queue }
    }
}

/// A ring that knows `bufs` and `files` by their place in these lists.
///
/// # Safety
/// The buffers must stay where they are while a request of this ring is in flight.
pub(crate) unsafe fn make_ring(
    bufs: &[AlignedBuf],
    files: &[i32],
    polled: bool,
) -> io::Result<IoUring> {
    let entries = u32::try_from(bufs.len().next_power_of_two()).unwrap_or(64);
    let mut builder = IoUring::builder();
    if polled {
        builder.setup_iopoll();
    }
    let ring = builder.build(entries)?;
    ring.submitter().register_files(files)?;
    let vecs: Vec<libc::iovec> = bufs
        .iter()
        .map(|b| libc::iovec { iov_base: b.as_ptr().cast_mut().cast(), iov_len: b.len() })
        .collect();
    // SAFETY: the buffers are valid now, which is when the kernel pins their pages; that
    // they are so while it uses them is the caller's promise.
    unsafe { ring.submitter().register_buffers(&vecs)? };
    Ok(ring)
}

fn invalid() -> io::Error {
    io::Error::from_raw_os_error(libc::EINVAL)
}

/// An earlier write failed; that one's error was given when it was found.
fn broken() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

/// Whether a request was not tried: the kernel cancels what waits in the io-wq of a thread
/// when that thread ends (`io_uring_cancel_generic()`, io_uring/io_uring.c), and refuses
/// to poll a file that cannot be polled.
fn was_given_back(errno: i32) -> bool {
    matches!(errno, libc::ECANCELED | libc::EAGAIN | libc::EINTR | libc::EOPNOTSUPP)
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
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
