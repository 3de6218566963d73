"""What every test of the house stands on: a clean environment, and paths kept short."""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import settings

# How long one example takes tells which machine it ran on, not whether it holds.
settings.register_profile("house", deadline=None)
settings.load_profile("house")

# What PyYAML writes plain and `kubectl`, as we do, reads as a boolean or a number.
yaml.SafeDumper.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("[yYnN]$"), list("yYnN"))
yaml.SafeDumper.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?0[oO]?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?$"),
    list("-+0"),
)

REPOSITORY = Path(__file__).resolve().parent.parent

# A variable of the machine must not decide a test: proxies would catch loopback
# traffic, and the others change what a child process prints or loads.
_UNWANTED = (
    "ALL_PROXY",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "COLUMNS",
    "FORCE_COLOR",
    "NO_COLOR",
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONPATH",
    "PYTHONWARNINGS",
)


@pytest.fixture(autouse=True, scope="session")
def _clean_environment() -> Iterator[None]:
    """Take the machine's own settings away for the whole run, and put them back."""
    # A shell has what it runs in the background ignore Ctrl-C, and all that is started from there.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    names = [name for name in os.environ if name.upper() in _UNWANTED]
    kept = {name: os.environ.pop(name) for name in names}
    yield
    os.environ.update(kept)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return REPOSITORY


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A fresh folder with a short name: a Unix socket's path holds 107 bytes at most."""
    folder = Path(tempfile.mkdtemp(prefix="mw-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
