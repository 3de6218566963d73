"""`policy test` comes to what is served: random cases written from what a server answered.

The server is asked by messages as Envoy sends them, with times, ids and ports of their own and a
real key set; the test file tells peer, workload, token and request in its own words.
"""

from __future__ import annotations

import json
import os
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asking_every_way as ways
import jwt
import pytest
import yaml
from asking_every_way import MODULES, Room, Set, deciding
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from random_worlds import PATHS, TARGETS
from remembering import BEGIN, ISSUERS

from authz.policytest.run import run_test_file

_WORLDS = int(os.environ.get("MESHWARDEN_RANDOM_WORLDS", "4"))
_FIRST = int(os.environ.get("MESHWARDEN_RANDOM_FIRST", "0"))
_CASES = 12
_SECRETS = (b"a" * 32, b"b" * 32)
_PEERS = {
    "web": "spiffe://mesh.example/ns/shop/sa/web",
    "jobs": "spiffe://mesh.example/ns/shop/sa/jobs",
    "old": "spiffe://old/ns/other/sa/web",
    "name": "CN=x",
}
_TOKENS: dict[str, dict[str, Any]] = {
    "alice": {"issuer": ISSUERS[0], "sub": "alice", "claims": {"a": "x", "scope": "read write"}},
    "bob": {"issuer": ISSUERS[1], "sub": "bob", "aud": ["v", "w"], "claims": {"azp": "cli"}},
    "old": {"from": "alice", "exp": "-5m"},
    "edge": {"from": "alice", "exp": "-1m"},
    "inside": {"from": "alice", "exp": "-59s"},
    "outside": {"from": "alice", "exp": "-61s"},
    "soon": {"from": "alice", "nbf": "5m"},
    "almost": {"from": "alice", "nbf": "1m"},
    "forged": {"from": "bob", "tamper": "key"},
    "stranger": {"issuer": "https://c.example", "sub": "eve"},
    "bare": {"issuer": ISSUERS[0]},
    "typed": {"from": "bob", "claims": {"sub": 7, "a": ["x", 1], "deep": {"er": ["y"]}}},
}
_HEADERS = {"x-a": ["x", "y", "a,b", ["x", "z"]], "X-Out": ["y", ""], "referer": ["/a"],
            "cookie": ["a=b"], "x-forwarded-for": ["10.1.2.3", "::1, 10.9.9.9"],
            "authorization": ["Basic x", "Bearer a.b.c"], "host": ["other"]}  # fmt: skip
_UNITS = {"s": 1, "m": 60}


@pytest.fixture(scope="module", autouse=True)
def rego(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the modules that providers are made of."""
    folder = tmp_path_factory.mktemp("rego")
    ways.modules_in(folder)
    return folder


@pytest.mark.parametrize("seed", range(_FIRST, _FIRST + _WORLDS))
def test_cases_of_what_is_served_pass(seed: int, tmp_path: Path, rego: Path) -> None:
    """Each case expects what the server said: effect, status, reason, rule, shadows, AUDIT."""
    chance = random.Random(seed)
    found, room = ways.first_set(chance), Room(chance)
    room.world.now = BEGIN
    room.around = replace(room.around, static_workload=None)
    state = found.state()
    suite = _suite(found, rego)
    for number in range(_CASES):
        case = _case(chance, number)
        message = _as_envoy_sends(case, suite, number)
        _, record = room.serve(state, message)
        suite["cases"].append({**case, "expect": _expected(record)})
    (tmp_path / "p.yaml").write_text(yaml.safe_dump_all(found.documents, allow_unicode=True))
    path = tmp_path / "s.policytest.yaml"
    path.write_text(yaml.safe_dump(suite, allow_unicode=True))
    failed = [(each.case, each.mismatches) for each in run_test_file(path) if not each.passed]
    assert failed == [], (seed, [suite["cases"][int(name)] for name, _ in failed])


def _suite(found: Set, rego: Path) -> dict[str, Any]:
    mesh = found.mesh
    providers = [
        {
            "name": name,
            "default": found.terms.default == name,
            "rego": {
                "paths": [str(rego / f"{module}.rego")],
                "timeoutSeconds": 10,
                "compatibility": {"undefinedSamples": True},
            },
        }
        for name, module in found.modules.items()
    ]
    assert set(found.modules.values()) <= MODULES.keys()
    return {
        "apiVersion": "policy.test/v1",
        "kind": "PolicyTest",
        "metadata": {"name": "s"},
        "policies": {"istio": ["p.yaml"], "providers": providers},
        "mesh": {
            "mode": mesh.mode.value,
            "trustDomain": mesh.trust_domain,
            "trustDomainAliases": list(mesh.trust_domain_aliases),
            "pathNormalization": mesh.path_normalization.value,
            "envoyVersion": ".".join(map(str, mesh.envoy_version)),
            "multipleProviders": found.terms.asks_several,
            **(
                {}
                if mesh.trusted_proxy_hops is None
                else {"trustedProxyHops": mesh.trusted_proxy_hops}
            ),
        },
        "clock": datetime.fromtimestamp(BEGIN, UTC).isoformat(),
        "workloads": {
            "a": {"namespace": "shop", "labels": {"app": "a"}, "port": 80},
            "b": {"namespace": "shop", "labels": {"v": "1"}, "service": "shop/orders"},
            "c": {"namespace": "other", "labels": {"app": "b"}, "service": "ServiceEntry/shop/pay"},
        },
        "identities": {
            **{name: {"spiffe": each, "ip": "10.1.2.3"} for name, each in _PEERS.items()},
            "nobody": {"plaintext": True, "ip": "fd00::1"},
        },
        "tokens": _TOKENS,
        "cases": [],
    }


def _case(chance: random.Random, number: int) -> dict[str, Any]:
    names = chance.sample(list(_HEADERS), chance.randrange(3))
    path = chance.choice([each for each in (*TARGETS, *PATHS) if each.isprintable()])
    request: dict[str, Any] = {
        "method": chance.choice(("GET", "POST", "get", "OPTIONS")),
        "path": path + chance.choice(("", "", "?x=1", "?access_token=a.b.c")),
        "host": chance.choice(("shop", "SHOP", "shop:8080", "")),
        "headers": {name: chance.choice(_HEADERS[name]) for name in names},
    }
    if chance.random() < 0.2:
        request |= chance.choice(({"body": "x"}, {"json": {"a": [1]}}))
    return {
        "name": str(number),
        "from": chance.choice((*_PEERS, "nobody")),
        "to": chance.choice("abc"),
        "token": chance.choice((None, *_TOKENS)),
        "request": request,
    }


def _as_envoy_sends(case: dict[str, Any], suite: dict[str, Any], number: int) -> bytes:
    """Return the message of a case with what an Envoy has to say besides."""
    message = CheckRequest()
    attributes = message.attributes
    peer, workload = suite["identities"][case["from"]], suite["workloads"][case["to"]]
    attributes.source.principal = peer.get("spiffe", "")
    attributes.source.address.socket_address.address = peer["ip"]
    attributes.source.address.socket_address.port_value = 40_000 + number
    attributes.destination.address.socket_address.port_value = workload.get("port", 8080)
    attributes.destination.labels.update(workload["labels"])
    extensions = attributes.context_extensions
    extensions["meshwarden.namespace"] = workload["namespace"]
    kind, slash, name = workload.get("service", "").partition("/")
    if kind == "ServiceEntry":
        extensions["meshwarden.service_entry"] = name
    elif slash:
        extensions["meshwarden.service"] = workload["service"]
    attributes.request.time.seconds = BEGIN
    http, request = attributes.request.http, case["request"]
    http.id, http.method, http.path = str(number), request["method"], request["path"]
    http.host, http.scheme, http.protocol = request["host"], "https", "HTTP/2"
    body = request.get("body", "").encode()
    headers: list[tuple[str, str]] = [
        (":method", request["method"]), (":path", request["path"]),
        (":authority", request["host"]), (":scheme", "https"),
    ]  # fmt: skip
    for each, values in request["headers"].items():
        texts = [values] if isinstance(values, str) else values
        headers += [(each.lower(), text) for text in texts]
    if case["token"]:
        headers.append(("authorization", f"Bearer {_minted(case['token'])}"))
    if "json" in request:
        body = json.dumps(request["json"]).encode()
        headers.append(("content-type", "application/json"))
    http.raw_body, http.size = body, len(body)
    for each, value in headers:
        http.header_map.headers.add(key=each, raw_value=value.encode())
    return message.SerializeToString()


def _minted(name: str) -> str:
    """Return the token that a fixture describes, signed as its issuer signs."""
    fixture = dict(_TOKENS[name])
    base = _TOKENS.get(fixture.pop("from", ""), {})
    claims = {**base.get("claims", {}), **fixture.get("claims", {})}
    fixture = {**base, **fixture}
    named = {"iss": fixture["issuer"], "sub": fixture.get("sub"), "aud": fixture.get("aud")}
    payload = {key: value for key, value in named.items() if value is not None}
    payload["exp"] = BEGIN + _seconds(fixture.get("exp", "60m"))
    if "nbf" in fixture:
        payload["nbf"] = BEGIN + _seconds(fixture["nbf"])
    secret = _SECRETS[fixture.get("tamper") == "key"]
    return jwt.PyJWS().encode(
        json.dumps({**payload, **claims}).encode(), secret, "HS256", headers={"typ": "JWT"}
    )


def _seconds(text: str) -> float:
    number, unit = int(text[:-1]), text[-1]
    return timedelta(seconds=number * _UNITS[unit]).total_seconds()


def _expected(record: dict[str, Any]) -> dict[str, Any]:
    """Return what a case has to expect by a record."""
    effect, status, policy, rule, reason, *_ = deciding(record)
    expected = {
        "decision": effect,
        "status": status,
        "reason": reason,
        "policy": "" if policy is None else policy if rule is None else f"{policy}#{rule}",
        "auditedBy": record["audited_by"],
    }
    if record["shadow"]:
        expected["shadow"] = {each["policy"]: each["outcome"] for each in record["shadow"]}
    return expected
