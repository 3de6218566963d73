"""SHA-256 of short texts, without giving the interpreter to another thread in between.

WHY: `hashlib` lets others run while it digests 2,048 bytes or more at once. That takes some two
microseconds; to get the interpreter back under load takes up to the switch interval, for each
record and each check.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

# What is digested at once without letting others run.
_AT_ONCE: Final = 2047
# BUDGET: beyond this others had better run meanwhile.
_LONGEST: Final = 65_536


def held_sha256(data: bytes) -> Any:
    """Return the hash object of `hashlib.sha256(data)`."""
    if not _AT_ONCE < len(data) <= _LONGEST:
        return hashlib.sha256(data)
    found, view = hashlib.sha256(), memoryview(data)
    for at in range(0, len(view), _AT_ONCE):
        found.update(view[at : at + _AT_ONCE])
    return found
