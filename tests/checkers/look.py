# SPDX-License-Identifier: Apache-2.0
"""What drgn sees in a vmcore, as JSON on stdout.

usage: drgn -q -c VMCORE -s VMLINUX look.py PID
"""

import json
import sys

from drgn.helpers.linux.mm import for_each_vma
from drgn.helpers.linux.pid import find_task, for_each_task
from drgn.helpers.linux.printk import get_dmesg

victim = find_task(prog, int(sys.argv[1]))  # noqa: F821  (drgn gives prog)
crashed = prog.crashed_thread()  # noqa: F821
json.dump(
    {
        "tasks": [[t.pid.value_(), t.comm.string_().decode()] for t in for_each_task(prog)],  # noqa: F821
        "crashed": {
            "pid": crashed.object.pid.value_(),
            "comm": crashed.object.comm.string_().decode(),
            "stack": [frame.name for frame in crashed.stack_trace()],
        },
        "log": get_dmesg(prog).decode(errors="replace").splitlines(),  # noqa: F821
        "vmas": [
            [vma.vm_start.value_(), vma.vm_end.value_()] for vma in for_each_vma(victim.mm)
        ],
    },
    sys.stdout,
)
