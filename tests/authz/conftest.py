"""What tests of the command lines share."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own to stand in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def nameless(monkeypatch: pytest.MonkeyPatch) -> None:
    """No name leads anywhere: the examples' issuer is not looked for outside."""

    def refuse(host: Any, *arguments: Any, **options: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "no names here")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
