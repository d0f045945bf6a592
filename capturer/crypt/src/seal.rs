//! AES-256-GCM over chunks and commit records.
//!
//! Two implementations: `ring` seals, in the crash kernel, where it is three times as
//! fast as `aes-gcm`, which opens, in the field. So every dump that is opened proves
//! that they agree.

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use ring::aead;

use lifeboat_format::commit::COMMIT_SEQ;
use lifeboat_format::{ChunkHeader, Cipher, CommitRecord};

use crate::{CryptError, DataKey};

/// Bytes of a GCM tag.
pub const TAG_LEN: usize = 16;

const CHUNK_DOMAIN: [u8; 4] = *b"chnk";
const COMMIT_DOMAIN: [u8; 4] = *b"cmit";

fn nonce(domain: [u8; 4], seq: u64) -> [u8; 12] {
    let [a, b, c, d] = domain;
    let [s0, s1, s2, s3, s4, s5, s6, s7] = seq.to_le_bytes();
    [a, b, c, d, s0, s1, s2, s3, s4, s5, s6, s7]
}

fn cipher_of(key: &DataKey) -> Aes256Gcm {
    Aes256Gcm::new(key.bytes().into())
}

/// Seals chunks of one dump, in place, without allocating.
pub struct Sealer(Option<Cipherer>);

/// `None` when the key was refused: then sealing fails, it does not fall back to the clear.
type Cipherer = Option<Box<aead::LessSafeKey>>;

impl Sealer {
    /// A sealer under `key`; `None` leaves chunks as they are.
    #[must_use]
    pub fn new(key: Option<&DataKey>) -> Self {
        // It takes any key of 32 bytes.
        let ring = |k: &DataKey| aead::UnboundKey::new(&aead::AES_256_GCM, k.bytes()).ok();
        Self(key.map(|k| ring(k).map(|u| Box::new(aead::LessSafeKey::new(u)))))
    }

    /// The cipher that chunk headers must name.
    #[must_use]
    pub fn cipher(&self) -> Cipher {
        if self.0.is_some() { Cipher::Aes256Gcm } else { Cipher::None }
    }

    /// Encrypts `payload` in place and gives its tag (`None` without encryption).
    ///
    /// # Errors
    /// [`CryptError::Forged`] is never meant; the cipher refuses only payloads over 64 GiB.
    pub fn seal(
        &self,
        seq: u64,
        aad: &[u8],
        payload: &mut [u8],
    ) -> Result<Option<[u8; TAG_LEN]>, CryptError> {
        self.run(CHUNK_DOMAIN, seq, aad, payload)
    }

    /// The tag of a commit record over its authenticated bytes (zeros without encryption).
    ///
    /// # Errors
    /// As [`Sealer::seal`].
    pub fn commit_tag(&self, record: &CommitRecord) -> Result<[u8; TAG_LEN], CryptError> {
        let tag = self.run(COMMIT_DOMAIN, COMMIT_SEQ, &record.aad(), &mut [])?;
        Ok(tag.unwrap_or_default())
    }

    fn run(
        &self,
        domain: [u8; 4],
        seq: u64,
        aad: &[u8],
        payload: &mut [u8],
    ) -> Result<Option<[u8; TAG_LEN]>, CryptError> {
        let Some(cipher) = &self.0 else { return Ok(None) };
        let forged = || CryptError::Forged { what: "a chunk" };
        let cipher = cipher.as_ref().ok_or_else(forged)?;
        let nonce = aead::Nonce::assume_unique_for_key(nonce(domain, seq));
        let tag = cipher
            .seal_in_place_separate_tag(nonce, aead::Aad::from(aad), payload)
            .map_err(|_| forged())?;
        // Without its tag nobody could ever open the chunk.
        tag.as_ref().first_chunk().copied().map(Some).ok_or_else(forged)
    }
}

/// Opens chunks of one dump.
pub struct Opener(Option<Box<Aes256Gcm>>);

impl Opener {
    /// An opener for a dump that is sealed with `cipher`.
    ///
    /// # Errors
    /// [`CryptError::CipherMismatch`] when a key is missing, or given for a dump in the clear.
    pub fn new(cipher: Cipher, key: Option<&DataKey>) -> Result<Self, CryptError> {
        match (cipher, key) {
            (Cipher::Aes256Gcm, Some(key)) => Ok(Self(Some(Box::new(cipher_of(key))))),
            (Cipher::None, None) => Ok(Self(None)),
            (Cipher::Aes256Gcm, None) => Err(CryptError::CipherMismatch {
                dump: "that it is encrypted",
                given: "no key was given\nhint: name the identity file with -i KEY",
            }),
            (Cipher::None, Some(_)) => Err(CryptError::CipherMismatch {
                dump: "that it is not encrypted",
                given: "a key was given\nhint: leave out -i, and ask why this dump was taken in the clear",
            }),
        }
    }

    /// Decrypts a chunk's stored payload in place and cuts off the tag.
    ///
    /// # Errors
    /// [`CryptError::Forged`] when payload, tag or header were changed;
    /// `stored` then holds nothing of use and is emptied.
    pub fn open(&self, header: &ChunkHeader, stored: &mut Vec<u8>) -> Result<(), CryptError> {
        let opened = self.open_slice(header, stored);
        match opened {
            Some(len) => stored.truncate(len),
            None => stored.clear(),
        }
        opened.map(|_| ()).ok_or(CryptError::Forged { what: "a chunk" })
    }

    /// Length of the plaintext, which then stands at the start of `stored`.
    fn open_slice(&self, header: &ChunkHeader, stored: &mut [u8]) -> Option<usize> {
        let Some(cipher) = &self.0 else {
            return (header.cipher == Cipher::None).then_some(stored.len());
        };
        if header.cipher != Cipher::Aes256Gcm {
            return None;
        }
        let (payload, tag) = stored.split_last_chunk_mut::<TAG_LEN>()?;
        let nonce = Nonce::from(nonce(CHUNK_DOMAIN, header.seq));
        let (tag, len) = (Tag::from(*tag), payload.len());
        cipher
            .decrypt_inout_detached(&nonce, &header.aad(), payload.into(), &tag)
            .ok()
            .map(|()| len)
    }

    /// Checks a commit record's tag. A dump in the clear has none to check.
    ///
    /// # Errors
    /// [`CryptError::Forged`].
    pub fn check_commit(&self, record: &CommitRecord) -> Result<(), CryptError> {
        let Some(cipher) = &self.0 else { return Ok(()) };
        let nonce = Nonce::from(nonce(COMMIT_DOMAIN, COMMIT_SEQ));
        let tag = Tag::from(record.tag);
        cipher
            .decrypt_inout_detached(&nonce, &record.aad(), (&mut [][..]).into(), &tag)
            .map_err(|_| CryptError::Forged { what: "the commit record" })
    }
}
