//! Writing one extent: bytes into large aligned writes.

use std::io;

use lifeboat_format::BLOCK;
use lifeboat_format::commit::IoMode;
use lifeboat_sys::{Lane, QueueMode, WriteQueue};

/// Where a dump's bytes go: buffers to fill and submit in order of offset.
pub trait Output {
    /// The way to another device, prepared for these buffers.
    type Lane;
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
    /// From now on waits for the device as long as its driver does: no other is left to go
    /// on with. Nothing to do where waits have no limit.
    fn lift_limit(&mut self) {}
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
    /// The lowest byte offset on the device that a buffer still holds because its bytes
    /// are not known to be there. All that was submitted behind it is in memory too.
    fn held(&self) -> Option<u64>;
    /// Leaves the device without waiting for it, for the one of `lane`, and makes all
    /// writes there that buffers still hold. `place` gives the new offset and length of a
    /// write at its old ones; `None`: not wanted any more.
    ///
    /// # Errors
    /// The new device's; what it may not have is then held, at its new offset.
    fn switch(
        &mut self,
        lane: Self::Lane,
        place: &mut dyn FnMut(u64, usize) -> Option<(u64, usize)>,
    ) -> io::Result<()>;
}

impl Output for WriteQueue {
    type Lane = Lane;
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
    fn lift_limit(&mut self) {
        self.set_stall_limit(None);
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
    fn held(&self) -> Option<u64> {
        self.held()
    }
    fn switch(
        &mut self,
        lane: Lane,
        place: &mut dyn FnMut(u64, usize) -> Option<(u64, usize)>,
    ) -> io::Result<()> {
        self.switch(lane, place)
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
    /// The block that a checkpoint wrote with zeros behind its contents, and how many bytes
    /// those are: what comes begins with them. 0 once they are in a buffer again.
    last: Box<[u8; BLOCK]>,
    tail: usize,
}

impl<O: Output> ExtentWriter<O> {
    /// A writer of at most `limit` bytes at byte `base` of `out`'s device; both are
    /// multiples of 4096.
    #[must_use]
    pub fn new(out: O, base: u64, limit: u64) -> Self {
        Self { out, base, limit, pos: 0, current: None, last: Box::new([0; BLOCK]), tail: 0 }
    }

    /// Bytes appended so far, those included that a failed write still holds.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.pos
    }

    /// Goes on at another extent of the same device. What was appended must be flushed.
    pub fn restart(&mut self, base: u64, limit: u64) {
        (self.base, self.limit, self.pos) = (base, limit, 0);
        (self.current, self.tail) = (None, 0);
    }

    /// Bytes from the extent's start that are known to be on the device, whole blocks of
    /// them. All behind is still in memory.
    #[must_use]
    pub fn kept(&self) -> u64 {
        let end = self.written();
        let held = self.out.held().and_then(|at| at.checked_sub(self.base));
        held.unwrap_or(end).min(end)
    }

    /// Bytes that were submitted, whole blocks: where the buffer being filled begins.
    fn written(&self) -> u64 {
        self.pos - (self.current.map_or(0, |(_, filled)| filled) + self.tail) as u64
    }

    /// The buffer being filled, and how far.
    fn fill(&mut self) -> io::Result<(usize, usize)> {
        if let Some(current) = self.current {
            return Ok(current);
        }
        let index = self.out.take()?;
        let tail = std::mem::take(&mut self.tail);
        let space = self.out.bytes(index).get_mut(..tail);
        if let (Some(to), Some(from)) = (space, self.last.get(..tail)) {
            to.copy_from_slice(from);
        }
        self.current = Some((index, tail));
        Ok((index, tail))
    }

    /// Bytes for the buffer being filled, of which `filled` are: up to the next multiple of
    /// a buffer on the device. The first write of an extent is a short one, and no other
    /// crosses the edge of a stripe, where it would be split: as long as stripes are a power
    /// of two long, no shorter than a buffer, and the volume begins at the edge of one.
    fn room(&self, filled: usize) -> usize {
        let len = self.out.buf_len();
        let start = self.base + self.pos - filled as u64;
        len - usize::try_from(start % len as u64).unwrap_or(0)
    }

    /// Leaves the device for that of `lane`, and goes on there in an extent of `limit` bytes
    /// at byte `base` with what is not [`ExtentWriter::kept`] as its first bytes.
    ///
    /// # Errors
    /// The new device's; then that one may be left in the same way.
    pub fn switch(&mut self, lane: O::Lane, base: u64, limit: u64) -> io::Result<()> {
        // What fails has given its buffer away, and so has a flush before an extent is left.
        debug_assert!(self.current.is_none(), "a buffer being filled would not be moved");
        let kept = self.kept();
        let (from, to) = (self.base + kept, self.base + self.written());
        (self.base, self.limit, self.pos) = (base, limit, self.pos - kept);
        self.out.switch(lane, &mut |at, len| {
            // A block that a checkpoint wrote may reach behind what was appended: its
            // contents are in the buffer being filled, or will be. Not twice.
            let left = usize::try_from(to.checked_sub(at)?).unwrap_or(len).min(len);
            let at = at.checked_sub(from)?;
            (left > 0).then_some((base + at, left))
        })
    }

    /// Waits for the device without a limit, see [`Output::lift_limit`].
    pub fn lift_limit(&mut self) {
        self.out.lift_limit();
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
            let (index, filled) = self.fill()?;
            let room = self.room(filled);
            let space = self.out.bytes(index).get_mut(filled..room).unwrap_or_default();
            let take = space.len().min(bytes.len());
            let (now, rest) = bytes.split_at(take);
            space.get_mut(..take).unwrap_or_default().copy_from_slice(now);
            bytes = rest;
            self.pos += take as u64;
            self.current = Some((index, filled + take));
            if filled + take == room {
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
        if let Some((index, filled)) = self.current.take() {
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
        if self.tail > 0 {
            self.fill()?;
        }
        let Some((index, filled)) = self.current.take() else {
            return self.out.flush();
        };
        let tail = filled % BLOCK;
        let (whole, end) = (filled - tail, filled.next_multiple_of(BLOCK));
        if let Some(block) = self.out.bytes(index).get_mut(whole..end) {
            if let Some(unused) = block.get_mut(tail..) {
                unused.fill(0);
            }
            for (to, from) in self.last.iter_mut().zip(block.iter()) {
                *to = *from;
            }
        }
        self.tail = tail;
        let at = self.base + self.pos - filled as u64;
        self.out.submit(index, end, at)?;
        // The same block is written again later: that write must come behind this one.
        self.out.flush()
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
