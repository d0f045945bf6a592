//! One compressor and its buffer.

use std::io;

use lifeboat_format::Codec;

use crate::{Compress, EngineError, Method, Tuner};

/// Bytes that a payload may grow to: no less than `LZ4_COMPRESSBOUND` (lz4.h, 1.10.0) and
/// `ZSTD_COMPRESSBOUND` (zstd.h, 1.5.7). Given so much, LZ4 looks at no limit with every
/// sequence (`notLimited`), which is faster.
const fn room(raw: usize) -> usize {
    raw + raw / 128 + 1024
}

/// A compressor and the buffer for what comes out of it.
pub struct Scratch {
    pack: Box<dyn Compress + Send>,
    /// For texts.
    text: Method,
    out: Vec<u8>,
}

impl Scratch {
    /// For payloads of up to `max_raw` bytes; texts are packed by `text`.
    #[must_use]
    pub fn new(pack: Box<dyn Compress + Send>, text: Method, max_raw: usize) -> Self {
        Self { pack, text, out: vec![0; room(max_raw.max(4096))] }
    }

    /// Bytes of working memory, without the compressor's own.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.out.capacity()
    }

    /// What texts are packed by.
    #[must_use]
    pub fn method(&self) -> Method {
        self.text
    }

    /// Packs a text; stores it as it is when that would not be larger.
    ///
    /// # Errors
    /// [`EngineError::Compress`] for a payload longer than promised.
    pub(crate) fn pack_text(&mut self, raw: &[u8]) -> Result<(Codec, &mut [u8]), EngineError> {
        let too_long = || EngineError::Compress(io::ErrorKind::InvalidInput.into());
        let space = self.out.get_mut(..raw.len()).ok_or_else(too_long)?;
        // Not smaller is no gain: leave one byte less than there are.
        let limit = raw.len().saturating_sub(1);
        let packed = space.get_mut(..limit).and_then(|out| self.pack.compress(self.text, raw, out));
        if let Some(len) = packed {
            return Ok((self.text.codec(), space.get_mut(..len).ok_or_else(too_long)?));
        }
        space.copy_from_slice(raw);
        Ok((Codec::Store, space))
    }

    /// Packs `raw` by the method that `tuner` chooses; where that gains nothing, gives
    /// `raw` itself.
    pub(crate) fn pack<'b>(
        &'b mut self,
        raw: &'b mut [u8],
        tuner: &Tuner,
        nanos: &dyn Fn() -> u64,
    ) -> (Codec, &'b mut [u8]) {
        self.sample(raw, tuner, nanos);
        let index = tuner.choose();
        let method = tuner.ladder().get(index).copied().unwrap_or(Method::Store);
        tuner.count(index, raw.len());
        let out = &mut self.out[..];
        let len = self.pack.compress(method, raw, out).filter(|len| *len < raw.len());
        match len.and_then(|len| out.get_mut(..len)) {
            Some(packed) => (method.codec(), packed),
            None => (Codec::Store, raw),
        }
    }

    /// Packs a sample by several methods, for what they cost and save.
    fn sample(&mut self, raw: &[u8], tuner: &Tuner, nanos: &dyn Fn() -> u64) {
        let out = &mut self.out[..];
        let methods = tuner.sample();
        let skip = methods.start;
        for (index, method) in tuner.ladder().iter().enumerate().take(methods.end).skip(skip) {
            let start = nanos();
            let len = self.pack.compress(*method, raw, out).unwrap_or(raw.len());
            tuner.learn(index, raw.len(), len.min(raw.len()), nanos().saturating_sub(start));
        }
    }
}
