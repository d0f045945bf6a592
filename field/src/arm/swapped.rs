//! What this host swaps to now: with `swap auto` the crash kernel waits for that, and for
//! nothing else.

use std::path::Path;

use lifeboat_format::bootcfg::{MAX_DEVICES, Selector};
use lifeboat_sources::blockdev::{self, Block};
use lifeboat_sources::swap::{self, Signature};

use crate::ui::{Context as _, Failure};

/// The swap devices that are on and that a crash kernel can find. `None` when one of them
/// has no name that holds over a boot, or there are too many: then the crash kernel waits
/// until no further disk comes, as an image does that nobody armed.
///
/// # Errors
/// sysfs or /proc cannot be read.
pub(crate) fn on() -> Result<Option<heapless::Vec<Selector, MAX_DEVICES>>, Failure> {
    // A kernel without swap has no such file.
    let Ok(text) = std::fs::read_to_string("/proc/swaps") else { return Ok(None) };
    let blocks = blockdev::enumerate().context("/sys/class/block")?;
    let names = partitions(&text).filter(|name| is_disk(name));
    let mut list = heapless::Vec::new();
    for name in names {
        let block = blocks.iter().find(|b| b.name == name);
        let Some(selector) = block.and_then(selector) else { return Ok(None) };
        if list.push(selector).is_err() {
            return Ok(None);
        }
    }
    Ok(Some(list))
}

/// The kernel's names of block devices in `/proc/swaps` (`swap_show()`, mm/swapfile.c:
/// name, type, and three numbers; a swap file's type is `file`).
fn partitions(text: &str) -> impl Iterator<Item = String> {
    text.lines().skip(1).filter_map(|line| {
        let mut words = line.split_whitespace();
        let (path, kind) = (words.next()?, words.next()?);
        let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.into());
        let name = real.file_name()?.to_str()?.replace('/', "!");
        (kind == "partition").then_some(name)
    })
}

/// Whether a block device is one of a disk: what the device mapper, md or zram make is not
/// there in a crash kernel.
fn is_disk(name: &str) -> bool {
    let dir = std::fs::canonicalize(Path::new("/sys/class/block").join(name));
    dir.is_ok_and(|dir| !dir.starts_with("/sys/devices/virtual/block"))
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

    #[test]
    fn partitions_are_told_from_files() {
        let text = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
            /dev/lifeboat-none1                     partition\t131068\t\t0\t\t-2\n\
            /swap\\040file                            file\t\t1048572\t\t0\t\t-3\n\
            /dev/zram9                              partition\t4\t0\t100\n";
        let names: Vec<String> = partitions(text).collect();
        assert_eq!(names, ["lifeboat-none1", "zram9"]);
        assert!(!is_disk("lifeboat-none1"));
        assert_eq!(partitions("").count(), 0);
    }

    #[test]
    fn a_partition_is_named_by_its_guid() {
        let block = Block { partuuid: Some("4f68bce3-e8cd".into()), ..Block::default() };
        assert_eq!(selector(&block).unwrap().to_string(), "partuuid=4f68bce3-e8cd");
        assert!(selector(&Block::default()).is_none());
    }
}
