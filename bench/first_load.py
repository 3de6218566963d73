"""What it takes to load a folder of policies, in the process that is to serve them.

Run as `python -m bench.first_load FOLDER`: prints seconds and CPU seconds as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from authz.policy_reading import PolicyReading
from bench.check_contest.servers import SERVER_CORE
from policies.files import read_policy_files
from policies.mesh import Mesh

_ROUNDS = 3


def measured(folder: Path) -> dict[str, float]:
    """Return the fastest of a few loads, each in a process of its own on the server's core."""
    command = ["taskset", "-c", SERVER_CORE, sys.executable, "-m", "bench.first_load", str(folder)]
    ran = [subprocess.run(command, capture_output=True, check=True) for _ in range(_ROUNDS)]
    found: list[dict[str, float]] = [json.loads(each.stdout) for each in ran]
    return min(found, key=lambda each: each["seconds"])


def main(folder: str) -> None:
    """Load once."""
    begun, used = time.perf_counter(), time.process_time()
    PolicyReading().snapshot(read_policy_files([Path(folder)]), Mesh())
    took = {"seconds": time.perf_counter() - begun, "cpu_seconds": time.process_time() - used}
    print(json.dumps({name: round(each, 2) for name, each in took.items()}))


if __name__ == "__main__":
    main(sys.argv[1])
