"""Whether one rule matches whatever another matches: proved from the texts, or not said.

Theory of operation. A rule is a union of alternatives, an alternative a conjunction of
clauses. An alternative covers another one when each of its clauses is implied by a
clause of the other on the same key. Implication compares literals: a prefix covers a
longer prefix, an excluded list is implied by a wider one. Where texts do not decide it
(namespaces, claims) only the same text will do.

INVARIANT: a yes is a proof, for HTTP requests and for TCP connections; a no is nothing.
The node proxy of ambient reads rules otherwise, and its readers must not ask.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from policies.attributes import attribute_for
from policies.mesh import Mesh
from policies.model import Action, Clause, Rule, Value
from policies.path_template import is_template
from policies.string_match import ascii_lower
from policies.trust_domain import expand_principal

_LITERAL = frozenset({"operation.paths", "operation.methods", "operation.hosts"})
_ADDRESSES = frozenset({"source.ip", "remote.ip", "destination.ip"})
# BUDGET: alternatives of one rule; a product beyond it is not analysed.
_MAX_ALTERNATIVES = 64

Conjunction = tuple[Clause, ...]


def rule_covers(wide: Rule, narrow: Rule, action: Action, mesh: Mesh) -> bool:
    """Whether every request that `narrow` matches is one that `wide` matches.

    `action` is that of `wide`.
    """
    if _is_hopeless(wide, narrow, mesh):
        return False
    # "An ALLOW rule with one unusable element loses the whole rule": on TCP the wide rule
    # would be gone, and the narrow one may not be.
    if action is Action.ALLOW and _names_http(wide) and not _names_http(narrow):
        return False
    ours, theirs = alternatives(wide), alternatives(narrow)
    return bool(ours and theirs) and all(
        any(_implies(other, each, mesh) for each in ours) for other in theirs
    )


def _is_hopeless(wide: Rule, narrow: Rule, mesh: Mesh) -> bool:
    """Whether the first clauses alone rule it out: a quick no for most pairs."""
    if len(wide.sources) != 1 or len(narrow.sources) != 1 or narrow.when:
        return False
    return not _implies(narrow.sources[0], wide.sources[0], mesh)


def alternatives(rule: Rule) -> tuple[Conjunction, ...]:
    """Return the conjunctions whose union is the rule; none when they are too many."""
    if len(rule.sources or "-") * len(rule.operations or "-") > _MAX_ALTERNATIVES:
        return ()
    return tuple(
        (*source, *operation, *rule.when)
        for source in rule.sources or ((),)
        for operation in rule.operations or ((),)
    )


def _names_http(rule: Rule) -> bool:
    groups = (*rule.sources, *rule.operations, rule.when)
    return any(_is_http(clause) for group in groups for clause in group)


def _is_http(clause: Clause) -> bool:
    attribute = attribute_for(clause.key)
    return attribute is None or attribute.is_http or attribute.is_untranslatable


def _implies(narrow: Conjunction, wide: Conjunction, mesh: Mesh) -> bool:
    return all(
        (not clause.values or _positive_implied(narrow, clause, mesh))
        and (not clause.not_values or _negative_implied(narrow, clause, mesh))
        for clause in wide
    )


def _positive_implied(narrow: Conjunction, clause: Clause, mesh: Mesh) -> bool:
    """Whether some clause of `narrow` has values that are all among those of `clause`."""
    return any(
        list_covers(clause.key, clause.values, other.values, mesh)
        for other in narrow
        if other.key == clause.key and other.values
    )


def _negative_implied(narrow: Conjunction, clause: Clause, mesh: Mesh) -> bool:
    """Whether some clause of `narrow` excludes all that `clause` excludes."""
    return any(
        list_covers(clause.key, other.not_values, clause.not_values, mesh)
        for other in narrow
        if other.key == clause.key and other.not_values
    )


def list_covers(key: str, wide: tuple[Value, ...], narrow: tuple[Value, ...], mesh: Mesh) -> bool:
    """Whether each text that a value of `narrow` matches is matched by one of `wide`."""
    domains = mesh.trust_domains
    ours = [text for value in wide for text in texts_of(key, value.text, domains)]
    # The same text is the usual proof; only patterns and ranges can be another one.
    same = frozenset(ours) if key != "source.serviceAccount" else frozenset()
    others = ours if not same or key in _ADDRESSES else [each for each in ours if "*" in each]
    return all(
        text in same or any(_value_covers(key, each, text) for each in others)
        for value in narrow
        for text in texts_of(key, value.text, domains)
    )


# WHY cached: every policy is held against every other one of its scope.
@lru_cache(maxsize=65536)
def texts_of(key: str, text: str, domains: tuple[str, ...]) -> tuple[str, ...]:
    """Return the texts that a value stands for: an identity in every alias, a host in one case."""
    if key == "source.principal":
        return expand_principal(text, domains)
    return (ascii_lower(text) if key == "operation.hosts" else text,)


def is_anchor_key(key: str) -> bool:
    """Whether a value of this key is covered by the same text, or by a part of it and a `*`."""
    return key not in _ADDRESSES


@lru_cache(maxsize=65536)
def _network_covers(wide: str, narrow: str) -> bool:
    one, other = (ipaddress.ip_network(text, strict=False) for text in (wide, narrow))
    # Envoy compares within one family only.
    return (one.version, other.version) in ((4, 4), (6, 6)) and (
        one.network_address <= other.network_address  # type: ignore[operator]  # one family
        and one.broadcast_address >= other.broadcast_address  # type: ignore[operator]  # one family
    )


def _value_covers(key: str, wide: str, narrow: str) -> bool:
    if key == "source.serviceAccount":
        # A name alone is of the policy's namespace, and the other policy may be elsewhere.
        return wide == narrow and "/" in wide
    if wide == narrow:
        return True
    if key in _ADDRESSES:
        return _network_covers(wide, narrow)
    is_literal = key in _LITERAL or key == "source.principal" or key.startswith("request.headers[")
    if not is_literal or (key == "operation.paths" and (is_template(wide) or is_template(narrow))):
        return False
    if wide == "*":
        return True
    if wide.startswith("*"):
        # A prefix has no end to compare.
        return narrow.endswith(wide[1:]) and (narrow[0] == "*" or narrow[-1] != "*")
    if wide.endswith("*"):
        return narrow.startswith(wide[:-1]) and narrow[0] != "*"
    return False
