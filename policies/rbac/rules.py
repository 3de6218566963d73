"""Rules as Envoy RBAC policies: the laws of AND, OR and NOT, and what an error does.

Theory of operation. An Envoy policy matches when any of its permissions and any
of its principals do. Every `to` entry becomes a permission and every `from`
entry a principal, each the AND of its own clauses and of the `when` clauses of
its side. A side that is not written is one entry that matches anything.

Spec: envoy.config.rbac.v3.Policy; Istio AuthorizationPolicy, "Rule".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from policies.model import Action, Clause, Rule, Value
from policies.rbac.attributes import Scope, Side, Translation, translation_for
from policies.rbac.errors import UntranslatableError
from policies.rbac.text import Json
from policies.trust_domain import expand_principal, expand_trust_domain

# The fields of one entry, in the order in which the control plane writes them.
_ORDER = (
    "source.principal",
    "request.auth.principal",
    "source.trustDomain",
    "source.serviceAccount",
    "source.namespace",
    "remote.ip",
    "source.ip",
    "operation.hosts",
    "operation.methods",
    "operation.paths",
    "destination.port",
)
# BUDGET: a condition on principals is expanded once for every `from` entry, which doubles it
# each time. What is beyond this only repeats, and is left out.
_EXPANDED_MAX = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How the rules of one policy are read: for which action, on which kind of filter."""

    scope: Scope
    action: Action
    tcp: bool


def match_never() -> Json:
    """Return the policy of an AuthorizationPolicy without rules."""
    return {
        "permissions": [{"notRule": {"any": True}}],
        "principals": [{"notId": {"any": True}}],
    }


def translate_rule(rule: Rule, reading: Reading) -> Json | None:
    """Return the RBAC policy of a rule, or None when the control plane leaves the rule out."""
    try:
        permissions = _side(Side.PERMISSION, rule.operations, rule.when, reading)
        # "A `when` shared by several `from` entries is expanded several times."
        rounds = max(1, len(rule.sources))
        principals = _side(Side.PRINCIPAL, rule.sources, rule.when, reading, rounds)
    except UntranslatableError:
        return None
    return {"permissions": permissions, "principals": principals}


def _side(
    side: Side,
    entries: Sequence[tuple[Clause, ...]],
    when: tuple[Clause, ...],
    reading: Reading,
    rounds: int = 1,
) -> list[Json]:
    """Return one AND for every entry; without entries, one for the conditions alone."""
    # An unknown key drops the rule whatever the action, and so it is not caught per clause.
    conditions = [clause for clause in when if _row(clause).side is side]
    shared = [term for clause in conditions for term in _terms(clause, reading, rounds)]
    alternatives: list[Json] = []
    for entry in entries or ((),):
        terms = [term for clause in _sorted(entry) for term in _terms(clause, reading)]
        alternatives.append(side.all_of((terms + shared) or [{"any": True}]))
    return alternatives


def _sorted(entry: tuple[Clause, ...]) -> list[Clause]:
    return sorted(entry, key=lambda clause: _ORDER.index(clause.key))


def _row(clause: Clause) -> Translation:
    row = translation_for(clause.key)
    if row is None:
        raise UntranslatableError(f"unknown attribute `{clause.key}`")
    return row


def _terms(clause: Clause, reading: Reading, rounds: int = 1) -> list[Json]:
    """Return a clause's terms: its values, and the negation of its not-values."""
    row = _row(clause)
    positive = _match(row, _texts(clause, clause.values, reading, rounds), reading)
    negative = _match(row, _texts(clause, clause.not_values, reading, rounds), reading)
    terms = [] if positive is None else [positive]
    return terms if negative is None else [*terms, row.side.none_of(negative)]


def _match(row: Translation, values: list[str], reading: Reading) -> Json | None:
    """Return the matcher of any of the values, or None when nothing is left to match.

    Raises:
        UntranslatableError: a value has no matcher, and the action is ALLOW.
    """
    if row.whole is not None:
        whole = row.whole
        return _attempt(lambda: whole(values), row, reading) if values else None
    each = row.each
    assert each is not None, "a row has one of `each` and `whole`"
    matchers = [_attempt(partial(each, value, reading.scope), row, reading) for value in values]
    found = [match for match in matchers if match is not None]
    return row.side.any_of(found) if found else None


def _attempt(build: Callable[[], Json], row: Translation, reading: Reading) -> Json | None:
    try:
        if reading.tcp and row.is_http:
            raise UntranslatableError("a TCP filter sees nothing of HTTP")
        return build()
    except UntranslatableError:
        # An ALLOW narrows on an error: the whole rule goes. Every other action widens: the
        # value alone goes, and with the last one the condition.
        if reading.action is Action.ALLOW:
            raise
        return None


def _texts(clause: Clause, values: tuple[Value, ...], reading: Reading, rounds: int) -> list[str]:
    """Return the values with those that the mesh's trust domains stand for."""
    texts = [value.text for value in values]
    domains = reading.scope.mesh.trust_domains
    if clause.key == "source.trustDomain":
        expanded = (each for text in texts for each in expand_trust_domain(text, domains))
        return list(dict.fromkeys(expanded))
    if clause.key != "source.principal":
        return texts
    for turn in range(rounds):
        longer = [each for text in texts for each in expand_principal(text, domains)]
        if turn and len(longer) > _EXPANDED_MAX:
            break
        texts = longer
    return texts
