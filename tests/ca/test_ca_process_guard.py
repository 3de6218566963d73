"""The process of a CA as its kernel sees it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import ctypes, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
from ca.process_guard import guard_process
guard_process()
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
open("/proc/self/fd/0").close()
print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3), soft == hard)
"""


def test_a_process_that_holds_keys():
    """No core file, nothing for debuggers of the same user, and as many files as may be."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "(0, 0) 0 True\n", done.stderr
