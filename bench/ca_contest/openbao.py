"""OpenBao as a contestant: a development server on loopback with a P-256 issuer.

It stores each certificate (`no_store=false`), in memory: the durable writes are ours alone.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from bench.ca_contest.parts import SPIFFE_ID, TRUST_DOMAIN

TOKEN = "root"  # noqa: S105 - of a server that lives for seconds on loopback
_START_SECONDS = 30.0
_KIND = "root"


def find_openbao() -> str | None:
    """The program: MESHWARDEN_OPENBAO, or `bao` on the PATH; None without it."""
    return os.environ.get("MESHWARDEN_OPENBAO") or shutil.which("bao")


@contextmanager
def openbao(program: str, folder: Path) -> Iterator[int]:
    """Run a server that signs for the SPIFFE ID; yields its port."""
    port = _free_port()
    command = [program, "server", "-dev", f"-dev-root-token-id={TOKEN}"]
    command += [f"-dev-listen-address=127.0.0.1:{port}", "-log-level=error"]
    environment = os.environ | {"HOME": str(folder)}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _set_up(port)
        yield port
    finally:
        process.terminate()
        process.wait()


def _free_port() -> int:
    """Return a port that is free now; the program cannot choose one itself."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _set_up(port: int) -> None:
    """Wait for the server, then make its issuer and role."""
    base = f"http://127.0.0.1:{port}/v1/"
    with httpx.Client(base_url=base, headers={"X-Vault-Token": TOKEN}) as client:
        end = time.monotonic() + _START_SECONDS
        while not _answers(client):
            if time.monotonic() > end:
                raise RuntimeError("OpenBao does not answer")
            time.sleep(0.05)
        _post(client, "sys/mounts/pki", {"type": "pki", "config": {"max_lease_ttl": "720h"}})
        root = {"common_name": TRUST_DOMAIN, "key_type": "ec", "key_bits": 256, "ttl": "720h"}
        _post(client, f"pki/{_KIND}/generate/internal", root)
        role = {
            "key_type": "any",
            "allowed_uri_sans": SPIFFE_ID,
            "require_cn": False,
            "use_csr_sans": True,
            "no_store": False,
            "max_ttl": "24h",
        }
        _post(client, "pki/roles/mesh", role)


def _answers(client: httpx.Client) -> bool:
    """Whether the server is up."""
    try:
        return client.get("sys/health").status_code == 200
    except httpx.HTTPError:
        return False


def _post(client: httpx.Client, path: str, body: dict[str, Any]) -> None:
    """Set something up, or fail with what the server says."""
    answer = client.post(path, json=body)
    if answer.status_code >= 300:
        raise RuntimeError(f"OpenBao refused {path}: {answer.text[:300]}")
