//! An age plugin for tests, with keys in software: `age-plugin-lifeboattest`.
//!
//! Its keys are X25519 pairs under the plugin's own name and stanza type, so that only
//! this program opens what was wrapped to them. Opening tells the user to touch the key;
//! a key made with `--pin PIN` asks for its PIN. It is as real as a plugin for hardware,
//! but for the hardware: never use it outside of tests.
//!
//! `age-plugin-lifeboattest [--pin PIN]` prints a new key as an identity file.
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::io;

use age::secrecy::ExposeSecret as _;
use age::x25519;
use age::{Identity as _, Recipient as _};
use age_core::format::{FileKey, Stanza};
use age_plugin::{Callbacks, PluginHandler, identity, recipient};
use bech32::{Bech32, Hrp};
use sha2::{Digest as _, Sha256};

const NAME: &str = "lifeboattest";

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] => new_key(None),
        ["--pin", pin] => new_key(Some(pin)),
        [one] => match one.strip_prefix("--age-plugin=") {
            Some(machine) => age_plugin::run_state_machine(machine, Handler),
            None => Err(io::Error::other("unknown argument")),
        },
        _ => Err(io::Error::other("unknown arguments")),
    }
}

/// A text of age's as its bytes.
fn bytes_of(text: &str) -> io::Result<Vec<u8>> {
    bech32::decode(text).map(|(_, bytes)| bytes).map_err(io::Error::other)
}

/// Bytes as a text of age's.
fn text_of(prefix: &str, bytes: &[u8]) -> Result<String, &'static str> {
    let hrp = Hrp::parse(prefix).map_err(|_| "no prefix")?;
    bech32::encode::<Bech32>(hrp, bytes).map_err(|_| "no bech32")
}

/// Flips a secret by its PIN, there and back.
fn with_pin(secret: &mut [u8], pin: &str) {
    for (byte, mask) in secret.iter_mut().zip(Sha256::digest(pin.as_bytes())) {
        *byte ^= mask;
    }
}

fn new_key(pin: Option<&str>) -> io::Result<()> {
    let pair = x25519::Identity::generate();
    let mut secret = bytes_of(pair.to_string().expose_secret())?;
    let public = bytes_of(&pair.to_public().to_string())?;
    if let Some(pin) = pin {
        with_pin(&mut secret, pin);
    }
    secret.push(u8::from(pin.is_some()));
    age_plugin::print_new_identity(NAME, &secret, &public);
    Ok(())
}

struct Handler;

impl PluginHandler for Handler {
    type RecipientV1 = Wrap;
    type IdentityV1 = Unwrap;

    fn recipient_v1(self) -> io::Result<Wrap> {
        Ok(Wrap::default())
    }

    fn identity_v1(self) -> io::Result<Unwrap> {
        Ok(Unwrap::default())
    }
}

#[derive(Default)]
struct Wrap(Vec<x25519::Recipient>);

impl recipient::RecipientPluginV1 for Wrap {
    fn add_recipient(
        &mut self,
        index: usize,
        plugin_name: &str,
        bytes: &[u8],
    ) -> Result<(), recipient::Error> {
        let bad = |message: &str| recipient::Error::Recipient { index, message: message.into() };
        if plugin_name != NAME {
            return Err(bad("not mine"));
        }
        let text = text_of("age", bytes).map_err(bad)?;
        self.0.push(text.parse().map_err(bad)?);
        Ok(())
    }

    fn add_identity(&mut self, index: usize, _: &str, _: &[u8]) -> Result<(), recipient::Error> {
        Err(recipient::Error::Identity { index, message: "name the recipient".into() })
    }

    fn labels(&mut self) -> HashSet<String> {
        HashSet::new()
    }

    fn wrap_file_keys(
        &mut self,
        file_keys: Vec<FileKey>,
        _: impl Callbacks<recipient::Error>,
    ) -> io::Result<Result<Vec<Vec<Stanza>>, Vec<recipient::Error>>> {
        let mut all = Vec::new();
        for key in &file_keys {
            let mut stanzas = Vec::new();
            for to in &self.0 {
                let (wrapped, _) = to.wrap_file_key(key).map_err(io::Error::other)?;
                stanzas.extend(wrapped.into_iter().map(|s| Stanza { tag: NAME.into(), ..s }));
            }
            all.push(stanzas);
        }
        Ok(Ok(all))
    }
}

#[derive(Default)]
struct Unwrap(Vec<Vec<u8>>);

impl Unwrap {
    fn key(secret: &[u8], user: &mut impl Callbacks<identity::Error>) -> Option<x25519::Identity> {
        let (pin, secret) = secret.split_last()?;
        let mut secret = secret.to_vec();
        if *pin == 1 {
            let given = user.request_secret("PIN of the test key:").ok()?.ok()?;
            with_pin(&mut secret, given.expose_secret());
        }
        text_of("age-secret-key-", &secret).ok()?.to_uppercase().parse().ok()
    }
}

impl identity::IdentityPluginV1 for Unwrap {
    fn add_identity(
        &mut self,
        index: usize,
        plugin_name: &str,
        bytes: &[u8],
    ) -> Result<(), identity::Error> {
        if plugin_name != NAME || bytes.len() != 33 {
            return Err(identity::Error::Identity { index, message: "not mine".into() });
        }
        self.0.push(bytes.to_vec());
        Ok(())
    }

    fn unwrap_file_keys(
        &mut self,
        files: Vec<Vec<Stanza>>,
        mut user: impl Callbacks<identity::Error>,
    ) -> io::Result<HashMap<usize, Result<FileKey, Vec<identity::Error>>>> {
        let mut out = HashMap::new();
        for (file, stanzas) in files.into_iter().enumerate() {
            let mine = stanzas.into_iter().filter(|s| s.tag == NAME);
            let mine: Vec<Stanza> = mine.map(|s| Stanza { tag: "X25519".into(), ..s }).collect();
            if mine.is_empty() {
                continue;
            }
            for (index, secret) in self.0.iter().enumerate() {
                let _ = user.message("Touch the test key")?;
                let Some(key) = Self::key(secret, &mut user) else {
                    let message = "nobody gave the PIN".into();
                    out.insert(file, Err(vec![identity::Error::Identity { index, message }]));
                    continue;
                };
                if let Some(Ok(opened)) = key.unwrap_stanzas(&mine) {
                    out.insert(file, Ok(opened));
                    break;
                }
            }
        }
        Ok(out)
    }
}
