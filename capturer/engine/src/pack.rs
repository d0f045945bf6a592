//! How a chunk's payload is packed: the methods, the trait that does it, and the choice
//! between them while the capture runs.
//!
//! [`Tuner`] owns the choice. Every so often one chunk is packed by several methods of
//! the ladder, so that what each of them costs and saves is known from the same bytes. The
//! rest is a price: what a byte costs at the device, in time of a CPU. It rises while
//! the device's buffers are full and falls while they are empty, and each chunk takes
//! the method for which time and price together are least. So a fast disk gets little
//! compression, a slow one much, and one in between a mixture of two methods.
//!
//! It refuses to trust the clock for more than ratios: the crash kernel's may be
//! calibrated badly.

use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::Relaxed};

use lifeboat_format::PAGE;
pub use lifeboat_format::bootcfg::{MAX_METHODS, Method};

/// What packs payloads. One a worker; it allocates nothing once it is made.
pub trait Compress {
    /// Packs `raw` into the start of `out`; `None` where it does not fit, or for
    /// [`Method::Store`].
    fn compress(&mut self, method: Method, raw: &[u8], out: &mut [u8]) -> Option<usize>;
}

/// One chunk in so many is packed by several methods: about 1 % of the time.
const SAMPLE_EVERY: u32 = 256;
/// Samples that an average remembers: memory is a mixture, and one chunk says little.
const MEMORY: u32 = 32;
/// The price's logarithm to base 2, in 1/1024, of picoseconds a byte: from where
/// storing is always best to where the strongest method is. Between two usual methods
/// it lies at 2 to 80 ns a byte.
const MIN_PRICE: i32 = 6 << 10;
const MAX_PRICE: i32 = 18 << 10;
/// At first as of a disk of some 300 MB/s.
const FIRST_PRICE: i32 = 12 << 10;
/// Change of the price a chunk when all buffers are full: half a percent, so that ten
/// times the price takes some 500 chunks, 50 to 200 ms.
const STEP: i32 = 15;
/// How much of the room may be planned for: chunks have headers, and averages err.
const ROOM_USED: f32 = 0.9;
/// How much the state of the buffers counts at once: an eighth to eight times the price.
/// The buffers hold a few milliseconds of the disk's work, so this is what holds them
/// between empty and full; the price itself only finds the middle.
const LEAN: i32 = 6 << 10;

/// Chooses the method for each chunk. Shared by all workers.
#[derive(Debug)]
pub struct Tuner {
    ladder: heapless::Vec<Method, MAX_METHODS>,
    rungs: [Rung; MAX_METHODS],
    chunks: AtomicU32,
    price: AtomicI32,
    /// What the buffers' state adds to the price.
    lean: AtomicI32,
    /// Picoseconds of a CPU for a byte that is stored: sealing it.
    handling: Average,
    /// Bytes that the dump may still take where it is; pages that were not looked at yet;
    /// and how many of them should hold data.
    room: AtomicU64,
    left: AtomicU64,
    data: AtomicU64,
}

/// What is known of one method.
#[derive(Debug, Default)]
struct Rung {
    /// Picoseconds of a CPU for a byte of payload.
    cost: Average,
    /// Bytes that are left of 65536.
    size: Average,
    /// Payloads that it was chosen for, and their bytes.
    used: AtomicU64,
    bytes: AtomicU64,
}

impl Tuner {
    /// Chooses among `ladder`, from the fastest method to the strongest; what is over
    /// [`MAX_METHODS`] is left out, and an empty one stores.
    #[must_use]
    pub fn new(ladder: &[Method]) -> Self {
        let mut list: heapless::Vec<Method, MAX_METHODS> =
            ladder.iter().copied().take(MAX_METHODS).collect();
        if list.is_empty() {
            let _ = list.push(Method::Store);
        }
        Self {
            ladder: list,
            rungs: Default::default(),
            chunks: AtomicU32::new(0),
            price: AtomicI32::new(FIRST_PRICE),
            lean: AtomicI32::new(0),
            handling: Average::default(),
            room: AtomicU64::new(u64::MAX),
            left: AtomicU64::new(0),
            data: AtomicU64::new(0),
        }
    }

    /// The methods.
    #[must_use]
    pub fn ladder(&self) -> &[Method] {
        &self.ladder
    }

    /// How often each method was chosen, and for how many bytes of payload.
    pub fn used(&self) -> impl Iterator<Item = (Method, u64, u64)> + '_ {
        let rungs = self.ladder.iter().zip(&self.rungs);
        rungs.map(|(m, r)| (*m, r.used.load(Relaxed), r.bytes.load(Relaxed)))
    }

    /// The methods that the next chunk is tried on, if it is a sample: all of them at
    /// first, then those that the choice lies between.
    pub(crate) fn sample(&self) -> std::ops::Range<usize> {
        if self.ladder.len() < 2 {
            return 0..0;
        }
        match self.chunks.fetch_add(1, Relaxed) {
            0 => 0..self.ladder.len(),
            n if n.is_multiple_of(SAMPLE_EVERY) => {
                let now = self.choose();
                now.saturating_sub(1)..(now + 2).min(self.ladder.len())
            }
            _ => 0..0,
        }
    }

    /// Takes in what method `index` made of a sample.
    pub(crate) fn learn(&self, index: usize, raw: usize, stored: usize, nanos: u64) {
        let Some(rung) = self.rungs.get(index) else { return };
        let raw = raw.max(1) as u64;
        let cost = nanos.saturating_mul(1000) / raw;
        let size = (stored as u64).saturating_mul(1 << 16) / raw;
        rung.cost.take(cost);
        rung.size.take(size);
    }

    /// Takes in how long sealing took.
    pub(crate) fn sealed(&self, stored: usize, nanos: u64) {
        if self.ladder.len() > 1 && stored > 0 {
            self.handling.take(nanos.saturating_mul(1000) / stored as u64);
        }
    }

    /// The best method now: its place in the ladder.
    pub(crate) fn choose(&self) -> usize {
        if self.ladder.len() < 2 {
            return 0;
        }
        let log = self.price.load(Relaxed).saturating_add(self.lean.load(Relaxed));
        #[allow(clippy::cast_precision_loss, reason = "a few bits are enough")]
        let price = (log as f32 / 1024.0).exp2() + self.handling.value();
        let (room, bytes) = (self.room.load(Relaxed), self.expected().saturating_mul(PAGE as u64));
        #[allow(clippy::cast_precision_loss, reason = "a few bits are enough")]
        let fits = room as f32 * ROOM_USED / (bytes as f32).max(1.0);
        // Where nothing fits for sure the strongest is best.
        let mut best = (f32::INFINITY, self.ladder.len() - 1);
        for (index, rung) in self.rungs.iter().enumerate().take(self.ladder.len()) {
            let sum = rung.cost.value() + price * rung.size.value() / 65536.0;
            if sum < best.0 && rung.size.value() / 65536.0 <= fits {
                best = (sum, index);
            }
        }
        best.1
    }

    /// Says how many pages the capture has to look at in all, and how many of them should
    /// hold data ([`crate::estimate`]): what is stored must fit where it goes, and no speed
    /// is worth a page.
    pub fn expect(&self, pages: u64, data: u64) {
        self.left.store(pages, Relaxed);
        self.data.store(data, Relaxed);
    }

    /// Pages of data that may still come. Once there were more than expected, each that is
    /// left may be one.
    fn expected(&self) -> u64 {
        match (self.left.load(Relaxed), self.data.load(Relaxed)) {
            (left, 0) => left,
            (left, data) => left.min(data),
        }
    }

    /// Takes in that pages were looked at, and how many of them are stored.
    pub(crate) fn passed(&self, pages: u64, data: u64) {
        for (left, less) in [(&self.left, pages), (&self.data, data)] {
            let _ = left.fetch_update(Relaxed, Relaxed, |n| Some(n.saturating_sub(less)));
        }
    }

    /// Takes in how many bytes the dump may still take.
    pub(crate) fn room(&self, bytes: u64) {
        self.room.store(bytes, Relaxed);
    }

    /// Counts a choice.
    pub(crate) fn count(&self, index: usize, raw: usize) {
        if let Some(rung) = self.rungs.get(index) {
            rung.used.fetch_add(1, Relaxed);
            rung.bytes.fetch_add(raw as u64, Relaxed);
        }
    }

    /// Takes in how many of the device's buffers wait for it, at every chunk.
    pub(crate) fn pressure(&self, busy: usize, all: usize) {
        if self.ladder.len() < 2 || all == 0 {
            return;
        }
        // From -1024, all empty, to 1024, all full.
        let load = i32::try_from((busy.min(all) * 2048) / all).unwrap_or(2048) - 1024;
        let step = |price: i32| Some((price + load * STEP / 2048).clamp(MIN_PRICE, MAX_PRICE));
        let _ = self.price.fetch_update(Relaxed, Relaxed, step);
        self.lean.store(load * LEAN / 2048, Relaxed);
    }
}

/// An average over the last [`MEMORY`] values or so. Two workers at once may lose one.
#[derive(Debug, Default)]
struct Average {
    /// In 1/16.
    value: AtomicU64,
    seen: AtomicU32,
}

impl Average {
    fn take(&self, value: u64) {
        let seen = self.seen.fetch_add(1, Relaxed).saturating_add(1).clamp(1, MEMORY);
        let (old, new) = (self.value.load(Relaxed), value.min(1 << 40) << 4);
        let moved = if new >= old {
            old + (new - old) / u64::from(seen)
        } else {
            old - (old - new) / u64::from(seen)
        };
        self.value.store(moved, Relaxed);
    }

    #[allow(clippy::cast_precision_loss, reason = "an average")]
    fn value(&self) -> f32 {
        self.value.load(Relaxed) as f32 / 16.0
    }
}

#[cfg(test)]
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a model in round numbers"
)]
mod tests {
    use super::*;

    const LADDER: [Method; 4] = [Method::Store, Method::Lz4, Method::Zstd(1), Method::Zstd(3)];

    fn taught() -> Tuner {
        let tuner = Tuner::new(&LADDER);
        for (index, (nanos, stored)) in
            [(20, 1000), (1000, 440), (1500, 350), (2300, 340)].into_iter().enumerate()
        {
            for _ in 0..40 {
                tuner.learn(index, 1000, stored, nanos);
            }
        }
        tuner
    }

    #[test]
    fn an_idle_disk_gets_the_fastest_and_a_full_one_the_strongest() {
        let tuner = taught();
        for (busy, want) in [(0, 0), (8, 3), (0, 0)] {
            for _ in 0..2000 {
                tuner.pressure(busy, 8);
            }
            assert_eq!(tuner.choose(), want, "{busy} of 8 busy");
        }
    }

    /// A disk that is fast but small: what is stored must fit, whatever it costs.
    #[test]
    fn where_room_is_scarce_it_packs_as_hard_as_it_must() {
        let tuner = taught();
        for _ in 0..2000 {
            tuner.pressure(0, 8);
        }
        for (room, want) in [(2000, 0), (600, 1), (400, 2), (380, 3), (10, 3)] {
            tuner.expect(1000, 1000);
            tuner.room(room * PAGE as u64);
            assert_eq!(tuner.choose(), want, "{room} pages of room for 1000");
        }
        tuner.passed(995, 995);
        assert_eq!(tuner.choose(), 0, "10 pages of room for the last 5");
    }

    /// Zeros need no room; but where more data comes than was expected, no page counts as
    /// one that will be zero.
    #[test]
    fn an_expectation_holds_until_it_is_refuted() {
        let tuner = taught();
        for _ in 0..2000 {
            tuner.pressure(0, 8);
        }
        tuner.expect(1000, 200);
        tuner.room(400 * PAGE as u64);
        assert_eq!(tuner.choose(), 0, "200 pages of data in room for 400");
        tuner.passed(100, 100);
        tuner.room(120 * PAGE as u64);
        assert_eq!(tuner.choose(), 0, "100 pages of data in room for 120");
        tuner.passed(100, 100);
        tuner.room(300 * PAGE as u64);
        assert_eq!(tuner.choose(), 3, "all was there that was expected, and 800 pages are left");
    }

    /// Chunks through a machine of two CPUs and a disk of `rate` bytes a nanosecond.
    /// Gives nanoseconds, and how often each method was used; `fixed` is one method.
    fn model(rate: f64, fixed: Option<usize>) -> (f64, [u32; 4]) {
        const COSTS: [f64; 4] = [0.02, 0.98, 1.32, 1.95];
        const SIZES: [f64; 4] = [1.0, 0.437, 0.345, 0.33];
        // Reading, and sealing what is stored, in nanoseconds a byte.
        const READ: f64 = 0.12;
        const SEAL: f64 = 0.12;
        const CHUNK: f64 = 262_144.0;
        const BUFFERS: usize = 8;
        const BUFFER: f64 = 524_288.0;
        let tuner = Tuner::new(&LADDER);
        let (mut workers, mut disk, mut filled, mut used) = ([0f64; 2], 0f64, 0f64, [0; 4]);
        let mut flying = std::collections::VecDeque::new();
        for n in 0..8000u64 {
            // Some chunks shrink well, some do not.
            let shrinks =
                [0.3, 0.7, 1.0, 1.3, 1.7][(n.wrapping_mul(0x9e37_79b9) >> 7) as usize % 5];
            let size = |i: usize| if i == 0 { 1.0 } else { (SIZES[i] * shrinks).min(1.0) };
            for i in tuner.sample() {
                let (stored, nanos) = ((size(i) * CHUNK) as usize, (COSTS[i] * CHUNK) as u64);
                tuner.learn(i, CHUNK as usize, stored, nanos);
            }
            let i = fixed.unwrap_or_else(|| tuner.choose());
            used[i] += 1;
            let worker = usize::from(workers[0] > workers[1]);
            let mut now = workers[worker] + (COSTS[i] + READ + SEAL * size(i)) * CHUNK;
            tuner.sealed((size(i) * CHUNK) as usize, (SEAL * size(i) * CHUNK) as u64);
            filled += size(i) * CHUNK;
            while filled >= BUFFER {
                flying.retain(|done| *done > now);
                if flying.len() == BUFFERS - 1 {
                    now = flying.pop_front().unwrap();
                }
                disk = disk.max(now) + BUFFER / rate;
                flying.push_back(disk);
                filled -= BUFFER;
            }
            tuner.pressure(flying.iter().filter(|done| **done > now).count(), BUFFERS);
            workers[worker] = now;
        }
        (workers[0].max(workers[1]).max(disk), used)
    }

    #[test]
    fn on_any_disk_it_is_near_the_best_method_or_better() {
        for rate in [0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0] {
            let (now, used) = model(rate, None);
            let best = (0..4).map(|i| model(rate, Some(i)).0).fold(f64::INFINITY, f64::min);
            assert!(now < best * 1.03, "{rate} GB/s: {now} ns, best {best} ns, {used:?}");
        }
        let (_, used) = model(1.0, None);
        assert!(used[0] > 500 && used[1] > 3000, "between two methods it mixes them: {used:?}");
    }
}
