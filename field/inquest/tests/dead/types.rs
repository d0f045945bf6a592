//! What a dead kernel's swap is made of, as two kernels have it: an older one, with names and
//! places of Debian's 6.1, and a newer one, with those of 6.12.

use super::{Dead, Is, P, U1, U2, U4};

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Age {
    Old,
    New,
}

/// Types that both have, and those that differ.
pub fn declare(dead: &mut Dead, age: Age) {
    common(dead);
    compressed(dead, age);
    let mut info = vec![
        ("flags", P, 8),
        ("prio", U2, 16),
        ("max", U4, 40),
        ("inuse_pages", U4, 60),
        ("swap_extent_root", Is::Record("rb_root"), 80),
        ("bdev", P, 88),
        ("swap_file", P, 96),
    ];
    if age == Age::New {
        info.push(("zeromap", P, 104));
    }
    dead.record("swap_info_struct", 256, &info);
    let flags = [("SWP_USED", 1), ("SWP_WRITEOK", 2), ("SWP_BLKDEV", 64), ("SWP_FS_OPS", 256)];
    dead.enumeration("", &flags);
    let flags = [("PG_uptodate", 2), ("PG_dirty", 4), ("PG_swapcache", 10), ("PG_writeback", 15)];
    dead.enumeration("pageflags", &flags);
    for name in ["swapper_spaces", "swap_info", "zswap_trees"] {
        dead.variable(name, 8 * 32);
    }
    dead.variable("nr_swapper_spaces", 4 * 32);
    dead.variable("nr_swapfiles", 4);
    dead.variable("zram_devops", 64);
    dead.variable("crypt_target", 64);
    if age == Age::New {
        dead.variable("nr_zswap_trees", 4 * 32);
    }
}

fn common(dead: &mut Dead) {
    dead.record("address_space", 192, &[("i_pages", Is::Record("xarray"), 8)]);
    dead.record(
        "swap_extent",
        56,
        &[
            ("rb_node", Is::Record("rb_node"), 8),
            ("start_page", P, 32),
            ("nr_pages", P, 40),
            ("start_block", P, 48),
        ],
    );
    dead.record("kobject", 64, &[("name", P, 0)]);
    dead.record("device", 128, &[("kobj", Is::Record("kobject"), 16)]);
    dead.record(
        "block_device",
        512,
        &[
            ("bd_start_sect", P, 0),
            ("bd_nr_sectors", P, 8),
            ("bd_disk", P, 16),
            ("bd_meta_info", P, 24),
            ("bd_device", Is::Record("device"), 64),
        ],
    );
    dead.record("partition_meta_info", 104, &[("uuid", Is::Text(37), 0)]);
    dead.record(
        "gendisk",
        256,
        &[("disk_name", Is::Text(32), 12), ("fops", P, 64), ("private_data", P, 72)],
    );
    dead.record("mapped_device", 128, &[("map", P, 24)]);
    dead.record("dm_table", 128, &[("num_targets", U4, 40), ("targets", P, 48)]);
    dead.record(
        "dm_target",
        64,
        &[("type", P, 8), ("begin", P, 16), ("len", P, 24), ("private", P, 40)],
    );
    dead.record("dm_dev", 64, &[("bdev", P, 0)]);
    dead.record(
        "crypt_config",
        256,
        &[
            ("dev", P, 0),
            ("start", P, 8),
            ("cipher_string", P, 16),
            ("iv_offset", P, 48),
            ("sector_size", U2, 60),
            ("cipher_flags", P, 80),
            ("key_size", U4, 88),
            ("key_parts", U4, 92),
            ("key_extra_size", U4, 96),
            ("key", Is::Text(64), 160),
        ],
    );
    let flags = [
        ("CRYPT_MODE_INTEGRITY_AEAD", 0),
        ("CRYPT_IV_LARGE_SECTORS", 1),
        ("CRYPT_ENCRYPT_PREPROCESS", 2),
    ];
    dead.enumeration("cipher_flags", &flags);
}

fn compressed(dead: &mut Dead, age: Age) {
    let old = age == Age::Old;
    let mut zpool = vec![("driver", P, 0), ("pool", P, 8)];
    if old {
        zpool.push(("evictable", U1, 24));
        dead.record("zswap_header", 8, &[("swpentry", Is::Record("swp_entry_t"), 0)]);
        dead.record("zswap_tree", 16, &[("rbroot", Is::Record("rb_root"), 0)]);
        dead.record(
            "zswap_entry",
            80,
            &[
                ("rbnode", Is::Record("rb_node"), 0),
                ("offset", P, 24),
                ("length", U4, 36),
                ("pool", P, 40),
                ("handle", P, 48),
                ("value", P, 48),
            ],
        );
    } else {
        dead.record(
            "zswap_entry",
            72,
            &[
                ("swpentry", Is::Record("swp_entry_t"), 0),
                ("length", U4, 8),
                ("pool", P, 16),
                ("handle", P, 24),
            ],
        );
    }
    dead.record("zpool", 32, &zpool);
    dead.record("zpool_driver", 64, &[("type", P, 0)]);
    dead.record("zswap_pool", 256, &[("zpool", P, 0), ("tfm_name", Is::Text(128), 80)]);
    dead.record("zbud_header", 48, &[("first_chunks", U4, 32), ("last_chunks", U4, 36)]);
    dead.record(
        "z3fold_header",
        112,
        &[
            ("start_middle", U2, 80 * 8),
            ("first_num", Is::Bits(2), 82 * 8),
            ("mapped_count", Is::Bits(2), 82 * 8 + 2),
        ],
    );
    let (class, magic) = if old { (3, 15) } else { (5, 14) };
    dead.record(
        "zspage",
        64,
        &[("huge", Is::Bits(1), 0), ("class", Is::Bits(9), class), ("magic", Is::Bits(8), magic)],
    );
    dead.record("zs_pool", 2112, &[("size_class", Is::Pointers(255), 8)]);
    dead.record("size_class", 128, &[("size", U4, 64)]);
    zram(dead, old);
}

fn zram(dead: &mut Dead, old: bool) {
    let mut zram = vec![("table", P, 0), ("mem_pool", P, 8), ("disksize", P, 48)];
    if old {
        zram.push(("compressor", Is::Text(128), 56));
        dead.record("zram_table_entry", 16, &[("handle", P, 0), ("flags", P, 8)]);
        let flags = [("ZRAM_LOCK", 13), ("ZRAM_SAME", 14), ("ZRAM_WB", 15), ("ZRAM_HUGE", 17)];
        dead.enumeration("zram_pageflags", &flags);
    } else {
        dead.record("zcomp_params", 32, &[("dict", P, 0), ("dict_sz", P, 8)]);
        zram.push(("comp_algs", Is::Pointers(4), 56));
        zram.push(("params", Is::Records("zcomp_params", 4), 96));
        dead.record("zram_table_entry", 16, &[("handle", P, 0), ("flags", U4, 8)]);
        let flags = [
            ("ZRAM_SAME", 13),
            ("ZRAM_WB", 14),
            ("ZRAM_HUGE", 16),
            ("ZRAM_COMP_PRIORITY_BIT1", 19),
            ("ZRAM_COMP_PRIORITY_BIT2", 20),
        ];
        dead.enumeration("zram_pageflags", &flags);
    }
    dead.record("zram", 512, &zram);
}
