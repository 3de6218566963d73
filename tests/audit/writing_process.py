"""A process that writes records until it is killed; prints the count accepted so far."""

from __future__ import annotations

import sys
from pathlib import Path

from audit_records import make_record

from audit.settings import AuditSettings
from audit.writer import AuditWriter

if __name__ == "__main__":
    mode = sys.argv[2] if len(sys.argv) > 2 else "spill"
    settings = AuditSettings(
        folder=Path(sys.argv[1]), max_segment_bytes=65536, mode=mode, queue_wait_milliseconds=10_000
    )
    writer = AuditWriter(settings, node="child")
    number = 0
    while True:
        number += 1
        writer.offer(make_record(number))
        if mode == "strict" or number % 50 == 0:
            print(number, flush=True)
