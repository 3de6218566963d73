"""Run a command that dies with the process that started it: `leash.py PARENT_PID COMMAND...`.

The demo may be killed in a way it cannot answer (`kill -9`); the kernel then
ends what it started. This is a program and not a hook between fork and exec,
because the demo has threads by then and such a hook is not safe beside them.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie this process to its parent, then become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    # prctl is Linux's; elsewhere only an orderly end of the demo ends its processes.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent may have died before the tie held.
    if os.getppid() != parent:
        sys.exit("the demo is gone")
    os.execvp(command[0], command)  # noqa: S606 - the command is the demo's own


if __name__ == "__main__":
    main()
