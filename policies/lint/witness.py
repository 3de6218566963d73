"""Requests that a rule matches, made from what it asks for.

Theory of operation. The conditions of an alternative fall into dimensions that do not touch each
other: path, method, host, port, addresses, each header, the caller, the token. In each the
values that are written, and a few beside them, are tried by the evaluator's own tests until
one fits. INVARIANT: a request that is returned was matched by the compiled rule.
"""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from identity.claims import VerifiedClaims
from identity.peer import Peer
from policies.attributes import claim_path
from policies.lint.cover import alternatives
from policies.matchers import compile_policy
from policies.mesh import Mesh
from policies.model import AuthorizationPolicy, Clause, Rule
from policies.path_template import is_template
from policies.request import Request, Workload

PROBE: Final = "probe"
"""Stands in a made-up text where a rule does not care."""
_ISSUER: Final = "https://issuer.example"
# BUDGET: ways to fill the conditions on a caller or a token.
_WAYS_MOST: Final = 64
_PEER_KEYS: Final = frozenset(
    {"source.principal", "source.namespace", "source.serviceAccount", "source.trustDomain"}
)
_FREE: Final[Mapping[str, tuple[str, ...]]] = {
    "operation.paths": ("/", f"/{PROBE}", f"/{PROBE}/{PROBE}", "/other"),
    "operation.methods": ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"),
    "operation.hosts": ("any.example", f"{PROBE}.example", "other.invalid"),
    "destination.port": ("8080", "80", "443", "9090"),
    "connection.sni": ("any.example", f"{PROBE}.example"),
}
_FREE_ADDRESSES: Final = ("10.0.0.2", "192.0.2.1", "198.51.100.7", "203.0.113.9", "2001:db8::1")
# What may stand before or behind the written part of an identity.
_TAILS: Final = ("", f"sa/{PROBE}", f"{PROBE}", f"{PROBE}/sa/{PROBE}", f"/sa/{PROBE}",
                 f"ns/{PROBE}/sa/{PROBE}", f"/ns/{PROBE}/sa/{PROBE}",
                 f"{PROBE}/ns/{PROBE}/sa/{PROBE}")  # fmt: skip

Change = Mapping[str, Any]
"""Fields of a Request; `headers` are added to those that are there."""


def bare_request(workload: Workload) -> Request:
    """Return a request of nobody in particular: no certificate, no token, `GET /`."""
    return Request(
        method="GET", path="/", host="any.example", scheme="http", protocol="HTTP/1.1",
        source_ip="10.0.0.2", destination_ip="10.0.0.1", destination_port=8080, workload=workload,
    )  # fmt: skip


def probes_of(workload: Workload, mesh: Mesh) -> Iterator[Request]:
    """Yield requests of nobody in particular, of an unknown peer, and of an unknown neighbour."""
    bare = bare_request(workload)
    for namespace in ("", PROBE, workload.namespace):
        name = f"spiffe://{mesh.trust_domain}/ns/{namespace}/sa/{PROBE}" if namespace else ""
        request = replace(bare, peer=Peer.from_principal(name))
        yield request
        yield replace(request, path=f"/{PROBE}")
        yield replace(request, path=f"/{PROBE}", method="PUT")
        yield replace(request, path=f"/{PROBE}", destination_port=9999)


def home_of(policy: AuthorizationPolicy) -> Workload:
    """Return the least workload that a policy with a selector, or none, applies to."""
    labels = dict(policy.attachment.selector or {})
    return Workload(namespace=policy.metadata.namespace, labels=labels)


def witnesses(
    policy: AuthorizationPolicy, rule: Rule, mesh: Mesh, workload: Workload, most: int = 4
) -> tuple[Request, ...]:
    """Return requests that a rule matches, one for each of its first `most` alternatives."""
    found = (
        _witness(replace(policy, rules=(replace(rule, sources=(), operations=(), when=each),)),
                 mesh, workload)
        for each in itertools.islice(alternatives(rule), most)
    )  # fmt: skip
    return tuple(request for request in found if request is not None)


def single_values(rule: Rule) -> Iterator[Rule]:
    """Yield parts of a rule in which each condition has one value; every value stands in one.

    What stands beside it is chosen by no more than its place.
    """
    for alternative in alternatives(rule):
        widest = max((len(clause.values) for clause in alternative), default=0)
        for place in range(max(widest, 1)):
            when = tuple(
                replace(clause, values=(clause.values[place % len(clause.values)],))
                if clause.values
                else clause
                for clause in alternative
            )
            yield replace(rule, sources=(), operations=(), when=when)


def _witness(policy: AuthorizationPolicy, mesh: Mesh, workload: Workload) -> Request | None:
    """Return a request that the only rule of `policy`, a conjunction, matches."""
    request = bare_request(workload)
    (rule,) = policy.rules
    by_dimension: dict[str, list[Clause]] = {}
    for clause in rule.when:
        by_dimension.setdefault(_dimension(clause.key), []).append(clause)
    for dimension, clauses in by_dimension.items():
        part = compile_policy(replace(policy, rules=(replace(rule, when=tuple(clauses)),)), mesh)
        tried = (_changed(request, each) for each in _changes(dimension, clauses, policy, mesh))
        fitting = next((each for each in tried if part.first_match(each) is not None), None)
        if fitting is None:
            return None
        request = fitting
    return request if compile_policy(policy, mesh).first_match(request) is not None else None


def _dimension(key: str) -> str:
    if key in _PEER_KEYS:
        return "peer"
    return "token" if key.startswith("request.auth.") else key


def _changed(request: Request, change: Change) -> Request:
    headers = {**request.headers, **change.get("headers", {})}
    return replace(request, **{**change, "headers": headers})


def _changes(
    dimension: str, clauses: Sequence[Clause], policy: AuthorizationPolicy, mesh: Mesh
) -> Iterator[Change]:
    """Yield what may be tried in a dimension, the written values first."""
    written = [value.text for clause in clauses for value in clause.values]
    match dimension:
        case "peer":
            yield from _peers(clauses, policy.metadata.namespace, mesh)
        case "token":
            yield from _tokens(clauses)
        case "operation.paths":
            yield from ({"path": text} for text in _paths(written))
        case "operation.methods":
            yield from ({"method": text} for text in _filled(dimension, written))
        case "operation.hosts":
            yield from ({"host": text} for text in _filled(dimension, written))
        case "connection.sni":
            yield from ({"sni": text} for text in ("", *_filled(dimension, written)))
        case "destination.port":
            texts = (*written, *_FREE[dimension])
            yield from ({"destination_port": int(text)} for text in texts)
        case "source.ip" | "remote.ip" | "destination.ip":
            yield from _addresses(dimension, written)
        case _ if dimension.startswith("request.headers["):
            yield {}
            name = dimension.partition("[")[2].removesuffix("]").lower()
            yield from ({"headers": {name: (text,)}} for text in _filled(dimension, written))
        case _:
            yield {}


def _filled(key: str, written: Iterable[str]) -> Iterator[str]:
    for text in written:
        bare = text.strip("*")
        if text.startswith("*"):
            yield from (f"{PROBE}{bare}", bare) if bare else (PROBE,)
        elif text.endswith("*"):
            yield from (bare, f"{bare}{PROBE}")
        else:
            yield text
    yield from _FREE.get(key, (PROBE, "other"))


def _paths(written: Iterable[str]) -> Iterator[str]:
    for text in written:
        bare = text.strip("*")
        if is_template(text):
            yield text.replace("{**}", f"{PROBE}/{PROBE}").replace("{*}", PROBE)
        elif text.startswith("*"):
            yield from (f"/{PROBE}{bare}", bare, f"/{PROBE}/{PROBE}{bare}")
        elif text.endswith("*"):
            yield from (f"{bare}{PROBE}", bare, f"{bare}/{PROBE}", f"{bare}{PROBE}/{PROBE}")
        else:
            yield text
    yield from _FREE["operation.paths"]


def _addresses(key: str, written: Iterable[str]) -> Iterator[Change]:
    nets = (ipaddress.ip_network(text, strict=False) for text in written)
    edges = (str(net[place]) for net in nets for place in ({0, -1} if net.num_addresses else ()))
    for text in (*edges, *_FREE_ADDRESSES):
        if key == "destination.ip":
            yield {"destination_ip": text}
        elif key == "source.ip":
            yield {"source_ip": text}
        else:
            yield {"source_ip": text, "headers": {"x-forwarded-for": (text,)}}


def _peers(clauses: Sequence[Clause], home: str, mesh: Mesh) -> Iterator[Change]:
    """Yield callers: none, those that are written, and those of the written parts."""
    names: list[str] = []
    domains, namespaces, accounts = [mesh.trust_domain], [], []
    for clause in clauses:
        for value in clause.values:
            text = value.text
            if clause.key == "source.principal":
                names += _principals(text, mesh.trust_domain)
            elif clause.key == "source.namespace":
                namespaces.append(text.replace("*", PROBE))
            elif clause.key == "source.trustDomain":
                domains.append(text.replace("*", PROBE))
            else:
                namespace, _, account = text.rpartition("/")
                namespaces.append(namespace or home)
                accounts.append(account)
    parts = [name.split("/") for name in names]
    for part in parts:
        if len(part) == 5 and (part[1], part[3]) == ("ns", "sa"):
            domains.append(part[0])
            namespaces.append(part[2])
            accounts.append(part[4])
    if not any(clause.values for clause in clauses):
        yield {"peer": None}
    ways = itertools.product(
        dict.fromkeys(domains), dict.fromkeys([*namespaces, PROBE]),
        dict.fromkeys([*accounts, PROBE]),
    )  # fmt: skip
    joined = (f"{domain}/ns/{namespace}/sa/{account}" for domain, namespace, account in ways)
    for name in itertools.islice(itertools.chain(names, joined), _WAYS_MOST):
        yield {"peer": Peer.from_principal(f"spiffe://{name}")}


def _principals(text: str, domain: str) -> list[str]:
    if text.startswith("*"):
        tail = text[1:]
        heads = (domain, f"{domain}/ns/{PROBE}", f"{domain}/ns/{PROBE}/sa/{PROBE}", "")
        return [f"{head}{tail}" for head in heads if tail or head]
    return [f"{text[:-1]}{tail}" for tail in _TAILS] if text.endswith("*") else [text]


def _tokens(clauses: Sequence[Clause]) -> Iterator[Change]:
    if not any(clause.values for clause in clauses):
        yield {"claims": None}
    asked = [clause for clause in clauses if clause.values]
    for values in itertools.islice(
        itertools.product(*(clause.values for clause in asked)), _WAYS_MOST
    ):
        payload: dict[str, Any] = {"iss": _ISSUER, "sub": PROBE}
        for clause, value in zip(asked, values, strict=True):
            _claim(payload, clause.key, value.text)
        yield {"claims": VerifiedClaims(payload)}


def _claim(payload: dict[str, Any], key: str, text: str) -> None:
    """Put what one value of a condition asks for into the claims of a token."""
    filled = text.replace("*", PROBE) if "*" in (text[0], text[-1]) else text
    if key == "request.auth.principal":
        issuer, _, subject = text.rpartition("/")
        payload["iss"] = _ISSUER if issuer in ("", "*") else issuer.replace("*", PROBE)
        payload["sub"] = subject.replace("*", PROBE) or PROBE
        return
    names = {"request.auth.audiences": ("aud",), "request.auth.presenter": ("azp",)}
    *outer, last = names.get(key) or claim_path(key.removeprefix("request.auth.claims")) or (key,)
    inside = payload
    for step in outer:
        below = inside.setdefault(step, {})
        inside = below if isinstance(below, dict) else {}
    inside[last] = filled
