//! Data keys, and wrapping them by age (age-encryption.org/v1).

use std::io::{Read, Write};

use age::secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use crate::{CryptError, Recipient};

/// Bytes of a data key.
pub(crate) const KEY_LEN: usize = 32;

/// The key of one dump: 32 bytes, wiped on drop, never printed.
pub struct DataKey(Zeroizing<[u8; KEY_LEN]>);

impl core::fmt::Debug for DataKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("DataKey(…)")
    }
}

impl DataKey {
    /// A key from independent sources of randomness: SHA-256 over a label and
    /// all parts, each preceded by its length. It is as strong as the strongest
    /// part: the caller says where the parts come from, and gives at least one
    /// with 256 bits of entropy.
    #[must_use]
    pub fn mix(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"lifeboat data key v1");
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let mut digest = hash.finalize();
        let key = Self(Zeroizing::new(digest.into()));
        digest.as_mut_slice().zeroize();
        key
    }

    /// What a dump's header says of its key: SHA-256 of a label and the key. It
    /// tells nothing of the key, which has 256 bits of entropy.
    #[must_use]
    pub fn id(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(b"lifeboat key id v2");
        hash.update(&self.0[..]);
        hash.finalize().into()
    }

    /// A key as it was wrapped; `None` if it has not 32 bytes.
    pub(crate) fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|bytes| Self(Zeroizing::new(bytes)))
    }

    /// The key's bytes.
    pub(crate) fn bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

/// Wraps a data key to all recipients: any one of their identities unwraps it.
/// The result is a binary age file whose plaintext is the 32 bytes of the key.
///
/// # Errors
/// [`CryptError::NoRecipient`], [`CryptError::Recipient`], [`CryptError::NeedsPlugin`],
/// [`CryptError::Wrap`].
pub fn wrap(key: &DataKey, recipients: &[&str]) -> Result<Vec<u8>, CryptError> {
    let parsed = recipients.iter().map(|r| Recipient::parse(r)).collect::<Result<Vec<_>, _>>()?;
    let keys = parsed.iter().map(Recipient::direct).collect::<Result<Vec<_>, _>>()?;
    seal(key.bytes(), &keys)
}

/// A binary age file that holds `plain`.
pub(crate) fn seal(plain: &[u8], to: &[&dyn age::Recipient]) -> Result<Vec<u8>, CryptError> {
    if to.is_empty() {
        return Err(CryptError::NoRecipient);
    }
    let failed = |why: String| CryptError::Wrap { why };
    let encryptor =
        age::Encryptor::with_recipients(to.iter().copied()).map_err(|e| failed(e.to_string()))?;
    let mut out = Vec::new();
    let mut writer = encryptor.wrap_output(&mut out).map_err(|e| failed(e.to_string()))?;
    writer.write_all(plain).map_err(|e| failed(e.to_string()))?;
    writer.finish().map_err(|e| failed(e.to_string()))?;
    Ok(out)
}

/// Opens an age file of at most `max` bytes of plaintext by one identity; `None`
/// when it is for others.
pub(crate) fn unseal(
    wrapped: &[u8],
    id: &dyn age::Identity,
    max: usize,
) -> Result<Option<Zeroizing<Vec<u8>>>, age::DecryptError> {
    let reader = match age::Decryptor::new_buffered(wrapped)?.decrypt(core::iter::once(id)) {
        Err(age::DecryptError::NoMatchingKeys) => return Ok(None),
        other => other?,
    };
    // Room for all of it at once: growing would leave copies behind.
    let mut plain = Zeroizing::new(Vec::with_capacity(max + 1));
    reader.take(max as u64 + 1).read_to_end(&mut plain)?;
    Ok(Some(plain))
}

/// A new key pair, in age's text forms.
pub struct NewIdentity {
    /// `AGE-SECRET-KEY-1…`; wiped on drop.
    pub secret: Zeroizing<String>,
    /// `age1…`
    pub recipient: String,
}

/// Makes an X25519 identity from the system's random generator.
#[must_use]
pub fn generate_identity() -> NewIdentity {
    let identity = age::x25519::Identity::generate();
    NewIdentity {
        secret: Zeroizing::new(identity.to_string().expose_secret().to_owned()),
        recipient: identity.to_public().to_string(),
    }
}
