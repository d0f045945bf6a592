//! [`Frames`] for several workers: places in order, sealing side by side.
//!
//! A worker reserves a place under the lock, seals outside of it, and appends when all
//! chunks before have been appended: so the dump is in order, and the time under the
//! lock is that of a copy. It waits for nobody but those who seal at that moment. When
//! one fails between the two steps, all others end: the place that it reserved would
//! be a hole.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use crate::frames::{self, Piece};
use crate::{EngineError, FrameSink, Frames, Seal, Tuner};

/// [`Frames`] that workers share.
pub struct Shared<S, C> {
    state: Mutex<State<S, C>>,
    seal: Arc<C>,
    /// A chunk was appended, or someone failed.
    turned: Condvar,
}

struct State<S, C> {
    frames: Frames<S, C>,
    broken: bool,
}

type Guard<'a, S, C> = MutexGuard<'a, State<S, C>>;

impl<S: FrameSink, C: Seal> Shared<S, C> {
    /// Shares `frames`.
    #[must_use]
    pub fn new(frames: Frames<S, C>) -> Self {
        let seal = frames.sealer();
        let state = State { frames, broken: false };
        Self { state: Mutex::new(state), seal, turned: Condvar::new() }
    }

    /// Takes them back.
    ///
    /// # Errors
    /// [`EngineError::Poisoned`] when a worker panicked.
    pub fn into_inner(self) -> Result<Frames<S, C>, EngineError> {
        self.state.into_inner().map(|state| state.frames).map_err(|_| EngineError::Poisoned)
    }

    /// Does something with the frames, once all chunks are in their place.
    ///
    /// # Errors
    /// [`EngineError::Poisoned`] when a worker failed.
    pub fn with<T>(&self, work: impl FnOnce(&mut Frames<S, C>) -> T) -> Result<T, EngineError> {
        let mut state = self.lock()?;
        while !state.frames.is_settled() {
            state = self.wait(state)?;
        }
        Ok(work(&mut state.frames))
    }

    fn lock(&self) -> Result<Guard<'_, S, C>, EngineError> {
        let state = self.state.lock().map_err(|_| EngineError::Poisoned)?;
        if state.broken { Err(EngineError::Poisoned) } else { Ok(state) }
    }

    fn wait<'a>(&'a self, state: Guard<'a, S, C>) -> Result<Guard<'a, S, C>, EngineError> {
        let state = self.turned.wait(state).map_err(|_| EngineError::Poisoned)?;
        if state.broken { Err(EngineError::Poisoned) } else { Ok(state) }
    }

    /// Seals and writes one payload. `payload` is the compressed bytes.
    ///
    /// # Errors
    /// [`EngineError::Full`], [`EngineError::Sink`], [`EngineError::Seal`];
    /// [`EngineError::Poisoned`] when another worker failed.
    pub(crate) fn put(
        &self,
        piece: &Piece,
        payload: &mut [u8],
        (tuner, nanos): (&Tuner, &dyn Fn() -> u64),
    ) -> Result<(), EngineError> {
        let mut state = self.lock()?;
        let mut header = loop {
            if let Some(header) = state.frames.reserve(piece, payload.len())? {
                break header;
            }
            if !state.frames.is_settled() {
                state = self.wait(state)?;
            } else if let Err(e) = state.frames.settle(payload.len()) {
                // Full is nobody else's failure: a smaller chunk may still fit.
                state.broken |= !matches!(e, EngineError::Full);
                self.turned.notify_all();
                return Err(e);
            }
        };
        drop(state);
        let fuse = Fuse(self);
        let start = nanos();
        let tag = frames::seal(&*self.seal, &mut header, payload)?;
        tuner.sealed(payload.len(), nanos().saturating_sub(start));
        let mut state = self.lock()?;
        while state.frames.turn() != header.seq {
            state = self.wait(state)?;
        }
        state.frames.append(&header, piece, payload, tag.as_ref().map_or(&[], |t| &t[..]))?;
        let (busy, all) = state.frames.sink().busy();
        tuner.room(state.frames.sink().remaining());
        drop(state);
        self.turned.notify_all();
        std::mem::forget(fuse);
        tuner.pressure(busy, all);
        Ok(())
    }
}

/// Ends all others when a worker leaves between its two steps.
struct Fuse<'a, S: FrameSink, C: Seal>(&'a Shared<S, C>);

impl<S: FrameSink, C: Seal> Drop for Fuse<'_, S, C> {
    fn drop(&mut self) {
        if let Ok(mut state) = self.0.state.lock() {
            state.broken = true;
        }
        self.0.turned.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use lifeboat_format::commit::PageCounts;
    use lifeboat_format::header::KEY_AREA_LEN;
    use lifeboat_format::{
        ByteOff, ChunkKind, Cipher, Codec, CommitRecord, DumpHeader, FORMAT_VERSION, Layer, Pfn,
        text_field,
    };

    use super::*;
    use crate::{SealFault, TAIL_RESERVE};

    /// So many bytes, and no more.
    struct Room(u64, u64);

    impl FrameSink for Room {
        fn position(&self) -> ByteOff {
            ByteOff(self.0)
        }
        fn remaining(&self) -> u64 {
            self.1 - self.0
        }
        fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.0 += bytes.len() as u64;
            Ok(())
        }
        fn pad_to(&mut self, to: usize) -> io::Result<()> {
            self.0 = self.0.next_multiple_of(to as u64);
            Ok(())
        }
        fn checkpoint(&mut self) -> io::Result<()> {
            Ok(())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Clear;

    impl Seal for Clear {
        fn cipher(&self) -> Cipher {
            Cipher::None
        }
        fn seal(&self, _: u64, _: &[u8], _: &mut [u8]) -> Result<Option<[u8; 16]>, SealFault> {
            Ok(None)
        }
        fn commit_tag(&self, _: &CommitRecord) -> Result<[u8; 16], SealFault> {
            Ok([0; 16])
        }
    }

    /// What one worker was promised no other gets, written or not: a place behind the end
    /// would cost the whole dump.
    #[test]
    fn a_reserved_place_takes_room_before_it_is_written() {
        let header = DumpHeader {
            version: FORMAT_VERSION,
            dump_id: [1; 16],
            volume_id: [2; 16],
            number: 1,
            created: 0,
            cipher: Cipher::None,
            chunk_pages: 64,
            release: text_field(""),
            reason: text_field(""),
            image: text_field(""),
            key_id: [0; 32],
        };
        // Room for two frames of 1024 bytes and not for a third.
        let sink = Room(0, TAIL_RESERVE + 3000);
        let mut frames = Frames::new(sink, Clear, &header, &[0; KEY_AREA_LEN]);
        let piece = Piece {
            kind: ChunkKind::Memory,
            codec: Codec::Store,
            device: 0,
            layer: Layer::Address,
            first: Pfn(0),
            raw_len: 900,
            counts: PageCounts::default(),
            pages: 1,
        };
        let first = frames.reserve(&piece, 900).unwrap().unwrap();
        let second = frames.reserve(&piece, 900).unwrap().unwrap();
        assert_eq!((first.offset.0, second.offset.0, first.frame_len()), (0, 1024, 1024));
        assert!(frames.reserve(&piece, 900).unwrap().is_none());
        for header in [first, second] {
            assert!(!frames.is_settled());
            frames.append(&header, &piece, &[0; 900], &[]).unwrap();
        }
        assert!(frames.is_settled());
        assert!(matches!(frames.settle(900), Err(EngineError::Full)));
    }
}
