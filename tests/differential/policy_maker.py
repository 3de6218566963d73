"""Policy sets at random, every one valid by Istio's admission.

WHY not hypothesis: what costs is putting a set up in Envoy, and many go up in one push.
Hypothesis draws one example at a time, and its shrinker tries one candidate at a time;
here a seed gives a batch of sets, hundreds of requests go to each, and the shrinker tries
all candidates of a round in one push. A seed and a number name a set for good.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from tests.differential import vocabulary as words
from tests.differential.model import ROOT_NAMESPACE, WORKLOAD_NAMESPACE, PolicySet

Plain = dict[str, Any]
Word = Callable[[random.Random], str]

_WILD = "*"
# An empty list is no list.
_EMPTY = 0.03
_ONE_PROVIDER = 0.3
_CUSTOM_KEYS = (
    "source.ip",
    "remote.ip",
    "destination.ip",
    "destination.port",
    "connection.sni",
    "headers",
)


def bent(pool: Sequence[str], chance: float = 0.25) -> Word:
    """Return a source of words: mostly from the pool, at times bent to an edge."""

    def draw(rng: random.Random) -> str:
        word = rng.choice(pool)
        if rng.random() > chance or len(word) < 2:
            return word
        cut = rng.randrange(1, len(word))
        return rng.choice(
            (
                word[:cut] + _WILD,
                _WILD + word[cut:],
                word[:cut] + _WILD + word[cut:],
                _WILD + word[cut:] + _WILD,
                word[:-1],
                word.swapcase(),
                word + _WILD,
            )
        )

    return draw


def plain(pool: Sequence[str]) -> Word:
    """Return a source of words exactly as they are in the pool."""
    return lambda rng: rng.choice(pool)


def _path(rng: random.Random) -> str:
    word = plain(words.PATHS)(rng)
    return word if "{" in word else bent((word,))(rng)


SOURCE_FIELDS: dict[str, Word] = {
    "principals": bent(words.PRINCIPALS),
    "namespaces": bent(words.NAMESPACES),
    "serviceAccounts": plain(words.SERVICE_ACCOUNTS),
    "trustDomains": plain(words.TRUST_DOMAINS),
    "requestPrincipals": bent(words.REQUEST_PRINCIPALS),
    "ipBlocks": plain(words.ADDRESSES),
    "remoteIpBlocks": plain(words.ADDRESSES),
}
OPERATION_FIELDS: dict[str, Word] = {
    "hosts": bent(words.HOSTS),
    "methods": bent(words.METHODS),
    "paths": _path,
    "ports": plain(words.PORTS),
}
CONDITIONS: dict[str, Word] = {
    "source.principal": SOURCE_FIELDS["principals"],
    "source.namespace": SOURCE_FIELDS["namespaces"],
    "source.serviceAccount": SOURCE_FIELDS["serviceAccounts"],
    "source.trustDomain": SOURCE_FIELDS["trustDomains"],
    "source.ip": plain(words.ADDRESSES),
    "remote.ip": plain(words.ADDRESSES),
    "destination.ip": plain(words.ADDRESSES),
    "destination.port": plain(words.PORTS),
    "connection.sni": bent(words.SNIS),
    "request.auth.principal": SOURCE_FIELDS["requestPrincipals"],
    "request.auth.audiences": bent(words.AUDIENCES),
    "request.auth.presenter": bent(words.AUDIENCES),
    "claims": bent(words.CLAIM_VALUES),
    "headers": bent(words.HEADER_VALUES),
    "metadata": plain(words.META_VALUES),
}


def make_set(seed: str) -> PolicySet:
    """Return the policy set of a seed."""
    rng = random.Random(seed)
    is_tcp = rng.random() < 0.12
    count = rng.choice((1, 1, 1, 2, 2, 3, 4))
    resources = [_authorization(rng, number) for number in range(count)]
    if not is_tcp and rng.random() < 0.6:
        resources += [
            _request_authentication(rng, number) for number in range(rng.choice((1, 1, 2)))
        ]
    return PolicySet(resources=tuple(resources), mesh=_mesh(rng, is_tcp=is_tcp), name=seed)


def _mesh(rng: random.Random, *, is_tcp: bool) -> Plain:
    mesh: Plain = {}
    if rng.random() < 0.5:
        mesh["trust_domain"] = rng.choice(("td1", "td2.example", "new-td", "td1*"))
        mesh["trust_domain_aliases"] = rng.sample(
            ("cluster.local", "td1", "old-td", "td2.example", "*", "*-td"), rng.randrange(3)
        )
    if rng.random() < _ONE_PROVIDER:
        mesh["multiple_providers"] = False
    if is_tcp:
        return mesh | {"tcp": True}
    if rng.random() < 0.5:
        mesh["path_normalization"] = rng.choice(
            ("NONE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES")
        )
    if rng.random() < 0.3:
        mesh["gateway_hops"] = rng.choice((0, 1, 1, 2))
    return mesh


def _authorization(rng: random.Random, number: int) -> Plain:
    action = rng.choices(("ALLOW", "DENY", "AUDIT", "CUSTOM"), (50, 35, 5, 10))[0]
    low = 1 if action in ("DENY", "CUSTOM") else 0
    spec: Plain = {"rules": [_rule(rng, action) for _ in range(rng.choice((low, 1, 1, 2, 3)))]}
    if not spec["rules"] and rng.random() < 0.5:
        spec = {}
    if action != "ALLOW" or rng.random() < 0.3:
        spec["action"] = action
    if action == "CUSTOM":
        names = ("checker", "second", "absent")
        spec["provider"] = {"name": rng.choices(names, (75, 20, 5))[0]}
    if rng.random() < 0.15:
        labels = ({"app": "httpbin"}, {"version": "v1", "app": "httpbin"}, {"app": "other"}, {})
        spec["selector"] = {"matchLabels": rng.choice(labels)}
    metadata: Plain = {"name": f"p{number}", "namespace": _namespace(rng)}
    if action in ("ALLOW", "DENY") and rng.random() < 0.08:
        value = rng.choice(("true", "1", "false", "T"))
        metadata["annotations"] = {"istio.io/dry-run": value}
    return _resource("AuthorizationPolicy", metadata, spec)


def _namespace(rng: random.Random) -> str:
    return rng.choices((WORKLOAD_NAMESPACE, ROOT_NAMESPACE, "bar"), (80, 15, 5))[0]


def _resource(kind: str, metadata: Plain, spec: Plain) -> Plain:
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": kind,
        "metadata": metadata,
        "spec": spec,
    }


def _rule(rng: random.Random, action: str) -> Plain:
    rule: Plain = {}
    is_custom = action == "CUSTOM"
    if rng.random() < 0.55:
        rule["from"] = [
            {"source": _source(rng, is_custom=is_custom)} for _ in range(rng.choice((1, 1, 2)))
        ]
    if rng.random() < 0.55:
        rule["to"] = [{"operation": _operation(rng)} for _ in range(rng.choice((1, 1, 2)))]
    if rng.random() < 0.45:
        rule["when"] = [_condition(rng, is_custom=is_custom) for _ in range(rng.choice((1, 1, 2)))]
    for part in ("from", "to", "when"):
        if part not in rule and rng.random() < _EMPTY:
            rule[part] = []
    return rule


def _source(rng: random.Random, *, is_custom: bool) -> Plain:
    fields = ("ipBlocks", "remoteIpBlocks") if is_custom else tuple(SOURCE_FIELDS)
    chosen = rng.sample(fields, min(len(fields), rng.choice((1, 1, 1, 2))))
    # "serviceAccounts cannot be combined with principals or namespaces in one source."
    if "serviceAccounts" in chosen:
        chosen = [each for each in chosen if each not in ("principals", "namespaces")]
    return _both_signs(rng, chosen, SOURCE_FIELDS)


def _operation(rng: random.Random) -> Plain:
    chosen = rng.sample(tuple(OPERATION_FIELDS), rng.choice((1, 1, 1, 2, 3)))
    return _both_signs(rng, chosen, OPERATION_FIELDS)


def _both_signs(rng: random.Random, chosen: Sequence[str], fields: dict[str, Word]) -> Plain:
    found: Plain = {}
    for name in chosen:
        negative = "not" + name[0].upper() + name[1:]
        kind = rng.random()
        if kind < 0.75:
            found[name] = _values(rng, fields[name])
        if kind > 0.6:
            found[negative] = _values(rng, fields[name])
        for empty in (name, negative):
            if empty not in found and rng.random() < _EMPTY:
                found[empty] = []
    return found


def _values(rng: random.Random, word: Word) -> list[str]:
    drawn = [word(rng) for _ in range(rng.choice((1, 1, 2, 3)))]
    return list(dict.fromkeys(drawn))


def _condition(rng: random.Random, *, is_custom: bool) -> Plain:
    if not is_custom and rng.random() < 0.15:
        return _token_header_condition(rng)
    name = rng.choice(_CUSTOM_KEYS if is_custom else tuple(CONDITIONS))
    found: Plain = {"key": _key(rng, name)}
    kind = rng.random()
    if kind < 0.7:
        found["values"] = _values(rng, CONDITIONS[name])
    if kind > 0.55:
        found["notValues"] = _values(rng, CONDITIONS[name])
    for empty in ("values", "notValues"):
        if empty not in found and rng.random() < _EMPTY:
            found[empty] = []
    return found


def _token_header_condition(rng: random.Random) -> Plain:
    """Return a condition on a header that the verification of tokens may take or set."""
    sign = rng.choice(("values", "notValues"))
    header = rng.choice(words.TOKEN_HEADERS)
    return {
        "key": f"request.headers[{header}]",
        sign: [rng.choice(("*", "alice", "shop", "Bearer*"))],
    }


def _key(rng: random.Random, name: str) -> str:
    if name == "headers":
        return f"request.headers[{rng.choice(words.HEADER_NAMES)}]"
    if name == "claims":
        return f"request.auth.claims{rng.choice(words.CLAIM_KEYS)}"
    if name == "metadata":
        return f"experimental.envoy.filters.http.header_to_metadata{rng.choice(words.META_KEYS)}"
    return name


def _request_authentication(rng: random.Random, number: int) -> Plain:
    rules = [_jwt_rule(rng) for _ in range(rng.choice((1, 1, 1, 2)))]
    metadata = {"name": f"r{number}", "namespace": _namespace(rng)}
    return _resource("RequestAuthentication", metadata, {"jwtRules": rules})


def _jwt_rule(rng: random.Random) -> Plain:
    rule: Plain = {"issuer": rng.choice(words.ISSUERS), "jwks": "$JWKS"}
    options: dict[str, Any] = {
        "audiences": rng.sample(words.AUDIENCES[:3], rng.choice((1, 2))),
        "fromHeaders": rng.choice(
            (
                [{"name": "x-token"}],
                [{"name": "Authorization", "prefix": "Bearer "}],
                [{"name": "X-Token", "prefix": "tok="}, {"name": "x-token"}],
            )
        ),
        "fromParams": rng.choice((["token"], ["token", "a b", "Token"])),
        "fromCookies": rng.choice((["session"], ["session", "__Host-s"])),
        "forwardOriginalToken": True,
        "outputPayloadToHeader": "x-payload",
        "outputClaimToHeaders": rng.choice(
            (
                [{"header": "x-claim-sub", "claim": "sub"}],
                [{"header": "x-claim-sub", "claim": c} for c in ("nested.a", "sub", "num")],
                [{"header": "X-Payload", "claim": "azp"}],
            )
        ),
        "spaceDelimitedClaims": ["perms"],
    }
    chances = (0.3, 0.2, 0.15, 0.15, 0.35, 0.2, 0.2, 0.3)
    for (name, value), chance in zip(options.items(), chances, strict=True):
        if rng.random() < chance:
            rule[name] = value
    return rule
