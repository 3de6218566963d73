"""Requests at random: most aim at a rule of the set, and many miss it by a little.

A request drawn blindly meets three conditions at once about never. So a rule is
chosen, each of its conditions is given a value that should satisfy it, and then,
half of the time, something is bent: an edge of the path, a repeated header, another peer.
"""

from __future__ import annotations

import json
import random
import string
from collections.abc import Sequence

from tests.differential import vocabulary as words
from tests.differential.aim import aim
from tests.differential.bend import bend
from tests.differential.blind import blind
from tests.differential.draft import Draft, Plain, connection
from tests.differential.identities import is_ipv6
from tests.differential.model import PLAINTEXT, PolicySet, Probe

# What Envoy refuses before any filter is asked tells nothing: it is sent only now and then.
_ODD = 0.95
_OF_THE_SOURCE = ('"ipBlocks"', '"notIpBlocks"', '"source.ip"')
_PROXIED = 0.3
_METHOD_CHARACTERS = frozenset(string.ascii_letters + "-")
_UNSENDABLE = frozenset(" \r\n\t\0")


def make_probes(policies: PolicySet, count: int, seed: str) -> list[Probe]:
    """Return the probes of a seed for a policy set."""
    rng = random.Random(seed)
    rules = _rules(policies)
    jwt_rules = [
        rule
        for each in policies.resources
        if each["kind"] == "RequestAuthentication"
        for rule in each["spec"]["jwtRules"]
    ]
    # Behind PROXY protocol `source.ip` is another address to us: see docs/differences.md.
    is_proxied = not any(word in json.dumps(rules) for word in _OF_THE_SOURCE)
    connections = [connection(rng) for _ in range(8)]
    probes = []
    for _ in range(count):
        draft = Draft(rng)
        draft.peer, draft.sni, draft.source, draft.destination = rng.choice(connections)
        blind(draft)
        if rules and rng.random() < 0.75:
            aim(draft, rng.choice(rules))
        if rng.random() < 0.5:
            for _ in range(rng.choice((1, 1, 2))):
                bend(draft)
        if is_proxied and draft.destination and rng.random() < _PROXIED:
            draft.client = rng.choice(words.PROXIED[6 if is_ipv6(draft.source) else 4])
        probes.append(_probe(draft, jwt_rules))
    return probes


def _rules(policies: PolicySet) -> list[Plain]:
    return [
        rule
        for each in policies.resources
        if each["kind"] == "AuthorizationPolicy"
        for rule in each["spec"].get("rules", ())
    ]


# What a provider makes of the token's header, and how often it does.
_LEAVINGS = ("-authorization", "authorization: Bearer {token0}", "authorization: Bearer x",
             "x-token: {token0}", "-x-token", "cookie: session={token0}", "-cookie")  # fmt: skip
_LEFT = 0.1
_SECOND = 0.15


def _probe(draft: Draft, jwt_rules: Sequence[Plain]) -> Probe:
    """Return the probe: the token put somewhere, and only what can be sent kept."""
    rng = draft.rng
    tokens: tuple[Plain, ...] = ()
    headers, query = list(draft.headers), draft.query
    if draft.has_token and jwt_rules:
        claims = {key: value for key, value in draft.claims.items() if value is not None}
        token: Plain = {"claims": claims}
        if draft.fault:
            token["fault"] = draft.fault
        tokens = (token,)
        query = _place_token(rng, rng.choice(jwt_rules), headers, query)
        if rng.random() < _SECOND:
            tokens += ({"claims": claims | {"sub": rng.choice(words.SUBJECTS)}},)
            query = _place_token(rng, rng.choice(jwt_rules), headers, query, "{token1}")
        if rng.random() < _LEFT:
            headers.append(("x-leave", rng.choice(_LEAVINGS)))
    target = _sendable(draft.path) or "/"
    if not draft.scheme and rng.random() < _ODD:
        # Envoy's parser of HTTP/1 takes no such byte, and answers 400 on either side.
        target = "".join(char for char in target if char.isascii())
    is_whole = target.startswith("/") or ("://" in target and not draft.scheme)
    if not is_whole and rng.random() < _ODD:
        target = "/" + target
    if query:
        target += "?" + _sendable(query)
    method = "".join(char for char in draft.method if char in _METHOD_CHARACTERS) or "GET"
    if method == "CONNECT":
        target = "shop.example:443"
    host = draft.host
    if host is not None:
        host = _latin(host.replace("/", "") if rng.random() < _ODD else host)
    return Probe(
        method=method,
        target=target,
        host=host,
        headers=tuple((name, _latin(value)) for name, value in headers),
        peer=draft.peer,
        sni="" if draft.peer == PLAINTEXT else draft.sni,
        source=draft.source,
        destination=draft.destination,
        client=draft.client,
        scheme=draft.scheme,
        tokens=tokens,
    )


def _place_token(
    rng: random.Random,
    rule: Plain,
    headers: list[tuple[str, str]],
    query: str,
    mark: str = "{token0}",
) -> str:
    """Put a token where the rule looks, mostly; return the query."""
    params = rule.get("fromParams", ())
    is_default = not any(each in rule for each in ("fromHeaders", "fromParams", "fromCookies"))
    choices: list[str] = ["bearer"] if is_default else []
    names = {each["name"].lower() for each in rule.get("fromHeaders", ())}
    choices += ["x-token"] * ("x-token" in names) + ["bearer"] * bool(names - {"x-token"})
    choices += ["param"] * bool(params) + ["cookie"] * bool(rule.get("fromCookies"))
    place = rng.choice(choices)
    if rng.random() < 0.15:
        place = rng.choice(("bearer", "lower", "basic", "param", "cookie", "x-token", "twice"))
    if place in ("bearer", "twice"):
        headers.append(("Authorization", f"Bearer {mark}"))
    if place == "twice":
        headers.append(("authorization", rng.choice(("Basic abc", f"Bearer {mark}", "Bearer x"))))
    if place == "lower":
        headers.append(("Authorization", f"bearer {mark}"))
    if place == "basic":
        headers.append(("Authorization", f"Basic abc, Bearer {mark}"))
    if place == "x-token":
        prefixes = [h.get("prefix", "") for h in rule.get("fromHeaders", ())]
        headers.append(("X-Token", rng.choice(prefixes or [""]) + mark))
    if place == "cookie":
        cookie = rng.choice(rule.get("fromCookies") or ["session"])
        headers.append(("Cookie", f"a=b; {cookie}={mark}"))
    if place == "param":
        name = rng.choice(params).replace(" ", "%20") if params else "access_token"
        return f"{query}&{name}={mark}" if query else f"{name}={mark}"
    return query


def _sendable(text: str) -> str:
    return "".join(char for char in _latin(text) if char not in _UNSENDABLE)


def _latin(text: str) -> str:
    return text.encode("latin-1", "replace").decode("latin-1")
