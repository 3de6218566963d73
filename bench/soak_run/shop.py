"""The shop that is guarded: its policies, what is tried beside them, and who asks for what.

Ten policies for each of thirty workloads: a caller may read and order below one path with a
token; every fifth policy denies a path to all; every seventh that would let in is a dry run.
"""

from __future__ import annotations

import json
import random
import struct
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from envoy.service.auth.v3.external_auth_pb2 import CheckRequest

from bench.soak_run.issuer import AUDIENCE, REFRESH_SECONDS, Issuer

_POLICIES, _WORKLOADS, _FILES = 300, 30, 10
_DENIED_EVERY, _TRIED_EVERY = 5, 7
_PRINCIPAL: Final = "cluster.local/ns/shop/sa/caller-{}"
_CANARY_APP: Final = 1
_REGO: Final = """package envoy.authz

default allow := false

allow if {
	startswith(input.attributes.request.http.path, "/api/")
	input.attributes.request.http.method in {"GET", "POST"}
}
"""
# Of a hundred checks, so many of each kind; the others are let in.
_KINDS: Final = {"stranger": 5, "private": 3, "tried": 3, "bad token": 3, "no token": 2}


def write_shop(folder: Path, issuer: Issuer) -> dict[str, Any]:
    """Write policies, candidate and Rego; return the configuration of `serve` without `listen`."""
    for name in ("policies", "candidate"):
        (folder / name).mkdir(parents=True)
        documents = [_policy(number, issuer.url) for number in range(_POLICIES)]
        if name == "candidate":
            documents = [each for each in documents if not each["metadata"].get("annotations")]
            documents = documents[1:]
        documents += [_tokens(issuer), _custom()]
        for number in range(_FILES):
            text = "---\n".join(json.dumps(each) + "\n" for each in documents[number::_FILES])
            (folder / name / f"policies-{number}.yaml").write_text(text, "utf-8")
    write_canary(folder, 0)
    (folder / "rego").mkdir()
    (folder / "rego" / "policy.rego").write_text(_REGO, "utf-8")
    return {
        "policies": {"paths": [str(folder / "policies")]},
        "providers": [{"name": "rego", "rego": {"paths": [str(folder / "rego")]}}],
        "identity": {"jwks": {"allowLoopback": True, "refreshSeconds": REFRESH_SECONDS}},
        "dryrun": {"candidate": {"paths": [str(folder / "candidate")]}},
    }


def write_canary(folder: Path, number: int, *, is_broken: bool = False) -> None:
    """Let the canary in at its number's path and nowhere else; or write what is no policy."""
    operation = {"paths": [f"/api/canary/{number}"]}
    source = {"principals": [_PRINCIPAL.format("canary")]}
    spec = {
        "selector": {"matchLabels": {"app": f"app-{_CANARY_APP}"}},
        "rules": [{"from": [{"source": source}], "to": [{"operation": operation}]}],
    }
    text = json.dumps(_document("AuthorizationPolicy", "canary", spec))
    new = folder / "canary.new"
    new.write_text(text[: len(text) // 2] if is_broken else text, "utf-8")
    new.replace(folder / "policies" / "canary.yaml")


def touch_policies(folder: Path, number: int) -> None:
    """Edit one of the files so that its text differs and its policies do not."""
    path = folder / "policies" / f"policies-{number % _FILES}.yaml"
    new = folder / "policies.new"
    new.write_text(path.read_text("utf-8").rstrip("\n#x") + "\n#" + "x" * (number % 50), "utf-8")
    new.replace(path)


def canary_check(number: int) -> bytes:
    """Return the check that is let in while the canary has this number."""
    dice = random.Random(number)  # noqa: S311 - a load, no secret
    return _message(dice, "canary", _CANARY_APP, f"/api/canary/{number}", None)


def checks(issuer: Issuer, dice: random.Random, count: int) -> list[tuple[bool, bytes]]:
    """Return checks that never came before, and whether each has to be let in."""
    asked = _Asked(issuer, dice)
    return [asked.one() for _ in range(count)]


def in_one_file(every: list[tuple[bool, bytes]], *, with_answer: bool) -> bytes:
    """Return checks one behind the other as the loads read them, each behind its length."""

    def parts() -> Iterator[bytes]:
        for is_let_in, message in every:
            yield bytes([is_let_in]) if with_answer else b""
            yield struct.pack(">I", len(message)) + message

    return b"".join(parts())


class _Asked:
    """Draws checks."""

    def __init__(self, issuer: Issuer, dice: random.Random) -> None:
        self._dice = dice
        self._good, self._bad = issuer.tokens, issuer.bad_tokens()
        self._enforced = [n for n in range(_POLICIES) if not _denies(n) and not _is_tried(n)]
        self._denying = [n for n in range(_POLICIES) if _denies(n)]
        self._tried = [n for n in range(_POLICIES) if _is_tried(n)]

    def one(self) -> tuple[bool, bytes]:
        dice = self._dice
        names = [*_KINDS, "let in"]
        kind = dice.choices(names, [*_KINDS.values(), 100 - sum(_KINDS.values())])[0]
        numbers = {"private": self._denying, "tried": self._tried}.get(kind, self._enforced)
        number = dice.choice(numbers)
        caller = "nobody" if kind == "stranger" else str(number)
        place = "private" if kind == "private" else "orders"
        path = f"/api/v1/service-{number}/{place}/{dice.getrandbits(40):x}"
        path += f"?page={dice.randrange(99)}" if dice.random() < 0.5 else ""
        token: str | None = dice.choice(self._bad if kind == "bad token" else self._good)
        if kind == "no token":
            token = None
        message = _message(dice, caller, number % _WORKLOADS, path, token)
        return kind == "let in", message


def _denies(number: int) -> bool:
    return number % _DENIED_EVERY == _DENIED_EVERY - 1


def _is_tried(number: int) -> bool:
    return not _denies(number) and number % _TRIED_EVERY == _TRIED_EVERY - 1


def _message(dice: random.Random, caller: str, app: int, path: str, token: str | None) -> bytes:
    request = CheckRequest()
    attributes = request.attributes
    attributes.source.principal = "spiffe://" + _PRINCIPAL.format(caller)
    attributes.destination.principal = "spiffe://cluster.local/ns/shop/sa/orders"
    attributes.destination.labels.update({"app": f"app-{app}", "version": "v2"})
    for peer, port in (
        (attributes.source, dice.randrange(30_000, 60_000)),
        (attributes.destination, 8443),
    ):
        address = peer.address.socket_address
        address.address, address.port_value = f"10.4.{dice.randrange(256)}.17", port
    attributes.request.time.GetCurrentTime()
    http = attributes.request.http
    http.id, http.path, http.method = str(dice.getrandbits(60)), path, dice.choice(("GET", "POST"))
    http.host, http.scheme, http.protocol = "orders.shop.example", "https", "HTTP/1.1"
    headers = {
        ":authority": "orders.shop.example",
        ":method": http.method,
        ":path": path,
        ":scheme": "https",
        "accept": "*/*",
        "user-agent": f"orders-web/4.{dice.randrange(40)}",
        "x-forwarded-for": f"198.51.100.{dice.randrange(256)}",
        "x-forwarded-proto": "https",
        "x-request-id": str(uuid.UUID(int=dice.getrandbits(128))),
    }
    http.headers.update(headers | ({"authorization": f"Bearer {token}"} if token else {}))
    return bytes(request.SerializeToString())


def _policy(number: int, issuer: str) -> dict[str, Any]:
    selector = {"matchLabels": {"app": f"app-{number % _WORKLOADS}"}}
    if _denies(number):
        rules: list[Any] = [
            {"to": [{"operation": {"paths": [f"/api/v1/service-{number}/private/*"]}}]}
        ]
        spec = {"action": "DENY", "selector": selector, "rules": rules}
        return _document("AuthorizationPolicy", f"deny-{number}", spec)
    source = {"principals": [_PRINCIPAL.format(number)], "requestPrincipals": [f"{issuer}/*"]}
    operation = {"methods": ["GET", "POST"], "paths": [f"/api/v1/service-{number}/*"]}
    rules = [{"from": [{"source": source}], "to": [{"operation": operation}]}]
    spec = {"selector": selector, "rules": rules}
    document = _document("AuthorizationPolicy", f"allow-{number}", spec)
    if _is_tried(number):
        document["metadata"]["annotations"] = {"istio.io/dry-run": "true"}
    return document


def _tokens(issuer: Issuer) -> dict[str, Any]:
    rule = {"issuer": issuer.url, "audiences": [AUDIENCE], "jwksUri": f"{issuer.url}/keys"}
    return _document("RequestAuthentication", "tokens", {"jwtRules": [rule]})


def _custom() -> dict[str, Any]:
    selector = {"matchLabels": {"app": "app-0"}}
    spec = {"action": "CUSTOM", "provider": {"name": "rego"}, "selector": selector, "rules": [{}]}
    return _document("AuthorizationPolicy", "custom", spec)


def _document(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "shop"},
        "spec": spec,
    }
