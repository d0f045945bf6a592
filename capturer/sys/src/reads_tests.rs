//! Tests of the read queue.

use super::*;
use std::io::Write;

const MODES: [QueueMode; 2] = [QueueMode::Pwrite, QueueMode::Uring];

fn file(len: usize) -> (File, Vec<u8>) {
    let bytes: Vec<u8> = (0..len).map(|n| u8::try_from(n / 4096 % 251).unwrap()).collect();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    (file, bytes)
}

fn source(file: &File, want: QueueMode) -> Source {
    Source { file: file.try_clone().unwrap(), want }
}

/// Reads all of `start..end` in pieces of `piece` bytes; `None` for pages that are missing.
fn all(q: &mut ReadQueue, start: u64, end: u64, piece: usize) -> Vec<Option<u8>> {
    let mut out = Vec::new();
    let mut buf = AlignedBuf::new(piece);
    let mut at = start;
    while at < end {
        let want = usize::try_from(end - at).unwrap().min(piece);
        let got = q.read(at, &mut buf[..want]);
        let len = got.unwrap_or_else(|e| e.missing);
        assert!(len > 0 && len <= want && len.is_multiple_of(4096));
        for page in buf[..len].chunks(4096) {
            assert!(got.is_err() || page.iter().all(|b| *b == page[0]));
            out.push(got.is_ok().then_some(page[0]));
        }
        at += len as u64;
    }
    out
}

#[test]
fn files_are_read_from_front_to_back() {
    let (one, two) = (file(1 << 20), file(300 << 10));
    for mode in MODES {
        for (piece, depth, buf) in
            [(128 << 10, 4, 64 << 10), (4096, 3, 40 << 10), (1 << 20, 2, 4096)]
        {
            let mut q =
                ReadQueue::new(vec![source(&one.0, mode), source(&two.0, mode)], depth, buf);
            assert_eq!((q.mode(0), q.mode(1), q.mode(2)), (mode, mode, QueueMode::Pwrite));
            for (index, (start, end)) in
                [(0, (0, 1 << 20)), (1, (4096, 300 << 10)), (0, (8192, 16384)), (0, (0, 65536))]
            {
                q.ahead(index, start, end);
                let want = if index == 0 { &one.1 } else { &two.1 };
                let want = &want[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()];
                let want: Vec<_> = want.chunks(4096).map(|p| Some(p[0])).collect();
                assert_eq!(all(&mut q, start, end, piece), want, "{mode:?}, {piece}, {index}");
            }
            if mode == QueueMode::Uring {
                let count = |bytes: usize| bytes.div_ceil(buf) as u64;
                let want = count(1 << 20) + count((300 << 10) - 4096) + count(8192) + count(65536);
                assert_eq!(q.requests(), want);
            }
        }
    }
}

/// What is announced and not taken costs nothing but its reads.
#[test]
fn a_stretch_may_be_left_early() {
    let (f, bytes) = file(1 << 20);
    for mode in MODES {
        let mut q = ReadQueue::new(vec![source(&f, mode)], 4, 64 << 10);
        let mut buf = AlignedBuf::new(4096);
        for n in 0..200u64 {
            let at = n * 7 % 250 * 4096;
            q.ahead(0, at, 1 << 20);
            assert_eq!(q.read(at, &mut buf), Ok(4096));
            assert_eq!(buf[0], bytes[usize::try_from(at).unwrap()], "{mode:?}");
        }
    }
}

#[test]
fn bytes_that_do_not_come_are_told() {
    let (f, _) = file(100 << 10);
    for mode in MODES {
        let mut q = ReadQueue::new(vec![source(&f, mode)], 2, 64 << 10);
        // The file ends within the second window, and before the third.
        q.ahead(0, 0, 192 << 10);
        let got = all(&mut q, 0, 192 << 10, 32 << 10);
        assert_eq!(got.len(), 48);
        assert!(got[..25].iter().all(Option::is_some) && got[25..].iter().all(Option::is_none));
        // Not announced: a ring does not have it, and plain reads do.
        q.ahead(0, 0, 4096);
        let mut buf = AlignedBuf::new(4096);
        let far = q.read(40960, &mut buf);
        assert_eq!(far.is_ok(), mode == QueueMode::Pwrite, "{mode:?}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_missing_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    std::fs::write(&path, vec![1; 65536]).unwrap();
    let write_only = File::options().write(true).open(&path).unwrap();
    for mode in MODES {
        let mut q = ReadQueue::new(vec![source(&write_only, mode)], 2, 16384);
        q.ahead(0, 0, 65536);
        assert!(all(&mut q, 0, 65536, 16384).iter().all(Option::is_none), "{mode:?}");
    }
}

/// tmpfs and files on a file system without poll queues: asked to poll, the kernel refuses
/// each read, and the queue goes on with plain ones.
#[test]
fn what_cannot_be_polled_is_read_all_the_same() {
    let (f, bytes) = file(512 << 10);
    let mut q = ReadQueue::new(vec![source(&f, QueueMode::Polled)], 2, 64 << 10);
    let mut lost = 0;
    for _ in 0..2 {
        q.ahead(0, 0, 512 << 10);
        let got = all(&mut q, 0, 512 << 10, 64 << 10);
        lost = got.iter().filter(|p| p.is_none()).count();
        assert!(got.iter().zip(bytes.chunks(4096)).all(|(g, b)| g.is_none_or(|g| g == b[0])));
    }
    assert_eq!((lost, q.mode(0)), (0, QueueMode::Pwrite), "still polled");
}
