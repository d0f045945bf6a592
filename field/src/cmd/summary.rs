//! What can be said of a dump without a key: its slot, header, key area and
//! commit record, read from where they lie and believed only if their
//! checksums hold.

use std::sync::Arc;

use lifeboat_field::dump::{Parts, ReadAt as _};
use lifeboat_format::header::{HEADER_LEN, KEY_AREA_LEN};
use lifeboat_format::{BLOCK, Cipher, CommitRecord, DumpHeader, KeyArea, Outcome, SlotState};

use super::volumes::{Absent, Laid, Opened, PartPlace};
use crate::device::Window;
use crate::ui::{Failure, hex};

/// How far a dump got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Committed, and everything that was asked for is there.
    Complete,
    /// Committed, but something that was asked for is missing.
    Partial,
    /// Never committed: the power went, or the dump was cut short.
    Capturing,
    /// A part of it is on a volume that was not given.
    Apart,
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
            Self::Apart => "part missing",
            Self::Damaged => "damaged",
        }
    }
}

/// A dump of which nothing but its slot is on the medium.
const BEGUN_ONLY: &str =
    "the power went before its header was written: what lies in its place is of an older dump";

/// A dump as `list` shows it.
#[derive(Debug)]
pub(crate) struct Summary {
    /// Number on its volume.
    pub(crate) number: u64,
    /// How far it got.
    pub(crate) state: State,
    /// Its parts on the given volumes; `None` for a pulled file.
    pub(crate) laid: Option<Laid>,
    /// The parts that the given volumes do not hold.
    pub(crate) absent: Vec<Absent>,
    /// For messages.
    pub(crate) name: String,
    /// Its bytes; for one that was never committed, as far as it may reach.
    pub(crate) source: Arc<Parts>,
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
    /// Reads a pulled dump, which takes the whole of `window`.
    pub(crate) fn of_file(window: &Window) -> Self {
        Self::read(window.name.clone(), None, Arc::new(window.alone()))
    }

    /// Reads a dump off its volumes.
    ///
    /// # Errors
    /// When a device cannot be opened.
    pub(crate) fn of_parts(laid: Laid, volumes: &[Opened]) -> Result<Self, Failure> {
        let volume = volumes.get(laid.volume()).map_or("?", |v| &v.window.name);
        let name = format!("{volume} dump {}", laid.number());
        let source = Arc::new(laid.source(false)?);
        Ok(Self::read(name, Some(laid), source))
    }

    /// Reads a dump that a scan found.
    ///
    /// # Errors
    /// When a device cannot be opened.
    pub(crate) fn found(name: String, laid: Laid) -> Result<Self, Failure> {
        let source = Arc::new(laid.source(false)?);
        Ok(Self::read(name, Some(laid), source))
    }

    fn read(name: String, laid: Option<Laid>, source: Arc<Parts>) -> Self {
        let mut damage: Vec<String> = Vec::new();
        let parts: Vec<&PartPlace> = laid.iter().flat_map(Laid::entered).collect();
        damage.extend(parts.iter().filter_map(|p| p.fault.clone()));
        // The slot is written after the commit record: where it says less, the record holds.
        let last = parts.iter().max_by_key(|p| p.record.part).map(|p| p.record.state);
        let open = matches!(last, Some(SlotState::Capturing | SlotState::Continued));
        let commit = if open { None } else { Self::read_commit(&source, &mut damage) };
        let header_copy = commit.as_ref().map(|c| c.header_copy.0);
        let (mut header, mut recipients) = Self::read_header(&source, header_copy, &mut damage);
        let mut other = laid.as_ref().zip(header.as_ref()).and_then(|(l, h)| l.contradicts(h));
        if open && other.is_some() {
            // The slot is durable before the header: what lies there is what was there before.
            (header, recipients, other) = (None, Vec::new(), None);
            damage.push(BEGUN_ONLY.to_owned());
        }
        damage.extend(other.clone());
        let home = header.as_ref().map(|h| h.volume_id);
        let absent = laid.as_ref().map(|l| l.absent(home)).unwrap_or_default();
        let number = laid.as_ref().map(Laid::number).or(header.as_ref().map(|h| h.number));
        let state = match (&laid, &commit) {
            _ if open && header.is_none() => State::Capturing,
            _ if header.is_none() || other.is_some() => State::Damaged,
            _ if !absent.is_empty() => State::Apart,
            _ if open => State::Capturing,
            (_, Some(c)) if c.outcome == Outcome::Complete => State::Complete,
            (_, Some(_)) => State::Partial,
            (None, None) => State::Capturing,
            (Some(_), None) => State::Damaged,
        };
        let number = number.unwrap_or(0);
        Self { number, state, laid, absent, name, source, header, recipients, commit, damage }
    }

    fn read_commit(src: &Parts, damage: &mut Vec<String>) -> Option<CommitRecord> {
        let at = src.len().checked_sub(BLOCK as u64)?;
        let mut block = [0u8; BLOCK];
        if let Err(e) = src.read_exact_at(at, &mut block) {
            damage.push(format!("commit record: {e}"));
            return None;
        }
        match CommitRecord::decode(&block) {
            Ok(c) if c.total_len == src.len() => Some(c),
            Ok(c) => {
                damage.push(format!(
                    "the commit record speaks of {} bytes, {} are here",
                    c.total_len,
                    src.len()
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
        src: &Parts,
        copy: Option<u64>,
        damage: &mut Vec<String>,
    ) -> (Option<DumpHeader>, Vec<String>) {
        let (mut header, mut recipients) = (None, None);
        for at in [Some(0), copy].into_iter().flatten() {
            let mut bytes = [0u8; HEADER_LEN];
            if let Err(e) = src.read_exact_at(at, &mut bytes) {
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
                    recipients.get_or_insert_with(|| k.fingerprints().map(|f| hex(&f)).collect());
                }
                Some(Err(e)) => damage.push(format!("{e} (at byte {at})")),
                None => {}
            }
        }
        (header, recipients.unwrap_or_default())
    }

    /// Why it is in its state, in words.
    pub(crate) fn why(&self) -> &'static str {
        match (self.state, &self.commit) {
            (State::Apart, _) => "a part of it is on a volume that was not given",
            (_, Some(c)) => c.outcome.name(),
            (State::Damaged, None) => "header or commit record are damaged",
            (_, None) => "never committed: the power went, or the capture goes on now",
        }
    }

    /// `dump 3 of /dev/vda1`.
    pub(crate) fn title(&self) -> String {
        match self.name.rsplit_once(" dump ") {
            Some((volume, number)) if self.laid.is_some() => format!("dump {number} of {volume}"),
            _ => self.name.clone(),
        }
    }

    /// Whether it was taken in the clear; `None` when the header is lost.
    pub(crate) fn in_the_clear(&self) -> Option<bool> {
        self.header.map(|h| h.cipher == Cipher::None)
    }
}

/// All dumps of the volumes, in order of volume and number.
///
/// # Errors
/// When a device cannot be opened.
pub(crate) fn of_volumes(volumes: &[Opened]) -> Result<Vec<Summary>, Failure> {
    let dumps = super::volumes::dumps(volumes).into_iter();
    dumps.map(|laid| Summary::of_parts(laid, volumes)).collect()
}
