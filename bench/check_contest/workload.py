"""What is asked: policies in Istio's words and in Rego, and one request that they allow.

The same kind of policies throughout: each allows one caller some methods below one path,
with a token where the workload has tokens; every fifth denies a path below.
"""

from __future__ import annotations

import io
import json
import struct
import tarfile
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest

ISSUER: Final = "https://idp.bench.example"
AUDIENCE: Final = "shop"
_PRINCIPAL: Final = "cluster.local/ns/shop/sa/caller-{}"
_DENIED_EVERY: Final = 5

_REGO: Final = """package envoy.authz

default allow := false

http := input.attributes.request.http
rule := data.rules[input.attributes.source.principal]

allow if {
	not denied
	http.method in rule.methods
	array.slice(input.parsed_path, 0, 3) == rule.path
	token_holds
}

denied if {
	data.denied[input.parsed_path[2]]
	input.parsed_path[3] == "private"
}

token_holds if not data.jwks

token_holds if {
	startswith(http.headers.authorization, "Bearer ")
	token := substring(http.headers.authorization, 7, -1)
	[valid, _, _] := io.jwt.decode_verify(token, {
		"cert": data.jwks,
		"iss": data.issuer,
		"aud": data.audience,
	})
	valid
}
"""


@dataclass(frozen=True)
class Workload:
    """So many policies over so many workloads, with tokens or by peer alone.

    `by_header` has callers named by a header, for clients that have no certificate.
    `action` is that of the policies that let in, `annotation` makes them tried and not enforced.
    """

    policies: int = 1000
    workloads: int = 1
    with_token: bool = True
    custom: bool = False
    shadow: bool = False
    by_header: bool = False

    @property
    def _asked(self) -> int:
        """The number of the policy that lets the request in, in the middle of all."""
        middle = self.policies // 2
        return middle + 1 if middle % _DENIED_EVERY == _DENIED_EVERY - 1 else middle

    @cached_property
    def _key(self) -> rsa.RSAPrivateKey:
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)

    @cached_property
    def _jwks(self) -> str:
        public = jwt.algorithms.RSAAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        return json.dumps({"keys": [{**public, "kid": "k1", "alg": "RS256", "use": "sig"}]})

    @cached_property
    def _token(self) -> str:
        now = int(time.time())
        claims = {"iss": ISSUER, "sub": "alice", "aud": AUDIENCE, "iat": now, "exp": now + 86_400}
        return jwt.encode(claims, self._key, "RS256", headers={"kid": "k1"})

    @property
    def caller(self) -> str:
        """The caller that is let in, as a header names it."""
        return f"caller-{self._asked}"

    @property
    def path(self) -> str:
        """The path that is let in."""
        return f"/api/v1/service-{self._asked}/orders?x=1"

    def message(self, *, is_allowed: bool = True, order: str = "?x=1") -> bytes:
        """Return the serialized CheckRequest that a policy lets in, or one that none does.

        `order` is how its path ends.
        """
        message = CheckRequest()
        attributes = message.attributes
        attributes.source.principal = "spiffe://" + _PRINCIPAL.format(self._asked)
        attributes.destination.principal = "spiffe://cluster.local/ns/shop/sa/orders"
        for peer, address in (
            (attributes.source, ("10.4.2.17", 43_210)),
            (attributes.destination, ("10.4.2.9", 8443)),
        ):
            peer.address.socket_address.address, peer.address.socket_address.port_value = address
        app = f"app-{self._asked % self.workloads}"
        attributes.destination.labels.update({"app": app, "version": "v2"})
        attributes.request.time.GetCurrentTime()
        http = attributes.request.http
        place = f"service-{self._asked}" if is_allowed else "elsewhere"
        http.id, http.method, http.path = "1234567890123", "GET", f"/api/v1/{place}/orders{order}"
        http.host, http.scheme, http.protocol = "orders.shop.example", "https", "HTTP/1.1"
        http.headers.update(self._headers(http.path))
        return bytes(message.SerializeToString())

    def messages(self, count: int) -> bytes:
        """Return so many messages that are let in, no two of one path, each behind its length."""
        every = (self.message(order=f"/{number}") for number in range(count))
        return b"".join(struct.pack(">I", len(each)) + each for each in every)

    def body(self) -> bytes:
        """Return the message that is let in as the body of a gRPC call."""
        data = self.message()
        return b"\0" + struct.pack(">I", len(data)) + data

    def _headers(self, path: str) -> dict[str, str]:
        headers = {
            ":authority": "orders.shop.example",
            ":method": "GET",
            ":path": path,
            ":scheme": "https",
            "accept": "*/*",
            "user-agent": "orders-web/4.2",
            "x-forwarded-proto": "https",
            "x-request-id": "5e2ab2f8-44a5-4a3b-9d2a-0f6f2b9d6f11",
        }
        return headers | ({"authorization": f"Bearer {self._token}"} if self.with_token else {})

    def istio(self) -> list[str]:
        """Return the policies as Istio's YAML, a document each."""
        documents = [self._policy(number) for number in range(self.policies)]
        if self.with_token:
            rule = {"issuer": ISSUER, "audiences": [AUDIENCE], "jwks": self._jwks}
            documents.append(_document("RequestAuthentication", "tokens", {"jwtRules": [rule]}))
        if self.custom:
            spec = {"action": "CUSTOM", "provider": {"name": "rego"}, "rules": [{}]}
            documents.append(_document("AuthorizationPolicy", "custom", spec))
        return [json.dumps(each) + "\n" for each in documents]

    def _policy(self, number: int) -> dict[str, Any]:
        selector = {"matchLabels": {"app": f"app-{number % self.workloads}"}}
        if number % _DENIED_EVERY == _DENIED_EVERY - 1:
            operation = {"paths": [f"/api/v1/service-{number}/private/*"]}
            rules = [{"to": [{"operation": operation}]}]
            spec = {"action": "DENY", "selector": selector, "rules": rules}
            return _document("AuthorizationPolicy", f"deny-{number}", spec)
        operation = {"methods": ["GET", "POST"], "paths": [f"/api/v1/service-{number}/*"]}
        rules = [{**self._caller_part(number), "to": [{"operation": operation}]}]
        document = _document(
            "AuthorizationPolicy", f"allow-{number}", {"selector": selector, "rules": rules}
        )
        if self.shadow and number != self._asked:
            document["metadata"]["annotations"] = {"istio.io/dry-run": "true"}
        return document

    def _caller_part(self, number: int) -> dict[str, Any]:
        if self.by_header:
            return {"when": [{"key": "request.headers[x-caller]", "values": [f"caller-{number}"]}]}
        source: dict[str, Any] = {"principals": [_PRINCIPAL.format(number)]}
        if self.with_token:
            source["requestPrincipals"] = [f"{ISSUER}/*"]
        return {"from": [{"source": source}]}

    def rego(self) -> str:
        """Return the module that decides the same."""
        return _REGO

    def rego_data(self) -> dict[str, Any]:
        """Return the module's data: looked up by caller, which is the fastest way to ask OPA."""
        rules, denied = {}, {}
        for number in range(self.policies):
            if number % _DENIED_EVERY == _DENIED_EVERY - 1:
                denied[f"service-{number}"] = True
            else:
                rules["spiffe://" + _PRINCIPAL.format(number)] = {
                    "methods": ["GET", "POST"],
                    "path": ["api", "v1", f"service-{number}"],
                }
        tokens = {"jwks": self._jwks, "issuer": ISSUER, "audience": AUDIENCE}
        return {"rules": rules, "denied": denied} | (tokens if self.with_token else {})

    def write_bundle(self, path: Path) -> None:
        """Write module and data as an OPA bundle."""
        files = {"policy.rego": self.rego(), "data.json": json.dumps(self.rego_data())}
        with tarfile.open(path, "w:gz") as archive:
            for name, text in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(text.encode())
                archive.addfile(info, io.BytesIO(text.encode()))


def _document(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "shop"},
        "spec": spec,
    }
