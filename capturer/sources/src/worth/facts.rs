//! The numbers that decide: what VMCOREINFO says, what the kernel's own BTF says, and
//! whether the two agree.
//!
//! BTF lies between `__start_BTF` and `__stop_BTF`, which kallsyms names, whose tables
//! VMCOREINFO names. It has every type, so that it fills what VMCOREINFO lacks and is a
//! second witness for the rest. It is read once, before the first page, in some 6 ms and
//! under 1 MiB; what is missing or damaged there costs only that. One number that the two
//! put differently, and nothing is left out: see [`BtfState::Contradicts`].

use std::fmt;

use crate::btf::{Btf, BtfError, Kind};
use crate::kallsyms::{Kallsyms, KallsymsError};
use crate::memory::PhysRead;
use crate::paging::{AddressSpace, ReadVirt, SpanReader};
use crate::vmcoreinfo::VmcoreInfo;

/// Why BTF is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoBtf {
    /// The symbols cannot be read.
    #[error(transparent)]
    Symbols(#[from] KallsymsError),
    /// There is no such symbol, or more than one.
    #[error(
        "no one symbol {0}\nhint: this kernel was built without CONFIG_DEBUG_INFO_BTF or CONFIG_KALLSYMS_ALL"
    )]
    Symbol(&'static str),
    /// The types cannot be read.
    #[error(transparent)]
    Types(#[from] BtfError),
    /// There is no such type, or more than one.
    #[error("BTF has no one type `{0}`\nhint: this kernel is too new")]
    Type(&'static str),
}

/// What became of BTF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BtfState {
    /// It says what VMCOREINFO says.
    Agrees {
        /// Numbers that both know.
        confirmed: u32,
        /// Numbers that it alone knows.
        added: u32,
    },
    /// It is not used.
    Missing(NoBtf),
    /// It says otherwise; one of the two is wrong.
    Contradicts {
        /// What differs, as VMCOREINFO names it.
        what: &'static str,
        /// The number there.
        info: i64,
        /// The number in BTF.
        btf: i64,
    },
}

impl fmt::Display for BtfState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agrees { confirmed, added } => {
                write!(f, "BTF confirms {confirmed} numbers and adds {added}")
            }
            Self::Missing(why) => {
                // One line: the hint behind it is for people who can do something.
                let text = why.to_string();
                write!(f, "without BTF: {}", text.lines().next().unwrap_or_default())
            }
            Self::Contradicts { what, info, btf } => {
                write!(f, "BTF contradicts VMCOREINFO: {what} is {btf:#x}, not {info:#x}")
            }
        }
    }
}

/// What a number is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Size,
    Offset,
    Length,
    Number,
}

/// How BTF tells it.
#[derive(Debug, Clone, Copy)]
enum Source {
    /// Size of the type.
    Size(&'static str),
    /// Place of a member.
    Member(&'static str, &'static str),
    /// Length of a member that is an array.
    Length(&'static str, &'static str),
    /// An enumerator as it is.
    Value(&'static str, &'static str),
    /// The bit of that number.
    Mask(&'static str, &'static str),
    /// A page type: the high byte of 32 bits.
    High(&'static str, &'static str),
}

/// Structs and enumerations that are looked for, and whether each kernel has them.
const TYPES: [(Kind, &str, bool); 12] = [
    (Kind::Struct, "page", true),
    (Kind::Enum, "pageflags", true),
    (Kind::Struct, "mem_section", true),
    (Kind::Struct, "pglist_data", true),
    (Kind::Struct, "zone", true),
    (Kind::Struct, "free_area", true),
    // Since 6.12; and before 6.6.
    (Kind::Enum, "pagetype", false),
    (Kind::Enum, "compound_dtor_id", false),
    (Kind::Struct, "folio", false),
    (Kind::Struct, "address_space", false),
    (Kind::Struct, "inode", false),
    (Kind::Struct, "anon_vma", false),
];

use What::{Length, Number, Offset, Size};

/// Every number, as VMCOREINFO names it, and where BTF has it. Those of the last lines
/// VMCOREINFO never has.
const KEYS: [(What, &str, Source); 40] = [
    (Size, "page", Source::Size("page")),
    (Offset, "page.flags", Source::Member("page", "flags")),
    (Offset, "page._refcount", Source::Member("page", "_refcount")),
    (Offset, "page.mapping", Source::Member("page", "mapping")),
    (Offset, "page.lru", Source::Member("page", "lru")),
    (Offset, "page._mapcount", Source::Member("page", "_mapcount")),
    (Offset, "page.private", Source::Member("page", "private")),
    (Offset, "page.compound_head", Source::Member("page", "compound_head")),
    (Offset, "page.compound_dtor", Source::Member("page", "compound_dtor")),
    (Offset, "folio._folio_dtor", Source::Member("folio", "_folio_dtor")),
    (Size, "mem_section", Source::Size("mem_section")),
    (Offset, "mem_section.section_mem_map", Source::Member("mem_section", "section_mem_map")),
    (Offset, "pglist_data.node_zones", Source::Member("pglist_data", "node_zones")),
    (Offset, "pglist_data.nr_zones", Source::Member("pglist_data", "nr_zones")),
    (Size, "zone", Source::Size("zone")),
    (Offset, "zone.free_area", Source::Member("zone", "free_area")),
    (Length, "zone.free_area", Source::Length("zone", "free_area")),
    (Size, "free_area", Source::Size("free_area")),
    (Offset, "free_area.free_list", Source::Member("free_area", "free_list")),
    (Length, "free_area.free_list", Source::Length("free_area", "free_list")),
    (Number, "PG_lru", Source::Value("pageflags", "PG_lru")),
    (Number, "PG_private", Source::Value("pageflags", "PG_private")),
    (Number, "PG_swapcache", Source::Value("pageflags", "PG_swapcache")),
    (Number, "PG_swapbacked", Source::Value("pageflags", "PG_swapbacked")),
    (Number, "PG_slab", Source::Value("pageflags", "PG_slab")),
    (Number, "PG_hwpoison", Source::Value("pageflags", "PG_hwpoison")),
    (Number, "PG_hugetlb", Source::Value("pageflags", "PG_hugetlb")),
    (Number, "PG_head_mask", Source::Mask("pageflags", "PG_head")),
    (Number, "PAGE_BUDDY_MAPCOUNT_VALUE", Source::High("pagetype", "PGTY_buddy")),
    (Number, "PAGE_OFFLINE_MAPCOUNT_VALUE", Source::High("pagetype", "PGTY_offline")),
    (Number, "PAGE_HUGETLB_MAPCOUNT_VALUE", Source::High("pagetype", "PGTY_hugetlb")),
    (Number, "PAGE_SLAB_MAPCOUNT_VALUE", Source::High("pagetype", "PGTY_slab")),
    (Number, "HUGETLB_PAGE_DTOR", Source::Value("compound_dtor_id", "HUGETLB_PAGE_DTOR")),
    (Number, "PG_reserved", Source::Value("pageflags", "PG_reserved")),
    (Number, "PG_uptodate", Source::Value("pageflags", "PG_uptodate")),
    (Number, "__NR_PAGEFLAGS", Source::Value("pageflags", "__NR_PAGEFLAGS")),
    (Offset, "address_space.host", Source::Member("address_space", "host")),
    (Offset, "inode.i_data", Source::Member("inode", "i_data")),
    (Offset, "inode.i_mapping", Source::Member("inode", "i_mapping")),
    (Offset, "anon_vma.root", Source::Member("anon_vma", "root")),
];

/// A number, by two witnesses.
#[derive(Debug, Clone, Copy, Default)]
struct Fact {
    info: Option<i64>,
    btf: Option<i64>,
}

/// VMCOREINFO, and BTF where it agrees.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    info: &'a VmcoreInfo<'a>,
    facts: [Fact; KEYS.len()],
    pub(super) state: BtfState,
}

impl<'a> Facts<'a> {
    /// Reads both. Where BTF is of no use, VMCOREINFO stands alone.
    pub(super) fn gather(
        info: &'a VmcoreInfo<'a>,
        space: &AddressSpace,
        memory: &mut impl PhysRead,
    ) -> Self {
        let mut facts = [Fact::default(); KEYS.len()];
        for (fact, (what, name, _)) in facts.iter_mut().zip(KEYS) {
            fact.info = from_info(info, what, name);
        }
        let state = match from_btf(info, SpanReader::new(*space, memory)) {
            Ok(values) => {
                facts.iter_mut().zip(values).for_each(|(fact, value)| fact.btf = value);
                compare(&facts)
            }
            Err(why) => BtfState::Missing(why),
        };
        if !matches!(state, BtfState::Agrees { .. }) {
            facts.iter_mut().for_each(|fact| fact.btf = None);
        }
        Self { info, facts, state }
    }

    /// VMCOREINFO itself, for what BTF cannot know: addresses and constants.
    pub(super) fn info(&self) -> &'a VmcoreInfo<'a> {
        self.info
    }

    fn get(&self, what: What, name: &str) -> Option<i64> {
        let at = KEYS.iter().position(|(w, n, _)| *w == what && *n == name)?;
        self.facts.get(at).and_then(|fact| fact.info.or(fact.btf))
    }

    pub(super) fn size(&self, name: &str) -> Option<u64> {
        self.get(Size, name).map(i64::cast_unsigned)
    }

    pub(super) fn offset(&self, name: &str) -> Option<u64> {
        self.get(Offset, name).map(i64::cast_unsigned)
    }

    pub(super) fn length(&self, name: &str) -> Option<u64> {
        self.get(Length, name).map(i64::cast_unsigned)
    }

    pub(super) fn number(&self, name: &str) -> Option<i64> {
        self.get(Number, name)
    }

    /// A number that was found in another way; a witness against BTF, if they differ.
    pub(super) fn hear(&mut self, name: &'static str, value: i64) {
        if let Some(btf) = self.number(name).filter(|btf| *btf != value) {
            self.state = BtfState::Contradicts { what: name, info: value, btf };
        }
    }
}

fn from_info(info: &VmcoreInfo<'_>, what: What, name: &str) -> Option<i64> {
    match what {
        Size => info.size(name).map(u64::cast_signed),
        Offset => info.offset(name).map(u64::cast_signed),
        Length => info.length(name).map(u64::cast_signed),
        // A page type of 32 bits is printed signed by some kernels, unsigned by others.
        Number if name.ends_with("_MAPCOUNT_VALUE") => {
            let value = info.number(name)?;
            Some(u32::try_from(value).map_or(value, |bits| i64::from(bits.cast_signed())))
        }
        Number => info.number(name),
    }
}

/// Counts on how many both agree; the first one that differs ends it.
fn compare(facts: &[Fact]) -> BtfState {
    let (mut confirmed, mut added) = (0, 0);
    for (fact, (_, what, _)) in facts.iter().zip(KEYS) {
        match (fact.info, fact.btf) {
            (Some(info), Some(btf)) if info != btf => {
                return BtfState::Contradicts { what, info, btf };
            }
            (Some(_), Some(_)) => confirmed += 1,
            (None, Some(_)) => added += 1,
            (_, None) => {}
        }
    }
    BtfState::Agrees { confirmed, added }
}

/// All numbers that BTF knows.
fn from_btf(
    info: &VmcoreInfo<'_>,
    mut reader: impl ReadVirt,
) -> Result<[Option<i64>; KEYS.len()], NoBtf> {
    const START: &str = "__start_BTF";
    const STOP: &str = "__stop_BTF";
    let (_, hits) = Kallsyms::open(info, &mut reader, &[START, STOP])?;
    let address =
        |n: usize, name| hits.get(n).and_then(|hit| hit.only()).ok_or(NoBtf::Symbol(name));
    let (start, stop) = (address(0, START)?, address(1, STOP)?);
    // A length that cannot be is refused there.
    let mut btf = Btf::open(reader, start, stop.saturating_sub(start))?;
    let wanted = TYPES.map(|(kind, name, _)| (kind, name));
    let hits = btf.find(&wanted)?;
    for ((_, name, needed), hit) in TYPES.iter().zip(&hits) {
        if *needed && hit.only().is_none() {
            return Err(NoBtf::Type(name));
        }
    }
    let id = |name: &str| {
        let at = TYPES.iter().position(|(_, n, _)| *n == name)?;
        hits.get(at)?.only()
    };
    let mut out = [None; KEYS.len()];
    for (slot, (_, _, source)) in out.iter_mut().zip(KEYS) {
        *slot = ask(&mut btf, source, &id)?;
    }
    Ok(out)
}

/// One number; `None` where this kernel has no such type or member.
fn ask<R: ReadVirt>(
    btf: &mut Btf<R>,
    source: Source,
    id: &impl Fn(&str) -> Option<u32>,
) -> Result<Option<i64>, BtfError> {
    let mut value = |of, name| match id(of) {
        Some(id) => btf.enumerator(id, name),
        None => Ok(None),
    };
    match source {
        Source::Value(of, name) => value(of, name),
        Source::Mask(of, name) => {
            let bit = value(of, name)?.and_then(|bit| u32::try_from(bit).ok());
            Ok(bit.and_then(|bit| 1i64.checked_shl(bit)))
        }
        Source::High(of, name) => {
            let byte = value(of, name)?.and_then(|v| u8::try_from(v).ok());
            Ok(byte.map(|b| i64::from((u32::from(b) << 24).cast_signed())))
        }
        Source::Size(of) => match id(of) {
            Some(id) => Ok(btf.size(id)?.map(u64::cast_signed)),
            None => Ok(None),
        },
        Source::Member(of, name) => {
            let Some(id) = id(of) else { return Ok(None) };
            let place = btf.member(id, name)?;
            Ok(place.and_then(crate::btf::Place::byte).map(u64::cast_signed))
        }
        Source::Length(of, name) => {
            let Some(id) = id(of) else { return Ok(None) };
            let Some(place) = btf.member(id, name)? else { return Ok(None) };
            let Some(ty) = btf.bare(place.ty)? else { return Ok(None) };
            Ok(btf.array(&ty)?.map(|array| i64::from(array.length)))
        }
    }
}
