//! The engine's seal and sink, joined to the cipher and to the dump partition.
//!
//! Tests include this very file, so that the joints under test are those that run.

use std::io;

use lifeboat_crypt::Sealer;
use lifeboat_engine::{FrameSink, Seal, SealFault};
use lifeboat_format::{ByteOff, Cipher, CommitRecord};
use lifeboat_sink::DumpWriter;
use lifeboat_sys::WriteQueue;

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

/// The dump's extent on its device.
pub(crate) struct Disk(pub(crate) DumpWriter<WriteQueue>);

impl FrameSink for Disk {
    fn position(&self) -> ByteOff {
        self.0.position()
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
    fn commit(&mut self, record: &CommitRecord) -> io::Result<()> {
        self.0.commit(record)
    }
}
