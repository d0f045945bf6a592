//! Data keys, identities, and wrapping by age (age-encryption.org/v1, X25519).

use std::io::Read;

use age::secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use crate::CryptError;

/// Bytes of a data key.
const KEY_LEN: usize = 32;

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

    /// The key's bytes.
    pub(crate) fn bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

/// Checks that a text is an age X25519 recipient.
///
/// # Errors
/// [`CryptError::Recipient`].
pub fn check_recipient(text: &str) -> Result<(), CryptError> {
    parse_recipient(text).map(|_| ())
}

fn parse_recipient(text: &str) -> Result<age::x25519::Recipient, CryptError> {
    text.parse().map_err(|why: &str| CryptError::Recipient {
        text: text.chars().take(80).collect(),
        why: why.to_owned(),
    })
}

/// First 8 bytes of the SHA-256 of a recipient's text: enough to tell keys apart.
#[must_use]
pub fn fingerprint(recipient: &str) -> [u8; 8] {
    let digest = Sha256::digest(recipient.trim().as_bytes());
    let mut out = [0u8; 8];
    for (to, from) in out.iter_mut().zip(digest) {
        *to = from;
    }
    out
}

/// Wraps a data key to all recipients: any one of their identities unwraps it.
/// The result is a binary age file whose plaintext is the 32 bytes of the key.
///
/// # Errors
/// [`CryptError::NoRecipient`], [`CryptError::Recipient`], [`CryptError::Wrap`].
pub fn wrap(key: &DataKey, recipients: &[&str]) -> Result<Vec<u8>, CryptError> {
    if recipients.is_empty() {
        return Err(CryptError::NoRecipient);
    }
    let parsed = recipients.iter().map(|r| parse_recipient(r)).collect::<Result<Vec<_>, _>>()?;
    let wrapped = |why: String| CryptError::Wrap { why };
    let encryptor =
        age::Encryptor::with_recipients(parsed.iter().map(|r| r as &dyn age::Recipient))
            .map_err(|e| wrapped(e.to_string()))?;
    let mut out = Vec::new();
    let mut writer = encryptor.wrap_output(&mut out).map_err(|e| wrapped(e.to_string()))?;
    std::io::Write::write_all(&mut writer, key.bytes()).map_err(|e| wrapped(e.to_string()))?;
    writer.finish().map_err(|e| wrapped(e.to_string()))?;
    Ok(out)
}

/// Identities read from a key file.
pub struct Identities(Vec<Box<dyn age::Identity + Send + Sync>>);

impl core::fmt::Debug for Identities {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Identities({})", self.0.len())
    }
}

impl Identities {
    /// Reads an age identity file: comment lines and `AGE-SECRET-KEY-1…` lines.
    ///
    /// # Errors
    /// [`CryptError::Identity`] when a line is wrong or none is there.
    pub fn parse(text: &str) -> Result<Self, CryptError> {
        let bad = |why: String| CryptError::Identity { why };
        let file =
            age::IdentityFile::from_buffer(text.as_bytes()).map_err(|e| bad(e.to_string()))?;
        let list = file.into_identities().map_err(|e| bad(e.to_string()))?;
        if list.is_empty() {
            return Err(bad("no identity line".to_owned()));
        }
        Ok(Self(list))
    }
}

/// Unwraps a data key.
///
/// # Errors
/// [`CryptError::WrongKey`] when no identity fits, [`CryptError::Wrapped`] when
/// the age file is damaged or does not hold 32 bytes.
pub fn unwrap(wrapped: &[u8], ids: &Identities) -> Result<DataKey, CryptError> {
    let damaged = |why: String| CryptError::Wrapped { why };
    let decryptor = age::Decryptor::new_buffered(wrapped).map_err(|e| damaged(e.to_string()))?;
    let identities = ids.0.iter().map(|i| &**i as &dyn age::Identity);
    let reader = decryptor.decrypt(identities).map_err(|e| match e {
        age::DecryptError::NoMatchingKeys => CryptError::WrongKey,
        other => damaged(other.to_string()),
    })?;
    let mut key = Zeroizing::new(Vec::with_capacity(KEY_LEN + 1));
    reader.take(KEY_LEN as u64 + 1).read_to_end(&mut key).map_err(|e| damaged(e.to_string()))?;
    let bytes: [u8; KEY_LEN] = key
        .as_slice()
        .try_into()
        .map_err(|_| damaged(format!("{} bytes instead of {KEY_LEN}", key.len())))?;
    Ok(DataKey(Zeroizing::new(bytes)))
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
