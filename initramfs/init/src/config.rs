//! The orders: what arming left for this boot, else what the image was built with.

use std::path::Path;

use lifeboat_format::bootcfg::{BootConfig, MAX_LEN};

use crate::Failure;

/// Written by `lifeboat arm` into the archive behind the image's own.
const ARMED: &str = "/etc/lifeboat/boot.conf";
/// Written at build time for profiles that stand alone.
const BUILT: &str = "/etc/lifeboat/image.conf";

/// Reads and checks the boot configuration. A damaged one is never replaced by
/// the other: half of the orders is not what anybody asked for.
pub(crate) fn load() -> Result<Box<BootConfig>, Failure> {
    let path = if Path::new(ARMED).exists() { ARMED } else { BUILT };
    let bytes = match std::fs::read(path) {
        Ok(bytes) if bytes.len() <= MAX_LEN => bytes,
        Ok(bytes) => return Err(format!("{path}: {} bytes are too many", bytes.len()).into()),
        Err(e) => {
            return Err(format!(
                "no boot configuration: {path}: {e} (hint: arm with `lifeboat arm`)"
            )
            .into());
        }
    };
    let config = BootConfig::parse(&bytes)
        .map_err(|e| format!("{path}: {e} (hint: arm again with `lifeboat arm`)"))?;
    Ok(Box::new(config))
}
