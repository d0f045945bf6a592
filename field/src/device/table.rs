//! Partitions of a whole-disk image or disk: the same reader as the crash kernel's.

use lifeboat_sources::gpt;
pub(crate) use lifeboat_sources::gpt::Partition;

use super::Window;
use crate::ui::{Context as _, Failure};

/// The partitions of a disk by number; `None` when it carries no partition table.
/// A damaged primary GPT is replaced by the backup at the disk's end.
///
/// # Errors
/// When there is a GPT, but neither of its copies is sound.
pub(crate) fn read(disk: &Window) -> Result<Option<Vec<Partition>>, Failure> {
    let mut read_at = |at: u64, buf: &mut [u8]| disk.read_at(at, buf);
    let table = gpt::parse(&mut read_at, disk.len, None).context(&disk.name)?;
    Ok(table.map(|t| t.partitions))
}
