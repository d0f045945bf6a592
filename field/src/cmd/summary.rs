//! What can be said of a dump without a key: its slot, header, key area and
//! commit record, read from where they lie and believed only if their
//! checksums hold.

use lifeboat_format::header::{HEADER_LEN, KEY_AREA_LEN};
use lifeboat_format::{
    BLOCK, Cipher, CommitRecord, DumpHeader, KeyArea, Outcome, SlotRecord, SlotState,
};
use lifeboat_sink::Volume;

use crate::device::Window;
use crate::ui::{Context as _, Failure, hex};

/// How far a dump got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Committed, and everything that was asked for is there.
    Complete,
    /// Committed, but something that was asked for is missing.
    Partial,
    /// Never committed: the power went, or the dump was cut short.
    Capturing,
    /// Header or commit record are damaged.
    Damaged,
}

impl State {
    /// As `list` prints it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Partial => "partial",
            Self::Capturing => "capturing",
            Self::Damaged => "damaged",
        }
    }
}

/// A dump as `list` shows it.
#[derive(Debug)]
pub(crate) struct Summary {
    /// Number on its volume.
    pub(crate) number: u64,
    /// How far it got.
    pub(crate) state: State,
    /// Its slot; `None` for a pulled file.
    pub(crate) slot: Option<(u32, SlotRecord)>,
    /// Where its bytes lie; for one that was never committed, as far as it may reach.
    pub(crate) window: Window,
    /// Header, from whichever copy is sound.
    pub(crate) header: Option<DumpHeader>,
    /// Fingerprints of the recipients, in hexadecimal.
    pub(crate) recipients: Vec<String>,
    /// The commit record.
    pub(crate) commit: Option<CommitRecord>,
    /// What is damaged, in words.
    pub(crate) damage: Vec<String>,
}

impl Summary {
    /// Reads a dump that takes the whole of `window`.
    pub(crate) fn read(window: Window, slot: Option<(u32, SlotRecord)>) -> Self {
        let mut damage = Vec::new();
        let commit = Self::read_commit(&window, slot.as_ref(), &mut damage);
        let header_copy = commit.as_ref().map(|c| c.header_copy.0);
        let (header, recipients) = Self::read_header(&window, header_copy, &mut damage);
        let number = slot.map(|(_, r)| r.number).or(header.as_ref().map(|h| h.number)).unwrap_or(0);
        let state = match (&slot, &commit) {
            _ if header.is_none() => State::Damaged,
            (Some((_, r)), _) if r.state == SlotState::Capturing => State::Capturing,
            (_, Some(c)) if c.outcome == Outcome::Complete => State::Complete,
            (_, Some(_)) => State::Partial,
            (None, None) => State::Capturing,
            (Some(_), None) => State::Damaged,
        };
        Self { number, state, slot, window, header, recipients, commit, damage }
    }

    fn read_commit(
        window: &Window,
        slot: Option<&(u32, SlotRecord)>,
        damage: &mut Vec<String>,
    ) -> Option<CommitRecord> {
        if slot.is_some_and(|(_, r)| r.state == SlotState::Capturing) {
            return None;
        }
        let at = window.len.checked_sub(BLOCK as u64)?;
        let mut block = [0u8; BLOCK];
        if let Err(e) = window.read_at(at, &mut block) {
            damage.push(format!("commit record: {e}"));
            return None;
        }
        match CommitRecord::decode(&block) {
            Ok(c) if c.total_len == window.len => Some(c),
            Ok(c) => {
                damage.push(format!(
                    "the commit record speaks of {} bytes, {} are here",
                    c.total_len, window.len
                ));
                None
            }
            Err(e) => {
                damage.push(e.to_string());
                None
            }
        }
    }

    fn read_header(
        window: &Window,
        copy: Option<u64>,
        damage: &mut Vec<String>,
    ) -> (Option<DumpHeader>, Vec<String>) {
        let (mut header, mut recipients) = (None, None);
        for at in [Some(0), copy].into_iter().flatten() {
            let mut bytes = [0u8; HEADER_LEN];
            if let Err(e) = window.read_at(at, &mut bytes) {
                damage.push(format!("header at byte {at}: {e}"));
                continue;
            }
            let Some((block0, keys)) = bytes.split_first_chunk::<BLOCK>() else { continue };
            match DumpHeader::decode(block0) {
                Ok(h) => header = header.or(Some(h)),
                Err(e) => damage.push(format!("{e} (at byte {at})")),
            }
            let keys = keys.first_chunk::<KEY_AREA_LEN>().map(KeyArea::decode);
            match keys {
                Some(Ok(k)) => {
                    recipients
                        .get_or_insert_with(|| k.fingerprints().iter().map(|f| hex(f)).collect());
                }
                Some(Err(e)) => damage.push(format!("{e} (at byte {at})")),
                None => {}
            }
        }
        (header, recipients.unwrap_or_default())
    }

    /// Whether it was taken in the clear; `None` when the header is lost.
    pub(crate) fn in_the_clear(&self) -> Option<bool> {
        self.header.map(|h| h.cipher == Cipher::None)
    }
}

/// Bytes of the volume that belong to a dump, as a window of their own. The slot
/// was checked against the superblock; a device cut short ends the window early,
/// and the missing commit record then shows it.
pub(crate) fn extent(volume: &Window, record: &SlotRecord) -> Window {
    let extent = record.extent();
    Window {
        name: format!("{} dump {}", volume.name, record.number),
        base: volume.base + extent.start,
        len: extent.end.min(volume.len).saturating_sub(extent.start),
        ..volume.clone()
    }
}

/// All dumps of a volume, in order of number.
pub(crate) fn of_volume(
    window: &Window,
) -> Result<(Volume<lifeboat_sink::FileDev>, Vec<Summary>), Failure> {
    let volume = Volume::open(window.dev()?, window.placement()).context(&window.name)?;
    let list = volume
        .dumps()
        .into_iter()
        .map(|(slot, r)| Summary::read(extent(window, &r), Some((slot, r))))
        .collect();
    Ok((volume, list))
}
