"""Which parts of a rule count for which kind of request: the columns of Istio's tables.

Theory of operation. A rule is narrowed before it is compiled, so that matching
knows nothing of columns: what a column cannot judge is taken out of the rule, or
takes the whole rule with it. The HTTP column judges everything, the TCP column
all but what HTTP brings, the L4 column what ztunnel knows.

Spec: Istio AuthorizationPolicy, "only for TCP" notes of the fields; the control
plane's translation for TCP filters, and its conversion for ztunnel.
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum

from policies.attributes import attribute_for
from policies.mesh import Mesh, MeshMode
from policies.model import Action, Clause, Rule

_L4_FIELDS = frozenset(
    {
        "source.principal",
        "source.namespace",
        "source.serviceAccount",
        "source.ip",
        "destination.port",
    }
)
_L4_CONDITIONS = frozenset(
    {"source.ip", "source.namespace", "source.principal", "destination.ip", "destination.port"}
)
_L4_UNSEEN = "source.trustDomain"


class Column(StrEnum):
    """A reading of rules."""

    HTTP = "http"
    TCP = "tcp"
    L4 = "l4"


def column_for(mesh: Mesh, *, is_http: bool) -> Column:
    """Return the column a request takes: ztunnel has one reading, the others have two."""
    if mesh.mode is MeshMode.ZTUNNEL:
        return Column.L4
    return Column.HTTP if is_http else Column.TCP


def narrow_rule(rule: Rule, action: Action, column: Column) -> Rule | None:
    """Return what counts of a rule, or None when the rule can match nothing.

    An empty alternative in the result matches any request.
    """
    if column is Column.L4:
        return _narrow_to_l4(rule, action)
    groups = (*rule.sources, *rule.operations, rule.when)
    if all(_is_judged(clause, column) for group in groups for clause in group):
        return rule
    # "An ALLOW rule with one unusable element loses the whole rule, including its other
    # `to`/`from` alternatives."
    if action is Action.ALLOW:
        return None
    # "For DENY only that value is dropped; a rule with nothing left matches any."
    return replace(
        rule,
        sources=tuple(_judged(group, column) for group in rule.sources),
        operations=tuple(_judged(group, column) for group in rule.operations),
        when=_judged(rule.when, column),
    )


def _is_judged(clause: Clause, column: Column) -> bool:
    attribute = attribute_for(clause.key)
    if attribute is None or attribute.is_untranslatable:
        return False
    return column is Column.HTTP or not attribute.is_http


def _judged(clauses: tuple[Clause, ...], column: Column) -> tuple[Clause, ...]:
    return tuple(clause for clause in clauses if _is_judged(clause, column))


def _narrow_to_l4(rule: Rule, action: Action) -> Rule | None:
    if action is Action.ALLOW and _names_http(rule):
        return None
    sources = _l4_alternatives(rule.sources)
    operations = _l4_alternatives(rule.operations)
    # "An empty match never matches": alternatives of which none is left are false, and so
    # is a condition on what ztunnel does not know. A DENY rule then does nothing.
    is_false = (
        (rule.sources and not sources)
        or (rule.operations and not operations)
        or any(clause.key not in _L4_CONDITIONS for clause in rule.when)
    )
    return None if is_false else replace(rule, sources=sources, operations=operations)


def _names_http(rule: Rule) -> bool:
    """Whether any element is one that ztunnel's conversion counts as HTTP."""
    # WHY the exception: `trustDomains` in a source is not looked at, not even reported.
    known = _L4_FIELDS | {_L4_UNSEEN}
    fields = (clause for group in (*rule.sources, *rule.operations) for clause in group)
    return any(clause.key not in known for clause in fields) or any(
        clause.key not in _L4_CONDITIONS for clause in rule.when
    )


def _l4_alternatives(groups: tuple[tuple[Clause, ...], ...]) -> tuple[tuple[Clause, ...], ...]:
    narrowed = (tuple(clause for clause in group if clause.key in _L4_FIELDS) for group in groups)
    return tuple(group for group in narrowed if group)
