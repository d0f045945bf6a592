//! The engine's traits, joined to those who do the work: codecs, cipher, prints, sink,
//! and the readers of old memory and swap.
//!
//! The engine knows none of them, and they do not know each other. PID 1, the host's
//! `lifeboat capture` and the tests use these very joints, so what is tested and
//! measured is what runs. It has no policy and refuses to have one.
#![forbid(unsafe_code)]

mod old;

use std::io;

use lifeboat_crypt::{PagePrint, Sealer};
use lifeboat_engine::{Compress, Fingerprint, FrameSink, Method, Seal, SealFault, Worker};
use lifeboat_format::bootcfg::Ladder;
use lifeboat_format::{ByteOff, Cipher, CommitRecord};
use lifeboat_sink::{BlockDev, Chain, ExtentWriter, Host, Output};
use lifeboat_sys::Codecs;

pub use old::{Memory, Places, Swap};

/// A worker for chunks of up to `chunk_pages` data pages, packed by any method of
/// `ladder`. `None` when zstd refuses its working memory.
pub fn worker(ladder: &Ladder, chunk_pages: u32) -> Option<Worker> {
    Some(make(ladder, chunk_pages)?.0)
}

/// Bytes that one such worker takes for good, found by making one.
pub fn worker_memory(ladder: &Ladder, chunk_pages: u32) -> Option<usize> {
    let (worker, codecs) = make(ladder, chunk_pages)?;
    Some(worker.memory() + codecs)
}

/// A worker, and the bytes of its compressors.
fn make(ladder: &Ladder, chunk_pages: u32) -> Option<(Worker, usize)> {
    let levels: Vec<i32> = ladder.levels().collect();
    let lz4 = ladder.methods().contains(&Method::Lz4);
    let codecs = Codecs::new(Worker::max_raw(chunk_pages), &levels, lz4)?;
    let memory = codecs.memory();
    Some((Worker::new(Box::new(Pack(codecs)), ladder.strongest(), chunk_pages), memory))
}

struct Pack(Codecs);

impl Compress for Pack {
    fn compress(&mut self, method: Method, raw: &[u8], out: &mut [u8]) -> Option<usize> {
        match method {
            Method::Store => None,
            Method::Lz4 => self.0.lz4(raw, out),
            Method::Zstd(level) => self.0.zstd(level, raw, out),
        }
    }
}

/// Has all of `workers` look for twins, by prints under `key`, which is random and used for
/// this one dump. False on a processor that cannot print; then none of them looks.
#[must_use]
pub fn look_for_twins(workers: &mut [Worker], key: &[u8; 32]) -> bool {
    for worker in workers {
        let Some(prints) = PagePrint::new(key) else { return false };
        worker.look_for_twins(Box::new(Prints(prints)));
    }
    true
}

/// Prints of pages, by UMASH.
pub struct Prints(pub PagePrint);

impl Fingerprint for Prints {
    fn print(&mut self, page: &[u8]) -> u128 {
        self.0.print(page)
    }
}

/// The cipher of a dump.
pub struct CryptSeal(pub Sealer);

impl Seal for CryptSeal {
    fn cipher(&self) -> Cipher {
        self.0.cipher()
    }
    fn seal(
        &self,
        seq: u64,
        aad: &[u8],
        payload: &mut [u8],
    ) -> Result<Option<[u8; 16]>, SealFault> {
        self.0.seal(seq, aad, payload).map_err(|_| SealFault)
    }
    fn commit_tag(&self, record: &CommitRecord) -> Result<[u8; 16], SealFault> {
        self.0.commit_tag(record).map_err(|_| SealFault)
    }
}

/// The dump's extents on their devices.
pub struct Disk<D, H: Host>(pub Chain<D, H>);

impl<D: BlockDev, H: Host> FrameSink for Disk<D, H> {
    fn position(&self) -> ByteOff {
        ByteOff(self.0.position())
    }
    fn remaining(&self) -> u64 {
        self.0.remaining()
    }
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.append(bytes)
    }
    fn pad_to(&mut self, to: usize) -> io::Result<()> {
        self.0.pad_to(to)
    }
    fn checkpoint(&mut self) -> io::Result<()> {
        self.0.checkpoint()
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
    fn more(&mut self, need: u64) -> bool {
        self.0.more(need)
    }
    fn moved(&mut self) -> bool {
        self.0.moved()
    }
    fn part(&self) -> u8 {
        self.0.part()
    }
    fn busy(&self) -> (usize, usize) {
        self.0.busy()
    }
}

/// One extent, for a dump in a file that nothing follows when it is full.
pub struct Plain<O>(pub ExtentWriter<O>);

impl<O: Output> FrameSink for Plain<O> {
    fn position(&self) -> ByteOff {
        ByteOff(self.0.position())
    }
    fn remaining(&self) -> u64 {
        self.0.remaining()
    }
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.append(bytes)
    }
    fn pad_to(&mut self, to: usize) -> io::Result<()> {
        self.0.pad_to(to)
    }
    fn checkpoint(&mut self) -> io::Result<()> {
        self.0.checkpoint()
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
    fn busy(&self) -> (usize, usize) {
        self.0.busy()
    }
}
