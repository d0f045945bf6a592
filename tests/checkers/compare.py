# SPDX-License-Identifier: Apache-2.0
"""Compares physical memory as drgn reads it from a vmcore with a copy of RAM.

usage: drgn -q -c VMCORE -s VMLINUX compare.py RAM_COPY START:END:OFFSET...

Each triple is a range of physical addresses and where it starts in RAM_COPY,
in bytes, all hexadecimal. Prints the pages compared and the pages equal.
"""

import sys

PAGE = 4096
STEP = 256 * PAGE

compared = equal = 0
with open(sys.argv[1], "rb") as ram:
    for triple in sys.argv[2:]:
        start, end, offset = (int(n, 16) for n in triple.split(":"))
        ram.seek(offset)
        for at in range(start, end, STEP):
            size = min(STEP, end - at)
            theirs = prog.read(at, size, True)  # noqa: F821  (drgn gives prog)
            ours = ram.read(size)
            compared += size // PAGE
            if theirs == ours:
                equal += size // PAGE
            else:
                equal += sum(
                    theirs[n : n + PAGE] == ours[n : n + PAGE] for n in range(0, size, PAGE)
                )
print(compared, equal)
