//! What only a workstation may do: run age plugins (YubiKey, TPM and others), and
//! open ssh keys that are protected by a passphrase.
//!
//! A plugin is a program `age-plugin-NAME` on the PATH. It runs while arming, when a
//! dump is opened, and for `rekey`; never in the crash kernel.

use age::plugin::{IdentityPluginV1, RecipientPluginV1};
use age::secrecy::SecretString;
use age::ssh;
use zeroize::Zeroizing;

use crate::identity::{Secret, is_ssh, ssh_key};
use crate::key::seal;
use crate::{CryptError, DataKey, Identities, Recipient, generate_identity};

/// The user, as a plugin sees him. `None` says that nobody is there to answer.
pub trait User: Clone + Send + Sync + 'static {
    /// Shows a message, such as “touch your key”.
    fn tell(&self, message: &str);

    /// Asks for a decision; `no` may have no words of its own.
    fn confirm(&self, message: &str, yes: &str, no: Option<&str>) -> Option<bool>;

    /// Asks for a line that may be seen.
    fn ask(&self, message: &str) -> Option<String>;

    /// Asks for a secret, such as a PIN.
    fn ask_secret(&self, message: &str) -> Option<Zeroizing<String>>;
}

#[derive(Clone)]
struct Adapter<U>(U);

impl<U: User> age::Callbacks for Adapter<U> {
    fn display_message(&self, message: &str) {
        self.0.tell(message);
    }

    fn confirm(&self, message: &str, yes: &str, no: Option<&str>) -> Option<bool> {
        self.0.confirm(message, yes, no)
    }

    fn request_public_string(&self, description: &str) -> Option<String> {
        self.0.ask(description)
    }

    fn request_passphrase(&self, description: &str) -> Option<SecretString> {
        let secret = self.0.ask_secret(description)?;
        Some(SecretString::from(secret.as_str().to_owned()))
    }
}

/// A key file, read.
#[derive(Debug)]
pub enum KeyFile {
    /// Ready for use.
    Ready(Identities),
    /// An ssh key that needs its passphrase.
    Locked(LockedKey),
}

impl KeyFile {
    /// Reads an age identity file (`AGE-SECRET-KEY-1…` and `AGE-PLUGIN-…` lines) or an
    /// OpenSSH private key. A missing plugin is told of when no other identity opens.
    ///
    /// # Errors
    /// [`CryptError::Identity`], [`CryptError::SshKey`].
    pub fn read(text: &str, user: &impl User) -> Result<Self, CryptError> {
        if !is_ssh(text) {
            return Identities::lines(text, |line| plugin(line, user)).map(Self::Ready);
        }
        match ssh_key(text)? {
            ssh::Identity::Encrypted(key) => Ok(Self::Locked(LockedKey(key))),
            key @ ssh::Identity::Unencrypted(_) => Ok(Self::Ready(Identities::one(key))),
            ssh::Identity::Unsupported(_) => {
                Err(CryptError::Identity { why: "an ssh key of an unknown type".to_owned() })
            }
        }
    }
}

fn plugin(line: &str, user: &impl User) -> Result<Result<Secret, String>, CryptError> {
    let bad = |_| CryptError::Identity { why: "a line AGE-PLUGIN-… is damaged".to_owned() };
    let id: age::plugin::Identity = line.parse().map_err(bad)?;
    let name = id.plugin().to_owned();
    let found = IdentityPluginV1::new(&name, &[id], Adapter(user.clone()));
    Ok(found.map_err(|_| missing(&name)).map(|id| Secret { id: Box::new(id), plugin: Some(name) }))
}

fn missing(name: &str) -> String {
    format!("the program age-plugin-{name} is not on the PATH")
}

/// An ssh key that needs its passphrase.
pub struct LockedKey(ssh::EncryptedKey);

impl core::fmt::Debug for LockedKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("LockedKey")
    }
}

impl LockedKey {
    /// Opens it.
    ///
    /// # Errors
    /// [`CryptError::Passphrase`].
    pub fn unlock(&self, passphrase: &str) -> Result<Identities, CryptError> {
        let key = self.0.decrypt(SecretString::from(passphrase.to_owned()));
        key.map(|key| Identities::one(key.into())).map_err(|_| CryptError::Passphrase)
    }
}

/// A one-boot identity whose secret is with the plugins' recipients only.
#[derive(Debug)]
pub struct OneBoot {
    /// `age1…`: the crash kernel wraps the dump's key to it.
    pub recipient: String,
    /// The secret, an age file to the plugins' recipients.
    pub wrapped: Vec<u8>,
}

/// Makes a one-boot identity and wraps its secret to `recipients`, any one of whom then
/// opens the dumps of this arming. The secret itself is wiped before this returns.
///
/// # Errors
/// [`CryptError::Plugin`] when a plugin is missing or fails, [`CryptError::NoRecipient`],
/// [`CryptError::Wrap`].
pub fn one_boot(recipients: &[Recipient], user: &impl User) -> Result<OneBoot, CryptError> {
    let new = generate_identity();
    let wrapped = seal_here(new.secret.as_bytes(), recipients, user)?;
    Ok(OneBoot { recipient: new.recipient, wrapped })
}

/// As [`crate::wrap`], to plugins' recipients too.
///
/// # Errors
/// Those of [`one_boot`].
pub fn wrap_here(
    key: &DataKey,
    recipients: &[Recipient],
    user: &impl User,
) -> Result<Vec<u8>, CryptError> {
    seal_here(key.bytes(), recipients, user)
}

fn seal_here(
    plain: &[u8],
    recipients: &[Recipient],
    user: &impl User,
) -> Result<Vec<u8>, CryptError> {
    let mut plugins = Vec::new();
    let mut names: Vec<&str> = recipients.iter().filter_map(Recipient::plugin).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let theirs = recipients.iter().filter(|r| r.plugin() == Some(name));
        let theirs = theirs.map(|r| {
            r.text()
                .parse::<age::plugin::Recipient>()
                .map_err(|why| CryptError::Plugin { why: format!("`{}`: {why}", r.text()) })
        });
        let theirs = theirs.collect::<Result<Vec<_>, _>>()?;
        let plugin = RecipientPluginV1::new(name, &theirs, &[], Adapter(user.clone()))
            .map_err(|_| CryptError::Plugin { why: missing(name) })?;
        plugins.push(plugin);
    }
    let direct = recipients.iter().filter_map(|r| r.direct().ok());
    let all: Vec<&dyn age::Recipient> =
        direct.chain(plugins.iter().map(|p| p as &dyn age::Recipient)).collect();
    seal(plain, &all).map_err(|e| match e {
        CryptError::Wrap { why } if !plugins.is_empty() => CryptError::Plugin { why },
        other => other,
    })
}
