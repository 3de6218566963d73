"""What `meshwarden envoy-config` prints is accepted by the real Envoy and fails closed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from authz.envoy_config import (
    EnvoyConfigError,
    address,
    cluster,
    envoy_snippets,
    most_at_once,
    to_plain,
)

ENVOY = str(Path(sys.executable).with_name("envoy"))
_HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = "envoy.extensions.filters.http.router.v3.Router"


def _typed(name: str, **fields: Any) -> dict[str, Any]:
    """Return a `typed_config` of one type."""
    return {"@type": f"type.googleapis.com/{name}", **fields}


def _bootstrap(snippets: dict[str, Any]) -> dict[str, Any]:
    """Return a bootstrap into which a person pasted every snippet."""
    route = {"match": {"prefix": "/"}, "route": {"cluster": "app"}}
    filters = [*snippets["http_filters"], {"name": "router", "typed_config": _typed(_ROUTER)}]
    hosts = [{"name": "all", "domains": ["*"], "routes": [route]}]
    manager = _typed(
        _HCM, stat_prefix="in", route_config={"virtual_hosts": hosts}, http_filters=filters
    )
    chain: dict[str, Any] = {"filters": [{"name": "http", "typed_config": manager}]}
    app = to_plain(cluster("app", "127.0.0.1:9"))
    if "downstream_transport_socket" in snippets:
        chain["transport_socket"] = snippets["downstream_transport_socket"]
        app["transport_socket"] = snippets["upstream_transport_socket"]
    where = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    listener = {"name": "in", "address": where, "filter_chains": [chain]}
    return {
        "node": {"id": "test", "cluster": "test"},
        "static_resources": {"listeners": [listener], "clusters": [*snippets["clusters"], app]},
    }


@pytest.mark.envoy
@pytest.mark.parametrize("grpc_listen", ["127.0.0.1:9191", "unix:///run/m/authz.sock", "name:9191"])
@pytest.mark.parametrize("sds_socket", ["", "/run/m/orders.sock"])
def test_real_envoy_accepts_the_snippets(grpc_listen: str, sds_socket: str, tmp_path: Path) -> None:
    """Envoy validates a bootstrap made of every snippet, for each kind of address."""
    text = envoy_snippets(grpc_listen, sds_socket, server_ids=("spiffe://td.test/ns/a/sa/b",))
    bootstrap = tmp_path / "envoy.yaml"
    bootstrap.write_text(yaml.safe_dump(_bootstrap(yaml.safe_load(text))), encoding="utf-8")

    done = subprocess.run(
        [ENVOY, "--mode", "validate", "-c", str(bootstrap)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert done.returncode == 0, done.stderr


def test_the_filter_fails_closed() -> None:
    """No snippet lets a request in when the authorizer does not answer."""
    filters = yaml.safe_load(envoy_snippets("127.0.0.1:9191"))["http_filters"]
    config = filters[0]["typed_config"]

    assert not config.get("failure_mode_allow", False)
    assert config["status_on_error"] == {"code": "Forbidden"}
    assert config["encode_raw_headers"] is True
    assert config["bootstrap_metadata_labels_key"] == "LABELS"
    assert config["grpc_service"]["timeout"] == "0.200s"


def test_a_waypoint_names_the_peer() -> None:
    """With a metadata key each check carries the filter state, and without one nothing."""
    found = yaml.safe_load(envoy_snippets("127.0.0.1:1", peer_metadata_key="x-peer"))
    service = found["http_filters"][0]["typed_config"]["grpc_service"]
    value = "%FILTER_STATE(io.istio.peer_principal:PLAIN)%"

    assert [{"key": "x-peer", "value": value}] == service["initial_metadata"]
    plain = yaml.safe_load(envoy_snippets("127.0.0.1:1"))
    assert "initial_metadata" not in plain["http_filters"][0]["typed_config"]["grpc_service"]


@pytest.mark.parametrize(
    ("workers", "wait", "most"),
    [(1, 0.02, (4, 8)), (3, 0.02, (12, 24)), (1, 0.0001, (4, 1)), (1, 0, (4, None))],
)
def test_what_envoy_may_want_of_the_authorizer_is_bounded(
    workers: int, wait: float, most: tuple[int, int | None]
) -> None:
    """Connections follow from the authorizer's workers, and what waits from how long it may."""
    text = envoy_snippets("127.0.0.1:1", most=most_at_once(workers, wait))
    [limits] = yaml.safe_load(text)["clusters"][0]["circuit_breakers"]["thresholds"]

    assert most == (limits["max_connections"], limits.get("max_pending_requests"))


def test_mtls_is_required_of_every_client() -> None:
    """The listener's transport socket asks for a client certificate."""
    snippets = yaml.safe_load(envoy_snippets("127.0.0.1:9191", "/run/m/orders.sock"))

    assert snippets["downstream_transport_socket"]["typed_config"]["require_client_certificate"]


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("127.0.0.1:80", {"socket_address": {"address": "127.0.0.1", "port_value": 80}}),
        ("[::1]:80", {"socket_address": {"address": "::1", "port_value": 80}}),
        ("unix:///a/b", {"pipe": {"path": "/a/b"}}),
        ("unix:/a/b", {"pipe": {"path": "/a/b"}}),
        ("unix:a/b", {"pipe": {"path": "a/b"}}),
    ],
)
def test_addresses_are_read_as_grpc_reads_them(listen: str, expected: dict[str, Any]) -> None:
    """Each spelling of an address becomes the Envoy address it means."""
    assert to_plain(address(listen)) == expected


@pytest.mark.parametrize("listen", ["", "host", ":80", "host:", "host:x", "host:٣", "host:65536"])
def test_what_is_no_address_is_refused(listen: str) -> None:
    """A text that is no address is named in the error."""
    with pytest.raises(EnvoyConfigError, match="is no address"):
        address(listen)
