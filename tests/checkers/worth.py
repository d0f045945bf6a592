# SPDX-License-Identifier: Apache-2.0
"""What each page of a vmcore is, as drgn says from the kernel's own types.

usage: drgn -q -c VMCORE -s VMLINUX worth.py [MAP]

Prints the pages of each class, as capturer/sources/examples/worth.rs does, and
writes the same map: one digit for each pfn from 0 on, `.` where the vmcore has no
memory. The digits number the names below. Nothing is taken from VMCOREINFO: types,
enumerators and offsets come from the vmlinux's DWARF.
"""

import array
import struct
import sys

from drgn import FaultError, offsetof
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.mm import page_to_pfn, pfn_to_page
from drgn.helpers.linux.mmzone import for_each_online_pgdat

NAMES = [
    "kernel", "offline", "anon", "shmem", "huge", "cache", "cache-private", "free", "swap-cache",
    "poison",
]
KERNEL, OFFLINE, ANON, SHMEM, HUGE, CACHE, PRIVATE, FREE, SWAPPED, POISON = range(10)
PAGE = 4096
SECTION = 1 << 15

prog = globals()["prog"]  # drgn gives it
page_t = prog.type("struct page")
SIZE = page_t.size


def enumerators(name):
    return {e.name: e.value for e in prog.type("enum " + name).enumerators}


FLAGS = enumerators("pageflags")


def bit(name):
    return 1 << FLAGS[name]


LRU, PRIVATE_FLAG, HEAD = bit("PG_lru"), bit("PG_private"), bit("PG_head")
SWAPBACKED, SWAPCACHE = bit("PG_swapbacked"), bit("PG_swapcache")
try:
    TYPES = enumerators("pagetype")  # 6.12 on: the high byte of page_type
except LookupError:
    TYPES = None
SLAB = bit("PG_slab") if "PG_slab" in FLAGS else 0
HWPOISON = bit("PG_hwpoison") if "PG_hwpoison" in FLAGS else 0


def offset(name):
    return offsetof(page_t, name)


AT = {n: offset(n) for n in ("flags", "compound_head", "mapping", "_mapcount")}


NAMED = {value: name for name, value in (TYPES or {}).items()}
# Before 6.11 a type is a cleared bit under a base (include/linux/page-flags.h of 6.1).
BITS = (("PGTY_buddy", 0x80), ("PGTY_offline", 0x100), ("PGTY_table", 0x200))
try:
    DTOR_AT = offset("compound_dtor")
    HUGETLB_DTOR = enumerators("compound_dtor_id")["HUGETLB_PAGE_DTOR"]
except LookupError:
    DTOR_AT = None


def page_type(mapcount):
    """The type's name, or None. `mapcount` is unsigned."""
    if TYPES is not None:
        return NAMED.get(mapcount >> 24, "unknown") if 1 << 31 <= mapcount < 0xFF << 24 else None
    if not 0xF0000000 <= mapcount < (1 << 32) - 128:
        return None
    return next((name for name, bit in BITS if not mapcount & bit), "unknown")


def is_hugetlb(raw, at):
    """By the destructor that the second page names, in kernels without such a type."""
    return DTOR_AT is not None and raw[at + SIZE + DTOR_AT] == HUGETLB_DTOR


def own(raw, at, flags, mapping, mapcount):
    """A page that is not free and not the further part of a compound page."""
    kind = page_type(mapcount)
    if kind == "PGTY_hugetlb" or (flags & HEAD and is_hugetlb(raw, at)):
        return HUGE
    if kind == "PGTY_offline":
        return OFFLINE
    if kind is not None or flags & SLAB:
        return KERNEL
    if mapping & 1:
        return ANON
    if mapping & 2:
        return KERNEL
    if flags & SWAPBACKED and flags & SWAPCACHE:
        return SWAPPED
    if flags & SWAPBACKED and (flags & LRU or mapping):
        return SHMEM
    if flags & LRU:
        return PRIVATE if flags & PRIVATE_FLAG else CACHE
    return KERNEL


def free_pages():
    """Every page in the buddy allocator's lists, by walking the lists themselves."""
    found = set()
    for node in for_each_online_pgdat(prog):
        for zone in node.node_zones:
            for order, area in enumerate(zone.free_area):
                for head in area.free_list:
                    if not head.next:
                        continue  # a zone that this machine does not have
                    for page in list_for_each_entry("struct page", head.address_of_(), "buddy_list"):
                        first = page_to_pfn(page).value_()
                        found.update(range(first, first + (1 << order)))
    return found


def vmemmap():
    return pfn_to_page(prog, 0).value_()


def ranges():
    """Physical memory of the vmcore, from its program headers."""
    with open(prog.core_dump_path, "rb") as core:
        head = core.read(64)
        at, size, count = struct.unpack_from("<Q", head, 32)[0], *struct.unpack_from("<HH", head, 54)
        found = []
        for n in range(count):
            core.seek(at + n * size)
            kind, _, _, vaddr, paddr, filesz, _, _ = struct.unpack("<IIQQQQQQ", core.read(56))
            if kind == 1 and not 0xFFFFFFFF80000000 <= vaddr:
                found.append((paddr // PAGE, -(-(paddr + filesz) // PAGE)))
    return sorted(found)


def block(base, first, count, free, heads):
    """Digits of `count` pages from `first` on."""
    try:
        raw = prog.read(base + first * SIZE, (count + 1) * SIZE)
    except FaultError:  # the page behind may not be there
        raw = prog.read(base + first * SIZE, count * SIZE) + bytes(SIZE)
    out = bytearray(count)
    for n in range(count):
        at = n * SIZE
        pfn = first + n
        flags, head, mapping = (
            struct.unpack_from("<Q", raw, at + AT[m])[0] for m in ("flags", "compound_head", "mapping")
        )
        mapcount = struct.unpack_from("<I", raw, at + AT["_mapcount"])[0]
        poison = flags & HWPOISON
        if pfn in free:
            out[n] = FREE
        elif head & 1:
            which = (head - 1 - base) // SIZE
            if which not in heads:
                # A head that is free itself, or a further part, leaves no note.
                heads.setdefault(which, block(base, which, 1, free, heads)[0])
            out[n] = heads[which]
        else:
            out[n] = own(raw, at, flags, mapping, mapcount)
            # The fault of a huge page is marked on its first page.
            heads[pfn] = POISON if poison and out[n] == HUGE else out[n]
        if poison:
            out[n] = POISON
    return out


def main():
    base, free, heads = vmemmap(), free_pages(), {}
    counts = array.array("Q", [0] * len(NAMES))
    text = bytearray()
    for start, end in ranges():
        text.extend(b"." * (start - len(text)))
        for first in range(start, end, SECTION):
            digits = block(base, first, min(SECTION, end - first), free, heads)
            for n, _ in enumerate(NAMES):
                counts[n] += digits.count(n)
            text.extend(d + 48 for d in digits)
    for name, count in zip(NAMES, counts):
        print(f"{name:13} {count}")
    if len(sys.argv) > 1:
        with open(sys.argv[1], "wb") as out:
            out.write(text)


main()
