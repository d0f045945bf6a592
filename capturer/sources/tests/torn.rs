//! kallsyms whose pages are missing, whichever they are.

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test falls over where it is wrong"
)]

#[path = "machine/btf.rs"]
mod btf;

use btf::{Form, Symbols};
use lifeboat_sources::kallsyms::{Kallsyms, KallsymsError, Symbol};
use lifeboat_sources::paging::{Image, PagingError, ReadVirt};
use lifeboat_sources::vmcoreinfo::VmcoreInfo;
use proptest::prelude::*;

const BASE: u64 = 0xffff_ffff_8300_0000;

/// Memory without some of its pages.
struct Torn<'a>(Image<'a>, &'a [u64]);

impl ReadVirt for Torn<'_> {
    fn read_virt(&mut self, addr: u64, buf: &mut [u8]) -> Result<(), PagingError> {
        let pages = (addr - BASE) / 4096..=(addr - BASE + buf.len() as u64 - 1) / 4096;
        if self.1.iter().any(|lost| pages.contains(lost)) {
            return Err(PagingError::NotMapped { addr, level: 1 });
        }
        self.0.read_virt(addr, buf)
    }
}

fn list() -> Vec<(u64, String)> {
    let name = |n: u64| if n % 700 == 3 { "y".repeat(300) } else { format!("symbol_{n}") };
    let mut all: Vec<_> = (0..4000).map(|n| (BASE + n * 16, name(n))).collect();
    all[1].1 = "_stext".to_owned();
    all[2000].1 = "prb".to_owned();
    all[3999].1 = "init_uts_ns".to_owned();
    all
}

/// Tables one behind the other, as the kernel has them, and VMCOREINFO.
fn tables(list: &[(u64, String)], sequences: bool) -> (String, Vec<u8>) {
    let symbols: Vec<(u64, &str)> = list.iter().map(|(at, name)| (*at, name.as_str())).collect();
    let t = Symbols::new(Form::Relative, BASE, &symbols);
    let order = vec![0xa5; if sequences { list.len() * 3 } else { 0 }];
    let (mut bytes, mut info) = (Vec::new(), String::new());
    for (name, part) in [
        ("num_syms", &t.count.to_le_bytes()[..]),
        ("names", &t.names),
        ("markers", &t.markers),
        ("seqs_of_names", &order),
        ("token_table", &t.tokens),
        ("token_index", &t.index),
        ("offsets", &t.addresses),
        ("relative_base", &t.base.to_le_bytes()),
    ] {
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        if !["markers", "seqs_of_names"].contains(&name) {
            info += &format!("SYMBOL(kallsyms_{name})={:x}\n", BASE + bytes.len() as u64);
        }
        bytes.extend(part);
    }
    for (at, name) in list.iter().filter(|(_, n)| ["_stext", "prb", "init_uts_ns"].contains(&&**n))
    {
        info += &format!("SYMBOL({name})={at:x}\n");
    }
    bytes.resize(bytes.len().next_multiple_of(4096), 0);
    (info, bytes)
}

proptest! {
    /// What is served is right, and what is not is counted.
    #[test]
    fn whatever_pages_are_lost(
        lost in prop::collection::vec(0u64..20, 0..4),
        sequences: bool,
        wild in prop::option::of((0usize..1 << 16, any::<u8>())),
    ) {
        let list = list();
        let (info, mut bytes) = tables(&list, sequences);
        let info = VmcoreInfo::new(info.as_bytes());
        if let Some((at, byte)) = wild {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        let mut reader = Torn(Image { base: BASE, bytes: &bytes }, &lost);
        let mut seen = Vec::new();
        let each = |s: Symbol<'_>| seen.push((s.number, s.name.to_vec()));
        let lost = match Kallsyms::open_torn(&info, &mut reader, each) {
            Ok((_, lost)) => lost,
            Err(KallsymsError::Memory(_) | KallsymsError::Unconfirmed) => return Ok(()),
            Err(why) => {
                prop_assert!(wild.is_some(), "{why}");
                return Ok(());
            }
        };
        if wild.is_none() {
            prop_assert_eq!(lost as usize + seen.len(), list.len());
            prop_assert!(seen.is_sorted());
            for (number, name) in seen {
                prop_assert_eq!(name, list[number as usize].1.as_bytes());
            }
        }
    }
}
