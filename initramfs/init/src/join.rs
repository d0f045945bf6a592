//! The engine's seal and sink, joined to the cipher and to the dump partition.
//!
//! Tests include this very file, so that the joints under test are those that run.

use std::io;

use lifeboat_crypt::Sealer;
use lifeboat_engine::{FrameSink, Seal, SealFault};
use lifeboat_format::{ByteOff, Cipher, CommitRecord};
use lifeboat_sink::{BlockDev, Chain, Host};

/// The cipher of a dump.
pub(crate) struct CryptSeal(pub(crate) Sealer);

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
pub(crate) struct Disk<D, H: Host>(pub(crate) Chain<D, H>);

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
