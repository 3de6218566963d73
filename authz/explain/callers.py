"""The callers that policies tell apart: one of each kind, to be tried on the server's walk.

Theory of operation. Conditions on peers and tokens split the callers into kinds: two are of
one kind when every condition says the same of both. Candidates are made of all that values
name: trust domains, namespaces and accounts in every combination, claims likewise; of those
of one kind the first is tried. What a kind is called says whether it is one caller or many.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from identity.claims import VerifiedClaims
from identity.jwt_rule import JwtRule
from identity.peer import Peer
from policies.attributes import claim_path
from policies.matchers import CompiledPolicy, CompiledRule
from policies.mesh import Mesh
from policies.model import Clause
from policies.request import Request
from policies.trust_domain import expand_principal

PROBE: Final = "any-probe"
"""Stands in a made-up name where a policy does not care."""
_ELSEWHERE: Final = "elsewhere.invalid"
# Names that nobody has, unlike at both ends: a pattern that fits one does not fit the next.
_OTHERS: Final = (PROBE, "zq-none", "q9")
# BUDGET: ways to fill the claims that one rule asks for; combinations over all rules.
_WAYS_MAX: Final = 32
_COMBINED_MAX: Final = 4096
_ANYTHING: Final = Request(method="", path="", host="")
Kind = tuple[bool, ...]
"""What the conditions of a policy set say of one caller, or of one token."""
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


def callers(policies: Sequence[CompiledPolicy], mesh: Mesh) -> tuple[Caller, ...]:
    """Return one caller of each kind that the policies tell apart, and of those they do not."""
    found: dict[str, Caller] = {}
    for policy in policies:
        for clause in _clauses(policy):
            for value in (*clause.values, *clause.not_values):
                for caller in _named(clause.key, value.text, policy.ref.namespace, mesh):
                    found.setdefault(caller.principal, caller)
    td = mesh.trust_domain
    rest = (
        _kind(f"any other peer of `{td}`", f"{td}/ns/{PROBE}/sa/{PROBE}"),
        _kind("any peer of another trust domain", f"{_ELSEWHERE}/ns/{PROBE}/sa/{PROBE}"),
        Caller(label="anyone without a client certificate", principal="", is_kind=True),
    )
    for caller in rest:
        found.setdefault(caller.principal, caller)
    known = {caller_kind(caller, policies) for caller in found.values()}
    for principal in _combined(found):
        caller = Caller(label=f"a peer such as {principal}", principal=principal, is_kind=True)
        kind = caller_kind(caller, policies)
        if kind not in known:
            known.add(kind)
            found.setdefault(principal, caller)
    # The named first, then kinds from the narrow to the wide.
    return tuple(sorted(found.values(), key=lambda each: (each.is_kind, each in rest)))


def _combined(principals: Iterable[str]) -> Iterator[str]:
    """Yield every combination of the parts of principals, those of Kubernetes' shape."""
    shapes = [found for each in principals if (found := _SHAPE.fullmatch(each)) is not None]
    domains, homes, accounts = (
        dict.fromkeys([*(found[part] for found in shapes), *others])
        for part, others in ((1, ()), (2, _OTHERS), (3, _OTHERS))
    )
    combined = itertools.product(domains, homes, accounts)
    for domain, home, account in itertools.islice(combined, _COMBINED_MAX):
        yield f"spiffe://{domain}/ns/{home}/sa/{account}"


def caller_kind(caller: Caller, policies: Iterable[CompiledPolicy]) -> Kind:
    """Return what every condition on the peer says of a caller: callers of one kind are alike."""
    peer = Peer.from_principal(caller.principal) if caller.principal else None
    return _said(replace(_ANYTHING, peer=peer), policies, "source.")


def _said(request: Request, policies: Iterable[CompiledPolicy], keys: str) -> Kind:
    """Return what each value of the conditions on some attributes says of a request."""
    return tuple(
        test(request)
        for policy in policies
        for rule in policy.rules
        for clauses in (*rule.sources, *rule.operations, rule.when)
        for clause in clauses
        if clause.source.key.startswith(keys)
        for test in (*clause.positive, *clause.negative)
    )


def tokens(policies: Sequence[CompiledPolicy], rules: Iterable[JwtRule]) -> tuple[Carried, ...]:
    """Return one token of each kind that would be verified, the least telling first."""
    compiled = [rule for policy in policies for rule in policy.rules]
    subjects = dict.fromkeys(
        value.text
        for rule in compiled
        for clause in _of_rule(rule)
        if clause.key == "request.auth.principal"
        for value in (*clause.values, *clause.not_values)
    )
    of_rules = (way for rule in compiled for way in _ways(rule))
    ways = _distinct(itertools.chain(of_rules, _combined_ways(compiled)))
    found: dict[tuple[str, Kind], Carried] = {}
    for rule in {each.issuer: each for each in rules}.values():
        named = [_subject(text, rule.issuer) for text in subjects]
        for subject, way in itertools.product(
            dict.fromkeys([PROBE, *filter(None, named), *_OTHERS]), ({}, *ways)
        ):
            who = f"{rule.issuer}/{subject}"
            if subject in _OTHERS:
                who = f"any subject of {rule.issuer}"
                who += "" if subject == PROBE else f" such as {subject}"
            told = "".join(f", {name} `{text}`" for name, text in way.items())
            carried = Carried(
                label=who + told, rule=rule, subject=subject,
                claims=_payload(way), is_kind=subject in _OTHERS,
            )  # fmt: skip
            found.setdefault((rule.issuer, token_kind(carried, policies)), carried)
    return tuple(found.values())


def token_kind(carried: Carried, policies: Iterable[CompiledPolicy]) -> Kind:
    """Return what every condition on tokens says of one: tokens of one kind are alike."""
    audiences = carried.rule.audiences
    payload = {
        "iss": carried.rule.issuer,
        "sub": carried.subject,
        **({"aud": audiences[0]} if audiences else {}),
        **carried.claims,
    }
    return _said(replace(_ANYTHING, claims=VerifiedClaims(payload)), policies, "request.auth.")


def _clauses(policy: CompiledPolicy) -> Iterator[Clause]:
    for rule in policy.rules:
        yield from _of_rule(rule)


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
    """Yield ways to fill all claims that a rule asks for, by the name of the claim."""
    asked = _asked([rule])
    if asked:
        for combination in itertools.islice(itertools.product(*asked.values()), _WAYS_MAX):
            yield dict(zip(asked, combination, strict=True))


def _combined_ways(rules: Iterable[CompiledRule]) -> Iterator[dict[str, str]]:
    """Yield ways to fill any of the claims that the rules ask for, alone and together."""
    asked = _asked(rules)
    choices = [(None, *dict.fromkeys([*texts, *_OTHERS])) for texts in asked.values()]
    for combination in itertools.islice(itertools.product(*choices), _COMBINED_MAX):
        pairs = zip(asked, combination, strict=True)
        yield {name: text for name, text in pairs if text is not None}


def _asked(rules: Iterable[CompiledRule]) -> dict[str, list[str]]:
    """Return what rules ask of claims, by the name of the claim."""
    asked: dict[str, list[str]] = {}
    for rule in rules:
        for clause in _of_rule(rule):
            name = _claim_name(clause.key)
            if name:
                values = [value.text for value in (*clause.values, *clause.not_values)]
                asked.setdefault(name, []).extend(text.replace("*", PROBE) for text in values)
    return asked


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
