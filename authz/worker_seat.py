"""A worker's own end of its leash; the other one is `authz.worker_process`."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading

from authz.dealt_connections import deal_to_all, take_new_connections
from authz.serve import Seat


def sit_down(worker: str, leash: int, grpc: str, stop: threading.Event) -> Seat:
    """Return the seat of this process, a worker that stops when its leash is let go.

    `grpc` is where it answers checks.
    """
    pair = socket.socket(fileno=leash)
    os.set_inheritable(leash, False)

    def listening(port: int) -> None:
        pair.sendall(json.dumps({"http_port": port}).encode() + b"\n")

    def hold() -> None:
        try:
            # A reset as well: whoever holds the other end is gone.
            with contextlib.suppress(OSError), pair.makefile("rb") as asked:
                for line in asked:
                    done = _deal(json.loads(line), grpc)
                    pair.sendall(json.dumps({"done": done}).encode() + b"\n")
        finally:
            # WHY whatever happened: nobody else would end a worker that nobody looks after.
            stop.set()

    threading.Thread(target=hold, name="leash", daemon=True).start()
    return Seat(worker=worker, shares_port=True, listening=listening)


def _deal(asked: dict[str, int], grpc: str) -> bool:
    """Have new connections dealt as asked: all to this worker, beside so many others, or to all."""
    port = int(grpc.rpartition(":")[2])
    if "others" in asked:
        return take_new_connections(port, asked["others"])
    return deal_to_all(port)
