//! Payloads by codec: what the C libraries wrote reads, and nothing hostile gets past the
//! room that a header gives.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code, helpers included")]

use lifeboat_crypt::Opener;
use lifeboat_field::dump::{DecodedChunk, Decoder, DumpError};
use lifeboat_format::{ByteOff, ChunkHeader, ChunkKind, Cipher, Codec, Layer, Pfn};
use proptest::prelude::*;

/// Decodes `stored` as the payload of a text chunk of `raw_len` bytes.
fn decode(codec: Codec, stored: &[u8], raw_len: usize) -> Result<DecodedChunk, DumpError> {
    let header = ChunkHeader {
        dump_id: [9; 16],
        seq: 0,
        kind: ChunkKind::Log,
        codec,
        cipher: Cipher::None,
        device: 0,
        layer: Layer::Address,
        first: Pfn(0),
        pages: raw_len as u64,
        raw_len: u32::try_from(raw_len).unwrap(),
        stored_len: u32::try_from(stored.len()).unwrap(),
        offset: ByteOff(16384),
        data_pages: 0,
        missing_pages: 0,
        payload_crc: lifeboat_format::crc32(stored),
    };
    Decoder::new().decode(&Opener::new(Cipher::None, None).unwrap(), header, &mut stored.to_vec())
}

/// Literals, matches, one that overlaps itself, lengths of more than one byte.
fn words() -> Vec<u8> {
    let mut out = b"certain, consistent, complete, safe; ".repeat(3);
    out.resize(out.len() + 600, 0);
    out.extend(0..20);
    out.extend(b"consistent");
    out
}

/// [`words`] by `LZ4_compress_default` of liblz4 1.9.4.
const BY_LIBLZ4: &str = "f0046365727461696e2c20636f6e73697374656e740c00ef6d706c6574652c2073616665\
3b202500371f000100ffff47f00e0102030405060708090a0b0c0d0e0f10111213636f6e73697374656e74";

fn unhex(hex: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(digit).collect()
}

#[test]
fn what_liblz4_wrote_reads() {
    let (block, want) = (unhex(BY_LIBLZ4), words());
    assert_eq!(decode(Codec::Lz4, &block, want.len()).unwrap().plain(), want);
    // The length is the header's, to the byte.
    for len in [0, 1, want.len() - 1, want.len() + 1, want.len() + 4096] {
        let e = decode(Codec::Lz4, &block, len).unwrap_err();
        assert!(matches!(e, DumpError::Chunk { .. }), "{e}");
    }
    for cut in 0..block.len() {
        assert!(decode(Codec::Lz4, &block[..cut], want.len()).is_err(), "cut to {cut}");
    }
    assert_eq!(decode(Codec::Lz4, &[0], 0).unwrap().plain(), b"");
    // A match that begins before the contents.
    assert!(decode(Codec::Lz4, &[0x10, b'a', 2, 0, 0x50, 1, 2, 3, 4, 5], 10).is_err());
    assert!(decode(Codec::Lz4, &[0x10, b'a', 0, 0, 0x50, 1, 2, 3, 4, 5], 10).is_err());
}

proptest! {
    #[test]
    fn hostile_payloads_are_survived(
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
        flips in proptest::collection::vec((0usize..4096, any::<u8>()), 0..4),
        raw_len in 0usize..5000,
    ) {
        let mut block = unhex(BY_LIBLZ4);
        for (at, to) in flips {
            let at = at % block.len();
            block[at] = to;
        }
        for payload in [bytes, block] {
            for codec in [Codec::Store, Codec::Zstd, Codec::Lz4] {
                if let Ok(chunk) = decode(codec, &payload, raw_len) {
                    prop_assert_eq!(chunk.plain().len(), raw_len);
                }
            }
        }
    }
}
