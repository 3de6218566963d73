"""The index of a policy list: a decision looks only at rules that could match.

Theory of operation. At load each rule is filed under its anchors in one dimension,
the one in which it has the least company; a rule without anchors is looked at for
every request. A request is looked up in each dimension that is in use; what is
found are candidates, and each candidate is tried in the authors' order. The same
rules, filed under all their anchors, tell which came near when none matched.

INVARIANT: a rule that matches a request is among its candidates.
"""

from __future__ import annotations

import heapq
import operator
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from policies.anchors import DIMENSIONS, Anchor, Anchors, Dimension, Kind, lookup_key
from policies.decision import RuleRef
from policies.matchers import Alternative, CompiledPolicy, CompiledRule
from policies.mesh import Mesh
from policies.pace import Pace, no_pace, paced
from policies.request import Request

# BUDGET: rules that are looked at for a near miss, and rules that may share an anchor for it to
# tell anything ("the method is GET" tells nothing); the answer never depends on either.
_NEAR_MAX: Final = 8
_TELLING_MAX: Final = 64
_DEFAULT_MESH: Final = Mesh()
_PLACES: Final = {
    key: place for place, dimension in enumerate(DIMENSIONS) for key in dimension.keys
}


@dataclass(frozen=True, slots=True)
class _Lookup:
    """The postings of one dimension: kind and value to the numbers of rules, ascending."""

    dimension: Dimension
    kinds: tuple[Kind, ...]
    postings: dict[tuple[Kind, Hashable], tuple[int, ...]]

    def find(self, request: Request, mesh: Mesh) -> Iterable[tuple[int, ...]]:
        """Yield the postings of every anchor in use that the request has."""
        for subject in self.dimension.of_request(request, mesh):
            for kind in self.kinds:
                found = self.postings.get((kind, lookup_key(kind, subject)))
                if found is not None:
                    yield found


class PolicyIndex:
    """A list of policies of one action, in order, ready to be asked. Immutable."""

    __slots__ = ("_always", "_extra", "_lookups", "_mesh", "_near", "_owners", "_rules", "policies")

    def __init__(
        self,
        policies: Iterable[CompiledPolicy] = (),
        mesh: Mesh = _DEFAULT_MESH,
        pace: Pace = no_pace,
    ) -> None:
        """File every rule; `pace` is called on the way."""
        self.policies = tuple(policies)
        self._mesh = mesh
        self._extra: tuple[CompiledPolicy, ...] = ()
        self._rules = tuple(rule for policy in self.policies for rule in policy.rules)
        self._owners = tuple(
            number for number, policy in enumerate(self.policies) for _ in policy.rules
        )
        anchors = [_rule_anchors(rule, mesh) for rule in paced(self._rules, pace)]
        chosen = _choose(anchors)
        self._always = tuple(number for number, choice in enumerate(chosen) if choice is None)
        self._lookups = _file(
            (choice, anchors[number][choice] or (), number)
            for number, choice in paced(enumerate(chosen), pace)
            if choice is not None
        )
        self._near = _telling(
            _file(
                (place, found, number)
                for number, row in paced(enumerate(anchors), pace)
                for place, found in enumerate(row)
                if found is not None
            ),
            self._lookups,
        )

    def __bool__(self) -> bool:
        """Whether there is any policy."""
        return bool(self.policies or self._extra)

    def __iter__(self) -> Iterator[CompiledPolicy]:
        """Iterate over the policies, in order."""
        return iter((*self.policies, *self._extra))

    def holds(self, policies: Sequence[CompiledPolicy], mesh: Mesh) -> bool:
        """Whether an index of these very policies under a mesh would be the same as this one."""
        return (
            not self._extra
            and len(self.policies) == len(policies)
            and all(map(operator.is_, self.policies, policies))
            and self._mesh == mesh
        )

    def with_policy(self, policy: CompiledPolicy) -> PolicyIndex:
        """Return the list with one more policy at its end; nothing is filed anew."""
        more = object.__new__(PolicyIndex)
        for name in self.__slots__:
            setattr(more, name, getattr(self, name))
        more._extra = (*self._extra, policy)
        return more

    def first_match(self, request: Request) -> RuleRef | None:
        """Return the first rule that matches, in the authors' order."""
        for number in self._candidates(request):
            if self._rules[number].matches(request):
                return self._rules[number].ref
        for policy in self._extra:
            found = policy.first_match(request)
            if found is not None:
                return found
        return None

    def all_matches(self, request: Request) -> tuple[RuleRef, ...]:
        """Return the first matching rule of each policy that has one."""
        found: dict[int, RuleRef] = {}
        for number in self._candidates(request):
            owner = self._owners[number]
            if owner not in found and self._rules[number].matches(request):
                found[owner] = self._rules[number].ref
        extra = (policy.first_match(request) for policy in self._extra)
        return (*found.values(), *(ref for ref in extra if ref is not None))

    def near_rules(self, request: Request) -> Sequence[CompiledRule]:
        """Return a few rules that share most with a request, the nearest first."""
        shared: Counter[int] = Counter()
        for lookup in self._near:
            for posting in lookup.find(request, self._mesh):
                shared.update(posting)
        if not shared:
            shared.update(self._always[:_NEAR_MAX] or range(min(len(self._rules), _NEAR_MAX)))
        nearest = heapq.nsmallest(_NEAR_MAX, shared, key=lambda number: (-shared[number], number))
        extra = [rule for policy in self._extra for rule in policy.rules]
        return [*(self._rules[number] for number in nearest), *extra[:_NEAR_MAX]]

    def _candidates(self, request: Request) -> Sequence[int]:
        """Return the numbers of the rules that could match, ascending."""
        postings = [
            posting for lookup in self._lookups for posting in lookup.find(request, self._mesh)
        ]
        if not postings:
            return self._always
        if len(postings) == 1 and not self._always:
            return postings[0]
        return sorted({*self._always, *(number for posting in postings for number in posting)})


def _rule_anchors(rule: CompiledRule, mesh: Mesh) -> tuple[Anchors, ...]:
    """Return a rule's anchors in each dimension: the fewest that one part of it makes necessary."""
    row: list[Anchors] = [None] * len(DIMENSIONS)
    parts = [
        _any_of(rule.sources, rule, mesh),
        _any_of(rule.operations, rule, mesh),
        # Each condition must hold, so any one of them will do.
        *(_any_of(((clause,),), rule, mesh) for clause in rule.when),
    ]
    for part in parts:
        for place, anchors in part.items():
            fewest = row[place]
            if fewest is None or len(anchors) < len(fewest):
                row[place] = anchors
    return tuple(row)


def _any_of(
    alternatives: tuple[Alternative, ...], rule: CompiledRule, mesh: Mesh
) -> Mapping[int, tuple[Anchor, ...]]:
    """Return the anchors of alternatives by dimension: each must have some there, or none count."""
    if not alternatives:
        return {}
    each = [_all_of(alternative, rule, mesh) for alternative in alternatives]
    if len(each) == 1:
        return each[0]
    shared = [place for place in each[0] if all(place in own for own in each)]
    return {
        place: tuple(dict.fromkeys(anchor for own in each for anchor in own[place]))
        for place in shared
    }


def _all_of(
    alternative: Alternative, rule: CompiledRule, mesh: Mesh
) -> dict[int, tuple[Anchor, ...]]:
    """Return the anchors of clauses that are AND-ed: in each dimension those of the first."""
    found: dict[int, tuple[Anchor, ...]] = {}
    for clause in alternative:
        place = _PLACES.get(clause.source.key)
        if place is None or place in found or not clause.positive:
            continue
        texts = tuple(value.text for value in clause.source.values)
        anchors = DIMENSIONS[place].of_values(texts, mesh, rule.ref.namespace)
        if anchors is not None:
            found[place] = tuple(dict.fromkeys(anchors))
    return found


def _choose(anchors: Sequence[tuple[Anchors, ...]]) -> list[int | None]:
    """Return for each rule the dimension in which it has the least company."""
    company = [
        Counter(anchor for row in anchors for anchor in row[place] or ())
        for place in range(len(DIMENSIONS))
    ]
    chosen: list[int | None] = []
    for row in anchors:
        costs = [
            (sum(company[place][anchor] for anchor in found), place)
            for place, found in enumerate(row)
            if found is not None
        ]
        chosen.append(min(costs)[1] if costs else None)
    return chosen


def _file(entries: Iterable[tuple[int, tuple[Anchor, ...], int]]) -> tuple[_Lookup, ...]:
    """Return the postings of `(dimension, anchors, rule)` entries, by dimension."""
    filed: dict[int, dict[tuple[Kind, Hashable], list[int]]] = {}
    for place, anchors, number in entries:
        postings = filed.setdefault(place, {})
        for anchor in anchors:
            postings.setdefault(anchor, []).append(number)
    return tuple(
        _Lookup(
            dimension=DIMENSIONS[place],
            kinds=tuple(dict.fromkeys(kind for kind, _ in postings)),
            postings={
                key: tuple(numbers) if len(numbers) > 1 else _alone(numbers[0])
                for key, numbers in postings.items()
            },
        )
        for place, postings in sorted(filed.items())
    )


# BUDGET: rules of a workload; nearly every posting holds one, and they are the same everywhere.
@lru_cache(maxsize=1024)
def _alone(number: int) -> tuple[int, ...]:
    return (number,)


def _telling(lookups: Iterable[_Lookup], others: Sequence[_Lookup]) -> tuple[_Lookup, ...]:
    """Return the lookups without the postings that too many rules share.

    What is the same in `others` is taken from there.
    """
    kept = []
    for lookup in lookups:
        postings = {
            key: numbers for key, numbers in lookup.postings.items() if len(numbers) <= _TELLING_MAX
        }
        if postings:
            kinds = tuple(dict.fromkeys(kind for kind, _ in postings))
            own = replace(lookup, kinds=kinds, postings=postings)
            kept.append(next((each for each in others if each == own), own))
    return tuple(kept)
