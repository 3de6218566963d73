"""Two ext_authz filters of a real Envoy in a row, against one that is told both at once.

Listener `two` asks authorizer A and then B; listener `one` asks an authorizer that answers
with what `authz.mutation_sequence` makes of both. The upstream sees, and the client gets,
the same.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest

from authz.check_request import decode_check_request
from authz.check_response import encode_check_response
from authz.denial import denial
from authz.grpc_server import GrpcServer
from authz.mutation_sequence import as_changed, in_sequence, on_denial, settled
from policies.decision import Decision, Effect, Layer, Mutations, Reason
from policies.request import Request
from tests.waiting import envoy_ports

pytestmark = pytest.mark.envoy

NUMBER = "x-number"
NAMES = ("x-a", "x-b", "x-c")
ANSWERS = ("y-a", "y-b")
TYPES = "type.googleapis.com/envoy.extensions"
HTTP = f"{TYPES}.filters.http"
ALLOW = Decision(effect=Effect.ALLOW, reason=Reason.NO_ALLOW_POLICY, layer=Layer.CUSTOM)
DENY = denial(Reason.CUSTOM_DENIED, Layer.CUSTOM)
CASES = 150


def random_mutations(chance: Random, mark: str) -> Mutations:
    """Return changes to a few names; every value tells who wrote it."""

    def pairs(names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
        chosen = [name for name in names if chance.random() < 0.4]
        return tuple((name, f"{mark}{index}") for index, name in enumerate(chosen))

    def some(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in names if chance.random() < 0.25)

    return Mutations(
        set_request_headers=pairs(NAMES),
        append_request_headers=pairs(NAMES),
        remove_request_headers=some(NAMES),
        set_response_headers=pairs(ANSWERS),
        set_query_parameters=pairs(("p", "q")),
        remove_query_parameters=some(("p", "q")),
    )


def make_case(number: int) -> tuple[Decision, Decision]:
    """Return what A and B answer."""
    chance = Random(number)
    first = replace(ALLOW, mutations=random_mutations(chance, "a"))
    if chance.random() < 0.2:
        told = Mutations(set_response_headers=random_mutations(chance, "b").set_response_headers)
        return first, replace(DENY, mutations=told)
    return first, replace(ALLOW, mutations=random_mutations(chance, "b"))


def both(first: Decision, second: Decision) -> Decision:
    """Return the one answer that stands for two."""
    join = in_sequence if second.is_allowed else on_denial
    return replace(second, mutations=join(first.mutations, second.mutations))


HEARD: dict[str, Request] = {}


def answering(choose: Callable[[int], Decision], *, keep: bool = False) -> Callable[[bytes], bytes]:
    """Return a check that looks up its answer by the number of the request."""

    def check(message: bytes) -> bytes:
        request = decode_check_request(message)
        number = request.headers[NUMBER][0]
        if keep:
            HEARD[number] = request
        decision = choose(int(number))
        changes = settled(decision.mutations, request)
        return encode_check_response(replace(decision, mutations=changes), {})

    return check


def cluster(name: str, port: int) -> dict[str, Any]:
    """Return the cluster of an authorizer."""
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    options = {
        "@type": f"{TYPES}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    return {
        "name": name,
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }


def listener(name: str, *clusters: str) -> dict[str, Any]:
    """Return a listener that asks each cluster, and answers with what it would send on."""
    filters = [
        {
            "name": f"ask-{each}",
            "typed_config": {
                "@type": f"{HTTP}.ext_authz.v3.ExtAuthz",
                "grpc_service": {"envoy_grpc": {"cluster_name": each}, "timeout": "5s"},
                "transport_api_version": "V3",
                "encode_raw_headers": True,
            },
        }
        for each in clusters
    ]
    router = {"name": "router", "typed_config": {"@type": f"{HTTP}.router.v3.Router"}}
    seen = [
        {"header": {"key": f"seen-{index}", "value": f"%REQ({name})%"}}
        for index, name in enumerate((*NAMES, ":path"))
    ]
    route = {
        "match": {"prefix": "/"},
        "direct_response": {"status": 200},
        "response_headers_to_add": seen,
    }
    manager = {
        "@type": f"{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "http_filters": [*filters, router],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
    }
    network = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    return {"name": name, "address": address, "filter_chains": [{"filters": [network]}]}


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    """Yield the ports of the listeners `one` and `two`."""
    folder = tmp_path_factory.mktemp("two")
    binary = shutil.which("envoy", path=str(Path(sys.executable).parent)) or shutil.which("envoy")
    assert binary is not None, "envoy is not installed"
    checks = {
        "a": answering(lambda number: make_case(number)[0]),
        "b": answering(lambda number: make_case(number)[1], keep=True),
        "ab": answering(lambda number: both(*make_case(number))),
    }
    servers = {name: GrpcServer("127.0.0.1:0", 1, check) for name, check in checks.items()}
    resources = {
        "listeners": [listener("two", "a", "b"), listener("one", "ab")],
        "clusters": [cluster(name, server.port) for name, server in servers.items()],
    }
    admin = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}}
    config = json.dumps({"admin": admin, "static_resources": resources})
    (folder / "envoy.json").write_text(config)
    command = [binary, "-c", "envoy.json", "--concurrency", "1", "--use-dynamic-base-id"]
    command += ["--admin-address-path", str(folder / "admin"), "--log-path", "envoy.log"]
    process = subprocess.Popen(command, cwd=folder, text=True)
    try:
        yield envoy_ports(process, folder, ("one", "two"))
    finally:
        process.terminate()
        process.wait(10)
        for server in servers.values():
            server.stop(0)


def test_two_in_a_row_are_one(ports: dict[str, int]) -> None:
    """What one answer does for two, two filters do; and B is asked about what A left."""
    wrong = []
    with httpx.Client(trust_env=False) as client:
        for number in range(CASES):
            sent = {NUMBER: str(number), "x-a": "client", "x-b": "client"}
            got = {
                name: client.get(f"http://127.0.0.1:{port}/?p=client&z=1", headers=sent)
                for name, port in ports.items()
            }
            told = {
                name: (
                    answer.status_code,
                    sorted(
                        (key, value)
                        for key, value in answer.headers.multi_items()
                        if key.startswith(("seen-", "y-"))
                    ),
                )
                for name, answer in got.items()
            }
            came = Request(headers={each: (value,) for each, value in sent.items()})
            first, _ = make_case(number)
            expected = as_changed(came, first.mutations).headers
            heard = HEARD[str(number)].headers
            for name in NAMES:
                if expected.get(name) != heard.get(name):
                    wrong.append((number, name, expected.get(name), heard.get(name)))
            if told["one"] != told["two"]:
                wrong.append((number, make_case(number), told))

    assert not wrong, (len(wrong), wrong[:3])
