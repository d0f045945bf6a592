# SPDX-License-Identifier: Apache-2.0
"""All tasks and the memory maps of some processes, as drgn sees them with the debug
kernel; JSON on stdout.

usage: drgn -q -c VMCORE -s VMLINUX userland.py PID...
"""

import json
import sys

from drgn import NULL
from drgn.helpers.linux.fs import d_path
from drgn.helpers.linux.mm import for_each_vma
from drgn.helpers.linux.pid import find_task, for_each_task
from drgn.helpers.linux.sched import task_cpu, task_state_to_char

# include/linux/mm.h
READ, WRITE, EXEC, MAYSHARE = 1, 2, 4, 0x80


def thread(task):
    """One thread."""
    return {
        "tid": task.pid.value_(),
        "state": task_state_to_char(task),
        "cpu": task_cpu(task),
        "comm": task.comm.string_().decode(errors="replace"),
    }


def perms(flags):
    """As /proc/PID/maps shows them: a shared mapping is one with VM_MAYSHARE."""
    return "".join((
        "r" if flags & READ else "-",
        "w" if flags & WRITE else "-",
        "x" if flags & EXEC else "-",
        "s" if flags & MAYSHARE else "p",
    ))


def area(vma):
    """One line of the map."""
    file = vma.vm_file
    named = file != NULL(prog, file.type_)  # noqa: F821  (drgn gives prog)
    return {
        "start": vma.vm_start.value_(),
        "end": vma.vm_end.value_(),
        "flags": perms(vma.vm_flags.value_()),
        "offset": vma.vm_pgoff.value_() * 4096 if named else 0,
        "name": d_path(file.f_path).decode(errors="replace") if named else "",
    }


processes = {}
for one in for_each_task(prog):  # noqa: F821
    process = processes.setdefault(one.tgid.value_(), {
        "pid": one.tgid.value_(),
        "ppid": one.group_leader.real_parent.tgid.value_(),
        "threads": [],
    })
    process["threads"].append(thread(one))
json.dump(
    {
        "processes": list(processes.values()),
        "maps": {
            pid: [area(vma) for vma in for_each_vma(find_task(prog, int(pid)).mm)]  # noqa: F821
            for pid in sys.argv[1:]
        },
    },
    sys.stdout,
)
