//! A set of pages that grows, and says what it was given twice.

use std::collections::BTreeMap;

use lifeboat_format::PageRange;

/// Most stretches that a set keeps, of some 40 bytes each. A machine of 1 TiB whose
/// layers alternate every 64 KiB has as many; what passes it is no dump of ours.
pub(crate) const MAX_STRETCHES: usize = 1 << 24;

/// Pages as disjoint stretches that do not touch.
#[derive(Debug, Default)]
pub(crate) struct RangeSet {
    /// First page → first page behind.
    map: BTreeMap<u64, u64>,
    overflown: bool,
}

impl RangeSet {
    /// Adds pages; those that were there already are given to `twice`.
    pub(crate) fn insert(&mut self, range: PageRange, twice: &mut impl FnMut(PageRange)) {
        if range.pages() == 0 || self.overflown {
            return;
        }
        let (mut start, mut end) = (range.start.0, range.end.0);
        let before = self.map.range(..=start).next_back().map(|(s, e)| (*s, *e));
        if let Some((s, e)) = before.filter(|(_, e)| *e >= start) {
            self.map.remove(&s);
            if e > start {
                twice(PageRange::new(start, e.min(range.end.0)));
            }
            start = s;
            end = end.max(e);
        }
        while let Some((s, e)) = self.map.range(start..=end).next().map(|(s, e)| (*s, *e)) {
            self.map.remove(&s);
            if s < range.end.0 {
                twice(PageRange::new(s, e.min(range.end.0)));
            }
            end = end.max(e);
        }
        if self.map.len() >= MAX_STRETCHES {
            self.overflown = true;
            return;
        }
        self.map.insert(start, end);
    }

    /// Whether there were more stretches than are kept: the set then says nothing.
    pub(crate) fn overflown(&self) -> bool {
        self.overflown
    }

    /// The pages, ascending.
    pub(crate) fn ranges(&self) -> Vec<PageRange> {
        self.map.iter().map(|(s, e)| PageRange::new(*s, *e)).collect()
    }
}

/// `from` without `what`; both ascending and disjoint.
pub(crate) fn subtract(from: &[PageRange], what: &[PageRange]) -> Vec<PageRange> {
    let mut out = Vec::new();
    let first = from.first().map_or(0, |r| r.start.0);
    let skip = what.partition_point(|h| h.end.0 <= first);
    let mut holes = what.get(skip..).unwrap_or_default().iter().peekable();
    for range in from {
        let mut at = range.start.0;
        while holes.next_if(|h| h.end.0 <= at).is_some() {}
        // A hole may reach into the next range: look at it without taking it.
        while let Some(hole) = holes.peek().copied().filter(|h| h.start.0 < range.end.0) {
            if hole.start.0 > at {
                out.push(PageRange::new(at, hole.start.0));
            }
            at = at.max(hole.end.0);
            if hole.end.0 >= range.end.0 {
                break;
            }
            holes.next();
        }
        if at < range.end.0 {
            out.push(PageRange::new(at, range.end.0));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dump::merge;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn any_ranges() -> impl Strategy<Value = Vec<PageRange>> {
        proptest::collection::vec((0u64..200, 0u64..30), 0..16)
            .prop_map(|v| v.into_iter().map(|(s, n)| PageRange::new(s, s + n)).collect())
    }

    fn set(ranges: &[PageRange]) -> BTreeSet<u64> {
        ranges.iter().flat_map(|r| r.start.0..r.end.0).collect()
    }

    proptest! {
        #[test]
        fn subtraction_is_that_of_sets(a in any_ranges(), b in any_ranges()) {
            let out = subtract(&merge(a.clone()), &merge(b.clone()));
            prop_assert_eq!(set(&out), &set(&a) - &set(&b));
            prop_assert!(out.windows(2).all(|w| w[0].end <= w[1].start));
        }

        #[test]
        fn a_set_holds_each_page_once_and_tells_what_came_twice(all in any_ranges()) {
            let (mut ours, mut model) = (RangeSet::default(), BTreeSet::new());
            for r in &all {
                let mut twice = Vec::new();
                ours.insert(*r, &mut |again| twice.push(again));
                let new = set(&[*r]);
                prop_assert_eq!(set(&twice), &new & &model);
                prop_assert_eq!(twice.iter().map(|t| t.pages()).sum::<u64>(), (&new & &model).len() as u64);
                model.extend(new);
            }
            prop_assert_eq!(set(&ours.ranges()), model);
            prop_assert!(ours.ranges().windows(2).all(|w| w[0].end < w[1].start));
        }
    }
}
