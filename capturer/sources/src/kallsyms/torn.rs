//! The table where some of its pages are missing: the names before and behind them.
//!
//! Names are one stream, in which each begins where the one before it ends. Behind a hole
//! `kallsyms_markers` tells where to go on: for each 256th symbol, how many bytes its name
//! lies behind the first one. VMCOREINFO does not know it, but `scripts/kallsyms.c` puts it
//! between the names and `kallsyms_token_table`: right before that, or before
//! `kallsyms_seqs_of_names`, three bytes a symbol, which lies between the two from 6.2
//! (commit 60443c88f3a8) to 6.3 (until commit 404bad70fcf7), and in older kernels that took
//! it over. Each table begins
//! at a multiple of 8. Which of the two places it is, its numbers decide: they begin with 0
//! and rise by what 256 names can take. Every stretch of names that is read must then end
//! where the next number says.

use crate::bytes::le32;
use crate::paging::{PagingError, ReadVirt};
use crate::vmcoreinfo::VmcoreInfo;
use crate::window::Window;

use super::{KNOWN, Kallsyms, KallsymsError, MAX_NAME, Place, Symbol};

/// Symbols from one marker to the next.
const BLOCK: u32 = 256;
/// Bytes that so many names can take: each is a length and at least one token.
const LEAST: u32 = 2 * BLOCK;
const MOST: u32 = 515 * BLOCK;
const _: () = assert!(2 + MAX_NAME == 515, "the longest name, and its length");

impl Kallsyms {
    /// As [`Kallsyms::open`], of a table that may lack pages of its names and addresses.
    /// What the walk of an undamaged table does not need is read where it is damaged only.
    /// On the way `each` gets every symbol whose name is there, in order; how many are not
    /// is given with the table. Allocates at most 384 KiB more than the table keeps.
    ///
    /// # Errors
    /// [`KallsymsError`], at the first name that cannot be, and where markers are lost or
    /// say something else than the names; of memory where tokens or markers are lost.
    pub fn open_torn(
        info: &VmcoreInfo<'_>,
        mut reader: impl ReadVirt,
        mut each: impl FnMut(Symbol<'_>),
    ) -> Result<(Self, u32), KallsymsError> {
        let (mut this, other) = Self::tables(info, &mut reader)?;
        let mut known = [None::<(u32, u32)>; KNOWN.len()];
        let lost = this.walk_torn(&mut reader, |symbol| {
            for (want, slot) in KNOWN.iter().zip(&mut known) {
                if want.as_bytes() == symbol.name {
                    let (_, count) = slot.get_or_insert((symbol.number, 0));
                    *count += 1;
                }
            }
            each(symbol);
        })?;
        // One whose address is lost says nothing.
        for slot in &mut known {
            if let Some((number, _)) = *slot
                && let Err(KallsymsError::Memory(_)) = this.address(&mut reader, number)
            {
                *slot = None;
            }
        }
        this.settle(other, |this| this.check(info, &mut reader, &known))?;
        Ok((this, lost))
    }

    /// Every symbol whose name is there, in order. Gives how many are not.
    fn walk_torn(
        &self,
        mut reader: impl ReadVirt,
        mut each: impl FnMut(Symbol<'_>),
    ) -> Result<u32, KallsymsError> {
        let mut name = [0; MAX_NAME];
        let mut window = Window::new();
        let mut place = Place { number: 0, at: self.names };
        let (mut walked, mut markers) = (Vec::new(), Vec::new());
        let mut lost = 0;
        while place.number < self.count {
            if markers.is_empty() {
                walked.push(place.at);
            } else {
                self.agrees(&markers, place)?;
            }
            let until = place.number.saturating_add(BLOCK).min(self.count);
            let read =
                self.entries_to(&mut reader, &mut window, &mut place, until, |number, tokens| {
                    self.entry(number, tokens, &mut name).map(&mut each).ok_or(())?;
                    Ok(true)
                });
            match read {
                Err(KallsymsError::Memory(_)) => lost += until - place.number,
                read => {
                    read?;
                    continue;
                }
            }
            place.number = until;
            if until == self.count {
                break;
            }
            if markers.is_empty() {
                markers = self.markers(&mut reader)?;
                for (number, at) in (0..self.count).step_by(BLOCK as usize).zip(&walked) {
                    self.agrees(&markers, Place { number, at: *at })?;
                }
            }
            place.at = self.marked(&markers, until)?;
        }
        Ok(lost)
    }

    /// Where the name of a symbol begins that has a marker.
    fn marked(&self, markers: &[u32], number: u32) -> Result<u64, KallsymsError> {
        let odd = KallsymsError::Odd { what: "number of a symbol", value: u64::from(number) };
        let slot = usize::try_from(number / BLOCK).ok().and_then(|n| markers.get(n));
        let slot = slot.filter(|_| number.is_multiple_of(BLOCK)).ok_or(odd)?;
        self.names.checked_add(u64::from(*slot)).ok_or(odd)
    }

    /// Whether a walk came to where the marker says.
    fn agrees(&self, markers: &[u32], place: Place) -> Result<(), KallsymsError> {
        let odd = KallsymsError::Odd { what: "marker of a name", value: place.at };
        if self.marked(markers, place.number)? == place.at { Ok(()) } else { Err(odd) }
    }

    /// `kallsyms_markers`, from either place.
    fn markers(&self, reader: &mut impl ReadVirt) -> Result<Vec<u32>, KallsymsError> {
        let len = (u64::from(self.count.div_ceil(BLOCK)) * 4).next_multiple_of(8);
        let sequences = (u64::from(self.count) * 3).next_multiple_of(8);
        let mut why =
            KallsymsError::Odd { what: "place of markers before", value: self.token_table };
        for between in [0, sequences] {
            let at = self.token_table.checked_sub(between + len);
            let room = at.and_then(|at| at.checked_sub(self.names));
            let Some((at, room)) = at.zip(room) else { continue };
            match self.markers_at(reader, at, room) {
                Ok(Some(markers)) => return Ok(markers),
                Ok(None) => {}
                Err(lost) => why = lost.into(),
            }
        }
        Err(why)
    }

    /// The markers at an address, `room` bytes behind the first name; `None` where it is not
    /// they that lie there.
    fn markers_at(
        &self,
        reader: &mut impl ReadVirt,
        at: u64,
        room: u64,
    ) -> Result<Option<Vec<u32>>, PagingError> {
        let count = usize::try_from(self.count.div_ceil(BLOCK)).unwrap_or_default();
        let mut raw = vec![0; count * 4];
        reader.read_virt(at, &mut raw)?;
        let markers: Vec<u32> = (0..count).filter_map(|n| le32(&raw, n * 4)).collect();
        let rises = |(one, next): (&u32, &u32)| {
            next.checked_sub(*one).is_some_and(|step| (LEAST..=MOST).contains(&step))
        };
        let sound = markers.first() == Some(&0)
            && markers.iter().zip(markers.iter().skip(1)).all(rises)
            && markers.last().is_some_and(|last| u64::from(*last) < room);
        Ok(sound.then_some(markers))
    }
}
