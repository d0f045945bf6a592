//! The wrapped key: an age file from anyone. age's header has a MAC under a key that
//! only a recipient's stanza gives; with a known file key the target makes it right.

use chacha20poly1305::aead::Aead;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use lifeboat_crypt::{CryptError, DataKey};
use lifeboat_format::{KeyEntry, KeyKind};
use sha2::Sha256;

use crate::script;

/// A stanza that wraps [`FILE_KEY`] to [`script::RECIPIENT`], by the age format's text
/// with ephemeral secret 00 01 … 1f.
const STANZA: &str = "-> X25519 j0DFrbaPJWJK5bIU6nZ6bslNgp09e14a0bpvPiE4KF8\n\
    R0Pj1i039C+ccdwHXqEFWVwiH89jBvrHXT7rz62bEFg\n";
const FILE_KEY: &[u8; 16] = b"lifeboat's fuzz!";
/// Plaintext bytes of a chunk of age's payload.
const CHUNK: usize = 64 << 10;

fn derived(salt: &[u8], info: &[u8]) -> [u8; 32] {
    let mut out = [0u8; 32];
    Hkdf::<Sha256>::new(Some(salt), FILE_KEY).expand(info, &mut out).expect("32 bytes");
    out
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let n = u32::from_be_bytes([
            0,
            group[0],
            group.get(1).copied().unwrap_or(0),
            group.get(2).copied().unwrap_or(0),
        ]);
        for i in 0..=group.len() {
            out.push(char::from(DIGITS[(n >> (18 - 6 * i)) as usize & 63]));
        }
    }
    out
}

/// An age file with the stanzas given, a right MAC and a rightly sealed payload.
fn file(stanzas: &[u8], payload: &[u8], last: bool) -> Vec<u8> {
    let mut out = b"age-encryption.org/v1\n".to_vec();
    out.extend_from_slice(stanzas);
    out.extend_from_slice(b"---");
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(&derived(b"", b"header")).expect("a key");
    mac.update(&out);
    out.push(b' ');
    out.extend(base64(&mac.finalize().into_bytes()).bytes());
    out.push(b'\n');
    let nonce = [7u8; 16];
    out.extend(nonce);
    let cipher = ChaCha20Poly1305::new(&derived(&nonce, b"payload").into());
    let count = payload.chunks(CHUNK).count().max(1);
    for index in 0..count {
        let part = payload.chunks(CHUNK).nth(index).unwrap_or_default();
        let mut nonce = [0u8; 12];
        nonce[3..11].copy_from_slice(&(index as u64).to_be_bytes());
        nonce[11] = u8::from(last && index + 1 == count);
        out.extend(cipher.encrypt(&nonce.into(), part).expect("memory"));
    }
    out
}

/// Opens age files as the entries of a key area.
fn open(entries: &[(KeyKind, &[u8])]) -> Result<DataKey, CryptError> {
    let entry = |(kind, wrapped)| KeyEntry { kind, fingerprints: &[], wrapped };
    lifeboat_crypt::open(entries.iter().copied().map(entry), &script::identities(), None)
}

/// An age file as it is; then `flags u8, len u16, stanzas[len], plaintext` as an age file
/// that is sound but for what these say.
pub fn age(data: &[u8]) {
    let _ = open(&[(KeyKind::Data, data)]);
    let Some(([flags, low, high], rest)) = data.split_first_chunk::<3>() else { return };
    let len = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
    let (stanzas, payload) = rest.split_at(len);
    let ours = STANZA.as_bytes();
    let all = match flags & 3 {
        0 => [ours, stanzas].concat(),
        1 => [stanzas, ours].concat(),
        2 => [ours, stanzas, ours].concat(),
        _ => stanzas.to_vec(),
    };
    let whole = file(&all, payload, flags & 4 == 0);
    let result = open(&[(KeyKind::Data, &whole)]);
    if stanzas.is_empty() && matches!(flags & 7, 0..=1) {
        assert_eq!(result.is_ok(), payload.len() == 32, "32 bytes are a key: {result:?}");
    }
    if payload.len() != 32 {
        assert!(result.is_err(), "no data key has {} bytes", payload.len());
    }
    // A one-boot identity of anyone's making, which opens nothing.
    let both = open(&[(KeyKind::Identity, &whole), (KeyKind::Data, &whole)]);
    assert_eq!(both.is_ok(), result.is_ok());
}
