//! The compressors that zswap and zram keep pages in, by the names that the kernel has for
//! them.

use std::cell::RefCell;

use lifeboat_format::PAGE;

use super::lzo;

/// How a compressed page was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Codec {
    /// LZO1X, with or without runs of zeros: one reader reads both.
    Lzo,
    /// A block of LZ4 without a frame.
    Lz4,
    /// A frame of zstd.
    Zstd,
}

/// Why a page cannot be decompressed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// LZO says so.
    #[error("lzo: {0}")]
    Lzo(#[from] lzo::LzoError),
    /// LZ4 says so.
    #[error("lz4: {0}")]
    Lz4(String),
    /// zstd says so.
    #[error("zstd: {0}")]
    Zstd(String),
    /// It holds less than a page.
    #[error("{0} bytes instead of a page of {PAGE}")]
    Short(usize),
}

impl Codec {
    /// The codec behind a name of the kernel's crypto interface or of zram, `None` where it is
    /// one that is not read here (`deflate`, `842`, `lz4` and `zstd` with a dictionary have
    /// no other name, so a caller asks for dictionaries itself).
    ///
    /// `struct crypto_alg` has a name for the algorithm and one for each driver
    /// (`lzo-generic`, `lzo-scomp` of `crypto/lzo.c`); a user may have asked for either.
    /// lz4hc differs from lz4 in how it compresses only.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        let plain = name.strip_suffix("-generic").or_else(|| name.strip_suffix("-scomp"));
        match plain.unwrap_or(name) {
            "lzo" | "lzo-rle" => Some(Self::Lzo),
            "lz4" | "lz4hc" => Some(Self::Lz4),
            "zstd" => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Decompresses one page.
    ///
    /// # Errors
    /// [`CodecError`], also where less than a page comes out; `out` is then of no meaning.
    pub fn decompress(self, input: &[u8], out: &mut [u8; PAGE]) -> Result<(), CodecError> {
        let len = match self {
            Self::Lzo => lzo::decompress(input, out)?,
            Self::Lz4 => lz4_flex::block::decompress_into(input, out)
                .map_err(|e| CodecError::Lz4(e.to_string()))?,
            Self::Zstd => zstd_page(input, out).map_err(|e| CodecError::Zstd(e.to_string()))?,
        };
        if len == PAGE { Ok(()) } else { Err(CodecError::Short(len)) }
    }
}

/// A context of zstd is some 100 KiB that would be set up anew for each page: each thread
/// keeps its own.
fn zstd_page(input: &[u8], out: &mut [u8; PAGE]) -> std::io::Result<usize> {
    thread_local! {
        static CONTEXT: RefCell<Option<zstd::bulk::Decompressor<'static>>> =
            const { RefCell::new(None) };
    }
    CONTEXT.with_borrow_mut(|context| {
        let context = match context {
            Some(context) => context,
            None => context.insert(zstd::bulk::Decompressor::new()?),
        };
        context.decompress_to_buffer(input, out.as_mut_slice())
    })
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
