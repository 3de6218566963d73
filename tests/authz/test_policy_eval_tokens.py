"""`policy eval` with tokens: the line's clock, and keys from wherever they come."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import jwt
import pytest
from commanding import as_lines, line_of, resources, run_policy
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from tests.loopback import http_server

ISSUER = "https://issuer.test"
NOON = 1_767_960_000  # 2026-01-09T12:00:00Z


@pytest.fixture(scope="module")
def key() -> ec.EllipticCurvePrivateKey:
    """The issuer's key."""
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(scope="module")
def jwks(key: ec.EllipticCurvePrivateKey) -> str:
    """The issuer's key set."""
    public = ECAlgorithm.to_jwk(key.public_key(), as_dict=True) | {"kid": "k", "alg": "ES256"}
    return json.dumps({"keys": [public]})


def token_lines(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return one token, valid around noon, before, within and after its time, and none at all."""
    claims = {"iss": ISSUER, "sub": "alice", "nbf": NOON - 600, "exp": NOON + 600}
    token = jwt.encode(claims, key, "ES256", headers={"kid": "k"})
    document = line_of({"http": {"headers": {"authorization": f"Bearer {token}"}}})
    del document["attributes"]["request"]["http"]["headerMap"]
    times = ("2026-01-09T11:00:00Z", "2026-01-09T13:00:00.5+01:00", "2026-01-09T13:00:00Z")
    return as_lines(*({"at": at, **document} for at in times), line_of({}))


def token_policies(rule: dict[str, Any]) -> str:
    """Return a RequestAuthentication with the rule, and an ALLOW for its subjects."""
    subjects = {"from": [{"source": {"requestPrincipals": [f"{ISSUER}/*"]}}]}
    return resources(
        [
            {"kind": "RequestAuthentication", "name": "idp",
             "spec": {"jwtRules": [{"issuer": ISSUER, **rule}]}},
            {"name": "people", "spec": {"rules": [subjects]}},
        ]
    )  # fmt: skip


TOKEN_ANSWERS = [
    (401, "token_invalid"),
    (200, "allow_rule_matched"),
    (401, "token_invalid"),
    (403, "no_allow_rule_matched"),
]


def test_a_token_is_judged_by_the_lines_clock(
    folder: Path, key: ec.EllipticCurvePrivateKey, jwks: str
) -> None:
    """Inline keys need no network, and `at` decides whether a token is early, good or late."""
    (folder / "p.yaml").write_text(token_policies({"jwks": jwks}))

    result = run_policy("eval", "--policies", "p.yaml", "--requests", "-", stdin=token_lines(key))

    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert TOKEN_ANSWERS == [(answer["status"], answer["reason"]) for answer in answers]
    assert ["shop/idp", "shop/people"] == [answer["policy"] for answer in answers[:2]]


@pytest.fixture
def issuer(jwks: str) -> Iterator[str]:
    """The URL of a key set that a real server publishes."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(jwks.encode())

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    with http_server(Handler) as server:
        yield f"http://127.0.0.1:{server.server_port}/keys"


def test_keys_come_over_http(folder: Path, key: ec.EllipticCurvePrivateKey, issuer: str) -> None:
    """A `jwksUri` is fetched before the first line is answered, on loopback too."""
    (folder / "p.yaml").write_text(token_policies({"jwksUri": issuer}))

    result = run_policy("eval", "--policies", "p.yaml", "--requests", "-", stdin=token_lines(key))

    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert TOKEN_ANSWERS == [(answer["status"], answer["reason"]) for answer in answers]


def test_keys_that_are_not_to_be_had_are_told(
    folder: Path, key: ec.EllipticCurvePrivateKey
) -> None:
    """Without keys every token is refused, and standard error says why."""
    (folder / "p.yaml").write_text(token_policies({"jwksUri": "http://127.0.0.1:1/keys"}))

    result = run_policy("eval", "--policies", "p.yaml", "--requests", "-", stdin=token_lines(key))

    statuses = [json.loads(line)["status"] for line in result.stdout.splitlines()]
    assert [401, 401, 401, 403] == statuses
    assert "no keys from http://127.0.0.1:1/keys" in result.stderr
