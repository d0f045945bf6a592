//! One compressor and its buffer.

use std::io;

use lifeboat_format::Codec;

use crate::EngineError;

/// A compressor and the buffer for what comes out of it.
pub struct Scratch {
    zstd: Option<zstd::bulk::Compressor<'static>>,
    out: Vec<u8>,
}

impl Scratch {
    /// For payloads of up to `max_raw` bytes, at a zstd level or (`None`) as they are.
    ///
    /// # Errors
    /// [`EngineError::Compress`] when zstd refuses the level or has no memory.
    pub fn new(level: Option<i32>, max_raw: usize) -> Result<Self, EngineError> {
        let zstd =
            level.map(zstd::bulk::Compressor::new).transpose().map_err(EngineError::Compress)?;
        // Room for what does not get smaller, too: zstd's error for that would be allocated.
        let room = zstd::zstd_safe::compress_bound(max_raw.max(4096));
        let mut scratch = Self { zstd, out: vec![0; room] };
        // zstd makes its tables at the first use of a size: have that behind us.
        let warm = vec![0u8; max_raw.max(4096)];
        scratch.pack(&warm)?;
        Ok(scratch)
    }

    /// Compresses `raw`; stores it as it is when that would not be larger.
    ///
    /// # Errors
    /// [`EngineError::Compress`] for a payload longer than promised.
    pub(crate) fn pack(&mut self, raw: &[u8]) -> Result<(Codec, &mut [u8]), EngineError> {
        let too_long = || EngineError::Compress(io::ErrorKind::InvalidInput.into());
        if let Some(zstd) = &mut self.zstd {
            let limit = zstd::zstd_safe::compress_bound(raw.len());
            let space = self.out.get_mut(..limit).ok_or_else(too_long)?;
            if let Ok(len) = zstd.compress_to_buffer(raw, space)
                && len < raw.len()
            {
                return Ok((Codec::Zstd, self.out.get_mut(..len).ok_or_else(too_long)?));
            }
        }
        let space = self.out.get_mut(..raw.len()).ok_or_else(too_long)?;
        space.copy_from_slice(raw);
        Ok((Codec::Store, space))
    }
}
