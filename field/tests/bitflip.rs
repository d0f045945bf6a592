//! Every bit of a small dump, and samples of a large one, flipped: found without a key.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "test code, helpers included"
)]

mod golden;
mod support;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use golden::{Golden, Made, Order, fresh, make};
use lifeboat_crypt::DataKey;
use lifeboat_field::dump::{DumpError, DumpFile, ReadAt};
use lifeboat_format::{BLOCK, PageRange};

/// A dump with one bit flipped.
struct Flipped {
    base: Arc<Vec<u8>>,
    at: usize,
    mask: u8,
}

impl ReadAt for Flipped {
    fn len(&self) -> u64 {
        self.base.as_slice().len() as u64
    }
    fn read_exact_at(&self, off: u64, buf: &mut [u8]) -> io::Result<()> {
        self.base.read_exact_at(off, buf)?;
        if let Some(byte) = (self.at as u64).checked_sub(off).and_then(|i| buf.get_mut(i as usize))
        {
            *byte ^= self.mask;
        }
        Ok(())
    }
}

/// How a flipped bit was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// `verify` lists damage.
    Damage,
    /// The dump cannot be opened, and the error says why.
    Refused,
    No,
}

fn found(base: &Arc<Vec<u8>>, at: usize, mask: u8) -> Found {
    let file = match DumpFile::open(Arc::new(Flipped { base: base.clone(), at, mask })) {
        Ok(file) => file,
        Err(DumpError::Length { .. } | DumpError::NotADump { .. }) => return Found::Refused,
        Err(other) => panic!("byte {at}: {other}"),
    };
    let v = file.verify(None, &|_| {});
    // Damage is told near where it is: in the block, or in the chunk.
    let near = v.findings.iter().any(|f| {
        let (from, to) =
            (f.start / BLOCK as u64 * BLOCK as u64, f.end.next_multiple_of(BLOCK as u64));
        (from..to.max(from + 1)).contains(&(at as u64))
    });
    if !v.is_sound() && near { Found::Damage } else { Found::No }
}

/// Tries all `cases` on all cores and counts; panics with the first few that were missed.
fn try_all(made: Made, cases: &[(usize, u8)]) -> [usize; 2] {
    let base = Arc::new(made.bytes);
    assert!(DumpFile::open(base.clone()).unwrap().verify(None, &|_| {}).is_sound());
    let (next, counts) = (AtomicUsize::new(0), [AtomicUsize::new(0), AtomicUsize::new(0)]);
    let missed = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((at, mask)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match found(&base, *at, *mask) {
                        Found::Damage => counts[0].fetch_add(1, Ordering::Relaxed),
                        Found::Refused => counts[1].fetch_add(1, Ordering::Relaxed),
                        Found::No => {
                            let mut missed = missed.lock().unwrap();
                            missed.push((*at, *mask));
                            missed.len()
                        }
                    };
                }
            });
        }
    });
    let missed = missed.into_inner().unwrap();
    assert!(missed.is_empty(), "{} missed, of {} bytes: {missed:?}", missed.len(), base.len());
    counts.map(AtomicUsize::into_inner)
}

fn small(key: Option<DataKey>, layered: bool) -> Made {
    let order = Order {
        ranges: vec![PageRange::new(0x100, 0x108)],
        swap: vec![8 << 10],
        log: b"a short log\n".to_vec(),
        layered,
        key,
        ..Order::clear(31, 0x31)
    };
    make(&order, vec![fresh(14 << 20)])
}

#[test]
fn every_flipped_bit_of_a_small_dump_is_found() {
    for (key, layered) in [(Some(DataKey::mix(&[b"key"])), true), (None, false)] {
        let made = small(key, layered);
        let (start, len) = (Instant::now(), made.bytes.len());
        // All bits of what is structure; of the zeros behind it, which are most of the
        // blocks and all alike, one of eight in each byte, another one in the next. So
        // too everywhere in the second dump.
        let busy = |at: usize| {
            let near = at.saturating_sub(64)..(at + 64).min(len);
            layered && made.bytes[near].iter().any(|b| *b != 0)
        };
        let cases: Vec<(usize, u8)> = (0..len)
            .flat_map(|at| {
                let bits = if busy(at) { 0..8 } else { at % 8..at % 8 + 1 };
                bits.map(move |bit| (at, 1u8 << bit))
            })
            .collect();
        assert!(cases.len() >= len);
        let [damage, refused] = try_all(made, &cases);
        println!(
            "{len} bytes, {} flipped bits: {damage} told as damage, {refused} refused at once, 0 missed; {:.1?}",
            cases.len(),
            start.elapsed()
        );
    }
}

#[test]
fn flipped_bits_of_a_large_dump_are_found() {
    let order = Order {
        machine: Golden { seed: 32, noise: true, excluded: false, words: false },
        ranges: vec![PageRange::new(0x100, 0x100 + 30_000)],
        swap: vec![1 << 20],
        method: golden::Method::Store,
        layered: true,
        chunk_pages: 64,
        workers: 2,
        key: Some(DataKey::mix(&[b"key"])),
        ..Order::clear(32, 0x32)
    };
    let made = make(&order, vec![fresh(140 << 20)]);
    let (start, len) = (Instant::now(), made.bytes.len());
    assert!(len >= 64 << 20, "{len}");
    // Anywhere, and in the head of each of some chunks.
    let mut s = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = |below: usize| {
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        (s % below as u64) as usize
    };
    let chunks = made.chunks();
    let mut cases: Vec<(usize, u8)> = (0..40).map(|_| (random(len), 1 << random(8))).collect();
    for _ in 0..20 {
        let (at, _) = chunks[random(chunks.len())];
        cases.push((at + random(96), 1 << random(8)));
    }
    let count = chunks.len();
    let [damage, refused] = try_all(made, &cases);
    println!(
        "{len} bytes in {count} chunks, {} flipped bits: {damage} told as damage, {refused} refused at once, 0 missed; {:.1?}",
        cases.len(),
        start.elapsed()
    );
}
