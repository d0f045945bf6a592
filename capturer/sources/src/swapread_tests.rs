//! Swap devices as files: every page, to the last sector, and those that cannot be read.

use super::*;
use crate::blockdev::Block;
use crate::swap::SwapHeader;
use std::path::Path;

const MODES: [QueueMode; 3] = [QueueMode::Pwrite, QueueMode::Uring, QueueMode::Polled];

fn device(path: &Path, len: u64) -> SwapDevice {
    SwapDevice {
        block: Block { path: path.to_owned(), len, ..Block::default() },
        header: SwapHeader {
            page_size: 4096,
            last_page: 4,
            bad_pages: 0,
            uuid: String::new(),
            label: String::new(),
        },
    }
}

fn bytes(len: u32) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn aligned(pages: usize) -> (Vec<u8>, usize) {
    let space = vec![0xee; (pages + 1) * PAGE];
    let skip = space.as_ptr().addr().wrapping_neg() % PAGE;
    (space, skip)
}

#[test]
fn pages_are_read_to_the_last_sector() {
    let file = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
    let bytes = bytes(20_480 + 512);
    std::fs::write(file.path(), &bytes).unwrap();
    let device = device(file.path(), bytes.len() as u64);
    assert_eq!(device.pages(), 6);
    for mode in MODES {
        for announced in [true, false] {
            let ahead = ReadAhead { depth: 2, len: 2 * PAGE };
            let mut reader = SwapReader::open([(&device, mode)], ahead);
            let (mut space, skip) = aligned(8);
            let buf = &mut space[skip..skip + 8 * PAGE];
            let mut bad = Vec::new();
            if announced {
                reader.ahead(PageRange::new(1, 6));
            }
            let lost = reader.read_pages(Pfn(1), buf, &mut |p| bad.push(p.0)).unwrap();
            assert_eq!((lost, bad), (3, vec![6, 7, 8]), "{mode:?}");
            assert_eq!(buf[..bytes.len() - 4096], bytes[4096..], "{mode:?}");
            assert!(buf[bytes.len() - 4096..].iter().all(|b| *b == 0), "{mode:?}");
            // Two windows and the cut page; or all at once and the cut page.
            assert!(reader.requests() >= 2, "{mode:?}: {}", reader.requests());
            if reader.devices[0].direct {
                let odd = &mut space[skip + 512..skip + 512 + PAGE];
                let refused = reader.read_pages(Pfn(0), odd, &mut |_| ());
                assert!(matches!(refused, Err(ReadError::Buffer { .. })));
            }
        }
    }
}

/// Two devices through one reader, in turns, in spans as the workers take them.
#[test]
fn one_reader_serves_all_devices() {
    let files: Vec<_> = [300u32, 70]
        .into_iter()
        .map(|pages| {
            let file = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
            std::fs::write(file.path(), bytes(pages * 4096)).unwrap();
            (device(file.path(), u64::from(pages) * 4096), file, bytes(pages * 4096))
        })
        .collect();
    for mode in MODES {
        let list = files.iter().map(|(device, ..)| (device, mode));
        let mut reader = SwapReader::open(list, ReadAhead { depth: 3, len: 5 * PAGE });
        for (index, from, to) in [(0, 0, 128), (1, 10, 70), (0, 128, 300), (0, 5, 9)] {
            reader.select(index);
            reader.ahead(PageRange::new(from, to));
            let want = &files[index].2;
            for first in (from..to).step_by(32) {
                let count = usize::try_from((to - first).min(32)).unwrap();
                let (mut space, skip) = aligned(count);
                let buf = &mut space[skip..skip + count * PAGE];
                let lost = reader.read_pages(Pfn(first), buf, &mut |_| ()).unwrap();
                assert_eq!(lost, 0);
                let at = usize::try_from(first).unwrap() * PAGE;
                assert!(*buf == want[at..at + count * PAGE], "{mode:?} {index} {first}");
            }
        }
    }
}

/// Nothing has to be announced: the queue must not go on with the device before.
#[test]
fn a_selected_device_is_the_one_that_is_read() {
    let files: Vec<_> = [0x11u8, 0x22]
        .into_iter()
        .map(|byte| {
            let file = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
            std::fs::write(file.path(), vec![byte; 8 * PAGE]).unwrap();
            (device(file.path(), 8 * PAGE as u64), file, byte)
        })
        .collect();
    for mode in MODES {
        let list = files.iter().map(|(device, ..)| (device, mode));
        let mut reader = SwapReader::open(list, ReadAhead { depth: 2, len: 2 * PAGE });
        reader.ahead(PageRange::new(0, 8));
        for index in [1, 0, 1] {
            reader.select(index);
            let (mut space, skip) = aligned(4);
            let buf = &mut space[skip..skip + 4 * PAGE];
            assert_eq!(reader.read_pages(Pfn(2), buf, &mut |_| ()), Ok(0), "{mode:?}");
            assert!(buf.iter().all(|b| *b == files[index].2), "{mode:?} {index}: {:#x}", buf[0]);
        }
    }
}

/// A device that ends early, as one whose medium fails from some page on: each page that
/// is there comes, each other one is told, and is no zero page to anybody.
#[test]
fn only_the_pages_in_trouble_are_lost() {
    let file = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
    let bytes = bytes(21 * 4096);
    std::fs::write(file.path(), &bytes).unwrap();
    let device = device(file.path(), 40 * 4096);
    for mode in MODES {
        let mut reader = SwapReader::open([(&device, mode)], ReadAhead { depth: 4, len: 8 * PAGE });
        reader.ahead(PageRange::new(0, 40));
        let (mut space, skip) = aligned(32);
        let mut bad = Vec::new();
        for (first, count) in [(0u64, 32usize), (32, 8)] {
            let buf = &mut space[skip..skip + count * PAGE];
            reader.read_pages(Pfn(first), buf, &mut |p| bad.push(p.0)).unwrap();
            if first == 0 {
                assert!(buf[..bytes.len()] == bytes && buf[bytes.len()..].iter().all(|b| *b == 0));
            }
        }
        assert_eq!(bad, (21..40).collect::<Vec<_>>(), "{mode:?}");
    }
}

#[test]
fn a_device_that_cannot_be_opened_is_gone() {
    let device = device(Path::new("/nowhere/at/all"), 4096);
    let mut reader =
        SwapReader::open([(&device, QueueMode::Uring)], ReadAhead { depth: 1, len: PAGE });
    reader.ahead(PageRange::new(0, 1));
    let (mut space, skip) = aligned(1);
    let gone = reader.read_pages(Pfn(0), &mut space[skip..skip + PAGE], &mut |_| ());
    assert_eq!(gone, Err(ReadError::Gone { errno: 2, offset: 0 }));
}
