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
