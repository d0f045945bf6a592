//! Hostile bytes against every reader of the format: an error, never a panic.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test that fails shall panic"
)]

mod common;

use common::{chunk_header, sealed};
use lifeboat_format::bootcfg::BootConfig;
use lifeboat_format::chunk::{self, INDEX_ENTRY_LEN, PagePayload};
use lifeboat_format::meta::MetaReader;
use lifeboat_format::*;
use proptest::prelude::*;

fn read_blocks(block: &[u8; BLOCK]) {
    let _ = Superblock::decode(block);
    for end in [0, 16 << 20, u64::MAX] {
        let _ = SlotRecord::decode(block, &[0; 16], end).map(|r| r.map(|r| r.extent()));
    }
    let _ = PartBlock::decode(block);
    let _ = DumpHeader::decode(block).map(|h| h.reason_text().len() + h.release_text().len());
    let _ = CommitRecord::decode(block);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..5000), fix: bool, layer in 0u8..6) {
        let mut block = [0u8; BLOCK];
        let n = bytes.len().min(BLOCK);
        block[..n].copy_from_slice(&bytes[..n]);
        read_blocks(&block);
        let _ = IndexHead::decode(&bytes);
        for entry in bytes.as_chunks::<INDEX_ENTRY_LEN>().0 {
            let _ = IndexEntry::decode(entry);
        }
        let _ = BootConfig::parse(&bytes);
        let _ = MetaReader::new(&bytes).count();
        let mut h = bytes.clone();
        h.resize(96, 0);
        if fix {
            h[..8].copy_from_slice(&chunk::MAGIC);
            h[32..36].copy_from_slice(&[4, 1, 1, layer]);
            h[38..40].fill(0);
            h[84..92].fill(0);
            h = sealed(h);
        }
        if let Ok(header) = ChunkHeader::decode(&h) {
            let _ = PagePayload::parse(&bytes, &header);
        }
        let _ = PagePayload::parse(&bytes, &chunk_header());
    }

    /// Fields at random behind a magic, version and checksum that are right.
    #[test]
    fn never_panic_behind_the_checksum(fields in proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(255), any::<u8>()], 0..420), version in 1u32..3) {
        for magic in [&b"LIFEBOAT"[..], b"LBSLOT\0\x01", b"LBPART\0\x02", b"LBDUMP\0\x01", b"LBCOMMIT"] {
            let mut block = vec![0u8; BLOCK];
            block[12..12 + fields.len()].copy_from_slice(&fields);
            block[..8].copy_from_slice(magic);
            block[8..12].copy_from_slice(&version.to_le_bytes());
            read_blocks(&sealed(block).try_into().unwrap());
        }
    }

    /// Sound structures with a few fields at extremes.
    #[test]
    fn never_panic_at_extremes(edits in proptest::collection::vec((12usize..408, prop_oneof![Just(0u64), Just(u64::MAX), Just(1 << 63), any::<u64>()]), 0..4)) {
        for good in [
            common::superblock().encode(), common::slot().encode(), common::part().encode(),
            common::header().encode(), common::commit().encode(),
        ] {
            let mut block = good.to_vec();
            for (at, value) in &edits {
                block[*at..at + 8].copy_from_slice(&value.to_le_bytes());
            }
            let block: [u8; BLOCK] = sealed(block).try_into().unwrap();
            read_blocks(&block);
            let _ = SlotRecord::newest([&block, &good], &[3; 16], 63 << 20);
        }
    }
}
