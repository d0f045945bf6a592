//! Writing one extent: bytes into large aligned writes.

use std::io;

use lifeboat_format::BLOCK;
use lifeboat_format::commit::IoMode;
use lifeboat_sys::{QueueMode, WriteQueue};

/// Where a dump's bytes go: buffers to fill and submit in order of offset.
pub trait Output {
    /// Bytes of a buffer, a multiple of 4096.
    fn buf_len(&self) -> usize;
    /// A free buffer's number; waits for one.
    ///
    /// # Errors
    /// Of an earlier write.
    fn take(&mut self) -> io::Result<usize>;
    /// A buffer's bytes.
    fn bytes(&mut self, index: usize) -> &mut [u8];
    /// Writes a buffer's first `len` bytes at byte `offset` of the device.
    ///
    /// # Errors
    /// The device's.
    fn submit(&mut self, index: usize, len: usize, offset: u64) -> io::Result<()>;
    /// Waits for all writes and makes them durable.
    ///
    /// # Errors
    /// The device's.
    fn flush(&mut self) -> io::Result<()>;
    /// Buffers that hold bytes on their way to the device, and all buffers: a hint at how
    /// far the device is behind, which costs no system call and may be a little old.
    fn busy(&self) -> (usize, usize);
    /// How writes are made.
    fn mode(&self) -> IoMode;
    /// Write requests so far.
    fn requests(&self) -> u64;
    /// After a failure: every buffer whose bytes are not known to be on the device, or
    /// lie behind such a one, as (byte offset on the device, bytes), in order of offset
    /// and without gaps.
    fn salvage(&self, each: &mut dyn FnMut(u64, &[u8]));
    /// Gives up on the device without waiting for it.
    fn abandon(self);
}

impl Output for WriteQueue {
    fn buf_len(&self) -> usize {
        self.buf_len()
    }
    fn take(&mut self) -> io::Result<usize> {
        self.take()
    }
    fn bytes(&mut self, index: usize) -> &mut [u8] {
        self.bytes(index)
    }
    fn submit(&mut self, index: usize, len: usize, offset: u64) -> io::Result<()> {
        self.submit(index, len, offset)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.flush()
    }
    fn busy(&self) -> (usize, usize) {
        self.busy()
    }
    fn mode(&self) -> IoMode {
        match self.mode() {
            QueueMode::Pwrite => IoMode::Pwrite,
            QueueMode::Uring => IoMode::Uring,
            QueueMode::Polled => IoMode::Polled,
        }
    }
    fn requests(&self) -> u64 {
        self.requests()
    }
    fn salvage(&self, each: &mut dyn FnMut(u64, &[u8])) {
        self.salvage(each);
    }
    fn abandon(self) {
        self.abandon();
    }
}

/// Appends bytes to an extent.
#[derive(Debug)]
pub struct ExtentWriter<O> {
    out: O,
    /// Where the extent starts on the device, in bytes.
    base: u64,
    /// Bytes that it may take.
    limit: u64,
    /// Bytes appended so far.
    pos: u64,
    /// The buffer being filled, and how far.
    current: Option<(usize, usize)>,
}

impl<O: Output> ExtentWriter<O> {
    /// A writer of at most `limit` bytes at byte `base` of `out`'s device; both are
    /// multiples of 4096.
    #[must_use]
    pub fn new(out: O, base: u64, limit: u64) -> Self {
        Self { out, base, limit, pos: 0, current: None }
    }

    /// Bytes appended so far, those that a failed write held included.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.pos
    }

    /// Goes on at another extent of the same device. What was appended must be flushed.
    pub fn restart(&mut self, base: u64, limit: u64) {
        (self.base, self.limit, self.pos, self.current) = (base, limit, 0, None);
    }

    /// After a failure: gives all bytes that are not known to be on the device, as
    /// (offset in the extent, bytes), in order and without gaps up to the position.
    pub fn salvage(&mut self, mut each: impl FnMut(u64, &[u8])) {
        let (base, pos) = (self.base, self.pos);
        let behind = self.current.map_or(0, |(_, filled)| filled as u64);
        // A block that was written by a checkpoint may reach behind what was appended.
        let end = pos - behind;
        self.out.salvage(&mut |at, bytes| {
            let Some(at) = at.checked_sub(base).filter(|at| *at < end) else { return };
            let len = usize::try_from(end - at).map_or(bytes.len(), |n| n.min(bytes.len()));
            each(at, bytes.get(..len).unwrap_or_default());
        });
        if let Some((index, filled)) = self.current {
            each(end, self.out.bytes(index).get(..filled).unwrap_or_default());
        }
    }

    /// Gives up on the device.
    pub fn abandon(self) {
        self.out.abandon();
    }

    /// Bytes that are left.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.limit.saturating_sub(self.pos)
    }

    /// How far the device is behind, see [`Output::busy`].
    #[must_use]
    pub fn busy(&self) -> (usize, usize) {
        self.out.busy()
    }

    /// How writes are made, and how many there were.
    #[must_use]
    pub fn io(&self) -> (IoMode, u64) {
        (self.out.mode(), self.out.requests())
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// `StorageFull` when they would pass the limit (nothing is then written), or the device's.
    pub fn append(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        if bytes.len() as u64 > self.remaining() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        while !bytes.is_empty() {
            let (index, filled) = match self.current {
                Some(current) => current,
                None => (self.out.take()?, 0),
            };
            let space = self.out.bytes(index).get_mut(filled..).unwrap_or_default();
            let take = space.len().min(bytes.len());
            let (now, rest) = bytes.split_at(take);
            space.get_mut(..take).unwrap_or_default().copy_from_slice(now);
            bytes = rest;
            self.pos += take as u64;
            self.current = Some((index, filled + take));
            if filled + take == self.out.buf_len() {
                self.submit_current()?;
            }
        }
        Ok(())
    }

    /// Appends zeros up to a multiple of `to` (at most 4096).
    ///
    /// # Errors
    /// As [`ExtentWriter::append`].
    pub fn pad_to(&mut self, to: usize) -> io::Result<()> {
        const ZEROS: [u8; BLOCK] = [0; BLOCK];
        let over = usize::try_from(self.pos % to as u64).unwrap_or(0);
        let need = if over == 0 { 0 } else { to - over };
        self.append(ZEROS.get(..need).unwrap_or_default())
    }

    fn submit_current(&mut self) -> io::Result<()> {
        // Behind a checkpoint a buffer may be at hand and empty.
        if let Some((index, filled)) = self.current.take()
            && filled > 0
        {
            self.out.submit(index, filled, self.base + self.pos - filled as u64)?;
        }
        Ok(())
    }

    /// Makes durable what was appended so far, without padding: the last block is
    /// written with zeros behind its contents, and again when more has come.
    ///
    /// # Errors
    /// As [`ExtentWriter::append`].
    pub fn checkpoint(&mut self) -> io::Result<()> {
        let Some((index, filled)) = self.current.take().filter(|(_, filled)| *filled > 0) else {
            return self.out.flush();
        };
        let tail = filled % BLOCK;
        let mut last = [0u8; BLOCK];
        let bytes = self.out.bytes(index);
        let (whole, end) = (filled - tail, filled.next_multiple_of(BLOCK));
        if let Some(block) = bytes.get_mut(whole..end) {
            if let Some(unused) = block.get_mut(tail..) {
                unused.fill(0);
            }
            for (to, from) in last.iter_mut().zip(block.iter()) {
                *to = *from;
            }
        }
        let at = self.base + self.pos - filled as u64;
        self.out.submit(index, end, at)?;
        // The same block is written again later: that write must come behind this one.
        let flushed = self.out.flush();
        // Also when the flush failed, so that the tail can be salvaged.
        if let Ok(next) = self.out.take() {
            let space = self.out.bytes(next).get_mut(..tail);
            if let (Some(to), Some(from)) = (space, last.get(..tail)) {
                to.copy_from_slice(from);
            }
            self.current = Some((next, tail));
        }
        flushed
    }

    /// Pads to a block, writes out what is buffered and makes it durable.
    ///
    /// # Errors
    /// As [`ExtentWriter::append`].
    pub fn flush(&mut self) -> io::Result<()> {
        self.pad_to(BLOCK)?;
        self.submit_current()?;
        self.out.flush()
    }
}
