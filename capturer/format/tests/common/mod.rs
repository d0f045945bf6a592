//! One of each structure, and little helpers, for the tests of the format.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test program uses its part")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]
#![allow(clippy::cast_possible_truncation, reason = "test code")]

use lifeboat_format::commit::{IoMode, Outcome, PageCounts, SourceKind};
use lifeboat_format::*;

pub fn le64(b: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(b[at..at + 8].try_into().unwrap())
}

pub fn le32(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(b[at..at + 4].try_into().unwrap())
}

pub fn le16(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(b[at..at + 2].try_into().unwrap())
}

/// A structure with its checksum made to fit again, as someone with a hex editor would.
pub fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.len() - 4;
    let crc = crc32(&bytes[..end]).to_le_bytes();
    bytes[end..].copy_from_slice(&crc);
    bytes
}

/// A block with some bytes replaced and its checksum made to fit.
pub fn edited<const N: usize>(block: &[u8; N], at: usize, new: &[u8]) -> [u8; N] {
    let mut bytes = block.to_vec();
    bytes[at..at + new.len()].copy_from_slice(new);
    sealed(bytes).try_into().unwrap()
}

pub fn superblock() -> Superblock {
    Superblock {
        volume_id: [3; 16],
        part_start: ByteOff(1 << 21),
        part_len: 64 << 20,
        max_dumps: 5,
        created: 77,
        label: text_field("rack 7"),
    }
}

pub fn slot() -> SlotRecord {
    SlotRecord {
        volume_id: [3; 16],
        dump_id: [4; 16],
        generation: 9,
        number: 2,
        state: SlotState::Continued,
        pulled: true,
        start: ByteOff(1 << 20),
        reserved_len: 60 << 20,
        used_len: 8192,
        created: 5,
        part: 0x0102,
        base: 0x70_0000,
        next_volume: [6; 16],
    }
}

pub fn part() -> PartBlock {
    PartBlock { dump_id: [1; 16], volume_id: [2; 16], part: 0x0102, base: 0x70_0000 }
}

pub fn header() -> DumpHeader {
    DumpHeader {
        version: FORMAT_VERSION,
        dump_id: [1; 16],
        volume_id: [2; 16],
        number: 3,
        created: 4,
        cipher: Cipher::Aes256Gcm,
        chunk_pages: 64,
        release: text_field("6.1.0-56-cloud-amd64"),
        reason: text_field("Kernel panic"),
        image: text_field("0.1"),
        key_id: [0x4b; 32],
    }
}

pub fn chunk_header() -> ChunkHeader {
    ChunkHeader {
        dump_id: [1; 16],
        seq: 5,
        kind: ChunkKind::Memory,
        codec: Codec::Zstd,
        cipher: Cipher::Aes256Gcm,
        device: 0,
        layer: Layer::Cache,
        first: Pfn(0x100),
        pages: 3,
        raw_len: 8204,
        stored_len: 600,
        offset: ByteOff(16384),
        data_pages: 2,
        missing_pages: 1,
        payload_crc: 0xdead_beef,
    }
}

pub fn commit() -> CommitRecord {
    CommitRecord {
        version: FORMAT_VERSION,
        dump_id: [1; 16],
        outcome: Outcome::Complete,
        source: SourceKind::Oldmem,
        io: IoMode::Polled,
        last_part: 2,
        total_len: 40960,
        chunks: 9,
        index: ByteOff(20480),
        header_copy: ByteOff(20992),
        committed: 8,
        memory: PageCounts {
            asked: 1,
            data: 2,
            zero: 3,
            unreadable: 4,
            excluded: 5,
            fill: 12,
            same: 13,
            stored_bytes: 6,
        },
        swap: PageCounts { asked: 7, fill: 14, same: 15, ..PageCounts::default() },
        read_errors: 4,
        writes: 11,
        phases: core::array::from_fn(|i| (i as u8, i as u32 * 10)),
        tag: [0xcc; 16],
    }
}
