//! The key area of a new dump, and whether there will be room for it.

use lifeboat_format::bootcfg::BootConfig;
use lifeboat_format::header::KEY_AREA_LEN;
use lifeboat_format::keys::{KeyArea, KeyEntry, KeyKind};

use crate::{CryptError, DataKey, fingerprint, wrap};

/// The key area that the crash kernel writes: the data key wrapped to all recipients, and
/// the one-boot identity as arming left it. Without a key, an area without entries.
///
/// # Errors
/// Those of [`wrap`], and [`CryptError::NoRoom`].
pub fn key_area(
    config: &BootConfig,
    key: Option<&DataKey>,
) -> Result<Box<[u8; KEY_AREA_LEN]>, CryptError> {
    let (mut prints, mut wrapped) = (Vec::new(), Vec::new());
    if let Some(key) = key {
        let recipients: Vec<&str> = config.recipients.iter().map(|r| r.as_str()).collect();
        wrapped = wrap(key, &recipients)?;
        prints = recipients.into_iter().map(fingerprint).collect();
    }
    let data = KeyEntry { kind: KeyKind::Data, fingerprints: &prints, wrapped: &wrapped };
    let escrow = config.escrow.as_ref().map(|e| KeyEntry {
        kind: KeyKind::Identity,
        fingerprints: &e.fingerprints,
        wrapped: &e.wrapped,
    });
    let entries: Vec<KeyEntry<'_>> =
        key.map(|_| data).into_iter().chain(escrow.filter(|_| key.is_some())).collect();
    let mut area = Box::new([0u8; KEY_AREA_LEN]);
    KeyArea::encode(&mut area, 0, &entries).map_err(|_| CryptError::NoRoom)?;
    Ok(area)
}

/// Makes the key area once for a try: recipients that do not fit must be found when
/// building and arming, not by the crash kernel.
///
/// # Errors
/// Those of [`key_area`].
pub fn check_room(config: &BootConfig) -> Result<(), CryptError> {
    let trial = config.encrypt.then(|| DataKey::mix(&[b"a trial, for no dump"]));
    key_area(config, trial.as_ref()).map(|_| ())
}
