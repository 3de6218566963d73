"""Rules about what rules and policies do to each other: each by proof, never by likeness."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import combinations

from policies.lint.cover import list_covers, rule_covers
from policies.lint.facts import Facts, resource_name, rules_of
from policies.lint.finding import Related, Spot
from policies.lint.registry import rule
from policies.matchers import compile_policy
from policies.mesh import Mesh, MeshMode
from policies.model import Action, AuthorizationPolicy, Clause, Rule
from policies.request import Request
from policies.string_match import ascii_lower

_ANYBODY = Request(method="GET", path="/", host="any.example", scheme="http", protocol="HTTP/1.1")
# BUDGET: selectors have one to three labels; the subsets of more are not looked through.
_MAX_LABELS = 6

# Keys where two texts are two values: no aliases, no ranges. (`sa` is a namespace's odd one.)
_PLAIN = frozenset({"operation.paths", "operation.methods", "operation.hosts", "source.namespace"})

Scope = tuple[str, frozenset[tuple[str, str]]]
"""Namespace and labels that a policy selects by."""


def _rule_spot(
    policy: AuthorizationPolicy, path: str, each: Rule, message: str, *related: Related
) -> Spot:
    return Spot(
        message=message,
        location=each.location,
        resource=resource_name(policy),
        path=path,
        related=related,
    )


def _unconditional(facts: Facts, action: Action) -> Iterator[tuple[AuthorizationPolicy, str, Rule]]:
    """Yield the rules without any condition that the evaluator matches with a bare request."""
    mesh = facts.mesh
    for policy in facts.policies:
        if policy.action is not action:
            continue
        for path, each in rules_of(policy):
            is_bare = not (each.sources or each.operations or each.when)
            if is_bare and compile_policy(policy, mesh).first_match(_ANYBODY) is not None:
                yield policy, path, each


@rule("MW0302")
def allows_everything(facts: Facts) -> Iterator[Spot]:
    """An ALLOW rule without conditions, in a policy whose name does not say so."""
    for policy, path, each in _unconditional(facts, Action.ALLOW):
        if "allow-a" not in policy.metadata.name:
            message = "the rule allows every request, without identity or token"
            yield _rule_spot(policy, path, each, message)


@rule("MW0304")
def denies_everything(facts: Facts) -> Iterator[Spot]:
    """A DENY rule without conditions, in a policy whose name does not say so."""
    for policy, path, each in _unconditional(facts, Action.DENY):
        if "deny-all" not in policy.metadata.name:
            message = "the rule denies every request, whatever ALLOW policies say"
            yield _rule_spot(policy, path, each, message)


@rule("MW0305")
def contradiction(facts: Facts) -> Iterator[Spot]:
    """A rule whose every way to match is excluded by itself."""
    mesh = facts.mesh
    for policy in facts.policies:
        for path, each in rules_of(policy):
            dead = _all_dead(each.sources, mesh) or _all_dead(each.operations, mesh)
            if dead or _is_dead(each.when, mesh):
                yield _rule_spot(policy, path, each, "the rule never matches: it excludes what it"
                                 " asks for")  # fmt: skip


def _all_dead(groups: tuple[tuple[Clause, ...], ...], mesh: Mesh) -> bool:
    return bool(groups) and all(_is_dead(group, mesh) for group in groups)


def _is_dead(group: Iterable[Clause], mesh: Mesh) -> bool:
    return any(
        clause.values and list_covers(clause.key, clause.not_values, clause.values, mesh)
        for clause in group
    )


@rule("MW0308")
def shadowed_rule(facts: Facts) -> Iterator[Spot]:
    """A rule of which another one of its policy covers all."""
    mesh = facts.mesh
    for policy in facts.policies if mesh.mode is not MeshMode.ZTUNNEL else ():
        told: set[str] = set()
        for (one, first), (other, second) in combinations(rules_of(policy), 2):
            covers = rule_covers(first, second, policy.action, mesh)
            covered = rule_covers(second, first, policy.action, mesh)
            # Where both hold they say the same, which is another finding.
            if covers is covered:
                continue
            path, each, by = (other, second, first) if covers else (one, first, second)
            if path not in told:
                told.add(path)
                related = Related(message="the wider one", location=by.location)
                message = "the rule adds nothing: another one of the policy matches all it does"
                yield _rule_spot(policy, path, each, message, related)


@rule("MW0313")
def cancelling_exclusions(facts: Facts) -> Iterator[Spot]:
    """Exclusions that were split over alternatives, of which one always holds."""
    for policy in facts.policies:
        for path, each in rules_of(policy):
            for key, groups in (("from", each.sources), ("to", each.operations)):
                if _cancel(groups):
                    yield Spot(
                        message=f"the entries of `{key}` match everything: what one excludes"
                        " another lets in",
                        location=each.location,
                        resource=resource_name(policy),
                        path=f"{path}.{key}",
                    )


def _cancel(groups: tuple[tuple[Clause, ...], ...]) -> bool:
    """Whether each group is one exclusion of plain texts on one key, with no text in all."""
    if len(groups) < len("ab") or any(len(group) != 1 for group in groups):
        return False
    clauses = [group[0] for group in groups]
    key = clauses[0].key
    if key not in _PLAIN or any(each.values or each.key != key for each in clauses):
        return False
    excluded = [{ascii_lower(value.text) for value in each.not_values} for each in clauses]
    is_plain = not any(
        "*" in text or "{" in text or text == "sa" for text in set[str]().union(*excluded)
    )
    return is_plain and not set.intersection(*excluded)


class _Policies:
    """The enforced policies by action and scope, to find those whose scope holds another."""

    def __init__(self, policies: Iterable[AuthorizationPolicy], root: str) -> None:
        self._root = root
        self._by_scope: dict[tuple[Action, Scope], list[AuthorizationPolicy]] = defaultdict(list)
        for policy in policies:
            if not policy.dry_run and not policy.attachment.target_refs:
                self._by_scope[policy.action, self._scope(policy)].append(policy)

    @staticmethod
    def _scope(policy: AuthorizationPolicy) -> Scope:
        selector = policy.attachment.selector or {}
        return policy.metadata.namespace, frozenset(selector.items())

    def around(self, policy: AuthorizationPolicy, action: Action) -> Iterator[AuthorizationPolicy]:
        """Yield the policies of an action that apply wherever `policy` does."""
        namespace, labels = self._scope(policy)
        if policy.dry_run or policy.attachment.target_refs or len(labels) > _MAX_LABELS:
            return
        for size in range(len(labels) + 1):
            for subset in combinations(sorted(labels), size):
                for where in dict.fromkeys((namespace, self._root)):
                    for other in self._by_scope.get((action, (where, frozenset(subset))), ()):
                        if other is not policy:
                            yield other


def _covering(
    each: Rule, others: Iterable[AuthorizationPolicy], mesh: Mesh
) -> tuple[AuthorizationPolicy, Rule] | None:
    return next(
        (
            (other, wide)
            for other in others
            for wide in other.rules
            if rule_covers(wide, each, other.action, mesh)
        ),
        None,
    )


def _shadowed(facts: Facts, action: Action) -> Iterator[tuple[AuthorizationPolicy, Rule]]:
    """Yield the policies whose every rule is covered, each with a rule that covers."""
    mesh = facts.mesh
    if mesh.mode is MeshMode.ZTUNNEL:
        return
    index = _Policies(facts.others, mesh.root_namespace)
    gone: set[int] = set()
    for policy in facts.others:
        if policy.action is not action or not policy.rules:
            continue
        # WHY not those that are gone: of two that say the same, one must stay.
        around = [each for each in index.around(policy, action) if id(each) not in gone]
        found = [_covering(each, around, mesh) for each in policy.rules]
        covers = [each for each in found if each is not None]
        if len(covers) == len(found):
            gone.add(id(policy))
            yield policy, covers[0][1]


def _shadow_spots(facts: Facts, action: Action) -> Iterator[Spot]:
    for policy, wide in _shadowed(facts, action):
        yield Spot(
            message=f"the policy adds nothing: other {action} policies match all that it does",
            location=policy.metadata.location,
            resource=resource_name(policy),
            path="spec.rules",
            related=(Related(message="the wider rule", location=wide.location),),
        )


@rule("MW0502")
def shadowed_allow(facts: Facts) -> Iterator[Spot]:
    """An ALLOW policy of which others cover all, wherever it applies."""
    return _shadow_spots(facts, Action.ALLOW)


@rule("MW0503")
def shadowed_deny(facts: Facts) -> Iterator[Spot]:
    """A DENY policy of which others cover all, wherever it applies."""
    return _shadow_spots(facts, Action.DENY)


@rule("MW0504")
def unreachable_allow(facts: Facts) -> Iterator[Spot]:
    """An ALLOW rule of which a DENY rule covers all, wherever it applies."""
    mesh = facts.mesh
    if mesh.mode is MeshMode.ZTUNNEL:
        return
    index = _Policies(facts.others, mesh.root_namespace)
    for policy in facts.others:
        if policy.action is not Action.ALLOW:
            continue
        around = list(index.around(policy, Action.DENY))
        for path, each in rules_of(policy):
            found = _covering(each, around, mesh)
            if found is not None:
                related = Related(message="the DENY", location=found[1].location)
                message = "the rule allows nothing: a DENY policy denies all that it matches"
                yield _rule_spot(policy, path, each, message, related)
