//! Dumps that are small on the medium and huge when decompressed: heap stays within the
//! bound of the `dump` target, and the readers come to an end.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails shall panic")]

use std::time::Instant;

use lifeboat_format::ChunkKind;
use lifeboat_format::chunk::{MAX_RAW, MAX_RUNS, RUN_LEN};
use lifeboat_fuzz::script::{self, Limits};
use lifeboat_fuzz::{Target, dump, measure, target};

/// Chunks of each bomb: of texts, 1.5 GiB of them in all.
const CHUNKS: u64 = 384;

/// The body of a chunk op: header fields, then the plaintext.
fn chunk(kind: ChunkKind, first: u64, pages: u64, data_pages: u32, plain: &[u8]) -> Vec<u8> {
    let mut body = vec![0u8; 92];
    body[32] = kind as u8;
    // zstd, but for an index, which is never compressed.
    body[33] = u8::from(kind != ChunkKind::Index);
    body[40..48].copy_from_slice(&first.to_le_bytes());
    body[48..56].copy_from_slice(&pages.to_le_bytes());
    body[72..76].copy_from_slice(&data_pages.to_le_bytes());
    body.extend_from_slice(plain);
    body
}

/// Pages that are zero and unreadable by turns: as many runs as a chunk may have.
fn striped() -> Vec<u8> {
    let mut plain = u32::try_from(MAX_RUNS).unwrap().to_le_bytes().to_vec();
    for n in 0..MAX_RUNS {
        let run: u64 = if n % 2 == 0 { 1 << 56 | 1 } else { 2 << 56 | 1 };
        plain.extend(run.to_le_bytes());
    }
    assert_eq!(plain.len(), 4 + MAX_RUNS * RUN_LEN);
    plain
}

fn bomb(kind: ChunkKind) -> Vec<u8> {
    let mut ops = Vec::new();
    script::push(&mut ops, 0, 0, &dump::plain_header());
    script::push(&mut ops, 1, 0, b"LBKEYS\0\x01");
    let stripes = striped();
    for n in 0..CHUNKS {
        // 64 bytes 2^16 times: 4 MiB, which is less than a chunk may hold.
        let len = 4u64 << 20;
        assert!(usize::try_from(len).unwrap() <= MAX_RAW);
        match kind {
            ChunkKind::Memory | ChunkKind::Swap => {
                let pages = MAX_RUNS as u64;
                script::push(&mut ops, 2, 0, &chunk(kind, n * pages, pages, 0, &stripes));
            }
            _ => script::push(&mut ops, 2 | 16 << 3, 0, &chunk(kind, n * len, len, 0, &[6; 64])),
        }
    }
    script::push(&mut ops, 2, 0, &chunk(ChunkKind::Index, 0, 0, 0, &[]));
    script::push(&mut ops, 3, 0, &dump::plain_commit());
    script::assemble_within(&ops, Limits { chunks: 1000, repeated: 4 << 30 })
}

/// Single zero pages with thousands of others between them: marks all over.
fn scattered() -> Vec<u8> {
    let mut plain = u32::try_from(MAX_RUNS).unwrap().to_le_bytes().to_vec();
    for n in 0..MAX_RUNS {
        let run: u64 = if n % 2 == 0 { 4 << 56 | 4095 } else { 1 << 56 | 1 };
        plain.extend(run.to_le_bytes());
    }
    let pages = MAX_RUNS as u64 / 2 * 4096;
    layers((0..CHUNKS).map(|n| chunk(ChunkKind::Memory, n * pages, pages, 0, &plain)))
}

/// Very many pages, which are all to have the contents of one that there is not.
fn copies() -> Vec<u8> {
    let mut plain = 2u32.to_le_bytes().to_vec();
    plain.extend((6u64 << 56 | 1 << 33).to_le_bytes());
    plain.extend((1u64 << 40).to_le_bytes());
    layers(std::iter::once(chunk(ChunkKind::Memory, 0, 1 << 33, 0, &plain)))
}

/// A dump of these chunks of the first layer.
fn layers(chunks: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut ops = Vec::new();
    script::push(&mut ops, 0, 0, &dump::plain_header());
    script::push(&mut ops, 1, 0, b"LBKEYS\0\x01");
    for mut body in chunks {
        body[35] = 1;
        script::push(&mut ops, 2, 0, &body);
    }
    script::push(&mut ops, 2, 0, &chunk(ChunkKind::Index, 0, 0, 0, &[]));
    script::push(&mut ops, 3, 0, &dump::plain_commit());
    script::assemble_within(&ops, Limits { chunks: 1000, repeated: 0 })
}

/// An index chunk that lists itself full, many times, compressed: refused.
fn index_bomb() -> Vec<u8> {
    let mut ops = Vec::new();
    script::push(&mut ops, 0, 0, &dump::plain_header());
    script::push(&mut ops, 1, 0, b"LBKEYS\0\x01");
    let mut entry = [0u8; 32];
    entry[28] = ChunkKind::Log as u8;
    let entries = entry.repeat(2046);
    for n in 0..CHUNKS {
        let prev = if n == 0 { 0 } else { 16384 + (n - 1) * 512 };
        let mut plain = prev.to_le_bytes().to_vec();
        plain.extend((n * 2046).to_le_bytes());
        plain.extend(2046u64.to_le_bytes());
        plain.extend_from_slice(&entries);
        let mut body = chunk(ChunkKind::Index, n * 2046, 2046, 0, &plain);
        body[33] = 1;
        script::push(&mut ops, 2, script::chunk::KEEP_CONTENTS, &body);
    }
    script::push(&mut ops, 3, 0, &dump::plain_commit());
    script::assemble_within(&ops, Limits { chunks: 1000, repeated: 0 })
}

#[test]
fn a_small_dump_takes_little_whatever_it_claims() {
    let bound = target("dump").unwrap().max_heap;
    let kinds = [
        ChunkKind::Log,
        ChunkKind::Notes,
        ChunkKind::Meta,
        ChunkKind::Trailer,
        ChunkKind::Memory,
        ChunkKind::Swap,
    ];
    let bombs = kinds.map(|k| (k.name(), bomb(k)));
    let others = [("index", index_bomb()), ("scattered", scattered()), ("copies", copies())];
    for (name, bytes) in bombs.into_iter().chain(others) {
        assert!(bytes.len() < 512 << 10, "{name}: {} bytes", bytes.len());
        let reader = Target { name, run: |b| dump::read(b.to_vec()), max_len: 0, max_heap: bound };
        let start = Instant::now();
        let cost = measure::run(&reader, &bytes);
        println!(
            "{name}: {} bytes on the medium, {} bytes of heap, {:?}",
            bytes.len(),
            cost.heap,
            start.elapsed()
        );
        assert!(cost.time.as_secs() < 60, "{name}: {:?}", cost.time);
    }
}
