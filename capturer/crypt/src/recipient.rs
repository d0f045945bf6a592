//! Recipients: public keys to which a dump's key is wrapped, in the text forms
//! of age and OpenSSH.
//!
//! This file owns the one opinion of what a recipient is: the profile, the arming,
//! the crash kernel and `rekey` all ask here. It refuses a recipient that nobody
//! could open a dump with: weak, mistyped, damaged, or of an unknown type.

use age::ssh::ParseRecipientKeyError as SshError;
use age_core::primitives::bech32_decode;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};

use crate::CryptError;

/// Characters of an X25519 recipient: `age1`, 52 for 32 bytes, 6 of checksum.
const X25519_CHARS: usize = 62;

/// A checked recipient.
#[derive(Clone)]
pub struct Recipient {
    text: String,
    key: Key,
}

#[derive(Clone)]
enum Key {
    X25519(age::x25519::Recipient),
    Ssh(age::ssh::Recipient),
    /// The plugin's name.
    Plugin(String),
}

impl core::fmt::Debug for Recipient {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Recipient({})", self.text)
    }
}

impl PartialEq for Recipient {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Recipient {}

impl Recipient {
    /// Reads `age1…`, `ssh-ed25519 …`, `ssh-rsa …` or `age1PLUGIN1…`. What follows an
    /// ssh key (its comment, often user and host) is dropped.
    ///
    /// # Errors
    /// [`CryptError::Recipient`] with the reason and a hint.
    pub fn parse(text: &str) -> Result<Self, CryptError> {
        let text = text.trim();
        let parsed = match text.split_once(char::is_whitespace) {
            _ if text.starts_with("AGE-") => {
                Err(("this is a secret key, not a recipient", "it was shown here: make a new one"))
            }
            Some((kind, rest)) => ssh(kind, rest),
            None if text.starts_with("age1") => age1(text),
            None => Err(("no type of key is known that is written so", KINDS)),
        };
        parsed.map_err(|(why, hint)| CryptError::Recipient {
            // A secret is not repeated.
            text: if text.starts_with("AGE-") {
                "AGE-…".to_owned()
            } else {
                text.chars().filter(|c| !c.is_control()).take(80).collect()
            },
            why,
            hint,
        })
    }

    /// The text in its one form: no comment, no spaces around it.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Name of the plugin that wraps to this recipient (the program
    /// `age-plugin-NAME`); `None` if none is needed.
    #[must_use]
    pub fn plugin(&self) -> Option<&str> {
        match &self.key {
            Key::Plugin(name) => Some(name),
            Key::X25519(_) | Key::Ssh(_) => None,
        }
    }

    /// As [`fingerprint`].
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 8] {
        digest(&self.text)
    }

    /// What age wraps to.
    ///
    /// # Errors
    /// [`CryptError::NeedsPlugin`].
    pub(crate) fn direct(&self) -> Result<&dyn age::Recipient, CryptError> {
        match &self.key {
            Key::X25519(key) => Ok(key),
            Key::Ssh(key) => Ok(key),
            Key::Plugin(name) => {
                Err(CryptError::NeedsPlugin { text: self.text.clone(), name: name.clone() })
            }
        }
    }
}

type Parsed = Result<Recipient, (&'static str, &'static str)>;

const KINDS: &str = "a recipient is age1…, as `lifeboat keygen` prints it, or a line `ssh-ed25519 …` or `ssh-rsa …` of a .pub file";

/// `age1` and 58 characters, or a plugin's.
fn age1(text: &str) -> Parsed {
    let mistyped = "copy it again, as `lifeboat keygen` or the plugin printed it";
    let name = bech32_decode(
        text,
        |_| ("its checksum does not match: a character is wrong or missing", mistyped),
        |hrp| match hrp.as_str() {
            prefix if prefix.starts_with("age") => Ok(()),
            _ => Err(("a recipient starts with age1", KINDS)),
        },
        |hrp, _| Ok(hrp.as_str().get("age".len()..).unwrap_or_default().to_owned()),
    );
    let name = match name {
        Err(_)
            if text.len() != X25519_CHARS && !text.get(4..).unwrap_or_default().contains('1') =>
        {
            return Err(("a recipient without a plugin has 62 characters", mistyped));
        }
        other => other?,
    };
    if name.is_empty() {
        let key: age::x25519::Recipient =
            text.parse().map_err(|_| ("it does not hold 32 bytes", mistyped))?;
        return Ok(Recipient { text: key.to_string(), key: Key::X25519(key) });
    }
    let name = name.strip_prefix('1').unwrap_or_default();
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-._".contains(&b);
    if name.is_empty() || !name.bytes().all(good) {
        return Err(("the plugin's name in it is none", mistyped));
    }
    Ok(Recipient { text: text.to_owned(), key: Key::Plugin(name.to_owned()) })
}

/// A line of a `.pub` file: type, key in base64, perhaps a comment.
fn ssh(kind: &str, rest: &str) -> Parsed {
    let word = rest.split_whitespace().next().unwrap_or_default();
    if !matches!(kind, "ssh-ed25519" | "ssh-rsa") {
        return Err((
            "no key of this type can be encrypted to",
            "use an ssh-ed25519 or ssh-rsa key, or `lifeboat keygen`",
        ));
    }
    let again = "copy the whole line of the .pub file again";
    let blob = BASE64_STANDARD.decode(word).map_err(|_| ("its key is not whole base64", again))?;
    if !has_fields(&blob, kind) {
        return Err(("its key is damaged: a part is missing, empty or too long", again));
    }
    let text = format!("{kind} {word}");
    let key: age::ssh::Recipient = text.parse().map_err(|e| match e {
        SshError::RsaModulusTooSmall => (
            "the RSA key has fewer than 2048 bits: it could be broken while dumps still matter",
            "make a new one with `ssh-keygen -t ed25519`",
        ),
        SshError::RsaModulusTooLarge => (
            "the RSA key has more than 4096 bits",
            "use one of 2048 to 4096 bits, or `ssh-keygen -t ed25519`",
        ),
        _ => ("its key is damaged", again),
    })?;
    Ok(Recipient { text, key: Key::Ssh(key) })
}

/// Whether an ssh key's bytes are its type and as many fields as that type has,
/// none of them empty or all zero: age 0.12.1 falls over an RSA number of zeros.
fn has_fields(mut blob: &[u8], kind: &str) -> bool {
    let mut fields = 0;
    while !blob.is_empty() {
        let Some((len, rest)) = blob.split_first_chunk::<4>() else { return false };
        let len = usize::try_from(u32::from_be_bytes(*len)).unwrap_or(usize::MAX);
        let Some((field, rest)) = rest.split_at_checked(len) else { return false };
        if lifeboat_format::is_zero(field) || (fields == 0 && field != kind.as_bytes()) {
            return false;
        }
        fields += 1;
        blob = rest;
    }
    fields == if kind == "ssh-rsa" { 3 } else { 2 }
}

/// First 8 bytes of the SHA-256 of a recipient's text: enough to tell keys apart.
/// The comment behind an ssh key does not count.
#[must_use]
pub fn fingerprint(recipient: &str) -> [u8; 8] {
    let mut words = recipient.split_whitespace();
    match (words.next(), words.next()) {
        (Some(kind), Some(key)) => digest(&format!("{kind} {key}")),
        (one, _) => digest(one.unwrap_or_default()),
    }
}

fn digest(text: &str) -> [u8; 8] {
    let digest = Sha256::digest(text.as_bytes());
    let mut out = [0u8; 8];
    for (to, from) in out.iter_mut().zip(digest) {
        *to = from;
    }
    out
}

/// Checks that a dump can be wrapped to a recipient by the crash kernel itself.
///
/// # Errors
/// [`CryptError::Recipient`], or [`CryptError::NeedsPlugin`] for a plugin's.
pub fn check_recipient(text: &str) -> Result<(), CryptError> {
    Recipient::parse(text)?.direct().map(|_| ())
}
