//! SHA-256 on a thread of its own: it takes longer than everything else that a walk does
//! with the bytes, and cannot be divided.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use sha2::{Digest, Sha256};

/// Buffers that may wait: the walk goes on meanwhile.
const WAITING: usize = 3;

/// A hash that is being computed.
pub(super) struct Hasher {
    bytes: SyncSender<Vec<u8>>,
    /// Buffers to use again.
    spare: Receiver<Vec<u8>>,
    thread: JoinHandle<[u8; 32]>,
}

impl Hasher {
    /// Nothing, if the system gives no thread.
    pub(super) fn new() -> Option<Self> {
        let (bytes, inbox) = sync_channel::<Vec<u8>>(WAITING);
        let (back, spare) = sync_channel(WAITING + 1);
        let work = move || {
            let mut hash = Sha256::new();
            for buf in inbox {
                hash.update(&buf);
                // The walk may be over.
                let _ = back.try_send(buf);
            }
            hash.finalize().into()
        };
        let thread = std::thread::Builder::new().spawn(work).ok()?;
        Some(Self { bytes, spare, thread })
    }

    /// Takes the next bytes.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        let mut buf = self.spare.try_recv().unwrap_or_default();
        buf.clear();
        buf.extend_from_slice(bytes);
        // Fails only if the thread panicked: finish() then gives nothing.
        let _ = self.bytes.send(buf);
    }

    /// The hash of all bytes.
    pub(super) fn finish(self) -> Option<[u8; 32]> {
        drop(self.bytes);
        self.thread.join().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_hash_of_all_bytes_in_order() {
        let bytes: Vec<u8> = (0u32..300_000).map(|n| n.to_le_bytes()[1]).collect();
        let mut hasher = Hasher::new().unwrap();
        bytes.chunks(7001).for_each(|part| hasher.update(part));
        let want: [u8; 32] = Sha256::digest(&bytes).into();
        assert_eq!(hasher.finish(), Some(want));
    }
}
