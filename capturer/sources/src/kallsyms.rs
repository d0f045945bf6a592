//! kallsyms: the names of a kernel's symbols, as its own table in its own memory.
//!
//! Written by `scripts/kallsyms.c`, read by `kernel/kallsyms.c`; VMCOREINFO tells where
//! the tables are since 6.0 (commit 5fd8fea935a1). A symbol is a length (of two bytes
//! from 128 on, since 6.1, commit 73bbb94466fd) and as many numbers of tokens; put
//! together they are a letter for the kind and the name. An address is one of
//!
//! * `kallsyms_addresses[n]`;
//! * `kallsyms_relative_base + kallsyms_offsets[n]`, unsigned;
//! * with `CONFIG_KALLSYMS_ABSOLUTE_PERCPU`, `kallsyms_relative_base - 1 - offset` for a
//!   negative offset, and else the offset itself.
//!
//! VMCOREINFO does not say which of the last two: what it says of some symbols decides,
//! and whatever it says of them must hold. This module refuses to go on where that fails,
//! or where a table cannot be; it follows no length without a bound.

mod torn;

use crate::bytes::{le16, le32, le64};
use crate::paging::{PagingError, ReadVirt};
use crate::vmcoreinfo::VmcoreInfo;
use crate::window::{WINDOW, Window};

/// Most symbols; a kernel with everything in it has some 600,000.
const MAX_SYMBOLS: u32 = 1 << 22;
/// Most bytes of all compressed names.
const MAX_NAMES: u64 = 64 << 20;
/// Most bytes of a token (`kallsyms_token_table`).
const MAX_TOKEN: usize = 512;
/// Most bytes of a symbol, its letter included: `KSYM_NAME_LEN` (512 since 6.1) and one.
pub const MAX_NAME: usize = 513;
/// Numbers of tokens.
const TOKENS: usize = 256;
/// Symbols that VMCOREINFO may know, and that are looked at to see that this is right.
const KNOWN: [&str; 5] = ["_stext", "init_uts_ns", "prb", "node_data", "init_top_pgt"];
/// How many of these must be there.
const MIN_KNOWN: usize = 2;

/// Why the table is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KallsymsError {
    /// VMCOREINFO lacks something.
    #[error("VMCOREINFO has no SYMBOL({0})\nhint: kernels tell it since 6.0")]
    Missing(&'static str),
    /// A number that cannot be.
    #[error(
        "kallsyms: {what} is {value:#x}, which cannot be\nhint: the table is damaged, or too new"
    )]
    Odd {
        /// Of what.
        what: &'static str,
        /// The number.
        value: u64,
    },
    /// Too few symbols are known to both to tell how addresses are told.
    #[error(
        "kallsyms and VMCOREINFO have fewer than two symbols in common\nhint: one of the two is damaged, or too new"
    )]
    Unconfirmed,
    /// A symbol is elsewhere than VMCOREINFO says.
    #[error(
        "kallsyms puts {0} elsewhere than VMCOREINFO does\nhint: one of the two is damaged, or the table is too new"
    )]
    Contradiction(&'static str),
    /// It cannot be read.
    #[error("kallsyms: {0}\nhint: the machine lost that memory")]
    Memory(#[from] PagingError),
}

/// How an address is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Absolute,
    /// Unsigned offsets from this address.
    Relative(u64),
    /// Negative offsets from it; others are addresses themselves.
    PerCpu(u64),
}

/// A symbol by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hits {
    /// Address of the first one.
    pub address: u64,
    /// How many symbols have the name.
    pub count: u32,
}

impl Hits {
    /// The address, where there is exactly one.
    #[must_use]
    pub fn only(self) -> Option<u64> {
        (self.count == 1).then_some(self.address)
    }
}

/// A symbol as it lies in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Symbol<'a> {
    /// Its number, in order of address.
    pub number: u32,
    /// Its kind, as `nm(1)` says it.
    pub kind: u8,
    /// Its name.
    pub name: &'a [u8],
}

/// How far a walk over the names is.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// The next symbol.
    number: u32,
    /// Where it is.
    at: u64,
}

/// The table of one kernel.
#[derive(Debug)]
pub struct Kallsyms {
    names: u64,
    count: u32,
    token_table: u64,
    /// Tokens, one behind the other, each ended by NUL.
    tokens: Vec<u8>,
    /// Where each token begins in `tokens`.
    index: Index,
    /// How long it is.
    sizes: Index,
    addresses: u64,
    form: Form,
}

impl Kallsyms {
    /// Reads the tokens and finds out, by one walk over all names, how addresses are told
    /// and where the symbols `wanted` are. Allocates some KiB that stay and 128 KiB that
    /// do not.
    ///
    /// # Errors
    /// [`KallsymsError`].
    pub fn open(
        info: &VmcoreInfo<'_>,
        mut reader: impl ReadVirt,
        wanted: &[&str],
    ) -> Result<(Self, Vec<Hits>), KallsymsError> {
        let (mut this, other) = Self::tables(info, &mut reader)?;
        let all: Vec<&str> = KNOWN.iter().chain(wanted).copied().collect();
        let found = this.numbers(&mut reader, &all)?;
        let (known, found) = found.split_at_checked(KNOWN.len()).unwrap_or_default();
        this.settle(other, |this| this.check(info, &mut reader, known))?;
        let hits = this.hits(&mut reader, found)?;
        Ok((this, hits))
    }

    /// Reads all but names and addresses. Gives the form that addresses may have as well.
    fn tables(
        info: &VmcoreInfo<'_>,
        mut reader: impl ReadVirt,
    ) -> Result<(Self, Form), KallsymsError> {
        let symbol = |name: &'static str| info.symbol(name).ok_or(KallsymsError::Missing(name));
        let names = symbol("kallsyms_names")?;
        let mut raw = [0; 8];
        let (head, _) = raw.split_at_mut(4);
        reader.read_virt(symbol("kallsyms_num_syms")?, head)?;
        let count = le32(&raw, 0).unwrap_or_default();
        if count == 0 || count > MAX_SYMBOLS {
            let value = u64::from(count);
            return Err(KallsymsError::Odd { what: "number of symbols", value });
        }
        let token_table = symbol("kallsyms_token_table")?;
        let index = symbol("kallsyms_token_index")?;
        let (tokens, index, sizes) = tokens(&mut reader, token_table, index)?;
        let (addresses, [form, other]) = match info.symbol("kallsyms_offsets") {
            Some(offsets) => {
                reader.read_virt(symbol("kallsyms_relative_base")?, &mut raw)?;
                let base = le64(&raw, 0).unwrap_or_default();
                (offsets, [Form::Relative(base), Form::PerCpu(base)])
            }
            None => (symbol("kallsyms_addresses")?, [Form::Absolute; 2]),
        };
        Ok((Self { names, count, token_table, tokens, index, sizes, addresses, form }, other))
    }

    /// Finds out which of two forms addresses have.
    fn settle(
        &mut self,
        other: Form,
        mut check: impl FnMut(&Self) -> Result<(), KallsymsError>,
    ) -> Result<(), KallsymsError> {
        match check(self) {
            Err(KallsymsError::Contradiction(_)) => {
                self.form = other;
                check(self)
            }
            decided => decided,
        }
    }

    /// How many symbols there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Every symbol in order, until `each` says false.
    ///
    /// # Errors
    /// [`KallsymsError`], at the first name that cannot be.
    pub fn walk(
        &self,
        reader: impl ReadVirt,
        mut each: impl FnMut(Symbol<'_>) -> bool,
    ) -> Result<(), KallsymsError> {
        let mut name = [0; MAX_NAME];
        self.entries(reader, |number, tokens| {
            self.entry(number, tokens, &mut name).map(&mut each).ok_or(())
        })
    }

    /// The symbol that these tokens are.
    fn entry<'b>(
        &self,
        number: u32,
        tokens: &[u8],
        out: &'b mut [u8; MAX_NAME],
    ) -> Option<Symbol<'b>> {
        let (kind, name) = self.expand(tokens, out)?.split_first()?;
        Some(Symbol { number, kind: *kind, name })
    }

    /// The numbers of each symbol's tokens, until `each` says false. An error of `each`
    /// says that they are none.
    fn entries(
        &self,
        reader: impl ReadVirt,
        each: impl FnMut(u32, &[u8]) -> Result<bool, ()>,
    ) -> Result<(), KallsymsError> {
        let mut place = Place { number: 0, at: self.names };
        self.entries_to(reader, &mut Window::new(), &mut place, self.count, each)
    }

    /// As [`Kallsyms::entries`], from `place` on and up to a number. `place` is then where
    /// it ended, for whatever reason.
    fn entries_to(
        &self,
        mut reader: impl ReadVirt,
        window: &mut Window,
        place: &mut Place,
        until: u32,
        mut each: impl FnMut(u32, &[u8]) -> Result<bool, ()>,
    ) -> Result<(), KallsymsError> {
        let end = self.names.saturating_add(MAX_NAMES);
        while place.number < until {
            let at = place.at;
            let odd = KallsymsError::Odd { what: "a name", value: at };
            let (mut len, mut head) = match window.get(&mut reader, at, 1, end)? {
                Some([len]) => (usize::from(*len), 1),
                _ => return Err(odd),
            };
            if len & 0x80 != 0 {
                let Some([low, high]) = window.get(&mut reader, at, 2, end)? else {
                    return Err(odd);
                };
                (len, head) = (usize::from(low & 0x7f) | usize::from(*high) << 7, 2);
            }
            let entry = window.get(&mut reader, at, head + len, end)?;
            let tokens = entry.and_then(|e| e.get(head..)).ok_or(odd)?;
            if !each(place.number, tokens).map_err(|()| odd)? {
                return Ok(());
            }
            *place = Place { number: place.number + 1, at: at + (head + len) as u64 };
        }
        Ok(())
    }

    /// The address of a symbol by its number.
    ///
    /// # Errors
    /// [`KallsymsError`].
    pub fn address(&self, mut reader: impl ReadVirt, number: u32) -> Result<u64, KallsymsError> {
        let odd = KallsymsError::Odd { what: "number of a symbol", value: u64::from(number) };
        let width = if self.form == Form::Absolute { 8 } else { 4 };
        let at = self.addresses.checked_add(u64::from(number) * width);
        let at = at.filter(|_| number < self.count).ok_or(odd)?;
        let mut raw = [0; 8];
        let (low, _) = raw.split_at_mut(usize::try_from(width).unwrap_or(8));
        reader.read_virt(at, low)?;
        let value = le64(&raw, 0).unwrap_or_default();
        // The upper half is what was not read: zeros.
        let offset = u32::try_from(value).unwrap_or_default();
        Ok(match self.form {
            Form::Absolute => value,
            Form::Relative(base) => base.wrapping_add(u64::from(offset)),
            Form::PerCpu(base) if offset.cast_signed() < 0 => {
                let back = i64::from(offset.cast_signed());
                base.wrapping_sub(1).wrapping_sub(back.cast_unsigned())
            }
            Form::PerCpu(_) => u64::from(offset),
        })
    }

    /// The symbols of these names, by one walk over all.
    ///
    /// # Errors
    /// [`KallsymsError`].
    pub fn find(
        &self,
        mut reader: impl ReadVirt,
        wanted: &[&str],
    ) -> Result<Vec<Hits>, KallsymsError> {
        let found = self.numbers(&mut reader, wanted)?;
        self.hits(&mut reader, &found)
    }

    fn hits(
        &self,
        mut reader: impl ReadVirt,
        found: &[Option<(u32, u32)>],
    ) -> Result<Vec<Hits>, KallsymsError> {
        let mut out = Vec::with_capacity(found.len());
        for numbers in found {
            let address = match numbers {
                Some((number, _)) => self.address(&mut reader, *number)?,
                None => 0,
            };
            out.push(Hits { address, count: numbers.map_or(0, |(_, count)| count) });
        }
        Ok(out)
    }

    /// For each name, the number of the first symbol of that name, and how many have it.
    fn numbers(
        &self,
        reader: impl ReadVirt,
        wanted: &[&str],
    ) -> Result<Vec<Option<(u32, u32)>>, KallsymsError> {
        let mut found = vec![None; wanted.len()];
        let mut lengths = [false; MAX_NAME + 1];
        for want in wanted {
            if let Some(slot) = lengths.get_mut(want.len() + 1) {
                *slot = true;
            }
        }
        let mut name = [0; MAX_NAME];
        self.entries(reader, |number, tokens| {
            // Most are put together for nothing: look at their length first.
            let sizes = tokens.iter().map(|t| self.sizes.get(usize::from(*t)).copied());
            let len = sizes.fold(0, |len, size| len + usize::from(size.unwrap_or(u16::MAX)));
            if len == 0 || len > MAX_NAME {
                return Err(());
            }
            if !lengths.get(len).is_some_and(|l| *l) {
                return Ok(true);
            }
            let full = self.expand(tokens, &mut name).ok_or(())?;
            let (_, name) = full.split_first().ok_or(())?;
            for (want, slot) in wanted.iter().zip(&mut found) {
                if want.as_bytes() == name {
                    let (_, count) = slot.get_or_insert((number, 0));
                    *count += 1;
                }
            }
            Ok(true)
        })?;
        Ok(found)
    }

    /// Whether the addresses of known symbols are what VMCOREINFO says.
    fn check(
        &self,
        info: &VmcoreInfo<'_>,
        mut reader: impl ReadVirt,
        found: &[Option<(u32, u32)>],
    ) -> Result<(), KallsymsError> {
        let mut right = 0;
        for (name, found) in KNOWN.iter().zip(found) {
            // A name that is there twice says nothing.
            let Some((number, 1)) = found else { continue };
            let Some(want) = info.symbol(name) else { continue };
            if self.address(&mut reader, *number)? != want {
                return Err(KallsymsError::Contradiction(name));
            }
            right += 1;
        }
        if right < MIN_KNOWN { Err(KallsymsError::Unconfirmed) } else { Ok(()) }
    }

    /// Puts a name's tokens together.
    fn expand<'b>(&self, numbers: &[u8], out: &'b mut [u8; MAX_NAME]) -> Option<&'b [u8]> {
        let mut len = 0;
        for number in numbers {
            let at = usize::from(*self.index.get(usize::from(*number))?);
            let size = usize::from(*self.sizes.get(usize::from(*number))?);
            let token = self.tokens.get(at..at + size)?;
            out.get_mut(len..len + size)?.copy_from_slice(token);
            len += size;
        }
        out.get(..len)
    }
}

/// A number for each token.
type Index = [u16; TOKENS];

/// Reads `kallsyms_token_index` and `kallsyms_token_table`: the tokens, where each
/// begins and how long it is.
fn tokens(
    reader: &mut impl ReadVirt,
    table: u64,
    index: u64,
) -> Result<(Vec<u8>, Index, Index), KallsymsError> {
    let odd = |what, value| KallsymsError::Odd { what, value };
    let mut raw = [0; 2 * TOKENS];
    reader.read_virt(index, &mut raw)?;
    let mut places = [0u16; TOKENS];
    let mut last = 0;
    for (n, place) in places.iter_mut().enumerate() {
        let at = le16(&raw, 2 * n).unwrap_or_default();
        // Each takes at least its NUL.
        if n > 0 && at <= last || n == 0 && at != 0 {
            return Err(odd("place of a token", u64::from(at)));
        }
        (*place, last) = (at, at);
    }
    let mut window = Window::new();
    let most = usize::from(last) + MAX_TOKEN;
    let end = table.saturating_add(most as u64);
    let mut bytes = Vec::with_capacity(most);
    // The last token ends at a NUL; what lies behind it need not be there.
    while bytes.len() <= usize::from(last) || bytes.last() != Some(&0) {
        let at = table.saturating_add(bytes.len() as u64);
        match window.get(reader, at, 1, end)? {
            Some([byte]) => bytes.push(*byte),
            _ => return Err(odd("length of a token", bytes.len() as u64)),
        }
    }
    let mut sizes = [0; TOKENS];
    for (at, size) in places.iter().zip(&mut sizes) {
        let rest = bytes.get(usize::from(*at)..).unwrap_or_default();
        let len = rest.iter().position(|b| *b == 0).filter(|len| *len < MAX_TOKEN);
        let len = len.and_then(|len| u16::try_from(len).ok());
        *size = len.ok_or(odd("length of a token", u64::from(*at)))?;
    }
    Ok((bytes, places, sizes))
}

const _: () = assert!(MAX_NAME < WINDOW && 2 + (0x7f | 0xff << 7) < WINDOW, "a name fits a window");
