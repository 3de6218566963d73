"""Which rules of Istio's policies a walk came to, told from what its answer rests on.

Nothing here runs while a request is decided: it listens to finished walks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from authz.explain.standing import Standing, Standings
from authz.explain.story import applied_policies
from authz.policytest.coverage.items import Item, Kind
from authz.walk import Outcome
from policies.diagnostic import Location
from policies.matchers import Alternative, CompiledClause, CompiledPolicy, CompiledRule
from policies.model import Action
from policies.request import Request
from policies.snapshot import Snapshot


def items_of(snapshot: Snapshot) -> Iterator[Item]:
    """Yield everything of a policy set that a test may come to."""
    for policy, compiled in snapshot.policies:
        known = {rule.ref.rule: rule for rule in compiled.rules}
        for number, written in enumerate(policy.rules):
            rule = known.get(number)
            if rule is None:
                # It can match nothing of this kind, and no test comes to it.
                ref = policy.metadata.ref(number, written.location.line)
                yield Item(Kind.RULE, Location(ref.file, ref.line), ref.name)
            else:
                yield from _of_rule(rule)


def reached_by(outcome: Outcome) -> Iterator[Item]:
    """Yield what one walk came to."""
    basis = outcome.basis
    if basis is None:
        return
    standings = Standings(outcome.decision)
    for policy in applied_policies(basis):
        # CUSTOM stands before the verification of tokens, which takes headers away.
        request = outcome.request if policy.action is Action.CUSTOM else basis.seen
        looked, matches = _looked_at(policy, request)
        if standings.of(policy, matches=matches) is not Standing.NOT_ASKED:
            for rule in looked:
                yield from _reached(rule, request)


def _looked_at(policy: CompiledPolicy, request: Request) -> tuple[Sequence[CompiledRule], bool]:
    """Return the rules up to the first that matches, and whether one does."""
    for number, rule in enumerate(policy.rules, 1):
        if rule.matches(request):
            return policy.rules[:number], True
    return policy.rules, False


def _of_rule(rule: CompiledRule) -> Iterator[Item]:
    yield _rule_item(rule)
    for kind, number, entry, is_one_of_several in _entries(rule):
        if is_one_of_several and entry:
            yield _entry_item(rule, kind, number, entry)
        for clause in entry:
            yield from _value_items(rule, kind, number, clause)


def _entries(rule: CompiledRule) -> Iterator[tuple[str, int, Alternative, bool]]:
    for kind, entries in (("from", rule.sources), ("to", rule.operations)):
        for number, entry in enumerate(entries):
            yield kind, number, entry, len(entries) > 1
    if rule.when:
        yield "when", 0, rule.when, False


def _reached(rule: CompiledRule, request: Request) -> Iterator[Item]:
    holds = {
        kind: not group or any(_holds(entry, request) for entry in group)
        for kind, group in (
            ("from", rule.sources), ("to", rule.operations), ("when", (rule.when,)),
        )
    }  # fmt: skip
    if all(holds.values()):
        yield _rule_item(rule)
    for kind, number, entry, is_one_of_several in _entries(rule):
        if not all(held for other, held in holds.items() if other != kind):
            continue
        if _holds(entry, request):
            if is_one_of_several:
                yield _entry_item(rule, kind, number, entry)
            for clause in entry:
                yield from _values_that_fit(rule, kind, number, clause, request)
        else:
            yield from _nots_that_kept_out(rule, kind, number, entry, request)


def _holds(entry: Alternative, request: Request) -> bool:
    return all(clause.matches(request) for clause in entry)


def _values_that_fit(
    rule: CompiledRule, kind: str, number: int, clause: CompiledClause, request: Request
) -> Iterator[Item]:
    items = _value_items(rule, kind, number, clause)
    for test, item in zip(clause.positive, items, strict=False):
        if test(request):
            yield item


def _nots_that_kept_out(
    rule: CompiledRule, kind: str, number: int, entry: Alternative, request: Request
) -> Iterator[Item]:
    """Yield the `not` values but for which an entry would hold."""
    failing = [clause for clause in entry if not clause.matches(request)]
    if len(failing) != 1:
        return
    [clause] = failing
    if clause.positive and not any(test(request) for test in clause.positive):
        return
    items = list(_value_items(rule, kind, number, clause))[len(clause.positive) :]
    for test, item in zip(clause.negative, items, strict=True):
        if test(request):
            yield item


def _rule_item(rule: CompiledRule) -> Item:
    return Item(Kind.RULE, Location(rule.ref.file, rule.ref.line), rule.ref.name)


def _entry_item(rule: CompiledRule, kind: str, number: int, entry: Alternative) -> Item:
    return Item(Kind.ENTRY, entry[0].source.location, rule.ref.name, f"{kind}[{number}]")


def _value_items(
    rule: CompiledRule, kind: str, number: int, clause: CompiledClause
) -> Iterator[Item]:
    """Yield the values of a condition, then those that it excludes."""
    source = clause.source
    where = kind if kind == "when" else f"{kind}[{number}]"
    for value_kind, values in ((Kind.VALUE, source.values), (Kind.NOT, source.not_values)):
        word = "not " if value_kind is Kind.NOT else ""
        for value in values:
            text = f"{where} {source.spelled}: {word}`{value.text}`"
            yield Item(value_kind, value.location, rule.ref.name, text)
