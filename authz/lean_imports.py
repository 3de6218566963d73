"""Libraries imported without those parts of them that a server never uses.

Some take another library in where they find it installed, and for other commands of ours it is:
structlog takes rich (and pygments) to show errors in colors, httpcore takes h2 for HTTP/2, which
nobody here fetches by. That is 5 MB in every process that answers checks.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


def import_leanly() -> None:
    """Import them now, before anybody else does; what is imported already stays as it is."""
    # WHY here: each is to be imported while something is hidden; that is all that is wanted of it.
    with _hidden("rich"):
        import structlog  # noqa: F401, PLC0415 - as above
    with _hidden("h2"):
        import httpcore  # noqa: F401, PLC0415 - as above


@contextmanager
def _hidden(name: str) -> Iterator[None]:
    """Have a library that nobody imported yet not be found."""
    if name in sys.modules:
        yield
        return
    # Spec: Python's import system, "the module cache": what is None there cannot be imported.
    sys.modules[name] = None  # type: ignore[assignment]  # its type knows nothing of that
    try:
        yield
    finally:
        del sys.modules[name]
