//! What a host says about itself when it arms an image.

use std::path::Path;

use lifeboat_format::bootcfg::{Selector, SwapPlan};

use crate::check::{self, Checker};
use crate::defect::Defects;
use crate::raw;
use crate::recipient;
use crate::source::Tree;

/// Site settings; what is `None` or empty leaves the profile's word in force.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Site {
    /// Name of the host, for the sealed part of the dump.
    pub hostname: Option<String>,
    /// Targets that replace the profile's.
    pub targets: Vec<Selector>,
    /// Swap devices that replace the profile's.
    pub swap: Option<SwapPlan>,
    /// Whether dumps are encrypted.
    pub encrypt: Option<bool>,
    /// Recipients that replace the profile's.
    pub recipients: Vec<String>,
}

impl Site {
    /// Reads and checks a site file: `hostname`, `swap`, `[[target]]`, `[keys]`.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(path: &Path) -> Result<Self, Defects> {
        let tree = Tree::load::<raw::SiteFile>(path)?;
        let raw = tree.raw::<raw::SiteFile>()?;
        let mut c = Checker::new(&tree);
        let targets = check::targets(&mut c, &raw.target);
        let swap = check::swap(&mut c, "swap", raw.swap.as_ref());
        if let Some(plan) = &swap {
            check::target_is_not_swap(&mut c, &targets, plan);
        }
        let encrypt = raw.keys.encrypt.map(|e| e == raw::Encrypt::Age);
        recipient::check(&mut c, encrypt.unwrap_or(true), &raw.keys.recipients);
        let too_long =
            |h: &String| h.len() > 255 || h.is_empty() || h.chars().any(char::is_control);
        if raw.hostname.as_ref().is_some_and(too_long) {
            c.bad(
                "hostname",
                "a hostname has 1 to 255 bytes and no control characters",
                "leave it out: arming uses the host's own",
            );
        }
        c.done(Self {
            hostname: raw.hostname,
            targets,
            swap,
            encrypt,
            recipients: raw.keys.recipients,
        })
        .map_err(Defects)
    }
}
