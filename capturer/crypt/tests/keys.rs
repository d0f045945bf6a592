//! Keys and seals, and an independent age implementation as the judge of the wrap.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::too_many_lines,
    reason = "a test that fails shall panic"
)]

use std::io::Write;
use std::process::{Command, Stdio};

use lifeboat_crypt::*;
use lifeboat_format::chunk::Layer;
use lifeboat_format::commit::{IoMode, MAX_PHASES, Outcome, PageCounts, SourceKind};
use lifeboat_format::keys::{KeyEntry, KeyKind};
use lifeboat_format::{
    ByteOff, ChunkHeader, ChunkKind, Cipher, Codec, CommitRecord, FORMAT_VERSION, Pfn,
};

fn header(seq: u64) -> ChunkHeader {
    ChunkHeader {
        dump_id: [1; 16],
        seq,
        kind: ChunkKind::Memory,
        codec: Codec::Store,
        cipher: Cipher::Aes256Gcm,
        device: 0,
        layer: Layer::Address,
        first: Pfn(1),
        pages: 1,
        raw_len: 100,
        stored_len: 116,
        offset: ByteOff(512),
        data_pages: 0,
        missing_pages: 0,
        payload_crc: 0,
    }
}

/// Opens one age file that holds a data key.
fn unwrap(wrapped: &[u8], ids: &Identities) -> Result<DataKey, CryptError> {
    open([KeyEntry { kind: KeyKind::Data, fingerprints: &[], wrapped }], ids, None)
}

fn sealed(sealer: &Sealer, h: &ChunkHeader) -> Vec<u8> {
    let mut payload = b"certain ".repeat(12);
    payload.extend_from_slice(b"safe");
    let tag = sealer.seal(h.seq, &h.aad(), &mut payload).unwrap().unwrap();
    payload.extend_from_slice(&tag);
    payload
}

#[test]
fn a_chunk_opens_only_in_its_place_under_its_key() {
    let key = DataKey::mix(&[b"one"]);
    let (sealer, opener) =
        (Sealer::new(Some(&key)), Opener::new(Cipher::Aes256Gcm, Some(&key)).unwrap());
    let good = sealed(&sealer, &header(7));
    let mut plain = good.clone();
    opener.open(&header(7), &mut plain).unwrap();
    assert!(plain.ends_with(b"certain safe"));
    let refused = |h: ChunkHeader, bytes: &[u8], by: &Opener| {
        let mut b = bytes.to_vec();
        assert!(matches!(by.open(&h, &mut b), Err(CryptError::Forged { .. })));
        assert!(b.is_empty(), "nothing unproven is left");
    };
    refused(header(8), &good, &opener);
    refused(ChunkHeader { first: Pfn(2), ..header(7) }, &good, &opener);
    refused(ChunkHeader { offset: ByteOff(1024), ..header(7) }, &good, &opener);
    refused(ChunkHeader { dump_id: [2; 16], ..header(7) }, &good, &opener);
    refused(ChunkHeader { cipher: Cipher::None, ..header(7) }, &good, &opener);
    let other = DataKey::mix(&[b"two"]);
    refused(header(7), &good, &Opener::new(Cipher::Aes256Gcm, Some(&other)).unwrap());
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        refused(header(7), &bad, &opener);
    }
    refused(header(7), &good[..10], &opener);
    // Equal contents elsewhere have nothing in common.
    let twin = sealed(&sealer, &header(8));
    assert_ne!(good[..96], twin[..96]);
}

#[test]
fn a_commit_record_is_proven() {
    let key = DataKey::mix(&[b"one"]);
    let mut record = CommitRecord {
        version: FORMAT_VERSION,
        last_part: 0,
        dump_id: [1; 16],
        outcome: Outcome::Complete,
        source: SourceKind::File,
        io: IoMode::Pwrite,
        total_len: 4096,
        chunks: 1,
        index: ByteOff(0),
        header_copy: ByteOff(0),
        committed: 1,
        memory: PageCounts::default(),
        swap: PageCounts::default(),
        read_errors: 0,
        writes: 0,
        phases: [(0, 0); MAX_PHASES],
        tag: [0; 16],
    };
    record.tag = Sealer::new(Some(&key)).commit_tag(&record).unwrap();
    let opener = Opener::new(Cipher::Aes256Gcm, Some(&key)).unwrap();
    opener.check_commit(&record).unwrap();
    assert!(opener.check_commit(&CommitRecord { chunks: 2, ..record }).is_err());
    assert!(opener.check_commit(&CommitRecord { tag: [0; 16], ..record }).is_err());
}

#[test]
fn any_one_recipient_unwraps_and_others_do_not() {
    let (a, b, stranger) = (generate_identity(), generate_identity(), generate_identity());
    let key = DataKey::mix(&[b"the key"]);
    let wrapped = wrap(&key, &[&a.recipient, &b.recipient]).unwrap();
    let h = header(1);
    let sealed = sealed(&Sealer::new(Some(&key)), &h);
    for id in [&a, &b] {
        let ids = Identities::parse(&format!("# a comment\n{}\n", *id.secret)).unwrap();
        let back = unwrap(&wrapped, &ids).unwrap();
        let mut bytes = sealed.clone();
        Opener::new(Cipher::Aes256Gcm, Some(&back)).unwrap().open(&h, &mut bytes).unwrap();
    }
    let ids = Identities::parse(&stranger.secret).unwrap();
    assert!(matches!(unwrap(&wrapped, &ids), Err(CryptError::WrongKey)));
    let ids = Identities::parse(&a.secret).unwrap();
    for at in (0..wrapped.len()).step_by(3) {
        let mut bad = wrapped.clone();
        bad[at] ^= 1;
        assert!(unwrap(&bad, &ids).is_err(), "byte {at}");
    }
    assert!(matches!(wrap(&key, &[]), Err(CryptError::NoRecipient)));
    assert!(wrap(&key, &["age1nonsense"]).is_err());
    assert!(Identities::parse("# nothing\n").is_err());
    assert_ne!(fingerprint(&a.recipient), fingerprint(&b.recipient));
}

/// Debian's `age` (another implementation, in Go) opens what we wrap: the
/// bootstrap installs it, so a missing program is a failure.
#[test]
fn age_itself_opens_the_wrapped_key() {
    let id = generate_identity();
    let key = DataKey::mix(&[b"the key"]);
    let wrapped = wrap(&key, &[&id.recipient]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("id");
    std::fs::write(&file, format!("{}\n", *id.secret)).unwrap();
    let mut age = Command::new("age")
        .arg("-d")
        .arg("-i")
        .arg(&file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Debian's age is installed by scripts/bootstrap.sh");
    age.stdin.take().unwrap().write_all(&wrapped).unwrap();
    let out = age.wait_with_output().unwrap();
    assert!(out.status.success());
    assert_eq!(out.stdout.len(), 32);
    // The 32 bytes are the key: wrapping them again unwraps to the same seals.
    let ids = Identities::parse(&id.secret).unwrap();
    let back = unwrap(&wrapped, &ids).unwrap();
    let (one, two) = (Sealer::new(Some(&key)), Sealer::new(Some(&back)));
    assert_eq!(sealed(&one, &header(3)), sealed(&two, &header(3)));
}
