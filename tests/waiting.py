"""Waiting for what another thread or process brings about, as long as a busy machine may need."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import httpx

_SECONDS = 60.0
_PAUSE = 0.02


def until(
    holds: Callable[[], object],
    *,
    seconds: float = _SECONDS,
    told: Callable[[], object] = lambda: "it never came about",
) -> None:
    """Return once something holds; fail with what `told` says then if it does not in time."""
    end, pause = time.monotonic() + seconds, threading.Event()
    while not holds():
        assert time.monotonic() < end, told()
        pause.wait(_PAUSE)


def envoy_ports(
    process: subprocess.Popen[Any], folder: Path, names: Collection[str]
) -> dict[str, int]:
    """Return the ports of an Envoy's listeners by their names, once it has them all.

    Its folder has the file `admin` with the address of its administration interface.
    """
    ports: dict[str, str] = {}

    def are_there() -> bool:
        assert process.poll() is None, f"Envoy ended: {_log_of(folder)}"
        admin = folder / "admin"
        address = admin.read_text().strip() if admin.exists() else ""
        if address:
            try:
                url = f"http://{address}/listeners"
                text = httpx.get(url, timeout=5, trust_env=False).text
            except httpx.HTTPError:
                return False
            ports.update(re.findall(r"^([\w-]+)::127\.0\.0\.1:(\d+)", text, re.MULTILINE))
        return set(names) <= set(ports)

    until(are_there, told=lambda: f"Envoy does not listen: {_log_of(folder)}")
    return {name: int(ports[name]) for name in names}


def _log_of(folder: Path) -> str:
    log = folder / "envoy.log"
    return log.read_text(errors="replace")[-2000:] if log.exists() else ""
