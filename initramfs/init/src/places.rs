//! What becomes of each page of the dead kernel's memory: its layer, or nothing at all.
//! Everything that is decided here is the sources' to decide; this asks them and says so.

use lifeboat_engine::{Input, PlaceRead, Tuner};
use lifeboat_format::bootcfg::{BootConfig, Order};
use lifeboat_format::{Layer, PhysAddr};
use lifeboat_join::{Memory, Places};
use lifeboat_sources::elfcorehdr::CoreHeader;
use lifeboat_sources::vmcoreinfo::VmcoreInfo;
use lifeboat_sources::worth::{self, Filter, Worth};
use lifeboat_sources::{AnyMemory, MemoryReader, OldMemory, SourceKind, notes};

use crate::Failure;
use crate::capture::pages_mib;
use crate::console::say;

/// The dead kernel's page records, and what they are used for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Records {
    worth: Worth,
    filter: Filter,
    by_worth: bool,
}

impl Records {
    /// Opens the records, if the configuration needs them and they can be read and agree
    /// with themselves. Anything else is said, and then memory comes in order of address
    /// and nothing of it is left out.
    pub(crate) fn open(config: &BootConfig, memory: &AnyMemory) -> Option<Self> {
        let by_worth = config.order == Order::Worth;
        if !config.memory || !(by_worth || config.exclude.needs_records()) {
            return None;
        }
        match open(memory) {
            Ok(worth) => {
                let filter = Filter::new(&worth, config.exclude);
                let order = if by_worth { "worth" } else { "address" };
                say!("order: by {order}; {}", worth.describe());
                say!("filter: {filter}");
                Some(Self { worth, filter, by_worth })
            }
            Err(why) => {
                say!(
                    "order: by address, because the dead kernel's page records cannot be used: {why}"
                );
                say!("filter: left out: zero; all of {} is kept, too", config.exclude);
                None
            }
        }
    }

    /// The layers to capture before the swap devices, and those behind; without those of
    /// which nothing is kept.
    pub(crate) fn layers(records: Option<&Self>) -> (&'static [Layer], &'static [Layer]) {
        let Some(records) = records.filter(|r| r.by_worth) else {
            return (&[Layer::Address], &[]);
        };
        let keeps = |layer| records.filter.keeps(layer);
        let before: &[Layer] =
            if keeps(Layer::User) { &[Layer::Kernel, Layer::User] } else { &[Layer::Kernel] };
        let behind: &[Layer] = match (keeps(Layer::Cache), keeps(Layer::Free)) {
            (true, true) => &[Layer::Cache, Layer::Free],
            (true, false) => &[Layer::Cache],
            (false, true) => &[Layer::Free],
            (false, false) => &[],
        };
        (before, behind)
    }

    /// A worker's reader of them.
    pub(crate) fn places(&self, memory: MemoryReader) -> Places<'_> {
        Places(worth::Places::new(&self.worth, self.filter.asked(), memory))
    }
}

/// Tells what is to come: of `asked`, the pages of memory and swap, the latter and those of
/// memory that a sample says. Where there is no choice of method, nobody asks.
pub(crate) fn expect(
    tuner: &Tuner,
    memory: &AnyMemory,
    records: Option<&Records>,
    asked: (u64, u64),
) {
    if tuner.ladder().len() < 2 {
        return;
    }
    let data = if asked.0 == 0 { Some(0) } else { estimate(memory, records) };
    let data = data.unwrap_or(asked.0);
    say!("expected: {} of {} MiB of memory hold data", pages_mib(data), pages_mib(asked.0));
    tuner.expect(asked.0.saturating_add(asked.1), data.saturating_add(asked.1));
}

/// Pages of memory that should be stored, by a sample; `None` where it cannot be read.
fn estimate(memory: &AnyMemory, records: Option<&Records>) -> Option<u64> {
    let mut pages = Memory(memory.reader().ok()?);
    let mut places = match records {
        Some(records) => Some(records.places(memory.reader().ok()?)),
        None => None,
    };
    let places = places.as_mut().map(|p| p as &mut dyn PlaceRead);
    Some(lifeboat_engine::estimate(memory.ranges(), &mut Input { pages: &mut pages, places }))
}

fn open(memory: &AnyMemory) -> Result<Worth, Failure> {
    let info = notes::vmcoreinfo(memory.notes()).map(VmcoreInfo::new);
    let info = info.ok_or("no VMCOREINFO")?;
    let mut reader = memory.reader()?;
    let worth = Worth::open(&info, &mut reader)?;
    // Only the elfcorehdr itself tells where the notes lie; /proc/vmcore hides it.
    if memory.kind() == SourceKind::Oldmem {
        for note in CoreHeader::parse(memory.elfcorehdr())?.notes() {
            worth.confirm(&mut reader, PhysAddr(note.offset).pfn())?;
        }
    }
    Ok(worth)
}
