//! Which pages of a vmcore are left out, by the dead kernel's own records.

use lifeboat_format::Exclude;
use lifeboat_join::Places;
use lifeboat_sources::vmcore::Vmcore;
use lifeboat_sources::vmcoreinfo::VmcoreInfo;
use lifeboat_sources::worth::{self, Filter, Worth};
use lifeboat_sources::{MemoryReader, OldMemory, notes};

use crate::ui::warn;

/// The records, and what is left out by them.
pub(super) struct Records {
    worth: Worth,
    pub(super) filter: Filter,
}

impl Records {
    /// Opens the records of `memory`, if something is to be left out. Where they cannot be
    /// used everything is kept, and that is told.
    pub(super) fn open(exclude: Exclude, memory: &Vmcore) -> Option<Self> {
        if !exclude.needs_records() {
            return None;
        }
        let open = || -> Result<Worth, Box<dyn std::error::Error>> {
            let info = notes::vmcoreinfo(memory.notes()).map(VmcoreInfo::new);
            let info = info.ok_or("the vmcore has no VMCOREINFO")?;
            Ok(Worth::open(&info, &mut memory.reader()?)?)
        };
        match open() {
            Ok(worth) => Some(Self { filter: Filter::new(&worth, exclude), worth }),
            Err(why) => {
                warn(format!("nothing is left out: {why}"));
                None
            }
        }
    }

    /// A worker's reader of them.
    pub(super) fn places(&self, memory: MemoryReader) -> Places<'_> {
        Places(worth::Places::new(&self.worth, self.filter.asked(), memory))
    }
}
