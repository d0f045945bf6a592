//! What this host swaps to now: with `swap auto` the crash kernel waits for that, and for
//! nothing else.

use std::path::Path;

use lifeboat_format::bootcfg::{MAX_DEVICES, Selector};
use lifeboat_sources::blockdev::{self, Block};
use lifeboat_sources::swap::{self, Signature};

use crate::device::inuse::{self, SWAPS, Swap};
use crate::ui::{Context as _, Failure};

/// The swap devices that are on and that a crash kernel can find; none where this kernel has
/// no swap. `None` when one of them is not known, has no name that holds over a boot, or
/// there are too many: then the crash kernel waits until no further disk comes, as an image
/// does that nobody armed.
///
/// # Errors
/// sysfs or /proc cannot be read.
pub(crate) fn on() -> Result<Option<heapless::Vec<Selector, MAX_DEVICES>>, Failure> {
    let swaps = inuse::swaps(Path::new(SWAPS)).context(SWAPS)?;
    let blocks = blockdev::enumerate().context("/sys/class/block")?;
    Ok(selectors(&swaps, &blocks))
}

fn selectors(swaps: &[Swap], blocks: &[Block]) -> Option<heapless::Vec<Selector, MAX_DEVICES>> {
    let mut list = heapless::Vec::new();
    for swap in swaps.iter().filter(|swap| swap.partition) {
        let name = kernel_name(&swap.path)?;
        if is_virtual(&name) {
            continue;
        }
        let block = blocks.iter().find(|b| b.name == name)?;
        list.push(selector(block)?).ok()?;
    }
    Some(list)
}

/// The kernel's name of a block device, behind links such as those of `/dev/disk`.
fn kernel_name(path: &Path) -> Option<String> {
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.into());
    Some(real.strip_prefix("/dev").ok()?.to_str()?.replace('/', "!"))
}

/// Whether a block device is none of a disk: what the device mapper, md or zram make is not
/// there in a crash kernel.
fn is_virtual(name: &str) -> bool {
    let dir = std::fs::canonicalize(Path::new("/sys/class/block").join(name));
    dir.is_ok_and(|dir| dir.starts_with("/sys/devices/virtual/block"))
}

fn selector(block: &Block) -> Option<Selector> {
    let named = |key: &str, value: &str| Selector::parse(&format!("{key}={value}")).ok();
    if let Some(partuuid) = &block.partuuid {
        return named("partuuid", partuuid);
    }
    match swap::probe(block) {
        Ok(Some(Signature::Swap(header))) if !header.uuid.is_empty() => named("uuid", &header.uuid),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Left out, the crash kernel would not wait for a device that holds pages.
    #[test]
    fn with_a_device_that_is_not_known_nothing_is_said() {
        let swap = |path: &str, partition| Swap { path: path.into(), partition };
        let known = Block {
            name: "lifeboat-none1".into(),
            partuuid: Some("4f68bce3-e8cd".into()),
            ..Block::default()
        };
        let (file, part) = (swap("/swap file", false), swap("/dev/lifeboat-none1", true));
        let none = swap("/dev/lifeboat-none2", true);
        let said = |swaps: &[Swap]| {
            let list = selectors(swaps, std::slice::from_ref(&known))?;
            Some(list.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(said(&[]), Some(vec![]));
        assert_eq!(said(&[file, part]), Some(vec!["partuuid=4f68bce3-e8cd".to_owned()]));
        assert_eq!(said(&[none]), None);
    }

    #[test]
    fn what_is_no_disk_is_skipped() {
        // Loop devices and RAM disks lie where zram and the device mapper do.
        let dirs = std::fs::read_dir("/sys/class/block").unwrap().flatten();
        for name in dirs.map(|e| e.file_name().into_string().unwrap()) {
            let virt = ["loop", "ram", "zram", "dm-"].iter().any(|start| name.starts_with(start));
            assert!(!virt || is_virtual(&name), "{name}");
        }
        assert!(!is_virtual("lifeboat-none1"));
    }

    #[test]
    fn a_partition_is_named_by_its_guid() {
        let block = Block { partuuid: Some("4f68bce3-e8cd".into()), ..Block::default() };
        assert_eq!(selector(&block).unwrap().to_string(), "partuuid=4f68bce3-e8cd");
        assert!(selector(&Block::default()).is_none());
    }
}
