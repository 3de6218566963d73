"""Scripts that kill a process of theirs at each of its file operations, one after the other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[2]
# A script has then: `base` and `now`, the `plan` of authorities, and, with `steps["left"]` set and
# `hook` as audit hook, its end by a signal after so many operations.
_PRELUDE = """
import os, shutil, sys, signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from ca.authority import AuthorityKeeper, AuthorityPlan
from ca.keys import FileKeyStore
from ca.state import StateFolder
from identity.spiffe_id import TrustDomain

base, steps = Path(sys.argv[1]), {"left": -1}
now = datetime.now(UTC)
plan = AuthorityPlan(trust_domain=TrustDomain("example.org"),
    root_lifetime=timedelta(days=300), intermediate_lifetime=timedelta(days=90))

def hook(event, args):
    if event in ("open", "os.rename", "os.link", "os.remove", "os.mkdir", "fcntl.flock"):
        if steps["left"] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        steps["left"] -= 1

"""


def told_by(script: str, folder: Path) -> str:
    """Run a script behind the prelude, with a folder as its base; return its last line."""
    done = subprocess.run(
        [sys.executable, "-c", _PRELUDE + script, str(folder)],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]
