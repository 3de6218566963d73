"""Random policies, requests, and what changes in one of them: words that meet each other often."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from remembering import BEGIN, CERTIFICATES, ISSUERS, TOKENS, token

Asked = dict[str, Any]
"""A question: the parts of a request that the next one may have in common."""
_Table = Sequence[tuple[str, Sequence[str]]]
_Change = Callable[[random.Random, Asked], None]

HELD: Mapping[str, str] = {
    **TOKENS,
    "roles": token(
        exp=BEGIN + 10_000, a="x", deep={"er": ["x", "y"]}, scope="read write", aud=["v", "w"]
    ),
    "bob": token(sub="bob", exp=BEGIN + 10_000, azp="cli", groups=["x"]),
    "no end": token(exp=0),
    "soon": token(ISSUERS[1], exp=BEGIN + 90),
}
PATHS = [
    "/a", "/a*", "/a/*", "*/b", "*.css", "/", "/*", "*", "/a/{*}", "/{*}/b", "/a/{**}", "/{**}/b",
    "/A", "/a%2Fb", "/a/", "/x/y", "/x/y*", "*y", "/a;b", "/a*b", "*a*", "**", "/a/{*}/{**}",
    "/é*", "a", "/a/b", "/a//b", "/*/",
]  # fmt: skip
TARGETS = [
    "/a", "/a/", "/a/b", "/a/c", "/x/y", "/x/yz", "/", "//a", "/a//b", "/a/./b", "/a/../a", "/%61",
    "/a%2Fb", "/a%2fb", "/a%00", "/a;b", "/a;b=1", "/A", "/é", "/a.css", "/b/a.css", "*", "a", "",
    "/a\nb", "/a\\b", "/a/%", "/aa", "/a/b/b", "/x/" + "y" * 300, "/a/" + "z/" * 40 + "b", "/..",
    "/a/..", "/a b", "/%c3%a9", "/{*}", "/a/*", "/a/{**}", "/a\x00", "/a/b?", "/a\x7f", "/c/b",
]  # fmt: skip
QUERIES = [
    "", "?", "?x=1", "?x=2", "?access_token={t}", "?t={t}", "?t=", "?%74={t}", "?x=1&t={t}",
    "?a=/b", "?x=1#f", "#f", "#?x", "?access_token=", "?token=abcdefgh", "?code=1", "??", "?t",
    "?x=" + "y" * 200, "?a;t={t}", "?password=hunter2222",
]  # fmt: skip
_PRINCIPALS = [
    "mesh.example/ns/shop/sa/web", "*/web", "mesh.example/*", "*", "*jobs",
    "cluster.local/ns/shop/sa/web", "old/ns/shop/sa/web",
]  # fmt: skip
_NAMESPACES = ["shop", "jobs", "*", "sh*", "s/a", "sa"]
_ACCOUNTS = ["web", "shop/web", "shop/jobs", "jobs"]
_DOMAINS = ["mesh.example", "*.example", "mesh*", "*", "cluster.local"]
_NETWORKS = ["10.0.0.0/8", "10.1.2.3", "::/0", "0.0.0.0/0", "fd00::/8", "192.168.0.0/16"]
_SUBJECTS = ["*", f"{ISSUERS[0]}/alice", f"{ISSUERS[0]}/*", "*/bob", f"{ISSUERS[1]}/alice"]
_HOSTS = ["shop", "shop*", "*shop", "shop:8080", "*", "SHOP", "*.example"]
_PORTS = ["80", "8080", "0"]
_VALUES = ["x", "x*", "*", "*y", "a,b", "0", "bad*", "***", "read", "v", "é"]
_LOOKED_AT = (
    "x-a", "X-A", "x-request-id", "traceparent", "b3", "cookie", ":method", ":scheme", "referer",
    "authorization", "x-out", "x_a",
)  # fmt: skip
_OPEN_KEYS: _Table = [
    *((f"request.headers[{name}]", _VALUES) for name in _LOOKED_AT),
    *[("request.headers[x-request-id]", _VALUES)] * 3,
    ("request.headers[:path]", PATHS),
    ("request.headers[content-length]", ["0", "3", "*"]),
    ("request.headers[:authority]", _HOSTS),
    ("request.headers[host]", _HOSTS),
    ("request.headers [x-a]", _VALUES),
    ("source.ip", _NETWORKS),
    ("remote.ip", _NETWORKS),
    ("destination.ip", _NETWORKS),
    ("destination.port", _PORTS),
    ("connection.sni", ["shop", "*.example", "*", "sh*"]),
    ("experimental.envoy.filters.a.b[c]", _VALUES),
    ("experimental.envoy.filters.a.b[d]", ["[x]", "[*]"]),
]
_IDENTITY_KEYS: _Table = [
    ("source.namespace", _NAMESPACES),
    ("source.principal", _PRINCIPALS),
    ("source.serviceAccount", _ACCOUNTS),
    ("source.trustDomain", _DOMAINS),
    ("request.auth.principal", _SUBJECTS),
    ("request.auth.audiences", ["v", "*", "w*"]),
    ("request.auth.presenter", ["cli", "*"]),
    ("request.auth.claims[a]", _VALUES),
    ("request.auth.claims[deep][er]", _VALUES),
    ("request.auth.claims[scope]", _VALUES),
    ("request.auth.claims[sub]", ["alice", "*"]),
]
_OPEN_SOURCES: _Table = [("ipBlocks", _NETWORKS), ("remoteIpBlocks", _NETWORKS)]
_IDENTITY_SOURCES: _Table = [
    ("principals", _PRINCIPALS),
    ("requestPrincipals", _SUBJECTS),
    ("namespaces", _NAMESPACES),
    ("trustDomains", ["mesh.example", "*.example", "*"]),
]
_OPERATIONS: _Table = [
    *[("paths", PATHS)] * 3,
    ("hosts", _HOSTS),
    ("methods", ["GET", "P*", "POST", "*", "get", "*T"]),
    ("ports", _PORTS),
]
_GROUPS = {
    "Service": "",
    "ServiceEntry": "networking.istio.io",
    "Gateway": "gateway.networking.k8s.io",
}
_TOKEN_FIELDS: Mapping[str, Sequence[Any]] = {
    "fromHeaders": [
        [{"name": "x-t"}],
        [{"name": "x-request-id"}],
        [{"name": ":path", "prefix": "t="}],
        [{"name": "Authorization", "prefix": "Bearer "}],
    ],
    "fromParams": [["t"], ["access_token"], ["t", "x"]],
    "fromCookies": [["t"]],
    "audiences": [["v"], ["nobody"]],
    "forwardOriginalToken": [True],
    "outputPayloadToHeader": ["x-out", "x-request-id"],
    "outputClaimToHeaders": [
        [{"header": "x-a", "claim": "a"}],
        [{"header": "traceparent", "claim": "sub"}],
    ],
}


def policy(chance: random.Random, name: str, mode: str = "sidecar") -> dict[str, Any]:
    """Return a resource of any kind for a mesh of a mode."""
    namespace = chance.choice(("shop", "shop", "shop", "istio-system", "other"))
    metadata: dict[str, Any] = {"name": name, "namespace": namespace}
    spec: dict[str, Any] = {}
    dice, has_targets = chance.random(), mode in ("waypoint", "gateway")
    if dice < 0.2:
        spec["selector"] = {"matchLabels": {"app": chance.choice("abc")}}
    elif dice < (0.6 if has_targets else 0.22):
        kind = chance.choice(list(_GROUPS))
        name = chance.choice(("orders", "pay"))
        spec["targetRefs"] = [{"group": _GROUPS[kind], "kind": kind, "name": name}]
    kind = chance.choices(
        ("RequestAuthentication", "PeerAuthentication", "AuthorizationPolicy"), (14, 8, 78)
    )[0]
    if kind == "RequestAuthentication":
        issuers = chance.sample(ISSUERS, chance.choice((1, 2)))
        spec["jwtRules"] = [jwt_rule(chance, each) for each in issuers]
    elif kind == "PeerAuthentication":
        spec.pop("targetRefs", None)
        spec["mtls"] = {"mode": chance.choice(("STRICT", "PERMISSIVE", "DISABLE"))}
        if "selector" in spec and chance.random() < 0.5:
            spec["portLevelMtls"] = {80: {"mode": chance.choice(("STRICT", "PERMISSIVE"))}}
    else:
        _add_rules(chance, metadata, spec)
    version = "security.istio.io/v1"
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}


def tokens() -> dict[str, Any]:
    """Return the resource that has tokens of both issuers looked for where clients send them."""
    rules = [{"issuer": each, "jwksUri": f"{each}/keys"} for each in ISSUERS]
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "RequestAuthentication",
        "metadata": {"name": "tokens", "namespace": "shop"},
        "spec": {"jwtRules": rules},
    }


def _add_rules(chance: random.Random, metadata: dict[str, Any], spec: dict[str, Any]) -> None:
    action = chance.choice(("", "ALLOW", "ALLOW", "DENY", "DENY", "AUDIT", "CUSTOM"))
    if action:
        spec["action"] = action
    if action == "CUSTOM":
        spec["provider"] = {"name": chance.choice("pq")}
    elif action != "AUDIT" and chance.random() < 0.25:
        metadata["annotations"] = {"istio.io/dry-run": "true"}
    count = chance.choice((1, 1, 2, 3))
    spec["rules"] = [_rule(chance, knows_peer=action != "CUSTOM") for _ in range(count)]


def jwt_rule(chance: random.Random, issuer: str) -> dict[str, Any]:
    """Return a rule for the tokens of an issuer."""
    found: dict[str, Any] = {"issuer": issuer, "jwksUri": f"{issuer}/keys"}
    for name, values in _TOKEN_FIELDS.items():
        if chance.random() < 0.15:
            found[name] = chance.choice(values)
    return found


def _rule(chance: random.Random, *, knows_peer: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    sources = [*_OPEN_SOURCES, *(_IDENTITY_SOURCES if knows_peer else ())]
    keys = [*_OPEN_KEYS, *(_IDENTITY_KEYS if knows_peer else ())]
    if chance.random() < 0.4:
        found["from"] = [{"source": _fields(chance, sources)} for _ in range(chance.choice((1, 2)))]
        if knows_peer and chance.random() < 0.2:
            name = chance.choice(("serviceAccounts", "notServiceAccounts"))
            found["from"][0] = {"source": {name: chance.sample(_ACCOUNTS, 2)}}
    if chance.random() < 0.8:
        count = chance.choice((1, 1, 1, 2, 3))
        found["to"] = [{"operation": _fields(chance, _OPERATIONS)} for _ in range(count)]
    if chance.random() < 0.3:
        found["when"] = []
        for key, values in chance.sample(keys, chance.choice((1, 1, 2))):
            name = chance.choice(("values", "values", "notValues"))
            found["when"].append({"key": key, name: chance.sample(list(values), 2)})
    return found


def _fields(chance: random.Random, table: _Table) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        name, values = chance.choice(table)
        if chance.random() < 0.3:
            name = f"not{name[0].upper()}{name[1:]}"
        found[name] = chance.sample(list(values), chance.choice((1, 1, 2, 3)))
    return found


def text_of(chance: random.Random, document: Mapping[str, Any], style: int) -> str:
    """Return a document as text, in one of four spellings."""
    match style:
        case 0:
            return json.dumps(document) + "\n"
        case 1:
            return yaml.safe_dump(document, allow_unicode=chance.random() < 0.5)
        case 2:
            return yaml.safe_dump(document, default_flow_style=True, sort_keys=False, width=60)
    quote = chance.choice(('"', "'", None))
    return "# a policy\n" + yaml.safe_dump(document, default_style=quote, sort_keys=False)


_SENT: Mapping[str, Sequence[str]] = {
    "x-a": ["x", "", "y", "a,b", "***", "xé", " x "],
    "x_a": ["x"],
    "X-A": ["x"],
    "X-Request-Id": ["x"],
    "x-out": ["x"],
    "traceparent": ["00-1-2-01", "xx", ""],
    "b3": ["0", "x", "token=abcdefgh"],
    "x-b3-traceid": ["1", "eyJhbGciOi.eyJzdWIi.sig"],
    "x-t": ["{t}"],
    "authorization": ["Bearer {t}", "Bearer {t}", "Basic x", "bearer {t}", "Bearer {t} x", ""],
    "cookie": ["t={t}", "a=b", 't="{t}"; a=b'],
    "referer": ["https://u:p@h/?token=abcdefgh", "/a"],
    "x-forwarded-for": ["10.1.2.3", "10.1.2.3, 192.168.1.1", "::1", "noise"],
    "x-forwarded-client-cert": [
        "By=spiffe://x/db;Hash=00;URI=spiffe://mesh.example/ns/shop/sa/jobs",
        "Hash=00;URI=spiffe://mesh.example/ns/shop/sa/web",
        "noise",
        "",
    ],
    ":authority": ["shop", "other"],
    ":method": ["GET", "POST"],
    "origin": ["https://x", ""],
    "access-control-request-method": ["GET"],
    "content-length": ["0", "3", "x"],
}


def asked(chance: random.Random) -> Asked:
    """Return a question."""
    found: Asked = {
        "raw": chance.random() < 0.5, "headers": [], "path": "/a", "query": "", "method": "GET",
        "principal": chance.choice(("", _PEERS[0], _PEERS[0])), "host": "shop", "extensions": {},
        "token": chance.choice(("", "short", "long", "roles")), "labels": {}, "has_path": True,
        "certificate": chance.random() < 0.3, "source": "10.1.2.3", "port": 80, "forwarded": (),
        "destination": "10.0.0.2", "traces": ["x-request-id"],
    }  # fmt: skip
    for _ in range(chance.randrange(4)):
        change(chance, found)
    return found


def change(chance: random.Random, asked: Asked) -> None:
    """Change one aspect of a question."""
    chance.choice(_CHANGES)(chance, asked)


def _set(name: str, *values: Any) -> _Change:
    def change(chance: random.Random, asked: Asked) -> None:
        asked[name] = chance.choice(values)

    return change


def _change_header(chance: random.Random, asked: Asked) -> None:
    """Add a header, take one away, send one twice, or give one another value."""
    kept = list(asked["headers"])
    dice = chance.random()
    if kept and dice < 0.3:
        kept.pop(chance.randrange(len(kept)))
    elif kept and dice < 0.4:
        kept.append(chance.choice(kept))
    elif kept and dice < 0.6:
        at = chance.randrange(len(kept))
        kept[at] = (kept[at][0], chance.choice(_SENT[kept[at][0]]))
    else:
        name = chance.choice(list(_SENT))
        kept.append((name, chance.choice(_SENT[name])))
    asked["headers"] = kept


_PEERS = [f"spiffe://mesh.example/ns/shop/sa/{name}" for name in ("web", "jobs")]
_OTHER_PEERS = [
    "spiffe://cluster.local/ns/shop/sa/web", "spiffe://old/ns/other/sa/web", "CN=x",
    "spiffe://mesh.example/db/7",
]  # fmt: skip
_CHANGES: list[_Change] = [
    *[_set("path", *TARGETS)] * 3,
    *[_set("query", *QUERIES)] * 2,
    *[_change_header] * 3,
    *[_set("token", *HELD)] * 2,
    _set("principal", "", *_PEERS, *_OTHER_PEERS),
    _set("certificate", True, False),
    _set("method", "GET", "POST", "PUT", "OPTIONS", "", "get"),
    _set("host", "shop", "SHOP", "shop:8080", "", "a.example", "shopp"),
    _set("raw", True, False),
    _set("both", True, False),
    _set("value_only", True, False),
    _set("has_path", True, False),
    _set("path_header", None, "/a", "/x"),
    _set("source", "10.1.2.3", "192.168.1.1", "fd00::1", "::ffff:10.1.2.3", "", "noise"),
    _set("pipe", False, False, True),
    _set("port", 80, 8080, 0),
    _set("destination", "10.0.0.2", "192.168.9.9", ""),
    _set("destination_principal", "", "spiffe://mesh.example/ns/other/sa/db"),
    _set("service", "", "shop"),
    _set("labels", {}, {"app": "a"}, {"app": "b"}, {"app": "a", "v": "1"}),
    _set(
        "extensions",
        *({}, {"x": "y"}, {"meshwarden.namespace": "other"}, {"meshwarden.service": ""}),
        *({"meshwarden.service": "shop/orders"}, {"meshwarden.service_entry": "shop/pay"}),
    ),
    _set("forwarded", (), (_PEERS[0],), (_PEERS[1],), ("-",), tuple(_PEERS)),
    _set(
        "metadata",
        *({}, {"other": {"c": "x"}}, {"envoy.filters.a.b": {"c": "x"}}),
        *({"envoy.filters.a.b": {"c": "xx", "d": ["x"]}}, {"envoy.filters.a.b": {"d": [1, "y"]}}),
    ),
    _set("route_metadata", {}, {"x": {"y": "z"}}),
    _set("sni", "", "shop", "SHOP", "a.example"),
    _set("tls", True, False),
    _set("raw_body", b"", b"x", b"\xff"),
    _set("body", "", "x"),
    _set("scheme", "", "http", "https"),
    _set("protocol", "", "HTTP/2"),
    _set("size", 0, -1, 5, None),
    _set("time", 0, 1, 2**55, -5),
    _set("connection", False, False, True),
    _set(
        "traces",
        *([], ["x-request-id"], ["x-request-id", "traceparent"], ["b3", "tracestate"]),
        *(["x-request-id", "x-request-id"], ["X-Request-Id"]),
    ),
]


def message_of(asked: Asked, number: int, trace: str) -> bytes:
    """Return a CheckRequest with ids, times and trace headers of its own."""
    message = CheckRequest()
    attributes = message.attributes
    source, destination = attributes.source, attributes.destination
    source.principal = asked["principal"]
    if asked.get("certificate"):
        source.certificate = CERTIFICATES.get(asked["principal"].rpartition("/")[2], "")
    if asked.get("pipe"):
        source.address.pipe.path = "/run/x"
    else:
        source.address.socket_address.address = asked["source"]
        source.address.socket_address.port_value = 1024 + number
    destination.address.socket_address.address = asked["destination"]
    destination.address.socket_address.port_value = asked["port"]
    destination.principal = asked.get("destination_principal", "")
    destination.service = asked.get("service", "")
    destination.labels.update(asked["labels"])
    attributes.context_extensions.update(asked["extensions"])
    for name in ("metadata", "route_metadata"):
        for section, held in asked.get(name, {}).items():
            getattr(attributes, f"{name}_context").filter_metadata[section].update(held)
    if asked.get("sni") or asked.get("tls"):
        attributes.tls_session.SetInParent()
        attributes.tls_session.sni = asked.get("sni", "")
    attributes.request.time.seconds = asked.get("time") or BEGIN + number % 7
    attributes.request.time.nanos = number * 1001
    if not asked.get("connection"):
        _add_http(attributes.request.http, asked, number, trace)
    return message.SerializeToString()


def _add_http(http: Any, asked: Asked, number: int, trace: str) -> None:
    held = HELD[asked["token"]]
    path = asked["path"] + asked["query"].replace("{t}", held)
    http.id, http.method, http.path, http.host = f"{number:x}", asked["method"], path, asked["host"]
    http.scheme, http.protocol = asked.get("scheme", ""), asked.get("protocol", "")
    http.raw_body, http.body = asked.get("raw_body", b""), asked.get("body", "")
    size = asked.get("size", 0)
    http.size = number % 5 - 1 if size is None else size
    headers = [("accept", "*/*")]
    if asked["has_path"]:
        shown = asked.get("path_header")
        headers.append((":path", path if shown is None else shown))
    headers += [(name, value.replace("{t}", held)) for name, value in asked["headers"]]
    has_place = "{t}" in "".join([asked["query"], *(value for _, value in asked["headers"])])
    if held and not has_place:
        headers.append(("authorization", f"Bearer {held}"))
    headers += [(each, trace) for each in asked["traces"]]
    for name, value in headers:
        if asked["raw"] and asked.get("value_only"):
            http.header_map.headers.add(key=name, value=value)
        elif asked["raw"]:
            http.header_map.headers.add(key=name, raw_value=value.encode())
        if not asked["raw"] or asked.get("both"):
            http.headers[name] = value
