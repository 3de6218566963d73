"""Rules about what rules and policies do to each other: each by proof, confirmed on a witness."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from policies.decision import Effect, Layer
from policies.lint.claims import Claim
from policies.lint.cover import alternatives, list_covers, rule_covers
from policies.lint.cover_index import CoverIndex, Placed, Scope, Scopes, scope_of
from policies.lint.facts import Facts, resource_name, rules_of
from policies.lint.finding import Related, Spot
from policies.lint.registry import rule
from policies.lint.witness import home_of, probes_of, witnesses
from policies.mesh import Mesh, MeshMode
from policies.model import Action, AuthorizationPolicy, Clause, Rule
from policies.string_match import ascii_lower

# Keys where two texts are two values: no aliases, no ranges. (`sa` is a namespace's odd one.)
_PLAIN = frozenset({"operation.paths", "operation.methods", "operation.hosts", "source.namespace"})
_ALWAYS: Final = {
    "operation.paths": frozenset({"*", "/*"}),
    "operation.methods": frozenset({"*"}),
    "operation.hosts": frozenset({"*"}),
}
"""Values that every HTTP request has."""
_OUTCOMES: Final = {
    Action.ALLOW: (Effect.ALLOW, Layer.ALLOW),
    Action.DENY: (Effect.DENY, Layer.DENY),
    # The linter's providers refuse.
    Action.CUSTOM: (Effect.DENY, Layer.CUSTOM),
}
_IDENTITY: Final = re.compile(r"[^/*]+/ns/([^/*]+)/sa/[^/*]+")


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


def _unconditional(facts: Facts, action: Action, message: str) -> Iterator[Spot]:
    """Yield the rules that every request matches, as the evaluator confirms for one of nobody."""
    effect, layer = _OUTCOMES[action]
    for policy in facts.policies:
        if policy.action is not action or policy.attachment.target_refs:
            continue
        for path, each in rules_of(policy):
            if _is_always(each):
                claims = [
                    facts.claim(request, effect, (replace(policy, dry_run=False),), layer)
                    for request in probes_of(home_of(policy), facts.mesh)
                ]
                yield replace(_rule_spot(policy, path, each, message), claims=tuple(claims))


def _is_always(each: Rule) -> bool:
    """Whether a rule has no condition, or none but those that every HTTP request meets."""
    is_open = not each.operations or any(all(map(_is_met, group)) for group in each.operations)
    return not each.sources and is_open and all(map(_is_met, each.when))


def _is_met(clause: Clause) -> bool:
    always = _ALWAYS.get(clause.key, frozenset())
    return not clause.not_values and any(value.text in always for value in clause.values)


@rule("MW0000")
def not_analysed(facts: Facts) -> Iterator[Spot]:
    """A rule of more alternatives than are held against others."""
    for policy in facts.policies:
        for path, each in rules_of(policy):
            if not alternatives(each):
                ways = len(each.sources or "-") * len(each.operations or "-")
                message = f"the rule matches in {ways} ways, more than are held against others"
                yield _rule_spot(policy, path, each, message)


@rule("MW0302")
def allows_everything(facts: Facts) -> Iterator[Spot]:
    """An ALLOW rule that every request matches, in a policy whose name does not say so."""
    message = "the rule allows every request, without identity or token"
    for spot in _unconditional(facts, Action.ALLOW, message):
        if "allow-a" not in spot.resource.rpartition("/")[2]:
            yield spot


@rule("MW0304")
def denies_everything(facts: Facts) -> Iterator[Spot]:
    """A DENY rule that every request matches, in a policy whose name does not say so."""
    message = "the rule denies every request, whatever ALLOW policies say"
    for spot in _unconditional(facts, Action.DENY, message):
        if "deny-all" not in spot.resource.rpartition("/")[2]:
            yield spot


@rule("MW0305")
def contradiction(facts: Facts) -> Iterator[Spot]:
    """A rule whose every way to match is excluded by itself."""
    mesh = facts.mesh
    for policy in facts.policies:
        for path, each in rules_of(policy):
            dead = _all_dead(each.sources, mesh) or _all_dead(each.operations, mesh)
            # What a request can be found for is no contradiction.
            if (dead or _is_dead(each.when, mesh)) and not witnesses(
                policy, each, mesh, home_of(policy)
            ):
                yield _rule_spot(policy, path, each, "the rule never matches: it excludes what it"
                                 " asks for")  # fmt: skip


def _all_dead(groups: tuple[tuple[Clause, ...], ...], mesh: Mesh) -> bool:
    return bool(groups) and all(_is_dead(group, mesh) for group in groups)


def _is_dead(group: Iterable[Clause], mesh: Mesh) -> bool:
    clauses = tuple(group)
    return _are_apart(clauses) or any(
        clause.values and list_covers(clause.key, clause.not_values, clause.values, mesh)
        for clause in clauses
    )


def _are_apart(clauses: tuple[Clause, ...]) -> bool:
    """Whether principals and namespaces are asked for of which none is in the other."""
    asked = {clause.key: clause.values for clause in clauses if clause.values}
    namespaces = [value.text for value in asked.get("source.namespace", ())]
    found = [_IDENTITY.fullmatch(value.text) for value in asked.get("source.principal", ())]
    homes = [match[1] for match in found if match is not None]
    is_plain = not any("*" in text or text in ("sa", "ns") for text in namespaces)
    is_known = is_plain and bool(homes) and len(homes) == len(found)
    return is_known and bool(namespaces) and set(homes).isdisjoint(namespaces)


@rule("MW0308")
def shadowed_rule(facts: Facts) -> Iterator[Spot]:
    """A rule of which another one of its policy covers all."""
    mesh = facts.mesh
    for policy in facts.policies if mesh.mode is not MeshMode.ZTUNNEL else ():
        if len(policy.rules) < len("ab"):
            continue
        index = CoverIndex((policy,), mesh)
        for path, each in rules_of(policy):
            for _, wide in index.candidates(each):
                # Where both hold they say the same, which is another finding.
                if (
                    wide is not each
                    and rule_covers(wide, each, policy.action, mesh)
                    and not rule_covers(each, wide, policy.action, mesh)
                ):
                    related = Related(message="the wider one", location=wide.location)
                    message = "the rule adds nothing: another one of the policy matches all it does"
                    spot = _rule_spot(policy, path, each, message, related)
                    claims = _claims_of(facts, policy, each, (policy, wide))
                    if claims or policy.action not in _OUTCOMES:
                        yield replace(spot, claims=tuple(claims))
                    break


def _claims_of(facts: Facts, policy: AuthorizationPolicy, each: Rule, by: Placed) -> list[Claim]:
    """Return what a shadow claims: without `each`, its requests get the same answer from `by`.

    None where no witness can be made, and then nothing is told.
    """
    if by[0].action not in _OUTCOMES:
        return []
    effect, layer = _OUTCOMES[by[0].action]
    other = replace(by[0], rules=(by[1],), dry_run=False)
    return [
        facts.claim(request, effect, (other,), layer)
        for request in witnesses(policy, each, facts.mesh, home_of(policy))
    ]


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


class _Shadows:
    """The policies of one action whose every rule is covered by others; proofs, not likeness."""

    def __init__(self, facts: Facts, action: Action) -> None:
        self.mesh = facts.mesh
        self.policies = tuple(
            policy for policy in facts.others if policy.action is action and policy.rules
        )
        self._action = action
        self._scopes = Scopes(facts.others, self.mesh)
        self._indexes: dict[Scope, CoverIndex] = {}

    def _index(self, scope: Scope) -> CoverIndex:
        if scope not in self._indexes:
            self._indexes[scope] = CoverIndex(self._scopes.of(self._action, scope), self.mesh)
        return self._indexes[scope]

    def covers(self, policy: AuthorizationPolicy, gone: set[int]) -> list[Placed]:
        """Return a rule that covers it for each rule of a policy; none where one is missing."""
        indexes = [self._index(scope) for scope in self._scopes.wider(policy)]
        found: list[Placed] = []
        for each in policy.rules:
            by = next((by for index in indexes if (by := index.covering(each, policy, gone))), None)
            if by is None:
                return []
            found.append(by)
        return found

    def is_same(self, policy: AuthorizationPolicy, covers: list[Placed]) -> bool:
        """Whether one other policy of the same scope covers a policy and is covered by it."""
        other = covers[0][0]
        if scope_of(other) != scope_of(policy) or any(by[0] is not other for by in covers):
            return False
        return all(
            any(rule_covers(wide, each, self._action, self.mesh) for wide in policy.rules)
            for each in other.rules
        )

    def found(self) -> Iterator[Shadow]:
        """Yield each with what covers it, and whether the two say the same."""
        gone: set[int] = set()
        # The later of two that say the same is the one too many.
        for policy in reversed(self.policies if self.mesh.mode is not MeshMode.ZTUNNEL else ()):
            # A trial is another rule's business.
            covers = [] if policy.dry_run else self.covers(policy, gone)
            if covers:
                # WHY gone: of two that say the same, one must stay.
                gone.add(id(policy))
                yield policy, covers, self.is_same(policy, covers)


Shadow = tuple[AuthorizationPolicy, list[Placed], bool]
"""A policy, what covers each of its rules, and whether the two say the same."""


def _shadows(facts: Facts, action: Action) -> list[Shadow]:
    return facts.once(f"shadows {action}", lambda: list(_Shadows(facts, action).found()))


def _covered_spots(facts: Facts, action: Action, message: str, *, same: bool) -> Iterator[Spot]:
    for policy, covers, is_same in _shadows(facts, action):
        if is_same is not same:
            continue
        other, wide = covers[0]
        what = f"`{resource_name(other).partition('/')[2]}`" if same else "the wider rule"
        spot = Spot(
            message=message,
            location=policy.metadata.location,
            resource=resource_name(policy),
            path="spec.rules",
            related=(Related(message=what, location=wide.location),),
        )
        claims = [
            claim
            for each, by in zip(policy.rules, covers, strict=True)
            for claim in _claims_of(facts, policy, each, by)
        ]
        if claims:
            yield replace(spot, claims=tuple(claims))


@rule("MW0501")
def same_policy_twice(facts: Facts) -> Iterator[Spot]:
    """Two policies of one scope and action that match the same requests."""
    message = "the policy says the same as another one of its scope"
    for action in (Action.ALLOW, Action.DENY):
        yield from _covered_spots(facts, action, message, same=True)


@rule("MW0502")
def shadowed_allow(facts: Facts) -> Iterator[Spot]:
    """An ALLOW policy of which others cover all, wherever it applies."""
    message = "the policy adds nothing: other ALLOW policies match all that it does"
    return _covered_spots(facts, Action.ALLOW, message, same=False)


@rule("MW0503")
def shadowed_deny(facts: Facts) -> Iterator[Spot]:
    """A DENY policy of which others cover all, wherever it applies."""
    message = "the policy adds nothing: other DENY policies match all that it does"
    return _covered_spots(facts, Action.DENY, message, same=False)


@rule("MW0504")
def unreachable_allow(facts: Facts) -> Iterator[Spot]:
    """An ALLOW rule of which a DENY rule covers all, wherever it applies."""
    shadows = _Shadows(facts, Action.DENY)
    if shadows.mesh.mode is MeshMode.ZTUNNEL:
        return
    for policy in facts.others:
        if policy.action is not Action.ALLOW or policy.dry_run:
            continue
        for path, each in rules_of(policy):
            (by, *_) = shadows.covers(replace(policy, rules=(each,)), set()) or (None,)
            if by is None:
                continue
            claims = [
                facts.claim(request, Effect.DENY, (policy, by[0]), Layer.DENY)
                for request in witnesses(policy, each, shadows.mesh, home_of(policy))
            ]
            if claims:
                related = Related(message="the DENY", location=by[1].location)
                message = "the rule allows nothing: a DENY policy denies all that it matches"
                spot = _rule_spot(policy, path, each, message, related)
                yield replace(spot, claims=tuple(claims))
