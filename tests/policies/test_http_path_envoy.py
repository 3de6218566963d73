"""The same paths to a real Envoy at each normalization level and to ours: same answers."""

from __future__ import annotations

import json
import random
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from policies.http_path import normalize_path
from policies.mesh import PathNormalization
from tests.waiting import envoy_ports

pytestmark = pytest.mark.envoy

LEVELS = [level for level in PathNormalization if level is not PathNormalization.AS_IS]
MERGING = {PathNormalization.MERGE_SLASHES, PathNormalization.DECODE_AND_MERGE_SLASHES}
HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"

HAND_MADE = Path(__file__).with_name("http_paths.txt").read_text().split("\n")[:-1]
PIECES = [
    *("/", "//", "\\", ".", "..", "%2e", "%2E", "%2f", "%2F", "%5c", "%5C", "%25", "%00", "%41"),
    *("%7e", "%zz", "%", ";", "?", "#", "a", "B", "{", "%c3", "%80", "~", "*", "%4", "1"),
]


def generated(count: int) -> list[str]:
    """Return paths put together from the pieces that matter, the same in every run."""
    chance = random.Random(3)
    return ["/" + "".join(chance.choices(PIECES, k=chance.randint(1, 9))) for _ in range(count)]


def every_byte() -> list[str]:
    """Return a path with each byte, as it is and escaped, before and after a plain letter."""
    raw = [bytes((b,)).decode("utf-8", "surrogateescape") for b in range(256)]
    return [f"/a{each}b" for each in raw] + [f"/a%{b:02x}b/%{b:02X}." for b in range(256)]


PATHS = HAND_MADE + generated(600) + every_byte()


def listener(level: PathNormalization) -> dict[str, Any]:
    """Return a listener that normalizes as Istio sets Envoy up for a level, and tells the path."""
    manager: dict[str, Any] = {
        "@type": f"type.googleapis.com/{HCM}",
        "stat_prefix": level,
        "normalize_path": level is not PathNormalization.NONE,
        "merge_slashes": level in MERGING,
        "path_with_escaped_slashes_action": "UNESCAPE_AND_FORWARD"
        if level is PathNormalization.DECODE_AND_MERGE_SLASHES
        else "KEEP_UNCHANGED",
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
                },
            }
        ],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {
                            "match": {"safe_regex": {"regex": "(?s).*"}},
                            "direct_response": {"status": 200},
                            "response_headers_to_add": [
                                {"header": {"key": "seen", "value": "%REQ(:path)%"}}
                            ],
                        }
                    ],
                }
            ]
        },
    }
    return {
        "name": level,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": manager,
                    }
                ]
            }
        ],
    }


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    """The port of a real Envoy's listener for each level."""
    folder = tmp_path_factory.mktemp("envoy")
    binary = shutil.which("envoy", path=str(Path(sys.executable).parent)) or "envoy"
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    config = {
        "admin": {"address": address},
        # Istio turns the rejection of fragments off.
        "layered_runtime": {
            "layers": [
                {
                    "name": "istio",
                    "static_layer": {
                        "envoy.reloadable_features.http_reject_path_with_fragment": False
                    },
                }
            ]
        },
        "static_resources": {"listeners": [listener(level) for level in LEVELS]},
    }
    (folder / "envoy.json").write_text(json.dumps(config))
    command = [binary, "-c", str(folder / "envoy.json"), "--concurrency", "1"]
    command += ["--use-dynamic-base-id", "--log-level", "error", "--admin-address-path"]
    log = (folder / "envoy.log").open("w")
    with (
        log,
        subprocess.Popen([*command, str(folder / "admin")], stderr=log, stdout=log) as process,
    ):
        try:
            yield envoy_ports(process, folder, LEVELS)
        finally:
            process.terminate()


class Connection:
    """One HTTP/1.1 connection that sends request targets as they are, opened anew when closed."""

    def __init__(self, port: int) -> None:
        """Remember the port."""
        self._port = port
        self._open: socket.socket | None = None

    def ask(self, path: str) -> str | None:
        """Return the path Envoy saw, or None for a 400."""
        if self._open is None:
            self._open = socket.create_connection(("127.0.0.1", self._port), timeout=10)
        target = path.encode("utf-8", "surrogateescape")
        self._open.sendall(b"GET " + target + b" HTTP/1.1\r\nhost: h\r\n\r\n")
        answer = b""
        while b"\r\n\r\n" not in answer:
            more = self._open.recv(65536)
            if not more:
                break
            answer += more
        status = int(answer.split(b" ", 2)[1])
        if status != 200:
            self.close()
            return None
        seen = re.search(rb"\r\nseen: ?([^\r\n]*)\r\n", answer)
        return seen[1].decode("utf-8", "surrogateescape") if seen else ""

    def close(self) -> None:
        """Close the connection."""
        if self._open is not None:
            self._open.close()
            self._open = None


def test_same_path_as_envoy(ports: dict[str, int]) -> None:
    """Each path comes out of Envoy and of ours alike at each level; 400 is None."""
    connections = {level: Connection(ports[level]) for level in LEVELS}
    compared, differences = 0, []
    for path in PATHS:
        if connections[PathNormalization.NONE].ask(path) is None:
            continue  # Envoy's codec refuses the request line before any normalization
        for level in LEVELS:
            compared += 1
            envoy, ours = connections[level].ask(path), normalize_path(path, level)
            if envoy != ours:
                differences.append((path, str(level), envoy, ours))
    for connection in connections.values():
        connection.close()

    assert [] == differences[:20]
    assert compared > 2000
