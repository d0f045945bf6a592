//! Tests of the write queue.

use super::*;

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

/// Behind a write that failed, nothing leaves memory: what `salvage` gives begins
/// at the first lost byte and has no gap, whatever else was written well.
#[test]
fn behind_a_failed_write_everything_is_salvaged() {
    let file = tempfile::tempfile().unwrap();
    for mode in [QueueMode::Pwrite, QueueMode::Uring] {
        let mut q = WriteQueue::new(file.try_clone().unwrap(), mode, 4, 4096);
        q.set_stall_limit(Duration::from_secs(5));
        let mut failed = None;
        for n in 0..8u64 {
            let Ok(i) = q.take() else { break };
            q.bytes(i).fill(u8::try_from(n).unwrap());
            // The fourth write goes where no file can reach: EFBIG or EINVAL.
            let at = if n == 3 { i64::MAX as u64 - 4095 } else { n * 4096 };
            if q.submit(i, 4096, at).is_err() || q.drain().is_err() {
                failed = Some(n);
                break;
            }
        }
        assert_eq!(failed, Some(3), "{mode:?}");
        let mut got = Vec::new();
        q.salvage(|at, bytes| got.push((at, bytes[0], bytes.len())));
        assert_eq!(got, [(i64::MAX as u64 - 4095, 3, 4096)], "{mode:?}");
        assert!(q.flush().is_err(), "a failure is not forgotten");
        q.abandon();
    }
}

/// A write that went well keeps its buffer while one before it has not.
#[test]
fn what_was_written_behind_a_gap_stays_in_memory() {
    let file = tempfile::tempfile().unwrap();
    for before in [State::Failed, State::Flying] {
        let mut q = WriteQueue::new(file.try_clone().unwrap(), QueueMode::Pwrite, 4, 4096);
        let places = [(State::Done, 8192), (before, 4096), (State::Done, 0)];
        for (n, (state, offset)) in places.into_iter().enumerate() {
            q.bytes(n).fill(7);
            q.busy[n] = Some(Write { len: 4096, offset, state });
        }
        q.retire();
        let mut got = Vec::new();
        q.salvage(|at, bytes| got.push((at, bytes.len())));
        assert_eq!(got, [(4096, 4096), (8192, 4096)], "{before:?}");
        q.busy.clear();
    }
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
    std::io::Read::read_exact(&mut File::from(read), &mut out).unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    while q.flying() > 0 && Instant::now() < end {
        q.reap(1).unwrap();
    }
    assert_eq!(q.busy(), (0, 4));
}
