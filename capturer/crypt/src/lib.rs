//! Keys and seals: a fresh data key for each dump, wrapped to age recipients,
//! and AES-256-GCM over every chunk with its place authenticated.
//!
//! This crate does no I/O and keeps no key longer than its holder: key material
//! is zeroized on drop. It refuses to invent randomness where the system has
//! none (see [`DataKey::mix`]) and never prints key bytes.
//!
//! Nonces: 96 bits, four bytes of domain (`chnk` or `cmit`) and the chunk's
//! 64-bit sequence number, little-endian. The data key is fresh for each dump
//! and a sequence number is used once, so no nonce repeats under a key.
#![forbid(unsafe_code)]

mod key;
mod seal;

pub use key::{
    DataKey, Identities, NewIdentity, check_recipient, fingerprint, generate_identity, unwrap, wrap,
};
pub use seal::{Opener, Sealer, TAG_LEN};

use lifeboat_format::{BLOCK, FormatError};
use sha2::{Digest, Sha256};

/// What can go wrong with keys and seals.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CryptError {
    /// A recipient that is not an age X25519 public key.
    #[error(
        "`{text}` is not an age recipient ({why})\nhint: a recipient starts with age1 and is printed by `lifeboat keygen`"
    )]
    Recipient {
        /// What was given, shortened.
        text: String,
        /// What age says.
        why: String,
    },
    /// No recipient at all.
    #[error(
        "no recipient\nhint: name at least one age1… recipient, or set encrypt = \"none\" on purpose"
    )]
    NoRecipient,
    /// An identity file that holds none.
    #[error(
        "the key file holds no age identity ({why})\nhint: it needs a line AGE-SECRET-KEY-1…, as `lifeboat keygen` writes it"
    )]
    Identity {
        /// What age says.
        why: String,
    },
    /// None of the identities opens the dump.
    #[error(
        "none of the given keys opens this dump\nhint: compare the fingerprints that `lifeboat list` prints with the recipient of your key file"
    )]
    WrongKey,
    /// The wrapped key is damaged.
    #[error(
        "the wrapped data key is damaged ({why})\nhint: `lifeboat verify` shows what else is; the dump holds a second header"
    )]
    Wrapped {
        /// What age says.
        why: String,
    },
    /// Wrapping failed.
    #[error("the data key could not be wrapped ({why})")]
    Wrap {
        /// What age says.
        why: String,
    },
    /// A chunk or commit record does not authenticate.
    #[error("{what} does not authenticate: it was changed, or the key is another dump's")]
    Forged {
        /// The structure.
        what: &'static str,
    },
    /// The dump is encrypted but no key was given, or the reverse.
    #[error("the dump says {dump}, but {given}")]
    CipherMismatch {
        /// What the header says.
        dump: &'static str,
        /// What the caller gave.
        given: &'static str,
    },
    /// A structure is damaged.
    #[error(transparent)]
    Format(#[from] FormatError),
}

/// SHA-256 of a header's block 0, as sealed into the first meta chunk.
#[must_use]
pub fn header_digest(block0: &[u8; BLOCK]) -> [u8; 32] {
    Sha256::digest(block0).into()
}
