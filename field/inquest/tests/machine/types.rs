//! Types of the small kernel: names and meanings are Linux's, places are of no kernel, so
//! that nothing can be right by luck.

use super::btf::{PTR, STRUCT, TYPEDEF, Types, UNION};

/// Places of members, in bytes, that tests write to.
pub const TASKS: u64 = 64;
pub const THREAD_NODE: u64 = 96;
pub const PID_LINK: u64 = 128;
pub const PID: u64 = 40;
pub const TGID: u64 = 44;
pub const COMM: u64 = 200;
pub const MM: u64 = 224;
pub const SIGNAL: u64 = 232;
pub const REAL_PARENT: u64 = 240;
pub const REAL_CRED: u64 = 248;
pub const FLAGS: u64 = 20;
pub const STATE: u64 = 16;
pub const EXIT_STATE: u64 = 32;
pub const ON_CPU: u64 = 36;
pub const CPU: u64 = 8;
pub const START: u64 = 256;
pub const THREAD_HEAD: u64 = 24;

pub fn vmlinux() -> Types {
    let mut t = Types::new();
    let long = t.int("unsigned long", 8);
    let int = t.int("unsigned int", 4);
    let byte = t.int("unsigned char", 1);
    let pointer = t.plain(PTR, "", 0);
    let list = t.record(STRUCT, "list_head", 16, &[("next", pointer, 0), ("prev", pointer, 64)]);
    let hnode = t.record(STRUCT, "hlist_node", 16, &[("next", pointer, 0), ("pprev", pointer, 64)]);
    let hhead = t.record(STRUCT, "hlist_head", 8, &[("first", pointer, 0)]);
    let page_inner = t.record(STRUCT, "", 40, &[("compound_head", long, 0)]);
    t.record(STRUCT, "page", 64, &[("flags", long, 0), ("", page_inner, 64)]);
    t.enumeration("pageflags", false, &[("PG_locked", 0), ("PG_hwpoison", 20)]);
    trees(&mut t, long, byte, pointer);
    let xarray = t.record(STRUCT, "xarray", 16, &[("xa_flags", int, 32), ("xa_head", pointer, 64)]);
    let slots = t.array(pointer, 64);
    t.record(STRUCT, "xa_node", 600, &[("shift", byte, 0), ("slots", slots, 5 * 64)]);
    modules(&mut t, long, int, pointer, list);
    let idr = t.record(STRUCT, "idr", 24, &[("idr_rt", xarray, 64)]);
    t.record(STRUCT, "pid_namespace", 64, &[("idr", idr, 128)]);
    let heads = t.array(hhead, 4);
    t.record(STRUCT, "pid", 96, &[("tasks", heads, 16 * 8)]);
    process(&mut t, long, int, byte, pointer, list, hnode);
    t
}

fn trees(t: &mut Types, long: u32, byte: u32, pointer: u32) {
    t.enumeration(
        "maple_type",
        false,
        &[("maple_dense", 0), ("maple_leaf_64", 1), ("maple_range_64", 2), ("maple_arange_64", 3)],
    );
    let (p15, s16) = (t.array(long, 15), t.array(pointer, 16));
    t.record(STRUCT, "maple_range_64", 256, &[("pivot", p15, 64), ("slot", s16, 16 * 64)]);
    let (p9, s10) = (t.array(long, 9), t.array(pointer, 10));
    t.record(STRUCT, "maple_arange_64", 256, &[("pivot", p9, 64), ("slot", s10, 10 * 64)]);
    t.record(STRUCT, "maple_tree", 16, &[("ma_flags", byte, 0), ("ma_root", pointer, 64)]);
}

fn modules(t: &mut Types, long: u32, int: u32, pointer: u32, list: u32) {
    t.record(STRUCT, "module", 128, &[("list", list, 64), ("kallsyms", pointer, 96 * 8)]);
    t.record(
        STRUCT,
        "mod_kallsyms",
        32,
        &[("symtab", pointer, 0), ("num_symtab", int, 64), ("strtab", pointer, 128)],
    );
    t.record(STRUCT, "btf_module", 40, &[("list", list, 64), ("btf", pointer, 256)]);
    t.record(STRUCT, "btf", 64, &[("data", pointer, 64), ("data_size", int, 256)]);
    // What questions about members are tried on.
    let odd = t.bits("flags_of_it", 16, &[("low", int, 0, 3), ("high", int, 35, 7)]);
    let three = t.array(odd, 3);
    let alias = t.plain(TYPEDEF, "alias_t", three);
    let inner = t.record(UNION, "", 48, &[("deep", alias, 0), ("other", long, 0)]);
    t.record(STRUCT, "sample", 64, &[("first", long, 0), ("", inner, 128)]);
}

fn process(t: &mut Types, long: u32, int: u32, byte: u32, pointer: u32, list: u32, hnode: u32) {
    let comm = t.array(byte, 16);
    let links = t.array(hnode, 4);
    let info = t.record(STRUCT, "thread_info", 16, &[("cpu", int, 64)]);
    let bit = |byte: u64| u32::try_from(byte * 8).unwrap();
    let members = [
        ("thread_info", info, 0),
        ("__state", int, bit(STATE)),
        ("flags", int, bit(FLAGS)),
        ("exit_state", int, bit(EXIT_STATE)),
        ("on_cpu", int, bit(ON_CPU)),
        ("pid", int, bit(PID)),
        ("tgid", int, bit(TGID)),
        ("tasks", list, bit(TASKS)),
        ("thread_node", list, bit(THREAD_NODE)),
        ("pid_links", links, bit(PID_LINK)),
        ("comm", comm, bit(COMM)),
        ("mm", pointer, bit(MM)),
        ("signal", pointer, bit(SIGNAL)),
        ("real_parent", pointer, bit(REAL_PARENT)),
        ("real_cred", pointer, bit(REAL_CRED)),
        ("start_boottime", long, bit(START)),
    ];
    t.record(STRUCT, "task_struct", 512, &members);
    t.record(STRUCT, "signal_struct", 64, &[("thread_head", list, bit(THREAD_HEAD))]);
    let kuid = t.record(STRUCT, "kuid_t", 4, &[("val", int, 0)]);
    t.record(STRUCT, "cred", 64, &[("uid", kuid, 32), ("euid", kuid, 160)]);
    let counter =
        t.record(STRUCT, "percpu_counter", 24, &[("count", long, 0), ("counters", pointer, 128)]);
    let counters = t.array(counter, 4);
    t.enumeration(
        "",
        false,
        &[("MM_FILEPAGES", 0), ("MM_ANONPAGES", 1), ("MM_SWAPENTS", 2), ("MM_SHMEMPAGES", 3)],
    );
    let tree = t.record(STRUCT, "maple_tree_of_mm", 16, &[("ma_root", pointer, 64)]);
    let inner: Vec<(&str, u32, u32)> = [
        ("mm_mt", tree),
        ("pgd", pointer),
        ("start_brk", long),
        ("brk", long),
        ("start_stack", long),
        ("arg_start", long),
        ("arg_end", long),
        ("env_start", long),
        ("env_end", long),
        ("exe_file", pointer),
    ]
    .iter()
    .zip(0..)
    .map(|((name, ty), n)| (*name, *ty, bit(16 + n * 16)))
    .chain([("rss_stat", counters, bit(256))])
    .collect();
    let inner = t.record(STRUCT, "", 400, &inner);
    t.record(STRUCT, "mm_struct", 400, &[("", inner, 0)]);
    let vma: Vec<(&str, u32, u32)> = [
        "vm_start",
        "vm_end",
        "vm_flags",
        "vm_pgoff",
        "vm_file",
        "anon_vma",
        "vm_ops",
        "vm_private_data",
    ]
    .iter()
    .zip(0..)
    .map(|(name, n)| (*name, long, bit(n * 8)))
    .collect();
    t.record(STRUCT, "vm_area_struct", 128, &vma);
}
