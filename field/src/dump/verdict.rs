//! What a verification found, for people and as JSON.

use std::collections::BTreeMap;
use std::ops::Range;

use lifeboat_format::commit::PageCounts;
use lifeboat_format::{ChunkHeader, ChunkKind, IndexEntry};
use serde::Serialize;

/// Findings that are kept in full; further ones are counted.
const KEPT: usize = 10_000;

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
        let start = header.offset.0;
        let covers = super::error::covers(&IndexEntry::of(header));
        let pages =
            header.kind.is_pages().then_some((header.first.0, header.first.0 + header.pages));
        Self {
            chunk: Some(header.seq),
            carries: Some(header.kind.name()),
            device: (header.kind == ChunkKind::Swap).then_some(header.device),
            pages,
            ..Self::at(
                kind,
                start..start.saturating_add(header.frame_len()),
                format!(
                    "chunk {} ({}, {covers}): {}",
                    header.seq,
                    header.kind.name(),
                    text.as_ref()
                ),
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
}

impl PageTotals {
    /// Whether a commit record counts the same.
    #[must_use]
    pub fn agrees(&self, counts: &PageCounts) -> bool {
        let told = (counts.data, counts.zero, counts.unreadable, counts.excluded);
        told == (self.data, self.zero, self.unreadable, self.excluded)
    }
}

impl From<&PageCounts> for PageTotals {
    fn from(c: &PageCounts) -> Self {
        Self { data: c.data, zero: c.zero, unreadable: c.unreadable, excluded: c.excluded }
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
}

impl Verdict {
    /// Nothing is damaged. A dump that was never committed can be sound too.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    /// Committed, and everything that was asked for is there.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.committed && self.outcome == Some(lifeboat_format::Outcome::Complete.name())
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
