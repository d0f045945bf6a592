//! How many of the pages that are asked for will hold data, told from a few of them.
//!
//! It is a guess for the choice of codecs ([`crate::Tuner::expect`]), on the careful side.
//! Nothing is left out of the dump for it.

use lifeboat_format::{PAGE, PageRange, Pfn};

use crate::worker::only_word;
use crate::{Input, Place, cursor};

/// Pages that are looked at, spread evenly: 4 MiB of reading, whatever the machine's size.
const SAMPLES: u32 = 1024;

/// Pages of `ranges` that will be stored, estimated from 1024 of them and rounded up by
/// three standard errors: at 20 % of data about 4 % of all pages. A page that cannot be
/// read counts as data; identical pages count each time.
///
/// Allocates 8 KiB, so it comes before the heap is sealed.
pub fn estimate(ranges: &[PageRange], input: &mut Input<'_>) -> u64 {
    let all = cursor::sum(ranges);
    let mut buf = vec![0u8; 2 * PAGE];
    let start = buf.as_ptr().align_offset(PAGE).min(PAGE);
    let page = buf.get_mut(start..start + PAGE).unwrap_or_default();
    let mut data = 0u32;
    for n in 0..SAMPLES {
        // Each in its own share of the pages, at a place that no stride of theirs repeats.
        let within = n.wrapping_mul(0x9e37_79b9) >> 16;
        let at = (u128::from(n) << 16) + u128::from(within);
        let at = (u128::from(all) * at) / (u128::from(SAMPLES) << 16);
        if let Some(pfn) = nth(ranges, u64::try_from(at).unwrap_or(u64::MAX)) {
            data += u32::from(is_data(pfn, page, input));
        }
    }
    let (part, of) = (f64::from(data) / f64::from(SAMPLES), f64::from(SAMPLES));
    // One more than none and one less than all: even these are only what was seen.
    let part = part.clamp(1.0 / of, 1.0 - 1.0 / of);
    let most = part + 3.0 * (part * (1.0 - part) / of).sqrt();
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a guess, and not negative"
    )]
    let pages = (all as f64 * most) as u64;
    pages.min(all)
}

fn nth(ranges: &[PageRange], mut n: u64) -> Option<Pfn> {
    for range in ranges {
        if n < range.pages() {
            return Some(Pfn(range.start.0 + n));
        }
        n -= range.pages();
    }
    None
}

fn is_data(pfn: Pfn, page: &mut [u8], input: &mut Input<'_>) -> bool {
    if let Some(places) = input.places.as_mut() {
        let mut place = [Place::Out];
        places.places(pfn, &mut place);
        if place == [Place::Out] {
            return false;
        }
    }
    let mut bad = false;
    let read = input.pages.read(pfn, page, &mut |_| bad = true);
    read.is_err() || bad || only_word(page).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PageRead, PlaceRead, ReadFault};

    /// Every page of which `data` says so holds more than one word.
    struct Pattern(fn(u64) -> bool);

    impl PageRead for Pattern {
        fn read(
            &mut self,
            first: Pfn,
            buf: &mut [u8],
            bad: &mut dyn FnMut(usize),
        ) -> Result<(), ReadFault> {
            assert_eq!(buf.as_ptr().align_offset(PAGE), 0, "readers may use O_DIRECT");
            buf.fill(0);
            buf[100] = u8::from((self.0)(first.0));
            if first.0 == 7 {
                bad(0);
            }
            Ok(())
        }
    }

    struct Half;

    impl PlaceRead for Half {
        fn places(&mut self, first: Pfn, out: &mut [Place]) {
            let place = |pfn| {
                if pfn < 500_000 { Place::In(lifeboat_format::Layer::User) } else { Place::Out }
            };
            (first.0..).zip(out).for_each(|(pfn, out)| *out = place(pfn));
        }
    }

    fn ranges() -> [PageRange; 2] {
        [0..300_000u64, 400_000..1_100_000]
            .map(|r| PageRange { start: Pfn(r.start), end: Pfn(r.end) })
    }

    /// The bound holds, and not by far, for data in blocks, in strides and in one half.
    #[test]
    fn it_is_a_little_more_than_there_is() {
        let patterns: [fn(u64) -> bool; 6] = [
            |_| false,
            |_| true,
            |pfn| pfn < 200_000,
            |pfn| pfn % 1024 == 3,
            |pfn| (pfn / 977) % 5 == 0,
            |pfn| pfn % 2 == 0,
        ];
        for (n, pattern) in patterns.into_iter().enumerate() {
            let truth = ranges().into_iter().flat_map(|r| r.start.0..r.end.0);
            let truth = truth.filter(|pfn| pattern(*pfn)).count() as u64;
            let mut pages = Pattern(pattern);
            let guess = estimate(&ranges(), &mut Input { pages: &mut pages, places: None });
            assert!(guess >= truth, "pattern {n}: {guess} of {truth}");
            assert!(guess <= truth + 60_000, "pattern {n}: {guess} of {truth}");
        }
    }

    #[test]
    fn what_is_left_out_is_no_data() {
        let (mut pages, mut places) = (Pattern(|_| true), Half);
        let mut input = Input { pages: &mut pages, places: Some(&mut places) };
        let guess = estimate(&ranges(), &mut input);
        assert!((400_000..450_000).contains(&guess), "{guess} of 400000");
        assert_eq!(estimate(&[], &mut input), 0);
    }
}
