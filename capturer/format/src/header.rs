//! The dump header: the first 16 KiB of a dump, repeated behind its last chunk.
//!
//! Block 0 never changes once written and its SHA-256 is sealed into the first
//! meta chunk. The three blocks behind it are the key area: the wrapped data
//! key, which `lifeboat rekey` may replace without touching anything else.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    BLOCK, BLOCK_U32, FORMAT_VERSION, FormatError, Id, PAGE, check_block, crc32, field_text,
    seal_block,
};

/// First bytes of a dump.
pub const MAGIC: [u8; 8] = *b"LBDUMP\0\x01";
/// First bytes of a key area.
pub const KEY_MAGIC: [u8; 8] = *b"LBKEYS\0\x01";
/// Bytes of header and key area together.
pub const HEADER_LEN: usize = 4 * BLOCK;
const HEADER_LEN_U32: u32 = 4 * BLOCK_U32;
const PAGE_U32: u32 = 1 << crate::units::PAGE_SHIFT;
/// Bytes of the key area.
pub const KEY_AREA_LEN: usize = HEADER_LEN - BLOCK;
/// Recipients that a key area can name.
pub const MAX_RECIPIENTS: usize = 32;
/// Largest wrapped key, in bytes.
pub const MAX_WRAPPED: usize = KEY_AREA_LEN - KEY_FIXED - 4;
const KEY_FIXED: usize = 32 + MAX_RECIPIENTS * 8;

const WHAT: &str = "dump header";
const KEY_WHAT: &str = "key area";

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
}

/// What is known of a dump without any key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DumpHeader {
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
            version: FORMAT_VERSION.into(),
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
        };
        let mut block = [0u8; BLOCK];
        let _ = raw.write_to_prefix(&mut block);
        seal_block(&mut block);
        block
    }

    /// Reads and checks block 0 of a header.
    ///
    /// # Errors
    /// [`FormatError`], naming what is wrong.
    pub fn decode(block: &[u8; BLOCK]) -> Result<Self, FormatError> {
        check_block(block, MAGIC, WHAT)?;
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
        Ok(Self {
            dump_id: raw.dump_id,
            volume_id: raw.volume_id,
            number: raw.number.get(),
            created: raw.created.get(),
            cipher: Cipher::from_u8(raw.cipher, WHAT)?,
            chunk_pages: raw.chunk_pages.get(),
            release: raw.release,
            reason: raw.reason,
            image: raw.image,
        })
    }
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawKeys {
    magic: [u8; 8],
    generation: U64,
    count: U32,
    wrapped_len: U32,
    reserved: U64,
    fingerprints: [[u8; 8]; MAX_RECIPIENTS],
}

/// The key area, borrowed from its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyArea<'a> {
    /// Counts rewrites; 0 as captured.
    pub generation: u64,
    /// First 8 bytes of the SHA-256 of each recipient's text form.
    fingerprints: [[u8; 8]; MAX_RECIPIENTS],
    count: usize,
    /// The wrapped key: an age file (age-encryption.org/v1, binary). Empty when not encrypted.
    pub wrapped: &'a [u8],
}

impl<'a> KeyArea<'a> {
    /// Fingerprints of the recipients, in the order in which they were given.
    #[must_use]
    pub fn fingerprints(&self) -> &[[u8; 8]] {
        self.fingerprints.get(..self.count).unwrap_or_default()
    }

    /// Writes a key area.
    ///
    /// # Errors
    /// [`FormatError::NoSpace`] with too many recipients or too long a wrapped key.
    pub fn encode(
        out: &mut [u8; KEY_AREA_LEN],
        generation: u64,
        fingerprints: &[[u8; 8]],
        wrapped: &[u8],
    ) -> Result<(), FormatError> {
        let full = FormatError::NoSpace { what: KEY_WHAT };
        if fingerprints.len() > MAX_RECIPIENTS || wrapped.len() > MAX_WRAPPED {
            return Err(full);
        }
        let mut table = [[0u8; 8]; MAX_RECIPIENTS];
        for (to, from) in table.iter_mut().zip(fingerprints) {
            *to = *from;
        }
        let count = u32::try_from(fingerprints.len()).map_err(|_| full)?;
        let wrapped_len = u32::try_from(wrapped.len()).map_err(|_| full)?;
        let raw = RawKeys {
            magic: KEY_MAGIC,
            generation: generation.into(),
            count: count.into(),
            wrapped_len: wrapped_len.into(),
            reserved: 0.into(),
            fingerprints: table,
        };
        out.fill(0);
        raw.write_to_prefix(out).map_err(|_| full)?;
        out.get_mut(KEY_FIXED..KEY_FIXED + wrapped.len()).ok_or(full)?.copy_from_slice(wrapped);
        if let Some((body, tail)) = out.split_last_chunk_mut::<4>() {
            *tail = crc32(body).to_le_bytes();
        }
        Ok(())
    }

    /// Reads and checks a key area.
    ///
    /// # Errors
    /// [`FormatError`], naming what is wrong.
    pub fn decode(bytes: &'a [u8; KEY_AREA_LEN]) -> Result<Self, FormatError> {
        let (raw, _) =
            RawKeys::read_from_prefix(bytes).map_err(|_| FormatError::Short { what: KEY_WHAT })?;
        if raw.magic != KEY_MAGIC {
            return Err(FormatError::Magic { what: KEY_WHAT });
        }
        let (body, tail) =
            bytes.split_last_chunk::<4>().ok_or(FormatError::Short { what: KEY_WHAT })?;
        if crc32(body) != u32::from_le_bytes(*tail) {
            return Err(FormatError::Checksum { what: KEY_WHAT });
        }
        let bad =
            |field, value: u32| FormatError::Field { what: KEY_WHAT, field, value: value.into() };
        let count = raw.count.get() as usize;
        if count > MAX_RECIPIENTS {
            return Err(bad("count", raw.count.get()));
        }
        let len = raw.wrapped_len.get() as usize;
        if len > MAX_WRAPPED {
            return Err(bad("wrapped_len", raw.wrapped_len.get()));
        }
        let wrapped = bytes
            .get(KEY_FIXED..KEY_FIXED + len)
            .ok_or_else(|| bad("wrapped_len", raw.wrapped_len.get()))?;
        Ok(Self {
            generation: raw.generation.get(),
            fingerprints: raw.fingerprints,
            count,
            wrapped,
        })
    }
}

const _: () = assert!(size_of::<RawKeys>() == KEY_FIXED);
const _: () = assert!(size_of::<Raw>() <= BLOCK - 4);
