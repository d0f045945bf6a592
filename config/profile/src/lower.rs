//! From a checked profile and a host's site settings to what PID 1 reads.

use lifeboat_crypt::{Recipient, check_recipient};
use lifeboat_format::bootcfg::{BootConfig, Selector, SwapPlan};

use crate::defect::{Defect, Defects};
use crate::profile::Profile;
use crate::recipient;
use crate::site::Site;

/// Lowers `profile`, as overridden by `site`, to the boot configuration.
///
/// `image`, `seed`, `armed_at` and `fault` are left at their defaults: they are
/// the business of whoever writes the configuration out. A site built from
/// command line options instead of a file is checked here as strictly.
///
/// # Errors
/// What is missing, or where profile and site contradict each other.
pub fn lower(profile: &Profile, site: &Site) -> Result<BootConfig, Defects> {
    let targets = if site.targets.is_empty() { &profile.targets } else { &site.targets };
    let encrypt = site.encrypt.unwrap_or(profile.encrypt);
    let recipients = recipient::recipients(profile, site);
    let swap = site.swap.as_ref().unwrap_or(&profile.swap);
    let mut found = contradictions(profile, targets, encrypt, recipients, swap);
    let mut bad = |message: &str, hint: &str| {
        found.push(Defect::whole(&format!("board {}", profile.name), message).hint(hint));
    };
    let mut cfg = plain(profile);
    cfg.encrypt = encrypt;
    cfg.swap = swap.clone();
    let mut full = cfg.targets.extend_from_slice(targets).is_err();
    for text in recipients {
        // Without the comment of an ssh key, which is nobody's business there.
        let text = Recipient::parse(text).map_or_else(|_| text.clone(), |r| r.text().to_owned());
        let fixed = heapless::String::try_from(text.as_str());
        full |= fixed.map_or(true, |fixed| cfg.recipients.push(fixed).is_err());
    }
    match heapless::String::try_from(site.hostname.as_deref().unwrap_or_default()) {
        Ok(fixed) if !fixed.chars().any(char::is_control) => cfg.hostname = fixed,
        _ => bad(
            "the hostname is longer than 255 bytes or holds control characters",
            "name a shorter one",
        ),
    }
    if full {
        bad(
            "more targets or recipients than a boot configuration holds",
            "at most 16 targets and 32 recipients",
        );
    }
    if found.is_empty()
        && let Err(e) = lifeboat_crypt::check_room(&cfg)
    {
        let (message, hint) = recipient::words(&e);
        found.push(Defect::whole(&format!("board {}", profile.name), message).hint(hint));
    }
    // The last word is with the reader of these orders.
    if found.is_empty()
        && let Err(why) = cfg.check()
    {
        found.push(
            Defect::whole(&format!("board {}", profile.name), why)
                .hint("profile and site do not fit together"),
        );
    }
    if found.is_empty() { Ok(cfg) } else { Err(Defects(found)) }
}

/// What is missing or does not fit together.
fn contradictions(
    profile: &Profile,
    targets: &[Selector],
    encrypt: bool,
    recipients: &[String],
    swap: &SwapPlan,
) -> Vec<Defect> {
    let mut found = Vec::new();
    let mut bad = |message: String, hint: &str| {
        found.push(Defect::whole(&format!("board {}", profile.name), message).hint(hint));
    };
    if targets.is_empty() {
        bad(
            "no target: there is nowhere to write the dump".to_owned(),
            "name one in the site file: [[target]] partlabel = \"lifeboat\"",
        );
    }
    if encrypt && recipients.is_empty() {
        bad(
            "no recipient: nobody could open the dump".to_owned(),
            "make one with `lifeboat keygen` and name it when arming, or in the profile's [keys]",
        );
    }
    if !encrypt && !recipients.is_empty() {
        bad("encrypt is none, but recipients are named: dumps would lie in the clear while everybody believes them sealed".to_owned(),
            "say encrypt = \"age\" in the site file, or name no recipients");
    }
    for text in recipients {
        if let Err(e) = check_recipient(text) {
            let (message, hint) = recipient::words(&e);
            bad(message, &hint);
        }
    }
    if let SwapPlan::List(list) = swap
        && let Some(both) = list.iter().find(|s| targets.contains(s))
    {
        bad(
            format!(
                "`{both}` is a swap device and the dump's target: the dump would overwrite what it is to save"
            ),
            "a target is a partition of its own, prepared by `lifeboat format`",
        );
    }
    if !profile.memory && *swap == SwapPlan::None {
        bad(
            "neither memory nor swap is captured: every dump would be empty".to_owned(),
            "name swap devices in the site file",
        );
    }
    found
}

/// What a site cannot override.
fn plain(profile: &Profile) -> BootConfig {
    BootConfig {
        board: heapless::String::try_from(profile.name.as_str()).unwrap_or_default(),
        action: profile.action,
        failure: profile.failure,
        deadline_s: profile.deadline_s,
        device_wait_s: profile.device_wait_s,
        memory_source: profile.memory_source,
        memory: profile.memory,
        codec: profile.codec.clone(),
        dedup_kib: profile.dedup_kib,
        policy: profile.policy,
        order: profile.order,
        exclude: profile.exclude,
        chunk_pages: profile.chunk_pages,
        workers: profile.workers,
        buffers_kib: profile.buffers_kib,
        watchdog: profile.watchdog.clone(),
        watchdog_timeout_s: profile.watchdog_timeout_s,
        led: profile.led.clone(),
        ..BootConfig::default()
    }
}
