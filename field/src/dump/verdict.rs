//! What a verification found, for people and as JSON.

use std::collections::BTreeMap;
use std::ops::Range;

use lifeboat_format::chunk::frame_len;
use lifeboat_format::commit::PageCounts;
use lifeboat_format::{ChunkHeader, ChunkKind, IndexEntry, PageClass, PageRange};
use serde::Serialize;

/// Findings that are kept in full; further ones are counted.
pub(crate) const KEPT: usize = 10_000;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// The first header is damaged.
    Header,
    /// The second header is damaged, or differs from the first.
    SecondHeader,
    /// A key area is damaged.
    KeyArea,
    /// The commit record contradicts the dump, or does not authenticate.
    Commit,
    /// Bytes that should be a chunk and are none.
    Lost,
    /// A chunk of another dump.
    OtherDump,
    /// A chunk of this dump that belongs elsewhere.
    WrongPlace,
    /// A chunk that reaches behind the end.
    CutShort,
    /// The medium cannot be read.
    Unreadable,
    /// A payload's checksum does not match.
    Checksum,
    /// Padding that is not zero.
    Padding,
    /// Chunks are missing or out of order.
    Sequence,
    /// A chunk does not authenticate, decompress or parse.
    Contents,
    /// The index does not list what is there.
    Index,
    /// The sealed tables are damaged, or do not fit the header.
    Meta,
    /// Pages that two chunks hold.
    Overlap,
    /// Bytes on a volume that was not given, or that cannot be read as a whole.
    MissingPart,
}

/// Whether a chunk's seal was looked at, and what was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SealState {
    /// No key was given, or the checksum does not match.
    NotChecked,
    /// The dump was taken in the clear; the contents parse.
    NotSealed,
    /// It authenticates, and its contents parse.
    Ok,
    /// It does not authenticate, or its contents do not parse: a finding says which.
    Bad,
}

/// The result for one chunk whose header is sound and stands in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkResult {
    /// Sequence number.
    pub seq: u64,
    /// Where it lies and what it covers.
    pub entry: IndexEntry,
    /// Whether payload checksum, padding and sequence number are right.
    pub checksum: bool,
    /// The seal.
    pub seal: SealState,
}

impl Serialize for ChunkResult {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct as _;
        let e = &self.entry;
        let mut out = serializer.serialize_struct("chunk", 10)?;
        out.serialize_field("seq", &self.seq)?;
        out.serialize_field("kind", e.kind.name())?;
        out.serialize_field("layer", e.layer.name())?;
        out.serialize_field("device", &e.device)?;
        out.serialize_field("offset", &e.offset.0)?;
        out.serialize_field("first", &e.first.0)?;
        out.serialize_field("pages", &e.pages)?;
        out.serialize_field("stored_len", &e.stored_len)?;
        out.serialize_field("checksum", &self.checksum)?;
        out.serialize_field("seal", &self.seal)?;
        out.end()
    }
}

/// Pages that were to be captured and are in no sound chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MissingPages {
    /// `memory` or `swap`.
    pub space: &'static str,
    /// Swap device; 0 for memory.
    pub device: u16,
    /// First page: a pfn, or a page of the swap device.
    pub first: u64,
    /// First page behind.
    pub end: u64,
}

/// One defect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What is wrong.
    pub kind: FindingKind,
    /// First byte, from the dump's start.
    pub start: u64,
    /// First byte behind.
    pub end: u64,
    /// Sequence number of the chunk, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunk: Option<u64>,
    /// What the chunk carries: `memory`, `swap`, `log`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub carries: Option<&'static str>,
    /// Swap device of the chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<u16>,
    /// Pages that the chunk covers, `[first, end)`: pfns, or pages of the swap device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pages: Option<(u64, u64)>,
    /// In words.
    pub text: String,
}

impl Finding {
    /// A defect of a stretch of bytes.
    pub(crate) fn at(kind: FindingKind, bytes: Range<u64>, text: impl Into<String>) -> Self {
        Self {
            kind,
            start: bytes.start,
            end: bytes.end,
            chunk: None,
            carries: None,
            device: None,
            pages: None,
            text: text.into(),
        }
    }

    /// A defect of a chunk.
    pub(crate) fn of(kind: FindingKind, header: &ChunkHeader, text: impl AsRef<str>) -> Self {
        Self::of_entry(kind, header.seq, &IndexEntry::of(header), text)
    }

    /// A defect of the chunk with this number, place and range.
    pub(crate) fn of_entry(
        kind: FindingKind,
        seq: u64,
        e: &IndexEntry,
        text: impl AsRef<str>,
    ) -> Self {
        let start = e.offset.0;
        let covers = super::error::covers(e);
        let pages = (e.first.0, e.first.0.saturating_add(e.pages));
        Self {
            chunk: Some(seq),
            carries: Some(e.kind.name()),
            device: (e.kind == ChunkKind::Swap).then_some(e.device),
            pages: e.kind.is_pages().then_some(pages),
            ..Self::at(
                kind,
                start..start.saturating_add(frame_len(e.stored_len)),
                format!("chunk {seq} ({}, {covers}): {}", e.kind.name(), text.as_ref()),
            )
        }
    }
}

/// Pages by class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct PageTotals {
    /// With contents.
    pub data: u64,
    /// All zero.
    pub zero: u64,
    /// Could not be read by the capturer.
    pub unreadable: u64,
    /// Left out by the profile.
    pub excluded: u64,
    /// Of one word over and over.
    pub fill: u64,
    /// With the contents of another page.
    pub same: u64,
}

impl PageTotals {
    /// Counts `pages` more of a class.
    pub(crate) fn count(&mut self, class: PageClass, pages: u64) {
        let of = match class {
            PageClass::Data => &mut self.data,
            PageClass::Zero => &mut self.zero,
            PageClass::Unreadable => &mut self.unreadable,
            PageClass::Excluded => &mut self.excluded,
            PageClass::Fill(_) => &mut self.fill,
            PageClass::Same(_) => &mut self.same,
            PageClass::Elsewhere => return,
        };
        *of = of.saturating_add(pages);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        // Every field, or this does not compile.
        let Self { data, zero, unreadable, excluded, fill, same } = other;
        let to = [
            (&mut self.data, data),
            (&mut self.zero, zero),
            (&mut self.unreadable, unreadable),
            (&mut self.excluded, excluded),
            (&mut self.fill, fill),
            (&mut self.same, same),
        ];
        for (to, more) in to {
            *to = to.saturating_add(*more);
        }
    }

    /// Whether a commit record counts the same.
    #[must_use]
    pub fn agrees(&self, counts: &PageCounts) -> bool {
        *self == Self::from(counts)
    }
}

impl From<&PageCounts> for PageTotals {
    fn from(c: &PageCounts) -> Self {
        Self {
            data: c.data,
            zero: c.zero,
            unreadable: c.unreadable,
            excluded: c.excluded,
            fill: c.fill,
            same: c.same,
        }
    }
}

/// The result of [`crate::dump::DumpFile::verify`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Identity of the dump, hexadecimal.
    pub dump_id: String,
    /// Bytes looked at.
    pub bytes: u64,
    /// SHA-256 of them, hexadecimal; nothing when some could not be read.
    pub sha256: Option<String>,
    /// Whether a commit record ends the dump.
    pub committed: bool,
    /// How the capture ended, by the commit record.
    pub outcome: Option<&'static str>,
    /// Whether chunks were decrypted and looked into.
    pub opened: bool,
    /// Sound chunks.
    pub good_chunks: u64,
    /// Chunks with a defect.
    pub bad_chunks: u64,
    /// Sound chunks by what they carry.
    pub kinds: BTreeMap<&'static str, u64>,
    /// Memory pages: counted if opened, otherwise by the commit record.
    pub memory: PageTotals,
    /// Swap pages of all devices, likewise.
    pub swap: PageTotals,
    /// Defects.
    pub findings: Vec<Finding>,
    /// Defects that were found but not kept.
    pub more_findings: u64,
    /// What was to be captured and is in no sound chunk, by space and page. Known only
    /// when chunks were looked into and the tables are sound.
    pub missing: Vec<MissingPages>,
    /// Pages in all of `missing`, and in what was found but not kept.
    pub missing_pages: u64,
    /// Whether `missing` tells all.
    pub missing_known: bool,
    /// Every chunk, in order of place.
    pub chunks: Vec<ChunkResult>,
}

impl Verdict {
    /// Nothing is damaged. A dump that was never committed can be sound too.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    /// Committed, and everything that was asked for is there: by the commit record, and
    /// where chunks were looked into, by them as well.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.missing_pages == 0
            && self.committed
            && self.outcome == Some(lifeboat_format::Outcome::Complete.name())
    }

    /// Adds that the key area opens to another dump's key, as the header tells.
    pub fn key_area_replaced(&mut self, why: &str) {
        let block = lifeboat_format::BLOCK as u64;
        let area = block..lifeboat_format::header::HEADER_LEN as u64;
        self.add(Finding::at(FindingKind::KeyArea, area, why));
        self.findings.sort_by_key(|f| f.start);
    }

    pub(crate) fn miss(&mut self, space: &'static str, device: u16, pages: PageRange) {
        self.missing_pages = self.missing_pages.saturating_add(pages.pages());
        if self.missing.len() < KEPT {
            let (first, end) = (pages.start.0, pages.end.0);
            self.missing.push(MissingPages { space, device, first, end });
        }
    }

    pub(crate) fn add(&mut self, finding: Finding) {
        if self.findings.len() < KEPT {
            self.findings.push(finding);
        } else {
            self.more_findings += 1;
        }
    }
}

/// Bytes as lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}
