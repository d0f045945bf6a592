# SPDX-License-Identifier: Apache-2.0
"""Reads 16 bytes of physical memory through drgn, or says why it cannot.

usage: drgn -q -c VMCORE -s VMLINUX read.py ADDRESS
"""

import sys

from drgn import FaultError

try:
    print(prog.read(int(sys.argv[1], 16), 16, physical=True).hex())  # noqa: F821  (drgn gives it)
except FaultError as error:
    print(f"FaultError: {error}")
