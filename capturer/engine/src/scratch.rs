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
    max_raw: usize,
    out: Vec<u8>,
}

impl Scratch {
    /// For payloads of up to `max_raw` bytes; texts are packed by `text`.
    #[must_use]
    pub fn new(pack: Box<dyn Compress + Send>, text: Method, max_raw: usize) -> Self {
        let max_raw = max_raw.max(4096);
        Self { pack, text, max_raw, out: vec![0; room(max_raw)] }
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

    /// Packs `raw` into the buffer. Gives the length there; `None` where it is no gain.
    fn smaller(&mut self, method: Method, raw: &[u8]) -> Option<usize> {
        self.pack.compress(method, raw, &mut self.out).filter(|len| *len < raw.len())
    }

    /// Packs a text; stores it as it is when that would not be larger.
    ///
    /// # Errors
    /// [`EngineError::Compress`] for a payload longer than promised.
    pub(crate) fn pack_text(&mut self, raw: &[u8]) -> Result<(Codec, &mut [u8]), EngineError> {
        let too_long = || EngineError::Compress(io::ErrorKind::InvalidInput.into());
        if raw.len() > self.max_raw {
            return Err(too_long());
        }
        let packed = self.smaller(self.text, raw);
        let space = self.out.get_mut(..packed.unwrap_or(raw.len())).ok_or_else(too_long)?;
        if packed.is_some() {
            return Ok((self.text.codec(), space));
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
        let len = self.smaller(method, raw);
        match len.and_then(|len| self.out.get_mut(..len)) {
            Some(packed) => (method.codec(), packed),
            None => (Codec::Store, raw),
        }
    }

    /// Packs a sample by several methods, for what they cost and save.
    fn sample(&mut self, raw: &[u8], tuner: &Tuner, nanos: &dyn Fn() -> u64) {
        let methods = tuner.sample();
        let skip = methods.start;
        for (index, method) in tuner.ladder().iter().enumerate().take(methods.end).skip(skip) {
            let start = nanos();
            let len = self.smaller(*method, raw).unwrap_or(raw.len());
            tuner.learn(index, raw.len(), len, nanos().saturating_sub(start));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes all the room that it is given.
    struct Grows;

    impl Compress for Grows {
        fn compress(&mut self, _: Method, _: &[u8], out: &mut [u8]) -> Option<usize> {
            out.fill(7);
            Some(out.len())
        }
    }

    /// The buffer has more room than payloads may need: that is not for longer ones.
    #[test]
    fn a_text_longer_than_promised_is_refused_and_one_that_grows_is_stored() {
        let mut scratch = Scratch::new(Box::new(Grows), Method::Lz4, 5000);
        let text = vec![b'x'; 5001];
        assert!(matches!(scratch.pack_text(&text), Err(EngineError::Compress(_))));
        let (codec, kept) = scratch.pack_text(&text[..5000]).unwrap();
        assert!(codec == Codec::Store && kept == &text[..5000]);
    }
}
