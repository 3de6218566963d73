"""OpenBao as a contestant on loopback, with a P-256 issuer that stores each certificate.

Twice: as a development server, which keeps all in memory and loses it when it ends; and with what
our side has too, storage on the disk (Raft) and an audit log of each request.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bench.ca_contest.parts import SPIFFE_ID, TRUST_DOMAIN

_START_SECONDS = 30.0
_KIND = "root"
_DURABLE = """
storage "raft" {{
  path = "{folder}"
  node_id = "one"
}}
listener "tcp" {{
  address = "127.0.0.1:{port}"
  tls_disable = true
}}
audit "file" "requests" {{
  options {{
    file_path = "{folder}/audit.log"
  }}
}}
api_addr = "http://127.0.0.1:{port}"
cluster_addr = "http://127.0.0.1:{cluster_port}"
disable_mlock = true
log_level = "error"
"""


@dataclass(frozen=True, slots=True)
class OpenBao:
    """A server that signs: its port, and the token that may ask."""

    port: int
    token: str


def find_openbao() -> str | None:
    """The program: MESHWARDEN_OPENBAO, or `bao` on the PATH; None without it."""
    return os.environ.get("MESHWARDEN_OPENBAO") or shutil.which("bao")


@contextmanager
def openbao_in_memory(program: str, folder: Path) -> Iterator[OpenBao]:
    """Run a development server that signs for the SPIFFE ID."""
    port = _free_port()
    arguments = ["-dev", "-dev-root-token-id=root", f"-dev-listen-address=127.0.0.1:{port}"]
    with _running([program, "server", *arguments, "-log-level=error"], folder), _client(port) as to:
        _wait_until(to, {200})
        _set_up(to, "root")
        yield OpenBao(port, "root")


@contextmanager
def openbao_on_disk(program: str, folder: Path) -> Iterator[OpenBao]:
    """Run a server that signs for the SPIFFE ID and keeps what it does on the disk."""
    port, data, config = _free_port(), folder / "openbao", folder / "openbao.hcl"
    data.mkdir()
    config.write_text(_DURABLE.format(folder=data, port=port, cluster_port=_free_port()))
    with _running([program, "server", f"-config={config}"], folder), _client(port) as to:
        _wait_until(to, {200, 501, 503})
        keys = _post(to, "sys/init", {"secret_shares": 1, "secret_threshold": 1})
        _post(to, "sys/unseal", {"key": keys["keys"][0]})
        _wait_until(to, {200})
        _set_up(to, keys["root_token"])
        assert (data / "audit.log").stat().st_size
        yield OpenBao(port, keys["root_token"])


@contextmanager
def _running(command: Sequence[str], folder: Path) -> Iterator[None]:
    """Run the program for as long as the block."""
    environment = os.environ | {"HOME": str(folder)}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def _free_port() -> int:
    """Return a port that is free now; the program cannot choose one itself."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _client(port: int) -> httpx.Client:
    """Return a client of the server's API."""
    return httpx.Client(base_url=f"http://127.0.0.1:{port}/v1/", timeout=_START_SECONDS)


def _set_up(client: httpx.Client, token: str) -> None:
    """Make the issuer and its role."""
    client.headers["X-Vault-Token"] = token
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


def _wait_until(client: httpx.Client, statuses: set[int]) -> None:
    """Wait until the server's health is one of these."""
    end = time.monotonic() + _START_SECONDS
    while _health(client) not in statuses:
        if time.monotonic() > end:
            raise RuntimeError("OpenBao does not answer")
        time.sleep(0.05)


def _health(client: httpx.Client) -> int:
    """Return the status of the server's health, 0 while there is none."""
    try:
        return client.get("sys/health").status_code
    except httpx.HTTPError:
        return 0


def _post(client: httpx.Client, path: str, body: dict[str, Any]) -> Any:
    """Set something up, or fail with what the server says; returns what it answers."""
    answer = client.post(path, json=body)
    if answer.status_code >= 300:
        raise RuntimeError(f"OpenBao refused {path}: {answer.text[:300]}")
    return answer.json() if answer.content else {}
