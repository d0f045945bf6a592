//! What a kernel tells of itself: its types (BTF) and its symbols (kallsyms).

use std::ops::ControlFlow;

use lifeboat_sources::btf::{Btf, Kind, MAX_NAME, Type};
use lifeboat_sources::kallsyms::{self, Kallsyms};
use lifeboat_sources::paging::Image;
use lifeboat_sources::vmcoreinfo::VmcoreInfo;

const BASE: u64 = 0xffff_ffff_8200_0000;
/// Types of an input that are asked about one by one, at most.
const TYPES: u32 = 200;

/// BTF: as it is; then types and names with a header that fits, the first two bytes
/// saying how many of them are names.
pub fn btf(data: &[u8]) {
    types(data);
    let Some((len, body)) = data.split_first_chunk::<2>() else { return };
    let names = usize::from(u16::from_le_bytes(*len)).min(body.len());
    let of_types = body.len() - names;
    let mut whole = vec![0x9f, 0xeb, 1, 0];
    for word in [24, 0, of_types, of_types, names] {
        whole.extend(u32::try_from(word).unwrap().to_le_bytes());
    }
    whole.extend(body);
    types(&whole);
}

fn types(bytes: &[u8]) {
    let image = Image { base: BASE, bytes };
    let Ok(mut btf) = Btf::open(image, BASE, bytes.len() as u64) else { return };
    let mut all: Vec<Type> = Vec::new();
    if btf.walk(|ty| all.push(*ty)).is_err() {
        assert!(btf.by_id(1).is_err(), "what is damaged has no types");
        return;
    }
    assert_eq!(btf.count(), Ok(u32::try_from(all.len()).unwrap()));
    assert!(all.len() <= bytes.len() / 12);
    let _ = btf.find(&[(Kind::Struct, "page"), (Kind::Enum, "pageflags"), (Kind::Union, "")]);
    let step = (all.len() / TYPES as usize).max(1);
    for ty in all.iter().step_by(step) {
        assert_eq!(btf.by_id(ty.id).as_ref(), Ok(ty));
        one(&mut btf, ty);
    }
    for id in [0, u32::try_from(all.len()).unwrap() + 1, u32::MAX] {
        assert!(btf.by_id(id).is_err());
    }
}

fn one(btf: &mut Btf<Image<'_>>, ty: &Type) {
    let name = btf.name(ty.name).map(str::to_owned);
    if let Ok(name) = &name {
        assert!(name.len() <= MAX_NAME && !name.contains('\0'));
        // Of a name that is there twice, the first is looked for.
        let hits = btf.find(&[(ty.kind, name)]).expect("walked and named before");
        assert!(hits[0].count <= btf.count().expect("walked before"));
    }
    let _ = (btf.size(ty.id), btf.bare(ty.id));
    assert_eq!(btf.array(ty).is_ok_and(|a| a.is_some()), ty.kind == Kind::Array);
    assert!(btf.member_at(ty, ty.vlen).is_err() && btf.enumerator_at(ty, ty.vlen).is_err());
    for n in (0..ty.vlen).take(4) {
        if let Ok(member) = btf.member_at(ty, n)
            && let Ok(name) = btf.name(member.name).map(str::to_owned)
            && let Ok(found) = btf.member(ty.id, &name)
        {
            assert!(found.is_some() || member.name == 0 || name.is_empty());
        }
        if let Ok(one) = btf.enumerator_at(ty, n)
            && let Ok(name) = btf.name(one.name).map(str::to_owned)
        {
            let found = btf.enumerator(ty.id, &name);
            assert!(found.is_err() || found != Ok(None) || one.name == 0);
        }
    }
}

/// Symbols: names as they are, behind those of two that VMCOREINFO knows, with tokens of
/// one character and of some; then with tokens that are the input's too.
pub fn kallsyms(data: &[u8]) {
    let mut index = Vec::new();
    let mut table = Vec::new();
    for n in 0..=255u8 {
        index.extend(u16::try_from(table.len()).unwrap().to_le_bytes());
        match n {
            1 => table.extend(b"_start"),
            2 => table.extend(b"__stop_BTF"),
            n if n.is_ascii_graphic() => table.push(n),
            _ => {}
        }
        table.push(0);
    }
    symbols(data, &index, &table);
    if let Some((head, rest)) = data.split_at_checked(512) {
        let at = rest.len().min(1024);
        symbols(&rest[at..], head, &rest[..at]);
    }
}

fn symbols(names: &[u8], index: &[u8], table: &[u8]) {
    let known = b"\x07T_stext\x04Tprb";
    // Each takes two bytes at least.
    let count = 2 + names.len() / 2;
    let mut bytes = Vec::new();
    let mut info = format!("SYMBOL(_stext)={BASE:x}\nSYMBOL(prb)={:x}\n", BASE + 8);
    let mut put = |name: &str, part: &[u8]| {
        info += &format!("SYMBOL(kallsyms_{name})={:x}\n", BASE + bytes.len() as u64);
        bytes.extend(part);
    };
    let offsets: Vec<u8> =
        (0..u32::try_from(count).unwrap()).flat_map(|n| (n * 8).to_le_bytes()).collect();
    put("num_syms", &u32::try_from(count).unwrap().to_le_bytes());
    put("relative_base", &BASE.to_le_bytes());
    put("offsets", &offsets);
    put("token_index", index);
    put("token_table", table);
    put("names", &[&known[..], names].concat());
    bytes.resize(bytes.len().next_multiple_of(4096), 0);
    let info = VmcoreInfo::new(info.as_bytes());
    let image = Image { base: BASE, bytes: &bytes };
    let wanted = ["_stext", "__stop_BTF", "x"];
    let Ok((table, hits)) = Kallsyms::open(&info, image, &wanted) else { return };
    assert_eq!(table.count() as usize, count);
    let mut seen = [0; 3];
    let mut last = ControlFlow::Continue(());
    let walked = table.walk(image, |s| {
        assert!(last.is_continue() && s.name.len() < kallsyms::MAX_NAME);
        for (count, want) in seen.iter_mut().zip(wanted) {
            *count += u32::from(s.name == want.as_bytes());
        }
        if s.number + 1 == table.count() {
            last = ControlFlow::Break(());
        }
        true
    });
    assert!(walked.is_ok() && last.is_break(), "as good as when it was opened");
    assert_eq!(hits.iter().map(|h| h.count).collect::<Vec<_>>(), seen);
    for hit in hits.iter().filter(|h| h.count > 0) {
        assert!(hit.address >= BASE && hit.address < BASE + count as u64 * 8);
    }
}
