//! Tests of the write queue.

use super::*;
use std::io::{Read, Write as _};

fn round_trip(mode: QueueMode) {
    let file = tempfile::tempfile().unwrap();
    let mut q = WriteQueue::new(file.try_clone().unwrap(), mode, 4, 8192);
    for n in 0..32u8 {
        let i = q.take().unwrap();
        q.bytes(i).fill(n);
        q.submit(i, 8192, u64::from(n) * 8192).unwrap();
    }
    q.flush().unwrap();
    assert_eq!(q.requests(), 32);
    let mut back = vec![0; 8192];
    for n in 0..32u8 {
        file.read_exact_at(&mut back, u64::from(n) * 8192).unwrap();
        assert!(back.iter().all(|b| *b == n), "block {n}");
    }
}

#[test]
fn writes_arrive_by_pwrite() {
    round_trip(QueueMode::Pwrite);
}

#[test]
fn writes_arrive_by_uring() {
    round_trip(QueueMode::Uring);
}

/// tmpfs and files without O_DIRECT: asked to poll, the kernel refuses each write; they are
/// made the plain way, and the queue says so.
#[test]
fn what_cannot_be_polled_is_written_all_the_same() {
    let file = tempfile::tempfile().unwrap();
    let mut q = WriteQueue::new(file.try_clone().unwrap(), QueueMode::Polled, 4, 8192);
    for n in 0..8u8 {
        let i = q.take().unwrap();
        q.bytes(i).fill(n);
        q.submit(i, 8192, u64::from(n) * 8192).unwrap();
    }
    q.flush().unwrap();
    let mut back = vec![9; 8 * 8192];
    file.read_exact_at(&mut back, 0).unwrap();
    assert!(back.chunks(8192).zip(0..).all(|(part, n)| part.iter().all(|b| *b == n)));
    assert_eq!(q.mode(), QueueMode::Pwrite, "still polled");
}

/// Behind a write that failed, nothing leaves memory: what is held begins at the first
/// lost byte, whatever else was written well, and all of it arrives on the next device.
#[test]
fn behind_a_failed_write_everything_goes_to_the_next_device() {
    let files = [tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap()];
    let far = i64::MAX as u64 - 4095;
    for mode in [QueueMode::Pwrite, QueueMode::Uring] {
        let mut q = WriteQueue::new(files[0].try_clone().unwrap(), mode, 4, 4096);
        let next = q.lane(files[1].try_clone().unwrap(), mode);
        q.set_stall_limit(Some(Duration::from_secs(5)));
        let mut failed = None;
        for n in 0..8u64 {
            let Ok(i) = q.take() else { break };
            q.bytes(i).fill(u8::try_from(n).unwrap());
            // The fourth write goes where no file can reach: EFBIG or EINVAL.
            let at = if n == 3 { far } else { n * 4096 };
            if q.submit(i, 4096, at).is_err() || q.drain().is_err() {
                failed = Some(n);
                break;
            }
        }
        assert_eq!(failed, Some(3), "{mode:?}");
        assert_eq!(q.held(), Some(far), "{mode:?}");
        assert!(q.flush().is_err(), "a failure is not forgotten");
        q.switch(next, |at, len| Some((at - far + 8192, len))).unwrap();
        q.flush().unwrap();
        assert_eq!((q.held(), q.mode()), (None, mode));
        let mut back = vec![9; 12288];
        files[1].read_exact_at(&mut back, 0).unwrap();
        assert!(back[..8192].iter().all(|b| *b == 0) && back[8192..].iter().all(|b| *b == 3));
    }
}

/// A write that went well keeps its buffer while one before it has not, and is made again
/// on the next device; what the caller does not want there is dropped.
#[test]
fn what_was_written_behind_a_gap_stays_in_memory() {
    for before in [State::Failed, State::Flying] {
        let file = tempfile::tempfile().unwrap();
        let mut q = WriteQueue::new(file.try_clone().unwrap(), QueueMode::Pwrite, 5, 4096);
        let next = q.lane(file.try_clone().unwrap(), QueueMode::Uring);
        let places = [(State::Done, 8192), (before, 4096), (State::Done, 0), (before, 12288)];
        for (n, (state, offset)) in places.into_iter().enumerate() {
            q.bytes(n).fill(u8::try_from(n).unwrap() + 1);
            q.busy[n] = Some(Write { len: 4096, offset, state });
        }
        q.retire();
        assert_eq!((q.held(), q.busy()), (Some(4096), (3, 5)), "{before:?}");
        q.switch(next, |at, len| (at < 12288).then_some((at - 4096, len))).unwrap();
        q.flush().unwrap();
        let mut back = vec![0; 8192];
        file.read_exact_at(&mut back, 0).unwrap();
        assert!(back[..4096].iter().all(|b| *b == 2) && back[4096..].iter().all(|b| *b == 1));
        assert_eq!(file.metadata().unwrap().len(), 8192, "{before:?}");
        assert_eq!(q.haunted, before == State::Flying);
    }
}

/// The next device fails too: all of it is still held, at its places there.
#[test]
fn a_second_failure_loses_nothing_either() {
    let good = tempfile::tempfile().unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("f"), b"x").unwrap();
    let bad = || File::open(dir.path().join("f")).unwrap();
    for mode in [QueueMode::Pwrite, QueueMode::Uring] {
        let mut q = WriteQueue::new(bad(), mode, 3, 4096);
        let lanes = [q.lane(bad(), mode), q.lane(good.try_clone().unwrap(), mode)];
        for n in 0..3u8 {
            q.bytes(usize::from(n)).fill(n + 1);
            let slot = Write { len: 4096, offset: u64::from(n) * 4096, state: State::Failed };
            q.busy[usize::from(n)] = Some(slot);
        }
        let [second, third] = lanes;
        let failed = q.switch(second, |at, len| Some((at + 4096, len)));
        assert!(failed.is_err() || q.drain().is_err(), "{mode:?}");
        assert_eq!((q.held(), q.busy().0), (Some(4096), 3), "{mode:?}");
        q.switch(third, |at, len| Some((at - 4096, len))).unwrap();
        q.flush().unwrap();
        let mut back = vec![0; 12288];
        good.read_exact_at(&mut back, 0).unwrap();
        assert!(back.chunks(4096).zip(1..).all(|(page, n)| page.iter().all(|b| *b == n)));
    }
}

#[test]
fn a_lane_fits_its_own_queue_only() {
    let file = tempfile::tempfile().unwrap();
    let new = || WriteQueue::new(file.try_clone().unwrap(), QueueMode::Uring, 1, 4096);
    let (mut one, other) = (new(), new());
    let lane = other.lane(file.try_clone().unwrap(), QueueMode::Uring);
    let refused = one.switch(lane, |at, len| Some((at, len))).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EINVAL));
}

/// When a thread ends, the kernel cancels what it submitted and had not begun: what
/// could not be done at once waits in the thread's own io-wq. Workers end: their
/// writes must not.
#[test]
fn writes_outlive_the_thread_that_made_them() {
    const LEN: usize = 64 << 10;
    let file = tempfile::tempfile().unwrap();
    file.set_len(64 << 20).unwrap();
    for round in (0..400u32).map(|n| u8::try_from(n % 251).unwrap()) {
        let q = WriteQueue::new(file.try_clone().unwrap(), QueueMode::Uring, 4, LEN);
        let shared = std::sync::Mutex::new((q, 0u64));
        std::thread::scope(|scope| {
            for writes in [3, 5, 9] {
                let shared = &shared;
                scope.spawn(move || {
                    for _ in 0..writes {
                        let (q, next) = &mut *shared.lock().unwrap();
                        let i = q.take().unwrap();
                        q.bytes(i).fill(round);
                        q.submit(i, LEN, *next).unwrap();
                        *next += LEN as u64;
                    }
                });
            }
        });
        let (mut q, end) = shared.into_inner().unwrap();
        q.flush().unwrap();
        let mut back = vec![0; usize::try_from(end).unwrap()];
        file.read_exact_at(&mut back, 0).unwrap();
        assert!(back.iter().all(|b| *b == round), "round {round}");
    }
}

#[test]
fn a_failed_write_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    std::fs::write(&path, b"x").unwrap();
    for mode in [QueueMode::Pwrite, QueueMode::Uring] {
        let read_only = File::open(&path).unwrap();
        let mut q = WriteQueue::new(read_only, mode, 2, 4096);
        let i = q.take().unwrap();
        let result = q.submit(i, 4096, 0).and_then(|()| q.flush());
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EBADF), "{mode:?}");
    }
}

/// The hint rises while writes are in flight, which a pipe nobody reads holds there, and
/// falls without anybody waiting when they are done.
#[test]
fn busy_follows_the_device() {
    let (read, write) = nix::unistd::pipe().unwrap();
    let mut q = WriteQueue::new(File::from(write), QueueMode::Uring, 4, 64 << 10);
    q.hand_over();
    assert_eq!(q.busy(), (0, 4));
    for n in 1..=3 {
        let i = q.take().unwrap();
        q.bytes(i).fill(1);
        q.submit(i, 64 << 10, n as u64 * (64 << 10)).unwrap();
        // The first fits the pipe and may be done at any time; the others are not.
        assert!((n - 1..=n).contains(&q.busy().0), "{:?}", q.busy());
    }
    let mut out = vec![0; 3 * (64 << 10)];
    File::from(read).read_exact(&mut out).unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    while q.flying() > 0 && Instant::now() < end {
        q.reap(1).unwrap();
    }
    assert_eq!(q.busy(), (0, 4));
}

/// A device that hangs (a pipe that is full and that nobody reads) is left behind without
/// waiting: all it was given goes to the next one, from the same buffers. What it does when
/// it comes back harms nobody, and the buffers are never anything else again.
#[test]
fn a_device_that_hangs_is_left() {
    const LEN: usize = 64 << 10;
    let (read, write) = nix::unistd::pipe().unwrap();
    let pipe = File::from(write);
    (&pipe).write_all(&[7; LEN]).unwrap();
    let next = tempfile::tempfile().unwrap();
    let mut q = WriteQueue::new(pipe, QueueMode::Uring, 4, LEN);
    q.hand_over();
    let lane = q.lane(next.try_clone().unwrap(), QueueMode::Uring);
    q.set_stall_limit(Some(Duration::from_millis(300)));
    for n in 0..3u8 {
        let i = q.take().unwrap();
        q.bytes(i).fill(n + 1);
        q.submit(i, LEN, u64::from(n) * LEN as u64).unwrap();
    }
    let start = Instant::now();
    assert_eq!(q.flush().unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!((q.held(), q.busy().0), (Some(0), 3));
    q.switch(lane, |at, len| Some((at, len))).unwrap();
    q.flush().unwrap();
    // The old device wakes up, and gets whatever lies in the buffers now.
    for n in 3..7u8 {
        let i = q.take().unwrap();
        q.bytes(i).fill(n + 1);
        q.submit(i, LEN, u64::from(n) * LEN as u64).unwrap();
    }
    let mut late = vec![0; 4 * LEN];
    File::from(read).read_exact(&mut late).unwrap();
    assert!(late[..LEN].iter().all(|b| *b == 7) && late[LEN..].iter().all(|b| *b > 0));
    q.flush().unwrap();
    let mut back = vec![0; 7 * LEN];
    next.read_exact_at(&mut back, 0).unwrap();
    assert!(back.chunks(LEN).zip(1..).all(|(part, n)| part.iter().all(|b| *b == n)));
    drop(q);
}
