//! Identities: the secret halves that open dumps, and opening a key area by them.

use age::ssh;
use lifeboat_format::keys::{KeyEntry, KeyKind};

use crate::key::{KEY_LEN, unseal};
use crate::{CryptError, DataKey};

/// Most bytes of a one-boot identity's line (it has 74 characters).
const LINE_MAX: usize = 256;

/// One secret.
pub(crate) struct Secret {
    pub(crate) id: Box<dyn age::Identity + Send + Sync>,
    /// Name of the plugin that is asked; `None` when the secret is here.
    pub(crate) plugin: Option<String>,
}

/// Identities read from key files.
#[derive(Default)]
pub struct Identities {
    pub(crate) list: Vec<Secret>,
    /// Those that cannot be used here and now, in words.
    pub(crate) unusable: Vec<String>,
}

impl core::fmt::Debug for Identities {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Identities({})", self.list.len())
    }
}

impl Identities {
    /// Reads a key file that needs neither passphrase nor plugin: comment lines and
    /// `AGE-SECRET-KEY-1…` lines, or an OpenSSH private key.
    ///
    /// # Errors
    /// [`CryptError::Identity`] when a line is wrong or none is there,
    /// [`CryptError::Locked`] when it needs a passphrase.
    pub fn parse(text: &str) -> Result<Self, CryptError> {
        if is_ssh(text) {
            return match ssh_key(text)? {
                key @ ssh::Identity::Unencrypted(_) => Ok(Self::one(key)),
                _ => Err(CryptError::Locked),
            };
        }
        Self::lines(text, |_| Err(not_known("a plugin's key cannot be used in this program")))
    }

    /// An ssh key that is open.
    pub(crate) fn one(key: ssh::Identity) -> Self {
        let id = Box::new(key);
        Self { list: vec![Secret { id, plugin: None }], unusable: Vec::new() }
    }

    /// Reads an age identity file. `plugin` takes the lines `AGE-PLUGIN-…`: it gives a
    /// secret, or in words why there is none now.
    pub(crate) fn lines(
        text: &str,
        mut plugin: impl FnMut(&str) -> Result<Result<Secret, String>, CryptError>,
    ) -> Result<Self, CryptError> {
        let mut out = Self::default();
        for (n, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if line.starts_with("AGE-PLUGIN-") {
                match plugin(line)? {
                    Ok(secret) => out.list.push(secret),
                    Err(why) => out.unusable.push(why),
                }
                continue;
            }
            // The line is not repeated: it may be most of a secret.
            let id: age::x25519::Identity =
                line.parse().map_err(|_| not_known(&format!("line {} is none", n + 1)))?;
            out.list.push(Secret { id: Box::new(id), plugin: None });
        }
        if out.list.is_empty() && out.unusable.is_empty() {
            return Err(not_known("no line of it is one"));
        }
        Ok(out)
    }

    /// Adds those of another file.
    pub fn extend(&mut self, other: Self) {
        self.list.extend(other.list);
        self.unusable.extend(other.unusable);
    }
}

fn not_known(why: &str) -> CryptError {
    CryptError::Identity { why: why.to_owned() }
}

pub(crate) fn is_ssh(text: &str) -> bool {
    text.contains("-----BEGIN ")
}

/// An OpenSSH private key, open or not.
pub(crate) fn ssh_key(text: &str) -> Result<ssh::Identity, CryptError> {
    let other_format = || CryptError::SshKey {
        why: "it is in none of OpenSSH's own formats, or damaged".to_owned(),
        hint: "`ssh-keygen -p -f FILE` rewrites a key of another format; work on a copy",
    };
    let from = text.find("-----BEGIN ").and_then(|at| text.get(at..)).unwrap_or(text);
    let key = ssh::Identity::from_buffer(from.as_bytes(), None).map_err(|_| other_format())?;
    let ssh::Identity::Unsupported(what) = &key else { return Ok(key) };
    Err(match what {
        ssh::UnsupportedKey::EncryptedPem => CryptError::SshKey {
            why: "its passphrase protects it in an old, weak way".to_owned(),
            hint: "`ssh-keygen -p -f FILE` rewrites it in OpenSSH's format; work on a copy",
        },
        ssh::UnsupportedKey::EncryptedSsh(cipher) => CryptError::SshKey {
            why: format!("its cipher {} is not known", shown(cipher)),
            hint: "`ssh-keygen -p -Z aes256-ctr -f FILE` changes it; work on a copy",
        },
        ssh::UnsupportedKey::Hardware(kind) | ssh::UnsupportedKey::Type(kind) => {
            CryptError::SshKey {
                why: format!("a key of type {} cannot decrypt", shown(kind)),
                hint: "use the ssh-ed25519, ssh-rsa or age key that the dump was made for",
            }
        }
    })
}

fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(40).collect()
}

/// What went wrong on the way, the worst of it kept.
#[derive(Default)]
struct Trouble {
    replaced: bool,
    plugin: Option<String>,
    damaged: Option<String>,
}

impl Trouble {
    fn add(&mut self, secret: Option<&Secret>, e: &age::DecryptError) {
        let plugin = secret.and_then(|s| s.plugin.as_deref());
        let slot = if plugin.is_some() { &mut self.plugin } else { &mut self.damaged };
        let words = plugin.map_or_else(|| e.to_string(), |name| format!("age-plugin-{name}: {e}"));
        slot.get_or_insert(words);
    }

    fn end(self, ids: &Identities) -> CryptError {
        let unusable = ids.unusable.first().cloned();
        match (self.replaced, self.plugin.or(unusable), self.damaged) {
            (true, _, _) => CryptError::Replaced,
            (_, Some(why), _) => CryptError::Plugin { why },
            (_, _, Some(why)) => CryptError::Wrapped { why },
            _ => CryptError::WrongKey,
        }
    }
}

/// Opens a dump's key area: an entry of the data key by one of the identities, or
/// by the one-boot identity that one of them opens. Each is tried alone, so that
/// one that fails keeps no other from opening; secrets that are here come before
/// plugins, which may ask their owner for something.
///
/// `key_id` is the header's, where it has one: a key that it does not fit is
/// another dump's.
///
/// # Errors
/// [`CryptError::WrongKey`] when no identity fits, [`CryptError::Replaced`] when one
/// fits but opens another dump's key, [`CryptError::Plugin`], [`CryptError::Wrapped`].
pub fn open<'a>(
    entries: impl IntoIterator<Item = KeyEntry<'a>>,
    ids: &Identities,
    key_id: Option<&[u8; 32]>,
) -> Result<DataKey, CryptError> {
    let entries: Vec<KeyEntry<'a>> = entries.into_iter().collect();
    let of_kind = |kind| entries.iter().filter(move |e| e.kind == kind);
    let mut trouble = Trouble::default();
    for asks in [false, true] {
        for secret in ids.list.iter().filter(|s| s.plugin.is_some() == asks) {
            for entry in of_kind(KeyKind::Data) {
                if let Some(key) = data_key(entry, &*secret.id, Some(secret), key_id, &mut trouble)
                {
                    return Ok(key);
                }
            }
            for entry in of_kind(KeyKind::Identity) {
                let Some(one_boot) = one_boot(entry, secret, &mut trouble) else { continue };
                for entry in of_kind(KeyKind::Data) {
                    if let Some(key) = data_key(entry, &one_boot, None, key_id, &mut trouble) {
                        return Ok(key);
                    }
                }
            }
        }
    }
    Err(trouble.end(ids))
}

fn data_key(
    entry: &KeyEntry<'_>,
    id: &dyn age::Identity,
    secret: Option<&Secret>,
    key_id: Option<&[u8; 32]>,
    trouble: &mut Trouble,
) -> Option<DataKey> {
    let plain = match unseal(entry.wrapped, id, KEY_LEN) {
        Ok(plain) => plain?,
        Err(e) => {
            trouble.add(secret, &e);
            return None;
        }
    };
    let Some(key) = DataKey::from_slice(&plain) else {
        trouble.damaged = Some(format!("{} bytes instead of {KEY_LEN}", plain.len()));
        return None;
    };
    if key_id.is_some_and(|id| *id != key.id()) {
        trouble.replaced = true;
        return None;
    }
    Some(key)
}

fn one_boot(
    entry: &KeyEntry<'_>,
    secret: &Secret,
    trouble: &mut Trouble,
) -> Option<age::x25519::Identity> {
    let plain = match unseal(entry.wrapped, &*secret.id, LINE_MAX) {
        Ok(plain) => plain?,
        Err(e) => {
            trouble.add(Some(secret), &e);
            return None;
        }
    };
    let line = core::str::from_utf8(&plain).ok().and_then(|text| text.trim().parse().ok());
    if line.is_none() {
        trouble.damaged = Some("the one-boot identity is none".to_owned());
    }
    line
}
