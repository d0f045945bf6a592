//! Recipients in profile and site: who may open a dump.
//!
//! A typing error in a recipient costs every dump of a fleet, so a profile is
//! refused at build time already, by the same judge that the crash kernel asks
//! (`lifeboat_crypt`). Recipients of plugins are fine in a profile, but not in an
//! image that is to stand alone: only arming can use them.

use lifeboat_crypt::{CryptError, Recipient};
use lifeboat_format::bootcfg;

use crate::check::Checker;
use crate::profile::Profile;
use crate::site::Site;

/// Checks recipients, and that they agree with `encrypt`.
pub(crate) fn check(c: &mut Checker<'_>, encrypt: bool, list: &[String]) {
    if !encrypt && !list.is_empty() {
        c.bad("keys.encrypt", "encrypt is none, but recipients are named: dumps would lie in the clear while everybody believes them sealed",
            "remove `encrypt = \"none\"`, or the recipients");
    }
    if list.len() > bootcfg::MAX_RECIPIENTS {
        c.bad(
            "keys.recipients",
            format!("more than {} recipients", bootcfg::MAX_RECIPIENTS),
            "name fewer",
        );
    }
    let mut seen: Vec<Recipient> = Vec::new();
    for (n, text) in list.iter().enumerate() {
        let key = format!("keys.recipients.{n}");
        match Recipient::parse(text) {
            Err(e) => {
                let (message, hint) = words(&e);
                c.bad(&key, format!("{message}; no dump could be opened with it"), &hint);
            }
            Ok(one) if seen.contains(&one) => {
                c.bad(&key, "the same recipient twice", "remove one of them");
            }
            Ok(one) => seen.push(one),
        }
    }
}

/// Who may open the dumps of a host: the site's recipients if it names any, else the
/// profile's, unless the site says `encrypt = "none"` and means it.
#[must_use]
pub fn recipients<'a>(profile: &'a Profile, site: &'a Site) -> &'a [String] {
    match (site.recipients.is_empty(), site.encrypt) {
        (false, _) => &site.recipients,
        (true, Some(false)) => &[],
        (true, _) => &profile.recipients,
    }
}

/// Whether a recipient needs a plugin. Text that is none needs nothing.
pub(crate) fn needs_plugin(text: &str) -> bool {
    Recipient::parse(text).is_ok_and(|r| r.plugin().is_some())
}

/// An error's message and its hint.
pub(crate) fn words(e: &CryptError) -> (String, String) {
    let text = e.to_string();
    let (message, hint) = text.split_once("\nhint: ").unwrap_or((&text, ""));
    (message.to_owned(), hint.to_owned())
}
