"""Rules about what a policy as a whole says: its rules, its action, its provider."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from policies.columns import Column, narrow_rule
from policies.diagnostic import Location, shown
from policies.lint.facts import Facts, clauses_of, resource_name, rules_of
from policies.lint.finding import Related, Spot
from policies.lint.registry import rule
from policies.mesh import MeshMode
from policies.model import Action, AuthorizationPolicy, Clause, Rule


def _spot(policy: AuthorizationPolicy, message: str, location: Location, path: str) -> Spot:
    return Spot(message=message, location=location, resource=resource_name(policy), path=path)


@rule("MW0113")
def audit_of_nothing(facts: Facts) -> Iterator[Spot]:
    """An AUDIT policy without rules; the loader refuses DENY and CUSTOM without them."""
    for policy in facts.policies:
        if policy.action is Action.AUDIT and not policy.rules:
            yield _spot(policy, "an AUDIT policy without `spec.rules` never matches",
                        policy.metadata.location, "spec.rules")  # fmt: skip


@rule("MW0301")
def stray_dash(facts: Facts) -> Iterator[Spot]:
    """A rule of `from` alone followed by a rule without it: OR where AND was meant."""
    for policy in facts.policies:
        rules = list(rules_of(policy))
        for (_, first), (path, second) in zip(rules, rules[1:], strict=False):
            only_from = first.sources and not first.operations and not first.when
            if only_from and not second.sources and (second.operations or second.when):
                yield _spot(policy, "a rule of its own, which holds for every source: the rule"
                            " before it has `from` alone", second.location, path)  # fmt: skip


@rule("MW0303")
def allows_nothing(facts: Facts) -> Iterator[Spot]:
    """An ALLOW policy without rules whose name does not say that it allows nothing."""
    for policy in facts.policies:
        name = policy.metadata.name
        is_meant = any(word in name for word in ("nothing", "none", "deny", "default", "lock"))
        if policy.action is Action.ALLOW and not policy.rules and not is_meant:
            yield _spot(policy, "an ALLOW policy without rules allows nothing",
                        policy.metadata.location, "spec.rules")  # fmt: skip


@rule("MW0307")
def same_rule_twice(facts: Facts) -> Iterator[Spot]:
    """A rule that says the same as an earlier one of its policy."""
    for policy in facts.policies:
        if len(policy.rules) < len("ab"):
            continue
        seen: dict[Any, Rule] = {}
        for path, each in rules_of(policy):
            first = seen.setdefault(meaning_of(each), each)
            if first is not each:
                yield Spot(
                    message="the rule says the same as an earlier one",
                    location=each.location,
                    resource=resource_name(policy),
                    path=path,
                    related=(Related(message="the earlier one", location=first.location),),
                )


def meaning_of(rule_: Rule) -> Any:
    """Return a rule without its places and without the order of what is OR-ed; it can be hashed."""
    groups = (rule_.sources, rule_.operations)
    return (
        *(frozenset(frozenset(map(_clause, group)) for group in part) for part in groups),
        frozenset(map(_clause, rule_.when)),
    )


def _clause(clause: Clause) -> Any:
    return (
        clause.key,
        frozenset(value.text for value in clause.values),
        frozenset(value.text for value in clause.not_values),
    )


@rule("MW0309")
def allow_by_exclusion(facts: Facts) -> Iterator[Spot]:
    """An ALLOW rule that names what is not allowed."""
    for policy in facts.policies:
        if policy.action is not Action.ALLOW:
            continue
        for rule_path, each in rules_of(policy):
            for path, clause in clauses_of(each, rule_path):
                if clause.not_values and clause.key.startswith(("operation.", "destination.port")):
                    name = f"not{clause.spelled[0].upper()}{clause.spelled[1:]}"
                    yield _spot(policy, f"`{name}` in an ALLOW policy lets in whatever it forgets",
                                clause.not_values[0].location, f"{path}.{name}")  # fmt: skip


@rule("MW0314")
def client_says_so(facts: Facts) -> Iterator[Spot]:
    """An ALLOW rule that rests on headers alone."""
    for policy in facts.policies:
        for path, each in rules_of(policy):
            headers = [clause for clause in each.when if _is_header(clause)]
            if (
                policy.action is Action.ALLOW
                and headers
                and len(headers) == len(each.when)
                and not each.sources
            ):
                yield _spot(policy, f"the rule rests on `{shown(headers[0].key)}`, which any client"
                            " can set", headers[0].location, path)  # fmt: skip


def _is_header(clause: Clause) -> bool:
    is_pseudo = clause.key.startswith("request.headers[:")
    return clause.key.startswith("request.headers[") and not is_pseudo


@rule("MW0315")
def client_address_unknown(facts: Facts) -> Iterator[Spot]:
    """A condition on the client's own address where nobody says which proxies are believed."""
    if facts.mesh.trusted_proxy_hops is not None:
        return
    for each in facts.values("remote.ip"):
        yield _spot(each.policy, f"whether a client is `{shown(each.value.text)}` is not known: the"
                    " mesh settings do not say how many proxies are in front",
                    each.value.location, each.path)  # fmt: skip


@rule("MW0318")
def deny_without_effect(facts: Facts) -> Iterator[Spot]:
    """A DENY rule of which the node proxy of ambient understands nothing."""
    if facts.mesh.mode is not MeshMode.ZTUNNEL:
        return
    for policy in facts.policies:
        for path, each in rules_of(policy):
            if policy.action is Action.DENY and narrow_rule(each, Action.DENY, Column.L4) is None:
                yield _spot(policy, "the rule denies nothing: the node proxy of ambient knows none"
                            " of its HTTP conditions", each.location, path)  # fmt: skip


@rule("MW0804")
def provider_fails_open(facts: Facts) -> Iterator[Spot]:
    """A CUSTOM policy whose provider lets requests in when it cannot be asked."""
    providers = {each.name: each for each in facts.mesh.extension_providers}
    for policy in facts.policies:
        provider = providers.get(policy.provider) if policy.action is Action.CUSTOM else None
        if provider and (provider.fail_open or provider.status_on_error.startswith("2")):
            how = "failOpen" if provider.fail_open else "statusOnError"
            yield _spot(policy, f"`{shown(policy.provider)}` lets requests in when it gives no"
                        f" answer: its `{how}`", policy.metadata.location,
                        "spec.provider.name")  # fmt: skip
