//! A number that sealed a payload never seals another one, whatever the device does.
#![allow(clippy::unwrap_used, reason = "a test that fails shall panic")]

use std::io;
use std::sync::Mutex;

use lifeboat_engine::{Compress, EngineError, FrameSink, Frames, Method, Scratch, Seal, SealFault};
use lifeboat_format::header::KEY_AREA_LEN;
use lifeboat_format::{
    ByteOff, ChunkKind, Cipher, CommitRecord, DumpHeader, FORMAT_VERSION, text_field,
};

/// Remembers the numbers that it was given.
/// Packs nothing: payloads are stored.
struct Nothing;
impl Compress for Nothing {
    fn compress(&mut self, _: Method, _: &[u8], _: &mut [u8]) -> Option<usize> {
        None
    }
}

struct Numbers<'a>(&'a Mutex<Vec<u64>>);

impl Seal for Numbers<'_> {
    fn cipher(&self) -> Cipher {
        Cipher::Aes256Gcm
    }
    fn seal(&self, seq: u64, _: &[u8], _: &mut [u8]) -> Result<Option<[u8; 16]>, SealFault> {
        self.0.lock().unwrap().push(seq);
        Ok(Some([0; 16]))
    }
    fn commit_tag(&self, _: &CommitRecord) -> Result<[u8; 16], SealFault> {
        Ok([0; 16])
    }
}

/// A device whose write number `fails` fails, and works again.
struct Faulty {
    writes: u32,
    fails: u32,
    pos: u64,
}

impl FrameSink for Faulty {
    fn position(&self) -> ByteOff {
        ByteOff(self.pos)
    }
    fn remaining(&self) -> u64 {
        1 << 30
    }
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writes += 1;
        if self.writes == self.fails {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.pos += bytes.len() as u64;
        Ok(())
    }
    fn pad_to(&mut self, to: usize) -> io::Result<()> {
        self.pos = self.pos.next_multiple_of(to as u64);
        Ok(())
    }
    fn checkpoint(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_failed_write_does_not_lend_its_number_to_another_chunk() {
    let header = DumpHeader {
        version: FORMAT_VERSION,
        dump_id: [1; 16],
        volume_id: [2; 16],
        number: 1,
        created: 0,
        cipher: Cipher::Aes256Gcm,
        chunk_pages: 64,
        release: text_field(""),
        reason: text_field(""),
        image: text_field(""),
        key_id: [3; 32],
    };
    // Two writes for the header; then a chunk's header, payload and tag.
    for fails in 3..=5 {
        let used = Mutex::new(Vec::new());
        let sink = Faulty { writes: 0, fails, pos: 0 };
        let mut frames = Frames::new(sink, Numbers(&used), &header, &[0; KEY_AREA_LEN]);
        let mut scratch = Scratch::new(Box::new(Nothing), Method::Store, 1 << 20);
        frames.begin().unwrap();
        let first = frames.text(ChunkKind::Log, b"one", &mut scratch);
        assert!(matches!(first, Err(EngineError::Sink(_))), "write {fails}: {first:?}");
        frames.text(ChunkKind::Notes, b"two", &mut scratch).unwrap();
        frames.text(ChunkKind::Meta, b"three", &mut scratch).unwrap();
        let used = used.lock().unwrap();
        assert_eq!(*used, [0, 1, 2], "write {fails}");
    }
}
