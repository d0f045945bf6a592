//! The two ends of a dump: header, key area, commit record.

use std::sync::Arc;

use lifeboat_crypt::{CryptError, DataKey, Identities, Opener};
use lifeboat_format::commit;
use lifeboat_format::header::{HEADER_LEN, KEY_AREA_LEN};
use lifeboat_format::{
    BLOCK, Cipher, CommitRecord, DumpHeader, FormatError, IndexEntry, KeyArea, Outcome,
};

use super::{DumpError, ReadAt, Scanner};

const BLOCK64: u64 = BLOCK as u64;
/// First byte of the first chunk.
pub(crate) const DATA_START: u64 = HEADER_LEN as u64;
/// How far from its end a file is searched for a commit record that something was appended to.
const SEARCH: u64 = 16 << 20;

/// Bytes without a chunk that end a dump without commit record: far more than a
/// capturer has in flight when the power goes.
const OPEN_END: u64 = 256 << 20;

/// Header and key area as they were read, with a verdict on each.
pub(crate) struct HeaderCopy {
    pub(crate) block0: Box<[u8; BLOCK]>,
    pub(crate) header: Result<DumpHeader, FormatError>,
    pub(crate) key_bytes: Box<[u8; KEY_AREA_LEN]>,
}

impl HeaderCopy {
    pub(crate) fn read(src: &dyn ReadAt, at: u64) -> Result<Self, DumpError> {
        let mut block0 = Box::new([0u8; BLOCK]);
        let mut key_bytes = Box::new([0u8; KEY_AREA_LEN]);
        read(src, at, &mut *block0)?;
        read(src, at + BLOCK64, &mut *key_bytes)?;
        let header = DumpHeader::decode(&block0);
        Ok(Self { block0, header, key_bytes })
    }

    pub(crate) fn keys(&self) -> Result<KeyArea<'_>, FormatError> {
        KeyArea::decode(&self.key_bytes)
    }
}

/// Reads with our own error.
pub(crate) fn read(src: &dyn ReadAt, offset: u64, buf: &mut [u8]) -> Result<(), DumpError> {
    let len = buf.len() as u64;
    src.read_exact_at(offset, buf).map_err(|source| DumpError::Io { offset, len, source })
}

/// A dump whose ends were read and checked. Nothing is decrypted yet.
pub struct DumpFile {
    src: Arc<dyn ReadAt>,
    header: DumpHeader,
    first: Option<HeaderCopy>,
    second: Option<HeaderCopy>,
    /// Why the first header could not be used.
    first_fault: Option<FormatError>,
    commit: Result<CommitRecord, String>,
}

impl std::fmt::Debug for DumpFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DumpFile")
            .field("len", &self.len())
            .field("header", &self.header)
            .field("commit", &self.commit)
            .finish_non_exhaustive()
    }
}

impl DumpFile {
    /// Opens a dump. Its header may be damaged if the second copy is not, and its
    /// commit record may be missing (see [`DumpFile::committed`]).
    ///
    /// # Errors
    /// [`DumpError::NotADump`], [`DumpError::TooShort`], [`DumpError::Io`], and
    /// [`DumpError::Length`] when the commit record speaks of another length.
    pub fn open(src: Arc<dyn ReadAt>) -> Result<Self, DumpError> {
        let len = src.len();
        if len < DATA_START {
            return Err(DumpError::TooShort { len });
        }
        let first = match HeaderCopy::read(&*src, 0) {
            Ok(copy) => Some(copy),
            // A bad sector in the header is what the second copy is for.
            Err(DumpError::Io { .. }) => None,
            Err(other) => return Err(other),
        };
        let sound = first.as_ref().and_then(|c| c.header.ok());
        let commit = find_commit(&*src, sound.as_ref())?;
        let second_at = match &commit {
            Ok(c) => Some(c.header_copy.0),
            Err(_) if sound.is_none() => find_header(&*src)?,
            Err(_) => None,
        };
        let second = second_at.and_then(|at| HeaderCopy::read(&*src, at).ok());
        let first_fault = match &first {
            Some(copy) => copy.header.err(),
            None => Some(FormatError::Short { what: "dump header (unreadable)" }),
        };
        let backup = second.as_ref().and_then(|c| c.header.ok());
        let header = sound.or(backup).ok_or(DumpError::NotADump {
            first: first_fault.unwrap_or(FormatError::Magic { what: "dump header" }),
        })?;
        let commit = commit.and_then(|c| {
            let ours = c.dump_id == header.dump_id;
            if ours { Ok(c) } else { Err("the one there belongs to another dump".to_owned()) }
        });
        Ok(Self { src, header, first, second, first_fault, commit })
    }

    /// What is known without a key.
    #[must_use]
    pub fn header(&self) -> &DumpHeader {
        &self.header
    }

    /// The commit record.
    ///
    /// # Errors
    /// [`DumpError::NoCommit`]: the capture never ended, or the file was cut short.
    pub fn committed(&self) -> Result<&CommitRecord, DumpError> {
        self.commit
            .as_ref()
            .map_err(|why| DumpError::NoCommit { len: self.len(), why: why.clone() })
    }

    /// What is wrong with a commit record that was there: the dump ends with one's magic,
    /// or as only a dump ends that was to be committed, with its header's copy.
    pub(crate) fn damaged_commit(&self) -> Option<&str> {
        let why = self.commit.as_ref().err()?;
        let last = self.len().checked_sub(BLOCK64)?;
        let mut magic = [0u8; 8];
        let named = read(&*self.src, last, &mut magic).is_ok() && magic == commit::MAGIC;
        let copy = last.checked_sub(DATA_START).filter(|at| *at >= DATA_START);
        let ends = copy
            .and_then(|at| HeaderCopy::read(&*self.src, at).ok())
            .and_then(|copy| copy.header.ok())
            .is_some_and(|h| h.dump_id == self.header.dump_id);
        (named || ends).then_some(why)
    }

    /// Committed, with everything in it that was asked for.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.commit.as_ref().is_ok_and(|c| c.outcome == Outcome::Complete)
    }

    /// Whether it was taken in the clear.
    #[must_use]
    pub fn in_the_clear(&self) -> bool {
        self.header.cipher == Cipher::None
    }

    /// Bytes of the dump, or of what is left of it.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.src.len()
    }

    /// Never: a header was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The dump's bytes.
    #[must_use]
    pub fn source(&self) -> &dyn ReadAt {
        &*self.src
    }

    /// What is wrong with the first header, if anything.
    pub(crate) fn first_fault(&self) -> Option<FormatError> {
        self.first_fault
    }

    pub(crate) fn copies(&self) -> (Option<&HeaderCopy>, Option<&HeaderCopy>) {
        (self.first.as_ref(), self.second.as_ref())
    }

    /// Block 0 of the header that is in use.
    pub(crate) fn block0(&self) -> Option<&[u8; BLOCK]> {
        [self.first.as_ref(), self.second.as_ref()]
            .into_iter()
            .flatten()
            .find(|c| c.header.as_ref() == Ok(&self.header))
            .map(|c| &*c.block0)
    }

    /// First byte behind the chunks, padding included.
    #[must_use]
    pub fn data_end(&self) -> u64 {
        self.commit.as_ref().map_or_else(|_| self.len(), |c| c.header_copy.0)
    }

    /// A walk over the chunks. In a dump that was never committed it ends at the first
    /// long stretch without any: the space behind may be as large as the volume.
    pub(crate) fn scanner(&self) -> Scanner<'_> {
        let scanner = Scanner::new(self.source(), self.header.dump_id, DATA_START, self.data_end());
        if self.commit.is_ok() { scanner } else { scanner.giving_up_after(OPEN_END) }
    }

    /// Whether a chunk lies where chunks lie.
    pub(crate) fn holds(&self, entry: &IndexEntry) -> bool {
        let frame = lifeboat_format::chunk::frame_len(entry.stored_len);
        entry.offset.0 >= DATA_START
            && entry.offset.0.checked_add(frame).is_some_and(|end| end <= self.data_end())
    }

    /// Fingerprints of the recipients, from whichever key area is sound.
    #[must_use]
    pub fn fingerprints(&self) -> Vec<[u8; 8]> {
        self.keys().map(|k| k.fingerprints().collect()).unwrap_or_default()
    }

    /// The newest sound key area.
    fn keys(&self) -> Result<KeyArea<'_>, FormatError> {
        let [newest, older] = self.key_areas();
        newest.or(older)
    }

    /// Both key areas, the one to try first in front.
    fn key_areas(&self) -> [Result<KeyArea<'_>, FormatError>; 2] {
        let lost = Err(FormatError::Short { what: "key area" });
        let [first, second] =
            [&self.first, &self.second].map(|copy| copy.as_ref().map_or(lost, HeaderCopy::keys));
        match (&first, &second) {
            (Ok(a), Ok(b)) if b.generation > a.generation => [second, first],
            (Err(_), Ok(_)) => [second, first],
            _ => [first, second],
        }
    }

    /// The data key, from whichever key area gives it: a replaced or damaged one does
    /// not keep the other from opening.
    fn data_key(&self, ids: &Identities) -> Result<DataKey, DumpError> {
        let [newest, older] = self.key_areas();
        let key_id = (self.header.key_id != [0; 32]).then_some(&self.header.key_id);
        let open = |area: KeyArea<'_>| lifeboat_crypt::open(area.entries(), ids, key_id);
        match (newest, older) {
            (Err(source), _) => {
                // A power cut during `rekey` damages the only area of a dump that was never
                // committed, but not the entries from before.
                let copies = [&self.first, &self.second].into_iter().flatten();
                let salvaged = copies.filter_map(|copy| {
                    let entries = KeyArea::salvage(&copy.key_bytes);
                    lifeboat_crypt::open(entries, ids, key_id).ok()
                });
                salvaged.into_iter().next().ok_or(DumpError::Keys { source })
            }
            (Ok(newest), Ok(older)) if newest != older => {
                open(newest).or_else(|e| open(older).map_err(|_| DumpError::Crypt(e)))
            }
            (Ok(only), _) => Ok(open(only)?),
        }
    }

    /// Unwraps the dump's key. `None` opens only a dump that was taken in the clear.
    ///
    /// # Errors
    /// [`DumpError::Crypt`] (wrong key, no key, or a key for a dump in the clear),
    /// [`DumpError::Keys`].
    pub fn opener(&self, identities: Option<&Identities>) -> Result<Opener, DumpError> {
        let key = match (self.header.cipher, identities) {
            (Cipher::Aes256Gcm, Some(ids)) => Some(self.data_key(ids)?),
            // Whoever has a key expects a sealed dump: one in the clear may be a forger's.
            (Cipher::None, Some(_)) => {
                return Err(DumpError::Crypt(CryptError::CipherMismatch {
                    dump: "that it is not encrypted",
                    given: "a key was given\nhint: leave out -i, and ask why this dump was taken in the clear",
                }));
            }
            (_, None) => None,
        };
        Ok(Opener::new(self.header.cipher, key.as_ref())?)
    }
}

/// The commit record in the last block, or in words why there is none.
fn find_commit(
    src: &dyn ReadAt,
    header: Option<&DumpHeader>,
) -> Result<Result<CommitRecord, String>, DumpError> {
    let len = src.len();
    let why = if len.is_multiple_of(BLOCK64) && len >= DATA_START + BLOCK64 {
        let mut block = [0u8; BLOCK];
        let there = src.read_exact_at(len - BLOCK64, &mut block).map_err(|e| e.to_string());
        match there.and_then(|()| CommitRecord::decode(&block).map_err(|e| e.to_string())) {
            Ok(c) if header.is_some_and(|h| h.dump_id != c.dump_id) => {
                "the one there belongs to another dump".to_owned()
            }
            Ok(c) if c.total_len != len => {
                return Err(DumpError::Length { committed: c.total_len, found: len });
            }
            Ok(c) if !is_placed(&c) => "the one there contradicts itself".to_owned(),
            Ok(c) => return Ok(Ok(c)),
            Err(why) => why,
        }
    } else {
        format!("{len} is not a multiple of 4096")
    };
    match header {
        Some(h) => search_commit(src, h)
            .map_or(Ok(Err(why)), |committed| Err(DumpError::Length { committed, found: len })),
        None => Ok(Err(why)),
    }
}

/// Whether the record's places are where a capturer puts them.
fn is_placed(c: &CommitRecord) -> bool {
    let copy = c.header_copy.0;
    copy >= DATA_START
        && copy.is_multiple_of(BLOCK64)
        && copy.checked_add(DATA_START + BLOCK64) == Some(c.total_len)
        && (c.index.0 == 0 || (DATA_START..copy).contains(&c.index.0))
}

/// Length by a commit record of this dump near the end of a file that something
/// was appended to.
fn search_commit(src: &dyn ReadAt, header: &DumpHeader) -> Option<u64> {
    let mut at = (src.len() / BLOCK64).checked_sub(1)? * BLOCK64;
    let stop = at.saturating_sub(SEARCH).max(DATA_START);
    while at > stop {
        let mut block = [0u8; BLOCK];
        src.read_exact_at(at, &mut block).ok()?;
        if let Ok(c) = CommitRecord::decode(&block)
            && c.dump_id == header.dump_id
            && c.total_len == at + BLOCK64
        {
            return Some(c.total_len);
        }
        at -= BLOCK64;
    }
    None
}

/// Where a second header lies, when both the first one and the commit record are lost.
fn find_header(src: &dyn ReadAt) -> Result<Option<u64>, DumpError> {
    const STEP: usize = 1 << 20;
    let mut buf = vec![0u8; STEP];
    let mut at = DATA_START;
    while at + DATA_START <= src.len() {
        let take = usize::try_from(src.len() - at).unwrap_or(STEP).min(STEP);
        let take = take - take % BLOCK;
        let Some(window) = buf.get_mut(..take) else { break };
        if take == 0 {
            break;
        }
        if read(src, at, window).is_ok() {
            let (blocks, _) = window.as_chunks::<BLOCK>();
            let hit = blocks.iter().position(|b| DumpHeader::decode(b).is_ok());
            if let Some(index) = hit {
                return Ok(Some(at + index as u64 * BLOCK64));
            }
        }
        at += take as u64;
    }
    Ok(None)
}
