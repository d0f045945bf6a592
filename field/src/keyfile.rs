//! Key files (`-i FILE`), passphrases, and what age plugins ask of the user.
//!
//! Secrets are read from files and from the terminal, never from arguments or
//! standard input, and wiped when they have been used.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use lifeboat_crypt::{CryptError, Identities, KeyFile, LockedKey, User};
use zeroize::Zeroizing;

use crate::ui::{Context as _, Failure, safe, warn};

/// Largest key file, in bytes.
const MAX_KEY_FILE: u64 = 1 << 20;
/// Largest passphrase, in bytes.
const MAX_PASSPHRASE: u64 = 4096;
/// Names a file whose first line is the passphrase of the ssh keys.
const PASSPHRASE_FILE: &str = "LIFEBOAT_PASSPHRASE_FILE";
/// How often a passphrase is asked for.
const TRIES: u32 = 3;

/// All identities of all key files; `None` when no file was named.
///
/// # Errors
/// A file that cannot be read, holds no identity, or stays locked.
pub(crate) fn identities(keys: &[PathBuf]) -> Result<Option<Identities>, Failure> {
    let mut all: Option<Identities> = None;
    for path in keys {
        let ids = one(path)?;
        match &mut all {
            Some(all) => all.extend(ids),
            None => all = Some(ids),
        }
    }
    Ok(all)
}

fn one(path: &Path) -> Result<Identities, Failure> {
    let name = format!("key file {}", path.display());
    let (text, mode) = read(path, MAX_KEY_FILE).map_err(|e| {
        let hint = match e.kind() {
            std::io::ErrorKind::PermissionDenied => {
                "identity files have mode 0600: run as the file's owner"
            }
            std::io::ErrorKind::InvalidData => {
                "an identity file is text with a line AGE-SECRET-KEY-1…, or an OpenSSH private key"
            }
            _ => "name the file that `lifeboat keygen` or `ssh-keygen` wrote",
        };
        Failure::new(format!("{name}: {e}")).hint(hint)
    })?;
    let secret = text.contains("AGE-SECRET-KEY-") || text.contains("PRIVATE KEY-----");
    if secret && mode & 0o077 != 0 {
        warn(format!(
            "{name} can be read by others (mode {:04o}): chmod 600 it, and think of dumps that they may hold",
            mode & 0o7777
        ));
    }
    if text.starts_with("ssh-") {
        return Err(Failure::new(format!("{name}: this is the public half of an ssh key"))
            .hint("name the private one: the same file without .pub"));
    }
    match KeyFile::read(&text, &Terminal).context(&name)? {
        KeyFile::Ready(ids) => Ok(ids),
        KeyFile::Locked(key) => unlock(&key, &name),
    }
}

/// A file of UTF-8 and its mode. Its room is taken at once: growing leaves copies.
fn read(path: &Path, max: u64) -> std::io::Result<(Zeroizing<String>, u32)> {
    let file = File::open(path)?;
    let meta = file.metadata()?;
    let room = usize::try_from(meta.len().min(max)).unwrap_or(0);
    let mut text = Zeroizing::new(String::with_capacity(room + 1));
    file.take(max).read_to_string(&mut text)?;
    Ok((text, meta.mode()))
}

fn unlock(key: &LockedKey, name: &str) -> Result<Identities, Failure> {
    if let Some(path) = std::env::var_os(PASSPHRASE_FILE).filter(|p| !p.is_empty()) {
        let path = Path::new(&path);
        let what = format!("{PASSPHRASE_FILE} {}", path.display());
        let (text, _) = read(path, MAX_PASSPHRASE).context(&what)?;
        let line = text.lines().next().unwrap_or_default();
        return key.unlock(line).context(format!("{name} with {what}"));
    }
    for _ in 1..TRIES {
        match key.unlock(&passphrase(name)?) {
            Err(CryptError::Passphrase) => eprintln!("That passphrase does not open it."),
            other => return other.context(name),
        }
    }
    key.unlock(&passphrase(name)?).context(name)
}

fn passphrase(name: &str) -> Result<Zeroizing<String>, Failure> {
    let prompt = format!("Passphrase of {}: ", safe(name));
    let given = secret(&prompt).ok_or(CryptError::Locked);
    given.context(format!("{name}: no terminal to ask on"))
}

/// Asks on the terminal, without echo.
fn secret(prompt: &str) -> Option<Zeroizing<String>> {
    rpassword::prompt_password(prompt).ok().map(Zeroizing::new)
}

/// The user at the terminal, for plugins. Without a terminal there is nobody.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terminal;

impl User for Terminal {
    fn tell(&self, message: &str) {
        eprintln!("{}", safe(message));
    }

    fn confirm(&self, message: &str, yes: &str, no: Option<&str>) -> Option<bool> {
        let no = no.unwrap_or("no");
        let answer = line(&format!("{} [y = {}, n = {}] ", safe(message), safe(yes), safe(no)))?;
        Some(matches!(answer.trim(), "y" | "Y" | "yes"))
    }

    fn ask(&self, message: &str) -> Option<String> {
        line(&format!("{} ", safe(message)))
    }

    fn ask_secret(&self, message: &str) -> Option<Zeroizing<String>> {
        secret(&format!("{} ", safe(message)))
    }
}

/// A line from the terminal.
fn line(prompt: &str) -> Option<String> {
    let mut tty = File::options().read(true).write(true).open("/dev/tty").ok()?;
    write!(tty, "{prompt}").ok()?;
    let mut out = String::new();
    BufReader::new(tty.take(MAX_PASSPHRASE)).read_line(&mut out).ok()?;
    Some(out.trim_end_matches(['\r', '\n']).to_owned())
}
