"""What a process that answers checks does not hold, and what still works without it."""

from __future__ import annotations

import subprocess
import sys

import pytest

SERVE = "from authz.cli import main; main(['serve', '--help'], standalone_mode=False)"
INSIDE_ENVOY = "import authz.embedded.sitecustomize"
SHOW = "import sys; print('|', *sorted({each.partition('.')[0] for each in sys.modules}))"


def run(script: str) -> str:
    """Return what a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert not done.returncode, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("script", "absent"),
    [
        (SERVE, {"rich", "pygments", "h2", "hpack", "httpx", "authlib"}),
        (INSIDE_ENVOY, {"rich", "pygments", "h2", "hpack", "httpx", "authlib", "grpc"}),
    ],
    ids=["serve", "inside Envoy"],
)
def test_a_server_imports_no_more_than_it_uses(script: str, absent: set[str]) -> None:
    """Libraries for other commands, other listeners and rare settings stay out."""
    imported = set(run(f"{script}\n{SHOW}").rpartition("|")[2].split())

    assert {"structlog", "httpcore", "pydantic"} <= imported
    assert not absent & imported


def test_what_was_hidden_is_there_again() -> None:
    """Whoever needs one of the libraries afterwards, in the same process, has it."""
    script = "from authz.lean_imports import import_leanly; import_leanly()"
    assert "True" == run(f"{script}; import h2, rich.console; print(h2 is not None)").strip()


def test_what_is_there_already_stays() -> None:
    """A process that imported one of them before keeps it, the very same."""
    script = "import rich, sys; before = sys.modules['rich']"
    script += "; from authz.lean_imports import import_leanly; import_leanly()"
    assert "True" == run(f"{script}; print(sys.modules['rich'] is before)").strip()
