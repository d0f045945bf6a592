//! The dump header: the first 16 KiB of a dump, repeated behind its last chunk.
//!
//! Block 0 never changes once written and its SHA-256 is sealed into the first
//! meta chunk. The three blocks behind it are the key area, see [`crate::keys`].

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{BLOCK, BLOCK_U32, FormatError, Id, PAGE, check_block, field_text, sealed_block};

/// First bytes of a dump.
pub const MAGIC: [u8; 8] = *b"LBDUMP\0\x01";
/// Bytes of header and key area together.
pub const HEADER_LEN: usize = 4 * BLOCK;
const HEADER_LEN_U32: u32 = 4 * BLOCK_U32;
const PAGE_U32: u32 = 1 << crate::units::PAGE_SHIFT;
/// Bytes of the key area.
pub const KEY_AREA_LEN: usize = HEADER_LEN - BLOCK;

const WHAT: &str = "dump header";

/// How chunks are sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Cipher {
    /// Not encrypted: only by an explicit `encrypt = "none"`.
    None = 0,
    /// AES-256-GCM, 96-bit nonce, 128-bit tag behind the ciphertext.
    Aes256Gcm = 1,
}

impl Cipher {
    /// Bytes that sealing adds to a payload.
    #[must_use]
    pub fn tag_len(self) -> usize {
        match self {
            Self::None => 0,
            Self::Aes256Gcm => 16,
        }
    }

    pub(crate) fn from_u8(v: u8, what: &'static str) -> Result<Self, FormatError> {
        match v {
            0 => Ok(Self::None),
            1 => Ok(Self::Aes256Gcm),
            other => Err(FormatError::Field { what, field: "cipher", value: other.into() }),
        }
    }
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Raw {
    magic: [u8; 8],
    version: U32,
    header_len: U32,
    dump_id: Id,
    volume_id: Id,
    number: U64,
    created: U64,
    cipher: u8,
    reserved: [u8; 3],
    page_size: U32,
    chunk_pages: U32,
    reserved2: U32,
    release: [u8; 72],
    reason: [u8; 160],
    image: [u8; 64],
    key_id: [u8; 32],
}

/// What is known of a dump without any key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DumpHeader {
    /// Version of the format that the dump was written in.
    pub version: u32,
    /// Random identity of the dump; repeated in every chunk.
    pub dump_id: Id,
    /// The volume that it was written to.
    pub volume_id: Id,
    /// Number of the dump on that volume.
    pub number: u64,
    /// When the capture began, seconds since 1970 by the crash kernel's clock.
    pub created: u64,
    /// How chunks are sealed.
    pub cipher: Cipher,
    /// Data pages in a full chunk.
    pub chunk_pages: u32,
    /// `OSRELEASE` of the dead kernel's VMCOREINFO, NUL-padded.
    pub release: [u8; 72],
    /// The first line of the panic, NUL-padded; empty when the log could not be read.
    pub reason: [u8; 160],
    /// Version of the crash image that wrote it, NUL-padded.
    pub image: [u8; 64],
    /// SHA-256 of `lifeboat key id v2` and the data key: tells a replaced key area
    /// from a damaged chunk. Zero in the clear and in version 1.
    pub key_id: [u8; 32],
}

impl DumpHeader {
    /// Release of the dead kernel.
    #[must_use]
    pub fn release_text(&self) -> &str {
        field_text(&self.release)
    }

    /// The reason of the panic.
    #[must_use]
    pub fn reason_text(&self) -> &str {
        field_text(&self.reason)
    }

    /// Block 0 of the header, to write and to digest.
    #[must_use]
    pub fn encode(&self) -> [u8; BLOCK] {
        let raw = Raw {
            magic: MAGIC,
            version: self.version.into(),
            header_len: HEADER_LEN_U32.into(),
            dump_id: self.dump_id,
            volume_id: self.volume_id,
            number: self.number.into(),
            created: self.created.into(),
            cipher: self.cipher as u8,
            reserved: [0; 3],
            page_size: PAGE_U32.into(),
            chunk_pages: self.chunk_pages.into(),
            reserved2: 0.into(),
            release: self.release,
            reason: self.reason,
            image: self.image,
            key_id: self.key_id,
        };
        sealed_block(&raw)
    }

    /// Reads and checks block 0 of a header.
    ///
    /// # Errors
    /// [`FormatError`], naming what is wrong.
    pub fn decode(block: &[u8; BLOCK]) -> Result<Self, FormatError> {
        let version = check_block(block, MAGIC, size_of::<Raw>(), WHAT)?;
        let (raw, _) =
            Raw::read_from_prefix(block).map_err(|_| FormatError::Short { what: WHAT })?;
        let bad = |field, value| Err(FormatError::Field { what: WHAT, field, value });
        if raw.header_len.get() as usize != HEADER_LEN {
            return bad("header_len", raw.header_len.get().into());
        }
        if raw.page_size.get() as usize != PAGE {
            return bad("page_size", raw.page_size.get().into());
        }
        if raw.chunk_pages.get() == 0 || raw.chunk_pages.get() > crate::chunk::MAX_CHUNK_PAGES {
            return bad("chunk_pages", raw.chunk_pages.get().into());
        }
        let unused = raw.reserved == [0; 3] && raw.reserved2.get() == 0;
        if !unused || (version == 1 && raw.key_id != [0; 32]) {
            return bad("reserved", 1);
        }
        Ok(Self {
            version,
            dump_id: raw.dump_id,
            volume_id: raw.volume_id,
            number: raw.number.get(),
            created: raw.created.get(),
            cipher: Cipher::from_u8(raw.cipher, WHAT)?,
            chunk_pages: raw.chunk_pages.get(),
            release: raw.release,
            reason: raw.reason,
            image: raw.image,
            key_id: raw.key_id,
        })
    }
}

const _: () = assert!(size_of::<Raw>() <= BLOCK - 4);
