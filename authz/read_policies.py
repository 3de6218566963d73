"""The other end of `authz.reading_process`: reads what it is sent, sends what was read.

Run as `python -m authz.read_policies`; it imports no more than reading needs, because its
start is a good part of a small reload.
"""

from __future__ import annotations

import gc
import os
import pickle
import sys
from typing import Final

from policies.load import Inspected, inspect_file
from policies.packing import LENGTH, pack

# WHY no more: on a core that checks fill, ten let it have a hundredth of it, and an edit of all
# of 10,000 policies was not read within the two minutes that it is waited for.
_NICENESS: Final = 4
# BUDGET: resources in one piece, a millisecond to take in.
_PIECE: Final = 25


def main() -> None:
    """Read what stands on standard input, write what was read."""
    os.nice(_NICENESS)
    # WHY: what is read has no cycles, and nothing of it stays: there is nothing to collect.
    gc.disable()
    for asked in pickle.load(sys.stdin.buffer):  # noqa: S301 - of the process that started us
        found = inspect_file(*asked)
        for start in range(0, max(len(found.resources), len(found.findings), 1), _PIECE):
            end = start + _PIECE
            piece = Inspected(
                resources=found.resources[start:end],
                findings=found.findings[start:end],
                nodes=0 if start else found.nodes,
            )
            data = pack(piece)
            sys.stdout.buffer.write(LENGTH.pack(len(data)) + data)
        sys.stdout.buffer.write(LENGTH.pack(0))
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
