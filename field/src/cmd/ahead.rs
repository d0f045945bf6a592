//! Reads a device from front to back while something is done with what was read.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use lifeboat_sys::AlignedBuf;

/// Bytes read at a time.
const STEP: usize = 4 << 20;
/// Reads that are on their way at a time, so that a device has something to do between
/// one and the next. Each has two buffers: one is read into, one is being used.
const READERS: u64 = 2;

/// Hands `take` the bytes `[0, len)`, piece by piece and in order, each with what `read`
/// said of it. `read` fills a piece from an offset, on a thread of its own. All is over
/// when `take` says false.
///
/// # Errors
/// Those of `take`.
pub(super) fn each_piece<T: Send, E>(
    len: u64,
    read: impl Fn(u64, &mut [u8]) -> T + Sync,
    mut take: impl FnMut(&[u8], T) -> Result<bool, E>,
) -> Result<(), E> {
    std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..READERS)
            .map(|lane| {
                let (full, filled) = sync_channel(1);
                let (free, spare) = sync_channel(2);
                for _ in 0..2 {
                    // Never fails: there is room for both.
                    let _ = free.send(AlignedBuf::new(STEP));
                }
                let read = &read;
                scope.spawn(move || read_lane(lane, len, read, &spare, &full));
                (filled, free)
            })
            .collect();
        // Readers end when their channels do: with `lanes`, at the end of this block.
        for (filled, free) in lanes.iter().cycle() {
            // A lane that has ended has no more pieces, and so none has.
            let Ok((buf, used, told)) = filled.recv() else { break };
            let buf: AlignedBuf = buf;
            if !take(buf.get(..used).unwrap_or_default(), told)? {
                break;
            }
            let _ = free.send(buf);
        }
        Ok(())
    })
}

/// Reads every [`READERS`]th piece.
fn read_lane<T>(
    lane: u64,
    len: u64,
    read: &impl Fn(u64, &mut [u8]) -> T,
    spare: &Receiver<AlignedBuf>,
    full: &SyncSender<(AlignedBuf, usize, T)>,
) {
    let mut at = lane * STEP as u64;
    while at < len {
        let Ok(mut buf) = spare.recv() else { return };
        let want = usize::try_from(len - at).unwrap_or(STEP).min(STEP);
        let told = read(at, buf.get_mut(..want).unwrap_or_default());
        if full.send((buf, want, told)).is_err() {
            return;
        }
        at += READERS * STEP as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn byte(at: u64) -> u8 {
        (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56).to_le_bytes()[0]
    }

    #[test]
    fn pieces_come_in_order_whole_and_once() {
        let step = STEP as u64;
        for len in [0, 1, step - 1, step, step + 1, 5 * step + 77] {
            let (mut at, mut seen) = (0u64, 0);
            let done = each_piece(
                len,
                |at, buf| {
                    buf.fill(byte(at));
                    at
                },
                |part, from| {
                    assert_eq!(from, at);
                    assert!(part.iter().all(|b| *b == byte(at)));
                    at += part.len() as u64;
                    seen += 1;
                    Ok::<_, ()>(true)
                },
            );
            assert_eq!((done, at, seen), (Ok(()), len, len.div_ceil(step)));
        }
    }

    #[test]
    fn it_ends_when_told_to_and_with_an_error() {
        let mut seen = 0;
        let read = |_, buf: &mut [u8]| buf.fill(1);
        let stop = |_: &[u8], ()| {
            seen += 1;
            Ok::<_, ()>(seen < 3)
        };
        each_piece(100 << 20, read, stop).unwrap();
        assert_eq!(seen, 3);
        assert_eq!(each_piece(100 << 20, read, |_, ()| Err("full")), Err("full"));
    }
}
