"""The Workload API as go-spiffe sees it: the client library of the field, in a program of its own.

`make interop` builds the program (`tests/ca/go_spiffe`) where Go is installed.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import threading
from contextlib import contextmanager
from datetime import timedelta

import pytest
from delivering import delivering_ca

CART = "spiffe://example.org/ns/shop/sa/cart"
MINE = f"unix:uid:{os.getuid()}"
PROGRAM = shutil.which("gospiffe")
# go-spiffe waits for up to some seconds before it connects again.
WAIT = 30

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="gospiffe is not built: make interop")


@contextmanager
def _gospiffe(endpoint: str):
    """The program on an endpoint; yields what returns the next line of an event."""
    process = subprocess.Popen([PROGRAM, endpoint, "pay"], stdout=subprocess.PIPE, text=True)
    lines: queue.Queue[dict[str, object]] = queue.Queue()

    def read() -> None:
        for line in process.stdout:
            lines.put(json.loads(line))

    reader = threading.Thread(target=read)
    reader.start()

    def next_of(event: str) -> dict[str, object]:
        while True:
            line = lines.get(timeout=WAIT)
            assert line["event"] != "failed", line
            if line["event"] == event:
                return line

    try:
        yield next_of
    finally:
        process.terminate()
        process.wait()
        reader.join()
        process.stdout.close()


def test_fetch_verify_watch(tmp_path, say):
    """go-spiffe verifies tokens and chains, and sees renewals, a new root, and a CA's return."""
    with delivering_ca(tmp_path, lifetime=timedelta(seconds=5)) as ca:
        ca.add(CART, MINE)
        with _gospiffe(ca.endpoint) as next_of:
            assert next_of("jwt") == {"event": "jwt", "id": CART, "same": True}
            first = next_of("x509")
            assert (first["id"], first["count"], first["roots"]) == (CART, 1, 1)
            assert next_of("x509")["serial"] != first["serial"]
            ca.keeper.prepare()
            while next_of("x509")["roots"] != 2:
                pass
            say("go-spiffe: X.509-SVID and JWT-SVID fetched, a renewal and a new root watched")


def test_a_ca_that_was_away(tmp_path):
    """go-spiffe keeps its watch over a restart of the CA."""
    with delivering_ca(tmp_path) as ca:
        ca.add(CART, MINE)
        watching = _gospiffe(ca.endpoint)
        next_of = watching.__enter__()
        first = next_of("x509")
    try:
        assert next_of("watch_error")["why"]
        with delivering_ca(tmp_path):
            assert next_of("x509")["serial"] != first["serial"]
    finally:
        watching.__exit__(None, None, None)
