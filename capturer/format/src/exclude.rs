//! Which kinds of pages are left out of a dump.
//!
//! The words are those of the profile (`capture.exclude`) and of the boot
//! configuration; each says what a bit of makedumpfile's dump level says, where there
//! is one, so that people know what they get. What a page is, `lifeboat_sources::worth`
//! decides; this is only what was asked for.

use core::fmt;

/// A kind of page that can be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Pages that are all zero (level 1). They are read and counted, and take no
    /// bytes: always on.
    Zero = 0,
    /// Pages in the buddy allocator's lists (level 16).
    Free = 1,
    /// Page cache to which its file system has tied no data of its own (level 2).
    Cache = 2,
    /// All page cache (level 4): says [`Kind::Cache`] too.
    CachePrivate = 3,
    /// Memory of processes (level 8): anonymous and huge pages.
    User = 4,
    /// Pages that were given back to the hypervisor.
    Offline = 5,
    /// Pages that the machine reported as faulty. Wherever the dead kernel's page
    /// records are read and believed, such pages are left out unasked.
    Hwpoison = 6,
}

impl Kind {
    /// All, in the order in which they are written.
    pub const ALL: [Self; 7] = [
        Self::Zero,
        Self::Free,
        Self::Cache,
        Self::CachePrivate,
        Self::User,
        Self::Offline,
        Self::Hwpoison,
    ];

    /// As the profile and the boot configuration say it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Zero => "zero",
            Self::Free => "free",
            Self::Cache => "cache",
            Self::CachePrivate => "cache-private",
            Self::User => "user",
            Self::Offline => "offline",
            Self::Hwpoison => "hwpoison",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A set of [`Kind`]s. [`Kind::Zero`] is in every one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Exclude(u8);

impl Exclude {
    /// Zero pages only: everything that holds anything is kept.
    pub const NOTHING: Self = Self(Kind::Zero.bit());

    /// What a profile that says nothing leaves out: what nobody owns, cannot be read
    /// or must not be. User space stays reproducible.
    pub const DEFAULT: Self =
        Self::NOTHING.with(Kind::Free).with(Kind::Offline).with(Kind::Hwpoison);

    /// This and one more kind.
    #[must_use]
    pub const fn with(self, kind: Kind) -> Self {
        let more = match kind {
            Kind::CachePrivate => Kind::Cache.bit() | kind.bit(),
            _ => kind.bit(),
        };
        Self(self.0 | more)
    }

    /// Whether pages of this kind are left out.
    #[must_use]
    pub const fn has(self, kind: Kind) -> bool {
        self.0 & kind.bit() != 0
    }

    /// Whether somebody has to know what pages are: more than zeros are left out.
    #[must_use]
    pub const fn needs_records(self) -> bool {
        self.0 != Self::NOTHING.0
    }

    /// The kinds in it.
    pub fn kinds(self) -> impl Iterator<Item = Kind> {
        Kind::ALL.into_iter().filter(move |k| self.has(*k))
    }

    /// Reads words with a comma between them, in any order.
    ///
    /// # Errors
    /// A text that names the words there are, for an empty, unknown or doubled one.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let mut out = Self::NOTHING;
        let mut seen = 0;
        for word in text.split(',') {
            let kind = Kind::ALL.into_iter().find(|k| k.word() == word).ok_or(
                "exclude is some of zero, free, cache, cache-private, user, offline, hwpoison, with commas",
            )?;
            if seen & kind.bit() != 0 {
                return Err("exclude has a word twice");
            }
            seen |= kind.bit();
            out = out.with(kind);
        }
        Ok(out)
    }
}

impl fmt::Display for Exclude {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, kind) in self.kinds().enumerate() {
            f.write_str(if n > 0 { "," } else { "" })?;
            f.write_str(kind.word())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Exclude {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Exclude({self})")
    }
}
