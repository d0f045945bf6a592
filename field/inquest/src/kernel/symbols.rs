//! Names of the dead kernel and where they are: all of them, looked up by a hash.

use std::hash::{DefaultHasher, Hasher as _};

use lifeboat_format::PAGE;
use lifeboat_sources::kallsyms::{Kallsyms, KallsymsError, Symbol};
use lifeboat_sources::paging::{PagingError, ReadVirt};
use lifeboat_sources::vmcoreinfo::VmcoreInfo;

use super::KernelError;

/// A number that stands for a name. Two of a million names share one with a chance of
/// less than 2^-24; a hostile table may say anything of a name anyhow.
pub(super) fn hash(name: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(name);
    hasher.finish()
}

/// Addresses by the hash of a name. 16 bytes a symbol.
///
/// Where pages of the kernel's table are missing, so are symbols. A name that is there once
/// may then have had a second one; what the inquest asks for has none in any kernel that it
/// knows.
#[derive(Debug, Default)]
pub(super) struct Symbols {
    sorted: Vec<(u64, u64)>,
    /// Hashes of the names whose addresses are lost, sorted.
    homeless: Vec<u64>,
    /// Symbols that are lost, with their names or without.
    lost: u32,
}

impl Symbols {
    /// Of addresses with hashes, in any order.
    pub(super) fn new(mut list: Vec<(u64, u64)>) -> Self {
        list.sort_unstable();
        list.dedup();
        Self { sorted: list, ..Self::default() }
    }

    /// The symbols of vmlinux, by its own table; those that are there.
    pub(super) fn of_kernel(
        info: &VmcoreInfo<'_>,
        mut reader: impl ReadVirt,
    ) -> Result<Self, KallsymsError> {
        let mut reader = Failing { reader: &mut reader, last: None };
        let mut list = Vec::new();
        let each = |symbol: Symbol<'_>| list.push((hash(symbol.name), u64::from(symbol.number)));
        let (table, nameless) = Kallsyms::open_torn(info, &mut reader, each)?;
        let (mut homeless, mut failed) = (Vec::new(), None);
        // From its number to its address.
        list.retain_mut(|(hash, place)| {
            let number = u32::try_from(*place).unwrap_or(u32::MAX);
            match table.address(&mut reader, number) {
                Ok(addr) => *place = addr,
                Err(KallsymsError::Memory(_)) => {
                    homeless.push(*hash);
                    return false;
                }
                Err(why) => failed = failed.or(Some(why)),
            }
            true
        });
        if let Some(why) = failed {
            return Err(why);
        }
        let lost = nameless.saturating_add(u32::try_from(homeless.len()).unwrap_or(u32::MAX));
        homeless.sort_unstable();
        Ok(Self { homeless, lost, ..Self::new(list) })
    }

    /// All addresses of a name that are known, ascending.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = u64> + '_ {
        let want = hash(name.as_bytes());
        let from = self.sorted.partition_point(|(hash, _)| *hash < want);
        let rest = self.sorted.get(from..).unwrap_or_default();
        rest.iter().take_while(move |(hash, _)| *hash == want).map(|(_, addr)| *addr)
    }

    /// Whether there is a symbol of the name, be its address known or lost.
    pub(super) fn has(&self, name: &str) -> bool {
        self.all(name).next().is_some() || self.is_homeless(name)
    }

    fn is_homeless(&self, name: &str) -> bool {
        self.homeless.binary_search(&hash(name.as_bytes())).is_ok()
    }

    /// The address of a name, where there is exactly one.
    pub(super) fn only(&self, name: &str) -> Option<u64> {
        let mut all = self.all(name);
        all.next().filter(|_| all.next().is_none() && !self.is_homeless(name))
    }

    /// Why [`Symbols::only`] has no answer; `None` where there is no such symbol for sure.
    pub(super) fn lost(&self, name: &str) -> Option<KernelError> {
        let unsure = self.is_homeless(name) || self.lost > 0 && !self.has(name);
        unsure.then(|| KernelError::LostSymbol { name: name.to_owned(), lost: self.lost })
    }

    /// As [`Symbols::only`].
    ///
    /// # Errors
    /// [`KernelError::Symbol`], [`KernelError::LostSymbol`].
    pub(super) fn need(&self, name: &str) -> Result<u64, KernelError> {
        let none = || self.lost(name).unwrap_or_else(|| KernelError::Symbol(name.to_owned()));
        self.only(name).ok_or_else(none)
    }

    /// What is lost, for a report.
    pub(super) fn damage(&self) -> Option<String> {
        let all = self.sorted.len().saturating_add(usize::try_from(self.lost).unwrap_or(0));
        (self.lost > 0).then(|| {
            format!(
                "symbols: {} of {all} are lost with memory that the dump lacks; `--vmlinux FILE` names them",
                self.lost
            )
        })
    }

    pub(super) fn len(&self) -> usize {
        self.sorted.len()
    }
}

/// Remembers the last page that failed, so that a page of which each number is asked for is
/// asked for once.
struct Failing<R> {
    reader: R,
    last: Option<(u64, PagingError)>,
}

impl<R: ReadVirt> ReadVirt for Failing<R> {
    fn read_virt(&mut self, addr: u64, buf: &mut [u8]) -> Result<(), PagingError> {
        let page = PAGE as u64;
        if let Some((_, why)) = self.last.filter(|(failed, _)| *failed == addr / page) {
            return Err(why);
        }
        let read = self.reader.read_virt(addr, buf);
        let inside = addr % page + buf.len() as u64 <= page;
        if let Err(why) = read
            && inside
        {
            self.last = Some((addr / page, why));
        }
        read
    }
}
