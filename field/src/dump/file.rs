//! The two ends of a dump: header, key area, commit record.

use std::sync::Arc;

use lifeboat_crypt::{CryptError, DataKey, Identities, Opener};
use lifeboat_format::commit;
use lifeboat_format::header::{HEADER_LEN, KEY_AREA_LEN};
use lifeboat_format::{
    BLOCK, Cipher, CommitRecord, DumpHeader, FormatError, Id, IndexEntry, KeyArea, Outcome,
};

use super::ends::{self, find_commit, find_header};
use super::{DumpError, Prefix, ReadAt, Scanner};

const BLOCK64: u64 = BLOCK as u64;
/// First byte of the first chunk.
pub(crate) const DATA_START: u64 = HEADER_LEN as u64;
/// Bytes without a chunk that end a dump without commit record: far more than a
/// capturer has in flight when the power goes.
pub(super) const OPEN_END: u64 = 256 << 20;

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

    /// The copy; its header counts as damaged if it is not that of dump `want`.
    fn of(mut self, want: Option<Id>) -> Self {
        if let (Some(id), Ok(h)) = (want, &self.header)
            && h.dump_id != id
        {
            let what = "dump header (of another dump)";
            self.header = Err(FormatError::Field { what, field: "dump_id", value: 0 });
        }
        self
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
        Self::open_with(src, None)
    }

    /// Opens the dump that a slot tells of. Where the power went before its own header or
    /// commit record was on the medium, those of an older dump may still lie there.
    ///
    /// # Errors
    /// As [`DumpFile::open`]; what belongs to another dump counts as not there.
    pub fn open_as(src: Arc<dyn ReadAt>, id: &Id) -> Result<Self, DumpError> {
        match Self::open_with(Arc::clone(&src), Some(*id)) {
            Ok(file) if file.commit.is_ok() => Ok(file),
            other => match ends::committed_len(&*src, id) {
                // Everything is there, but for the slot that was to say so.
                Some(len) => Self::open_with(Arc::new(Prefix::new(src, len)), Some(*id)),
                None => match other {
                    // Its last chunks are lost, but not its commit record.
                    Err(DumpError::Length { committed, found }) if committed < found => {
                        Self::open_with(Arc::new(Prefix::new(src, committed)), Some(*id))
                    }
                    // What a search took for the end of a file is not the end of this extent.
                    Err(DumpError::Length { .. }) => Err(DumpError::NotADump {
                        first: FormatError::Short { what: "dump (its chunks are lost)" },
                    }),
                    other => other,
                },
            },
        }
    }

    fn open_with(src: Arc<dyn ReadAt>, want: Option<Id>) -> Result<Self, DumpError> {
        let len = src.len();
        if len < DATA_START {
            return Err(DumpError::TooShort { len });
        }
        let read = |at| HeaderCopy::read(&*src, at).map(|copy| copy.of(want));
        let first = match read(0) {
            Ok(copy) => Some(copy),
            // A bad sector in the header is what the second copy is for.
            Err(DumpError::Io { .. }) => None,
            Err(other) => return Err(other),
        };
        let sound = first.as_ref().and_then(|c| c.header.ok());
        let commit = find_commit(&*src, want.or(sound.map(|h| h.dump_id)))?;
        let second_at = match &commit {
            Ok(c) => Some(c.header_copy.0),
            Err(_) if sound.is_none() => find_header(&*src, want)?,
            Err(_) => None,
        };
        let second = second_at.and_then(|at| read(at).ok());
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
