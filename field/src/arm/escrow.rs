//! Recipients of plugins (YubiKey, TPM): no plugin runs in the crash kernel, so arming
//! makes an identity for this boot, has the plugins wrap its secret, and names it as a
//! recipient. The secret itself is on no disk and in no memory afterwards.

use lifeboat_crypt::Recipient;
use lifeboat_format::bootcfg::{Escrow, MAX_ESCROW_RECIPIENTS};
use lifeboat_profile::{Profile, Site};

use crate::keyfile::Terminal;
use crate::ui::{Context as _, Failure};

/// What stands in for the plugins' recipients.
pub(crate) struct OneBoot {
    /// `age1…`, in force until the next arming.
    pub(crate) recipient: String,
    /// Those whose plugins open it.
    pub(crate) plugins: Vec<String>,
    /// Its secret, wrapped to them.
    pub(crate) escrow: Escrow,
}

impl OneBoot {
    /// Takes the plugins' recipients out of what profile and site name, and puts a new
    /// recipient into the site in their place. `None` if there are none, or if dumps are
    /// not encrypted.
    ///
    /// # Errors
    /// A recipient that is none; a plugin that is missing or fails; too many of them.
    pub(crate) fn make(profile: &Profile, site: &mut Site) -> Result<Option<Self>, Failure> {
        if !site.encrypt.unwrap_or(profile.encrypt) {
            return Ok(None);
        }
        let named = lifeboat_profile::recipients(profile, site);
        let named = named.iter().map(|r| Recipient::parse(r).plain());
        let named = named.collect::<Result<Vec<_>, _>>()?;
        let (plugins, direct): (Vec<_>, Vec<_>) =
            named.into_iter().partition(|r| r.plugin().is_some());
        if plugins.is_empty() {
            return Ok(None);
        }
        let too_many = || {
            Failure::new("the recipients of plugins do not fit the boot configuration")
                .hint(format!("name at most {MAX_ESCROW_RECIPIENTS} of them"))
        };
        let prints: Vec<[u8; 8]> = plugins.iter().map(Recipient::fingerprint).collect();
        let fingerprints = heapless::Vec::from_slice(&prints).map_err(|_| too_many())?;
        let made = lifeboat_crypt::one_boot(&plugins, &Terminal).plain()?;
        let wrapped = heapless::Vec::from_slice(&made.wrapped).map_err(|_| too_many())?;
        let text = |r: &Recipient| r.text().to_owned();
        site.recipients = direct.iter().map(text).chain([made.recipient.clone()]).collect();
        Ok(Some(Self {
            recipient: made.recipient,
            plugins: plugins.iter().map(text).collect(),
            escrow: Escrow { fingerprints, wrapped },
        }))
    }
}
