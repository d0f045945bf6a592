//! What a machine says of itself in its own memory: symbols, types, owners of pages.

use super::btf::{Form, PTR, STRUCT, Symbols, Types, UNION};
use super::{DATA, DIRECT_MAP, KERNEL_MAP, Kernel, Machine, OBJECT};

/// Physical places of the tables, within the image.
const NAMES: u64 = DATA + 0x1_0000;
const COUNT: u64 = DATA + 0x1_8000;
const BASE: u64 = DATA + 0x1_8008;
const TOKENS: u64 = DATA + 0x1_9000;
const INDEX: u64 = DATA + 0x1_b000;
const ADDRESSES: u64 = DATA + 0x1_c000;
pub const BTF: u64 = DATA + 0x2_0000;
/// An inode whose pages are [`OBJECT`]'s.
const INODE: u64 = OBJECT - 0x100;

impl Machine {
    /// Adds kallsyms and BTF that say what VMCOREINFO says, but for `change`: lines of
    /// VMCOREINFO with another value, or a name that BTF shall not have.
    pub fn with_btf(mut self, change: &[(&str, Option<i64>)]) -> Self {
        let types = self.types(change);
        let end = KERNEL_MAP + BTF + types.len() as u64;
        self.bytes(BTF, &types);
        let known = ["_stext", "init_top_pgt", "prb", "init_uts_ns", "node_data"];
        let mut symbols: Vec<(u64, &str)> =
            known.iter().map(|name| (self.symbol(name), *name)).collect();
        symbols.extend([
            (0x1000, "a_per_cpu_variable"),
            (KERNEL_MAP + BTF, "__start_BTF"),
            (end, "__stop_BTF"),
            (end + 8, "symbol_of_no_use"),
        ]);
        symbols.sort_unstable();
        let form = if self.kernel == Kernel::V6_1 { Form::PerCpu } else { Form::Relative };
        if form == Form::Relative {
            symbols.remove(0);
        }
        self.symbols(&Symbols::new(form, KERNEL_MAP, &symbols));
        self.owners();
        self
    }

    fn symbol(&self, name: &str) -> u64 {
        u64::from_str_radix(self.line(&format!("SYMBOL({name})")).unwrap(), 16).unwrap()
    }

    fn line(&self, key: &str) -> Option<&str> {
        self.info.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='))
    }

    fn bytes(&mut self, at: u64, bytes: &[u8]) {
        let at = usize::try_from(at).unwrap();
        self.ram[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn symbols(&mut self, tables: &Symbols) {
        self.bytes(NAMES, &tables.names);
        self.bytes(COUNT, &tables.count.to_le_bytes());
        self.bytes(BASE, &tables.base.to_le_bytes());
        self.bytes(TOKENS, &tables.tokens);
        self.bytes(INDEX, &tables.index);
        self.bytes(ADDRESSES, &tables.addresses);
        for (name, at) in [
            ("names", NAMES),
            ("num_syms", COUNT),
            ("token_table", TOKENS),
            ("token_index", INDEX),
            ("offsets", ADDRESSES),
            ("relative_base", BASE),
        ] {
            self.info += &format!("SYMBOL(kallsyms_{name})={:x}\n", KERNEL_MAP + at);
        }
    }

    /// The one file and the one family of processes that all pages belong to.
    fn owners(&mut self) {
        let phys = |at: u64| at - DIRECT_MAP;
        // `address_space.host`, `anon_vma.root`, `inode.i_data`; see `types`.
        self.put(phys(OBJECT), INODE);
        self.put(phys(OBJECT) + 8, OBJECT);
        self.put(phys(INODE) + 16, OBJECT);
    }

    /// BTF of this kernel. Members of `struct page` lie in records without a name.
    fn types(&self, change: &[(&str, Option<i64>)]) -> Vec<u8> {
        let value = |key: &str| match change.iter().find(|(k, _)| *k == key) {
            Some((_, value)) => *value,
            None => self.line(key).map(|v| v.parse().unwrap()),
        };
        let word = |key: &str| value(key).map(|v| u32::try_from(v).unwrap());
        let bit = |key: &str| word(&format!("OFFSET({key})")).map(|byte| byte * 8);
        let mut t = Types::new();
        let long = t.int("unsigned long", 8);
        let pointer = t.plain(PTR, "", 0);
        let list =
            t.record(STRUCT, "list_head", 16, &[("next", pointer, 0), ("prev", pointer, 64)]);
        let members = |of: &str, names: &[&'static str], ty: u32, base: u32| {
            let all = names.iter().filter_map(|n| Some((*n, ty, bit(&format!("{of}.{n}"))?)));
            all.map(|(n, ty, at)| (n, ty, at - base)).collect::<Vec<_>>()
        };
        // One word in, as in the kernel; `lru` may have been put before it.
        let inner = members("page", &["mapping", "private", "compound_head"], long, 64);
        let inner = t.record(STRUCT, "", 40, &inner);
        let mut page =
            members("page", &["flags", "_refcount", "_mapcount", "compound_dtor"], long, 0);
        page.extend(members("page", &["lru"], list, 0));
        let union = t.record(UNION, "", 40, &[("", inner, 0), ("rcu_head", list, 0)]);
        page.push(("", union, 64));
        t.record(STRUCT, "page", word("SIZE(page)").unwrap(), &page);
        let section = members("mem_section", &["section_mem_map"], long, 0);
        t.record(STRUCT, "mem_section", word("SIZE(mem_section)").unwrap(), &section);
        let lists = t.array(list, word("LENGTH(free_area.free_list)").unwrap());
        let area = members("free_area", &["free_list"], lists, 0);
        let area = t.record(STRUCT, "free_area", word("SIZE(free_area)").unwrap(), &area);
        let areas = t.array(area, word("LENGTH(zone.free_area)").unwrap());
        let zone = members("zone", &["free_area"], areas, 0);
        t.record(STRUCT, "zone", word("SIZE(zone)").unwrap(), &zone);
        let node = members("pglist_data", &["node_zones", "nr_zones"], long, 0);
        t.record(STRUCT, "pglist_data", 9000, &node);
        t.record(STRUCT, "address_space", 200, &[("host", pointer, 0)]);
        t.record(STRUCT, "anon_vma", 100, &[("root", pointer, 64)]);
        // `i_data` lies within the inode.
        t.record(STRUCT, "inode", 600, &[("i_mapping", pointer, 128), ("i_data", long, 0x100 * 8)]);
        self.enumerations(&mut t, &value);
        t.build()
    }

    fn enumerations(&self, t: &mut Types, value: &dyn Fn(&str) -> Option<i64>) {
        let number = |name: &str| value(&format!("NUMBER({name})"));
        let mut flags: Vec<(&str, i32)> = Vec::new();
        for name in
            ["PG_lru", "PG_private", "PG_swapcache", "PG_swapbacked", "PG_slab", "PG_hwpoison"]
        {
            flags.extend(number(name).map(|v| (name, i32::try_from(v).unwrap())));
        }
        let head = number("PG_head_mask").unwrap();
        flags.push(("PG_head", i32::try_from(head.trailing_zeros()).unwrap()));
        let own = |name: &str, or: i32| match value(name) {
            Some(v) => i32::try_from(v).unwrap(),
            None => or,
        };
        let reserved = i32::try_from(self.bits.reserved.trailing_zeros()).unwrap();
        flags.push(("PG_reserved", own("PG_reserved", reserved)));
        flags.push(("PG_uptodate", own("PG_uptodate", 2)));
        flags.push(("__NR_PAGEFLAGS", own("__NR_PAGEFLAGS", 24)));
        t.enumeration("pageflags", false, &flags);
        if self.kernel == Kernel::V6_1 {
            let dtor = i32::try_from(number("HUGETLB_PAGE_DTOR").unwrap()).unwrap();
            t.enumeration("compound_dtor_id", false, &[("HUGETLB_PAGE_DTOR", dtor)]);
            return;
        }
        let byte = |name: &str| {
            let value = number(&format!("PAGE_{name}_MAPCOUNT_VALUE")).unwrap();
            i32::try_from(value >> 24 & 0xff).unwrap()
        };
        let all = [
            ("PGTY_buddy", byte("BUDDY")),
            ("PGTY_offline", byte("OFFLINE")),
            ("PGTY_hugetlb", byte("HUGETLB")),
            ("PGTY_slab", byte("SLAB")),
        ];
        t.enumeration("pagetype", false, &all);
    }
}
