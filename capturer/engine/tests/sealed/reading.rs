//! Reads a dump back from its volumes, with nothing but the format crate and the cipher.

use std::collections::BTreeMap;
use std::fs::File;

use lifeboat_crypt::Opener;
use lifeboat_format::chunk::PagePayload;
use lifeboat_format::part::PART_HEAD;
use lifeboat_format::{
    BLOCK, ChunkHeader, ChunkKind, Cipher, Codec, CommitRecord, PAGE, PageClass, PartBlock,
};
use lifeboat_sink::{BlockDev, FileDev, Placement, Volume};

use crate::machine::{ID, key};

/// Pages by number; `None` for one that could not be read.
pub(crate) type Pages = BTreeMap<u64, Option<Vec<u8>>>;

/// A whole dump.
pub(crate) struct Dump {
    pub(crate) memory: Pages,
    pub(crate) swap: Pages,
    texts: Vec<ChunkKind>,
    pub(crate) parts: usize,
    /// Whether of swap, page, and the page of memory that it equals.
    copies: Vec<(bool, u64, u64)>,
}

impl Dump {
    pub(crate) fn read(volumes: &[File]) -> Self {
        let (bytes, parts) = assemble(volumes);
        let opener = Opener::new(Cipher::Aes256Gcm, Some(&key())).unwrap();
        let record = CommitRecord::decode(bytes[bytes.len() - BLOCK..].try_into().unwrap());
        opener.check_commit(&record.unwrap()).unwrap();
        let (memory, swap) = (Pages::new(), Pages::new());
        let mut dump = Self { memory, swap, texts: Vec::new(), parts, copies: Vec::new() };
        let mut at = 4 * BLOCK;
        while bytes[at..].starts_with(&lifeboat_format::chunk::MAGIC) {
            let chunk = ChunkHeader::decode(&bytes[at..]).unwrap();
            assert_eq!(chunk.offset.0, at as u64);
            let mut stored = bytes[at + 96..at + 96 + chunk.stored_len as usize].to_vec();
            assert_eq!(lifeboat_format::crc32(&stored), chunk.payload_crc);
            opener.open(&chunk, &mut stored).unwrap();
            dump.take(&chunk, &stored);
            at += usize::try_from(chunk.frame_len()).unwrap();
        }
        for (is_swap, page, source) in std::mem::take(&mut dump.copies) {
            // Of a dump that was cut short the source may be missing.
            let Some(content) = dump.memory.get(&source).cloned() else { continue };
            let pages = if is_swap { &mut dump.swap } else { &mut dump.memory };
            assert!(pages.insert(page, content).is_none(), "page {page} is there twice");
        }
        dump
    }

    /// Chunks of a kind of text; the log counts as one when its first piece is there.
    pub(crate) fn texts(&self, kind: &str) -> usize {
        let kind = if kind == "log" { ChunkKind::Log } else { ChunkKind::Trailer };
        let pieces = self.texts.iter().filter(|k| **k == kind).count();
        // 540,000 bytes, at most 256 KiB of them in a chunk.
        if kind == ChunkKind::Log { pieces / 3 } else { pieces }
    }

    fn take(&mut self, chunk: &ChunkHeader, stored: &[u8]) {
        let plain = match chunk.codec {
            Codec::Store => stored.to_vec(),
            Codec::Zstd => zstd::bulk::decompress(stored, chunk.raw_len as usize).unwrap(),
            Codec::Lz4 => lz4_flex::block::decompress(stored, chunk.raw_len as usize).unwrap(),
        };
        let pages = match chunk.kind {
            ChunkKind::Memory => &mut self.memory,
            ChunkKind::Swap => &mut self.swap,
            other => return self.texts.push(other),
        };
        let payload = PagePayload::parse(&plain, chunk).unwrap();
        let (mut pfn, mut data) = (chunk.first.0, payload.data().chunks(PAGE));
        for run in payload.runs() {
            for n in 0..run.count {
                let found = match run.class {
                    PageClass::Fill(word) => Some(Some(word.to_le_bytes().repeat(PAGE / 8))),
                    PageClass::Same(source) => {
                        let copy = (chunk.kind == ChunkKind::Swap, pfn, source.0 + n);
                        self.copies.push(copy);
                        None
                    }
                    PageClass::Data => Some(Some(data.next().unwrap().to_vec())),
                    PageClass::Zero => Some(Some(vec![0; PAGE])),
                    PageClass::Unreadable => Some(None),
                    PageClass::Excluded | PageClass::Elsewhere => None,
                };
                if let Some(found) = found {
                    assert!(pages.insert(pfn, found).is_none(), "page {pfn} is there twice");
                }
                pfn += 1;
            }
        }
    }
}

/// The dump's bytes from all its parts, and how many those are.
fn assemble(volumes: &[File]) -> (Vec<u8>, usize) {
    let mut parts = Vec::new();
    for file in volumes {
        let len = file.metadata().unwrap().len();
        let dev = FileDev::new(file.try_clone().unwrap(), 0, len);
        let volume = Volume::open(dev, Placement { start: 0, len }).unwrap();
        for (_, slot) in volume.dumps().into_iter().filter(|(_, r)| r.dump_id == ID) {
            let (mut extent, mut base) = (slot.extent(), 0);
            if slot.part > 0 {
                let mut block = [0; BLOCK];
                volume.dev().read_at(extent.start, &mut block).unwrap();
                base = PartBlock::decode(&block).unwrap().base;
                extent.start += PART_HEAD as u64;
            }
            let mut bytes = vec![0; (extent.end - extent.start) as usize];
            volume.dev().read_at(extent.start, &mut bytes).unwrap();
            parts.push((slot.part, base, bytes));
        }
    }
    parts.sort_by_key(|(part, ..)| *part);
    let count = parts.len();
    let mut whole: Vec<u8> = Vec::new();
    for (_, base, bytes) in parts {
        // What a device took before it failed reaches behind the next one's start.
        whole.truncate(base as usize);
        assert_eq!(whole.len() as u64, base, "a part begins behind the last one's end");
        whole.extend(bytes);
    }
    let last =
        whole.chunks(BLOCK).rposition(|b| CommitRecord::decode(b.try_into().unwrap()).is_ok());
    whole.truncate((last.unwrap() + 1) * BLOCK);
    (whole, count)
}
