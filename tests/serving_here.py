"""`meshwarden serve` within the test's own process, in a thread, with listeners on real sockets."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from authz.config_file import load_settings
from authz.serve import serve

_ENDING_SECONDS = 60


@contextmanager
def served_here(configuration: Path) -> Iterator[list[Exception]]:
    """Serve, and stop in the end; yields what ended it before, which fails the test then."""
    stop, failures = threading.Event(), list[Exception]()

    def run() -> None:
        try:
            serve(load_settings(configuration), stop=stop)
        except Exception as exc:
            failures.append(exc)

    thread = threading.Thread(target=run, name="serve")
    thread.start()
    try:
        yield failures
    finally:
        stop.set()
        thread.join(_ENDING_SECONDS)
    assert failures == []
    assert not thread.is_alive(), "the server did not end"
