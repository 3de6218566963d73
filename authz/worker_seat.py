"""A worker's own end of its leash; the other one is `authz.worker_process`."""

from __future__ import annotations

import json
import os
import socket
import threading

from authz.serve import Seat


def sit_down(worker: str, leash: int, stop: threading.Event) -> Seat:
    """Return the seat of this process, a worker that stops when its leash is let go."""
    pair = socket.socket(fileno=leash)
    os.set_inheritable(leash, False)

    def listening(port: int) -> None:
        pair.sendall(json.dumps({"http_port": port}).encode() + b"\n")

    def hold() -> None:
        # Nobody ever writes: this returns when the other end is closed.
        pair.recv(1)
        stop.set()

    threading.Thread(target=hold, name="leash", daemon=True).start()
    return Seat(worker=worker, shares_port=True, listening=listening)
