//! Pieces that are made on several threads and used in order on one.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Buffers of a lane: one is being filled while another one is used.
const BUFFERS: usize = 2;

/// Hands `take` the pieces 0 to `pieces - 1`, in order, each in a buffer with what `fill`
/// said of it. Lane `n` of `lanes` fills pieces `n`, `n + lanes`, … on a thread and with a
/// state of its own, in buffers that `buffer` makes and that are used again. All is over
/// when `take` says false.
///
/// # Errors
/// Those of `take`.
pub fn in_order<S, B: Send, T: Send, E>(
    lanes: u64,
    pieces: u64,
    state: impl Fn() -> S + Sync,
    buffer: impl Fn() -> B,
    fill: impl Fn(&mut S, u64, &mut B) -> T + Sync,
    mut take: impl FnMut(&B, T) -> Result<bool, E>,
) -> Result<(), E> {
    std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..lanes)
            .map(|lane| {
                let (full, filled) = sync_channel(1);
                let (free, spare) = sync_channel(BUFFERS);
                for _ in 0..BUFFERS {
                    // Never fails: there is room for all.
                    let _ = free.send(buffer());
                }
                let (state, fill) = (&state, &fill);
                let mine = (lane..pieces).step_by(usize::try_from(lanes).unwrap_or(usize::MAX));
                scope.spawn(move || work(mine, state(), fill, &spare, &full));
                (filled, free)
            })
            .collect();
        // Lanes end when their channels do: with `lanes`, at the end of this block.
        for (filled, free) in lanes.iter().cycle() {
            // A lane that has ended has no more pieces, and so none has.
            let Ok((buffer, told)) = filled.recv() else { break };
            if !take(&buffer, told)? {
                break;
            }
            let _ = free.send(buffer);
        }
        Ok(())
    })
}

/// One lane.
fn work<S, B, T>(
    pieces: impl Iterator<Item = u64>,
    mut state: S,
    fill: &impl Fn(&mut S, u64, &mut B) -> T,
    spare: &Receiver<B>,
    full: &SyncSender<(B, T)>,
) {
    for piece in pieces {
        let Ok(mut buffer) = spare.recv() else { return };
        let told = fill(&mut state, piece, &mut buffer);
        if full.send((buffer, told)).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_in_order_and_once() {
        for (lanes, pieces) in [(1, 0), (1, 5), (2, 1), (2, 7), (3, 100), (8, 3)] {
            let mut seen = Vec::new();
            let fill = |made: &mut u64, n, buf: &mut Vec<u64>| {
                *made += 1;
                buf.push(n);
                *made
            };
            let take = |buf: &Vec<u64>, made| {
                assert!(made > 0 && buf.len() as u64 <= made, "a buffer is used again");
                seen.push(*buf.last().unwrap());
                Ok::<_, ()>(true)
            };
            in_order(lanes, pieces, || 0, Vec::new, fill, take).unwrap();
            assert_eq!(seen, (0..pieces).collect::<Vec<_>>());
        }
    }

    #[test]
    fn it_ends_when_told_to_and_with_an_error() {
        let mut seen = 0;
        let stop = |_: &(), ()| {
            seen += 1;
            Ok::<_, ()>(seen < 3)
        };
        in_order(2, 1 << 40, || (), || (), |(), _, ()| (), stop).unwrap();
        assert_eq!(seen, 3);
        let e = in_order(2, 1 << 40, || (), || (), |(), _, ()| (), |(), ()| Err("full"));
        assert_eq!(e, Err("full"));
    }
}
