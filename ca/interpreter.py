"""What a process that issues asks of Python itself; called once, when everything is imported."""

from __future__ import annotations

import gc
import sys

# Each time the recorder comes back from the disk it waits for the interpreter, by default up to
# 5 ms, and it comes back several times a group.
_SWITCH_SECONDS = 0.0005
# An issuance makes some hundred objects that live for a millisecond. With the default of 700 the
# collector walked through everything the process holds, again and again: 40 % of the time.
_COLLECT_AFTER = (20_000, 20, 50)


def tune_interpreter() -> None:
    """Take what is loaded out of the collector's sight, and let threads change over sooner."""
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)
