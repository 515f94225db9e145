"""Become another program that dies with the process that started it, even by SIGKILL.

Run as a file, by a Python without site packages: `python -I -S tether.py PARENT_PID PROGRAM ARGUMENT…` (about 15 ms).
A program of its own because a `preexec_fn` runs Python between fork and exec of a process that has threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


def main() -> None:
    parent, program = int(sys.argv[1]), sys.argv[2]
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"cannot tie {program} to the life of process {parent}: {os.strerror(ctypes.get_errno())}")
    # The parent may have died before the tie was made: the signal it should bring will then never come.
    if os.getppid() != parent:
        sys.exit(f"process {parent}, which asked for {program}, is gone")
    os.execv(program, sys.argv[2:])


if __name__ == "__main__":
    main()
