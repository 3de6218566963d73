"""Runs again whenever a file changes that a run looks at: `policy test --watch`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from authz.config_file import load_model
from authz.policytest.model import PolicyTestFile
from authz.policytest.run import find_test_files
from authz.reload import fingerprint
from policies.diagnostic import LoadError

INTERVAL_SECONDS = 0.3
"""How often the files are looked at, as the server looks at its own."""


def watched_paths(paths: Sequence[Path]) -> list[Path]:
    """Return the paths, and what the test files below them name elsewhere."""
    found = list(paths)
    try:
        files = find_test_files(paths)
    except LoadError:
        return found
    for file in files:
        found.extend(_named_in(file))
    return list(dict.fromkeys(found))


def _named_in(file: Path) -> Iterator[Path]:
    try:
        sources = load_model(file, PolicyTestFile).policies
    except LoadError:
        return
    base = file.resolve().parent
    yield from (base / path for path in sources.istio)
    for provider in sources.providers:
        made = provider.made_absolute(base)
        yield from (*made.rego.paths, *made.rego.data)
    for bundle in sources.bundles:
        if bundle.path is not None:
            yield base / bundle.path


def run_on_change(
    run: Callable[[], None],
    watched: Callable[[], Iterable[Path]],
    stop: threading.Event | None = None,
    interval_seconds: float = INTERVAL_SECONDS,
) -> None:
    """Run now, and again after each change, until `stop` is set.

    An edit counts once two looks in a row saw the same, so that no half-written file is run.
    """
    stop = stop or threading.Event()
    while not stop.is_set():
        paths = tuple(watched())
        ran = seen = fingerprint(paths)
        run()
        while not stop.wait(interval_seconds):
            now = fingerprint(paths)
            if now == seen and now != ran:
                break
            seen = now
