//! The volumes that the user named, and the dumps whose parts lie on them.
//!
//! A dump is known by its id: parts on several volumes, and in several gaps of one,
//! make one dump. What the slots say of a part is checked against the part block that
//! stands in front of its bytes; that block holds where they differ, because the slot
//! is written later.

use std::fs::File;
use std::sync::Arc;

use lifeboat_field::dump::{Extent, Parts};
use lifeboat_format::part::PART_HEAD;
use lifeboat_format::{BLOCK, DumpHeader, FormatError, Id, PartBlock, SlotRecord, SlotState};
use lifeboat_sink::{FileDev, Volume};

use crate::device::{self, Found, Window};
use crate::ui::{Context as _, Failure, hex};

const HEAD: u64 = PART_HEAD as u64;

/// A volume that was opened for reading.
#[derive(Debug)]
pub(crate) struct Opened {
    /// Where it lies.
    pub(crate) window: Window,
    /// Superblock and slots.
    pub(crate) volume: Volume<FileDev>,
}

impl Opened {
    /// Opens what a window holds.
    ///
    /// # Errors
    /// The superblock's.
    pub(crate) fn new(window: Window) -> Result<Self, Failure> {
        let volume = Volume::open(window.dev()?, window.placement()).context(&window.name)?;
        Ok(Self { window, volume })
    }

    /// Identity of the volume.
    pub(crate) fn id(&self) -> Id {
        self.volume.superblock().volume_id
    }
}

/// The volume DEV and those of `--with`.
///
/// # Errors
/// When one cannot be opened, or is no volume.
pub(crate) fn open(
    dev: &str,
    partition: Option<&str>,
    with: &[String],
) -> Result<Vec<Opened>, Failure> {
    let first = Opened::new(device::find_volume(dev, partition)?)?;
    beside(first, with)
}

/// The volumes of `--with`, behind the first.
///
/// # Errors
/// As [`open`].
pub(crate) fn beside(first: Opened, with: &[String]) -> Result<Vec<Opened>, Failure> {
    let mut all = vec![first];
    for dev in with {
        for found in device::find_all(dev, None)? {
            match found {
                Found::Volume(w) => all.push(Opened::new(w)?),
                Found::Dump(w) => {
                    return Err(Failure::usage(format!(
                        "{} is a pulled dump, not a volume",
                        w.name
                    ))
                    .hint("--with names further volumes that hold parts of the same dump"));
                }
            }
        }
    }
    // The same volume named twice gives nothing new.
    let mut seen: Vec<Id> = Vec::new();
    all.retain(|v| {
        let new = !seen.contains(&v.id());
        seen.push(v.id());
        new
    });
    Ok(all)
}

/// A part of a dump on a volume.
#[derive(Debug, Clone)]
pub(crate) struct PartPlace {
    /// Which of the opened volumes.
    pub(crate) volume: usize,
    /// Identity of that volume.
    pub(crate) volume_id: Id,
    /// Its window, for messages and for opening it again.
    pub(crate) window: Window,
    /// Its slot; `None` when it was found by a scan.
    pub(crate) slot: Option<u32>,
    /// What the slot says, or would say.
    pub(crate) record: SlotRecord,
    /// The capturer had begun to write it; `false` for room that was only set aside.
    pub(crate) entered: bool,
    /// What is wrong with it, in words.
    pub(crate) fault: Option<String>,
}

impl PartPlace {
    /// A part as its slot tells it.
    pub(crate) fn new(n: usize, of: &Opened, slot: Option<u32>, mut record: SlotRecord) -> Self {
        let (mut entered, mut fault) = (true, None);
        if record.part > 0 {
            match part_block(&of.window, record.start.0) {
                Ok(b) if b.dump_id == record.dump_id && b.part == record.part => {
                    record.base = b.base;
                }
                // Room that was set aside and never needed, unless the slot says more.
                _ if record.state == SlotState::Capturing => entered = false,
                Ok(_) => fault = Some("its part block is another dump's".to_owned()),
                Err(why) => fault = Some(why),
            }
        }
        let (window, volume_id) = (of.window.clone(), of.id());
        Self { volume: n, volume_id, window, slot, record, entered, fault }
    }

    /// A part that a scan found.
    pub(crate) fn found(volume: usize, window: Window, record: SlotRecord) -> Self {
        let volume_id = record.volume_id;
        Self { volume, volume_id, window, slot: None, record, entered: true, fault: None }
    }

    /// Bytes of the dump in front of which nothing but the part's head lies.
    fn head(&self) -> u64 {
        if self.record.part == 0 { 0 } else { HEAD }
    }

    /// Bytes of the dump that it holds, or may hold when it was never finished.
    pub(crate) fn len(&self) -> u64 {
        let extent = self.record.extent();
        // A device cut short ends it early, and the missing commit record then shows it.
        extent.end.min(self.window.len).saturating_sub(extent.start).saturating_sub(self.head())
    }

    pub(crate) fn extent(&self, file: Arc<File>) -> Extent {
        let start = self.window.base + self.record.start.0;
        Extent {
            base: self.record.base,
            len: self.len(),
            file,
            at: start + self.head(),
            head: (self.record.part > 0).then_some(start + BLOCK as u64),
        }
    }
}

fn part_block(window: &Window, at: u64) -> Result<PartBlock, String> {
    let mut block = [0u8; BLOCK];
    window.read_at(at, &mut block).map_err(|e| format!("part block: {e}"))?;
    PartBlock::decode(&block).map_err(|e| e.to_string())
}

/// A part that the given volumes do not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Absent {
    /// First missing byte of the dump.
    pub(crate) from: u64,
    /// First byte that is here again; `None` when it is the end that is missing.
    pub(crate) to: Option<u64>,
    /// The volume that should hold it.
    pub(crate) volume: Option<Id>,
}

/// A dump by its parts on the given volumes.
#[derive(Debug, Clone)]
pub(crate) struct Laid {
    /// In order; those that were only set aside included.
    pub(crate) parts: Vec<PartPlace>,
}

impl Laid {
    /// The parts that hold something.
    pub(crate) fn entered(&self) -> impl Iterator<Item = &PartPlace> + Clone {
        self.parts.iter().filter(|p| p.entered)
    }

    /// Number of the dump, on the first of the volumes that holds a part of it.
    pub(crate) fn number(&self) -> u64 {
        let first = self.parts.iter().min_by_key(|p| (p.volume, p.record.part));
        first.map_or(0, |p| p.record.number)
    }

    /// Index of the first volume that holds a part of it.
    pub(crate) fn volume(&self) -> usize {
        self.parts.iter().map(|p| p.volume).min().unwrap_or(0)
    }

    /// What the slots say that its header does not, in words.
    pub(crate) fn contradicts(&self, header: &DumpHeader) -> Option<String> {
        let told = self.parts.first().filter(|p| p.slot.is_some())?;
        (told.record.dump_id != header.dump_id).then(|| {
            format!(
                "the slot tells of dump {}, but dump {} lies there: {ROLLED_BACK}",
                hex(&told.record.dump_id),
                hex(&header.dump_id)
            )
        })
    }

    /// All of its parts are marked as pulled.
    pub(crate) fn is_pulled(&self) -> bool {
        self.entered().all(|p| p.record.pulled)
    }

    /// Its bytes.
    ///
    /// # Errors
    /// When a device cannot be opened (again, past the page cache if `direct`).
    pub(crate) fn source(&self, direct: bool) -> Result<Parts, Failure> {
        let mut extents = Vec::new();
        for p in self.entered() {
            let w = &p.window;
            let again = direct && w.rdev.is_some();
            let opened = again.then(|| FileDev::open_file(&w.path, false, true).ok()).flatten();
            let file = opened.map_or_else(|| Arc::clone(&w.file), Arc::new);
            extents.push(p.extent(file));
        }
        Ok(Parts::new(extents))
    }

    /// The parts that are not here.
    pub(crate) fn absent(&self, home: Option<Id>) -> Vec<Absent> {
        let parts: Vec<&PartPlace> = self.entered().collect();
        let mut out = Vec::new();
        let (mut at, mut volume) = (0u64, home);
        for p in &parts {
            if p.record.base > at {
                out.push(Absent { from: at, to: Some(p.record.base), volume });
            }
            at = at.max(p.record.base.saturating_add(p.len()));
            let next = p.record.next_volume;
            volume = (next != [0; 16]).then_some(next);
        }
        if parts.last().is_some_and(|p| p.record.state == SlotState::Continued) {
            out.push(Absent { from: at, to: None, volume });
        }
        out
    }
}

/// What to think of a volume whose structures do not belong together.
pub(crate) const ROLLED_BACK: &str = "the superblock or the slot table is from another time (rolled back, or of another disk); `lifeboat list --scan` finds what is there, and nothing is written here";

/// What is wrong with the slots of a volume, in words.
pub(crate) fn slot_faults(volume: &Volume<FileDev>) -> Vec<String> {
    let words = |(n, slot): (usize, &Result<_, FormatError>)| {
        let why = slot.as_ref().err()?;
        Some(match why {
            FormatError::Field { field: "volume_id", .. } => {
                format!("slot {n} belongs to another volume: {ROLLED_BACK}")
            }
            other => format!("slot {n}: {other}"),
        })
    };
    volume.slots().iter().enumerate().filter_map(words).collect()
}

/// All dumps of the volumes, each with all its parts: in order of volume and number.
pub(crate) fn dumps(volumes: &[Opened]) -> Vec<Laid> {
    let mut all: Vec<Laid> = Vec::new();
    for (n, v) in volumes.iter().enumerate() {
        for (slot, record) in v.volume.dumps() {
            let part = PartPlace::new(n, v, Some(slot), record);
            let same = |l: &&mut Laid| l.parts.iter().any(|p| p.record.dump_id == record.dump_id);
            match all.iter_mut().find(same) {
                Some(laid) => laid.parts.push(part),
                None => all.push(Laid { parts: vec![part] }),
            }
        }
    }
    for laid in &mut all {
        laid.parts.sort_by_key(|p| (p.record.part, p.volume));
    }
    all.sort_by_key(|l| (l.volume(), l.number()));
    all
}

impl Window {
    /// The window as a dump's only extent.
    pub(crate) fn alone(&self) -> Parts {
        let (file, len) = (Arc::clone(&self.file), self.len);
        Parts::new(vec![Extent { base: 0, len, file, at: self.base, head: None }])
    }
}
