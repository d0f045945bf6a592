//! A disk in memory: with a log of what was written and flushed, with failures at a
//! chosen request, torn writes, and a queue whose writes finish in any order or never.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "shared by several test programs; each uses its part, and fails by a panic"
)]

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use lifeboat_format::commit::IoMode;
use lifeboat_sink::{BlockDev, Output};

/// Bytes of the smallest thing that a disk writes whole.
pub const SECTOR: usize = 512;
const CHUNK: usize = 64 << 10;

/// Numbers that look random.
#[derive(Debug, Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
}

/// Bytes of a disk; what was never written is zero and takes no memory.
#[derive(Debug, Clone)]
pub struct Bytes {
    len: u64,
    chunks: Vec<Option<Arc<[u8; CHUNK]>>>,
}

impl Bytes {
    pub fn new(len: u64) -> Self {
        Self { len, chunks: vec![None; usize::try_from(len.div_ceil(CHUNK as u64)).unwrap()] }
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn read(&self, at: u64, mut buf: &mut [u8]) {
        let mut at = usize::try_from(at).unwrap();
        while !buf.is_empty() {
            let (skip, take) = (at % CHUNK, buf.len().min(CHUNK - at % CHUNK));
            let (now, rest) = buf.split_at_mut(take);
            match &self.chunks[at / CHUNK] {
                Some(chunk) => now.copy_from_slice(&chunk[skip..skip + take]),
                None => now.fill(0),
            }
            (buf, at) = (rest, at + take);
        }
    }

    /// Where other bytes lie than in `other`, a disk of the same length: (offset, bytes;
    /// none for zeros).
    pub fn unlike<'b>(
        &'b self,
        other: &'b Self,
    ) -> impl Iterator<Item = (u64, Option<&'b [u8]>)> + 'b {
        let pairs = self.chunks.iter().zip(&other.chunks).enumerate();
        pairs.filter_map(|(n, (ours, theirs))| {
            let same = match (ours, theirs) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                (None, None) => true,
                _ => false,
            };
            (!same).then(|| ((n * CHUNK) as u64, ours.as_ref().map(|c| &c[..])))
        })
    }

    pub fn write(&mut self, at: u64, mut bytes: &[u8]) {
        let mut at = usize::try_from(at).unwrap();
        while !bytes.is_empty() {
            let (skip, take) = (at % CHUNK, bytes.len().min(CHUNK - at % CHUNK));
            let (now, rest) = bytes.split_at(take);
            let slot = &mut self.chunks[at / CHUNK];
            if slot.is_some() || now.iter().any(|b| *b != 0) {
                let chunk = slot.get_or_insert_with(|| Arc::new([0; CHUNK]));
                Arc::make_mut(chunk)[skip..skip + take].copy_from_slice(now);
            }
            (bytes, at) = (rest, at + take);
        }
    }
}

/// What a disk was asked to do.
#[derive(Debug, Clone)]
pub enum Request {
    Write { at: u64, bytes: Arc<[u8]> },
    Flush,
}

/// What several disks were asked to do, in order.
#[derive(Debug, Clone, Default)]
pub struct Log(pub Arc<Mutex<Vec<(usize, Request)>>>);

/// How a disk fails, at its n-th request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// This request and all behind it.
    Dead,
    /// This request alone.
    Once,
    /// This and all behind it, without an answer: a queue's writes stay in flight.
    Hang,
    /// This request alone, whose answer comes only to who waits without a limit.
    Late,
}

#[derive(Debug)]
struct Inner {
    bytes: Bytes,
    log: Option<(Log, usize)>,
    /// Ranges written since they were last asked for.
    touched: Vec<std::ops::Range<u64>>,
    requests: u64,
    failure: Option<(u64, Failure)>,
    rng: Rng,
}

/// A disk. Clones are the same disk.
#[derive(Debug, Clone)]
pub struct Disk(Arc<Mutex<Inner>>);

enum Answer {
    Good,
    Bad,
    None,
    Late,
}

impl Inner {
    fn ask(&mut self) -> Answer {
        let now = self.requests;
        self.requests += 1;
        match self.failure {
            Some((at, Failure::Once)) if now == at => Answer::Bad,
            Some((at, Failure::Dead)) if now >= at => Answer::Bad,
            Some((at, Failure::Hang)) if now >= at => Answer::None,
            Some((at, Failure::Late)) if now == at => Answer::Late,
            _ => Answer::Good,
        }
    }

    fn write(&mut self, at: u64, bytes: &[u8]) {
        self.note(|| Request::Write { at, bytes: bytes.into() });
        self.touched.push(at..at + bytes.len() as u64);
        self.bytes.write(at, bytes);
    }

    fn note(&self, request: impl FnOnce() -> Request) {
        if let Some((log, disk)) = &self.log {
            log.0.lock().unwrap().push((*disk, request()));
        }
    }

    /// A write that failed: any of its sectors may have arrived.
    fn tear(&mut self, at: u64, bytes: &[u8]) {
        self.touched.push(at..at + bytes.len() as u64);
        let kind = self.rng.below(4);
        for (n, sector) in bytes.chunks(SECTOR).enumerate() {
            let arrives = match kind {
                0 => false,
                1 => true,
                _ => self.rng.below(2) == 0,
            };
            if arrives {
                let at = at + (n * SECTOR) as u64;
                self.note(|| Request::Write { at, bytes: sector.into() });
                self.bytes.write(at, sector);
            }
        }
    }
}

fn eio() -> io::Error {
    io::Error::other("the disk failed")
}

impl Disk {
    pub fn new(len: u64) -> Self {
        Self::of(Bytes::new(len))
    }

    pub fn of(bytes: Bytes) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            bytes,
            log: None,
            touched: Vec::new(),
            requests: 0,
            failure: None,
            rng: Rng(7),
        })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// Its bytes now.
    pub fn bytes(&self) -> Bytes {
        self.inner().bytes.clone()
    }

    /// Changes bytes behind everybody's back.
    pub fn poke(&self, at: u64, change: impl FnOnce(&mut [u8]), len: usize) {
        let mut inner = self.inner();
        let mut bytes = vec![0; len];
        inner.bytes.read(at, &mut bytes);
        change(&mut bytes);
        inner.bytes.write(at, &bytes);
    }

    /// Fails from the `after`-th request from now on.
    pub fn fail_after(&self, after: u64, how: Failure, seed: u64) {
        let mut inner = self.inner();
        inner.failure = Some((inner.requests + after, how));
        inner.rng = Rng(seed);
    }

    /// Opens it once more.
    pub fn open(&self) -> io::Result<()> {
        match self.inner().ask() {
            // A plain request waits as long as the disk takes.
            Answer::Good | Answer::Late => Ok(()),
            Answer::Bad | Answer::None => Err(eio()),
        }
    }

    pub fn repair(&self) {
        self.inner().failure = None;
    }

    /// Writes and flushes so far.
    pub fn requests(&self) -> u64 {
        self.inner().requests
    }

    /// Logs all writes and flushes from now on, as those of disk `number`.
    pub fn record(&self, log: &Log, number: usize) {
        self.inner().log = Some((log.clone(), number));
    }

    /// Ranges written since the last call.
    pub fn touched(&self) -> Vec<std::ops::Range<u64>> {
        std::mem::take(&mut self.inner().touched)
    }
}

impl BlockDev for Disk {
    fn len(&self) -> u64 {
        self.inner().bytes.len()
    }

    fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<()> {
        let inner = self.inner();
        if off.checked_add(buf.len() as u64).is_none_or(|end| end > inner.bytes.len()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        inner.bytes.read(off, buf);
        Ok(())
    }

    fn write_at(&self, off: u64, buf: &[u8]) -> io::Result<()> {
        let mut inner = self.inner();
        let end = off.checked_add(buf.len() as u64).filter(|end| *end <= inner.bytes.len());
        assert!(end.is_some() && off.is_multiple_of(4096) && buf.len().is_multiple_of(4096));
        match inner.ask() {
            Answer::Good | Answer::Late => {
                inner.write(off, buf);
                Ok(())
            }
            // A plain write does not come back with nothing: its driver's limit ends it.
            Answer::Bad | Answer::None => {
                inner.tear(off, buf);
                Err(eio())
            }
        }
    }

    fn flush(&self) -> io::Result<()> {
        let mut inner = self.inner();
        match inner.ask() {
            Answer::Good | Answer::Late => {
                inner.note(|| Request::Flush);
                Ok(())
            }
            Answer::Bad | Answer::None => Err(eio()),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Flying,
    Done,
    Failed,
}

#[derive(Debug, Clone, Copy)]
struct Write {
    at: u64,
    len: usize,
    state: State,
}

/// Writes in flight to a [`Disk`], finished in any order. It keeps the promise of
/// [`Output`]: a buffer is free once its write and all before it are done.
#[derive(Debug)]
pub struct Queue {
    disk: Disk,
    bufs: Vec<Vec<u8>>,
    busy: Vec<Option<Write>>,
    buf_len: usize,
    requests: u64,
    rng: Rng,
    /// Writes that a disk which was left may still make, at any time, with what lies in
    /// their buffers by then.
    ghosts: Vec<(Disk, usize, Write)>,
    /// Whether waits have no limit.
    patient: bool,
}

impl Queue {
    pub fn new(disk: &Disk, depth: usize, buf_len: usize, seed: u64) -> Self {
        Self {
            disk: disk.clone(),
            bufs: vec![vec![0xa5; buf_len]; depth],
            busy: vec![None; depth],
            buf_len,
            requests: 0,
            rng: Rng(seed),
            ghosts: Vec::new(),
            patient: false,
        }
    }

    fn haunt(&mut self) {
        if self.rng.below(4) == 0 && !self.ghosts.is_empty() {
            let n = self.rng.below(self.ghosts.len() as u64) as usize;
            let (disk, index, write) = self.ghosts.swap_remove(n);
            disk.inner().tear(write.at, &self.bufs[index][..write.len]);
        }
    }

    fn flying(&self) -> Vec<usize> {
        let flying = |n: &usize| self.busy[*n].is_some_and(|w| w.state == State::Flying);
        (0..self.busy.len()).filter(flying).collect()
    }

    /// Finishes one write, whichever.
    fn finish_one(&mut self) -> io::Result<()> {
        let flying = self.flying();
        if flying.is_empty() {
            return Err(eio());
        }
        let index = flying[self.rng.below(flying.len() as u64) as usize];
        let write = self.busy[index].as_mut().unwrap();
        let bytes = &self.bufs[index][..write.len];
        let mut disk = self.disk.inner();
        match disk.ask() {
            Answer::Late if !self.patient => {
                disk.tear(write.at, bytes);
                return Err(io::ErrorKind::TimedOut.into());
            }
            Answer::Good | Answer::Late => {
                disk.write(write.at, bytes);
                write.state = State::Done;
            }
            Answer::Bad => {
                disk.tear(write.at, bytes);
                write.state = State::Failed;
                return Err(eio());
            }
            Answer::None => {
                disk.tear(write.at, bytes);
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        let first = self.busy.iter().flatten().filter(|w| w.state != State::Done).map(|w| w.at);
        let first = first.min().unwrap_or(u64::MAX);
        for slot in &mut self.busy {
            if slot.is_some_and(|w| w.state == State::Done && w.at < first) {
                *slot = None;
            }
        }
        Ok(())
    }
}

impl Output for Queue {
    type Lane = Disk;

    fn buf_len(&self) -> usize {
        self.buf_len
    }

    fn take(&mut self) -> io::Result<usize> {
        loop {
            let free: Vec<usize> =
                (0..self.busy.len()).filter(|n| self.busy[*n].is_none()).collect();
            if !free.is_empty() {
                return Ok(free[self.rng.below(free.len() as u64) as usize]);
            }
            self.finish_one()?;
        }
    }

    fn bytes(&mut self, index: usize) -> &mut [u8] {
        if self.busy[index].is_some() { &mut [] } else { &mut self.bufs[index] }
    }

    fn submit(&mut self, index: usize, len: usize, offset: u64) -> io::Result<()> {
        assert!(self.busy[index].is_none() && len > 0 && len <= self.buf_len);
        assert!(len.is_multiple_of(4096) && offset.is_multiple_of(4096));
        assert!(offset + len as u64 <= self.disk.len());
        self.requests += 1;
        self.haunt();
        self.busy[index] = Some(Write { at: offset, len, state: State::Flying });
        // Some are done before anybody asks.
        if self.rng.below(3) == 0 { self.finish_one() } else { Ok(()) }
    }

    fn lift_limit(&mut self) {
        self.patient = true;
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.flying().is_empty() {
            self.finish_one()?;
        }
        if self.busy.iter().any(Option::is_some) {
            return Err(eio());
        }
        self.disk.flush()
    }

    fn busy(&self) -> (usize, usize) {
        (self.busy.iter().flatten().count(), self.busy.len())
    }

    fn mode(&self) -> IoMode {
        IoMode::Polled
    }

    fn requests(&self) -> u64 {
        self.requests
    }

    fn held(&self) -> Option<u64> {
        self.busy.iter().flatten().map(|w| w.at).min()
    }

    fn switch(
        &mut self,
        lane: Disk,
        place: &mut dyn FnMut(u64, usize) -> Option<(u64, usize)>,
    ) -> io::Result<()> {
        let left = std::mem::replace(&mut self.disk, lane);
        for (n, slot) in self.busy.iter_mut().enumerate() {
            let Some(write) = *slot else { continue };
            if write.state == State::Flying {
                self.ghosts.push((left.clone(), n, write));
            }
            *slot = place(write.at, write.len).map(|(at, len)| {
                assert!(len > 0 && len <= write.len && len.is_multiple_of(4096));
                assert!(at.is_multiple_of(4096) && at + len as u64 <= self.disk.len());
                Write { at, len, state: State::Failed }
            });
        }
        // Some are done at once, and the first that fails ends it.
        for n in 0..self.busy.len() {
            if let Some(write) = &mut self.busy[n] {
                self.requests += 1;
                write.state = State::Flying;
                if self.rng.below(3) == 0 {
                    self.finish_one()?;
                }
            }
        }
        Ok(())
    }
}
