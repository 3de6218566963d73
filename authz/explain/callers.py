"""The callers that policies tell apart: one of each kind, to be tried on the server's walk.

Theory of operation. Conditions on peers and tokens split the callers into kinds: those a
value names, those a pattern fits, and the rest. One of each is tried; what a kind is
called says whether it is one caller or stands for many.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from identity.jwt_rule import JwtRule
from policies.attributes import claim_path
from policies.matchers import CompiledPolicy, CompiledRule
from policies.mesh import Mesh
from policies.model import Clause
from policies.trust_domain import expand_principal

PROBE: Final = "any-probe"
"""Stands in a made-up name where a policy does not care."""
_ELSEWHERE: Final = "elsewhere.invalid"
# BUDGET: ways to fill the claims that one rule asks for.
_WAYS_MAX: Final = 32
_SHAPE: Final = re.compile(r"spiffe://([^/]+)/ns/([^/]+)/sa/([^/]+)")
_CLAIMS: Final = "request.auth.claims"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """A kind of caller: `principal` is one of them, empty for plaintext."""

    label: str
    principal: str
    is_kind: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """A token that callers may carry: who issued it, for whom, with which further claims."""

    label: str
    rule: JwtRule
    subject: str = PROBE
    claims: Mapping[str, Any] = field(default_factory=dict)
    is_kind: bool = False


def callers(policies: Iterable[CompiledPolicy], mesh: Mesh) -> tuple[Caller, ...]:
    """Return one caller of each kind that the policies tell apart, and of those they do not."""
    found: dict[str, Caller] = {}
    for policy in policies:
        for clause in _clauses(policy):
            for value in (*clause.values, *clause.not_values):
                for caller in _named(clause.key, value.text, policy.ref.namespace, mesh):
                    found.setdefault(caller.principal, caller)
        for principal in _joined(policy, mesh):
            found.setdefault(
                principal,
                Caller(label=f"a peer such as {principal}", principal=principal, is_kind=True),
            )
    td = mesh.trust_domain
    rest = (
        _kind(f"any other peer of `{td}`", f"{td}/ns/{PROBE}/sa/{PROBE}"),
        _kind("any peer of another trust domain", f"{_ELSEWHERE}/ns/{PROBE}/sa/{PROBE}"),
        Caller(label="anyone without a client certificate", principal="", is_kind=True),
    )
    for caller in rest:
        found.setdefault(caller.principal, caller)
    # The named first, then kinds from the narrow to the wide.
    return tuple(sorted(found.values(), key=lambda each: (each.is_kind, each in rest)))


def tokens(policies: Iterable[CompiledPolicy], rules: Iterable[JwtRule]) -> tuple[Carried, ...]:
    """Return one token of each kind that would be verified, the least telling first."""
    compiled = [rule for policy in policies for rule in policy.rules]
    subjects = dict.fromkeys(
        value.text
        for rule in compiled
        for clause in _of_rule(rule)
        if clause.key == "request.auth.principal"
        for value in (*clause.values, *clause.not_values)
    )
    ways = _distinct(way for rule in compiled for way in _ways(rule))
    found: list[Carried] = []
    for rule in {each.issuer: each for each in rules}.values():
        named = [_subject(text, rule.issuer) for text in subjects]
        for subject in dict.fromkeys([PROBE, *filter(None, named)]):
            who = (
                f"any subject of {rule.issuer}" if subject == PROBE else f"{rule.issuer}/{subject}"
            )
            for way in ({}, *ways):
                told = "".join(f", {name} `{text}`" for name, text in way.items())
                found.append(
                    Carried(
                        label=who + told, rule=rule, subject=subject,
                        claims=_payload(way), is_kind=subject == PROBE,
                    )
                )  # fmt: skip
    return tuple(found)


def _clauses(policy: CompiledPolicy) -> Iterator[Clause]:
    for rule in policy.rules:
        yield from _of_rule(rule)


def _joined(policy: CompiledPolicy, mesh: Mesh) -> Iterator[str]:
    """Yield principals for rules whose conditions on the peer must hold together."""
    for rule in policy.rules:
        for source in rule.sources or ((),):
            asked = [
                [
                    found
                    for value in clause.source.values
                    for caller in _named(clause.source.key, value.text, policy.ref.namespace, mesh)
                    if (found := _SHAPE.fullmatch(caller.principal)) is not None
                ]
                for clause in (*source, *rule.when)
                if clause.source.key.startswith("source.")
            ]
            asked = [each for each in asked if each]
            if len(asked) > 1:
                for parts in itertools.islice(itertools.product(*asked), _WAYS_MAX):
                    domain = min((each[1] for each in parts), key=mesh.trust_domain.__eq__)
                    home = min((each[2] for each in parts), key=_vagueness)
                    account = min((each[3] for each in parts), key=_vagueness)
                    yield f"spiffe://{domain}/ns/{home}/sa/{account}"


def _vagueness(part: str) -> bool:
    return PROBE in part


def _of_rule(rule: CompiledRule) -> Iterator[Clause]:
    for clauses in (*rule.sources, *rule.operations, rule.when):
        yield from (clause.source for clause in clauses)


def _kind(label: str, path: str) -> Caller:
    return Caller(label=label, principal=f"spiffe://{path}", is_kind=True)


def _named(key: str, text: str, namespace: str, mesh: Mesh) -> Iterator[Caller]:
    """Yield the callers that one value of a condition names or fits."""
    td = mesh.trust_domain
    match key:
        case "source.principal" if text != "*":
            for each in expand_principal(text, mesh.trust_domains):
                if "*" not in each:
                    yield Caller(label=f"spiffe://{each}", principal=f"spiffe://{each}")
                else:
                    yield _kind(f"any peer like `{each}`", _fitting(each, td))
        case "source.namespace":
            filled = text.replace("*", PROBE)
            yield _kind(f"any account of namespace `{text}`", f"{td}/ns/{filled}/sa/{PROBE}")
        case "source.serviceAccount":
            home, _, account = text.rpartition("/")
            principal = f"spiffe://{td}/ns/{home or namespace}/sa/{account}"
            yield Caller(label=principal, principal=principal)
        case "source.trustDomain" if text != "*":
            filled = text.replace("*", PROBE)
            yield _kind(f"any peer of trust domain `{text}`", f"{filled}/ns/{PROBE}/sa/{PROBE}")


def _fitting(pattern: str, trust_domain: str) -> str:
    """Return a name that a principal's pattern fits, of Kubernetes' shape where it can be."""
    if pattern.startswith("*"):
        tail = pattern[1:]
        if tail.startswith("/ns/"):
            return trust_domain + tail
        head = f"{trust_domain}/ns/{PROBE}"
        return f"{head}{tail}" if tail.startswith("/sa/") else f"{head}/sa/{PROBE}{tail}"
    head = pattern[:-1]
    match head.split("/"):
        case (_,):
            return f"{head}{PROBE}/ns/{PROBE}/sa/{PROBE}"
        case (_, ""):
            return f"{head}ns/{PROBE}/sa/{PROBE}"
        case (_, "ns", part):
            return f"{head}{PROBE if not part else ''}/sa/{PROBE}"
        case (_, "ns", _, ""):
            return f"{head}sa/{PROBE}"
    return f"{head}{PROBE}"


def _subject(text: str, issuer: str) -> str:
    """Return the subject that a request principal names for an issuer, or empty."""
    wanted, slash, subject = text.rpartition("/")
    if not slash or subject in ("", "*") or wanted not in (issuer, "*"):
        return ""
    return subject.replace("*", PROBE)


def _ways(rule: CompiledRule) -> Iterator[dict[str, str]]:
    """Yield ways to fill the claims that a rule asks for, by the name of the claim."""
    asked: dict[str, list[str]] = {}
    for clause in _of_rule(rule):
        name = _claim_name(clause.key)
        if name:
            values = [value.text for value in (*clause.values, *clause.not_values)]
            asked.setdefault(name, []).extend(text.replace("*", PROBE) for text in values)
    if asked:
        combinations = itertools.islice(itertools.product(*asked.values()), _WAYS_MAX)
        for combination in combinations:
            yield dict(zip(asked, combination, strict=True))


def _claim_name(key: str) -> str:
    names = {"request.auth.audiences": "aud", "request.auth.presenter": "azp"}
    return names.get(key) or (key.removeprefix(_CLAIMS) if key.startswith(_CLAIMS) else "")


def _payload(way: Mapping[str, str]) -> dict[str, Any]:
    """Return claims as a token holds them: `[a][b]` is `b` inside `a`."""
    payload: dict[str, Any] = {}
    for name, text in way.items():
        *outer, last = claim_path(name) or (name,)
        inside = payload
        for step in outer:
            inside = inside.setdefault(step, {})
            if not isinstance(inside, dict):
                break
        else:
            inside[last] = text
    return payload


def _distinct(ways: Iterable[dict[str, str]]) -> tuple[dict[str, str], ...]:
    return tuple({tuple(sorted(way.items())): way for way in ways}.values())
