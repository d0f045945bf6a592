//! Keys and seals: a fresh data key for each dump, wrapped to age recipients,
//! and AES-256-GCM over every chunk with its place authenticated.
//!
//! This crate reads and writes no file and keeps no key longer than its holder: data keys
//! and secrets that it holds are zeroized on drop, but not the round keys that `ring` makes
//! of a data key for a [`Sealer`]. It refuses to invent randomness where the system
//! has none (see [`DataKey::mix`]) and never prints key bytes.
//!
//! Words: a *recipient* is a public key, an *identity* the secret half of one. The
//! feature `host` adds what a crash kernel must not do: running plugins, and opening
//! key files by a passphrase.
//!
//! Nonces: 96 bits, four bytes of domain (`chnk` or `cmit`) and the chunk's
//! 64-bit sequence number, little-endian. The data key is fresh for each dump
//! and a sequence number is used once, so no nonce repeats under a key.
#![forbid(unsafe_code)]

mod area;
#[cfg(feature = "host")]
mod host;
mod identity;
mod key;
mod print;
mod recipient;
mod seal;

pub use area::{check_room, key_area};
#[cfg(feature = "host")]
pub use host::{KeyFile, LockedKey, OneBoot, User, one_boot, wrap_here};
pub use identity::{Identities, open};
pub use key::{DataKey, NewIdentity, generate_identity, wrap};
pub use print::PagePrint;
pub use recipient::{Recipient, check_recipient, fingerprint};
pub use seal::{Opener, Sealer, TAG_LEN};

use lifeboat_format::{BLOCK, FormatError};
use sha2::{Digest, Sha256};

/// What can go wrong with keys and seals.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CryptError {
    /// A recipient that cannot be one.
    #[error("`{text}` is not a recipient: {why}\nhint: {hint}")]
    Recipient {
        /// What was given, shortened.
        text: String,
        /// What is wrong with it.
        why: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// A plugin's recipient where no plugin can run.
    #[error(
        "`{text}` belongs to age-plugin-{name}, and plugins cannot run in a crash kernel\nhint: name it when arming: `lifeboat arm` runs the plugin and makes a recipient for this boot"
    )]
    NeedsPlugin {
        /// The recipient.
        text: String,
        /// The plugin.
        name: String,
    },
    /// A plugin is missing, or failed.
    #[error(
        "an age plugin could not help: {why}\nhint: install the plugin, put its directory on the PATH, and plug in its device; AGEDEBUG=plugin shows what it says"
    )]
    Plugin {
        /// What went wrong.
        why: String,
    },
    /// No recipient at all.
    #[error(
        "no recipient\nhint: name at least one age1… recipient, or set encrypt = \"none\" on purpose"
    )]
    NoRecipient,
    /// An identity file that holds none.
    #[error(
        "the key file holds no identity ({why})\nhint: it needs a line AGE-SECRET-KEY-1…, as `lifeboat keygen` writes it, or is an OpenSSH private key"
    )]
    Identity {
        /// What age says.
        why: String,
    },
    /// An ssh key that cannot be used.
    #[error("the ssh key cannot be used: {why}\nhint: {hint}")]
    SshKey {
        /// What is wrong with it.
        why: String,
        /// What to do.
        hint: &'static str,
    },
    /// A key file that is protected by a passphrase, where none was given.
    #[error(
        "the key file is protected by a passphrase\nhint: run this on a terminal, or name a file with the passphrase in LIFEBOAT_PASSPHRASE_FILE"
    )]
    Locked,
    /// The passphrase is wrong.
    #[error(
        "the passphrase does not open the key file\nhint: try again; `ssh-keygen -y -f FILE` tests a passphrase"
    )]
    Passphrase,
    /// None of the identities opens the dump.
    #[error(
        "none of the given keys opens this dump\nhint: compare the fingerprints that `lifeboat list` prints with the recipient of your key file"
    )]
    WrongKey,
    /// The key area opens, but holds another key than the header names.
    #[error(
        "the key area was replaced: it holds the key of another dump\nhint: another copy of this dump may have its own key area still; treat this one as tampered with"
    )]
    Replaced,
    /// The wrapped key is damaged.
    #[error(
        "the wrapped data key is damaged ({why})\nhint: `lifeboat verify` shows what else is; the dump holds a second header"
    )]
    Wrapped {
        /// What age says.
        why: String,
    },
    /// The recipients take more room than a key area has.
    #[error(
        "the recipients do not fit a dump's key area: no dump could be written\nhint: name fewer; ssh-rsa keys take the most room, and all together there may be 32"
    )]
    NoRoom,
    /// Wrapping failed.
    #[error(
        "the key could not be wrapped ({why})\nhint: try with fewer recipients to find the one that does not work"
    )]
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
