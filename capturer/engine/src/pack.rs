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

pub use lifeboat_format::bootcfg::{MAX_METHODS, Method};

/// What packs payloads. One a worker; it allocates nothing once it is made.
pub trait Compress {
    /// Packs `raw` into the start of `out`; `None` where it does not fit, or for
    /// [`Method::Store`].
    fn compress(&mut self, method: Method, raw: &[u8], out: &mut [u8]) -> Option<usize>;
}

impl<T: Compress + ?Sized> Compress for Box<T> {
    fn compress(&mut self, method: Method, raw: &[u8], out: &mut [u8]) -> Option<usize> {
        (**self).compress(method, raw, out)
    }
}

/// One chunk in so many is packed by several methods: about 1 % of the time.
const SAMPLE_EVERY: u32 = 256;
/// Weight of a sample in the averages, as a shift: one eighth.
const SHIFT: u32 = 3;
/// The price's logarithm to base 2, in 1/1024, of picoseconds a byte: from where
/// storing is always best to where the strongest method is. Between two usual methods
/// it lies at 2 to 80 ns a byte.
const MIN_PRICE: i32 = 6 << 10;
const MAX_PRICE: i32 = 18 << 10;
/// At first as of a disk of some 300 MB/s.
const FIRST_PRICE: i32 = 12 << 10;
/// Change of the price a chunk when all buffers are full: 2 %, so that ten times the
/// price takes about a hundred chunks, some 10 to 50 ms.
const STEP: i32 = 60;
/// How much the state of the buffers counts at once: half or twice the price.
const LEAN: i32 = 2 << 10;

/// Chooses the method for each chunk. Shared by all workers.
#[derive(Debug)]
pub struct Tuner {
    ladder: heapless::Vec<Method, MAX_METHODS>,
    rungs: [Rung; MAX_METHODS],
    chunks: AtomicU32,
    price: AtomicI32,
    /// What the buffers' state adds to the price.
    lean: AtomicI32,
}

/// What is known of one method.
#[derive(Debug, Default)]
struct Rung {
    /// Picoseconds of a CPU for a byte of payload.
    cost: AtomicU32,
    /// Bytes that are left of 65536.
    size: AtomicU32,
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
        }
    }

    /// The methods.
    #[must_use]
    pub fn ladder(&self) -> &[Method] {
        &self.ladder
    }

    /// The last and strongest method: for what is small and must be there.
    #[must_use]
    pub fn strongest(&self) -> Method {
        self.ladder.last().copied().unwrap_or(Method::Store)
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
        average(&rung.cost, u32::try_from(cost).unwrap_or(u32::MAX));
        average(&rung.size, u32::try_from(size).unwrap_or(u32::MAX));
    }

    /// The best method now: its place in the ladder.
    pub(crate) fn choose(&self) -> usize {
        if self.ladder.len() < 2 {
            return 0;
        }
        let log = self.price.load(Relaxed).saturating_add(self.lean.load(Relaxed));
        #[allow(clippy::cast_precision_loss, reason = "a few bits are enough")]
        let price = (log as f32 / 1024.0).exp2();
        let mut best = (f32::INFINITY, 0);
        for (index, rung) in self.rungs.iter().enumerate().take(self.ladder.len()) {
            #[allow(clippy::cast_precision_loss, reason = "averages")]
            let (cost, size) = (rung.cost.load(Relaxed) as f32, rung.size.load(Relaxed) as f32);
            let sum = cost + price * size / 65536.0;
            if sum < best.0 {
                best = (sum, index);
            }
        }
        best.1
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

/// A moving average; the first value counts whole. Two workers at once may lose one.
fn average(of: &AtomicU32, value: u32) {
    let old = of.load(Relaxed);
    let new = if old == 0 { value } else { old - (old >> SHIFT) + (value >> SHIFT) };
    of.store(new.max(1), Relaxed);
}

#[cfg(test)]
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

    /// A model of a machine and a disk: the mixture must come out near the best one.
    #[test]
    fn between_two_methods_it_mixes_them() {
        // Two CPUs; chunks of 256 KiB; a disk of 0.5 GB/s: lz4 is the best single method.
        let (costs, sizes) = ([20u64, 1000, 1500, 2300], [1000u64, 440, 350, 340]);
        let tuner = taught();
        let (mut queued, mut now) = (0f64, 0f64);
        let (raw, rate, room) = (262_144f64, 0.5, 4e6);
        let chunks = 4000;
        for _ in 0..chunks {
            let index = tuner.choose();
            tuner.count(index, 262_144);
            let busy = costs[index] as f64 * raw / 1000.0 / 2.0;
            now += busy;
            queued = (queued - busy * rate).max(0.0) + raw * sizes[index] as f64 / 1000.0;
            if queued > room {
                now += (queued - room) / rate;
                queued = room;
            }
            tuner.pressure((queued / room * 8.0) as usize, 8);
        }
        let total = f64::from(chunks) * raw;
        let best = (0..4)
            .map(|i| {
                let cpu = costs[i] as f64 / 1000.0 / 2.0;
                let disk = sizes[i] as f64 / 1000.0 / rate;
                cpu.max(disk) * total
            })
            .fold(f64::INFINITY, f64::min);
        assert!(now < best * 1.05, "{now} ns, the best single method {best} ns");
        let used: Vec<u64> = tuner.used().map(|(_, n, _)| n).collect();
        assert!(used[1] > 0 && used[2] > 0, "{used:?}");
    }
}
