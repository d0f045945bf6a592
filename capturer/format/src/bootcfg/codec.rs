//! How chunks are packed: one method, or a ladder of them to choose from.

use core::fmt;

use heapless::Vec;

use crate::Codec;

/// Most methods in a ladder.
pub const MAX_METHODS: usize = 6;
/// zstd levels that are taken.
pub const LEVELS: core::ops::RangeInclusive<i32> = -50..=19;

/// A way to pack a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// As it is.
    Store,
    /// LZ4, its fast mode.
    Lz4,
    /// zstd at a level.
    Zstd(i32),
}

impl Method {
    /// The codec that chunk headers name.
    #[must_use]
    pub const fn codec(self) -> Codec {
        match self {
            Self::Store => Codec::Store,
            Self::Lz4 => Codec::Lz4,
            Self::Zstd(_) => Codec::Zstd,
        }
    }

    /// Reads `store`, `lz4` or `zstd LEVEL`; whether zstd has the level, [`Ladder::new`] says.
    ///
    /// # Errors
    /// What is wrong.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let mut words = text.split(' ');
        match (Self::next(&mut words), words.next()) {
            (Some(method), None) => method,
            _ => Err(METHODS),
        }
    }

    /// Takes the words of one method; `None` behind the last word.
    fn next<'t>(words: &mut impl Iterator<Item = &'t str>) -> Option<Result<Self, &'static str>> {
        Some(match words.next()? {
            "store" => Ok(Self::Store),
            "lz4" => Ok(Self::Lz4),
            "zstd" => {
                let level = words.next().and_then(|w| w.parse().ok());
                level.map(Self::Zstd).ok_or("zstd level is not a number")
            }
            _ => Err(METHODS),
        })
    }
}

const METHODS: &str = "codec is of `store`, `lz4` and `zstd LEVEL`";

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store => f.write_str("store"),
            Self::Lz4 => f.write_str("lz4"),
            Self::Zstd(level) => write!(f, "zstd {level}"),
        }
    }
}

/// Methods from the fastest to the strongest. One is used always; of several the
/// capture chooses while it runs, by how fast the disk takes what it makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ladder(Vec<Method, MAX_METHODS>);

impl Ladder {
    /// A ladder of these.
    ///
    /// # Errors
    /// What is wrong: none, too many, not in order, or a level that zstd has not.
    pub fn new(methods: &[Method]) -> Result<Self, &'static str> {
        let list = Vec::from_slice(methods).map_err(|_| "codec has more than 6 methods")?;
        let this = Self(list);
        if methods.is_empty() {
            return Err("codec names no method");
        }
        if !this.levels().all(|level| LEVELS.contains(&level)) {
            return Err("zstd level is from -50 to 19");
        }
        let place = |m: &Method| match m {
            Method::Store => i32::MIN,
            Method::Lz4 => i32::MIN + 1,
            Method::Zstd(level) => *level,
        };
        if !methods.is_sorted_by(|a, b| place(a) < place(b)) {
            return Err("codec names its methods from the fastest to the strongest, each once");
        }
        Ok(this)
    }

    /// The methods.
    #[must_use]
    pub fn methods(&self) -> &[Method] {
        &self.0
    }

    /// The zstd levels among them.
    pub fn levels(&self) -> impl Iterator<Item = i32> + '_ {
        self.0.iter().filter_map(|m| match m {
            Method::Zstd(level) => Some(*level),
            _ => None,
        })
    }

    /// The strongest method, for what is small.
    #[must_use]
    pub fn strongest(&self) -> Method {
        self.0.last().copied().unwrap_or(Method::Store)
    }

    /// Reads `store lz4 zstd 1 zstd 3`.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let mut list: Vec<Method, MAX_METHODS> = Vec::new();
        let mut words = text.split(' ');
        while let Some(method) = Method::next(&mut words) {
            list.push(method?).map_err(|_| "codec has more than 6 methods")?;
        }
        Self::new(&list)
    }
}

impl Default for Ladder {
    /// What any machine and disk can do with: nothing for the fastest disks, and what
    /// gains no more than a few hundredths left out.
    fn default() -> Self {
        let mut list = Vec::new();
        for method in [Method::Store, Method::Lz4, Method::Zstd(1), Method::Zstd(3)] {
            let _ = list.push(method);
        }
        Self(list)
    }
}

impl fmt::Display for Ladder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, method) in self.0.iter().enumerate() {
            let space = if n == 0 { "" } else { " " };
            write!(f, "{space}{method}")?;
        }
        Ok(())
    }
}
