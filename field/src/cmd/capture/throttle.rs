//! A queue that takes bytes no faster than a disk of a given rate would.
//!
//! The writes are real; a buffer is given back when the write is done *and* a disk of
//! that rate would have taken it. So what a capture would do on a slower disk can be
//! measured on a faster one.

use std::io;
use std::time::{Duration, Instant};

use lifeboat_format::commit::IoMode;
use lifeboat_sink::Output;
use lifeboat_sys::{Lane, WriteQueue};

/// Most buffers that are looked after.
const MAX: usize = 64;

/// A queue, and the disk that it pretends to write to.
pub(crate) struct Throttled {
    queue: WriteQueue,
    /// Nanoseconds a byte; `None` is as fast as the file goes.
    rate: Option<f64>,
    /// When the disk is done with all that it has.
    done: Instant,
    /// When it is done with each of the last writes, oldest first.
    writes: heapless::Deque<Instant, MAX>,
    buffers: usize,
}

impl Throttled {
    /// At most `mbs` million bytes a second; 0 is no limit.
    pub(crate) fn new(queue: WriteQueue, mbs: u32) -> Self {
        let rate = (mbs > 0).then(|| 1000.0 / f64::from(mbs));
        let buffers = queue.busy().1.min(MAX);
        Self { queue, rate, done: Instant::now(), writes: heapless::Deque::new(), buffers }
    }

    fn forget(&mut self) {
        let now = Instant::now();
        while self.writes.front().is_some_and(|at| *at <= now) {
            self.writes.pop_front();
        }
    }
}

impl Output for Throttled {
    type Lane = Lane;
    fn buf_len(&self) -> usize {
        self.queue.buf_len()
    }
    fn take(&mut self) -> io::Result<usize> {
        self.forget();
        // One buffer is being filled: the disk may have all others.
        while self.rate.is_some() && self.writes.len() + 1 > self.buffers {
            if let Some(at) = self.writes.front() {
                std::thread::sleep(at.saturating_duration_since(Instant::now()));
            }
            self.forget();
        }
        self.queue.take()
    }
    fn bytes(&mut self, index: usize) -> &mut [u8] {
        self.queue.bytes(index)
    }
    fn submit(&mut self, index: usize, len: usize, offset: u64) -> io::Result<()> {
        if let Some(rate) = self.rate {
            #[allow(clippy::cast_precision_loss, reason = "a buffer's length")]
            let seconds = len as f64 * rate / 1e9;
            self.done = self.done.max(Instant::now()) + Duration::from_secs_f64(seconds);
            let _ = self.writes.push_back(self.done);
        }
        let started = self.queue.submit(index, len, offset);
        // A thread of the kernel copies: let it, or it waits for a time slice to end.
        std::thread::yield_now();
        started
    }
    fn flush(&mut self) -> io::Result<()> {
        if self.rate.is_some() {
            std::thread::sleep(self.done.saturating_duration_since(Instant::now()));
            self.writes.clear();
        }
        self.queue.flush()
    }
    fn mode(&self) -> IoMode {
        Output::mode(&self.queue)
    }
    fn requests(&self) -> u64 {
        self.queue.requests()
    }
    fn busy(&self) -> (usize, usize) {
        let (busy, all) = self.queue.busy();
        let now = Instant::now();
        let here = self.writes.iter().filter(|at| **at > now).count();
        (busy.max(here), all)
    }
    fn held(&self) -> Option<u64> {
        self.queue.held()
    }
    fn switch(
        &mut self,
        lane: Lane,
        place: &mut dyn FnMut(u64, usize) -> Option<(u64, usize)>,
    ) -> io::Result<()> {
        self.queue.switch(lane, place)
    }
}
