//! Names of the dead kernel and where they are: all of them, looked up by a hash.

use std::hash::{DefaultHasher, Hasher as _};

use lifeboat_sources::kallsyms::{Kallsyms, KallsymsError};
use lifeboat_sources::paging::ReadVirt;
use lifeboat_sources::vmcoreinfo::VmcoreInfo;

/// A number that stands for a name. Two of a million names share one with a chance of
/// less than 2^-24; a hostile table may say anything of a name anyhow.
pub(super) fn hash(name: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(name);
    hasher.finish()
}

/// Addresses by the hash of a name. 16 bytes a symbol.
#[derive(Debug, Default)]
pub(super) struct Symbols {
    sorted: Vec<(u64, u64)>,
}

impl Symbols {
    /// Of addresses with hashes, in any order.
    pub(super) fn new(mut list: Vec<(u64, u64)>) -> Self {
        list.sort_unstable();
        list.dedup();
        Self { sorted: list }
    }

    /// The symbols of vmlinux, by its own table.
    pub(super) fn of_kernel(
        info: &VmcoreInfo<'_>,
        mut reader: impl ReadVirt,
    ) -> Result<Self, KallsymsError> {
        let (table, _) = Kallsyms::open(info, &mut reader, &[])?;
        let mut hashes = Vec::new();
        table.walk(&mut reader, |symbol| {
            hashes.push(hash(symbol.name));
            true
        })?;
        let mut list = Vec::with_capacity(hashes.len());
        for (number, hash) in (0..).zip(hashes) {
            list.push((hash, table.address(&mut reader, number)?));
        }
        Ok(Self::new(list))
    }

    /// All addresses of a name, ascending.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = u64> + '_ {
        let want = hash(name.as_bytes());
        let from = self.sorted.partition_point(|(hash, _)| *hash < want);
        let rest = self.sorted.get(from..).unwrap_or_default();
        rest.iter().take_while(move |(hash, _)| *hash == want).map(|(_, addr)| *addr)
    }

    /// The address of a name, where there is exactly one.
    pub(super) fn only(&self, name: &str) -> Option<u64> {
        let mut all = self.all(name);
        all.next().filter(|_| all.next().is_none())
    }

    pub(super) fn len(&self) -> usize {
        self.sorted.len()
    }
}
