//! What is left out, from what was asked for and from what can be told.
//!
//! Each kind means what makedumpfile's dump level of the same number means. Two rules
//! are of our own, and both keep more: shared memory and the swap cache, which are page
//! cache to the kernel and a process's only copy to its owner, go where both `cache` and
//! `user` go; and a kind that this kernel's records cannot tell with certainty is kept.
//! Where VMCOREINFO and BTF contradict each other, nothing is left out. Else faulty pages are,
//! asked for or not.

use std::fmt;

use lifeboat_format::Pfn;
use lifeboat_format::chunk::Layer;
use lifeboat_format::exclude::{Exclude, Kind};

use crate::memory::PhysRead;

use super::Worth;
use super::class::Class;
use super::facts::BtfState;
use super::owners::Witness;
use super::reader::WorthReader;

/// What becomes of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is captured, in this layer; never [`Layer::Address`].
    Layer(Layer),
    /// It is left out.
    Excluded,
}

/// The verdict on each class of pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filter {
    asked: Exclude,
    /// What is left out indeed.
    told: Exclude,
    /// What the two witnesses contradict each other in: then everything is kept.
    contradiction: Option<BtfState>,
}

impl Filter {
    /// What of `exclude` can be left out of the memory that `worth` knows.
    #[must_use]
    pub fn new(worth: &Worth, exclude: Exclude) -> Self {
        if matches!(worth.btf, BtfState::Contradicts { .. }) {
            let contradiction = Some(worth.btf);
            return Self { asked: exclude, told: Exclude::NOTHING, contradiction };
        }
        let told = |kind| match kind {
            Kind::Zero => true,
            Kind::Free => worth.free,
            Kind::Cache | Kind::CachePrivate => worth.owners.files.is_sound(),
            Kind::User => worth.owners.anon.is_sound(),
            Kind::Offline => worth.layout.offline.is_some(),
            Kind::Hwpoison => worth.layout.pg_hwpoison != 0,
        };
        // Faulty pages are not read, asked for or not.
        let told = exclude.with(Kind::Hwpoison).kinds().filter(|kind| told(*kind));
        let told = told.fold(Exclude::NOTHING, Exclude::with);
        Self { asked: exclude, told, contradiction: None }
    }

    /// What becomes of a page of this class.
    #[must_use]
    pub fn verdict(&self, class: Class) -> Verdict {
        let has = |kind| self.told.has(kind);
        let out = match class {
            Class::Kernel => false,
            Class::Offline => has(Kind::Offline),
            Class::Anon | Class::Huge => has(Kind::User),
            Class::Shmem | Class::SwapCache => has(Kind::User) && has(Kind::Cache),
            Class::Cache => has(Kind::Cache),
            Class::CachePrivate => has(Kind::CachePrivate),
            Class::Free => has(Kind::Free),
            Class::Poison => has(Kind::Hwpoison),
        };
        if out { Verdict::Excluded } else { Verdict::Layer(class.layer()) }
    }

    /// Whether any page can be captured in this layer. One of which none can need not be
    /// walked; [`Layer::Address`] and [`Layer::Kernel`] always must.
    #[must_use]
    pub fn keeps(&self, layer: Layer) -> bool {
        let any = |class: &Class| self.verdict(*class) == Verdict::Layer(layer);
        layer == Layer::Address || Class::ALL.iter().any(any)
    }

    /// What was asked for.
    #[must_use]
    pub fn asked(&self) -> Exclude {
        self.asked
    }

    /// What is left out: what was asked for and can be told, and faulty pages; zeros alone
    /// where the witnesses contradict each other.
    #[must_use]
    pub fn excludes(&self) -> Exclude {
        self.told
    }

    /// The verdicts by the number of the class.
    fn table(&self) -> [Verdict; Class::ALL.len()] {
        Class::ALL.map(|class| self.verdict(class))
    }
}

/// One line for the log and the trailer.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "left out: {}", self.told)?;
        if let Some(why) = self.contradiction {
            return write!(f, "; all of {} is kept: {why}", self.asked);
        }
        let reasons = [
            (Kind::Free, "free is kept: the allocator's lists hold no free block"),
            (Kind::Cache, "cache is kept: its pages do not lead to their files"),
            (Kind::User, "user is kept: its pages do not lead to their owners"),
            (Kind::Offline, "offline is kept: nothing tells such pages"),
        ];
        for (kind, reason) in reasons {
            if self.asked.has(kind) && !self.told.has(kind) {
                write!(f, "; {reason}")?;
            }
        }
        Ok(())
    }
}

impl Witness {
    /// Nine in ten of what was looked at, or nothing was there to be looked at.
    pub(super) fn is_sound(self) -> bool {
        self.good * 10 >= self.all * 9
    }
}

/// Says what becomes of each page, for one worker.
#[derive(Debug)]
pub struct Places<'w, R> {
    reader: WorthReader<'w, R>,
    table: [Verdict; Class::ALL.len()],
}

impl<'w, R: PhysRead> Places<'w, R> {
    /// Allocates what [`WorthReader::new`] does; nothing is allocated later.
    #[must_use]
    pub fn new(worth: &'w Worth, exclude: Exclude, memory: R) -> Self {
        let table = Filter::new(worth, exclude).table();
        Self { reader: WorthReader::new(worth, memory), table }
    }

    /// What becomes of each page from `first` on. The same page always gets the same
    /// verdict; one that nothing is known of is kept.
    pub fn places(&mut self, first: Pfn, out: &mut [Verdict]) {
        let table = self.table;
        self.reader.each(first, out, |class| {
            table.get(class as usize).copied().unwrap_or(Verdict::Layer(Layer::Kernel))
        });
    }

    /// As [`WorthReader::doubts`].
    #[must_use]
    pub fn doubts(&self) -> u64 {
        self.reader.doubts()
    }
}
