//! Chunk headers, payloads with their codecs and seals, run tables, meta tables.

use lifeboat_crypt::Opener;
use lifeboat_field::dump::{DecodedChunk, Decoder};
use lifeboat_format::chunk::{HEADER_LEN, MAX_RAW, MAX_RUNS, MAX_STORED, PagePayload};
use lifeboat_format::meta::MetaReader;
use lifeboat_format::{ChunkHeader, Cipher, PAGE, PageClass};

use crate::script::{self, Fix};

/// A chunk: header and stored payload. As it is; with right checksums; with right
/// lengths, compression and seal too.
pub fn chunk(data: &[u8]) {
    let Some((head, payload)) = data.split_at_checked(HEADER_LEN) else {
        assert!(ChunkHeader::decode(data).is_err());
        return;
    };
    one(head, payload);
    let frame = |fix: &Fix| script::frame(head, payload, fix);
    for fix in [
        Fix { crc: true, ..Fix::NOTHING },
        Fix { crc: true, lengths: true, ..Fix::NOTHING },
        Fix { crc: true, lengths: true, compress: true, cipher: Some(Cipher::None) },
        Fix { crc: true, lengths: true, compress: true, cipher: Some(Cipher::Aes256Gcm) },
    ] {
        let (head, stored) = frame(&fix);
        one(&head, &stored);
    }
    // The plaintext alone.
    if let Ok(header) = ChunkHeader::decode(&script::frame(head, payload, &Fix::ALL_CLEAR).0) {
        page_payload(payload, &header);
    }
    meta(payload);
}

fn one(head: &[u8], stored: &[u8]) {
    let Ok(header) = ChunkHeader::decode(head) else { return };
    assert_eq!(ChunkHeader::decode(&header.encode()), Ok(header));
    assert!(header.raw_len as usize <= MAX_RAW && header.stored_len as usize <= MAX_STORED);
    assert!(header.frame_len() >= HEADER_LEN as u64 + u64::from(header.stored_len));
    let key = (header.cipher == Cipher::Aes256Gcm).then(script::data_key);
    let opener = Opener::new(header.cipher, key.as_ref()).expect("a key where one is needed");
    // A reader takes as many bytes as the header says.
    let mut stored = crate::script::resized(stored, header.stored_len as usize);
    if let Ok(chunk) = Decoder::new().decode(&opener, header, &mut stored) {
        decoded(&chunk);
    }
}

/// What a decoded chunk must keep to.
pub(crate) fn decoded(chunk: &DecodedChunk) {
    let header = chunk.header();
    assert_eq!(chunk.plain().len(), header.raw_len as usize);
    if !header.kind.is_pages() {
        assert_eq!(chunk.pieces().count(), 0);
        return;
    }
    let (mut at, mut data) = (header.first.0, 0u64);
    for piece in chunk.pieces() {
        assert_eq!(piece.first.0, at, "pieces follow each other");
        assert!(piece.pages > 0);
        at += piece.pages;
        if piece.class == PageClass::Data {
            assert_eq!(piece.data.len() as u64, piece.pages * PAGE as u64);
            data += piece.pages;
        } else {
            assert!(piece.data.is_empty());
        }
    }
    assert_eq!(at, header.first.0 + header.pages, "pieces cover the chunk");
    assert_eq!(data, u64::from(header.data_pages));
}

fn page_payload(plain: &[u8], header: &ChunkHeader) {
    let Ok(payload) = PagePayload::parse(plain, header) else { return };
    let runs: Vec<_> = payload.runs().collect();
    assert!(runs.len() <= MAX_RUNS);
    assert_eq!(runs.iter().map(|r| r.count).sum::<u64>(), header.pages);
    assert_eq!(payload.data().len(), header.data_pages as usize * PAGE);
}

fn meta(plain: &[u8]) {
    let mut records = 0;
    for record in MetaReader::new(plain) {
        records += 1;
        if record.is_err() {
            break;
        }
    }
    assert!(records <= plain.len() / 8 + 1);
}
